import numpy as np
import pytest

from tests.made_up import BALLS, intrinsics, look_at, render_balls
from tests.test_metrics import rotation
from train.eval.surface import add_error, coverage, diameter, inclusivity, visible_surface

CUBE = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)


def test_coverage_by_hand():
    assert coverage(CUBE, CUBE) == 1
    assert coverage(CUBE / 2, CUBE) == pytest.approx(1 / 8)
    assert coverage(CUBE * 2, CUBE) == pytest.approx(1 / 8)
    # shifted by half a side: the boxes share 1 x 2 x 2 = 4 of 8 + 8 - 4
    assert coverage(CUBE + [1, 0, 0], CUBE) == pytest.approx(1 / 3)
    assert coverage(CUBE + [5, 5, 5], CUBE) == 0


def test_inclusivity_by_hand():
    keypoints = np.array([[1, 1, 1.09], [1, 1, 1.11], [0, 0, 0], [-1, -1, -1]])
    assert inclusivity(keypoints, CUBE) == pytest.approx(1 / 2)
    assert inclusivity(keypoints / 20, CUBE / 20) == 1


def test_add_by_hand():
    still = np.eye(3), np.zeros(3)
    assert add_error(CUBE, still, still) == 0
    assert add_error(CUBE, (np.eye(3), np.array([0, 3, 4.0])), still) == pytest.approx(5)
    # a half turn about y moves every corner across the diagonal of a 2 x 2 square
    assert add_error(CUBE, (rotation([0, 1, 0], 180), np.zeros(3)), still) == pytest.approx(2 * np.sqrt(2))
    assert diameter(CUBE) == pytest.approx(2 * np.sqrt(3))
    cloud = np.random.default_rng(0).normal(size=(50, 3)) + 30
    assert diameter(cloud) == pytest.approx(np.linalg.norm(cloud[:, None] - cloud, axis=-1).max())
    assert diameter(cloud[:1]) == 0


def test_visible_surface_lies_on_the_balls():
    poses = np.stack([look_at(azimuth, 20) for azimuth in range(0, 360, 45)])
    rgba, depth = (np.stack(parts) for parts in zip(*(render_balls(BALLS, pose, 64) for pose in poses)))
    points, colors = visible_surface(rgba, depth, np.stack([intrinsics(64)] * 8), poses, count=500)
    assert points.shape == (500, 3) and colors.dtype == np.uint8
    away = np.linalg.norm(points[:, None] - BALLS, axis=-1).min(1)
    assert np.abs(away - 0.25).max() < 0.02
