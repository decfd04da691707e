import csv
import errno
import io
import json
import os
import struct
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from data.errors import UserError
from train.detector import Detections
from train.eval import framing
from train.eval import predict as predict_module
from train.eval.framing import (
    OBJECT_SHARE,
    frame_image,
    open_image,
    premultiply,
    remove_background,
    resample_square,
)  # fmt: skip
from train.eval.inputs import expand, read_images
from train.eval.predict import PredictOptions, predict

SIZE = 64


class BoxDetector:
    """Keypoints 0 and 1: top-left and bottom-right corner of what it is shown."""

    image_size, num_keypoints = SIZE, 2
    sigma = None  # what it says of every keypoint, object units
    config = SimpleNamespace(axes=("x",), camera_distance=30.0, focal_length=11.4519)

    def detect(self, rgba):
        corners = []
        for image in rgba:
            solid = image[..., 3] > 127
            rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
            corners.append([[columns[0], rows[0], 30.0], [columns[-1] + 1, rows[-1] + 1, 30.0]])
        n = len(rgba)
        heatmaps, ends, flags = np.ones((n, 2, 4, 4)) / 16, np.zeros((n, 1, 2, 2)), np.ones((n, 1), bool)
        sigma = None if self.sigma is None else np.full((n, 2), np.float32(self.sigma))
        return Detections(np.float32(corners), heatmaps, ends, flags, sigma)


def load_image(path, size):
    return frame_image(open_image(path), size, name=str(path))


@pytest.fixture(autouse=True)
def detector(monkeypatch):
    box_detector = BoxDetector()
    monkeypatch.setattr(predict_module.Detector, "load", lambda run, device="cpu": box_detector)
    return box_detector


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


def test_an_object_that_is_small_in_a_larger_image_keeps_its_detail():
    half = Image.fromarray(painted(SIZE, SIZE, (16, 20, 48, 40)))
    larger = Image.fromarray(painted(4 * SIZE, 4 * SIZE, (64, 80, 192, 160)))
    assert frame_image(half, SIZE).framing == "as given"
    assert frame_image(larger, SIZE).framing == "cut out"
    assert frame_image(larger, SIZE, own_camera=True).framing == "as given"
    far_away = Image.fromarray(painted(4 * SIZE, 4 * SIZE, (100, 100, 120, 120)))
    assert frame_image(far_away, SIZE, own_camera=True).framing == "cut out"
    assert frame_image(far_away, SIZE, size_in_view=0.3, own_camera=True).framing == "as given"  # by a wide view


def test_other_images_are_framed_like_training_views(tmp_path):
    framed = load_image(write(tmp_path / "wide.png", CASES["wide.png"]), SIZE)
    assert framed.framing == "cut out" and framed.mask == "alpha"
    rows = np.flatnonzero((framed.rgba[..., 3] > 127).any(1))
    assert (rows[-1] + 1 - rows[0]) / SIZE == pytest.approx(OBJECT_SHARE, abs=2 / SIZE)
    assert rows[0] + rows[-1] + 1 == pytest.approx(SIZE, abs=2)


@pytest.mark.parametrize("focal", [5.7, 19.1])
def test_images_are_framed_like_the_views_of_the_detectors_own_camera(tmp_path, detector, focal):
    detector.config = SimpleNamespace(**{**vars(detector.config), "focal_length": focal})
    path = write(tmp_path / "wide.png", CASES["wide.png"])
    (result,) = predict("run", [path], tmp_path / "out", options=PredictOptions(intrinsics=(5000, 5000, 320, 180)))
    side = result["square"][2]
    assert 290 / side == pytest.approx(min(OBJECT_SHARE * focal / 11.4519, 0.95), rel=0.01)
    distance = np.mean(result["points"], axis=0)[2]
    assert distance == pytest.approx(30 * 5000 / focal / side, rel=0.01)
    view = write(tmp_path / "view.png", painted(64, 64, (24, 24, 40, 40)))  # a quarter of the side
    (result,) = predict("run", [view], tmp_path / "out")
    assert result["framing"] == ("as given" if focal < 11 else "cut out")


