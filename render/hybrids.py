"""Hybrids: models joined of the parts of two meshes of a category, so that few meshes teach more.

A network that sees the same forty cars from all sides may know a car's front by the car instead of by the front. Among
hybrids every front comes with many rears.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from trimesh import Trimesh
from trimesh.intersections import mesh_plane, slice_faces_plane

from render.config import AXES
from render.mesh import Mesh, build_mesh
from render.sources import MeshError, Source

CUTS = (0.3, 0.7)  # where along its length a mesh may be cut
APART = 0.1  # how far from each other the two may be cut, in lengths
SCALES = (0.6, 1 / 0.6)  # how much the second part may be stretched, in each direction of the cut
TRIES = 200


def draw_hybrid(parents: Sequence[Source], load: Callable[[Source], Mesh], axis: str, rng: np.random.Generator) -> Mesh:
    """A hybrid of two meshes that fit.

    Args:
        parents: what to choose from, at least two. load: gives a source's mesh, or raises :class:`MeshError`.
        axis: of the object frame, along which one part follows on the other: "x", "y" or "z".

    Raises:
        MeshError: a mesh that was drawn cannot be used, or no two fit. (Others are not drawn in its place: what a
            hybrid is must not depend on whether a file could be read this time.)
    """
    for _ in range(TRIES):
        pair = [parents[number] for number in rng.choice(len(parents), 2, replace=False)]
        cut = rng.uniform(*CUTS)
        cuts = cut, np.clip(cut + rng.uniform(-APART, APART), *CUTS)
        if joined := join(*(_load(source, load) for source in pair), AXES.index(axis), cuts):
            return joined
    raise MeshError("no two meshes fit on each other where they were cut")


def _load(source: Source, load: Callable[[Source], Mesh]) -> Mesh:
    try:
        return load(source)
    except MeshError as error:
        raise MeshError(f"{source.name}: {error}") from None


def join(first: Mesh, second: Mesh, axis: int, cuts: tuple[float, float]) -> Mesh | None:
    """The low end of one mesh along an axis, followed by the high end of another, stretched so that their sections
    have the same bounding box.

    Args:
        axis: 0, 1 or 2, of the object frame. cuts: where each is cut, as a share of its length along the axis.

    Returns:
        The joined mesh in an object frame of its own, without semantic keypoints; None if the sections differ by more
        than ``SCALES``, or if one mesh has nothing at its cut or the joined one no face with an area.
    """
    normal = np.eye(3)[axis]
    origins = [_cut_at(mesh, axis, cut) * normal for mesh, cut in zip((first, second), cuts, strict=True)]
    sections = [_section(mesh, normal, origin) for mesh, origin in zip((first, second), origins, strict=True)]
    if any(section is None for section in sections):
        return None
    (low, high), (other_low, other_high) = sections
    across = np.arange(3) != axis
    scale = np.ones(3)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale[across] = ((high - low) / (other_high - other_low))[across]
    if not ((scale >= SCALES[0]) & (scale <= SCALES[1])).all():
        return None
    scale[axis] = np.sqrt(scale[across].prod())
    corners, colors = _part(first, -normal, origins[0])
    others, other_colors = _part(second, normal, origins[1])
    others = (others - (other_low + other_high) / 2) * scale + (low + high) / 2
    corners = np.concatenate([corners, others]).reshape(-1, 3)
    try:
        return build_mesh(corners, np.arange(len(corners)).reshape(-1, 3), np.concatenate([colors, other_colors]))
    except ValueError:  # no face with an area is left
        return None


def _cut_at(mesh: Mesh, axis: int, share: float) -> float:
    low, high = mesh.vertices[:, axis].min(), mesh.vertices[:, axis].max()
    return low + share * (high - low)


def _section(mesh: Mesh, normal: np.ndarray, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Low and high corner (3,) of the bounding box of the cut by a plane; None where nothing is cut."""
    lines = mesh_plane(Trimesh(mesh.vertices, mesh.faces, process=False), normal, origin).reshape(-1, 3)
    return (lines.min(0), lines.max(0)) if len(lines) else None


def _part(mesh: Mesh, normal: np.ndarray, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners float64 (F, 3, 3) and colours uint8 (F, 3, 3) of what is on the normal's side of a plane.

    Where the two sides of a face differ in colour it comes twice, wound either way, as ``build_mesh`` takes it.
    """
    sides = [mesh.colors] if mesh.back_colors is None else [mesh.colors, mesh.back_colors]
    vertices, faces, mixed = slice_faces_plane(
        mesh.vertices[mesh.faces].reshape(-1, 3),
        np.arange(3 * len(mesh.faces)).reshape(-1, 3),
        normal,
        origin,
        uv=np.concatenate(sides, -1).reshape(3 * len(mesh.faces), -1).astype(np.float64),
    )
    mixed = np.rint(np.clip(np.nan_to_num(mixed), 0, 255)).astype(np.uint8)  # a sliver has no barycentric coordinates
    corners, colors = vertices[faces], mixed[faces]
    if mesh.back_colors is None:
        return corners, colors
    return np.concatenate([corners, corners[:, ::-1]]), np.concatenate([colors[..., :3], colors[:, ::-1, 3:]])
