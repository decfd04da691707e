"""Each term of the objective against a case worked out by hand, and its gradient by finite differences."""

import itertools
import math

import pytest
import torch

from data.geometry import pair_transforms, project, transform_points
from tests.test_geometry import random_rotation, rigid
from train import losses
from train.batches import PairBatch
from train.networks import Prediction, pixel_grid

INTRINSICS = torch.diag(torch.tensor([22.0, 22, 1], dtype=torch.double)).expand(1, 2, 3, 3)


def half_turn_pair() -> torch.Tensor:
    """Two cameras at distance 30 on opposite sides: each sees the other's view turned about the vertical axis."""
    turn = torch.diag(torch.tensor([-1.0, 1, -1], dtype=torch.double))
    transform = rigid(turn, [0, 0, 60])
    return torch.stack([transform, transform])[None]


def keypoints_of(points: torch.Tensor, transforms: torch.Tensor) -> torch.Tensor:
    """(1, 2, N, 3) keypoints that both views agree on, of points in view 0's camera frame."""
    both = torch.stack([points, transform_points(transforms[0, 0], points)])[None]
    return project(INTRINSICS, both)


def test_consistency_is_zero_for_true_keypoints_and_counts_both_directions():
    transforms = half_turn_pair()
    points = torch.tensor([[0.5, 0.2, 30], [-0.3, 0.1, 30]], dtype=torch.double)
    keypoints = keypoints_of(points, transforms)
    torch.testing.assert_close(losses.consistency(keypoints, transforms, INTRINSICS), torch.zeros(1).double())
    keypoints[0, 1, 0, 1] += 0.1  # moves one of two points by 0.1: seen from view 0 and, projected back, from view 1
    expected = 2 * 0.1**2 / 2
    assert losses.consistency(keypoints, transforms, INTRINSICS).item() == pytest.approx(expected, rel=1e-9)


def test_consistency_sees_depth_through_the_other_view():
    transforms = torch.stack(
        [
            rigid(torch.tensor([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]]).double(), [30, 0, 30]),
            rigid(torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]).double(), [-30, 0, 30]),
        ]
    )[None]
    keypoints = keypoints_of(torch.tensor([[0.0, 0, 30]], dtype=torch.double), transforms)
    keypoints[0, 0, 0, 2] += 0.5  # half a unit deeper is half a unit to the left from the side
    error = losses.consistency(keypoints, transforms, INTRINSICS).item()
    assert error == pytest.approx((22 * 0.5 / 30) ** 2, rel=1e-6)


def test_spatial_consistency_sees_depth_from_anywhere():
    rotation = random_rotation(1)
    first = torch.randn(1, 4, 3, dtype=torch.double)
    second = first @ rotation.transpose(-1, -2) + 5.0  # an offset of all does not count
    points = torch.stack([first, second], dim=1)
    torch.testing.assert_close(losses.spatial_consistency(points, rotation), torch.zeros(1).double())
    size = first.var(-2, correction=0).sum()
    first = first + torch.tensor([0.3, -0.3, 0, 0], dtype=torch.double)[:, None]  # two of four move by 0.3 on all axes
    points = torch.stack([first, second], dim=1)
    own_size = first.var(-2, correction=0).sum()
    expected = (2 * 3 * 0.3**2 / 4) / ((size + own_size) / 2)
    assert losses.spatial_consistency(points, rotation).item() == pytest.approx(expected.item(), rel=1e-9)
    torch.testing.assert_close(*(losses.spatial_consistency(scale * points, rotation) for scale in (1, 0.1)))


def test_canonical_consistency_compares_objects_in_their_own_frames():
    torch.manual_seed(0)
    poses = rigid(random_rotation(2, 2), [0.3, -0.2, 30])
    shape = torch.randn(5, 3, dtype=torch.double)
    points = transform_points(poses, shape.expand(2, 2, 5, 3))
    torch.testing.assert_close(losses.canonical_consistency(points, poses), torch.zeros(2).double())
    other = shape + torch.tensor([0.4, -0.4, 0, 0, 0], dtype=torch.double)[:, None]  # another object of the category
    points[1] = transform_points(poses[1], other.expand(2, 5, 3))
    size = (shape.var(0, correction=0).sum() + other.var(0, correction=0).sum()) / 2
    expected = 2 * 3 * 0.2**2 / 5 / size  # two of five keypoints are 0.2 from the mean on all axes
    found = losses.canonical_consistency(points, poses)
    torch.testing.assert_close(found, expected.expand(2))
    shrunk = poses.clone()
    shrunk[..., :3, 3] *= 0.1
    torch.testing.assert_close(losses.canonical_consistency(0.1 * points, shrunk), found)


