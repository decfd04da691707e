"""What pictures from elsewhere need before Pillow converts them."""

from __future__ import annotations

import numpy as np
from PIL import Image


def to_8_bits(image: Image.Image) -> Image.Image:
    """A grey picture of 16 bits as one of 8, which ``convert`` would clip; others as they are.

    Values that all fit in 8 bits, as those of a mask of 0 and 1, are kept.
    """
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64).clip(0, 65535)
    return Image.fromarray((values if values.max() < 256 else values >> 8).astype(np.uint8))
