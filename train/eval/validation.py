"""Figures and a picture of a network that is still in training."""

from __future__ import annotations

import numpy as np
from PIL import Image

from data.dataset import PairDataset
from data.sampling import evenly_spread
from train.detector import Detector
from train.eval import metrics
from train.eval.overlays import draw_grid
from train.losses import true_flags

VALIDATION_PAIRS = 256
PICTURE_MODELS = 12


def open_validation(pairs: PairDataset) -> PairDataset | None:
    """The validation pairs of the same folders, or None where no folder has any."""
    splits = {shard.split for manifest in pairs.manifests for shard in manifest.shards}
    return PairDataset(pairs.folders, "val") if "val" in splits else None


def validate(detector: Detector, pairs: PairDataset) -> tuple[dict[str, float], Image.Image]:
    """Measure a detector on up to ``VALIDATION_PAIRS`` pairs, evenly spread.

    Returns:
        Figures, the angular errors in degrees; and views of up to ``PICTURE_MODELS`` objects with their keypoints.
    """
    stored = pairs.batch(evenly_spread(len(pairs), VALIDATION_PAIRS))
    found = detector.detect(stored["rgba"])
    rotation = metrics.recover_rotation(found.keypoints, stored["intrinsics"].numpy(), found.sigma)
    errors = metrics.angular_error(rotation, stored["R"].numpy())
    flags = true_flags(stored["object_to_camera"], detector.network.axes).bool().numpy()
    figures = {
        "error_mean_deg": float(errors.mean()),
        "error_median_deg": float(np.median(errors)),
        "orientation_accuracy": metrics.orientation_accuracy(found.flags, flags),
    }
    shown = evenly_spread(len(errors), PICTURE_MODELS)
    return figures, draw_grid(stored["rgba"][shown, 0].numpy(), found.keypoints[shown, 0])
