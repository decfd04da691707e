"""A triangle mesh as the renderers see it: positions, and colour and shading normal per corner."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from render.coincidence import Coincidence


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh in the object frame (+y up, −z front, +x to the object's own right).

    Attributes:
        vertices: float64 (V, 3), object units (longest side of the bounding box = 2).
        faces: int64 (F, 3), indices into ``vertices``; the winding tells which side is which, no more.
        colors: uint8 (F, 3, 3), sRGB colour at each corner of each face.
        normals: float32 (F, 3, 3), unit shading normal at each corner, on the side of the winding normal.
        semantic_keypoints: name -> float64 (3,) in the object frame; NaN where the object has no such part.
        back_colors: as ``colors``, of the side that the winding normal points away from; None if both are alike.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray
    normals: np.ndarray
    semantic_keypoints: dict[str, np.ndarray] = field(default_factory=dict)
    back_colors: np.ndarray | None = None

    @cached_property
    def palette(self) -> tuple[np.ndarray, np.ndarray]:
        """The distinct colours, uint8 (U, 3), and which of them each corner has, int64 (1 or 2 sides, F, 3)."""
        sides = [self.colors] if self.back_colors is None else [self.colors, self.back_colors]
        red, green, blue = np.moveaxis(np.stack(sides).astype(np.int64), -1, 0)
        codes, index = np.unique((red << 16) | (green << 8) | blue, return_inverse=True)
        return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], -1).astype(np.uint8), index.reshape(red.shape)

    def repainted(self, palette: np.ndarray) -> Mesh:
        """The mesh with other colours, uint8 (U, 3), in place of those of :attr:`palette`."""
        colors, *back = palette[self.palette[1]]
        return replace(self, colors=colors, back_colors=back[0] if back else None)


def build_mesh(
    vertices: np.ndarray,
    faces: np.ndarray,
    colors: np.ndarray,
    semantic_keypoints: dict[str, np.ndarray] | None = None,
) -> Mesh:
    """Normalise to the object frame's unit size and compute shading normals.

    Args:
        vertices: (V, 3) positions, axes already those of the object frame, any size and origin.
        faces: (F, 3) vertex indices. Faces without area are dropped. Of faces that lie on each other the first stays;
            the first one that is wound the other way round gives the colours of its back.
        colors: uint8 (F, 3) per face or (F, 3, 3) per corner, sRGB.
        semantic_keypoints: name -> (3,) in the same coordinates as ``vertices``.

    Raises:
        ValueError: the mesh has no face with an area, or coordinates that are not finite.
    """
    vertices = np.asarray(vertices, np.float64)
    faces = np.asarray(faces, np.int64)
    colors = np.asarray(colors, np.uint8)
    if colors.ndim == 2:
        colors = np.repeat(colors[:, None], 3, axis=1)
    if not len(faces):
        raise ValueError("the mesh has no faces")
    if not np.isfinite(vertices[faces]).all():
        raise ValueError("coordinates are not finite")
    whole = _have_area(vertices, faces)  # first: one without, far away, would shrink the object
    vertices, faces, center, scale = _fit_unit_box(vertices, faces[whole])
    keep = _have_area(vertices, faces, least=1e-14)
    if not keep.any():
        raise ValueError("no face has an area")
    from render.normals import corner_normals  # takes a moment to import, and only what builds meshes needs it

    faces, colors, back = _two_sided(vertices, faces[keep], colors[whole][keep])
    keypoints = {name: (np.asarray(p, np.float64) - center) * scale for name, p in (semantic_keypoints or {}).items()}
    return Mesh(vertices, faces, colors, corner_normals(vertices, faces), keypoints, back)


def _two_sided(
    vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Faces without those that lie on an earlier one, their colours (F, 3, 3), and those of their backs.

    Some exporters write either side of a surface as a face of its own; drawn both, which one is seen were chance.
    """
    groups = Coincidence(vertices, faces)
    first, other = groups.first, groups.turned
    if len(first) == len(faces):
        return faces, colors, None
    back = colors.copy()
    turned = first[other >= 0], other[other >= 0]
    corners, shown = (groups.order[of][..., None] for of in turned)
    back[turned[0][:, None, None], corners, np.arange(3)] = np.take_along_axis(colors[turned[1]], shown, 1)
    keep = np.sort(first)
    return faces[keep], colors[keep], back[keep] if len(turned[0]) else None


def _have_area(vertices: np.ndarray, faces: np.ndarray, least: float = 0.0) -> np.ndarray:
    """bool (F,): which faces span a parallelogram of more than this, squared units, and more than rounding makes."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    rounding = 1e-13 * np.maximum(np.square(b - a).sum(1), np.square(c - a).sum(1))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) > np.maximum(least, rounding)


def _fit_unit_box(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Drop unused vertices, centre the bounding box and scale its longest side to 2."""
    if not len(faces):
        raise ValueError("no face has an area")
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    vertices, faces = vertices[used], (np.cumsum(used) - 1)[faces]
    center, scale = unit_box(vertices)
    return (vertices - center) * scale, faces, center, scale


def unit_box(vertices: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre (3,) and scale that take vertices (V, 3) to the object frame: (vertices - center) * scale."""
    low, high = vertices.min(0), vertices.max(0)
    side = (high - low).max()
    if not side > 0:
        raise ValueError("all vertices coincide")
    return low + (high - low) / 2, 2 / side
