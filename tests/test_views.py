"""Cameras: frames, and what the options promise."""

import numpy as np
import pytest

from render.views import ViewSettings, intrinsics, look_at, sample_pair


def project(pose, camera, point):
    u, v, z = camera @ (pose[:3, :3] @ point + pose[:3, 3])
    return u / z, v / z, z


def test_axes_and_pixels():
    pose, camera = look_at(np.array([0, 0, -30.0])), intrinsics(128, 5)  # in front of the object, which faces -z
    np.testing.assert_allclose(project(pose, camera, np.zeros(3)), [64, 64, 30])
    u, v, _ = project(pose, camera, np.array([1.0, 0, 0]))  # the object's right is the viewer's left
    assert u < 64 and v == pytest.approx(64)
    u, v, _ = project(pose, camera, np.array([0, 1.0, 0]))  # up in the object is up in the image
    assert u == pytest.approx(64) and v < 64
    assert project(pose, camera, np.array([0, 0, -1.0]))[2] == pytest.approx(29)


def test_field_of_view_spans_the_image():
    pose, camera = look_at(np.array([0, 0, -30.0])), intrinsics(100, 5)
    edge = 30 * np.tan(np.radians(2.5))
    np.testing.assert_allclose(project(pose, camera, np.array([0, edge, 0]))[:2], [50, 0], atol=1e-9)


def test_straight_from_above():
    pose = look_at(np.array([0, 30.0, 0]))
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
    assert (pose[:3, :3] @ [0, 0, -1])[1] < 0  # its front points up in the image


def many(settings, count=2000):
    pairs = [sample_pair(np.random.default_rng(i), settings) for i in range(count)]
    poses = np.concatenate([pair[0] for pair in pairs])
    positions = -np.einsum("nji,nj->ni", poses[:, :3, :3], poses[:, :3, 3])
    return poses, positions, np.concatenate([pair[1] for pair in pairs])


def test_default_is_the_papers_sampling():
    poses, positions, cameras = many(ViewSettings())
    np.testing.assert_allclose(np.linalg.det(poses[:, :3, :3]), 1)
    aimed = -30 * poses[:, 2, :3]  # where the camera stood when it was aimed at the origin
    shift = positions - aimed
    assert np.abs(shift).max() <= 0.2 and np.abs(shift).max() > 0.19
    np.testing.assert_allclose(shift.std(0), 0.2 / np.sqrt(3), rtol=0.05)
    # Uniform by area over the upper hemisphere: the height is uniform (Archimedes).
    np.testing.assert_allclose(np.histogram(aimed[:, 1] / 30, 5, (0, 1))[0], 800, rtol=0.15)
    np.testing.assert_allclose(
        np.histogram(np.arctan2(aimed[:, 2], aimed[:, 0]), 4, (-np.pi, np.pi))[0], 1000, rtol=0.15
    )
    assert np.abs(poses[:, 0, 1]).max() < 1e-12  # no roll: the camera's right is level
    assert (poses[:, 1, 1] < 0).all()
    np.testing.assert_allclose(cameras, np.broadcast_to(intrinsics(128, 5), cameras.shape))


def test_options():
    settings = ViewSettings(64, (10, 20), (10, 20), (-10, 30), 0.0, 45.0)
    poses, positions, cameras = many(settings)
    distance = np.linalg.norm(positions, axis=1)
    elevation = np.degrees(np.arcsin(positions[:, 1] / distance))
    roll = np.degrees(np.arctan2(-poses[:, 0, 1], -poses[:, 1, 1]))
    for values, low, high in ((distance, 10, 20), (elevation, -10, 30), (roll, -45, 45)):
        assert low <= values.min() < low + 0.1 * (high - low) and high - 0.1 * (high - low) < values.max() <= high
    fov = np.degrees(2 * np.arctan(32 / cameras[:, 1, 1]))
    assert 10 <= fov.min() < 11 and 19 < fov.max() <= 20


def test_an_option_leaves_the_other_draws_alone():
    plain = sample_pair(np.random.default_rng(0), ViewSettings())[0]
    rolled = sample_pair(np.random.default_rng(0), ViewSettings(roll_degrees=30, distance=(30, 40)))[0]
    np.testing.assert_allclose(plain[:, 2, :3], rolled[:, 2, :3])
