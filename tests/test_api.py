import io

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, TiffImagePlugin

from data.errors import UserError
from tests.test_metrics import rotation
from train.api import Keypoints, detect, lift, load, relative_pose
from train.config import make_config
from train.detector import Detections, build_network, save_config, save_weights
from train.eval import metrics

CONFIG = make_config("cpu")
F, D = CONFIG.focal_length, CONFIG.camera_distance
OBJECT = np.array([[0.9, 0.1, 0.2], [-0.9, 0.1, 0.1], [0, 0.5, -0.6], [0.1, -0.4, 0.5], [0.3, 0.2, 0.8]])


def project(points, k):
    return (points @ k.T)[:, :2] / points[:, 2:]


def known(points, calibrated=True, sigma=None):
    return Keypoints(np.zeros_like(points), points, sigma, np.zeros(1, bool), calibrated, None)


def test_lift_with_the_training_camera_is_its_unprojection():
    keypoints = np.column_stack([np.random.default_rng(0).uniform(0, 128, (6, 2)), 30 + OBJECT[[0, 1, 2, 3, 4, 0], 2]])
    k = np.array([[F * 128, 0, 64], [0, F * 128, 64], [0, 0, 1]])
    expected = metrics.camera_points(keypoints, k)
    assert np.allclose(lift(keypoints, (0, 0, 128), CONFIG, k), expected)
    assert np.allclose(lift(keypoints, (0, 0, 128), CONFIG), expected)


@pytest.mark.parametrize("bearing", [(0, 0), (0.3, -0.2), (-0.5, 0.4)])
def test_lift_finds_the_place_of_an_object_seen_by_any_camera(bearing):
    # An object far away in a direction, a square about its image, and depths as the training camera would see them.
    k = np.array([[2000, 0, 700], [0, 2000, 400], [0, 0, 1.0]])
    axis = np.array([*bearing, 1.0]) / np.linalg.norm([*bearing, 1.0])
    away = 200.0
    points = away * axis + OBJECT
    center = project(away * axis[None], k)[0]
    side = D * (2000 / axis[2]) / (F * away)
    z = D + OBJECT @ axis
    keypoints = np.column_stack([project(points, k), z])
    found = lift(keypoints, (*(center - side / 2), side), CONFIG, k)
    assert np.abs(found - points).max() < 0.02


def test_relative_pose_recovers_rotation_and_translation():
    turn, shift = rotation([0.3, 1, -0.2], 50), np.array([0.4, -0.2, 1.5])
    first = OBJECT + [0.1, 0.2, 12]
    pose = relative_pose(known(first), known(first @ turn.T + shift))
    assert np.allclose(pose.rotation, turn) and np.allclose(pose.translation, shift)
    assert pose.angle_degrees == pytest.approx(50) and pose.residual < 1e-9
    assert relative_pose(known(first), known(first, calibrated=False)).translation is None
    assert relative_pose(known(first), known(first[[1, 0, 2, 3, 4]])).residual > 0.2


def test_relative_pose_counts_keypoints_by_their_uncertainty():
    sigma = np.array([1, 1, 1, 1, 1e4]) * 1e-3
    moved = OBJECT + [0.4, 0, 12]
    moved[4] += [0.5, -1, 0.3]
    pose = relative_pose(known(OBJECT, sigma=sigma), known(moved, sigma=sigma))
    assert pose.angle_degrees < 0.01 and pose.residual < 0.001
    assert np.allclose(pose.translation, [0.4, 0, 12], atol=1e-3)


class CornerDetector:
    """Keypoints at fixed places of whatever square it is shown."""

    image_size, config = 64, CONFIG

    def detect(self, rgba):
        size = rgba.shape[1]
        points = np.float32([[[0.14 * size, 0.5 * size, 30.5], [0.86 * size, 0.5 * size, 29.5]]] * len(rgba))
        return Detections(
            points, np.ones((len(rgba), 2, 4, 4)) / 16, np.zeros((len(rgba), 1, 2, 2)), np.ones((1, 1)) > 0
        )


