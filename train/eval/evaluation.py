"""What a detector says of a split beside what is true of it, and the figures that follow from both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data.dataset import PairDataset
from data.geometry import camera_angles
from train.eval import metrics, semantics, surface
from train.eval.failures import PairGeometry, behind_surface, name_failure
from train.eval.predictions import Predictions
from train.losses import true_flags

METRICS_NAME = "metrics.json"
BOOTSTRAP_SAMPLES = 1000
REPEATABILITY_RADIUS = 0.1  # object units
DISTINCT_DISTANCE = 0.05  # object units
PAIRS_PER_SURFACE = 8  # views of so many pairs make a model's surface
# arXiv 1807.03146, Table 1: mean and median angular error (degrees) and 3D-SE on ShapeNet's test models
PAPER_ROWS = ("supervised", "KeypointNet")
PAPER_TABLE_1 = {
    "car": ((16.268, 5.583, 0.240), (11.310, 3.372, 0.171)),
    "airplane": ((18.350, 7.168, 0.233), (17.330, 5.721, 0.230)),
    "chair": ((21.882, 8.771, 0.269), (14.572, 5.420, 0.196)),
}
HEADLINE = ("angular_error_mean_deg", "angular_error_median_deg", "keypoint_3d_se")


def shown(form: str, figure: float | None) -> str:
    """A figure as text, or a dash for one that cannot be told."""
    return "–" if figure is None or np.isnan(figure) else form.format(figure)


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
        # A bent model is another shape in every pair: what compares views asks for the shape.
        self.model_index, self.shape_index = data.model_index.numpy(), data.shape_index.numpy()

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

    def _median_points(self, pairs: np.ndarray) -> np.ndarray:
        points = self.points[pairs]
        return np.median(points.reshape(-1, *points.shape[2:]), axis=0)

    def surface_of(self, shape: int, count: int = surface.SURFACE_POINTS) -> tuple[np.ndarray, np.ndarray]:
        """Surface of a shape, see :func:`train.eval.surface.visible_surface`."""
        pairs = np.flatnonzero(self.shape_index == shape)[:PAIRS_PER_SURFACE]
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
        correct = said.flags == self.true_flags
        spread = metrics.spread_over_models(self.points, said.angular_error_deg)
        return {
            "n_models": len(self.models),
            "n_pairs": len(self.model_index),
            **self._headline(np.arange(len(self.model_index)), self.model_index),
            "confidence_interval_95": metrics.bootstrap_over_models(
                self._headline, self.model_index, BOOTSTRAP_SAMPLES
            ),
            "orientation_accuracy_per_axis": {a: float(correct[..., i].mean()) for i, a in enumerate(self.axes)},
            "keypoint_spread": [float(s) for s in spread],
            "distinct_keypoints_at_0.05": metrics.distinct_keypoints(
                self.points, said.angular_error_deg, DISTINCT_DISTANCE
            ),
            "silhouette_hit_rate_per_keypoint": [float(s) for s in self.inside.mean((0, 1))],
            "repeatability_at_0.1": metrics.repeatability(self.points, REPEATABILITY_RADIUS),
            **self._pose_metrics(),
            **self._semantic_metrics(),
            **self._symmetry_metrics(),
            **self._confidence_metrics(),
            "run": self.run,
            "category": self.category,
            "split": self.split,
        }

    def _headline(self, pairs: np.ndarray, models: np.ndarray) -> dict[str, float]:
        """The contract's figures, of some pairs (K,) and the models that these count to (K,)."""
        errors, points = self.predictions.angular_error_deg[pairs], self.points[pairs]
        shapes = models * (self.shape_index.max() + 1) + self.shape_index[pairs]
        return {
            **metrics.summarize_errors(errors),
            "keypoint_3d_se": metrics.keypoint_3d_se(points, errors),
            "keypoint_3d_se_within_model": metrics.keypoint_3d_se_within_model(points, shapes),
            "orientation_accuracy": metrics.orientation_accuracy(self.predictions.flags[pairs], self.true_flags[pairs]),
            "silhouette_hit_rate": float(self.inside[pairs].mean()),
        }

    def _pose_metrics(self) -> dict[str, float]:
        """Figures of the keypoints on the surface, and of the whole recovered motion."""
        rotation, truth = self.predictions.R_estimated, self.dataset.R.numpy()
        points = metrics.camera_points(self.predictions.keypoints, self.intrinsics)
        translation = metrics.relative_translation(points, rotation, self.predictions.sigma)
        true_translation = self.dataset.t.numpy()
        cover, include, add, diameters = [], [], np.empty(len(rotation)), np.empty(len(rotation))
        for shape in np.unique(self.shape_index):
            cloud = self.surface_of(int(shape))[0]
            if not len(cloud):  # no view shows it; its centre stands in
                cloud = np.zeros((1, 3))
            pairs = np.flatnonzero(self.shape_index == shape)
            learned = self._median_points(pairs)
            cover.append(surface.coverage(learned, cloud))
            include.append(surface.inclusivity(learned, cloud))
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
        known = ~np.isnan(semantic).any(-1).all(-1)  # no deformed shape is, so these are models
        pairs = np.flatnonzero(known[self.shape_index])
        if not len(pairs):
            return {}
        views = self.points[pairs].reshape(-1, *self.points.shape[2:])
        index = np.repeat(self.shape_index[pairs], 2)
        predicted = semantics.predict_semantic(views, semantic, index)
        shapes = np.unique(index)
        learned = np.stack([self._median_points(self.shape_index == shape) for shape in shapes])
        figures = {
            "dual_alignment_score": semantics.dual_alignment_score(learned, semantic[shapes]),
            "mean_iou_at_0.1": semantics.mean_iou(learned, semantic[shapes]),
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

    @cached_property
    def distances(self) -> np.ndarray:
        """Between where both views of a pair place a keypoint in the object frame, float64 (P, N).

        Measured from the centre of all keypoints: an offset that they share, above all in depth, cannot be seen in an
        image, and no detector claims to know it.
        """
        centered = self.points - self.points.mean(2, keepdims=True)
        return np.linalg.norm(centered[:, 0] - centered[:, 1], axis=-1)

    @cached_property
    def certainty(self) -> np.ndarray | None:
        """What the detector claims of :attr:`distances`, 1 / sqrt(σ_0² + σ_1²) (P, N);
        None where it claims nothing."""
        sigma = self.predictions.sigma
        return None if sigma is None else np.sqrt(metrics.pair_weights(sigma))

    def _confidence_metrics(self) -> dict[str, float]:
        """How true the detector's confidence is, where it has one."""
        if self.certainty is None:
            return {}
        certainty, error = self.certainty.ravel(), self.distances.ravel()
        return {
            "confidence_calibration_error": metrics.calibration_error(self.predictions.sigma, self.distances),
            "confidence_ause": metrics.sparsification_error(certainty, error),
            "confidence_ause_of_chance": float(1 - metrics.sparsification_curve(-error, error).mean()),
            "confidence_rank_correlation": metrics.rank_correlation(-certainty, error),
        }

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
        """:func:`data.geometry.camera_angles` of the views.

        Returns:
            float64 (P, 2) each, degrees in [-180, 180] and [-90, 90].
        """
        azimuth, elevation = camera_angles(self.dataset.object_to_camera)
        return azimuth.numpy(), elevation.numpy()

    def ranked_pairs(self) -> np.ndarray:
        """Pairs by angular error, best first: int64 (P,)."""
        return np.argsort(self.predictions.angular_error_deg, kind="stable")
