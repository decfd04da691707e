"""Rigid geometry, projection and Procrustes against hand-made cases."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from data.geometry import (
    _HornRotation,
    _NearestRotation,
    camera_angles,
    invert_rigid,
    normalize_intrinsics,
    pair_transforms,
    procrustes,
    project,
    rotation_distance,
    transform_points,
    unproject,
)


def random_rotation(*shape: int, seed: int = 0) -> torch.Tensor:
    count = math.prod(shape)
    return torch.from_numpy(Rotation.random(count, rng=seed).as_matrix()).reshape(*shape, 3, 3)


def rigid(rotation: torch.Tensor, translation: list[float]) -> torch.Tensor:
    transform = torch.eye(4, dtype=torch.double).repeat(*rotation.shape[:-2], 1, 1)
    transform[..., :3, :3] = rotation
    transform[..., :3, 3] = torch.tensor(translation, dtype=torch.double)
    return transform


def test_transform_points_by_hand():
    quarter_turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.double)
    moved = transform_points(rigid(quarter_turn, [10, 0, 0]), torch.tensor([[1.0, 2, 3]], dtype=torch.double))
    torch.testing.assert_close(moved, torch.tensor([[8.0, 1, 3]], dtype=torch.double))


def test_inverse_and_pair_transforms():
    poses = rigid(random_rotation(5, 2), [0.1, -0.2, 30])
    torch.testing.assert_close(invert_rigid(poses) @ poses, torch.eye(4, dtype=torch.double).expand(5, 2, 4, 4))
    points = torch.randn(5, 7, 3, dtype=torch.double)
    views = [transform_points(poses[:, i], points) for i in range(2)]
    relative = pair_transforms(poses)
    torch.testing.assert_close(transform_points(relative[:, 0], views[0]), views[1])
    torch.testing.assert_close(transform_points(relative[:, 1], views[1]), views[0])


def test_project_by_hand_and_back():
    intrinsics = torch.tensor([[100.0, 2, 64], [0, 50, 32], [0, 0, 1]], dtype=torch.double)
    points = torch.tensor([[1.0, 2, 4]], dtype=torch.double)
    keypoints = project(intrinsics, points)
    torch.testing.assert_close(keypoints, torch.tensor([[100 / 4 + 2 * 2 / 4 + 64, 50 * 2 / 4 + 32, 4]]).double())
    torch.testing.assert_close(unproject(intrinsics, keypoints), points)


def test_normalized_intrinsics_put_the_corners_at_one():
    intrinsics = torch.tensor([[100.0, 0, 64], [0, 100, 48], [0, 0, 1]], dtype=torch.double)
    normalized = normalize_intrinsics(intrinsics, height=96, width=128)
    corner = unproject(intrinsics, torch.tensor([[128.0, 96, 5]], dtype=torch.double))
    torch.testing.assert_close(project(normalized, corner)[..., :2], torch.ones(1, 2, dtype=torch.double))


@pytest.mark.parametrize("degrees", [0.0, 1e-3, 35.0, 90.0, 179.9, 180.0])
def test_rotation_distance_is_the_angle(degrees):
    axis = torch.tensor([0.6, 0.0, 0.8], dtype=torch.double) * math.radians(degrees)
    turned = torch.from_numpy(Rotation.from_rotvec(axis.numpy()).as_matrix())
    start = random_rotation(1)[0].requires_grad_()
    distance = rotation_distance(start, turned @ start.detach())
    assert math.degrees(distance.item()) == pytest.approx(degrees, abs=1e-5)
    distance.backward()
    assert torch.isfinite(start.grad).all()


def test_procrustes_recovers_rotations_from_moved_points():
    points = torch.randn(6, 8, 3, dtype=torch.double)
    rotation = random_rotation(6)
    target = transform_points(rigid(rotation, [1, 2, 3]), points)
    torch.testing.assert_close(procrustes(points, target), rotation)


def test_procrustes_agrees_with_scipy_on_noisy_weighted_points():
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(9, 3, dtype=torch.double, generator=generator)
    target = points @ random_rotation(1)[0].T + 0.3 * torch.randn(9, 3, dtype=torch.double, generator=generator)
    weights = torch.rand(9, dtype=torch.double, generator=generator)
    mean = (weights[:, None] * points).sum(0) / weights.sum(), (weights[:, None] * target).sum(0) / weights.sum()
    expected, _ = Rotation.align_vectors(target - mean[1], points - mean[0], weights=weights)
    torch.testing.assert_close(procrustes(points, target, weights), torch.from_numpy(expected.as_matrix()))


def test_procrustes_never_reflects():
    points = torch.randn(100, 5, 3, dtype=torch.double)
    mirrored = points * torch.tensor([-1.0, 1, 1], dtype=torch.double)
    torch.testing.assert_close(torch.det(procrustes(points, mirrored)), torch.ones(100, dtype=torch.double))


def test_procrustes_gradient():
    source = torch.randn(2, 5, 3, dtype=torch.double, requires_grad=True)
    target = torch.randn(2, 5, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(procrustes, (source, target))


def test_procrustes_gradient_where_singular_values_coincide():
    corners = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]).double()
    source = corners.clone().requires_grad_()
    turned = corners @ random_rotation(1)[0].T
    assert torch.linalg.svdvals(turned.T @ corners).diff().abs().max() < 1e-12
    assert torch.autograd.gradcheck(lambda s: procrustes(s, turned), (source,))


@pytest.mark.parametrize(
    "degenerate",
    [
        torch.zeros(1, 6, 3),
        torch.ones(1, 6, 3) * 1e-20,
        torch.linspace(-1, 1, 6)[None, :, None] * torch.tensor([1.0, 2, 3]),
        torch.randn(1, 6, 3) * torch.tensor([1.0, 1, 0]),
    ],
    ids=["one place", "tiny", "line", "plane"],
)
def test_procrustes_gradient_is_finite_for_degenerate_points(degenerate):
    source = degenerate.clone().requires_grad_()
    rotation = procrustes(source, degenerate.flip(1))
    rotation_distance(rotation, torch.eye(3)).sum().backward()
    assert torch.isfinite(rotation).all() and torch.isfinite(source.grad).all()
    assert torch.det(rotation[0]).item() == pytest.approx(1, abs=1e-5)


def test_procrustes_of_points_that_are_not_finite():
    points = torch.randn(2, 6, 3)
    broken = points.clone()
    broken[1, 2, 0] = torch.inf
    found = procrustes(points, broken)
    assert torch.allclose(found[0], torch.eye(3), atol=1e-5) and found[1].isnan().all()


def test_camera_angles_by_hand():
    centers = torch.tensor([[0.0, 0, -30], [30, 0, 0], [0, 30, 1e-9], [-15, 15 * 2**0.5, 15]]).double()
    poses = rigid(random_rotation(4), [0, 0, 0])
    poses[:, :3, 3] = -(poses[:, :3, :3] @ centers[..., None])[..., 0]
    azimuth, elevation = camera_angles(poses)
    torch.testing.assert_close(azimuth[[0, 1, 3]], torch.tensor([0.0, 90, -135]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(elevation, torch.tensor([0.0, 0, 90, 45]).double(), atol=1e-6, rtol=0)


def nearest(function, matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The rotation, and the gradient of a sum of it."""
    matrix = matrix.clone().requires_grad_()
    rotation = function.apply(matrix)
    factors = torch.linspace(-1, 2, rotation.numel(), dtype=matrix.dtype).view_as(rotation)
    (rotation.nan_to_num() * factors).sum().backward()
    return rotation.detach(), matrix.grad


