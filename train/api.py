"""Detectors from Python: three calls for a notebook or a robot.

    from train.api import detect, load, relative_pose

    detector = load("airplane")                    # a run folder, or the name of shipped weights
    before = detect(detector, "before.png", intrinsics=K, object_length=34.1)
    after = detect(detector, "after.png", intrinsics=K, object_length=34.1)
    before.keypoints                               # (N, 3): u, v in pixels of the image, z
    pose = relative_pose(before, after)            # X_after = pose.rotation @ X_before + pose.translation

An image is a path, a PIL image, or a uint8 array (H, W, 3) or (H, W, 4) with straight alpha. Camera frames have +x
right, +y down, +z forward; (0, 0) is the corner of the top-left pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data.errors import UserError
from data.images import to_8_bits
from train.config import TrainConfig
from train.detector import Detector
from train.eval import metrics
from train.eval.framing import WARNINGS, FramedImage, apparent_size, decoded, frame_image, open_image

ImageLike = str | Path | Image.Image | np.ndarray


@dataclass(frozen=True)
class Keypoints:
    """N keypoints of one image, A orientation axes.

    Attributes:
        keypoints: float64 (N, 3) as (u, v, z): pixels of the image, and depth from the training camera in object units
            (the object's longest side = 2).
        points: float64 (N, 3) in the camera frame, see :func:`lift`. In the unit of ``object_length`` where that was
            given, else in object units.
        sigma: float64 (N,), standard deviation of each coordinate of a point that the network expects, in the points'
            unit; None of a network that expects none.
        flags: bool (A,), the orientation flags the keypoints were decoded with.
        calibrated: whether the camera's intrinsics were given. Without them ``points`` are as from a camera like the
            training's that looks at the object: the distance means nothing, and directions are about the line of sight.
        framed: what the network saw.
    """

    keypoints: np.ndarray
    points: np.ndarray
    sigma: np.ndarray | None
    flags: np.ndarray
    calibrated: bool
    framed: FramedImage

    @property
    def warning(self) -> str | None:
        """What speaks against trusting them: how the object was told from the background."""
        return WARNINGS[self.framed.mask]


@dataclass(frozen=True)
class RelativePose:
    """The motion of an object between two images: ``X_second = rotation @ X_first + translation``.

    Attributes:
        rotation: float64 (3, 3); where a camera's intrinsics are unknown, about the lines of sight to the object, so
            that one which only moves across the image seems to turn the other way. angle_degrees: its angle.
        translation: float64 (3,), in the unit of the points; None where a camera's intrinsics are unknown.
        residual: root mean squared distance of the aligned point sets, weighted alike. Large ones (beyond a tenth of
            the object) say that the two detections do not agree, and that the pose should not be trusted.
    """

    rotation: np.ndarray
    angle_degrees: float
    translation: np.ndarray | None
    residual: float


def load(run: str | Path, device: str = "cpu") -> Detector:
    """Load a detector.

    Args:
        run: run folder, or name of shipped weights. device: "auto", "cpu" or "cuda".

    Raises:
        UserError: no such run, or files that do not belong together.
    """
    return Detector.load(run, device)


def detect(
    detector: Detector,
    image: ImageLike,
    mask: ImageLike | None = None,
    background: tuple[int, int, int] | None = None,
    intrinsics: np.ndarray | None = None,
    object_length: float = 2.0,
) -> Keypoints:
    """Detect the keypoints of the object in an image.

    Args:
        detector: from :func:`load`.
        mask: of the image's size, bright where the object is, or above 0 if some of it is below. By default the image's
            alpha; without it, a background of one colour is removed.
        background: sRGB colour of that background; by default the border's.
        intrinsics: (3, 3) K of the image, pixels.
        object_length: longest side of the object's bounding box, in the unit that points shall have.

    Raises:
        UserError: the image or another argument cannot be used.
    """
    name = str(image) if isinstance(image, (str, Path)) else "image"
    if not 0 < object_length < np.inf:
        raise UserError(f"object_length: {object_length}: give a length above 0")
    if intrinsics is not None:
        intrinsics = _camera_matrix(intrinsics)
    if background is not None and not _is_color(background):
        raise UserError(f"background: {background!r}: give red, green and blue as whole numbers, 0 to 255")
    mask = None if mask is None else _image(_whole_numbers(mask))
    framed = frame_for(detector, _image(image), mask, background, name, intrinsics)
    return detect_framed(detector, [framed], intrinsics, object_length)[0]


def relative_pose(first: Keypoints, second: Keypoints) -> RelativePose:
    """The rotation and translation that best align two detections of one object (Procrustes, eq. 3 of the paper).

    Keypoints count by their uncertainties where both detections tell them.

    Raises:
        UserError: the detections have different numbers of keypoints.
    """
    if len(first.points) != len(second.points):
        raise UserError(f"{len(first.points)} and {len(second.points)} keypoints: detect both with one detector")
    points = np.stack([first.points, second.points])
    known = first.sigma is not None and second.sigma is not None
    sigma = np.stack([first.sigma, second.sigma]) if known else None
    rotation = metrics.relative_rotation(points, sigma)
    translation = metrics.relative_translation(points, rotation, sigma)
    squares = np.square(first.points @ rotation.T + translation - second.points).sum(-1)
    return RelativePose(
        rotation=rotation,
        angle_degrees=float(metrics.angular_error(rotation, np.eye(3))),
        translation=translation if first.calibrated and second.calibrated else None,
        residual=float(np.sqrt(np.average(squares, weights=metrics.pair_weights(sigma) if known else None))),
    )


def frame_for(
    detector: Detector,
    image: Image.Image,
    mask: Image.Image | None = None,
    background: tuple[int, int, int] | None = None,
    name: str = "image",
    intrinsics: np.ndarray | None = None,
) -> FramedImage:
    """:func:`train.eval.framing.frame_image` as a detector wants its images: its size, and its camera's view."""
    config = detector.config
    own_camera = _is_own_camera(config, intrinsics, image.width)
    return frame_image(image, detector.image_size, mask, background, name, apparent_size(config), own_camera)


def _is_own_camera(config: TrainConfig, intrinsics: np.ndarray | None, width: int) -> bool:
    """Whether images of this width are of the training's camera, by its focal length."""
    if intrinsics is None:
        return False
    return np.allclose(np.asarray(intrinsics)[[0, 1], [0, 1]] / width, config.focal_length, rtol=0.02)


def detect_framed(
    detector: Detector,
    framed: Sequence[FramedImage],
    intrinsics: np.ndarray | None = None,
    object_length: float = 2.0,
) -> list[Keypoints]:
    """Like :func:`detect`, for images already framed; several of one size are detected together."""
    results: dict[int, Keypoints] = {}
    for size in {image.rgba.shape[0] for image in framed}:
        own = [i for i, image in enumerate(framed) if image.rgba.shape[0] == size]
        found = detector.detect(np.stack([framed[i].rgba for i in own]))
        for row, i in enumerate(own):
            left, top, side = framed[i].box
            keypoints = found.keypoints[row].astype(np.float64)
            keypoints[:, :2] = keypoints[:, :2] * (side / size) + (left, top)
            unit = object_length / 2 * _nearness(framed[i], detector.config, intrinsics)
            points = lift(keypoints, framed[i].box, detector.config, intrinsics) * unit
            sigma = None if found.sigma is None else found.sigma[row].astype(np.float64) * unit
            results[i] = Keypoints(keypoints, points, sigma, found.flags[row], intrinsics is not None, framed[i])
    return [results[i] for i in range(len(framed))]


def _nearness(framed: FramedImage, config: TrainConfig, intrinsics: np.ndarray | None) -> float:
    """Distance of the object over the one that :func:`lift` takes.

    That is the training's distance for an image that was taken as it is, in which the object may be of any size. It
    is so for the training's camera, but any other one stands where the object appears as large as it does.
    """
    if intrinsics is None:
        return 1.0
    same = framed.framing == "as given" and _is_own_camera(config, intrinsics, framed.picture.shape[1])
    return 1.0 if same else framed.box[2] / framed.object_box[2]


def lift(
    keypoints: np.ndarray, box: tuple[float, float, float], config: TrainConfig, intrinsics: np.ndarray | None = None
) -> np.ndarray:
    """Keypoints of an image as points in its camera's frame.

    The network sees a square of the image as if the training camera (focal length f, distance D) had taken it. A
    camera of focal length F that looks at the square's centre sees an object equally large, of side ``s`` pixels, from
    the distance D·F / (f·s); what lies nearer or farther by the depths that the network found. Away from the image's
    centre by an angle θ, F / cos θ takes the place of F.

    Args:
        keypoints: (N, 3) as (u, v, z), pixels of the image and depth from the training camera.
        box: (left, top, side) of the square, pixels. config: of the detector.
        intrinsics: (3, 3), pixels; by default a camera like the training's that looks at the square's centre.

    Returns:
        float64 (N, 3), object units.
    """
    left, top, side = box
    focal, center = config.focal_length * side, (left + side / 2, top + side / 2)
    if intrinsics is None:
        intrinsics = np.array([[focal, 0, center[0]], [0, focal, center[1]], [0, 0, 1]])
    to_ray = np.linalg.inv(np.asarray(intrinsics, np.float64))
    axis = to_ray @ (*center, 1.0)
    axis /= np.linalg.norm(axis)
    own_focal = np.sqrt(intrinsics[0][0] * intrinsics[1][1]) / axis[2]
    distance = config.camera_distance * own_focal / focal
    rays = np.column_stack([keypoints[:, :2], np.ones(len(keypoints))]) @ to_ray.T
    along = distance + keypoints[:, 2] - config.camera_distance
    return rays * (along / (rays @ axis))[:, None]


def _is_color(background: tuple[int, int, int]) -> bool:
    color = np.asarray(background)
    return color.shape == (3,) and color.dtype.kind in "iu" and 0 <= color.min() <= color.max() <= 255


def _whole_numbers(mask: ImageLike) -> ImageLike:
    """An array as segmentation code has it, float (logits too: object above 0) or (H, W, 1), as uint8 (H, W)."""
    if not isinstance(mask, np.ndarray):
        return mask
    mask = mask[..., 0] if mask.ndim == 3 and mask.shape[2] == 1 else mask
    if not mask.size:
        raise UserError(f"mask: an array of {mask.shape}: give one of the image's size")
    if mask.dtype.kind != "f":
        return mask
    if not np.isfinite(mask).all():
        raise UserError("mask: numbers that are not finite: give 0 where there is no object")
    if mask.min() < 0:  # logits
        return mask > 0
    return np.rint(mask * (255 / max(mask.max(), 1e-9))).astype(np.uint8)


def _camera_matrix(intrinsics: np.ndarray) -> np.ndarray:
    """K as float64 (3, 3); refuses what is none."""
    try:
        k = np.asarray(intrinsics, np.float64)
    except ValueError:
        raise UserError(f"intrinsics: {intrinsics}: give K, 3 x 3 numbers") from None
    upper = k.shape == (3, 3) and np.isfinite(k).all() and not k[np.tril_indices(3, -1)].any()
    if not (upper and k[0, 0] > 0 and k[1, 1] > 0 and k[2, 2] == 1):
        raise UserError(f"intrinsics: {k.tolist()}: give K, 3 x 3: [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], in pixels")
    return k


def _image(image: ImageLike) -> Image.Image:
    if isinstance(image, (str, Path)):
        return open_image(image)
    if isinstance(image, Image.Image):
        try:
            return decoded(image)
        except (ValueError, OSError, SyntaxError) as error:  # Pillow decodes a file that it has opened only now
            raise UserError(f"image: {error}") from None
    if not isinstance(image, np.ndarray):
        raise UserError(f"image: a {type(image).__name__}: give a path, a PIL image, or a numpy array")
    if image.ndim == 2 and image.dtype.kind in "biu":  # a mask: labels, of whatever type
        return to_8_bits(Image.fromarray(image.astype(np.float64).clip(0, 65535).astype(np.int32)))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4) or not image.size:
        raise UserError(
            f"image: an array of {image.dtype} {image.shape}: give uint8 (H, W, 3) or (H, W, 4), or (H, W) of whole "
            "numbers for a mask"
        )
    return Image.fromarray(image)
