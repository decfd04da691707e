"""Pictures of keypoints: numbered, coloured points on enlarged views, pairs and grids.

The colour of a keypoint depends on its index alone, so that the same keypoint looks the same in every picture of the
trainer, of ``predict``, and of the report.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.schema import has_background
from train.eval.framing import resample_square

PALETTE = (
    (230, 25, 75), (60, 160, 60), (67, 99, 216), (245, 150, 30), (145, 30, 180), (40, 190, 215), (240, 50, 230),
    (150, 190, 20), (128, 64, 0), (0, 115, 115), (250, 130, 130), (255, 215, 0), (90, 90, 90), (0, 0, 128),
    (170, 110, 230), (128, 128, 0),
)  # fmt: skip
PICTURE_SIZE = 320  # pixels; smaller views are enlarged to at least this
DOT_SIZE = 1 / 38
MARGIN = 0.12  # of a close-up, on each side, as a share of what is shown
_INK = (40, 40, 48)


def keypoint_color(index: int) -> tuple[int, int, int]:
    """sRGB colour of keypoint ``index``: a fixed palette, then hues a golden angle apart."""
    if index < len(PALETTE):
        return PALETTE[index]
    hue = math.modf((index - len(PALETTE)) * 0.618034)[0]
    return tuple(round(255 * c) for c in colorsys.hls_to_rgb(hue, 0.42, 0.75))


def css_color(index: int) -> str:
    """:func:`keypoint_color` for CSS and SVG."""
    return "rgb({},{},{})".format(*keypoint_color(index))


def ink_on(index: int) -> str:
    """CSS colour, black or white, that reads on the colour of keypoint ``index``."""
    red, green, blue = keypoint_color(index)
    return "#000" if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else "#fff"


def on_white(rgba: np.ndarray, scale: float = 1.0) -> Image.Image:
    """Composite a view on white, if it has no background of its own, and resample it smoothly.

    Args:
        rgba: uint8 (H, W, 4), premultiplied. scale: enlargement.
    """
    height, width = rgba.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # over white, a premultiplied pixel is colour + (1 - alpha)
    white = 0 if has_background(rgba) else 255 - rgba[..., 3:].astype(np.int16)
    white = np.clip(rgba[..., :3].astype(np.int16) + white, 0, 255).astype(np.uint8)
    return Image.fromarray(white).resize(size, Image.Resampling.BICUBIC if scale >= 1 else Image.Resampling.LANCZOS)


def draw_view(
    rgba: np.ndarray, keypoints: np.ndarray, scale: float | None = None, dot: float = DOT_SIZE
) -> Image.Image:
    """Draw keypoints on a view.

    Points behind the surface are drawn like those in front of it; nearer ones over farther ones.

    Args:
        rgba: uint8 (H, W, 4), premultiplied. keypoints: (N, 2 or 3), u and v in pixels of ``rgba``, optionally z.
        scale: enlargement; by default a whole number that makes the shorter side at least ``PICTURE_SIZE``.
        dot: radius of a point, as a share of the shorter side.

    Returns:
        RGB image of size (W·scale, H·scale).
    """
    if scale is None:
        scale = math.ceil(PICTURE_SIZE / min(rgba.shape[:2]))
    picture = on_white(rgba, scale)
    enlarged = np.array(keypoints, np.float64)
    enlarged[:, :2] *= scale
    draw_points(picture, enlarged, dot)
    return picture


def close_up(rgba: np.ndarray, keypoints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut the square about the object and its keypoints out of a view.

    Args:
        rgba: uint8 (H, W, 4), premultiplied. keypoints: (N, 2 or 3), u and v in pixels of ``rgba``.

    Returns:
        uint8 (S, S, 4), and the keypoints in its pixels. Keypoints outside the view stay outside.
    """
    rows, columns = np.nonzero(rgba[..., 3])
    size = np.array(rgba.shape[1::-1])
    seen = np.clip(np.asarray(keypoints)[:, :2], 0, size)
    shown = np.concatenate([seen, np.stack([columns, rows], -1), np.stack([columns, rows], -1) + 1])
    low, high = shown.min(0), shown.max(0)
    side = math.ceil((high - low).max() * (1 + 2 * MARGIN))
    left, top = np.floor((low + high - side) / 2).astype(int)
    moved = np.array(keypoints, np.float64)
    moved[:, :2] -= (left, top)
    return resample_square(rgba, (left, top, side), side), moved


