"""What pictures from elsewhere need before Pillow converts them."""

from __future__ import annotations

import numpy as np
from PIL import EpsImagePlugin, Image

EpsImagePlugin.gs_binary = False  # PostScript is a program: no picture of another's may start its interpreter


def to_8_bits(image: Image.Image) -> Image.Image:
    """A grey picture of 16 bits, or of floats, as one of 8, which ``convert`` would clip; others as they are.

    Values that all fit in 8 bits, as those of a mask of 0 and 1, are kept; floats up to 1 are shares of white. With
    alpha, if one value is transparent.

    Raises:
        ValueError: floats that are not finite.
    """
    if image.mode[0] not in "IF":
        return image
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("numbers that are not finite")
    if image.mode == "F" and values.max() <= 1:
        values = values * 255
    values = values.round().astype(np.int64).clip(0, 65535)
    grey = Image.fromarray((values if values.max() < 256 else values >> 8).astype(np.uint8))
    if isinstance(clear := image.info.get("transparency"), int):  # of a PNG: the value that is transparent
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def pixels_under(points: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels that image points fall on.

    Args:
        points: (*, 2 or more), u and v in pixels. shape: height and width of the image.

    Returns:
        row and column, int (*), 0 for points outside of the image; whether they are inside, bool (*).
    """
    cells = np.floor(np.asarray(points)[..., :2])
    inside = ((cells >= 0) & (cells < shape[::-1])).all(-1)
    column, row = np.moveaxis(np.where(inside[..., None], cells, 0).astype(int), -1, 0)
    return row, column, inside
