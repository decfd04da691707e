"""What `predict` is given: image files, folders, patterns, videos, or a list of them on standard input."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import ModuleType

from PIL import Image

from data.errors import UserError
from train.eval.framing import open_frames, open_image

IMAGE_SUFFIXES = set(
    ".avif .bmp .dib .gif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()
)
SOFTWARE = "keypointnet predict"  # marks overlays, which are no input and which a later run may replace
ANIMATED_SUFFIXES = {".gif", ".png", ".webp"}  # several pictures in a file of another kind are no animation
VIDEO_SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}


def expand(arguments: Sequence[str | Path]) -> list[Path]:
    """The files that arguments stand for, in their order; those of a folder or a pattern by name.

    Args:
        arguments: files; folders (all images and videos directly in them); patterns with ``*``, ``?`` or ``[]``
            (``**`` for any depth); "-" for one of these per line of standard input. Overlays count only by name.

    Raises:
        UserError: a folder or pattern without any file, or nothing at all.
    """
    paths: list[Path] = []
    for argument in map(str, arguments):
        if argument == "-":
            lines = [line.rstrip("\r\n") for line in sys.stdin]
            paths += expand([line for line in lines if line])
        elif Path(argument).is_dir():
            paths += _some(sorted(p for p in Path(argument).iterdir() if _is_readable(p)), argument, "no images in it")
        elif not Path(argument).exists() and glob.has_magic(argument):
            matches = [Path(p) for p in sorted(glob.glob(argument, recursive=True)) if not is_overlay(Path(p))]
            paths += _some(matches, argument, "matches no file")
        else:
            paths.append(Path(argument))
    return _some(paths, "predict", "no images given")


def read_images(path: Path) -> Iterator[tuple[int | None, Image.Image]]:
    """The image in a file, or the frames of a video or an animation.

    Returns:
        (number of the frame from 0, or None for an image; the picture) one after the other.

    Raises:
        UserError: it cannot be read; videos need PyAV.
    """
    if path.suffix.lower() in ANIMATED_SUFFIXES:
        frames = open_frames(path)
        first, second = next(frames), next(frames, None)
        yield None if second is None else 0, first
        if second is not None:
            yield from enumerate(chain([second], frames), 1)
        return
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        yield None, open_image(path)
        return
    if not path.exists():
        raise UserError(f"{path}: no such file")
    av = import_av(path)
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            for number, frame in enumerate(container.decode(video=0)):
                # phones store what is filmed upright as lying on its side
                yield number, frame.to_image().rotate(frame.rotation, expand=True)
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise UserError(f"{path}: not a video that can be decoded ({error}): convert it to MP4") from None


def import_av(path: Path) -> ModuleType:
    """PyAV, which reads and writes videos.

    Raises:
        UserError: it is not installed; ``path`` needs it.
    """
    try:
        import av
    except ImportError:
        raise UserError(f"{path}: videos need the package av: pip install av") from None
    return av


def is_overlay(path: Path) -> bool:
    """Whether a file is an overlay that `predict` has drawn."""
    if path.suffix.lower() != ".png" or not path.is_file():
        return False
    try:
        with Image.open(path) as image:
            return image.info.get("Software") == SOFTWARE
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def _is_readable(path: Path) -> bool:
    suffix = path.suffix.lower()
    return path.is_file() and suffix in VIDEO_SUFFIXES | IMAGE_SUFFIXES and not is_overlay(path)


def _some(paths: list[Path], argument: str, problem: str) -> list[Path]:
    if not paths:
        raise UserError(f"{argument}: {problem}: give PNG or JPEG files")
    return paths
