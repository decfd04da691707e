"""Faces of more than three corners, cut into triangles."""

from __future__ import annotations

import numpy as np


def triangulate(points: np.ndarray) -> np.ndarray:
    """Cut a polygon by clipping ears (Meisters 1975); a convex one becomes a fan from its first corner.

    Args:
        points: (K, 3), corners in order, about in one plane.

    Returns:
        int64 (K - 2, 3), indices of corners. Of a polygon that crosses itself, a fan of what is left when there are no
        more ears.
    """
    flat = _in_plane(np.asarray(points, np.float64))
    left = list(range(len(flat)))
    if is_convex(points):
        return _fan(left)
    triangles = []
    while len(left) > 3:
        ear = next((i for i in range(len(left)) if _is_ear(flat[left], i)), None)
        if ear is None:
            break
        triangles.append([left[ear - 1], left[ear], left[(ear + 1) % len(left)]])
        del left[ear]
    return np.concatenate([np.array(triangles, np.int64).reshape(-1, 3), _fan(left)])


def is_convex(points: np.ndarray) -> np.ndarray:
    """Whether polygons (*, K, 3) turn to one side at every corner, bool (*)."""
    flat = _in_plane(np.asarray(points, np.float64))
    into, out = flat - np.roll(flat, 1, axis=-2), np.roll(flat, -1, axis=-2) - flat
    return (_cross(into, out) >= 0).all(-1)


def _fan(corners: list[int]) -> np.ndarray:
    return np.array([[corners[0], b, c] for b, c in zip(corners[1:], corners[2:])], np.int64)


def _in_plane(points: np.ndarray) -> np.ndarray:
    """(*, K, 2), polygons seen along the axis nearest to their normal (Newell's method), counter-clockwise."""
    normal = np.cross(points, np.roll(points, -1, axis=-2)).sum(-2)
    axis = np.abs(normal).argmax(-1)[..., None]
    up = np.take_along_axis(normal, axis, -1)[..., None] >= 0
    first, second = (np.take_along_axis(points, ((axis + i) % 3)[..., None], -1) for i in (1, 2))
    return np.concatenate([np.where(up, first, second), np.where(up, second, first)], axis=-1)


def _is_ear(flat: np.ndarray, i: int) -> bool:
    """Whether corner i juts out and its triangle holds no other corner."""
    triangle = flat[[i - 1, i, (i + 1) % len(flat)]]
    if _cross(triangle[1] - triangle[0], triangle[2] - triangle[1]) <= 0:
        return False
    edges = np.roll(triangle, -1, axis=0) - triangle
    inside = (_cross(edges, flat[:, None] - triangle) >= 0).all(1)
    same = (flat[:, None] == triangle).all(2).any(1)  # a corner on one of its own, as where two outlines are joined
    return not (inside & ~same).any()


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
