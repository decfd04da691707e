"""Surfaces the parametric shapes are put together from, and the builder that collects them.

Every function returns a `Surface` in the object frame (+y up, -z front, +x to the object's own right), in any
unit; `build_mesh` normalises at the end.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence, Union

import numpy as np

from render.mesh import Mesh, build_mesh
from render.shapes.paint import Paint, evaluate

MIRROR = np.array([-1.0, 1.0, 1.0])


class Surface(NamedTuple):
    """Triangles, and for each of them the point where a paint that varies over space is looked up.

    Attributes:
        vertices: float64 (V, 3).
        faces: int64 (F, 3).
        cells: float64 (F, 3); the two halves of a quad share its centre, so that colour borders run along quads.
    """

    vertices: np.ndarray
    faces: np.ndarray
    cells: np.ndarray

    def moved(self, offset: Sequence[float]) -> Surface:
        return self._replace(vertices=self.vertices + offset, cells=self.cells + offset)

    def scaled(self, factors: Sequence[float]) -> Surface:
        return self._replace(vertices=self.vertices * factors, cells=self.cells * factors)

    def turned(self, axis: str, degrees: float) -> Surface:
        """Rotated about a coordinate axis through the origin, right-handed."""
        matrix = rotation(axis, degrees)
        return self._replace(vertices=self.vertices @ matrix.T, cells=self.cells @ matrix.T)

    def mirrored(self) -> Surface:
        return self.scaled(MIRROR)


def join(surfaces: Sequence[Surface]) -> Surface:
    starts = np.cumsum([0] + [len(s.vertices) for s in surfaces[:-1]])
    return Surface(
        np.concatenate([s.vertices for s in surfaces]),
        np.concatenate([s.faces + start for s, start in zip(surfaces, starts)]),
        np.concatenate([s.cells for s in surfaces]),
    )


def rotation(axis: str, degrees: float) -> np.ndarray:
    """(3, 3) right-handed rotation about the axis "x", "y" or "z"."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i = "xyz".index(axis)
    j, k = (i + 1) % 3, (i + 2) % 3
    matrix = np.eye(3)
    matrix[j, j], matrix[j, k], matrix[k, j], matrix[k, k] = c, -s, s, c
    return matrix


# Curves


def superellipse(width: float, height: float, exponent: float = 2.0, n: int = 24) -> np.ndarray:
    """Closed outline |x/a|^p + |y/b|^p = 1, (n, 2): p = 2 an ellipse, larger ones ever closer to the rectangle."""
    angle = (np.arange(n) + 0.5) * 2 * np.pi / n
    c, s = np.cos(angle), np.sin(angle)
    return np.stack(
        [
            width / 2 * np.sign(c) * np.abs(c) ** (2 / exponent),
            height / 2 * np.sign(s) * np.abs(s) ** (2 / exponent),
        ],
        axis=1,
    )


def rounded_rectangle(width: float, depth: float, radius: float, segments: int = 4) -> np.ndarray:
    """Closed outline (4 (segments + 1), 2) centred on the origin."""
    radius = min(radius, 0.499 * width, 0.499 * depth)
    angle = np.linspace(0, np.pi / 2, segments + 1)
    corner = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1) + [width / 2 - radius, depth / 2 - radius]
    quadrants = [corner, corner[::-1] * [-1, 1], -corner, corner[::-1] * [1, -1]]
    return np.concatenate(quadrants)


def circle(radius: float, n: int = 8) -> np.ndarray:
    return superellipse(2 * radius, 2 * radius, 2.0, n)


def rectangle(width: float, depth: float) -> np.ndarray:
    return np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * [width / 2, depth / 2]


def hermite(knots: Sequence[float], values: Sequence, at: np.ndarray) -> np.ndarray:
    """Smooth interpolation of values (K,) or (K, D) given at increasing knots; constant outside of them."""
    knots, values = np.asarray(knots, float), np.asarray(values, float)
    tangents = np.gradient(values, knots, axis=0, edge_order=min(2, len(knots) - 1))
    at = np.clip(at, knots[0], knots[-1])
    i = np.clip(np.searchsorted(knots, at, "right") - 1, 0, len(knots) - 2)
    column = at.shape + (1,) * (values.ndim - 1)
    step = (knots[i + 1] - knots[i]).reshape(column)
    t = (at - knots[i]).reshape(column) / step
    return (
        (2 * t**3 - 3 * t**2 + 1) * values[i]
        + (t**3 - 2 * t**2 + t) * step * tangents[i]
        + (3 * t**2 - 2 * t**3) * values[i + 1]
        + (t**3 - t**2) * step * tangents[i + 1]
    )


def spline(points: Sequence[Sequence[float]], n: int) -> np.ndarray:
    """Smooth curve of n points through the given ones (cubic Hermite over chord length)."""
    points = np.asarray(points, float)
    knots = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    return hermite(knots, points, np.linspace(0, knots[-1], n))


