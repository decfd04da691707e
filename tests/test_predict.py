import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from data.errors import UserError
from train.detector import Detections
from train.eval import predict as predict_module
from train.eval.predict import OBJECT_SHARE, load_image, predict, premultiply, remove_background

SIZE = 64


class BoxDetector:
    """Keypoints 0 and 1: top-left and bottom-right corner of what it is shown."""

    image_size = SIZE
    config = SimpleNamespace(axes=("x",), camera_distance=30.0)

    def detect(self, rgba, intrinsics=None):
        solid = rgba[0, ..., 3] > 127
        rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
        corners = [[columns[0], rows[0], 30.0], [columns[-1] + 1, rows[-1] + 1, 30.0]]
        heatmaps, ends, flags = np.ones((1, 2, 4, 4)) / 16, np.zeros((1, 1, 2, 2)), np.ones((1, 1), bool)
        return Detections(np.float32([corners]), heatmaps, ends, flags)


@pytest.fixture(autouse=True)
def detector(monkeypatch):
    monkeypatch.setattr(predict_module.Detector, "load", lambda run, device="cpu": BoxDetector())


def painted(width, height, box, background=(0, 0, 0, 0), color=(200, 120, 40, 255)):
    left, top, right, bottom = box
    image = np.full((height, width, 4), background, np.uint8)
    image[top:bottom, left:right] = color
    return image


