"""Keypoints of a user's own images: any size, with or without alpha, framed like the training views first.

A detector knows one camera, far away with a narrow view, and objects on black. An image becomes such a view thus:

1. The object is told from the background by alpha. Without alpha, a background of one colour (that of the image's
   border) is removed; failing that, the whole image is taken for the object, and accuracy suffers.
2. A square image whose object is as large and as central as in the training views is taken as it is. Otherwise a
   square about the object's bounding box is cut out (or padded) such that the box's longer side fills ``OBJECT_SHARE``
   of it, about the median of the training views.
3. The square is reduced to the network's size, and u and v of the keypoints are mapped back to the image.

Depth z stays that of the training camera.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from data.atomic import write_bytes
from data.errors import UserError
from train.detector import Detector
from train.eval import overlays

OBJECT_SHARE = 0.72  # of the square's side that the longer side of the object's box fills
TRAINING_SHARES = (0.4, 0.95)  # what training views span
TRAINING_OFFSET = 0.2  # of the side; how far the box's centre strays from the image's in training views
SOLID_ALPHA = 26  # a pixel of at least this alpha, of 255, belongs to the box
MAX_TOLERANCE = 24  # of 255; a border that varies more is not of one colour
RIM_CONTRAST = 60  # of 255; a rim pixel that differs this much from the background is all object
MAX_OVERLAY_PIXELS = 1600  # longer side of an overlay

WARNINGS = {
    "alpha": None,
    "uniform background": "no alpha: the background was removed by its colour, parts of the object in that colour are lost",
    "none": "no alpha and no uniform background: everything was taken for the object, expect poor keypoints; "
    "cut the object out first",
}


@dataclass
class FramedImage:
    """An image as the network will see it, and the way back.

    Attributes:
        rgba: uint8 (S, S, 4), premultiplied, what the detector is given.
        picture: uint8 (H, W, 4), premultiplied, the whole image.
        box: (left, top, side) of the square in pixels of the image; may lie partly outside.
        mask: how the object was found, a key of ``WARNINGS``.
        framing: "as given" or "cut out".
    """

    rgba: np.ndarray
    picture: np.ndarray
    box: tuple[float, float, float]
    mask: str
    framing: str


def predict(run: str | Path, images: list[str | Path], out: str | Path, device: str = "cpu") -> list[dict]:
    """Detect keypoints in image files; write an overlay of each and ``predictions.json`` to a folder.

    Args:
        run: run folder, or name of shipped weights.

    Returns:
        What ``predictions.json`` lists under ``images``, in the order given, without those that cannot be read.

    Raises:
        UserError: the run cannot be used, or some images cannot be read (after all others are done; each is named on
            its own line first).
    """
    detector = Detector.load(run, device)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    results, failures, names = [], [], set()
    for path in tqdm([Path(image) for image in images], desc="predict", unit="image", disable=None, leave=False):
        try:
            framed = load_image(path, detector.image_size)
        except UserError as error:
            tqdm.write(f"error: {error}", file=sys.stderr)
            failures.append({"file": str(path), "reason": str(error)})
            continue
        overlay = out / _free_name(path, names)
        result = detect_framed(detector, framed)
        draw_overlay(framed, result["keypoints"]).save(overlay)
        warning = WARNINGS[framed.mask]
        if warning:
            tqdm.write(f"{path}: {warning}", file=sys.stderr)
        results.append({"file": str(path), "overlay": overlay.name, **result, "warning": warning})
    document = {
        "run": str(run),
        "keypoints": "u and v in pixels of the image, (0, 0) is the corner of the top-left pixel; z is depth from the "
        "training camera, object units",
        "camera_distance": detector.config.camera_distance,
        "orientation_axes": list(detector.config.axes),
        "images": results,
        "failures": failures,
    }
    write_bytes(out / "predictions.json", _one_point_a_line(json.dumps(document, indent=1)).encode())
    if failures:
        raise UserError(f"predict: {len(failures)} of {len(images)} images failed, named above: mend or leave them out")
    return results


def detect_framed(detector: Detector, framed: FramedImage) -> dict:
    """Keypoints of one framed image as plain numbers, u and v in pixels of the image itself."""
    found = detector.detect(framed.rgba[None])
    left, top, side = framed.box
    size = framed.rgba.shape[0]
    keypoints = found.keypoints[0].astype(np.float64)
    keypoints[:, :2] = keypoints[:, :2] * (side / size) + (left, top)
    height, width = framed.picture.shape[:2]
    return {
        "width": width,
        "height": height,
        "keypoints": keypoints.round(4).tolist(),
        "orientation_flags": found.flags[0].tolist(),
        "mask": framed.mask,
        "framing": framed.framing,
        "square": [left, top, side],
    }


def draw_overlay(framed: FramedImage, keypoints: list[list[float]]) -> Image.Image:
    """The whole image with its keypoints, enlarged where the object is small; dots in proportion to the object."""
    height, width = framed.picture.shape[:2]
    side = framed.box[2]
    scale = min(max(1.0, overlays.PICTURE_SIZE / side), MAX_OVERLAY_PIXELS / max(height, width))
    return overlays.draw_view(framed.picture, np.array(keypoints), scale, overlays.DOT_SIZE * side / min(height, width))


def load_image(path: Path, size: int) -> FramedImage:
    """Read an image file and frame it for a network of input size ``size``.

    Raises:
        UserError: not an image, or nothing to see in it.
    """
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            has_alpha = "A" in image.getbands() or "transparency" in image.info
            image = image.convert("RGBA")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = "not an image" if unknown else f"damaged or too large ({error})"
        raise UserError(f"{path}: {reason}: give PNG or JPEG files") from None
    straight = np.array(image)
    if has_alpha and not straight[..., 3].any():
        raise UserError(f"{path}: fully transparent: nothing to detect")
    # an alpha channel that hides nothing says nothing
    if has_alpha and straight[..., 3].min() < 255:
        return frame(premultiply(straight), "alpha", size)
    removed = remove_background(straight[..., :3])
    if removed is not None:
        return frame(removed, "uniform background", size)
    return frame(straight, "none", size)


def frame(picture: np.ndarray, mask: str, size: int) -> FramedImage:
    """Cut a view out of an image, framed like the training views.

    Args:
        picture: uint8 (H, W, 4), premultiplied. mask: how the object was found. size: side of the view.
    """
    height, width = picture.shape[:2]
    if mask == "none":
        side = max(height, width)
        box, framing = ((width - side) / 2, (height - side) / 2, float(side)), "as given"
    else:
        solid = picture[..., 3] >= min(SOLID_ALPHA, int(picture[..., 3].max()))
        rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
        left, right, top, bottom = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
        extent = max(right - left, bottom - top)
        center = np.array([(left + right) / 2, (top + bottom) / 2])
        offset = np.abs(center / (width, height) - 0.5).max()
        share = extent / max(width, height)
        if width == height and TRAINING_SHARES[0] <= share <= TRAINING_SHARES[1] and offset <= TRAINING_OFFSET:
            # the detector reduces it just as it does the views of a dataset
            return FramedImage(picture, picture, (0.0, 0.0, float(width)), mask, "as given")
        else:
            side = extent / OBJECT_SHARE
            box, framing = (float(center[0] - side / 2), float(center[1] - side / 2), float(side)), "cut out"
    return FramedImage(resample_square(picture, box, size), picture, box, mask, framing)


def resample_square(picture: np.ndarray, box: tuple[float, float, float], size: int) -> np.ndarray:
    """Cut a square, also between pixels and beyond the border (transparent there), and resample it by area.

    Args:
        picture: uint8 (H, W, 4), premultiplied. box: (left, top, side) in pixels. size: side of the result.
    """
    left, top, side = box
    first = np.floor([top, left]).astype(int)
    last = np.ceil([top + side, left + side]).astype(int)
    height, width = picture.shape[:2]
    padded = np.zeros((*(last - first), 4), np.uint8)
    rows = slice(max(0, first[0]), min(height, last[0]))
    columns = slice(max(0, first[1]), min(width, last[1]))
    padded[rows.start - first[0] : rows.stop - first[0], columns.start - first[1] : columns.stop - first[1]] = picture[
        rows, columns
    ]
    inner = (left - first[1], top - first[0], left - first[1] + side, top - first[0] + side)
    filter_ = Image.Resampling.BOX if side >= size else Image.Resampling.BILINEAR
    # channel by channel: colours are premultiplied already, Pillow would multiply them by alpha again
    channels = [Image.fromarray(padded[..., c]).resize((size, size), filter_, inner) for c in range(4)]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


def premultiply(straight: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 4) with straight alpha to premultiplied."""
    alpha = straight[..., 3:].astype(np.uint16)
    color = (straight[..., :3] * alpha + 127) // 255
    return np.concatenate([color, alpha], axis=-1).astype(np.uint8)


