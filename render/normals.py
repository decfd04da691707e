"""Shading normals of a triangle mesh."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from render.coincidence import merge_by_position
from render.compiled import compile_once, compiled

HARD_EDGE_DEGREES = 40.0
# Around a vertex with more corners than this, faces are shaded flat: their work grows with the square of the number.
MAX_SMOOTH_VALENCE = 256


def corner_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Shading normals per corner: smooth across soft edges, split at hard ones, blind to winding.

    The normal of a corner is the angle-weighted mean of the normals of the faces around its vertex (vertices
    merged by position) that lie within HARD_EDGE_DEGREES of its own face; each is first turned to its own
    face's side, so a mesh with inconsistent winding shades like a consistent one.

    Args:
        vertices: (V, 3). faces: (F, 3), none of them without an area.

    Returns:
        float32 (F, 3, 3) unit vectors.
    """
    positions = merge_by_position(vertices)
    return _smooth(
        np.ascontiguousarray(vertices, np.float64), np.ascontiguousarray(faces, np.int64), positions,
        math.cos(math.radians(HARD_EDGE_DEGREES)),
    )  # fmt: skip


@njit
def _normalise(vector):
    """Scale (3,) to unit length, in place; false if it has none."""
    length = math.sqrt(vector[0] ** 2 + vector[1] ** 2 + vector[2] ** 2)
    for axis in range(3):
        vector[axis] /= max(length, 1e-30)
    return length > 1e-30


@njit
def _face_normals(vertices, faces):
    """Unit normals (F, 3), and the angles (F, 3) at the corners."""
    normals, angles, edges = np.empty(faces.shape), np.empty(faces.shape), np.empty((3, 3))
    for face in range(len(faces)):
        for corner in range(3):
            for axis in range(3):
                edges[corner, axis] = (
                    vertices[faces[face, (corner + 1) % 3], axis] - vertices[faces[face, corner], axis]
                )
            _normalise(edges[corner])
        for axis in range(3):
            after, last = (axis + 1) % 3, (axis + 2) % 3
            normals[face, axis] = edges[0, after] * edges[1, last] - edges[0, last] * edges[1, after]
        _normalise(normals[face])
        for corner in range(3):
            before = (corner + 2) % 3
            cosine = 0.0
            for axis in range(3):
                cosine -= edges[corner, axis] * edges[before, axis]
            angles[face, corner] = math.acos(min(max(cosine, -1.0), 1.0))
    return normals, angles


@njit
def _corners_by_position(faces, positions):
    """Corners (3F,), numbered 3 * face + corner, sorted by position, and where those of each position start."""
    start = np.zeros(positions.max() + 2, np.int64)
    for face in range(len(faces)):
        for corner in range(3):
            start[positions[faces[face, corner]] + 1] += 1
    start = np.cumsum(start)
    corners, filled = np.empty(faces.size, np.int64), start.copy()
    for face in range(len(faces)):
        for corner in range(3):
            position = positions[faces[face, corner]]
            corners[filled[position]] = 3 * face + corner
            filled[position] += 1
    return corners, start


@compiled
def _smooth(vertices, faces, positions, threshold):
    own, angles = _face_normals(vertices, faces)
    corners, start = _corners_by_position(faces, positions)
    normals, total = np.empty((len(faces), 3, 3), np.float32), np.empty(3)
    for position in range(len(start) - 1):
        first, end = start[position], start[position + 1]
        for i in range(first, end):
            face = corners[i] // 3
            total[:] = 0
            for j in range(first, end if end - first <= MAX_SMOOTH_VALENCE else first):
                other = corners[j] // 3
                cosine = own[face, 0] * own[other, 0] + own[face, 1] * own[other, 1] + own[face, 2] * own[other, 2]
                if abs(cosine) >= threshold:
                    for axis in range(3):
                        total[axis] += math.copysign(angles[other, corners[j] % 3], cosine) * own[other, axis]
            smooth = _normalise(total)
            for axis in range(3):
                normals[face, corners[i] % 3, axis] = total[axis] if smooth else own[face, axis]
    return normals


compile_once(_smooth, lambda: corner_normals(np.eye(3), np.array([[0, 1, 2]])))
