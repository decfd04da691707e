"""What lies at the same place in a mesh: vertices, and faces on each other."""

from __future__ import annotations

import numpy as np


def merge_by_position(vertices: np.ndarray) -> np.ndarray:
    """int64 (V,): an index per distinct position (to 1e-6 of an object unit)."""
    x, y, z = (np.round(vertices * 1e6).astype(np.int64) + 2**20).T  # 21 bits each: coordinates are in [-1, 1]
    return np.unique((x << 42) | (y << 21) | z, return_inverse=True)[1].ravel()


class Coincidence:
    """Which faces (F, 3) of vertices (V, 3) in [-1, 1] have their corners at the same places, in whatever order.

    Attributes:
        first: int64 (G,), of each group of such faces the first. group: int64 (F,), of each face its group.
        turned: int64 (G,), the group's first face that is wound the other way than ``first``, or -1.
        order: int64 (F, 3), a face's corners sorted by place.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray):
        places = merge_by_position(vertices)[faces]
        self.order = places.argsort(1)
        places = np.take_along_axis(places, self.order, 1)
        ranked = np.lexsort(places.T)
        starts = np.concatenate([[True], (np.diff(places[ranked], axis=0) != 0).any(1)])
        self.first = ranked[starts]
        self.group = np.empty(len(faces), np.int64)
        self.group[ranked] = np.cumsum(starts) - 1
        winding = (self.order[:, 1] - self.order[:, 0]) % 3
        turned = ranked[winding[ranked] != winding[self.first[self.group[ranked]]]]
        self.turned = np.full(len(self.first), -1)
        self.turned[self.group[turned[::-1]]] = turned[::-1]  # the first one is written last