def remove_background(rgb: np.ndarray) -> np.ndarray | None:
    """Make a background of one colour transparent, where it is connected with the border.

    Args:
        rgb: uint8 (H, W, 3).

    Returns:
        uint8 (H, W, 4), premultiplied; None if the border is not of one colour or nothing remains.
    """
    border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]]).astype(np.int16)
    color = np.median(border, axis=0).astype(np.int16)
    noise = np.percentile(np.abs(border - color).max(-1), 90)
    if noise > MAX_TOLERANCE / 2:
        return None
    tolerance = 6 + 1.5 * noise  # 6 for a drawn background, MAX_TOLERANCE for a grainy one
    difference = np.abs(rgb.astype(np.int16) - color).max(-1)
    connected = _connected_to_border(difference <= tolerance)
    # a pixel of the rim is a mixture; how far it is from the background tells how much
    alpha = np.where(connected, (difference - tolerance / 2) / RIM_CONTRAST, 1.0).clip(0, 1)[..., None]
    if not (alpha > 0.5).any():
        return None
    object_color = (rgb - (1 - alpha) * color).clip(0, 255 * alpha)
    return np.concatenate([object_color, 255 * alpha], axis=-1).round().astype(np.uint8)


def _connected_to_border(background: np.ndarray) -> np.ndarray:
    """Part of a boolean mask (H, W) that hangs together with the border, and a rim of two pixels around it.

    Followed in a reduced picture of at most 256 pixels.
    """
    height, width = background.shape
    factor = max(1.0, max(height, width) / 256)
    small = Image.fromarray(background).resize((max(1, round(width / factor)), max(1, round(height / factor))))
    open_ = np.pad(np.asarray(small), 1, constant_values=True)
    reached = np.zeros_like(open_)
    reached[[0, -1]] = reached[:, [0, -1]] = True
    while True:
        grown = _dilate(reached) & open_
        if (grown == reached).all():
            break
        reached = grown
    rim = _dilate(_dilate(reached))[1:-1, 1:-1]
    return np.asarray(Image.fromarray(rim).resize((width, height)))


def _dilate(mask: np.ndarray) -> np.ndarray:
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown


def _one_point_a_line(text: str) -> str:
    """Join lists of numbers in indented JSON."""
    joined = re.sub(r"\[\n[\s\d.,eE+-]+\]", lambda m: re.sub(r"\s+", "", m[0]).replace(",", ", "), text)
    return joined + "\n"


def _free_name(path: Path, taken: set[str]) -> str:
    """Name of an overlay, unique among images of the same name in different folders."""
    name, number = f"{path.stem}.png", 1
    while name in taken:
        number += 1
        name = f"{path.stem}-{number}.png"
    taken.add(name)
    return name