def fillet(points: Sequence[Sequence[float]], radius: float, segments: int = 4) -> np.ndarray:
    """Polyline with its inner corners rounded: what a bent tube looks like."""
    points = np.asarray(points, float)
    out = [points[:1]]
    for before, corner, after in zip(points[:-2], points[1:-1], points[2:]):
        reach = min(radius, 0.49 * np.linalg.norm(before - corner), 0.49 * np.linalg.norm(after - corner))
        start = corner + reach * unit(before - corner)
        end = corner + reach * unit(after - corner)
        t = np.linspace(0, 1, segments + 1)[:, None]
        out.append((1 - t) ** 2 * start + 2 * t * (1 - t) * corner + t**2 * end)
    out.append(points[-1:])
    return np.concatenate(out)


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


# Surfaces


def grid(points: np.ndarray, wrap: bool = False) -> Surface:
    """Quads over a grid of points (A, B, 3); ``wrap`` closes it along the second axis."""
    rows, columns = points.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    if wrap:
        index = np.concatenate([index, index[:, :1]], axis=1)
    a, b, c, d = index[:-1, :-1].ravel(), index[:-1, 1:].ravel(), index[1:, 1:].ravel(), index[1:, :-1].ravel()
    vertices = points.reshape(-1, 3)
    faces = np.stack([a, b, c, a, c, d], axis=1).reshape(-1, 3)
    centers = (vertices[a] + vertices[b] + vertices[c] + vertices[d]) / 4
    return Surface(vertices, faces, np.repeat(centers, 2, axis=0))


def fan(ring: np.ndarray) -> Surface:
    """Triangles from the centroid of a closed ring (M, 3) to its edges."""
    m = len(ring)
    center = ring.mean(0)
    i = np.arange(m)
    faces = np.stack([np.full(m, m), i, (i + 1) % m], axis=1)
    return Surface(np.concatenate([ring, center[None]]), faces, np.repeat(center[None], m, axis=0))


def loft(rings: np.ndarray) -> Surface:
    """Closed surface through rings (S, M, 3) of corresponding points."""
    rings = np.asarray(rings, float)
    return join([grid(rings, wrap=True), fan(rings[0]), fan(rings[-1])])


