"""Faces of more than three corners, cut into triangles."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from render.sources import MeshError

MAX_CORNERS = 1000  # clipping takes time that grows with the cube of their number


def triangulate(points: np.ndarray) -> np.ndarray:
    """Cut a polygon by clipping ears (Meisters 1975), or as a fan from its first corner where that is right.

    Args:
        points: (K, 3), corners in order, about in one plane.

    Returns:
        int64 (K - 2, 3), indices of corners. Of a polygon that crosses itself, a fan of what is left when there are no
        more ears; of one with more than ``MAX_CORNERS``, a fan.
    """
    points = np.asarray(points, np.float64)
    left = np.arange(len(points))
    if len(points) > MAX_CORNERS or is_fan(points):
        return _fan(left)
    flat = _in_plane(points)
    triangles = []
    while len(left) > 3:
        ear = _first_ear(flat[left])
        if ear is None:
            break
        triangles.append(left[[ear - 1, ear, (ear + 1) % len(left)]])
        left = np.delete(left, ear)
    return np.concatenate([np.array(triangles, np.int64).reshape(-1, 3), _fan(left)])


def triangulate_all(
    vertices: np.ndarray, polygons: Iterable[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Cut faces into triangles, see :func:`triangulate`.

    Args:
        vertices: (V, 3). polygons: of faces of K corners each, their numbers (F,) and their corners (F, K).

    Returns:
        int64 (T, 3) corners of triangles and int64 (T,) numbers of the faces that they are of, in ascending order.

    Raises:
        MeshError: a corner is not among the vertices.
    """
    triangles, source = [np.empty((0, 3), np.int64)], [np.empty(0, np.int64)]
    for numbers, corners in polygons:
        check_corners(corners, len(vertices))
        if corners.shape[1] < 3:
            continue
        cut = np.broadcast_to(_fan(np.arange(corners.shape[1])), (len(corners), corners.shape[1] - 2, 3)).copy()
        points = vertices[corners]
        for face in np.flatnonzero(~is_fan(points)):
            cut[face] = triangulate(points[face])
        triangles.append(np.take_along_axis(corners, cut.reshape(len(corners), -1), axis=1).reshape(-1, 3))
        source.append(np.repeat(numbers, cut.shape[1]))
    order = np.argsort(np.concatenate(source), kind="stable")
    return np.concatenate(triangles)[order], np.concatenate(source)[order]


def check_corners(corners: np.ndarray, count: int) -> None:
    """Refuse faces, integers (F, K), with corners that are not among ``count`` vertices.

    Raises:
        MeshError: there are such.
    """
    if corners.size and (corners.min() < 0 or corners.max() >= count):
        raise MeshError(f"has faces with vertex indices outside 0 to {count - 1}")


def is_fan(points: np.ndarray) -> np.ndarray:
    """Whether triangles from the first corner of polygons (*, K, 3) all face to one side, bool (*)."""
    points = np.asarray(points, np.float64)
    spokes = points[..., 1:, :] - points[..., :1, :]
    normals = np.cross(spokes[..., :-1, :], spokes[..., 1:, :])
    return (np.einsum("...ki,...i->...k", normals, normals.sum(-2)) >= 0).all(-1)


def _fan(corners: np.ndarray) -> np.ndarray:
    return np.stack([np.full(len(corners) - 2, corners[0]), corners[1:-1], corners[2:]], axis=1)


def _in_plane(points: np.ndarray) -> np.ndarray:
    """(*, K, 2), polygons seen along the axis nearest to their normal (Newell's method), counter-clockwise."""
    normal = np.cross(points, np.roll(points, -1, axis=-2)).sum(-2)
    axis = np.abs(normal).argmax(-1)[..., None]
    up = np.take_along_axis(normal, axis, -1)[..., None] >= 0
    first, second = (np.take_along_axis(points, ((axis + i) % 3)[..., None], -1) for i in (1, 2))
    return np.concatenate([np.where(up, first, second), np.where(up, second, first)], axis=-1)


def _first_ear(flat: np.ndarray) -> int | None:
    """The first corner that juts out and whose triangle holds no other corner."""
    into, out = flat - np.roll(flat, 1, axis=0), np.roll(flat, -1, axis=0) - flat
    for i in np.flatnonzero(_cross(into, out) > 0):
        triangle = flat[[i - 1, i, (i + 1) % len(flat)]]
        edges = np.roll(triangle, -1, axis=0) - triangle
        inside = (_cross(edges, flat[:, None] - triangle) >= 0).all(1)
        same = (flat[:, None] == triangle).all(2).any(1)  # a corner on one of its own, as where two outlines are joined
        if not (inside & ~same).any():
            return int(i)
    return None


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