@pytest.mark.parametrize(["shift", "expected"], [((0, 0, 0.6), 0.0), ((0.6, 0, 0), 0.3**2)])
def test_canonical_consistency_leaves_out_where_a_set_is_along_the_camera_axis(shift, expected):
    torch.manual_seed(0)
    pose = rigid(random_rotation(), [0.3, -0.2, 30]).expand(1, 2, 4, 4)
    shape = torch.randn(5, 3, dtype=torch.double)
    points = transform_points(pose, shape.expand(1, 2, 5, 3)).clone()
    points[0, 1] += torch.tensor(shift, dtype=torch.double)  # by as much from the mean as the other view
    found = losses.canonical_consistency(points, pose) * shape.var(0, correction=0).sum()
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.double), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(["count", "partners"], [(6, 3), (7, 3), (3, 1)])
def test_separation_leaves_mirror_pairs_to_their_own_term(count, partners):
    points = torch.zeros(1, 2, count, 3, dtype=torch.double)  # all on each other
    expected = torch.tensor([2 * 0.1 * (count**2 - 2 * partners) / (2 * count)], dtype=torch.double)
    torch.testing.assert_close(losses.separation(points, 0.1, mirror=True), expected)
    points[..., 1, :] = 10  # far from its partner and from all others
    away = 2 * 0.1 * 2 * (count - 1) / (2 * count)
    torch.testing.assert_close(losses.separation(points, 0.1), losses.separation(0 * points, 0.1) - away)
    away = 2 * 0.1 * 2 * (count - 2) / (2 * count)
    torch.testing.assert_close(losses.separation(points, 0.1, mirror=True), expected - away)


def test_mirror_separation_by_hand():
    pose = rigid(random_rotation(), [0.3, -0.2, 30]).expand(1, 2, 4, 4)
    shape = torch.randn(8, 3, dtype=torch.double)
    shape[:6, 0] = torch.tensor([0.3, -0.3, 0.05, 0.0, -0.2, 0.2])  # far apart, too near, on each other's sides
    shape[6:, 2] = torch.tensor([0.1, 0.0])  # the last two, who have no mirror images
    points = transform_points(pose, shape.expand(1, 2, 8, 3))
    expected = 2 * (0 + (0.4 - 0.05) + (0.4 + 0.4) + (0.4 - 0.1)) / 4  # of both views
    found = losses.mirror_separation(points, pose, 0.4)
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.double))
    expected = 2 * (0 + (0.4 - 0.05) + (0.4 + 0.4)) / 3  # one alone has nobody to be parted from
    found = losses.mirror_separation(points[..., :7, :], pose, 0.4)
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.double))


def test_mirror_separation_parts_keypoints_that_lie_on_each_other():
    pose = rigid(random_rotation(), [0.0, 0.0, 30]).expand(1, 2, 4, 4)
    points = torch.randn(1, 2, 1, 3, dtype=torch.double).repeat(1, 1, 4, 1).requires_grad_()
    along_x = pose[..., None, :3, 0] * torch.tensor([-0.5, 0.5, 0, 0])[:, None]
    along_z = pose[..., None, :3, 2] * torch.tensor([0, 0, -0.5, 0.5])[:, None]
    (slope,) = torch.autograd.grad(losses.separation(points, 0.1).sum(), points)
    torch.testing.assert_close(slope, torch.zeros_like(slope))
    (slope,) = torch.autograd.grad(losses.mirror_separation(points, pose, 0.3).sum(), points)
    torch.testing.assert_close(slope, along_x + along_z)


def test_pose_is_the_angle_between_true_and_recovered_rotation():
    rotation = random_rotation(3)
    points = torch.randn(3, 6, 3, dtype=torch.double)
    twenty = torch.tensor([math.radians(20), 0.0, 0.0], dtype=torch.double)
    tilt = torch.linalg.matrix_exp(torch.tensor([[0, 0, 0], [0, 0, -twenty[0]], [0, twenty[0], 0]], dtype=torch.double))
    pair = torch.stack([points, points @ rotation.transpose(1, 2)], dim=1)
    torch.testing.assert_close(
        losses.relative_pose(pair, tilt @ rotation), torch.full((3,), math.radians(20), dtype=torch.double)
    )


