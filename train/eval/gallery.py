"""Which pairs and views of an evaluation are worth looking at, and pictures of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.atomic import replacing
from data.sampling import evenly_spread
from train.eval import overlays
from train.eval.evaluation import Evaluation


def write_overlays(evaluation: Evaluation, folder: Path) -> None:
    """Pictures: a grid of models with the same keypoints in the same colours; best, median and worst pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    notable = notable_pairs(evaluation, 3)
    for kind in notable:
        for earlier in folder.glob(f"{kind}-[0-9].png"):  # of an evaluation that had more models
            earlier.unlink()
    views = similar_views(evaluation, count=16)
    rgba = np.stack([evaluation.rgba(pair)[view] for pair, view in views])
    keypoints = np.stack([evaluation.predictions.keypoints[pair, view] for pair, view in views])
    names = [model_name(evaluation, pair) for pair, _ in views]
    _save(overlays.draw_grid(rgba, keypoints, columns=4, captions=names), folder / "models.png")
    for kind, pairs in notable.items():
        for rank, pair in enumerate(pairs, 1):
            caption = f"{evaluation.predictions.angular_error_deg[pair]:.1f}°, {evaluation.name_failure(pair)[0]}"
            picture = overlays.draw_pair(evaluation.rgba(pair), evaluation.predictions.keypoints[pair], caption)
            _save(picture, folder / f"{kind}-{rank}.png")


def notable_pairs(evaluation: Evaluation, count: int) -> dict[str, list[int]]:
    """Up to ``count`` best, median and worst pairs each, at most one of a model in each group."""
    ranked = evaluation.ranked_pairs()
    by_distance_to_median = ranked[np.argsort(np.abs(np.arange(len(ranked)) - (len(ranked) - 1) / 2), kind="stable")]
    groups = {"best": ranked, "median": by_distance_to_median, "worst": ranked[::-1]}
    return {name: _one_per_model(evaluation, order, count) for name, order in groups.items()}


def similar_views(
    evaluation: Evaluation, count: int, azimuth: float = 35.0, elevation: float = 25.0
) -> list[tuple[int, int]]:
    """For up to ``count`` models, spread over the split, the view nearest to a direction.

    Returns:
        (pair, view) of each.
    """
    azimuths, elevations = (np.radians(a) for a in evaluation.view_angles())
    wanted_azimuth, wanted_elevation = np.radians(azimuth), np.radians(elevation)
    closeness = np.sin(elevations) * np.sin(wanted_elevation) + np.cos(elevations) * np.cos(wanted_elevation) * np.cos(
        azimuths - wanted_azimuth
    )
    model_index, models = evaluation.model_index, evaluation.models
    chosen = models[evenly_spread(len(models), count)]
    views = []
    for model in chosen:
        pairs = np.flatnonzero(model_index == model)
        pair, view = np.unravel_index(closeness[pairs].argmax(), (len(pairs), 2))
        views.append((int(pairs[pair]), int(view)))
    return views


def model_name(evaluation: Evaluation, pair: int) -> str:
    return evaluation.dataset.model_ids[evaluation.model_index[pair]]


def _one_per_model(evaluation: Evaluation, order: np.ndarray, count: int) -> list[int]:
    first = np.sort(np.unique(evaluation.model_index[order], return_index=True)[1])
    return [int(pair) for pair in order[first[:count]]]


def _save(picture, path: Path) -> None:
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")
