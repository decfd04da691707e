"""Step 2 of an evaluation: figures, pictures and the report, from cached predictions and the dataset's truth."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from data.atomic import publish, temporary_path, write_bytes
from data.dataset import PairDataset
from data.errors import UserError
from train.detector import CONFIG_NAME, WEIGHTS_NAME, Detector, find_run
from train.eval import metrics, overlays, semantics, surface
from train.eval.failures import PairGeometry, behind_surface, name_failure
from train.eval.predictions import Predictions, load_predictions, predict_split, save_predictions
from train.losses import true_flags

BOOTSTRAP_SAMPLES = 1000
REPEATABILITY_RADIUS = 0.1  # object units
PAIRS_PER_SURFACE = 8  # views of so many pairs make a model's surface
# arXiv 1807.03146, Table 1: mean and median angular error (degrees) and 3D-SE on ShapeNet's test models
PAPER_ROWS = ("supervised", "KeypointNet")
PAPER_TABLE_1 = {
    "car": ((16.268, 5.583, 0.240), (11.310, 3.372, 0.171)),
    "airplane": ((18.350, 7.168, 0.233), (17.330, 5.721, 0.230)),
    "chair": ((21.882, 8.771, 0.269), (14.572, 5.420, 0.196)),
}
HEADLINE = ("angular_error_mean_deg", "angular_error_median_deg", "keypoint_3d_se")


@dataclass
class Evaluation:
    """A split, what a detector says of it, and what follows from both. P pairs, N keypoints, A axes.

    Attributes:
        run: name of the detector. category: of the dataset. split: which one.
        dataset: the pairs. predictions: the detector's. axes: object axes that have an orientation flag.
        symmetry: of the category's objects, for the error under it; None for none declared.
    """

    run: str
    category: str
    split: str
    dataset: PairDataset
    predictions: Predictions
    axes: tuple[str, ...]
    symmetry: metrics.Symmetry | None = None

    def __post_init__(self):
        data = self.dataset
        self.intrinsics, self.object_to_camera = data.intrinsics.numpy(), data.object_to_camera.numpy()
        self.model_index = data.model_index.numpy()

    @cached_property
    def points(self) -> np.ndarray:
        """Keypoints in the object frame, float64 (P, 2, N, 3)."""
        return metrics.object_points(self.predictions.keypoints, self.intrinsics, self.object_to_camera)

    @cached_property
    def true_flags(self) -> np.ndarray:
        """bool (P, 2, A)."""
        return true_flags(self.dataset.object_to_camera, self.axes).numpy().astype(bool)

    @cached_property
    def inside(self) -> np.ndarray:
        """Whether keypoints project inside the mask, bool (P, 2, N)."""
        keypoints = self.predictions.keypoints
        return np.stack([metrics.inside_mask(points, self.rgba(i)[..., 3]) for i, points in enumerate(keypoints)])

    @cached_property
    def models(self) -> np.ndarray:
        """Indices of the M models that have pairs, int64 (M,), ascending."""
        return np.unique(self.model_index)

    @cached_property
    def model_points(self) -> np.ndarray:
        """Keypoints of every model, the median over its views in each coordinate: float64 (M, N, 3), object frame."""
        own = (self.points[self.model_index == model] for model in self.models)
        return np.stack([np.median(points.reshape(-1, *points.shape[2:]), axis=0) for points in own])

    def surface_of(self, model: int, count: int = surface.SURFACE_POINTS) -> tuple[np.ndarray, np.ndarray]:
        """Surface of a model, see :func:`train.eval.surface.visible_surface`."""
        pairs = np.flatnonzero(self.model_index == model)[:PAIRS_PER_SURFACE]
        return surface.visible_surface(
            np.concatenate([self.rgba(int(pair)) for pair in pairs]),
            np.concatenate([self.dataset.depth(int(pair)) for pair in pairs]),
            np.concatenate(self.intrinsics[pairs]),
            np.concatenate(self.object_to_camera[pairs]),
            count,
        )

    @cached_property
    def metrics(self) -> dict:
        """The figures of ``metrics.json``."""
        said = self.predictions
        errors, views = said.angular_error_deg, (-1, *said.flags.shape[2:])
        flags, truth = said.flags.reshape(views), self.true_flags.reshape(views)
        spread = metrics.keypoint_spread(
            self.points[errors <= metrics.FLIP_DEGREES].reshape(-1, *self.points.shape[2:])
        )
        return {
            "n_models": len(np.unique(self.model_index)),
            "n_pairs": len(errors),
            **metrics.summarize_errors(errors),
            "keypoint_3d_se": metrics.keypoint_3d_se(self.points, errors),
            "keypoint_3d_se_within_model": metrics.keypoint_3d_se_within_model(self.points, self.model_index),
            "orientation_accuracy": metrics.orientation_accuracy(flags, truth),
            "silhouette_hit_rate": float(self.inside.mean()),
            "confidence_interval_95": metrics.bootstrap_over_models(errors, self.model_index, BOOTSTRAP_SAMPLES),
            "orientation_accuracy_per_axis": {a: float((flags == truth)[:, i].mean()) for i, a in enumerate(self.axes)},
            "keypoint_spread": [float(s) for s in spread],
            "silhouette_hit_rate_per_keypoint": [float(s) for s in self.inside.mean((0, 1))],
            "repeatability_at_0.1": metrics.repeatability(self.points, REPEATABILITY_RADIUS),
            **self._pose_metrics(),
            **self._semantic_metrics(),
            **self._symmetry_metrics(),
            "run": self.run,
            "category": self.category,
            "split": self.split,
        }

    def _pose_metrics(self) -> dict[str, float]:
        """Figures of the keypoints on the surface, and of the whole recovered motion."""
        rotation, truth = self.predictions.R_estimated, self.dataset.R.numpy()
        points = metrics.camera_points(self.predictions.keypoints, self.intrinsics)
        translation, true_translation = metrics.relative_translation(points, rotation), self.dataset.t.numpy()
        cover, include, add, diameters = [], [], np.empty(len(rotation)), np.empty(len(rotation))
        for model, learned in zip(self.models, self.model_points, strict=True):
            cloud = self.surface_of(int(model))[0]
            if not len(cloud):  # no view shows it; its centre stands in
                cloud = np.zeros((1, 3))
            cover.append(surface.coverage(learned, cloud))
            include.append(surface.inclusivity(learned, cloud))
            pairs = np.flatnonzero(self.model_index == model)
            diameters[pairs] = surface.diameter(cloud)
            for pair in pairs:
                first = self.object_to_camera[pair, 0]
                add[pair] = surface.add_error(
                    cloud @ first[:3, :3].T + first[:3, 3],
                    (rotation[pair], translation[pair]),
                    (truth[pair], true_translation[pair]),
                )
        centers = self.object_to_camera[:, 0, :3, 3, None]
        moved, expected = ((r @ centers)[..., 0] + t for r, t in ((rotation, translation), (truth, true_translation)))
        return {
            "coverage": float(np.mean(cover)),
            "inclusivity_at_0.1": float(np.mean(include)),
            "add_mean": float(add.mean()),
            "add_median": float(np.median(add)),
            "add_accuracy_at_0.1_diameter": float((add <= 0.1 * diameters).mean()),
            "translation_error_mean": float(np.linalg.norm(translation - true_translation, axis=-1).mean()),
            "center_error_mean": float(np.linalg.norm(moved - expected, axis=-1).mean()),
        }

    def _semantic_metrics(self) -> dict[str, float]:
        """Figures against semantic keypoints, those that the dataset's knowledge allows."""
        semantic = self.dataset.semantic_keypoints.numpy().astype(np.float64)
        if not semantic.shape[1]:
            return {}
        views = self.points.reshape(-1, *self.points.shape[2:])
        index = np.repeat(self.model_index, 2)
        predicted = semantics.predict_semantic(views, semantic, index)
        figures = {
            "dual_alignment_score": semantics.dual_alignment_score(self.model_points, semantic[self.models]),
            "mean_iou_at_0.1": semantics.mean_iou(self.model_points, semantic[self.models]),
            "pck_at_0.05": semantics.correct_keypoints(predicted, semantic[index], 0.05),
            "pck_at_0.1": semantics.correct_keypoints(predicted, semantic[index], 0.1),
        }
        return {name: value for name, value in figures.items() if not np.isnan(value)}

    def _symmetry_metrics(self) -> dict:
        if self.symmetry is None:
            return {}
        errors = self.symmetry.angular_error(self.predictions.R_estimated, self.object_to_camera)
        summary = metrics.summarize_errors(errors)
        return {"symmetry": self.symmetry.name, **{f"symmetric_{name}": value for name, value in summary.items()}}

    def rgba(self, pair: int) -> np.ndarray:
        """Both views of a pair, uint8 (2, H, W, 4)."""
        return self.dataset[pair]["rgba"].numpy()

    def name_failure(self, pair: int) -> tuple[str, str]:
        """Name and sentence of what went wrong with a pair."""
        said = self.predictions
        return name_failure(
            PairGeometry(
                error=float(said.angular_error_deg[pair]),
                points=self.points[pair],
                inside=self.inside[pair],
                hidden=behind_surface(said.keypoints[pair], self.dataset.depth(pair)),
                flags=said.flags[pair],
                true_flags=self.true_flags[pair],
                axes=self.axes,
            )
        )

    def view_angles(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the cameras stand: azimuth (0 = in front of the object, 90 = at its right) and elevation.

        Returns:
            float64 (P, 2) each, degrees in [-180, 180] and [-90, 90].
        """
        pose = self.object_to_camera
        center = -np.einsum("pvji,pvj->pvi", pose[..., :3, :3], pose[..., :3, 3])
        x, y, z = np.moveaxis(center, -1, 0)
        return np.degrees(np.arctan2(x, -z)), np.degrees(np.arctan2(y, np.hypot(x, z)))

    def ranked_pairs(self) -> np.ndarray:
        """Pairs by angular error, best first: int64 (P,)."""
        return np.argsort(self.predictions.angular_error_deg, kind="stable")


def evaluate(
    run: str | Path,
    datasets: list[str | Path],
    split: str = "test",
    out: str | Path | None = None,
    device: str = "cpu",
    progress: bool = True,
    symmetry: str | None = None,
) -> tuple[Evaluation, Path]:
    """Measure a detector on a split and write metrics.json, predictions.h5, overlays/ and report.html.

    Predictions are reused when the folder has those of the same weights on the same data.

    Args:
        run: run folder, or name of shipped weights. datasets: one or more dataset folders.
        out: folder to write to; by default ``eval-SPLIT`` in the run folder, ``RUN-eval-SPLIT`` here for a shipped name.
        symmetry: "AXIS:ORDER", a declared symmetry of the objects, see :class:`train.eval.metrics.Symmetry`.

    Raises:
        UserError: the run or a dataset cannot be used, or the split is empty.
    """
    from train.eval.report import write_report

    try:
        declared = metrics.Symmetry(symmetry) if symmetry else None
    except ValueError as error:
        raise UserError(f"symmetry: {error}: give AXIS:ORDER, as y:2, or y:inf for any angle") from None
    detector = Detector.load(run, device)
    dataset = PairDataset([Path(folder) for folder in datasets], split)
    if out is None:
        out = Path(run) / f"eval-{split}" if Path(run).is_dir() else Path(f"{run}-eval-{split}")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    key = {"weights": weights_fingerprint(run), "data": data_fingerprint(dataset)}
    predictions = load_predictions(out / "predictions.h5", key)
    if predictions is None:
        predictions = predict_split(detector, dataset, progress=progress)
        save_predictions(out / "predictions.h5", predictions, key)
    category = "+".join(sorted({manifest.category for manifest in dataset.manifests}))
    axes = tuple(detector.config.axes)
    evaluation = Evaluation(Path(run).name, category, split, dataset, predictions, axes, declared)
    write_bytes(out / "metrics.json", (json.dumps(evaluation.metrics, indent=1) + "\n").encode())
    write_overlays(evaluation, out / "overlays")
    write_report(evaluation, out / "report.html")
    return evaluation, out


def weights_fingerprint(run: str | Path) -> str:
    """SHA-256 over a run's settings and weights."""
    folder = find_run(run)
    return hashlib.sha256((folder / CONFIG_NAME).read_bytes() + (folder / WEIGHTS_NAME).read_bytes()).hexdigest()


def data_fingerprint(dataset: PairDataset) -> str:
    """SHA-256 over the checksums of a split's shards, in order."""
    digest = hashlib.sha256(dataset.split.encode())
    for manifest in dataset.manifests:
        for shard in manifest.shards:
            if shard.split == dataset.split:
                digest.update(shard.sha256.encode())
    return digest.hexdigest()


def headline_table(figures: dict) -> str:
    """The headline figures as a text table, beside the paper's where it has the category."""
    name = f"{figures['run']} on {figures['n_models']} {figures['category']} models, {figures['n_pairs']} pairs"
    rows = [(name, *(figures[column] for column in HEADLINE))]
    paper = PAPER_TABLE_1.get(figures["category"], ())
    rows += [(f"paper: {label}", *values) for label, values in zip(PAPER_ROWS, paper, strict=False)]
    width = max(len(row[0]) for row in rows)
    lines = [f"{'':{width}}  mean °  median °  3D-SE"]
    lines += [f"{row[0]:{width}}  {row[1]:6.2f}  {row[2]:8.2f}  {row[3]:5.3f}" for row in rows]
    if paper:
        lines.append("(the paper's figures are for other models: ShapeNet's, 128 px)")
    lines.append(
        f"within 5° {figures['accuracy_at_5_deg']:.1%} · 10° {figures['accuracy_at_10_deg']:.1%} · "
        f"30° {figures['accuracy_at_30_deg']:.1%} · flips {figures['flip_rate']:.1%} · "
        f"orientation right {figures['orientation_accuracy']:.1%} · inside the mask {figures['silhouette_hit_rate']:.1%}"
        f" · 3D-SE within a model {figures['keypoint_3d_se_within_model']:.3f}"
    )
    return "\n".join(lines)


def write_overlays(evaluation: Evaluation, folder: Path) -> None:
    """Pictures: a grid of models with the same keypoints in the same colours; best, median and worst pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    views = similar_views(evaluation, count=16)
    rgba = np.stack([evaluation.rgba(pair)[view] for pair, view in views])
    keypoints = np.stack([evaluation.predictions.keypoints[pair, view] for pair, view in views])
    names = [model_name(evaluation, pair) for pair, _ in views]
    _save(overlays.draw_grid(rgba, keypoints, columns=4, captions=names), folder / "models.png")
    for kind, pairs in notable_pairs(evaluation, 3).items():
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
    model_index = evaluation.model_index
    models = np.unique(model_index)
    chosen = models[np.unique(np.linspace(0, len(models) - 1, min(count, len(models))).round().astype(int))]
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
    picture.save(temporary_path(path), format="PNG")
    publish(path)
