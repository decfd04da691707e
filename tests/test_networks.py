"""Networks: shapes, soft-argmax, flags and the presets' sizes."""

import pytest
import torch

from train.config import PRESETS, make_config
from train.detector import build_network
from train.networks import (
    CompactNetwork,
    PaperNetwork,
    Prediction,
    expectation,
    flag_combination,
    flags_from_axis_ends,
    mirror_axis_ends,
    mirror_flags,
    mirror_permutation,
    pixel_grid,
    spatial_softmax,
)


def test_pixel_grid_holds_centres_from_corner_to_corner():
    grid = pixel_grid(2, 4, like=torch.zeros(1))
    torch.testing.assert_close(grid[0], torch.tensor([[-0.75, -0.25, 0.25, 0.75]]).expand(2, 4))
    torch.testing.assert_close(grid[1], torch.tensor([[-0.5], [0.5]]).expand(2, 4))


def test_soft_argmax_finds_a_peak():
    logits = torch.zeros(1, 2, 8, 8)
    logits[0, 0, 1, 6] = logits[0, 1, 7, 0] = 50.0
    heatmaps = spatial_softmax(logits)
    torch.testing.assert_close(heatmaps.sum((2, 3)), torch.ones(1, 2))
    uv = expectation(heatmaps, pixel_grid(8, 8, like=heatmaps))
    torch.testing.assert_close(uv[0], torch.tensor([[0.625, -0.625], [-0.875, 0.875]]))


def test_flags_and_their_combination():
    ends = torch.tensor([[[[0.3, 9.0], [0.1, 0.0]], [[-0.2, 0.0], [0.2, 0.0]]]])
    assert flags_from_axis_ends(ends).tolist() == [[1.0, 0.0]]
    combinations = flag_combination(torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]))
    assert combinations.sum(1).tolist() == [1.0] * 4
    assert len(set(combinations.argmax(1).tolist())) == 4


@pytest.mark.parametrize("network", [PaperNetwork(7, width=4), CompactNetwork(7, width=8)], ids=["paper", "compact"])
def test_prediction_shapes_and_training_gradients(network):
    size = 96
    images = torch.rand(3, network.in_channels, size, size)
    axes = len(network.axes)
    found = network(images)
    side = size if isinstance(network, PaperNetwork) else size // 4
    assert found.keypoints.shape == (3, 7, 3)
    assert found.heatmaps.shape == (3, 7, side, side)
    assert found.axis_ends.shape == (3, axes, 2, 2)
    torch.testing.assert_close(found.heatmaps.sum((2, 3)), torch.ones(3, 7))
    outputs = [found.keypoints, found.heatmaps, found.axis_ends, *([found.sigma] if network.predicts_sigma else [])]
    sum(output.square().sum() for output in outputs).backward()
    missing = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


def test_true_flags_win_until_the_prediction_has_half_the_weight():
    network = CompactNetwork(2, width=8).eval()
    images = torch.rand(4, 4, 96, 96)
    predicted = network(images).flags
    opposite = 1 - predicted
    assert torch.equal(network(images, opposite, anneal=0.6).flags, opposite)
    assert torch.equal(network(images, opposite, anneal=0.4).flags, predicted)


def test_flags_change_the_keypoints():
    network = CompactNetwork(2, width=8).eval()
    images = torch.rand(1, 4, 96, 96)
    points = [network(images, torch.tensor([flags]), 1.0).keypoints for flags in ([0.0, 0.0], [0.0, 1.0], [1.0, 0.0])]
    assert not torch.allclose(points[0], points[1]) and not torch.allclose(points[0], points[2])


def test_bfloat16_convolutions_keep_float32_results():
    torch.manual_seed(0)
    network = CompactNetwork(6, width=8).eval()
    network.head.weight.data *= 40  # an untrained network has all its keypoints in one place
    images = torch.rand(4, 4, 96, 96)
    reference = network(images)
    network.bfloat16 = True
    found = network(images)
    assert found.keypoints.dtype == found.heatmaps.dtype == torch.float32
    error, spread = (found.keypoints - reference.keypoints).abs().amax((0, 1)), reference.keypoints.std((0, 1))
    assert (error > 0).all() and (error < 0.1 * spread).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_build(preset):
    config = make_config(preset)
    network = build_network(config)
    images = torch.rand(1, network.in_channels, config.image_size, config.image_size)
    assert network.eval()(images).keypoints.shape == (1, config.keypoints, 3)


def assert_mirror_images(found: Prediction, mirrored: Prediction, axes: tuple[str, ...]) -> None:
    for name, value in vars(mirrored.mirror(axes)).items():
        torch.testing.assert_close(getattr(found, name), value, atol=1e-4, rtol=1e-4, msg=name)


