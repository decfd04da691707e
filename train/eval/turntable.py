"""Keypoints of rendered views around an object: as an animation, and as points in the object's frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from data.atomic import replacing
from data.errors import UserError
from train.detector import Detector
from train.eval import metrics, overlays
from train.eval.inputs import import_av

FRAME_MILLISECONDS = 60
FRAME_PIXELS = 384  # least side of a frame


def frame_size(image_size: int) -> int:
    """Side to render frames at: large enough to look at, a multiple of the detector's image size."""
    return image_size * math.ceil(FRAME_PIXELS / image_size)


def write_animation(detector: Detector, rgba: np.ndarray, path: str | Path) -> None:
    """Detect keypoints in each frame by itself and write them as an endless GIF, or as MP4.

    Args:
        rgba: uint8 (F, H, W, 4), premultiplied, views like the training's.

    Raises:
        UserError: see :func:`check_animation`.
    """
    path = Path(path)
    check_animation(path)
    found = detector.detect(rgba)
    frames = [overlays.draw_view(view, points, 1) for view, points in zip(rgba, found.keypoints, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write = _write_mp4 if path.suffix.lower() == ".mp4" else _write_gif
    with replacing(path) as temporary:
        write(frames, temporary)


def check_animation(path: Path) -> None:
    """Check that an animation can be written under this name.

    Raises:
        UserError: neither GIF nor MP4, or MP4 without PyAV.
    """
    if path.suffix.lower() not in (".gif", ".mp4"):
        raise UserError(f"{path}: neither GIF nor MP4: give a name that ends in .gif or .mp4")
    if path.suffix.lower() == ".mp4":
        import_av(path)


def _write_gif(frames: Sequence[Image.Image], path: Path) -> None:
    options = dict(save_all=True, append_images=frames[1:], duration=FRAME_MILLISECONDS, loop=0)
    frames[0].save(path, format="GIF", **options)


def _write_mp4(frames: Sequence[Image.Image], path: Path) -> None:
    """H.264 in 4:2:0, which every player and browser shows."""
    av = import_av(path)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(1000, FRAME_MILLISECONDS), options={"crf": "18"})
        stream.width, stream.height = (size // 2 * 2 for size in frames[0].size)  # 4:2:0 has no odd sizes
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


def locate(detector: Detector, rgba: np.ndarray, object_to_camera: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Keypoints of one object in its own frame: the median over views, each lifted with its pose.

    Args:
        rgba: uint8 (V, H, W, 4). object_to_camera: (V, 4, 4). intrinsics: (V, 3, 3).

    Returns:
        float64 (N, 3).
    """
    found = detector.detect(rgba)
    return np.median(metrics.object_points(found.keypoints, intrinsics, object_to_camera), axis=0)
