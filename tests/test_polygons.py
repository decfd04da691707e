"""Faces of many corners."""

import numpy as np
import pytest

from render.polygons import triangulate

ARROW = [(0, 0), (2, 1), (0, 2), (1, 1)]
ELL = [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]
# a square with a square hole, its outline led to the hole and back
FRAME = [(0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (1, 1), (1, 3), (3, 3), (3, 1), (1, 1)]


def areas(points, triangles):
    corners = points[triangles]
    return np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2


@pytest.mark.parametrize("outline, area", [(ARROW, 1), (ELL, 3), (FRAME, 12)])
@pytest.mark.parametrize("turn", [np.eye(3), -np.eye(3), np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]])
@pytest.mark.parametrize("first", range(4))
def test_concave_polygons_keep_their_area(outline, area, turn, first):
    points = np.array([(x, y, 5) for x, y in outline[first:] + outline[:first]]) @ turn.T
    triangles = triangulate(points)
    assert triangles.shape == (len(points) - 2, 3)
    assert areas(points, triangles).sum() == pytest.approx(area)


def test_a_convex_polygon_is_a_fan_and_a_triangle_itself():
    angle = np.linspace(0, 2 * np.pi, 6, endpoint=False)
    hexagon = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    assert triangulate(hexagon).tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 5]]
    assert triangulate(hexagon[:3]).tolist() == [[0, 1, 2]]


def test_one_that_crosses_itself_or_has_no_area_ends():
    assert triangulate(np.array([[0, 0, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0]])).shape == (2, 3)
    assert triangulate(np.ones((5, 3))).shape == (3, 3)
