"""What a person wants to know about a dataset: a summary, and a picture that shows a wrong convention at a glance."""

from __future__ import annotations

import statistics
import textwrap
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_dilation

from data.atomic import replacing
from data.dataset import PairDataset
from data.errors import UserError
from data.geometry import camera_angles, project, rotation_distance, unproject
from data.images import pixels_under
from data.manifest import Manifest, load_manifest
from data.sampling import evenly_spread
from data.schema import FORMAT_VERSION, SPLITS, has_background
from data.shard import ShardReader

_SAMPLED_PAIRS = 96
_TILE = 256  # pixels of one view on the contact sheet
_POINTS = 8
_COLORS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#d01c8b")


def describe(folder: Path) -> dict:
    """Summary of a dataset, made of JSON types.

    Angles are in degrees. Azimuth is that of the camera around the object's +y axis: 0 in front of the object (-z),
    90 on its right (+x). Elevation is above the object's x-z plane. ``sampled`` figures come from pixels of a few
    pairs only: ``coverage`` is the share of the image that the object covers, ``cut_off`` the share of views in which
    it touches the border, ``points_inside_other_silhouette`` the share of surface points seen in one view that land
    inside the other view's silhouette, to a pixel (close to 1 unless poses, intrinsics or depth are wrong).

    Raises:
        UserError: not a dataset, or damaged.
    """
    folder = Path(folder)
    manifest = load_manifest(folder)
    views = _ViewStatistics()
    image_size, names = None, ()
    for entry in manifest.shards:
        with ShardReader(folder / entry.file) as reader:
            views.add(reader)
            image_size, names = list(reader.image_size), tuple(dict.fromkeys(names + reader.header.keypoint_names))
    faces = [model.faces for model in manifest.models]
    return {
        "folder": str(folder),
        "format_version": FORMAT_VERSION,
        "category": manifest.category,
        "seed": manifest.seed,
        "settings": manifest.settings,
        "image_size": image_size,
        "models": len(manifest.models),
        "pairs": sum(entry.pairs for entry in manifest.shards),
        "bytes": sum((folder / entry.file).stat().st_size for entry in manifest.shards),
        "splits": {split: _describe_split(manifest, split) for split in SPLITS},
        "faces": {"min": min(faces), "median": statistics.median(faces), "max": max(faces)} if faces else None,
        "semantic_keypoints": list(names),
        **views.summary(),
        "sampled": _describe_pixels(folder),
        "duplicates": _find_duplicates(manifest),
        "failures": [{"source": failure.source, "reason": failure.reason} for failure in manifest.failures],
    }


def format_description(description: dict) -> str:
    """The summary as text for a terminal."""
    size = description["image_size"]
    lines = [
        f"{description['folder']}: {description['models']} models of category {description['category']}, "
        f"{description['pairs']} pairs, {_megabytes(description['bytes'])}",
        f"images     {f'{size[1]} x {size[0]} px' if size else 'none'}, format version {description['format_version']}",
    ]
    for split, part in description["splits"].items():
        lines.append(f"{split:<10} {part['models']:>6} models {part['pairs']:>8} pairs {part['shards']:>4} shards")
    if description["faces"]:
        lines.append("faces      {min} to {max}, median {median:g}".format(**description["faces"]))
    if description["semantic_keypoints"]:
        names = ", ".join(description["semantic_keypoints"])
        lines += textwrap.wrap(f"keypoints  {names}", 110, subsequent_indent=" " * 11)
    lines.append(f"seed       {description['seed']}")
    lines.append("settings")
    lines += _format_settings(description["settings"], "  ")
    if description["pairs"]:
        lines += _format_views(description)
    for ids in description["duplicates"]:
        lines.append(f"warning: the same geometry under several names: {', '.join(ids)}")
    lines.append(f"failures   {len(description['failures'])}")
    lines += [f"  {failure['source']}: {failure['reason']}" for failure in description["failures"]]
    return "\n".join(lines)


