"""The detector: run folders, results that do not depend on the batch, refusals."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from data.errors import UserError
from train.config import make_config
from train.detector import Detector, build_network, save_config, save_weights


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


def test_detections(run):
    found = Detector.load(run).detect(random_images(3, size=128))
    assert found.keypoints.shape == (3, 5, 3) and found.keypoints.dtype == np.float32
    assert ((found.keypoints[..., :2] > 0) & (found.keypoints[..., :2] < 128)).all()
    np.testing.assert_allclose(found.heatmaps.sum((2, 3)), 1, rtol=1e-5)
    assert found.axis_ends.shape == (3, 2, 2, 2) and found.flags.shape == (3, 2) and found.flags.dtype == bool
    # a keypoint is the mean of its heat map, in pixels; that was resampled
    side = found.heatmaps.shape[-1]
    u = (np.arange(side) + 0.5) * 128 / side
    np.testing.assert_allclose(found.keypoints[..., 0], found.heatmaps.sum(2) @ u, atol=1)
    right = found.axis_ends[..., 0, 0] > found.axis_ends[..., 1, 0]
    assert (right == found.flags).all()


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
