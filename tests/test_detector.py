"""The detector: run folders, results that do not depend on the batch, refusals."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from data.errors import UserError
from train.config import make_config
from train.detector import Detector, build_network, save_config, save_weights
from train.networks import KeypointNetwork, pixel_grid


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    config = make_config("cpu", width=8, keypoints=5)
    network = build_network(config).eval()
    save_config(config, folder)
    save_weights(network, folder / "model.safetensors")
    return folder


def random_images(count: int, size: int = 64) -> np.ndarray:
    rgba = np.random.default_rng(0).integers(0, 256, (count, size, size, 4)).astype(np.uint8)
    rgba[..., :3] = np.minimum(rgba[..., :3], rgba[..., 3:])
    return rgba


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_said_in_one_line():
    with pytest.raises(UserError, match="no GPU here: use --device cpu"):
        Detector.load("airplane", "cuda")


def test_detections(run):
    found = Detector.load(run).detect(random_images(3, size=128))
    assert found.keypoints.shape == (3, 5, 3) and found.keypoints.dtype == np.float32
    assert ((found.keypoints[..., :2] > 0) & (found.keypoints[..., :2] < 128)).all()
    np.testing.assert_allclose(found.heatmaps.sum((2, 3)), 1, rtol=1e-5)
    assert found.axis_ends.shape == (3, 2, 2, 2) and found.flags.shape == (3, 2) and found.flags.dtype == bool
    right = found.axis_ends[..., 0, 0] > found.axis_ends[..., 1, 0]
    assert (right == found.flags).all()
    alone = Detector.load(run).detect(random_images(3, size=128)[0])
    np.testing.assert_array_equal(alone.keypoints, found.keypoints[0])


class Fixed(KeypointNetwork):
    """Finds the same in whatever it is shown: three narrow bumps, at these places and depths towards the camera."""

    in_channels = 4
    PLACES = torch.tensor([[-0.5, -0.4], [0.5, -0.2], [0.1, 0.6]])
    DEPTHS = torch.tensor([0.4, -0.8, 2.0])
    ENDS = torch.tensor([[[0.3, -0.1], [-0.2, 0.15]]])

    def encode(self, images):
        return images, self.ENDS.expand(len(images), -1, -1, -1)

    def decode(self, features, flags):
        distance = pixel_grid(24, 24, features) - self.PLACES[:, :, None, None]
        maps = torch.stack([-50 * distance.square().sum(1), self.DEPTHS[:, None, None].expand(-1, 24, 24)])
        return tuple(maps.unsqueeze(1).expand(-1, len(features), -1, -1, -1))


@pytest.mark.parametrize("margin", [1.25, 0.0])
def test_what_is_found_about_an_object_is_told_in_the_whole_image(margin):
    rgba = np.zeros((2, 128, 128, 4), np.uint8)
    rgba[0, 20:40, 76:108] = rgba[1, 70:118, 10:50] = 255
    squares = np.array([[92, 30, 40], [30, 94, 60]] if margin else [[64, 64, 128]] * 2)  # centre and side, pixels
    found = Detector(Fixed(3, 30.0, ("x",)), make_config("cpu", keypoints=3, margin=margin)).detect(rgba)
    for (x, y, side), keypoints, heatmaps, ends in zip(squares, found.keypoints, found.heatmaps, found.axis_ends):
        places = Fixed.PLACES.numpy() * side / 2 + (x, y)
        np.testing.assert_allclose(keypoints[:, :2], places, atol=0.1)
        np.testing.assert_allclose(keypoints[:, 2], 30 - Fixed.DEPTHS.numpy() * side / 128, atol=1e-4)
        np.testing.assert_allclose(ends[0], Fixed.ENDS[0].numpy() * 64 + (x, y), atol=1e-4)
        centers = (np.arange(heatmaps.shape[-1]) + 0.5) * 128 / heatmaps.shape[-1]
        means = np.stack([heatmaps.sum(1) @ centers, heatmaps.sum(2) @ centers], axis=1)
        np.testing.assert_allclose(means, places, atol=0.2)  # the maps were resampled


def test_results_do_not_depend_on_the_batch(run):
    detector = Detector.load(run)
    images = random_images(70)
    whole = detector.detect(images)
    for part in (slice(0, 1), slice(3, 30), slice(60, 70)):
        for name in ("keypoints", "heatmaps", "axis_ends", "flags"):
            assert np.array_equal(getattr(detector.detect(images[part]), name), getattr(whole, name)[part]), name


def test_missing_run_names_what_to_do(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        Detector.load(tmp_path / "nowhere")


@pytest.mark.parametrize("damage", ["truncated", "not numbers", "other network", "missing"])
def test_unusable_weights_get_one_clear_line(run, tmp_path, damage):
    save_config(make_config("cpu", width=8, keypoints=6 if damage == "other network" else 5), tmp_path)
    if damage != "missing":
        content = bytearray((run / "model.safetensors").read_bytes())
        if damage == "not numbers":
            content[-64:] = b"\xff" * 64
        (tmp_path / "model.safetensors").write_bytes(content[: len(content) // (2 if damage == "truncated" else 1)])
    with pytest.raises(UserError, match="model.safetensors") as error:
        Detector.load(tmp_path)
    assert "\n" not in str(error.value)


def test_unreadable_settings_get_one_clear_line(run, tmp_path):
    settings = dataclasses.asdict(make_config("cpu"))
    for text in ('{"speed": 3}', json.dumps({**settings, "keypoints": "x"}), json.dumps({**settings, "keypoints": 1})):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match="config.json: not the settings of a training run"):
            Detector.load(tmp_path)