@pytest.mark.parametrize("size, speck", [(300, 1), (3000, 9)])
@pytest.mark.parametrize("background", [(0, 0, 0, 0), (255, 255, 255, 255)])
def test_specks_beside_the_object_change_nothing(size, speck, background):
    pixels = painted(size, size * 3 // 4, (size // 2, size // 4, size * 3 // 4, size // 2), background)
    pixels[size // 4 - size // 50 : size // 2, size * 3 // 5 : size * 3 // 5 + speck] = (200, 120, 40, 255)  # an aerial
    clean = frame_image(Image.fromarray(pixels), SIZE)
    pixels[5 : 5 + speck, 5 : 5 + speck] = (90, 90, 90, 255)
    dusty = frame_image(Image.fromarray(pixels), SIZE)
    assert dusty.box == clean.box
    np.testing.assert_array_equal(dusty.rgba, clean.rgba)
    assert (clean.picture[size // 4 - 1, :, 3] > 0).any()  # what sticks out of the object is no speck


def test_parts_of_an_object_that_stand_apart_are_kept():
    pixels = painted(400, 300, (50, 60, 250, 180))
    pixels[200:215, 100:120] = (200, 120, 40, 255)  # 1.25 % of the area
    assert (frame_image(Image.fromarray(pixels), SIZE).picture[200:215, 100:120, 3] == 255).all()


def test_a_haze_is_no_object():
    pixels = painted(400, 400, (40, 20, 70, 50))
    clean = frame_image(Image.fromarray(pixels), SIZE)
    pixels[150:, :, 3] = 2
    hazy = frame_image(Image.fromarray(pixels), SIZE)
    assert (hazy.picture[20:50, 40:70, 3] == 255).all() and hazy.box == clean.box


def test_what_is_taken_whole_is_opaque():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 60, 4), np.uint8)
    pixels[..., 3] = 120
    framed = frame_image(Image.fromarray(pixels), SIZE)
    assert framed.mask == "none" and (framed.picture[..., 3] == 255).all()


def test_a_few_pixels_that_are_not_quite_opaque_hide_nothing():
    pixels = CASES["opaque_alpha.png"].copy()
    expected = frame_image(Image.fromarray(pixels), SIZE)
    pixels[0, 0, 3], pixels[100, 100, 3], pixels[200, 7, 3] = 254, 128, 0
    framed = frame_image(Image.fromarray(pixels), SIZE)
    assert framed.mask == expected.mask == "background" and framed.box == expected.box


def test_an_object_in_a_corner_is_cut_out(tmp_path):
    framed = load_image(write(tmp_path / "view.png", painted(64, 64, (0, 0, 30, 30))), SIZE)
    assert framed.framing == "cut out" and framed.box[:2] == (15 - framed.box[2] / 2,) * 2


@pytest.mark.parametrize("box", [(-30.5, -241.2, 512.3), (10.0, 5.0, 20.0), (-3.0, -2.0, 40.7)])
def test_a_square_is_resampled_as_if_padded_at_once(box, monkeypatch):
    monkeypatch.setattr(framing, "ROWS_AT_ONCE", 7)
    picture = np.random.default_rng(0).integers(0, 256, (30, 450, 4), np.uint8)
    left, top, side = box
    whole = np.zeros((1000, 1500, 4), np.uint8)
    whole[400:430, 500:950] = picture
    inner = (500 + left, 400 + top, 500 + left + side, 400 + top + side)
    kind = Image.Resampling.BOX if side >= 32 else Image.Resampling.BILINEAR
    crop = tuple(np.array([*np.floor(inner[:2]), *np.ceil(inner[2:])], int))
    within = tuple(np.subtract(inner, crop[:2] * 2))
    expected = [Image.fromarray(whole[..., c]).crop(crop).resize((32, 32), kind, within) for c in range(4)]
    np.testing.assert_array_equal(resample_square(picture, box, 32), np.stack(expected, axis=-1))


@pytest.mark.parametrize("width, height", [(2**15, 4), (4, 2**15)])
def test_a_long_strip_does_not_fill_the_memory(tmp_path, width, height):
    strip = painted(width, height, (0, 0, width, height))
    tracemalloc.start()
    try:
        load_image(write(tmp_path / "strip.png", strip), SIZE)
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20  # its square would take 8 GiB
    finally:
        tracemalloc.stop()


def test_what_is_known_of_the_background_is_told(tmp_path, capfd):
    busy = np.random.default_rng(0).integers(0, 256, (50, 80, 3), np.uint8)
    paths = [write(tmp_path / "busy.png", busy)]
    paths += [write(tmp_path / name, CASES[name]) for name in ("wide.png", "on_white.png", "opaque_alpha.png")]
    results = predict("run", paths, tmp_path / "out")
    assert [r["mask"] for r in results] == ["none", "alpha", "background", "background"]
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


@pytest.mark.parametrize("size", [300, 1200, 2400])
def test_a_thin_outline_holds_back_the_removal_of_the_background(size):
    y, x = np.mgrid[:size, :size] - size / 2
    radius = np.hypot(x, y) / (0.3 * size)
    rgb = np.full((size, size, 3), 255, np.uint8)
    rgb[(radius < 1) & (radius > 1 - 4 / size / 0.3)] = 0  # four pixels wide
    rgba = remove_background(rgb)
    assert (rgba[radius < 0.9][:, 3] == 255).all() and (rgba[radius > 1.1][:, 3] == 0).all()
    specks = np.random.default_rng(0).random((size, size)) < 0.07
    rgb[specks & (radius > 1)] = 100
    rgba = remove_background(rgb)
    outside = rgba[radius > 1.2][:, 3] > 0
    assert (rgba[radius < 0.9][:, 3] == 255).all() and outside.mean() < 0.08


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


def test_one_bad_file_is_one_line(tmp_path, capfd):
    with pytest.raises(UserError, match="gone.png: no such file"):
        predict("run", [tmp_path / "gone.png"], tmp_path / "out")
    assert "error" not in capfd.readouterr().err
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match="pipe.png: a pipe or a device"):
        predict("run", [tmp_path / "pipe.png"], tmp_path / "out")


def test_grey_pictures_of_16_bits_are_those_of_8(tmp_path):
    grey = painted(64, 48, (10, 12, 50, 40))[..., 0]
    small, large = write(tmp_path / "8.png", grey), write(tmp_path / "16.png", grey.astype(np.uint16) * 257)
    assert Image.open(large).mode.startswith("I")
    np.testing.assert_array_equal(np.asarray(open_image(large)), np.asarray(open_image(small)))
    mask = write(tmp_path / "mask.png", (grey > 0).astype(np.uint16))
    assert np.asarray(open_image(mask)).max() == 1


@pytest.mark.parametrize("numbers", [(700, 700, np.nan, 32), (np.inf, 700, 32, 32), (0, 700, 32, 32)])
def test_numbers_that_make_no_sense(numbers):
    with pytest.raises(UserError, match="intrinsics .*: give FX,FY,CX,CY"):
        PredictOptions(intrinsics=numbers)
    for length in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(UserError, match="object_length .*: give a length above 0"):
            PredictOptions(object_length=length)


def test_what_was_done_before_an_interruption_is_kept(tmp_path, monkeypatch):
    path, calls, detect_framed = write(tmp_path / "wide.png", CASES["wide.png"]), [], predict_module.detect_framed

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return detect_framed(*arguments)

    monkeypatch.setattr(predict_module, "detect_framed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict("run", [path] * (2 * predict_module.IMAGES_AT_ONCE), tmp_path / "out")
    document = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(document["images"]) == predict_module.IMAGES_AT_ONCE


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


def test_odd_exif_is_no_reason_to_leave_an_image_out(tmp_path):
    def entry(tag, kind, value):
        return struct.pack("<HHI4s", tag, kind, len(value), value)

    ascii_width, sideways = entry(0x0100, 2, b"400\0"), struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    tags = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + ascii_width + sideways + b"\0" * 4
    write(tmp_path / "odd.jpg", CASES["photo.jpg"], exif=tags)
    assert load_image(tmp_path / "odd.jpg", SIZE).picture.shape == (400, 300, 4)


def test_what_the_system_refuses_is_not_called_damaged(tmp_path, monkeypatch):
    path = write(tmp_path / "wide.png", CASES["wide.png"])

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(UserError, match=r"wide.png: cannot be read \(Permission denied\)"):
        open_image(path)


def test_a_decoders_own_exceptions_cost_one_image(tmp_path, monkeypatch, capfd):
    bad, good = (write(tmp_path / name, CASES["wide.png"]) for name in ("bad.png", "good.png"))
    open_really = Image.open

    def fail(file):
        if file.name == str(bad):
            raise RuntimeError("Failed to decode image")
        return open_really(file)

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UserError, match="1 of 2 images failed"):
        predict("run", [bad, good], tmp_path / "out")
    assert "bad.png: damaged or too large (Failed to decode image)" in capfd.readouterr().err
    (kept,) = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    assert kept["file"] == str(good)


def test_a_picture_too_long_for_a_square(tmp_path):
    Image.new("L", (40_000, 2)).save(tmp_path / "strip.png")
    with pytest.raises(UserError, match="40000 x 2 pixels, at most 32768 a side"):
        load_image(tmp_path / "strip.png", SIZE)


def test_overlays_are_readable_and_not_huge(tmp_path):
    paths = [write(tmp_path / name, CASES[name]) for name in ("small.png", "tiny_object.png")]
    paths.append(write(tmp_path / "huge.png", painted(3000, 2000, (100, 100, 1900, 1900))))
    predict("run", paths, tmp_path / "out")
    sizes = [max(Image.open(tmp_path / "out" / path.name).size) for path in paths]
    assert sizes[0] >= 320 and sizes[1] == 1600 and sizes[2] == 1600


def test_folders_patterns_and_standard_input(tmp_path, monkeypatch):
    for name in ("b.png", "a.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    (tmp_path / "predictions.h5").write_text("no image, though Pillow has a name for such files")
    (tmp_path / "notes.pdf").touch()
    assert expand([tmp_path]) == [a, b]
    assert expand([tmp_path / "*.png", b]) == [a, b, b]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{b}\n\n{tmp_path}\n"))
    assert expand([a, "-"]) == [a, b, a, b]
    for nothing in ([tmp_path / "*.jpg"], []):
        with pytest.raises(UserError, match="give PNG or JPEG"):
            expand(nothing)
    (tmp_path / "odd[1].png").write_bytes(b"")  # a file of that name is no pattern
    assert expand([tmp_path / "odd[1].png"]) == [tmp_path / "odd[1].png"]


def test_a_mask_tells_the_object_from_a_busy_background(tmp_path):
    busy = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    mask = np.zeros((300, 400), np.uint8)
    mask[60:180, 50:250] = 255
    (tmp_path / "masks").mkdir()
    path = write(tmp_path / "busy.png", busy)
    write(tmp_path / "masks" / "busy.jpg", mask, quality=100)
    for given in (tmp_path / "masks", write(tmp_path / "one.png", mask)):
        (result,) = predict("run", [path], tmp_path / "out", options=PredictOptions(mask=given))
        assert result["mask"] == "given" and result["warning"] is None
        corners = np.array(result["keypoints"])[:, :2]
        assert np.abs(corners - [[50, 60], [250, 180]]).max() <= result["square"][2] / SIZE
    other = write(tmp_path / "other.png", mask[:100])
    for bad in (other, tmp_path / "masks"):
        with pytest.raises(UserError, match="mask"):
            predict("run", [other if bad.is_dir() else path], tmp_path / "out", options=PredictOptions(mask=bad))


def test_a_folder_of_masks_may_hold_other_files_and_the_image_itself(tmp_path):
    image = write(tmp_path / "x.png", CASES["photo.jpg"])
    (tmp_path / "x.json").write_text("{}")
    options = PredictOptions(mask=tmp_path)
    with pytest.raises(UserError, match=f"x.png: no mask of this name in {tmp_path}"):
        predict("run", [image], tmp_path / "out", options=options)
    mask = np.zeros(CASES["photo.jpg"].shape[:2], np.uint8)
    mask[60:180, 50:250] = 255
    write(tmp_path / "x.jpg", mask)
    (result,) = predict("run", [image], tmp_path / "out", options=options)
    assert result["mask"] == "given" and result["square"][2] < 300
    write(tmp_path / "x.bmp", mask)
    with pytest.raises(UserError, match=r"x.png: 2 masks of this name in .*: keep one"):
        predict("run", [image], tmp_path / "out", options=options)


def test_results_stay_where_nothing_could_be_read(tmp_path):
    path = write(tmp_path / "wide.png", CASES["wide.png"])
    with pytest.raises(UserError, match="typo.png: no such file"):
        predict("run", [tmp_path / "typo.png"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    predict("run", [path], tmp_path / "out")
    before = (tmp_path / "out" / "predictions.json").read_bytes()
    with pytest.raises(UserError, match="typo.png: no such file"):
        predict("run", [tmp_path / "typo.png"], tmp_path / "out")
    assert (tmp_path / "out" / "predictions.json").read_bytes() == before


def test_names_that_are_not_utf8(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    write(path, CASES["wide.png"])
    predict("run", [path], tmp_path / "out")
    assert b"caf\xe9.png" in (tmp_path / "out" / "predictions.csv").read_bytes()
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())["images"][0]["file"] == str(path)
    assert np.load(tmp_path / "out" / "predictions.npz")["path"][0].endswith("caf\N{REPLACEMENT CHARACTER}.png")


def test_a_transparent_value_of_16_bits_is_as_one_of_8(tmp_path):
    values = np.full((20, 30), 90, np.uint8)
    values[5:15, 5:25] = 200
    Image.fromarray(values).save(tmp_path / "8.png", transparency=90)
    Image.fromarray(257 * values.astype(np.uint16)).save(tmp_path / "16.png", transparency=257 * 90)
    pictures = [np.array(open_image(tmp_path / name)) for name in ("8.png", "16.png")]
    np.testing.assert_array_equal(pictures[1], pictures[0])
    np.testing.assert_array_equal(pictures[1][..., 3] > 0, values == 200)


def test_masks_of_every_kind_mean_the_same():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))
    inside = np.zeros((60, 80), bool)
    inside[20:40, 10:60] = True
    clear = np.zeros((60, 80, 4), np.uint8)
    clear[inside] = (0, 0, 0, 255)  # a black object cut out
    opaque = np.full((60, 80, 4), 255, np.uint8)
    opaque[~inside, :3] = 0  # a white one on black
    label = inside[..., None] * np.uint8([128, 0, 0])  # as in Pascal VOC
    masks = (inside, inside.astype(np.uint8), 255 * inside.astype(np.uint8), clear, opaque, label)
    for mask in masks:
        framed = frame_image(image, SIZE, Image.fromarray(mask))
        np.testing.assert_array_equal(framed.picture[..., 3] == 255, inside)


def test_large_squares_are_reduced_to_what_the_network_can_use():
    picture = Image.fromarray(painted(1000, 1000, (150, 300, 850, 600)))
    framed = frame_image(picture, SIZE)
    assert framed.framing == "as given" and framed.rgba.shape == (SIZE, SIZE, 4) and framed.box == (0, 0, 1000)
    assert framed.rgba[SIZE // 2, SIZE // 2].tolist() == [200, 120, 40, 255]


def test_a_background_of_a_given_colour(tmp_path):
    pixels = painted(400, 300, (50, 60, 250, 180), background=(0, 200, 0, 255))[..., :3]
    pixels[:8] = 0  # a dark bar over the rest of the border
    pixels[:, :120][80:] = np.where((pixels[:, :120][80:] == (0, 200, 0)).all(-1)[..., None], 90, pixels[:, :120][80:])
    path = write(tmp_path / "green.png", pixels)
    assert frame_image(open_image(path), SIZE, background=(0, 200, 0)).mask == "background"
    rgba = remove_background(pixels, (0, 200, 0))
    assert rgba[30, 200, 3] == 0 and rgba[100, 150].tolist() == [200, 120, 40, 255]
    with pytest.raises(UserError, match="border does not have the --background colour"):
        frame_image(open_image(path), SIZE, background=(0, 0, 200))


def test_intrinsics_give_points_in_the_unit_of_the_object(tmp_path):
    # 200 px of an object 3 m long, at focal length 1000: some 10 m away in the middle, and 1.5 m to the right there
    path = write(tmp_path / "wide.png", painted(640, 480, (370, 200, 570, 280)))
    options = PredictOptions(intrinsics=(1000, 1000, 320, 240), object_length=3.0)
    (result,) = predict("run", [path], tmp_path / "out", options=options)
    left, right = np.array(result["points"])
    assert right[0] / right[2] == pytest.approx(0.25, abs=0.01)
    # the square's side is 200 px / OBJECT_SHARE, which the training camera sees 2.62 object units = 3.93 m wide
    distance = 3 / 2 * 30 / 11.4519 / (200 / OBJECT_SHARE / 1000)
    assert left[2] == pytest.approx(distance, rel=0.03) and right[2] == pytest.approx(distance, rel=0.03)
    with pytest.raises(UserError, match="focal lengths above 0"):
        predict("run", [path], tmp_path / "out", options=PredictOptions(intrinsics=(0, 1, 2, 3)))


def test_small_units_have_as_many_digits(tmp_path):
    path = write(tmp_path / "wide.png", CASES["wide.png"])
    camera, points = (900, 900, 320, 180), []
    for length in (2.0, 2e-6):
        options = PredictOptions(intrinsics=camera, object_length=length)
        points.append(np.array(predict("run", [path], tmp_path / "out", options=options)[0]["points"]) / length)
    np.testing.assert_allclose(*points, atol=1e-6)


@pytest.mark.parametrize("sigma", [None, 0.125])
def test_csv_and_npz_say_the_same_as_json(tmp_path, detector, sigma):
    detector.sigma = sigma
    paths = [write(tmp_path / name, CASES[name]) for name in ("wide.png", "tiny_object.png")]
    results = predict("run", paths, tmp_path / "out", options=PredictOptions(intrinsics=(900, 900, 320, 180)))
    with np.load(tmp_path / "out" / "predictions.npz") as arrays:
        assert arrays["path"].tolist() == [str(p) for p in paths] and arrays["frame"].tolist() == [-1, -1]
        assert np.array_equal(arrays["keypoints"], [r["keypoints"] for r in results])
        assert np.array_equal(arrays["points"], [r["points"] for r in results])
        assert arrays["flags"].shape == (2, 1)
        assert np.array_equal(arrays["sigma"], np.full((2, 2), sigma or np.nan), equal_nan=True)
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["keypoint"] for row in rows] == ["0", "1", "0", "1"]
    assert [float(rows[3][c]) for c in ("u", "v", "z_training", "x", "y", "z")] == pytest.approx(
        results[1]["keypoints"][1] + results[1]["points"][1]
    )
    assert results[1]["sigma"] == (sigma and [sigma, sigma]) and rows[3]["sigma"] == str(sigma or "")


UPRIGHT, TURNED = (1, 0, 0, 0, 1, 0, 0, 0), (0, 1, 0, -1, 0, 0, 0, 0)


def test_every_frame_of_a_video(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 240, "yuv420p", 8_000_000
        container.metadata["title"] = "cafXe"
        for shift in (0, 40, 80):
            pixels = painted(320, 240, (60 + shift, 60, 180 + shift, 180), background=(255, 255, 255, 255))[..., :3]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes().replace(b"cafXe", b"caf\xe9e"))  # of old cameras, not UTF-8
    results = predict("run", [path], tmp_path / "out")
    assert [r["frame"] for r in results] == [0, 1, 2]
    assert [r["overlay"] for r in results] == ["clip-000000.png", "clip-000001.png", "clip-000002.png"]
    left = [r["keypoints"][0][0] for r in results]
    assert left == pytest.approx([60, 100, 140], abs=5)
    # the same as a phone stores it: to be turned by 90° clockwise (ISO 14496-12, 8.3.2: a, b, u, c, d, v, x, y, w)
    matrix, turned = (struct.pack(">9i", *(int(x * 65536) for x in m), 1 << 30) for m in (UPRIGHT, TURNED))
    content = path.read_bytes()
    place = content.index(matrix, content.index(b"tkhd"))
    path.write_bytes(content[:place] + turned + content[place + len(turned) :])
    _, first = next(read_images(path))
    assert first.size == (240, 320)
    columns = np.flatnonzero((np.asarray(first) < 128).any(-1).mean(0) > 0.2)
    assert columns[[0, -1]] == pytest.approx([60, 179], abs=3)
    rows = np.flatnonzero((np.asarray(first) < 128).any(-1).mean(1) > 0.2)
    assert rows[[0, -1]] == pytest.approx([60, 179], abs=3)
    path.write_bytes(b"no video")
    with pytest.raises(UserError, match="not a video that can be decoded"):
        predict("run", [path], tmp_path / "out")


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp", "clip.png"])
def test_every_frame_of_an_animation(tmp_path, name):
    shown = [painted(320, 240, (60 + shift, 60, 180 + shift, 180)) for shift in (0, 40, 80)]
    first, *others = (Image.fromarray(np.ascontiguousarray(pixels)) for pixels in shown)
    first.save(tmp_path / name, save_all=True, append_images=others, disposal=2)
    results = predict("run", [tmp_path / name], tmp_path / "out")
    assert [r["frame"] for r in results] == [0, 1, 2]
    assert [r["keypoints"][0][0] for r in results] == pytest.approx([60, 100, 140], abs=5)
    options = PredictOptions(background="black")  # which is what lies under the transparent pixels
    assert len(predict("run", [tmp_path / name], tmp_path / "out", options=options)) == 3
    first.save(tmp_path / name)
    assert [r["frame"] for r in predict("run", [tmp_path / name], tmp_path / "out")] == [None]


def test_a_blank_frame_costs_no_other(tmp_path, capfd):
    shown = [painted(320, 240, (60 + shift, 60, 180 + shift, 180)) for shift in (0, 20, 40, 60)]
    shown[1] = np.zeros_like(shown[0])
    first, *others = (Image.fromarray(np.ascontiguousarray(pixels)) for pixels in shown)
    first.save(tmp_path / "gap.webp", save_all=True, append_images=others, lossless=True)
    with pytest.raises(UserError, match="1 of 4 images failed"):
        predict("run", [tmp_path / "gap.webp"], tmp_path / "out")
    assert "gap.webp: frame 1: " in capfd.readouterr().err
    document = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [image["frame"] for image in document["images"]] == [0, 2, 3]
    assert [failure["frame"] for failure in document["failures"]] == [1]


def test_videos_need_the_extra(tmp_path, monkeypatch):
    (tmp_path / "clip.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match="pip install av"):
        predict("run", [tmp_path / "clip.mp4"], tmp_path / "out")


def test_pose_is_printed_as_json(tmp_path, capfd):
    a, b = (write(tmp_path / name, CASES[name]) for name in ("wide.png", "on_white.png"))
    found = json.loads(predict_module.pose("run", a, b))
    assert np.linalg.det(found["rotation"]) == pytest.approx(1) and found["translation"] is None
    told = capfd.readouterr().err
    assert "on_white.png: the background was removed" in told
    assert "wide.png, " in told and "without --intrinsics the rotation is about the line of sight" in told
    with pytest.raises(UserError, match="one mask for two images"):
        predict_module.pose("run", a, b, PredictOptions(mask=write(tmp_path / "mask.png", CASES["wide.png"])))
    options = PredictOptions(intrinsics=(900, 900, 320, 180), object_length=1.5)
    assert len(json.loads(predict_module.pose("run", a, b, options))["translation"]) == 3
    assert "line of sight" not in capfd.readouterr().err


def test_colours_are_parsed():
    assert PredictOptions(background="white").color == (255, 255, 255)
    assert PredictOptions(background="#00ff00").color == (0, 255, 0)
    assert PredictOptions().color is None
    with pytest.raises(UserError, match="no colour"):
        PredictOptions(background="greenish blue")


def test_overlays_are_no_input_unless_named(tmp_path):
    write(tmp_path / "wide.png", CASES["wide.png"])
    for _ in range(2):
        (result,) = predict("run", [tmp_path], tmp_path)
        (result,) = predict("run", [tmp_path / "*.png"], tmp_path)
    assert result["overlay"] == "wide-2.png"
    assert len(predict("run", [tmp_path / "wide-2.png"], tmp_path / "out")) == 1


def test_an_image_in_the_output_folder_is_not_written_over(tmp_path):
    path = write(tmp_path / "wide.png", CASES["wide.png"])
    before = path.read_bytes()
    other = write(tmp_path / "wide.jpg", CASES["wide.png"][..., :3])
    for _ in range(2):  # the second time, overlays of the first are replaced
        (result,) = predict("run", [other], tmp_path)
        assert result["overlay"] == "wide-2.png" and (tmp_path / "wide-2.png").exists()
    assert path.read_bytes() == before