def sweep(
    path: Sequence[Sequence[float]],
    section: np.ndarray,
    scale: Union[float, Sequence[float]] = 1.0,
    up: Sequence[float] = (0.0, 1.0, 0.0),
) -> Surface:
    """Section (M, 2) carried along a polyline (K, 3) without twisting.

    At the start, the section's second axis points to ``up`` as far as the path's direction allows. ``scale`` is one
    number or one per point.
    """
    path = np.asarray(path, float)
    scale = np.broadcast_to(scale, len(path))
    tangents = np.diff(path, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    tangents = np.concatenate([tangents[:1], tangents[:-1] + tangents[1:], tangents[-1:]])
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    reference = np.asarray(up, float)
    if abs(tangents[0] @ reference) > 0.95 * np.linalg.norm(reference):
        reference = np.array([0.0, 0.0, 1.0]) if abs(tangents[0, 2]) < 0.9 else np.array([1.0, 0.0, 0.0])
    rings = []
    for point, tangent, size in zip(path, tangents, scale):
        reference = unit(reference - (reference @ tangent) * tangent)
        side = np.cross(tangent, reference)
        rings.append(point + size * (section[:, :1] * side + section[:, 1:] * reference))
    return loft(np.array(rings))


def tube(path: Sequence[Sequence[float]], radius: Union[float, Sequence[float]], sides: int = 8) -> Surface:
    """Round bar along a polyline; the radius is one number or one per point."""
    return sweep(path, circle(1.0, sides), radius)


def beam(start: Sequence[float], end: Sequence[float], width: float, depth: float, taper: float = 1.0) -> Surface:
    """Straight bar of rectangular section; ``width`` is measured along x for an upright bar."""
    return sweep([start, end], rectangle(width, depth), [1.0, taper], up=(0.0, 0.0, 1.0))


def cylinder(start: Sequence[float], end: Sequence[float], radius: float, sides: int = 16) -> Surface:
    return tube([start, end], radius, sides)


def extrude(outline: np.ndarray, bottom: float, top: float, bevel: float = 0.0, crown: float = 0.0) -> Surface:
    """Plate over an outline (M, 2) in the (x, z) plane, between two heights, with rounded edges.

    ``bevel`` is the radius of the edges, ``crown`` how far the middle of the upper side bulges (a cushion).
    The outline has to be star-shaped about its centroid.
    """
    bevel = min(bevel, 0.5 * (top - bottom))
    edges = np.roll(outline, -1, axis=0) - np.roll(outline, 1, axis=0)
    normals = np.stack([edges[:, 1], -edges[:, 0]], axis=1)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    angle = np.linspace(0, np.pi / 2, 3 if bevel > 0 else 1)
    inset = bevel * (1 - np.cos(angle))
    lower = [(outline - i * normals, bottom + h) for i, h in zip(inset[::-1], bevel * (1 - np.sin(angle[::-1])))]
    upper = [(outline - i * normals, top - h) for i, h in zip(inset, bevel * (1 - np.sin(angle)))]
    rim, center = upper[-1][0], outline.mean(0)
    if crown:
        shrink = np.array([0.85, 0.6, 0.3])
        upper += [(center + s * (rim - center), top + crown * (1 - s**2)) for s in shrink]
    rings = [np.insert(points, 1, height, axis=1) for points, height in lower + upper]
    return loft(np.array(rings))


def box(size: Sequence[float], center: Sequence[float] = (0, 0, 0), bevel: float = 0.0, corner: float = 0.0) -> Surface:
    """Box with edges of radius ``bevel`` above and below and upright edges of radius ``corner``."""
    width, height, depth = size
    corner = max(corner, bevel)
    outline = rounded_rectangle(width, depth, corner, 2) if corner > 0 else rectangle(width, depth)
    return extrude(outline, -height / 2, height / 2, bevel).moved(center)


def revolve(profile: Sequence[Sequence[float]], sides: int = 20, axis: str = "y") -> Surface:
    """Surface of revolution of (radius, height along the axis) pairs."""
    unit_circle = circle(1.0, sides)
    rings = np.array([np.insert(radius * unit_circle, 1, height, axis=1) for radius, height in profile])
    surface = loft(rings)
    order = {"x": [1, 0, 2], "y": [0, 1, 2], "z": [0, 2, 1]}[axis]
    return Surface(surface.vertices[:, order], surface.faces, surface.cells[:, order])


def ellipsoid(
    radii: Sequence[float], center: Sequence[float] = (0, 0, 0), exponent: float = 2.0, n: int = 16
) -> Surface:
    """Superellipsoid: exponent 2 the ellipsoid, larger ones ever closer to the box."""
    latitude = np.linspace(-np.pi / 2, np.pi / 2, n // 2 + 1)
    outline = superellipse(2, 2, exponent, n)
    ring_scale = np.maximum(np.cos(latitude), 0) ** (2 / exponent)
    heights = np.sign(latitude) * np.abs(np.sin(latitude)) ** (2 / exponent)
    rings = np.array([np.insert(s * outline, 1, h, axis=1) for s, h in zip(ring_scale, heights)])
    return grid(rings, wrap=True).scaled(radii).moved(center)


def sheet(points: np.ndarray, thickness: Union[float, np.ndarray]) -> Surface:
    """Closed sheet about a middle surface (A, B, 3); the thickness is one number or one per point (A, B)."""
    along, across = np.gradient(points, axis=0), np.gradient(points, axis=1)
    normals = np.cross(along, across)
    normals /= np.maximum(np.linalg.norm(normals, axis=2, keepdims=True), 1e-12)
    offset = normals * np.broadcast_to(thickness, points.shape[:2])[..., None] / 2
    front, back = points + offset, points - offset
    strips = [np.stack([front[edge], back[edge]]) for edge in (0, -1, np.s_[:, 0], np.s_[:, -1])]
    return join([grid(front), grid(back)] + [grid(strip) for strip in strips])


def wheel(center: Sequence[float], radius: float, width: float) -> Surface:
    """Tyre and disc, rolling along z."""
    h = width / 2
    profile = [(1e-4, -h), (0.8 * radius, -h), (radius, -0.5 * h), (radius, 0.5 * h), (0.8 * radius, h), (1e-4, h)]
    return revolve(profile, 14, "x").moved(center)


# Collecting


class Builder:
    """Collects painted surfaces and named keypoints of one object."""

    def __init__(self, keypoint_names: Sequence[str]):
        self._surfaces: list[Surface] = []
        self._colors: list[np.ndarray] = []
        self._keypoints = {name: np.full(3, np.nan) for name in keypoint_names}

    def add(self, surface: Surface, paint: Paint) -> None:
        self._surfaces.append(surface)
        self._colors.append(np.clip(np.round(evaluate(paint, surface.cells)), 0, 255).astype(np.uint8))

    def add_pair(self, surface: Surface, paint: Paint) -> None:
        """The surface and its mirror image in the plane x = 0."""
        self.add(surface, paint)
        self.add(surface.mirrored(), paint)

    def mark(self, name: str, point: Sequence[float]) -> None:
        if name not in self._keypoints:
            raise KeyError(name)
        self._keypoints[name] = np.asarray(point, float)

    def mark_pair(self, name: str, point: Sequence[float]) -> None:
        """``name_right`` at the point given (x > 0) and ``name_left`` at its mirror image."""
        self.mark(f"{name}_right", np.asarray(point, float))
        self.mark(f"{name}_left", np.asarray(point, float) * MIRROR)

    def build(self, stretch: Sequence[float] = (1.0, 1.0, 1.0)) -> Mesh:
        """The mesh, its axes stretched by the factors given."""
        surface = join(self._surfaces)
        keypoints = {name: point * stretch for name, point in self._keypoints.items()}
        return build_mesh(surface.vertices * stretch, surface.faces, np.concatenate(self._colors), keypoints)


def pairs(*names: str) -> tuple[str, ...]:
    """("a",) -> ("a_left", "a_right"): the names that `Builder.mark_pair` fills."""
    return tuple(f"{name}_{side}" for name in names for side in ("left", "right"))