def draw_points(picture: Image.Image, keypoints: np.ndarray, dot: float = DOT_SIZE) -> None:
    """Draw numbered points in place.

    Args:
        picture: RGB. keypoints: (N, 2 or 3), u and v in pixels of ``picture``, optionally z for the order of drawing.
        dot: radius of a point, as a share of the shorter side.
    """
    keypoints = np.asarray(keypoints, np.float64)
    radius = max(3.0, min(picture.size) * dot)
    # dots are drawn 4 times finer and reduced, Pillow's ellipses have no anti-aliasing
    fine = 4
    layer = Image.new("RGBA", picture.size)
    font = ImageFont.load_default(size=max(6.0, radius * 1.35) * fine)
    order = np.argsort(-keypoints[:, 2], kind="stable") if keypoints.shape[1] > 2 else range(len(keypoints))
    for index in order:
        u, v = keypoints[index, :2]
        if not (np.isfinite(u) and np.isfinite(v)):
            continue
        sprite = _dot(int(index), radius * fine, font)
        size = math.ceil(sprite.width / fine)
        left, top = math.floor(u - size / 2), math.floor(v - size / 2)
        shift = ((u - size / 2 - left) * fine, (v - size / 2 - top) * fine)
        moved = Image.new("RGBA", ((size + 1) * fine, (size + 1) * fine))
        moved.paste(sprite, (round(shift[0]), round(shift[1])))
        _composite(layer, moved.resize((size + 1, size + 1), Image.Resampling.BOX), left, top)
    picture.paste(layer, mask=layer.getchannel("A"))


def draw_heatmap(rgba: np.ndarray, heatmap: np.ndarray, index: int, scale: float) -> Image.Image:
    """A keypoint's heat map in its colour over the faded view.

    Args:
        rgba: uint8 (H, W, 4), premultiplied. heatmap: (h, w) over the same field of view, any scale.
        index: of the keypoint. scale: enlargement.
    """
    view = np.asarray(on_white(rgba, scale), np.float32)
    faded = 255 - (255 - view) * 0.35
    peak = float(heatmap.max())
    strength = Image.fromarray(np.asarray(heatmap, np.float32) / (peak if peak > 0 else 1))
    strength = np.asarray(strength.resize(view.shape[1::-1], Image.Resampling.BILINEAR))[..., None]
    # the square root keeps the tails visible
    strength = np.sqrt(strength.clip(0, 1))
    mixed = faded * (1 - strength) + np.array(keypoint_color(index), np.float32) * strength
    return Image.fromarray(mixed.round().astype(np.uint8))


def draw_pair(rgba: np.ndarray, keypoints: np.ndarray, caption: str = "") -> Image.Image:
    """Both views of a pair side by side.

    Args:
        rgba: uint8 (2, H, W, 4), premultiplied. keypoints: (2, N, 2 or 3). caption: one line under the views.
    """
    views = [draw_view(view, points) for view, points in zip(rgba, keypoints, strict=True)]
    return tile(views, columns=2, captions=[caption, ""] if caption else None)


def draw_grid(
    rgba: np.ndarray, keypoints: np.ndarray, columns: int = 4, captions: Sequence[str] | None = None
) -> Image.Image:
    """A grid of views with their keypoints.

    Args:
        rgba: uint8 (V, H, W, 4), premultiplied. keypoints: (V, N, 2 or 3). captions: V short lines.
    """
    views = [draw_view(view, points) for view, points in zip(rgba, keypoints, strict=True)]
    return tile(views, columns, captions)


def tile(pictures: Sequence[Image.Image], columns: int, captions: Sequence[str] | None = None) -> Image.Image:
    """Lay pictures of one size out in rows on white, with optional captions under them.

    Raises:
        ValueError: no pictures.
    """
    if not pictures:
        raise ValueError("no pictures to lay out")
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    width, height = pictures[0].size
    gap = max(2, width // 80)
    font = ImageFont.load_default(size=max(10.0, width / 24))
    strip = round(font.size * 1.5) if captions else 0
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + strip + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for i, picture in enumerate(pictures):
        left = gap + (i % columns) * (width + gap)
        top = gap + (i // columns) * (height + strip + gap)
        sheet.paste(picture, (left, top))
        if captions:
            # a caption may run on under the next picture when that one has none
            room = width if columns == 1 or (i + 1 < len(pictures) and captions[i + 1]) else columns * width
            draw.text((left + gap, top + height), _fit(captions[i], font, room), fill=_INK, font=font)
    return sheet


def _dot(index: int, radius: float, font: ImageFont.FreeTypeFont) -> Image.Image:
    """A filled disc with a white rim and its number, centred in a square."""
    color = keypoint_color(index)
    half = math.ceil(radius * 1.25)
    sprite = Image.new("RGBA", (2 * half, 2 * half))
    draw = ImageDraw.Draw(sprite)
    for r, fill in ((1.25, (*_INK, 110)), (1.15, (255, 255, 255, 255)), (1.0, (*color, 255))):
        draw.ellipse((half - radius * r, half - radius * r, half + radius * r, half + radius * r), fill=fill)
    draw.text((half, half), str(index), font=font, anchor="mm", fill=ink_on(index))
    return sprite


def _composite(layer: Image.Image, sprite: Image.Image, left: int, top: int) -> None:
    """Alpha-composite a sprite that may hang over the edge (``Image.alpha_composite`` takes no negative offset)."""
    crop = (max(0, -left), max(0, -top), sprite.width, sprite.height)
    if crop[0] < crop[2] and crop[1] < crop[3] and left < layer.width and top < layer.height:
        layer.alpha_composite(sprite, (max(0, left), max(0, top)), crop)


def _fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Shorten a line with an ellipsis to a width in pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