def test_detect_takes_paths_pictures_and_arrays(tmp_path):
    pixels = np.zeros((200, 300, 4), np.uint8)
    pixels[80:120, 100:200] = (200, 100, 50, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = [detect(CornerDetector(), image) for image in (tmp_path / "a.png", str(tmp_path / "a.png"), pixels)]
    found.append(detect(CornerDetector(), Image.fromarray(pixels)))
    found.append(detect(CornerDetector(), pixels[..., :3], mask=pixels[..., 3]))
    found.append(detect(CornerDetector(), pixels[..., :3], mask=pixels[..., 3] > 0))
    shown = pixels[..., 3] > 0
    logits = np.where(shown, np.linspace(0.5, 20, 300), -4.0)
    for mask in (shown[..., None].astype(np.int64), shown.astype(np.float32), logits):
        found.append(detect(CornerDetector(), pixels[..., :3], mask=mask))
    for wrong in (pixels / 255.0, pixels[..., :1], pixels[..., 0] / 255.0):
        with pytest.raises(UserError, match="an array of .*give uint8"):
            detect(CornerDetector(), wrong)
    with pytest.raises(UserError, match="an array of .*give uint8"):
        detect(CornerDetector(), pixels[:0])
    with pytest.raises(UserError, match="image: numbers that are not finite"):
        detect(CornerDetector(), Image.fromarray(np.full((9, 9), np.nan, np.float32)))
    with pytest.raises(UserError, match="mask: an array of"):
        detect(CornerDetector(), pixels[..., :3], mask=np.zeros((0, 5), np.float32))
    with pytest.raises(UserError, match="object_length: 0"):
        detect(CornerDetector(), pixels, object_length=0)
    for each in found:
        assert np.abs(each.keypoints[:, :2] - [[100, 100], [200, 100]]).max() < 1
        assert not each.calibrated
    k = np.array([[600, 0, 150], [0, 600, 100], [0, 0, 1.0]])
    near = detect(CornerDetector(), pixels, intrinsics=k, object_length=34.0)
    assert near.calibrated and np.allclose(project(near.points, k), near.keypoints[:, :2])
    assert near.points[0, 2] - near.points[1, 2] == pytest.approx(17)
    with pytest.raises(UserError, match="transparent"):
        detect(CornerDetector(), np.zeros((9, 9, 4), np.uint8))
    with pytest.raises(UserError, match="mask"):
        detect(CornerDetector(), pixels, mask=pixels[:50])
    with pytest.raises(UserError, match="not finite"):
        detect(CornerDetector(), pixels, mask=np.where(shown, np.nan, 0.0))


def test_arguments_that_are_none():
    pixels = np.zeros((50, 50, 4), np.uint8)
    pixels[10:40, 10:40] = 200
    fine = np.array([[600.0, 0, 25], [0, 600, 25], [0, 0, 1]])
    for k in ([[600], [0, 600]], (600, 600, 25, 25), np.zeros((3, 3)), np.where(fine > 0, np.nan, 0)):
        with pytest.raises(UserError, match="intrinsics: .*give K, 3 x 3"):
            detect(CornerDetector(), pixels, intrinsics=k)
    with pytest.raises(UserError, match="background: 'white'"):
        detect(CornerDetector(), pixels, background="white")
    with pytest.raises(UserError, match="background: .*0 to 255"):
        detect(CornerDetector(), pixels, background=(300, 0, 0))
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)).save(buffer, "PNG")
    with pytest.raises(UserError, match="image: .*truncated"):
        detect(CornerDetector(), Image.open(io.BytesIO(buffer.getvalue()[:-3000])))
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    assert "no object told from a background" in detect(CornerDetector(), noise).warning
    assert detect(CornerDetector(), pixels).warning is None
    with pytest.raises(UserError, match="image: a Tensor"):
        detect(CornerDetector(), torch.from_numpy(pixels))
    with pytest.raises(UserError, match="5 and 4 keypoints"):
        relative_pose(known(OBJECT), known(OBJECT[:4]))
    labels = np.where(pixels[..., 3] > 0, 2**32 - 1, 0).astype(np.uint32)
    expected = detect(CornerDetector(), pixels)
    for mask in (labels, (labels > 0).astype(np.int8), labels > 0):
        found = detect(CornerDetector(), pixels[..., :3], mask=mask)
        np.testing.assert_array_equal(found.keypoints, expected.keypoints)
    with pytest.raises(UserError, match="its mask is empty"):
        detect(CornerDetector(), pixels, mask=np.zeros((50, 50), bool))


def test_grey_pictures_of_floats():
    shown = np.zeros((50, 50), np.float32)
    shown[10:40, 10:40] = 1.0
    found = [detect(CornerDetector(), Image.fromarray(shown * most)).framed for most in (1.0, 255.0, 65535.0)]
    assert all(framed.mask == "background" for framed in found)
    assert all(np.array_equal(framed.picture, found[0].picture) for framed in found)


