"""Images of a user's own, any size, with or without alpha, turned into views like those of the training.

A detector knows one camera, far away with a narrow view, and objects on black. An image becomes such a view thus:

1. The object is told from the background by a mask given with the image, else by alpha. Without either, a background of
   one colour (the one given, or that of the image's border) is removed; failing that, the whole image is taken for the
   object, and accuracy suffers. Specks beside the object are cleared.
2. A square image whose object is as large and as central as in the training views is taken as it is, and so is a
   square one of the training's camera unless the object is far away. Otherwise a square about the object's bounding
   box is cut out (or padded) such that the box's longer side fills ``OBJECT_SHARE`` of it, about the median of the
   training views.
3. The square is resampled to the size of the training images.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageSequence
from scipy import ndimage

from data.errors import UserError
from data.images import to_8_bits
from train.config import TrainConfig

DEFAULT_CAMERA = TrainConfig.focal_length / TrainConfig.camera_distance  # for which the next four hold
OBJECT_SHARE = 0.72  # of the square's side that the longer side of the object's box fills
TRAINING_SHARES = (0.4, 0.95)  # what training views span
OWN_SHARE = 0.2  # at least, if the image is of the training's camera: an object seen end-on; a smaller one is far away
REDUCED_SHARE = 0.6  # at least, if the image is of another and will be reduced: detail would be lost
TRAINING_OFFSET = 0.2  # of the side; how far the box's centre strays from the image's in training views
SOLID_ALPHA = 26  # a pixel of at least this alpha, of 255, belongs to the box
HIDDEN_SHARE = 0.001  # of an image at least, that alpha hides where it tells an object
SPECK_SHARE = 0.01  # of the area of the largest part; what is smaller and stands apart is no part of the object
LONGEST_SIDE = 2**15  # pixels; an image is padded to a square
SPECK_GRID = 256  # cells along the longer side, in which parts are told apart: those in neighbouring cells are one
ROWS_AT_ONCE = 256
MAX_TOLERANCE = 24  # of 255; a border that varies more is not of one colour
MIN_BORDER = 0.05  # of the border must have the background's colour, if one is given
RIM_CONTRAST = 60  # of 255; a rim pixel that differs this much from the background is all object

WARNINGS = {
    "given": None,
    "alpha": None,
    "background": "the background was removed by its colour, parts of the object in that colour are lost",
    "none": "no alpha, and no object told from a background of one colour: everything was taken for the object, expect "
    "poor keypoints; cut the object out first, or give --mask",
}


@dataclass(frozen=True)
class FramedImage:
    """An image as the network will see it, and the way back.

    Attributes:
        rgba: uint8 (S, S, 4), premultiplied, what the detector is given.
        picture: uint8 (H, W, 4), premultiplied, the whole image.
        box: (left, top, side) of the square in pixels of the image; may lie partly outside.
        object_box: the square that would be cut out for the object's size; ``box`` where that is not known.
        mask: how the object was found, a key of ``WARNINGS``.
        framing: "as given" or "cut out".
    """

    rgba: np.ndarray
    picture: np.ndarray
    box: tuple[float, float, float]
    object_box: tuple[float, float, float]
    mask: str
    framing: str


def open_image(path: str | Path) -> Image.Image:
    """Read an image file, turned upright by its EXIF orientation; RGBA if it has transparency, else RGB.

    Raises:
        UserError: missing, or not an image.
    """
    return next(open_frames(path))


def open_frames(path: str | Path) -> Iterator[Image.Image]:
    """:func:`open_image` of every picture in a file, as an animation has several."""
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path}: a pipe or a device, not a file")
    with ExitStack() as stack:
        with _decoding(path):
            # Not by its name: Pillow 13 garbles some turned TIFFs that it maps into memory.
            opened = stack.enter_context(Image.open(stack.enter_context(path.open("rb"))))
            if max(opened.size) > LONGEST_SIDE:
                raise ValueError(f"{opened.width} x {opened.height} pixels, at most {LONGEST_SIDE} a side")
            frames = ImageSequence.Iterator(opened)
        while True:
            with _decoding(path):
                if (frame := next(frames, None)) is None:
                    return
                image = decoded(frame)
            yield image


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """What goes wrong within as :class:`UserError` of the file; no warnings of metadata, which do not matter here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, not an image") from None
    except MemoryError:
        raise
    except Exception as error:  # decoders meet bad files with whatever exception their bugs make
        if isinstance(error, OSError) and error.errno:
            raise UserError(f"{path}: cannot be read ({error.strerror}): check its permissions and the disk") from None
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = "not an image" if unknown else f"damaged or too large ({error})"
        raise UserError(f"{path}: {reason}: give PNG or JPEG files") from None


def decoded(image: Image.Image) -> Image.Image:
    """Turned upright, RGBA if it has transparency, else RGB. Raises whatever Pillow does."""
    image = to_8_bits(upright(image))
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    return image.convert("RGBA" if has_alpha else "RGB")


def upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says. Pillow's own function writes the EXIF anew, and fails on odd ones."""
    image.load()  # Pillow turns a TIFF as it decodes it, and its orientation is gone then
    method = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation))
    return image if method is None else image.transpose(method)


_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def frame_image(
    image: Image.Image,
    size: int,
    mask: Image.Image | None = None,
    background: tuple[int, int, int] | None = None,
    name: str = "image",
    size_in_view: float = 1.0,
    own_camera: bool = False,
) -> FramedImage:
    """Find the object in an image and cut a view of it out.

    Args:
        image: RGB or RGBA (straight alpha). size: side of the view, a detector's ``image_size``.
        mask: of the image's size, see :func:`mask_channel`; replaces the image's alpha.
        background: sRGB colour to remove; by default that of the border, if the border is of one colour.
        name: of the image, for messages. size_in_view: see :func:`apparent_size`.
        own_camera: whether the image is known to be of the training's camera.

    Raises:
        UserError: the mask does not fit, the border is not of the background's colour, or nothing of the image is
            object.
    """
    straight = np.array(image.convert("RGBA"))
    if mask is not None:
        if mask.size != image.size:
            raise UserError(f"{name}: its mask is {mask.size}, the image {image.size}: give one of the same pixels")
        straight[..., 3] = mask_channel(mask)
    if not straight[..., 3].any():
        empty = "fully transparent" if mask is None else "its mask is empty"
        raise UserError(f"{name}: {empty}, so there is no object: give an image, or a mask, that shows one")
    if mask is not None:
        found, picture = "given", premultiply(straight)
    elif _hides(straight[..., 3]):
        found, picture = "alpha", premultiply(straight)
    elif background is not None and not border_has(straight[..., :3], background):
        raise UserError(
            f"{name}: its border does not have the --background colour: give the right one, or leave the option out"
        )
    elif (removed := remove_background(straight[..., :3], background)) is not None:
        found, picture = "background", removed
    else:
        straight[..., 3] = 255
        found, picture = "none", straight
    if found != "none":
        _clear_specks(picture)
    return frame(picture, found, size, size_in_view, own_camera)


def _hides(alpha: np.ndarray) -> bool:
    """Whether an alpha channel (H, W) hides anything; one that does not says nothing of the object."""
    return (alpha < SOLID_ALPHA).mean() >= HIDDEN_SHARE