def test_mirror_permutation():
    assert mirror_permutation(1) == [0] and mirror_permutation(2) == [0, 1] and mirror_permutation(3) == [1, 0, 2]
    assert mirror_permutation(10) == [1, 0, 3, 2, 5, 4, 7, 6, 8, 9]


def test_mirroring_twice_changes_nothing():
    network = CompactNetwork(5, width=8)
    found = network(torch.rand(2, 4, 96, 96))
    mirrored = found.mirror(network.axes)
    assert not torch.allclose(found.keypoints, mirrored.keypoints)
    assert_mirror_images(found, mirrored, network.axes)


def test_evaluation_says_the_mirror_image_of_a_mirror_image():
    images = torch.rand(2, 4, 96, 96)
    zoom = torch.tensor([0.5, 0.7])
    network = CompactNetwork(5, width=8, mirror=True).eval()
    assert_mirror_images(network(images, zoom=zoom), network(images.flip(-1), zoom=zoom), network.axes)
    network.mirror = False
    assert not torch.allclose(network(images).axis_ends, network(images.flip(-1)).mirror(network.axes).axis_ends)


def test_mirrored_views_of_a_batch():
    """The network sees the mirror image of the chosen ones, with that one's flags, and its answer is mirrored back."""
    network = CompactNetwork(5, width=8).eval()
    images, flags = torch.rand(4, 4, 96, 96), torch.tensor([[0.0, 1], [1, 0], [1, 1], [0, 0]])
    mirrored = torch.tensor([True, False, True, False])
    found = network(images, flags, 1.0, mirrored=mirrored)
    assert torch.equal(found.flags, flags)
    torch.testing.assert_close(found.keypoints[1::2], network(images, flags, 1.0).keypoints[1::2])
    other = network(images.flip(-1), mirror_flags(flags, network.axes), 1.0).mirror(network.axes)
    torch.testing.assert_close(found.keypoints[::2], other.keypoints[::2])
    torch.testing.assert_close(found.heatmaps[::2], other.heatmaps[::2])


def test_flags_of_a_mirror_image():
    """Of a mirrored object the + end of x is where the − end was; other axes stay with their ends."""
    ends = torch.tensor([[[[0.5, 0.1], [-0.5, 0.2]], [[0.3, 0.0], [-0.3, 0.0]]]])
    axes = ("x", "z")
    mirrored = mirror_axis_ends(ends, axes)
    torch.testing.assert_close(mirrored[0, 0], torch.tensor([[0.5, 0.2], [-0.5, 0.1]]))
    torch.testing.assert_close(mirrored[0, 1], torch.tensor([[-0.3, 0.0], [0.3, 0.0]]))
    assert torch.equal(flags_from_axis_ends(mirrored), mirror_flags(flags_from_axis_ends(ends), axes))


def test_zoom_scales_what_is_seen():
    network = CompactNetwork(3, width=8, camera_distance=20).eval()
    images, zoom = torch.rand(2, 4, 96, 96), torch.tensor([0.5, 0.25])
    whole, part = network(images), network(images, zoom=zoom)
    torch.testing.assert_close(part.keypoints[..., :2], whole.keypoints[..., :2] * zoom[:, None, None])
    torch.testing.assert_close(
        part.keypoints[..., 2] - 20, (whole.keypoints[..., 2] - 20) * zoom[:, None], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(part.sigma, whole.sigma * zoom[:, None])
    assert torch.equal(part.axis_ends, whole.axis_ends)


def test_uncertainty_of_the_mean_of_two_looks():
    network = CompactNetwork(4, width=8).eval()
    images = torch.rand(2, 4, 96, 96)
    network.mirror = True
    merged = network(images)
    network.mirror = False
    as_is = network(images, merged.flags, 1.0)
    mirrored = network(images.flip(-1), mirror_flags(merged.flags, network.axes), 1.0).mirror(network.axes)
    mean = as_is.merge(mirrored, torch.full((2,), 0.5)).sigma
    torch.testing.assert_close(merged.sigma, mean / 2**0.5)


def test_uncertainty_has_bounds_and_can_be_left_out():
    network = CompactNetwork(2, width=8).eval()
    with torch.no_grad():
        network.head.bias[4:] = torch.tensor([1e4, -1e4])
    sigma = network(torch.rand(1, 4, 96, 96)).sigma[0]
    torch.testing.assert_close(sigma[0] / sigma[1], torch.tensor(8.0).exp())
    assert build_network(make_config("cpu", width=8)).predicts_sigma
    assert not build_network(make_config("cpu", {"uncertainty": 0.0}, width=8)).predicts_sigma
    assert CompactNetwork(2, width=8, predicts_sigma=False)(torch.rand(2, 4, 96, 96)).sigma is None
    assert PaperNetwork(3, width=4).eval()(torch.rand(2, 3, 16, 16)).sigma is None
