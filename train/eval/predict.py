"""The command `predict`: keypoints of a user's own images as JSON, CSV and NPZ, and an overlay of each."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from data.atomic import replacing, write_bytes
from data.errors import UserError
from data.signals import handled_by
from train.api import Keypoints, detect_framed, frame_for, relative_pose
from train.detector import Detector, resolve_device
from train.eval import overlays
from train.eval.framing import FramedImage, border_has, open_image
from train.eval.inputs import IMAGE_SUFFIXES, SOFTWARE, expand, is_overlay, read_images

MAX_OVERLAY_PIXELS = 1600  # longer side of an overlay
MAX_NUMBER = 1e9  # of what is given in pixels or as a length
UNCALIBRATED = "without --intrinsics the rotation is about the line of sight to the object: right if that is the same"
IMAGES_AT_ONCE = 8  # kept in memory; the results do not depend on it


@dataclass(frozen=True)
class PredictOptions:
    """What a user tells about the images, and how to work.

    Raises:
        UserError: no such colour, a mask that is no picture, or a length or focal length that is not positive and
            finite.
    """

    mask: Path | None = None  # image that is bright where the object is, or a folder of them under the images' names
    background: str | None = None  # colour to remove where there is no alpha; by default the border's
    intrinsics: tuple[float, float, float, float] | None = None  # fx,fy,cx,cy in pixels: gives points in 3D
    object_length: float = 2.0  # longest side of the object, in the unit that points shall have
    device: str = "cpu"  # where the network runs: auto, cpu or cuda

    def __post_init__(self):
        resolve_device(self.device)
        if not 0 < self.object_length <= MAX_NUMBER:
            raise UserError(f"object_length {self.object_length}: give a length above 0, at most {MAX_NUMBER:g}")
        if self.mask and not self.mask.is_dir():
            open_image(self.mask)
        _ = self.color, self.camera_matrix  # both raise

    @property
    def color(self) -> tuple[int, int, int] | None:
        """``background``, a CSS name or "#rrggbb", as sRGB."""
        try:
            return ImageColor.getcolor(self.background, "RGB") if self.background else None
        except ValueError:
            raise UserError(f"background: {self.background!r} is no colour: give one like white or '#00ff00'") from None

    @property
    def camera_matrix(self) -> np.ndarray | None:
        """K (3, 3) of ``intrinsics``."""
        if self.intrinsics is None:
            return None
        fx, fy, cx, cy = self.intrinsics
        if not (fx > 0 and fy > 0 and np.abs(self.intrinsics).max() <= MAX_NUMBER):
            raise UserError(
                f"intrinsics {fx:g},{fy:g},{cx:g},{cy:g}: give FX,FY,CX,CY in pixels, focal lengths above 0, none "
                f"beyond {MAX_NUMBER:g}"
            )
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


@handled_by(signal.default_int_handler, signal.SIGTERM)
def predict(
    run: str | Path,
    images: Sequence[str | Path],
    out: str | Path,
    options: PredictOptions = PredictOptions(),
) -> list[dict]:
    """Detect keypoints in images; write overlays and ``predictions.json``, ``.csv`` and ``.npz`` to a folder.

    Args:
        run: run folder, or name of shipped weights. images: see :func:`train.eval.inputs.expand`.

    Returns:
        What ``predictions.json`` lists under ``images``, in the order given, without those that cannot be read.

    Raises:
        UserError: the run cannot be used, or some images cannot be read (after all others are done; each is named on
            its own line first).
    """
    paths = expand(images)
    detector = Detector.load(run, options.device)
    out = Path(out)
    new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    results, failures = [], []
    names: set[str] = set()
    warned: set[tuple[Path, str]] = set()  # of a video, once
    try:
        for batch in _batches(_frame_all(paths, detector, options, failures)):
            shown = [framed for *_, framed in batch]
            found = detect_framed(detector, shown, options.camera_matrix, options.object_length)
            for (path, number, framed), keypoints in zip(batch, found, strict=True):
                overlay = out / _free_name(out, path.stem if number is None else f"{path.stem}-{number:06d}", names)
                with replacing(overlay, durable=False) as partial:
                    draw_overlay(framed, keypoints.keypoints).save(partial, format="PNG", pnginfo=_mark())
                if (warning := keypoints.warning) and (path, warning) not in warned:
                    warned.add((path, warning))
                    tqdm.write(f"{path}: {warning}", file=sys.stderr)
                told = _describe(keypoints, options.object_length)
                results.append({"file": str(path), "frame": number, "overlay": overlay.name, **told})
    finally:  # interrupted, what is done is not lost
        if results:  # without any, those of an earlier run are not either
            _write_results(out, run, detector, options, results, failures)
        elif new:
            with suppress(OSError):
                out.rmdir()
    if failures and len(paths) == 1 and not results:
        raise UserError(failures[0]["reason"])
    if failures:
        count = len(failures) + len(results)
        raise UserError(f"predict: {len(failures)} of {count} images failed, named above: mend or leave them out")
    return results


def pose(run: str | Path, first: Path, second: Path, options: PredictOptions = PredictOptions()) -> str:
    """The motion of an object between two image files, as JSON; a warning on standard error for each poor cut-out.

    Raises:
        UserError: the run or an image cannot be used.
    """
    if options.mask is not None and not Path(options.mask).is_dir():
        raise UserError(f"{options.mask}: one mask for two images: give a folder with a mask for each")
    detector = Detector.load(run, options.device)
    framed = []
    for path in (first, second):
        mask = _mask_of(path, options.mask)
        image = open_image(path)
        framed.append(frame_for(detector, image, mask, options.color, str(path), options.camera_matrix))
    views = detect_framed(detector, framed, options.camera_matrix, options.object_length)
    for path, view in zip((first, second), views, strict=True):
        if view.warning:
            print(f"{path}: {view.warning}", file=sys.stderr)
    if options.intrinsics is None:
        print(f"{first}, {second}: {UNCALIBRATED}", file=sys.stderr)
    found = relative_pose(*views)
    document = {
        "rotation": found.rotation.tolist(),
        "angle_degrees": found.angle_degrees,
        "translation": None if found.translation is None else found.translation.tolist(),
        "residual": found.residual,
        "object_length": options.object_length,
        "convention": "X_B = rotation @ X_A + translation; camera frames +x right, +y down, +z forward; translation "
        "and residual in the unit of object_length",
    }
    return _one_point_a_line(json.dumps(document, indent=1)).rstrip()


def draw_overlay(framed: FramedImage, keypoints: np.ndarray) -> Image.Image:
    """The whole image with its keypoints, enlarged where the object is small; dots in proportion to the object."""
    height, width = framed.picture.shape[:2]
    side = framed.box[2]
    scale = min(max(1.0, overlays.PICTURE_SIZE / side), MAX_OVERLAY_PIXELS / max(height, width))
    return overlays.draw_view(framed.picture, keypoints, scale, overlays.DOT_SIZE * side / min(height, width))


def _frame_all(
    paths: list[Path], detector: Detector, options: PredictOptions, failures: list[dict]
) -> Iterator[tuple[Path, int | None, FramedImage]]:
    """Every image of every file that can be used; the others are added to ``failures`` and named."""

    def failed(path: Path, number: int | None, error: UserError) -> None:
        if len(paths) > 1 or number is not None:
            tqdm.write(f"error: {error}", file=sys.stderr)
        failures.append({"file": str(path), "frame": number, "reason": str(error)})

    for path in tqdm(paths, desc="predict", unit="file", disable=None, leave=False):
        try:
            mask = _mask_of(path, options.mask)
            for number, image in read_images(path):
                background = options.color
                if number and background and not border_has(np.asarray(image)[..., :3], background):
                    background = None  # of a video only the first frame must have it: an object may fill a later one
                name = str(path) if number is None else f"{path}: frame {number}"
                try:
                    framed = frame_for(detector, image, mask, background, name, options.camera_matrix)
                except UserError as error:  # a blank one, say: of a video the others are not lost
                    failed(path, number, error)
                else:
                    yield path, number, framed
        except UserError as error:
            failed(path, None, error)


def _mask_of(path: Path, mask: Path | None) -> Image.Image | None:
    if mask is None:
        return None
    if not mask.is_dir():
        return open_image(mask)
    named = sorted(p for p in mask.iterdir() if p.stem == path.stem and p.suffix.lower() in IMAGE_SUFFIXES)
    found = [p for p in named if not path.exists() or not p.samefile(path)]
    if len(found) != 1:
        several = f"{len(found)} masks" if found else "no mask"
        raise UserError(f"{path}: {several} of this name in {mask}: keep one, {path.stem}.png")
    return open_image(found[0])


def _batches(items: Iterator) -> Iterator[list]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == IMAGES_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _describe(found: Keypoints, object_length: float) -> dict:
    framed = found.framed
    digits = max(6, 6 - math.floor(math.log10(object_length)))  # a small unit has as many that count
    height, width = framed.picture.shape[:2]
    return {
        "width": width,
        "height": height,
        "keypoints": found.keypoints.round(4).tolist(),
        "points": found.points.round(digits).tolist() if found.calibrated else None,
        "sigma": None if found.sigma is None else found.sigma.round(digits).tolist(),
        "orientation_flags": found.flags.tolist(),
        "mask": framed.mask,
        "framing": framed.framing,
        "square": list(framed.box),
        "warning": found.warning,
    }


def _write_results(
    out: Path, run: str | Path, detector: Detector, options: PredictOptions, results: list[dict], failures: list[dict]
) -> None:
    document = {
        "run": str(run),
        "conventions": {
            "keypoints": "u and v in pixels of the image, (0, 0) is the corner of the top-left pixel; z is depth from "
            "the training camera, object units",
            "points": "x, y, z in the frame of the camera with these intrinsics (+x right, +y down, +z forward), in "
            "the unit of object_length; null without intrinsics",
            "sigma": "standard deviation that the network expects of a point's coordinates, in the unit of "
            "object_length",
        },
        "intrinsics": options.intrinsics,
        "object_length": options.object_length,
        "camera_distance": detector.config.camera_distance,
        "orientation_axes": list(detector.config.axes),
        "images": results,
        "failures": failures,
    }
    write_bytes(out / "predictions.json", _one_point_a_line(json.dumps(document, indent=1)).encode())
    write_bytes(out / "predictions.csv", _csv(results).encode(errors="surrogateescape"))  # as the files are named
    write_bytes(out / "predictions.npz", _npz(results, detector.num_keypoints))


def _csv(results: list[dict]) -> str:
    """One row a keypoint; x, y, z are empty without intrinsics, sigma where the network does not tell it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "frame", "keypoint", "u", "v", "z_training", "x", "y", "z", "sigma"])
    for result in results:
        frame = "" if result["frame"] is None else result["frame"]
        points = result["points"] or [("", "", "")] * len(result["keypoints"])
        sigmas = result["sigma"] or [""] * len(points)
        for k, (uvz, xyz, sigma) in enumerate(zip(result["keypoints"], points, sigmas, strict=True)):
            writer.writerow([result["file"], frame, k, *uvz, *xyz, sigma])
    return text.getvalue()


