"""Keypoints of rendered views around an object: as an animation, and as points in the object's frame."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from data.atomic import publish, temporary_path
from data.errors import UserError
from train.detector import Detector
from train.eval import metrics, overlays

FRAME_MILLISECONDS = 60
FRAME_PIXELS = 384  # least side of a frame


def frame_size(image_size: int) -> int:
    """Side to render frames at: large enough to look at, a multiple of the network's input."""
    return image_size * math.ceil(FRAME_PIXELS / image_size)


def write_animation(detector: Detector, rgba: np.ndarray, path: str | Path) -> None:
    """Detect keypoints in each frame by itself and write them as an endless GIF.

    Args:
        rgba: uint8 (F, H, W, 4), premultiplied, views like the training's.

    Raises:
        UserError: the file is not to be a GIF.
    """
    path = Path(path)
    check_animation(path)
    found = detector.detect(rgba)
    scale = max(1.0, FRAME_PIXELS / rgba.shape[1])
    frames = [overlays.draw_view(view, points, scale) for view, points in zip(rgba, found.keypoints, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(
        temporary_path(path),
        format="GIF",
        save_all=True,
        append_images=frames[1:],
        duration=FRAME_MILLISECONDS,
        loop=0,
    )
    publish(path)


def check_animation(path: Path) -> None:
    """Raise UserError if an animation cannot be written under this name."""
    if path.suffix.lower() != ".gif":
        raise UserError(f"{path}: only GIF can be written: give a name that ends in .gif")


def locate(detector: Detector, rgba: np.ndarray, object_to_camera: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Keypoints of one object in its own frame: the median over views, each lifted with its pose.

    Args:
        rgba: uint8 (V, H, W, 4). object_to_camera: (V, 4, 4). intrinsics: (V, 3, 3).

    Returns:
        float64 (N, 3).
    """
    found = detector.detect(rgba, intrinsics)
    return np.median(metrics.object_points(found.keypoints, intrinsics, object_to_camera), axis=0)