@pytest.mark.parametrize("size", (1e-3, 1.0, 1e3))
def test_the_two_ways_to_the_nearest_rotation_agree(size):
    torch.manual_seed(0)
    matrix = size * torch.randn(500, 3, 3, dtype=torch.double)  # half of them turn a right hand into a left one
    matrix[0] = size * torch.eye(3)
    matrix[1:50, :, 2] = 0  # of points in a plane
    for ours, reference in zip(nearest(_HornRotation, matrix), nearest(_NearestRotation, matrix), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-7 / size)
    single = nearest(_HornRotation, matrix.float())[0]
    torch.testing.assert_close(single, _NearestRotation.apply(matrix).float(), rtol=0, atol=1e-4)
    assert torch.autograd.gradcheck(_HornRotation.apply, torch.randn(5, 3, 3, dtype=torch.double).requires_grad_())


@pytest.mark.parametrize("spread", (1e-6, 1e-4, 1e-2))
def test_gradients_near_an_undetermined_rotation_stay_as_small(spread):
    torch.manual_seed(0)
    mirrored = random_rotation(2000) * torch.tensor([1.0, 1, -1])  # of a ball of points
    mirrored = mirrored + spread * torch.randn(2000, 3, 3, dtype=torch.double)
    ours, reference = (nearest(function, mirrored)[1].abs().max() for function in (_HornRotation, _NearestRotation))
    assert ours < 10 * reference


def test_horns_rotation_is_one_where_it_is_undetermined():
    line = torch.zeros(3, 3, 3)
    line[0, 1, 2] = 1.0  # points on a line; then in one place, then not finite
    line[2, 0, 0] = torch.inf
    rotation, gradient = nearest(_HornRotation, line)
    torch.testing.assert_close(torch.det(rotation[:2]), torch.ones(2))
    torch.testing.assert_close(rotation[:2] @ rotation[:2].mT, torch.eye(3).expand(2, 3, 3))
    assert rotation[2].isnan().all() and gradient.isfinite().all()


def test_procrustes_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"\(\*, N, 3\)"):
        procrustes(torch.zeros(4, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"\(\*, N, 3\)"):
        procrustes(torch.zeros(4, 3), torch.zeros(5, 3))