def _npz(results: list[dict], num_keypoints: int) -> bytes:
    """Over I images: path, frame (I,) with -1 for none, keypoints, points (I, N, 3), sigma (I, N), flags (I, A)."""
    nothing = np.full((num_keypoints, 3), np.nan)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        path=np.array([os.fsencode(r["file"]).decode(errors="replace") for r in results], dtype=str),
        frame=np.array([-1 if r["frame"] is None else r["frame"] for r in results], np.int64),
        keypoints=np.array([r["keypoints"] for r in results], np.float64).reshape(-1, num_keypoints, 3),
        points=np.array([r["points"] or nothing for r in results], np.float64).reshape(-1, num_keypoints, 3),
        sigma=np.array([r["sigma"] or nothing[:, 0] for r in results], np.float64).reshape(-1, num_keypoints),
        flags=np.array([r["orientation_flags"] for r in results], bool),
    )
    return buffer.getvalue()


def _one_point_a_line(text: str) -> str:
    """Join lists of numbers in indented JSON."""
    joined = re.sub(r"\[\n[\s\d.,eE+-]+\]", lambda m: re.sub(r"\s+", "", m[0]).replace(",", ", "), text)
    return joined + "\n"


_LONGEST_STEM = 220  # bytes; a file's name may have 255


def _free_name(out: Path, stem: str, taken: set[str]) -> str:
    """Name of an overlay, unique among images of the same name in different folders; no picture of others is lost."""
    stem = os.fsdecode(os.fsencode(stem)[:_LONGEST_STEM])
    name, number = f"{stem}.png", 1
    while name in taken or ((out / name).exists() and not is_overlay(out / name)):
        number += 1
        name = f"{stem}-{number}.png"
    taken.add(name)
    return name


def _mark() -> PngInfo:
    mark = PngInfo()
    mark.add_text("Software", SOFTWARE)
    return mark