def write(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


CASES = {
    "as_given.png": painted(64, 64, (10, 20, 54, 40)),
    "larger_view.png": painted(256, 256, (40, 80, 216, 170)),
    "wide.png": painted(640, 360, (100, 40, 220, 330)),
    "tall_at_the_rim.png": painted(300, 700, (0, 500, 200, 700)),
    "tiny_object.png": painted(1000, 800, (700, 100, 722, 130)),
    "on_white.png": painted(400, 300, (50, 60, 250, 180), background=(255, 255, 255, 255))[..., :3],
    "photo.jpg": painted(400, 300, (56, 64, 248, 176), background=(30, 90, 40, 255))[..., :3],
    "opaque_alpha.png": painted(400, 300, (50, 60, 250, 180), background=(255, 255, 255, 255)),
    "small.png": painted(20, 12, (4, 2, 16, 10)),
}


@pytest.mark.parametrize("name", CASES)
def test_keypoints_come_back_in_pixels_of_the_image(name, tmp_path):
    pixels = CASES[name]
    path = write(tmp_path / name, pixels)
    (result,) = predict("run", [path], tmp_path / "out")
    painted_here = np.abs(pixels[..., :3].astype(int) - (200, 120, 40)).max(-1) == 0
    rows, columns = np.flatnonzero(painted_here.any(1)), np.flatnonzero(painted_here.any(0))
    corners = [[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]]
    one_cell = max(result["square"][2] / SIZE, 1)
    assert np.abs(np.array(result["keypoints"])[:, :2] - corners).max() <= one_cell
    assert result["keypoints"][0][2] == 30
    assert (result["width"], result["height"]) == (pixels.shape[1], pixels.shape[0])


def test_training_views_are_taken_as_they_are(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8)
    pixels[:12], pixels[-12:], pixels[:, :12], pixels[:, -12:] = 0, 0, 0, 0
    framed = load_image(write(tmp_path / "view.png", pixels), 32)
    assert framed.framing == "as given" and framed.box == (0, 0, 64)
    assert np.array_equal(framed.rgba, premultiply(pixels))


def test_other_images_are_framed_like_training_views(tmp_path):
    framed = load_image(write(tmp_path / "wide.png", CASES["wide.png"]), SIZE)
    assert framed.framing == "cut out" and framed.mask == "alpha"
    rows = np.flatnonzero((framed.rgba[..., 3] > 127).any(1))
    assert (rows[-1] + 1 - rows[0]) / SIZE == pytest.approx(OBJECT_SHARE, abs=2 / SIZE)
    assert rows[0] + rows[-1] + 1 == pytest.approx(SIZE, abs=2)


def test_what_is_known_of_the_background_is_told(tmp_path, capfd):
    busy = np.random.default_rng(0).integers(0, 256, (50, 80, 3), np.uint8)
    paths = [write(tmp_path / "busy.png", busy)]
    paths += [write(tmp_path / name, CASES[name]) for name in ("wide.png", "on_white.png", "opaque_alpha.png")]
    results = predict("run", paths, tmp_path / "out")
    assert [r["mask"] for r in results] == ["none", "alpha", "uniform background", "uniform background"]
    assert [bool(r["warning"]) for r in results] == [True, False, True, True]
    assert "busy.png: no alpha" in capfd.readouterr().err


def test_background_is_removed_only_where_it_meets_the_border():
    rgb = np.full((80, 100, 3), 250, np.uint8)
    rgb[20:60, 30:70] = (180, 20, 20)
    rgb[35:45, 45:55] = 250  # a white patch within
    rgba = remove_background(rgb)
    assert rgba[5, 5].tolist() == [0, 0, 0, 0]
    assert rgba[22, 32].tolist() == [180, 20, 20, 255]
    assert rgba[40, 50].tolist() == [250, 250, 250, 255]


def test_soft_rims_keep_no_trace_of_the_background():
    rgb = np.full((40, 40, 3), 255, np.uint8)
    rgb[10:30, 10:30] = 0
    rgb[9, 10:30] = 245  # a little of the black object
    rgba = remove_background(rgb)
    assert 0 < rgba[9, 20, 3] < 255 and rgba[9, 20, :3].max() <= rgba[9, 20, 3]
    noisy = np.clip(rgb + np.random.default_rng(0).normal(0, 2, rgb.shape), 0, 255).astype(np.uint8)
    assert (remove_background(noisy)[..., 3] > 127).sum() == pytest.approx(400, abs=25)


def test_nothing_but_background_or_no_clear_background():
    assert remove_background(np.full((30, 30, 3), 128, np.uint8)) is None
    gradient = np.broadcast_to(np.arange(0, 250, 5, dtype=np.uint8)[:, None, None], (50, 50, 3))
    assert remove_background(gradient) is None


def test_straight_alpha_is_premultiplied():
    assert premultiply(np.array([[[200, 100, 0, 128]]], np.uint8)).tolist() == [[[100, 50, 0, 128]]]


def test_bad_files_are_named_and_the_rest_goes_on(tmp_path, capfd):
    good = write(tmp_path / "good.png", CASES["wide.png"])
    text = tmp_path / "text.png"
    text.write_text("no image")
    cut = tmp_path / "cut.png"
    cut.write_bytes(good.read_bytes()[:100])
    empty = write(tmp_path / "empty.png", np.zeros((9, 9, 4), np.uint8))
    missing = tmp_path / "missing.png"
    with pytest.raises(UserError, match="4 of 5 images"):
        predict("run", [text, cut, good, empty, missing], tmp_path / "out")
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert [path.name in line for path, line in zip((text, cut, empty, missing), lines, strict=True)] == [True] * 4
    document = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [image["file"] for image in document["images"]] == [str(good)]
    assert [failure["file"] for failure in document["failures"]] == [str(p) for p in (text, cut, empty, missing)]


def test_overlays_keep_apart_files_of_one_name(tmp_path):
    paths = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        paths.append(write(tmp_path / name / "x.png", CASES["wide.png"]))
    results = predict("run", paths, tmp_path / "out")
    assert [r["overlay"] for r in results] == ["x.png", "x-2.png"]
    with Image.open(tmp_path / "out" / "x-2.png") as overlay:
        assert overlay.size == (640, 360)  # its object is large enough


def test_palette_and_exif_orientation(tmp_path):
    palette = Image.fromarray(CASES["wide.png"]).quantize(8)
    palette.save(tmp_path / "palette.png")
    assert load_image(tmp_path / "palette.png", SIZE).picture.shape == (360, 640, 4)
    turned = Image.fromarray(CASES["photo.jpg"])
    exif = turned.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert load_image(tmp_path / "turned.jpg", SIZE).picture.shape == (400, 300, 4)


def test_overlays_are_readable_and_not_huge(tmp_path):
    paths = [write(tmp_path / name, CASES[name]) for name in ("small.png", "tiny_object.png")]
    paths.append(write(tmp_path / "huge.png", painted(3000, 2000, (100, 100, 1900, 1900))))
    predict("run", paths, tmp_path / "out")
    sizes = [max(Image.open(tmp_path / "out" / path.name).size) for path in paths]
    assert sizes[0] >= 320 and sizes[1] == 1600 and sizes[2] == 1600