def contact_sheet(folder: Path, path: Path, num_pairs: int = 12) -> None:
    """Draw pairs with the same surface points in both views.

    The points are pixels of view 0 with depth, lifted by K, moved by (R, t) and projected into view 1; only those
    are drawn that the depth of view 1 shows to be visible there. A number that sits on another part of the object in
    the other view means wrong poses. The arrows in the corner are the object's axes: x right, y up, and F for its
    front (-z).

    Args:
        path: the picture to write, in the format that its suffix names.

    Raises:
        UserError: not a dataset, damaged, without pairs, or ``path`` cannot be written.
    """
    tiles = [_draw_pair(*sample) for sample in _sample_pairs(Path(folder), num_pairs)]
    if not tiles:
        raise UserError(f"{folder}: holds no pairs: nothing to draw")
    columns = 3 if len(tiles) >= 6 else 1
    width, height = tiles[0].size
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (width + 8) + 8, rows * (height + 8) + 8), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (8 + number % columns * (width + 8), 8 + number // columns * (height + 8)))
    _save_picture(sheet, Path(path))


class _ViewStatistics:
    """Histograms of where cameras stand and how far the views of a pair are apart."""

    AZIMUTH_EDGES = np.arange(-180, 181, 30)
    ELEVATION_EDGES = np.arange(-90, 91, 15)
    ANGLE_EDGES = np.arange(0, 181, 15)

    def __init__(self) -> None:
        self._azimuths: list[np.ndarray] = []
        self._elevations: list[np.ndarray] = []
        self._distances: list[np.ndarray] = []
        self._fovs: list[np.ndarray] = []
        self._angles: list[np.ndarray] = []

    def add(self, reader: ShardReader) -> None:
        poses, intrinsics = reader.read("object_to_camera"), reader.read("intrinsics")
        azimuth, elevation = camera_angles(torch.from_numpy(poses))
        self._azimuths.append(azimuth.numpy().ravel())
        self._elevations.append(elevation.numpy().ravel())
        self._distances.append(np.linalg.norm(poses[..., :3, 3], axis=-1).ravel())
        self._fovs.append(2 * np.degrees(np.arctan(reader.image_size[0] / 2 / intrinsics[..., 1, 1])).ravel())
        self._angles.append(_rotation_degrees(torch.from_numpy(reader.read("R"))).numpy())

    def summary(self) -> dict:
        if not self._angles:
            return {}
        return {
            "azimuth_deg": _histogram(self._azimuths, self.AZIMUTH_EDGES),
            "elevation_deg": _histogram(self._elevations, self.ELEVATION_EDGES),
            "rotation_angle_deg": {
                **_histogram(self._angles, self.ANGLE_EDGES),
                "median": float(np.median(np.concatenate(self._angles))),
            },
            "distance": _range(self._distances),
            "fov_deg": _range(self._fovs),
        }


def _histogram(parts: list[np.ndarray], edges: np.ndarray) -> dict:
    values = np.concatenate(parts)
    counts, _ = np.histogram(values, edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def _range(parts: list[np.ndarray]) -> dict:
    values = np.concatenate(parts)
    return {"min": float(values.min()), "mean": float(values.mean()), "max": float(values.max())}


def _describe_split(manifest: Manifest, split: str) -> dict:
    shards = [entry for entry in manifest.shards if entry.split == split]
    return {
        "models": sum(model.split == split for model in manifest.models),
        "pairs": sum(entry.pairs for entry in shards),
        "shards": len(shards),
    }


def _find_duplicates(manifest: Manifest) -> list[list[str]]:
    """Ids of models that share one geometry, as ``id (split)``."""
    names = defaultdict(list)
    for model in manifest.models:
        if model.geometry:
            names[model.geometry].append(f"{model.model_id} ({model.split})")
    return [ids for ids in names.values() if len(ids) > 1]


def _sample_pairs(folder: Path, count: int):
    """Up to ``count`` (dataset, index) spread evenly over the splits and their models."""
    manifest = load_manifest(folder)
    pairs = {split: sum(s.pairs for s in manifest.shards if s.split == split) for split in SPLITS}
    total, done = sum(pairs.values()), 0
    wanted = evenly_spread(total, count)
    for split in SPLITS:
        if inside := [int(w) - done for w in wanted if done <= w < done + pairs[split]]:
            dataset = PairDataset(folder, split)
            for index in inside:
                yield dataset, index
        done += pairs[split]


def _describe_pixels(folder: Path) -> dict | None:
    coverage, cut_off, inside = [], [], []
    for dataset, index in _sample_pairs(folder, _SAMPLED_PAIRS):
        alpha = dataset[index]["rgba"][..., 3].numpy() > 0
        coverage.append(alpha.mean())
        border = np.ones(alpha.shape[1:], bool)
        border[1:-1, 1:-1] = False
        touches = [(view & border).any() for view in alpha]
        cut_off += touches
        _, moved = _surface_points(dataset, index, dataset.depth(index)[0])
        if len(moved):
            row, column, in_image = pixels_under(moved, alpha.shape[1:])
            half_covered_too = binary_dilation(alpha[1], np.ones((3, 3)))  # where points at the rim may fall
            hits = in_image & half_covered_too[row, column]
            if touches[1] or not alpha[1].any():  # cut off, or all outside: what leaves the image says nothing
                hits = hits[in_image]
            inside += [hits.mean()] if len(hits) else []
    if not coverage:
        return None
    return {
        "pairs": len(coverage),
        "coverage": float(np.mean(coverage)),
        "cut_off": float(np.mean(cut_off)),
        "points_inside_other_silhouette": float(np.mean(inside)) if inside else None,
    }


def _surface_points(dataset: PairDataset, index: int, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Surface points seen in view 0, whose depth is (H, W), as (u, v, z) float64 (N, 3) in it, and in view 1."""
    row, column = np.nonzero(depth)
    here = np.stack([column + 0.5, row + 0.5, depth[row, column]], axis=1)
    points = unproject(dataset.intrinsics[index, 0], torch.from_numpy(here))
    there = project(dataset.intrinsics[index, 1], points @ dataset.R[index].T + dataset.t[index])
    return here, there.numpy()


def _rotation_degrees(rotation: torch.Tensor) -> torch.Tensor:
    """(*, 3, 3) -> (*)."""
    return torch.rad2deg(rotation_distance(rotation, torch.eye(3, dtype=rotation.dtype)))


def _common_points(dataset: PairDataset, index: int) -> tuple[np.ndarray, np.ndarray]:
    """A few well-spread surface points that both views see: (u, v, z) float64 (N, 3) in view 0, and in view 1."""
    first, depth = dataset.depth(index)
    here, there = _surface_points(dataset, index, first)
    row, column, inside = pixels_under(there, depth.shape)
    focal = float(dataset.intrinsics[index, 1, 1, 1])
    tolerance = 1.5 * there[:, 2] / focal  # one and a half pixels' worth of length
    visible = inside & (np.abs(depth[row, column] - there[:, 2]) < tolerance)
    here, there = here[visible], there[visible]
    if not len(here):
        return here, there
    spread = np.concatenate([here[:, :2], there[:, :2]], axis=1)
    chosen = [int(np.argmin(np.linalg.norm(spread - spread.mean(0), axis=1)))]
    distance = np.full(len(here), np.inf)
    while len(chosen) < min(_POINTS, len(here)):
        distance = np.minimum(distance, np.linalg.norm(spread - spread[chosen[-1]], axis=1))
        chosen.append(int(np.argmax(distance)))
    return here[chosen], there[chosen]


def _draw_pair(dataset: PairDataset, index: int) -> Image.Image:
    pair = dataset[index]
    points = _common_points(dataset, index)
    caption = 18
    tile = Image.new("RGB", (2 * _TILE + 2, _TILE + caption), "white")
    draw = ImageDraw.Draw(tile)
    angle = float(_rotation_degrees(pair["R"]))
    name = dataset.model_ids[int(pair["model_index"])]
    note = "" if len(points[0]) else ", no surface point seen in both"
    font = ImageFont.load_default(12)
    draw.text((2, 2), f"{dataset.split}: {name[-32:]}, {angle:.0f} deg apart{note}", "black", font)
    for view in range(2):
        left = view * (_TILE + 2)
        tile.paste(_composite(pair["rgba"][view].numpy()), (left, caption))
        _draw_axes(draw, pair["object_to_camera"][view].numpy(), (left + 26, caption + _TILE - 26), font)
        scale = _TILE / np.array(pair["rgba"].shape[2:0:-1])
        for number, point in enumerate(points[view]):
            x, y = point[:2] * scale + (left, caption)
            draw.ellipse([x - 7, y - 7, x + 7, y + 7], fill=_COLORS[number], outline="white")
            draw.text((x, y), str(number), "white", font, anchor="mm")
    return tile


def _composite(rgba: np.ndarray) -> Image.Image:
    """A view at the size of a tile, on light grey if it has no background of its own."""
    background = 0 if has_background(rgba) else 225 * (1 - rgba[..., 3:] / 255)
    image = Image.fromarray((rgba[..., :3] + background).clip(0, 255).round().astype(np.uint8))
    return image.resize((_TILE, _TILE), Image.Resampling.LANCZOS)


def _draw_axes(draw: ImageDraw.ImageDraw, pose: np.ndarray, origin: tuple[int, int], font) -> None:
    axes = {"x": ((1, 0, 0), "#c00000"), "y": ((0, 1, 0), "#007000"), "F": ((0, 0, -1), "#0000c0")}
    for name, (axis, color) in axes.items():
        x, y, _ = pose[:3, :3] @ axis * 18
        end = (origin[0] + x, origin[1] + y)
        draw.line([origin, end], color, 2)
        draw.text((origin[0] + 1.3 * x, origin[1] + 1.3 * y), name, color, font, anchor="mm")


def _save_picture(image: Image.Image, path: Path) -> None:
    suffix = Image.registered_extensions().get(path.suffix.lower())
    if suffix not in Image.SAVE:
        raise UserError(f"{path}: {path.suffix or 'no suffix'} is no picture format: name it .png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            image.save(temporary, suffix)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}): choose another place") from None


def _format_settings(settings: dict, prefix: str) -> list[str]:
    lines = []
    for name, value in settings.items():
        if isinstance(value, dict):
            lines += _format_settings(value, f"{prefix}{name}.")
        elif name == "merged":  # of several datasets: what they share, then what is each one's own
            shared = {key: own for key, own in value[0].items() if all(other.get(key) == own for other in value)}
            lines += _format_settings(shared, prefix)
            for number, settings in enumerate(value, start=1):
                own = {key: setting for key, setting in settings.items() if key not in shared}
                lines += _format_settings(own, f"{prefix}dataset {number}: ")
        else:
            lines.append(f"{prefix}{name} = {value}")
    return lines


def _format_views(description: dict) -> list[str]:
    lines = []
    titles = {
        "azimuth_deg": "camera azimuth, degrees (0 = in front, 90 = on the object's right)",
        "elevation_deg": "camera elevation, degrees",
        "rotation_angle_deg": "rotation between the two views, degrees; median {median:.1f}",
    }
    for name, title in titles.items():
        histogram = description[name]
        lines.append(title.format(**histogram))
        lines += _bars(histogram)
    for name, title, unit in (("distance", "distance", "object units"), ("fov_deg", "field of view", "degrees")):
        lines.append("{} {min:.3g} to {max:.3g} {}".format(title, unit, **description[name]))
    sampled = description["sampled"]
    lines.append(
        f"in {sampled['pairs']} pairs looked at: the object covers {sampled['coverage']:.0%} of the image, "
        f"touches its border in {sampled['cut_off']:.0%} of the views"
    )
    if sampled["points_inside_other_silhouette"] is not None:
        lines.append(
            f"surface points of one view that land inside the other's silhouette: "
            f"{sampled['points_inside_other_silhouette']:.1%} (poses, intrinsics and depth agree when close to 100%)"
        )
    return lines


def _bars(histogram: dict, width: int = 40) -> list[str]:
    edges, counts = histogram["edges"], histogram["counts"]
    highest = max(max(counts), 1)
    full_circle = edges[0] == -180  # of elevations the part below the horizon is told only if there are such
    return [
        f"  {low:>5} to {high:>4} {'#' * round(width * count / highest)} {count}"
        for low, high, count in zip(edges, edges[1:], counts)
        if count or low >= 0 or full_circle
    ]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"