def test_pose_noise_hurts_small_configurations_more():
    torch.manual_seed(0)
    points = torch.randn(200, 1, 8, 3).expand(-1, 2, -1, -1)
    identity = torch.eye(3).expand(200, 3, 3)
    large = losses.relative_pose(points, identity, noise=0.1).mean()
    small = losses.relative_pose(points * 0.1, identity, noise=0.1).mean()
    assert 0 < large < 0.2 < small


def test_separation_by_hand():
    points = torch.zeros(1, 2, 3, 3, dtype=torch.double)
    points[0, :, 1, 0] = 0.1
    points[0, :, 2, 0] = 5.0
    hinge = 2 * (0.05 - 0.01) + 3 * 0.05  # one close pair both ways, and each point with itself
    assert losses.separation(points, 0.05).item() == pytest.approx(2 * hinge / (2 * 3))


def test_silhouette_by_hand():
    heatmaps = torch.zeros(1, 2, 1, 4, 4, dtype=torch.double)
    heatmaps[0, :, 0, 0, 0], heatmaps[0, :, 0, 3, 3] = 0.25, 0.75
    mask = torch.zeros(1, 2, 4, 4, dtype=torch.double)
    mask[0, 0, 0, 0] = 1
    mask[0, 1] = 1
    assert losses.silhouette(heatmaps, mask).item() == pytest.approx(-math.log(0.25))


def test_object_distance_by_hand():
    mask = torch.zeros(1, 2, 8, 8, dtype=torch.double)
    mask[0, :, 2:4, 1:3] = 1  # pixels whose centres span x -0.625 to -0.375 and y -0.375 to -0.125
    mask[0, :, 7, 7] = 0.4  # hardly covered
    places = torch.tensor([[-0.26, -0.01], [-0.5, -0.25], [0.625, -0.375], [-0.975, 0.275]], dtype=torch.double)
    keypoints = torch.cat([places, torch.full((4, 1), 30.0, dtype=torch.double)], dim=-1).expand(1, 2, 4, 3)
    expected = 2 * (0 + 0 + (1 - 0.125) + math.hypot(0.35 - 0.125, 0.4 - 0.125)) / 4
    assert losses.object_distance(keypoints, mask).item() == pytest.approx(expected)
    zoomed = keypoints * torch.tensor([0.5, 0.5, 1])
    zoom = torch.full((1, 2), 0.5, dtype=torch.double)
    assert losses.object_distance(zoomed, mask, zoom).item() == pytest.approx(expected)


def test_object_distance_is_that_of_the_nearest_of_all_pixels():
    mask, keypoints = (torch.rand(2, 2, 6, 6) > 0.7).double(), torch.randn(2, 2, 3, 3, dtype=torch.double)
    expected = torch.zeros(2, dtype=torch.double)
    for item, view, k in itertools.product(range(2), range(2), range(3)):
        covered = pixel_grid(6, 6, like=keypoints)[:, mask[item, view] > 0]
        away = (keypoints[item, view, k, :2, None] - covered).abs()
        expected[item] += (away[:, away.norm(dim=0).argmin()] - 1 / 6).clamp(min=0).norm() / 3
    torch.testing.assert_close(losses.object_distance(keypoints, mask), expected)


def test_object_distance_of_an_empty_view_teaches_nothing_that_is_not_finite():
    keypoints = torch.zeros(1, 2, 1, 3, requires_grad=True)
    losses.object_distance(keypoints, torch.zeros(1, 2, 8, 8)).sum().backward()
    assert keypoints.grad.isfinite().all()


def test_variance_by_hand():
    heatmaps = torch.zeros(1, 2, 1, 4, 4, dtype=torch.double)
    heatmaps[0, 0, 0, 1, 0] = heatmaps[0, 0, 0, 1, 3] = 0.5  # x = ±0.75
    heatmaps[0, 1, 0, 2, 2] = 1.0
    grid = pixel_grid(4, 4, like=heatmaps)
    uv = torch.einsum("bvnhw,dhw->bvnd", heatmaps, grid)
    keypoints = torch.cat([uv, torch.zeros_like(uv[..., :1])], dim=-1)
    assert losses.variance(heatmaps, keypoints).item() == pytest.approx(0.75**2)


