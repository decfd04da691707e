import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.errors import UserError
from train.api import detect, load
from train.config import make_config
from train.detector import Detector, build_network, save_config, save_weights
from train.eval import onnx_export
from train.eval.onnx_export import export_onnx

onnxruntime = pytest.importorskip("onnxruntime")
SIZE = 32


def make_run(folder, preset):
    torch.manual_seed(0)
    config = make_config(preset, width=4, keypoints=6, image_size=SIZE)
    folder.mkdir()
    save_config(config, folder)
    network = build_network(config)
    for module in network.modules():  # statistics of a network that has seen something
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2)
    for name, parameter in network.named_parameters():  # and puts its keypoints apart
        if name.endswith("head.weight"):
            parameter.data *= 30
    save_weights(network, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("preset", ["cpu", "paper"])
def test_onnxruntime_agrees_with_the_detector_for_any_batch(preset, tmp_path):
    run = make_run(tmp_path / "run", preset)
    assert export_onnx(run, tmp_path / "model.onnx") < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    detector = Detector.load(run)
    rgba = np.random.default_rng(0).integers(0, 256, (3, detector.image_size, detector.image_size, 4), np.uint8)
    rgba[:, :5] = rgba[:, :, :7] = 0  # objects that do not fill the image
    rgba[..., :3] = rgba[..., :3] // 2 * (rgba[..., 3:] > 127)
    expected = detector.detect(rgba)
    for batch in (1, 3):
        image = (rgba[:batch] / 255).astype(np.float32).transpose(0, 3, 1, 2)
        keypoints, heatmaps, axis_ends, flags, *sigma = session.run(None, {"image": image})
        assert np.allclose(keypoints, expected.keypoints[:batch], atol=1e-3)
        assert np.allclose(heatmaps, expected.heatmaps[:batch], atol=1e-5)
        assert np.allclose(axis_ends, expected.axis_ends[:batch], atol=1e-3)
        assert np.array_equal(flags.astype(bool), expected.flags[:batch])
        assert len(sigma) == (preset == "cpu") and all(np.allclose(s, expected.sigma[:batch], rtol=1e-3) for s in sigma)


def test_metadata_tell_a_consumer_what_it_needs(tmp_path):
    run = make_run(tmp_path / "run", "paper")
    export_onnx(run, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert about["keypoints"] == "6" and about["image_size"] == str(SIZE)
    assert json.loads(about["orientation_axes"]) == ["x"]
    assert json.loads(about["camera"])["distance"] == 30
    assert json.loads(about["camera"])["focal_length"] == pytest.approx(11.4519)
    described = json.loads(about["conventions"])
    assert {entry.name for entry in session.get_inputs() + session.get_outputs()} <= set(described)
    assert session.get_inputs()[0].shape == ["batch", 4, SIZE, SIZE]


def test_the_documented_consumer_finds_the_detectors_keypoints(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", "cpu")
    export_onnx(run, tmp_path / "detector.onnx")
    rgba = np.zeros((2 * SIZE, 2 * SIZE, 4), np.uint8)
    rgba[4:44, 16:60] = np.random.default_rng(0).integers(40, 256, (40, 44, 4), np.uint8)
    Image.fromarray(rgba).save(tmp_path / "view.png")
    program = re.search(r"```python\n(.*?)```", (Path(__file__).parents[1] / "docs/onnx.md").read_text(), re.DOTALL)[1]
    assert len(program.strip().splitlines()) <= 20
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(program, names)  # noqa: S102
    expected = detect(load(run), rgba).points
    assert (expected.std(0) > 0.02).all() and abs(expected.mean(0)[0] - expected.mean(0)[1]) > 0.2
    assert np.abs(names["points"] - expected).max() < 1e-3


def test_no_other_file_is_written_over(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"precious")
    with pytest.raises(UserError, match="picture.png: give a name that ends in .onnx"):
        export_onnx("airplane", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes() == b"precious"


def test_nothing_is_left_when_the_runtimes_disagree(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", "paper")
    monkeypatch.setattr(onnx_export, "compare", lambda *_: float("nan"))
    with pytest.raises(UserError, match="differs from PyTorch"):
        export_onnx(run, tmp_path / "model.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