def test_the_distance_does_not_depend_on_whether_the_image_is_square():
    pixels = np.zeros((200, 200, 4), np.uint8)
    pixels[80:120, 35:165] = (200, 100, 50, 255)  # taken as it is, two thirds as long as the image
    wide = np.pad(pixels, ((0, 0), (0, 1), (0, 0)))
    for focal in (300, 11.4519 * 200):
        k = np.array([[focal, 0, 100], [0, focal, 100], [0, 0, 1.0]])
        square, padded = (detect(CornerDetector(), each, intrinsics=k) for each in (pixels, wide))
        assert (square.framed.framing, padded.framed.framing) == ("as given", "cut out")
        distance = np.linalg.norm(square.points, axis=1).mean()
        if focal == 300:
            assert distance == pytest.approx(np.linalg.norm(padded.points, axis=1).mean(), rel=0.02)
            np.testing.assert_allclose(project(square.points, k), square.keypoints[:, :2])
        else:  # the training's camera
            assert distance == pytest.approx(30, rel=0.01)
            pixels[:, :140] = 0  # an object seen end-on, whatever its place
            end_on = detect(CornerDetector(), pixels, intrinsics=k)
            assert end_on.framed.framing == "as given"
            assert np.linalg.norm(end_on.points, axis=1).mean() == pytest.approx(30, rel=0.01)


@pytest.mark.parametrize("suffix, option", [("png", "exif"), ("tif", "tiffinfo"), ("webp", "exif")])
def test_a_pil_image_is_turned_upright_as_its_file_is(tmp_path, suffix, option):
    pixels = np.zeros((200, 300, 4), np.uint8)
    pixels[80:120, 100:180] = (200, 100, 50, 255)
    path = tmp_path / f"a.{suffix}"
    tags = Image.Exif() if option == "exif" else TiffImagePlugin.ImageFileDirectory_v2()
    tags[ExifTags.Base.Orientation] = 6
    Image.fromarray(pixels).save(path, **{option: tags})
    by_path, by_image = (detect(CornerDetector(), each) for each in (path, Image.open(io.BytesIO(path.read_bytes()))))
    assert by_path.framed.picture.shape == (300, 200, 4)
    np.testing.assert_array_equal(by_path.framed.picture[..., 3] > 0, np.rot90(pixels[..., 3] > 0, -1))
    np.testing.assert_array_equal(by_image.keypoints, by_path.keypoints)


def test_a_pil_image_that_cannot_be_decoded(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:1000])
    with pytest.raises(UserError, match="^image: .*truncated"):
        detect(CornerDetector(), Image.open(tmp_path / "cut.jpg"))
    with pytest.raises(UserError, match="^image: .*La"):
        detect(CornerDetector(), Image.new("La", (8, 8)))


@pytest.mark.parametrize("row, column", [(1, 0), (2, 0), (2, 1)])
def test_a_transposed_camera_matrix_is_refused(row, column):
    k = np.array([[300, 0, 100], [0, 300, 100], [0, 0, 1.0]])
    k[row, column] = 5
    with pytest.raises(UserError, match="^intrinsics: .*give K, 3 x 3"):
        detect(CornerDetector(), np.full((20, 20, 4), 255, np.uint8), intrinsics=k)


def test_load_and_detect_with_a_network(tmp_path):
    torch.manual_seed(0)
    config = make_config("cpu", width=4, keypoints=6, image_size=32, source_size=40)
    save_config(config, tmp_path)
    save_weights(build_network(config), tmp_path / "model.safetensors")
    detector = load(tmp_path)
    pixels = np.random.default_rng(0).integers(1, 256, (40, 40, 4), np.uint8)
    a, b = detect(detector, pixels), detect(detector, pixels[:, ::-1].copy())
    assert a.keypoints.shape == a.points.shape == (6, 3) and a.flags.shape == (2,)
    assert np.linalg.det(relative_pose(a, b).rotation) == pytest.approx(1)
    finer = detector.detect(pixels.repeat(4, axis=0).repeat(4, axis=1)).keypoints  # reduced to what was learned from
    np.testing.assert_allclose(finer / [4, 4, 1], detector.detect(pixels).keypoints, rtol=1e-4)
    with pytest.raises(UserError, match="not a run folder"):
        load("no such run")