def _clear_specks(picture: np.ndarray) -> None:
    """Make transparent what stands apart from the object and is tiny beside it, in place: dust, remains of a cut-out.

    Args:
        picture: uint8 (H, W, 4).
    """
    height, width = picture.shape[:2]
    cell = -(-max(height, width) // SPECK_GRID)
    alpha = np.pad(picture[..., 3], ((0, -height % cell), (0, -width % cell)))
    alpha = alpha.reshape(alpha.shape[0] // cell, cell, -1, cell).sum((1, 3), dtype=np.int64)
    parts, number = ndimage.label(alpha > 0, np.ones((3, 3)))
    areas = ndimage.sum_labels(alpha, parts, np.arange(number + 1))
    specks = areas < SPECK_SHARE * areas.max()
    if specks[1:].any():
        picture[np.kron(specks[parts] & (alpha > 0), np.ones((cell, cell), bool))[:height, :width]] = 0


def apparent_size(config: TrainConfig) -> float:
    """How large objects appear in the views that a detector was trained with, over those of the default camera."""
    return config.focal_length / config.camera_distance / DEFAULT_CAMERA


def mask_channel(mask: Image.Image) -> np.ndarray:
    """uint8 (H, W), 255 where the object is: the mask's alpha where that hides anything, else its brightness.

    The brightest value counts as 255, for labels are small numbers or dark colours.
    """
    alpha = np.asarray(mask.convert("RGBA").getchannel("A"))
    channel = alpha if _hides(alpha) else np.asarray(mask.convert("L"))
    return (channel * (255.0 / max(1, channel.max()))).round().astype(np.uint8)


def frame(
    picture: np.ndarray, mask: str, size: int, size_in_view: float = 1.0, own_camera: bool = False
) -> FramedImage:
    """Cut a view out of an image, framed like the training views.

    Args:
        picture: uint8 (H, W, 4), premultiplied. mask: how the object was found. size: side of the view.
        size_in_view: see :func:`apparent_size`. own_camera: see :func:`frame_image`.
    """
    height, width = picture.shape[:2]
    least = (TRAINING_SHARES[0] if width <= size else REDUCED_SHARE) * size_in_view
    most = min(TRAINING_SHARES[1] * size_in_view, 1.0)
    if mask == "none":
        side = max(height, width)
        box = object_box = ((width - side) / 2, (height - side) / 2, float(side))
        framing = "as given"
    else:
        solid = picture[..., 3] >= min(SOLID_ALPHA, int(picture[..., 3].max()))
        rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
        left, right, top, bottom = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
        extent = max(right - left, bottom - top)
        center = np.array([(left + right) / 2, (top + bottom) / 2])
        offset = np.abs(center / (width, height) - 0.5).max()
        share = extent / max(width, height)
        side = extent / min(OBJECT_SHARE * size_in_view, TRAINING_SHARES[1])  # all of it, even if trained on parts
        object_box = (float(center[0] - side / 2), float(center[1] - side / 2), float(side))
        if own_camera:
            like_training = share >= OWN_SHARE * size_in_view
        else:
            like_training = least <= share <= most and offset <= TRAINING_OFFSET
        if width == height and like_training:
            box, framing = (0.0, 0.0, float(width)), "as given"
            if width <= 2 * size:  # more of them would fill the memory
                return FramedImage(picture, picture, box, object_box, mask, framing)
        else:
            box, framing = object_box, "cut out"
    return FramedImage(resample_square(picture, box, size), picture, box, object_box, mask, framing)


def resample_square(picture: np.ndarray, box: tuple[float, float, float], size: int) -> np.ndarray:
    """Cut a square, also between pixels and beyond the border (transparent there), and resample it by area.

    Args:
        picture: uint8 (H, W, 4), premultiplied. box: (left, top, side) in pixels. size: side of the result.
    """
    left, top, side = box
    first = np.floor([top, left]).astype(int)
    last = np.ceil([top + side, left + side]).astype(int)
    height, width = picture.shape[:2]
    rows = slice(max(0, first[0]), min(height, last[0]))
    columns = slice(max(0, first[1]), min(width, last[1]))
    filter_ = Image.Resampling.BOX if side >= size else Image.Resampling.BILINEAR
    # First along the rows, some at a time, then along the columns, as Pillow does it too: a long strip padded to a
    # square at once would fill the memory. Channel by channel: colours are premultiplied, Pillow would do it again.
    tall = np.zeros((last[0] - first[0], size, 4), np.uint8)
    for start in range(rows.start, rows.stop, ROWS_AT_ONCE):
        part = picture[start : min(start + ROWS_AT_ONCE, rows.stop), columns]
        wide = np.zeros((len(part), last[1] - first[1], 4), np.uint8)
        wide[:, columns.start - first[1] : columns.stop - first[1]] = part
        box = (left - first[1], 0, left - first[1] + side, len(part))
        tall[start - first[0] : start - first[0] + len(part)] = _resize(wide, (size, len(part)), filter_, box)
    return _resize(tall, (size, size), filter_, (0, top - first[0], size, top - first[0] + side))


def _resize(
    picture: np.ndarray, size: tuple[int, int], filter_: Image.Resampling, box: tuple[float, float, float, float]
) -> np.ndarray:
    channels = [Image.fromarray(picture[..., c]).resize(size, filter_, box) for c in range(4)]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


def premultiply(straight: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 4) with straight alpha to premultiplied."""
    alpha = straight[..., 3:].astype(np.uint16)
    color = (straight[..., :3] * alpha + 127) // 255
    return np.concatenate([color, alpha], axis=-1).astype(np.uint8)


def border_has(rgb: np.ndarray, color: tuple[int, int, int]) -> bool:
    """Whether some of the border of an image, uint8 (H, W, 3), is about of this colour."""
    border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]]).astype(np.int16)
    return bool((np.abs(border - color).max(-1) <= MAX_TOLERANCE).mean() >= MIN_BORDER)


def remove_background(rgb: np.ndarray, color: tuple[int, int, int] | None = None) -> np.ndarray | None:
    """Make a background of one colour transparent, where it is connected with the border.

    Args:
        rgb: uint8 (H, W, 3). color: of the background; by default the border's median.

    Returns:
        uint8 (H, W, 4), premultiplied; None if the border is not of one colour (and none was given) or nothing remains.
    """
    border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]]).astype(np.int16)
    chosen = np.median(border, axis=0) if color is None else color
    given, color = color is not None, np.asarray(chosen, np.int16)
    noise = np.percentile(np.abs(border - color).max(-1), 90)
    if noise > MAX_TOLERANCE / 2 and not given:
        return None
    noise = min(noise, MAX_TOLERANCE / 2)
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

    Followed in a reduced picture of at most 256 cells, which are background if about as many of their pixels are as at
    the border: so thin outlines hold, and a grain does not.
    """
    height, width = background.shape
    factor = max(1.0, max(height, width) / 256)
    cells = (max(1, round(width / factor)), max(1, round(height / factor)))
    share = Image.fromarray(background.astype(np.float32)).resize(cells, Image.Resampling.BOX)
    border = np.concatenate([background[0], background[-1], background[:, 0], background[:, -1]]).mean()
    open_ = np.pad(np.asarray(share) > 0.9 * border, 1, constant_values=True)
    parts, _ = ndimage.label(open_)
    rim = ndimage.binary_dilation(parts == parts[0, 0], iterations=2)[1:-1, 1:-1]
    return np.asarray(Image.fromarray(rim).resize((width, height)))