def test_axis_ends_flags_and_orientation_by_hand():
    pose = rigid(torch.diag(torch.tensor([1.0, -1, -1], dtype=torch.double)), [0, 0, 30])  # seen from +z
    ends = losses.axis_end_projections(pose, INTRINSICS[0, 0], ("x", "z"))
    side = 22 / 30
    torch.testing.assert_close(ends[0], torch.tensor([[side, 0], [-side, 0]], dtype=torch.double))
    torch.testing.assert_close(ends[1], torch.zeros(2, 2, dtype=torch.double))
    assert losses.true_flags(pose, ("x", "z")).tolist() == [1, 0]
    views = ends.expand(1, 2, 2, 2, 2)
    assert losses.orientation(views, views).item() == 0
    assert losses.orientation(views + 0.1, views).item() == pytest.approx(2 * 0.01)


def test_gradients():
    torch.manual_seed(0)
    transforms = torch.stack([rigid(random_rotation(1)[0], [0, 0, 30]) for _ in range(2)])[None]
    points = torch.randn(1, 2, 4, 3, dtype=torch.double)
    keypoints = torch.cat([points[..., :2] / 2, 30 + points[..., 2:]], dim=-1).requires_grad_()
    logits = torch.randn(1, 2, 4, 3, 3, dtype=torch.double, requires_grad=True)
    mask = (torch.rand(1, 2, 3, 3) > 0.5).double()

    def soft(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(3).softmax(-1).view_as(x)

    def heatmap_variance(x: torch.Tensor) -> torch.Tensor:
        uv = torch.einsum("bvnhw,dhw->bvnd", soft(x), pixel_grid(3, 3, like=x))
        return losses.variance(soft(x), uv)

    check = torch.autograd.gradcheck
    assert check(lambda k: losses.consistency(k, transforms, INTRINSICS), keypoints)
    assert check(lambda p: losses.spatial_consistency(p, transforms[:, 0, :3, :3]), points.clone().requires_grad_())
    assert check(lambda p: losses.canonical_consistency(p, transforms), points.clone().requires_grad_())
    assert check(lambda p: losses.relative_pose(p, transforms[:, 0, :3, :3]), points.clone().requires_grad_())
    assert check(lambda p: losses.separation(p * 0.1, 0.05), points.clone().requires_grad_())
    assert check(lambda p: losses.mirror_separation(p, transforms, 0.3), points.clone().requires_grad_())
    assert check(lambda x: losses.silhouette(soft(x), mask), logits)
    assert check(lambda k: losses.object_distance(k, mask), keypoints)
    assert check(heatmap_variance, logits)
    ends = torch.randn(1, 2, 1, 2, 2, dtype=torch.double, requires_grad=True)
    assert check(lambda e: losses.orientation(e, torch.zeros_like(e)), ends)


def test_objective_weighs_every_term():
    names = ("consistency", "pose", "separation", "silhouette", "variance", "orientation")
    terms = {name: torch.full((2,), 10.0**i) for i, name in enumerate(names)}
    expected = 1 + 0.2 * 10 + 100 + 1000 + 0.5 * 1e4 + 1e5
    torch.testing.assert_close(losses.objective(terms, losses.LossWeights()), torch.full((2,), expected))


def test_labels_teach_keypoints_and_the_pair_uncertainties():
    keypoints = (torch.rand(2, 4, 3).double() + torch.tensor([0.0, 0, 30])).requires_grad_()
    sigma = (torch.rand(2, 4).double() + 0.1).requires_grad_()
    maps, ends = torch.full((2, 4, 6, 6), 1 / 36).double(), torch.zeros(2, 1, 2, 2).double()
    view = Prediction(keypoints, maps, ends, torch.ones(2, 1).double(), sigma)
    poses = rigid(random_rotation(2, 2), [0, 0, 30])
    images, labels = torch.ones(2, 2, 4, 12, 12).double(), torch.rand(2, 2, 4, 3).double()
    intrinsics, zoom = INTRINSICS.expand(2, 2, 3, 3), torch.ones(2, 2).double()
    batch = PairBatch(images, images[:, :, 3], poses, pair_transforms(poses), intrinsics, zoom, labels)
    terms = losses.pair_terms([view, view], batch, ("x",), 0.05, 0.0)
    assert set(terms) == {"supervision", "orientation", "uncertainty"}
    terms["uncertainty"].sum().backward(retain_graph=True)
    assert keypoints.grad is None and sigma.grad.abs().min() > 0
    terms["supervision"].sum().backward()
    assert keypoints.grad.abs().sum() > 0


def test_supervision_counts_the_labels_there_are():
    points = torch.zeros(1, 2, 3, 3)
    labels = torch.zeros(1, 2, 3, 3)
    labels[0, 0, 0] = torch.tensor([0.0, 0.3, 0.4])  # 0.25 over two labels
    labels[0, 0, 2] = float("nan")
    assert losses.supervision(points, labels).item() == pytest.approx(0.125)


def test_uncertainty_is_least_where_it_equals_the_residuals():
    rotation = random_rotation(1)
    first = torch.randn(1, 4, 3, dtype=torch.double)
    residual = torch.tensor([[0.1, 0, 0], [-0.1, 0, 0], [0, 0.2, 0], [0, -0.2, 0]], dtype=torch.double)
    second = first @ rotation.transpose(-1, -2) + residual + 5.0  # an offset of all does not count
    points = torch.stack([first, second], dim=1)
    variance = residual.square().sum(-1) / 3  # per coordinate
    best = (variance / 2).sqrt().expand(1, 2, 4)
    at = {factor: losses.uncertainty(points, factor * best, rotation).item() for factor in (0.8, 1.0, 1.25)}
    assert at[1.0] == pytest.approx(1.5 * (1 + variance.log().mean().item()), rel=1e-9)
    assert at[1.0] < min(at[0.8], at[1.25])


def test_pose_counts_keypoints_by_their_uncertainty():
    rotation = random_rotation(1)
    first = torch.randn(1, 6, 3, dtype=torch.double)
    second = first @ rotation.transpose(-1, -2)
    second[0, 0] += 1.0
    points = torch.stack([first, second], dim=1)
    sigma = torch.full((1, 2, 6), 0.1, dtype=torch.double)
    equal = losses.relative_pose(points, rotation)
    torch.testing.assert_close(losses.relative_pose(points, rotation, sigma=sigma), equal)
    sigma[0, 1, 0] = 100.0
    assert losses.relative_pose(points, rotation, sigma=sigma).item() < 1e-4 < equal.item()


def test_uncertainty_gradients():
    rotation = random_rotation(2)
    points = torch.randn(2, 2, 4, 3, dtype=torch.double, requires_grad=True)
    sigma = (0.1 + torch.rand(2, 2, 4, dtype=torch.double)).requires_grad_()
    assert torch.autograd.gradcheck(losses.uncertainty, (points, sigma, rotation))
    assert torch.autograd.gradcheck(lambda p, s: losses.relative_pose(p, rotation, sigma=s), (points, sigma))


def test_comparing_with_mates_is_the_mean_of_both_comparisons():
    torch.manual_seed(0)
    poses = rigid(random_rotation(4, 2), [0, 0, 30])
    views = [
        Prediction(
            keypoints=torch.randn(4, 5, 3).double() * 0.1 + torch.tensor([0, 0, 30.0]).double(),
            heatmaps=torch.rand(4, 5, 6, 6).double().flatten(2).softmax(-1).view(4, 5, 6, 6),
            axis_ends=torch.randn(4, 1, 2, 2).double(),
            flags=torch.ones(4, 1).double(),
            sigma=torch.rand(4, 5).double() + 0.1,
        )
        for _ in range(2)
    ]
    mates, mask = torch.tensor([1, 0, 2, 3]), torch.ones(4, 2, 12, 12).double()
    intrinsics, zoom = INTRINSICS.expand(4, 2, 3, 3), torch.ones(4, 2).double()
    images = mask.unsqueeze(2).expand(-1, -1, 4, -1, -1)

    def terms(views, poses, mates=None):
        transforms = pair_transforms(losses.with_mates(poses, mates))
        batch = PairBatch(images, mask, poses, transforms, intrinsics, zoom, mates=mates)
        return losses.pair_terms(views, batch, ("x",), 0.05, 0.0, on_object=True)

    second = Prediction(**{name: values[mates] for name, values in vars(views[1]).items()})
    alone = terms(views, poses)
    across = terms([views[0], second], torch.stack([poses[:, 0], poses[mates, 1]], dim=1))
    both = terms(views, poses, mates)
    for name in ("consistency", "spatial_consistency", "pose", "uncertainty"):
        torch.testing.assert_close(both[name], (alone[name] + across[name]) / 2)
        assert not torch.allclose(both[name][:2], alone[name][:2])
    for name in ("canonical_consistency", "separation", "silhouette", "object_distance", "variance", "orientation"):
        torch.testing.assert_close(both[name], alone[name])
