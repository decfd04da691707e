"""Step 1 of an evaluation: run the detector over a split once and keep what it said in ``predictions.h5``."""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from data.atomic import write_bytes
from data.sampling import evenly_spread
from train.eval import metrics

BATCH_SIZE = 32  # pairs; memory only, the numbers do not depend on it
HEATMAP_PAIRS = 6  # pairs whose whole heat maps are kept for the report
_VERSION = 2  # raise when the meaning of what is stored changes, so that older caches are not reused


@dataclass
class Predictions:
    """What a detector says of P pairs, in the dataset's order. N keypoints, A orientation axes.

    The fields are the datasets of ``predictions.h5``; their descriptions are stored there as attributes. One that is
    None is not stored.
    """

    keypoints: np.ndarray
    R_estimated: np.ndarray
    angular_error_deg: np.ndarray
    axis_ends: np.ndarray
    flags: np.ndarray
    heatmap_spread: np.ndarray
    heatmap_pair: np.ndarray
    heatmaps: np.ndarray
    sigma: np.ndarray | None = None


DESCRIPTIONS = {
    "keypoints": "float32 (P, 2, N, 3): (u, v, z) in pixels of the dataset's images and object units of depth",
    "R_estimated": "float64 (P, 3, 3): rotation from view 0 to view 1 recovered from the keypoints (Procrustes, "
    "weighted by sigma where there is one)",
    "angular_error_deg": "float64 (P,): geodesic angle between R_estimated and the true R, degrees",
    "axis_ends": "float32 (P, 2, A, 2, 2): predicted projections (u, v) of the + and - end of each axis, pixels",
    "flags": "bool (P, 2, A): predicted orientation flags, true where an axis' + end lies right of its - end",
    "heatmap_spread": "float32 (P, 2, N): standard deviation of each heat map, as resampled to the whole image, about "
    "its keypoint, pixels",
    "heatmap_pair": "int64 (S,): the pairs whose heat maps are stored",
    "heatmaps": "float16 (S, 2, N, h, w): heat maps of those pairs, each scaled to a maximum of 1",
    "sigma": "float32 (P, 2, N): standard deviation, object units, that the detector expects of each coordinate of a "
    "keypoint; absent where it expects none",
}


def predict_split(detector, dataset, batch_size: int = BATCH_SIZE, progress: bool = True) -> Predictions:
    """Run a detector over a dataset.

    Args:
        detector: a ``train.detector.Detector``. dataset: a ``data.dataset.PairDataset``.
        batch_size: pairs at a time.
    """
    shown = sample_pairs(dataset.model_index.numpy(), HEATMAP_PAIRS)
    rows: dict[str, list[np.ndarray]] = defaultdict(list)
    heatmaps = []
    starts = range(0, len(dataset), batch_size)
    for start in tqdm(starts, desc="detecting", unit="batch", disable=None if progress else True, leave=False):
        pairs = np.arange(start, min(start + batch_size, len(dataset)))
        rgba = dataset.batch(pairs)["rgba"]
        found = detector.detect(rgba)
        spread = heatmap_spread(found.heatmaps, found.keypoints, rgba.shape[2:4])
        for name, values in (
            ("keypoints", found.keypoints),
            ("axis_ends", found.axis_ends),
            ("flags", found.flags),
            ("heatmap_spread", spread),
            ("sigma", found.sigma),
        ):
            if values is not None:
                rows[name].append(values)
        maps = found.heatmaps[np.isin(pairs, shown)]
        heatmaps.append((maps / maps.max((-2, -1), keepdims=True).clip(1e-12)).astype(np.float16))
    joined = {name: np.concatenate(parts) for name, parts in rows.items()}
    estimated = metrics.recover_rotation(joined["keypoints"], dataset.intrinsics.numpy(), joined.get("sigma"))
    return Predictions(
        **joined,
        R_estimated=estimated,
        angular_error_deg=metrics.angular_error(estimated, dataset.R.numpy()),
        heatmap_pair=shown,
        heatmaps=np.concatenate(heatmaps),
    )


def sample_pairs(model_index: np.ndarray, count: int) -> np.ndarray:
    """The first pair of up to ``count`` models, evenly spread over the models: int64, ascending."""
    first = np.sort(np.unique(model_index, return_index=True)[1])
    return first[evenly_spread(len(first), count)]


def heatmap_spread(heatmaps: np.ndarray, keypoints: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Standard deviation of heat maps about their keypoints, sqrt(E |x − u|²).

    Args:
        heatmaps: (*, N, h, w), each summing to 1. keypoints: (*, N, 2 or 3), pixels of the image.
        image_size: (H, W) of the image that the maps cover.

    Returns:
        float32 (*, N), pixels of the image.
    """
    height, width = heatmaps.shape[-2:]
    u = (np.arange(width) + 0.5) * image_size[1] / width
    v = (np.arange(height) + 0.5) * image_size[0] / height
    du2 = np.square(u - keypoints[..., 0, None])
    dv2 = np.square(v - keypoints[..., 1, None])
    variance = (heatmaps.sum(-2) * du2).sum(-1) + (heatmaps.sum(-1) * dv2).sum(-1)
    return np.sqrt(variance).astype(np.float32)


def save_predictions(path: Path, predictions: Predictions, key: dict[str, str]) -> None:
    """Write ``predictions.h5``, then its SHA-256 beside it; ``key`` tells which weights and data it belongs to."""
    buffer = io.BytesIO()  # HDF5 itself says little when a disk is full
    with h5py.File(buffer, "w") as file:
        file.attrs.update({**key, "version": _VERSION})
        for name, values in vars(predictions).items():
            if values is not None:
                dataset = file.create_dataset(name, data=values, fletcher32=values.size > 0)
                dataset.attrs["description"] = DESCRIPTIONS[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())
    write_bytes(_sum_path(path), f"{_sha256(buffer.getvalue())}  {path.name}\n".encode())


def _sum_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def open_predictions(path: Path) -> Iterator[h5py.File]:
    """``predictions.h5`` as :func:`save_predictions` wrote it: HDF5 crashes on some damaged files, and misreads others.

    Raises:
        OSError: it is not there, or damaged.
    """
    content = path.read_bytes()
    if _sum_path(path).read_text().split()[:1] != [_sha256(content)]:
        raise OSError(f"{path}: is not what its SHA-256 was taken of")
    with h5py.File(io.BytesIO(content)) as file:
        yield file


def load_predictions(path: Path, key: dict[str, str]) -> Predictions | None:
    """Read ``predictions.h5`` if it belongs to these weights and this data, else None."""
    try:
        with open_predictions(path) as file:
            if any(file.attrs.get(name) != value for name, value in {**key, "version": _VERSION}.items()):
                return None
            return Predictions(**{name: stored[()] for name, stored in file.items()})
    except (OSError, TypeError, RuntimeError, ValueError, KeyError):  # absent, damaged, or not ours
        return None
