"""The figures of an evaluation, as pure functions on float64 arrays.

Angles follow eq. 2 and eq. 3 of arXiv 1807.03146; mean, median and 3D-SE are the columns of its Table 1.
P pairs, 2 views each, N keypoints, A orientation axes, V views in all.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from scipy.special import gammainc

from data import geometry
from data.images import pixels_under

FLIP_DEGREES = 90.0
_MAX_ORDER = 360  # of a symmetry; beyond, "inf" differs by less than half a degree


def camera_points(keypoints: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Lift keypoints to the camera frame.

    Args:
        keypoints: (*, N, 3) as (u, v, z): pixels, pixels, depth. intrinsics: (*, 3, 3), pixels.

    Returns:
        float64 (*, N, 3), object units.
    """
    return geometry.unproject(_tensor(intrinsics), _tensor(keypoints)).numpy()


def object_points(keypoints: np.ndarray, intrinsics: np.ndarray, object_to_camera: np.ndarray) -> np.ndarray:
    """Lift keypoints to the object frame with the true pose.

    Args:
        keypoints: (*, N, 3) as (u, v, z). intrinsics: (*, 3, 3). object_to_camera: (*, 4, 4).

    Returns:
        float64 (*, N, 3), object frame.
    """
    camera_to_object = geometry.invert_rigid(_tensor(object_to_camera))
    return geometry.transform_points(camera_to_object, _tensor(camera_points(keypoints, intrinsics))).numpy()


def relative_rotation(points: np.ndarray, sigma: np.ndarray | None = None) -> np.ndarray:
    """Rotation from view 0 to view 1 recovered from the two keypoint sets alone (Procrustes, eq. 3).

    Args:
        points: (*, 2, N, 3) keypoints of both views, each in its own camera frame.
        sigma: (*, 2, N) their uncertainties, which weight them; None for equal weights.

    Returns:
        float64 (*, 3, 3), a proper rotation.
    """
    both = _tensor(points)
    weights = None if sigma is None else geometry.pair_weights(_tensor(sigma))
    return geometry.procrustes(both[..., 0, :, :], both[..., 1, :, :], weights).numpy()


def recover_rotation(keypoints: np.ndarray, intrinsics: np.ndarray, sigma: np.ndarray | None = None) -> np.ndarray:
    """:func:`relative_rotation` of detected keypoints.

    Args:
        keypoints: (*, 2, N, 3) as (u, v, z): pixels, pixels, depth. intrinsics: (*, 2, 3, 3), pixels.
        sigma: see there.

    Returns:
        float64 (*, 3, 3).
    """
    return relative_rotation(camera_points(keypoints, intrinsics), sigma)


def pair_weights(sigma: np.ndarray) -> np.ndarray:
    """Weights of keypoints that are known to σ in each of two views: (*, 2, N) -> float64 (*, N)."""
    return geometry.pair_weights(_tensor(sigma)).numpy()


def angular_error(estimated: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Geodesic angle between rotations in degrees, 2·asin(‖R̂ − R‖_F / 2√2) (eq. 2).

    Args:
        estimated, truth: (*, 3, 3).

    Returns:
        float64 (*), in [0, 180].
    """
    return np.degrees(geometry.rotation_distance(_tensor(estimated), _tensor(truth)).numpy())


def summarize_errors(errors: np.ndarray) -> dict[str, float]:
    """Mean, median, share of pairs within 5, 10 and 30 degrees, and share of flips (beyond 90 degrees).

    Args:
        errors: (P,) angular errors in degrees.
    """
    errors = np.asarray(errors, np.float64)
    if errors.size == 0:
        raise ValueError("no pairs to summarise")
    return {
        "angular_error_mean_deg": float(errors.mean()),
        "angular_error_median_deg": float(np.median(errors)),
        "accuracy_at_5_deg": float((errors <= 5).mean()),
        "accuracy_at_10_deg": float((errors <= 10).mean()),
        "accuracy_at_30_deg": float((errors <= 30).mean()),
        "flip_rate": float((errors > FLIP_DEGREES).mean()),
    }


def bootstrap_over_models(
    figures: Callable[[np.ndarray, np.ndarray], dict[str, float]], model_index: np.ndarray, samples: int
) -> dict[str, list[float]]:
    """95 % percentile intervals of figures of a split, drawing whole models with replacement.

    Efron and Tibshirani, An introduction to the bootstrap (1993), section 13.3. Pairs of one model are not independent,
    so models are what is drawn.

    Args:
        figures: computes them from indices of pairs (K,) and the models these count to (K,); a model that was drawn
            twice counts as two.
        model_index: (P,). samples: number of draws.

    Returns:
        name -> [low, high]; NaN where there are fewer than two models, of which nothing can be said.
    """
    rng = np.random.default_rng(0)
    groups = [np.flatnonzero(model_index == m) for m in np.unique(model_index)]
    if len(groups) < 2:
        return {name: [math.nan] * 2 for name in figures(np.arange(len(model_index)), np.asarray(model_index))}
    draws = []
    for _ in range(samples):
        drawn = [groups[g] for g in rng.integers(len(groups), size=len(groups))]
        models = np.repeat(np.arange(len(drawn)), [len(pairs) for pairs in drawn])
        draws.append(figures(np.concatenate(drawn), models))
    intervals = {}
    for name in draws[0]:
        values = np.array([draw[name] for draw in draws])
        known = values[~np.isnan(values)]  # a figure may be unknown for some draws
        intervals[name] = np.percentile(known, (2.5, 97.5)).tolist() if len(known) else [math.nan] * 2
    return intervals


def keypoint_spread(points: np.ndarray) -> np.ndarray:
    """Spread of every keypoint about its own mean: s_k = sqrt(mean_v ‖x_vk − mean_v x_vk‖²).

    Args:
        points: (V, N, 3) in the object frame.

    Returns:
        float64 (N,), object units; NaN where V is 0.
    """
    points = np.asarray(points, np.float64)
    if len(points) == 0:
        return np.full(points.shape[1], np.nan)
    return np.sqrt(np.square(points - points.mean(0)).sum(-1).mean(0))


def keypoint_3d_se(points: np.ndarray, errors: np.ndarray) -> float:
    """The paper's 3D-SE (section 5, Table 1): spread in the object frame over the whole split, averaged over keypoints.

    Both views of every pair count, those of pairs beyond 90 degrees are left out. Since models of a category differ
    in shape, a perfect detector does not reach 0 here; see :func:`keypoint_3d_se_within_model`.

    Args:
        points: (P, 2, N, 3) in the object frame. errors: (P,) degrees.

    Returns:
        mean_k s_k in object units (longest side of every object = 2); NaN when every pair is a flip.
    """
    return float(spread_over_models(points, errors).mean())


def views_but_flips(points: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Both views of the pairs of at most 90 degrees: (P, 2, N, 3) and their errors (P,) -> (V, N, 3)."""
    kept = np.asarray(points)[np.asarray(errors) <= FLIP_DEGREES]
    return kept.reshape(-1, *kept.shape[2:])


def spread_over_models(points: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """:func:`keypoint_spread` over both views of all pairs but flips; arguments as of :func:`keypoint_3d_se`.

    Returns:
        float64 (N,), object units.
    """
    return keypoint_spread(views_but_flips(points, errors))


def distinct_keypoints(points: np.ndarray, errors: np.ndarray, distance: float) -> int:
    """How many keypoints there are, those whose mean places in the object frame coincide counted once.

    Args:
        points: (P, 2, N, 3) in the object frame. errors: (P,) degrees; pairs beyond 90 are left out.
        distance: of two keypoints that count as one, also through others, object units.

    Returns:
        1 to N, or 0 when every pair is a flip.
    """
    views = views_but_flips(points, errors)
    if not len(views):
        return 0
    places = views.mean(0, dtype=np.float64)
    near = np.linalg.norm(places[:, None] - places, axis=-1) <= distance
    return int(connected_components(near)[0])


def keypoint_3d_se_within_model(points: np.ndarray, model_index: np.ndarray) -> float:
    """Spread over the views of one model, averaged over keypoints, then over models; nothing is left out.

    Args:
        points: (P, 2, N, 3) in the object frame. model_index: (P,) which model a pair shows.
    """
    return float(spread_within_models(points, model_index).mean())


def spread_within_models(points: np.ndarray, model_index: np.ndarray) -> np.ndarray:
    """:func:`keypoint_spread` over the views of each model, averaged over models.

    Args:
        points: (P, 2, N, 3) in the object frame. model_index: (P,) which model a pair shows.

    Returns:
        float64 (N,), object units.
    """
    _, index, pairs = np.unique(model_index, return_inverse=True, return_counts=True)
    order = np.argsort(index, kind="stable")
    ordered, starts = np.asarray(points, np.float64)[order], np.cumsum(pairs) - pairs
    views = 2.0 * pairs[:, None, None]
    mean = np.add.reduceat(ordered, starts).sum(1) / views
    squares = np.square(ordered - mean[index[order], None]).sum((1, 3))
    return np.sqrt(np.add.reduceat(squares, starts) / views[..., 0]).mean(0)


def orientation_accuracy(flags: np.ndarray, true_flags: np.ndarray) -> float:
    """Share of views whose orientation is right, that is, all of its flags where the model has several axes.

    Args:
        flags, true_flags: bool (*, A).
    """
    return float((np.asarray(flags) == np.asarray(true_flags)).all(-1).mean())


def inside_mask(keypoints: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Which keypoints project onto a pixel that the object covers at least in part (alpha > 0).

    Args:
        keypoints: (V, N, 2 or 3), u and v in pixels. alpha: (V, H, W).

    Returns:
        bool (V, N); False outside the image.
    """
    row, column, inside = pixels_under(keypoints, alpha.shape[-2:])
    return inside & (alpha[np.arange(len(alpha))[:, None], row, column] > 0)


def repeatability(points: np.ndarray, radius: float) -> float:
    """Share of keypoints that both views of a pair place within ``radius`` of each other.

    Li and Lee, USIP (ICCV 2019), section 4.1, but stricter: a keypoint must find itself again in the other view, not
    any keypoint.

    Args:
        points: (P, 2, N, 3) in the object frame. radius: object units.
    """
    return float((np.linalg.norm(points[:, 0] - points[:, 1], axis=-1) <= radius).mean())


def relative_translation(points: np.ndarray, rotation: np.ndarray, sigma: np.ndarray | None = None) -> np.ndarray:
    """Translation that, with a rotation, best takes the keypoints of view 0 to those of view 1.

    Args:
        points: (*, 2, N, 3) in camera frames. rotation: (*, 3, 3). sigma: (*, 2, N), see :func:`relative_rotation`.

    Returns:
        float64 (*, 3): the difference of the (weighted) centroids, the first one rotated.
    """
    points = np.asarray(points, np.float64)
    weights = np.ones(points.shape[:-3] + points.shape[-2:-1]) if sigma is None else pair_weights(sigma)
    weights = weights / weights.sum(-1, keepdims=True)
    centers = (weights[..., None, :, None] * points).sum(-2)
    return centers[..., 1, :] - (rotation @ centers[..., 0, :, None])[..., 0]


def reliability_curve(sigma: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often two views agree within what they claim: the observed share of keypoints against the expected one.

    A detector claims that each coordinate of a keypoint errs by a Gaussian of standard deviation σ. Then the
    vector between what both views say has σ_0² + σ_1² per coordinate, and its length follows a Maxwell
    distribution. (Kuleshov, Fenner and Ermon, Accurate uncertainties for deep learning using calibrated regression,
    ICML 2018, section 3.)

    Args:
        sigma: (P, 2, N). distance: (P, N) between the keypoints of both views in the object frame.

    Returns:
        expected shares 0, 0.05 … 1, and the observed ones.
    """
    ratio = np.asarray(distance, np.float64) * np.sqrt(pair_weights(sigma))
    within = gammainc(1.5, np.square(ratio) / 2)  # of a Maxwell distribution
    expected = np.linspace(0, 1, 21)
    return expected, (within.reshape(-1, 1) <= expected).mean(0)


def calibration_error(sigma: np.ndarray, distance: np.ndarray) -> float:
    """Mean gap between expected and observed share of :func:`reliability_curve`: 0 for a calibrated detector."""
    expected, observed = reliability_curve(sigma, distance)
    return float(np.abs(observed - expected)[1:-1].mean())


def sparsification_curve(certainty: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Mean error of what remains as the least certain are left out one by one, relative to the mean of all.

    Args:
        certainty, error: (K,), higher is more certain.

    Returns:
        float64 (K,): with nothing left out, then one, until one is left.
    """
    error = np.asarray(error, np.float64)[np.argsort(-np.asarray(certainty), kind="stable")]
    return (np.cumsum(error) / np.arange(1, len(error) + 1))[::-1] / error.mean()


def sparsification_error(certainty: np.ndarray, error: np.ndarray) -> float:
    """AUSE: area between the sparsification curve by certainty and the one by the true error; 0 is the best.

    Ilg et al., Uncertainty estimates and multi-hypotheses networks for optical flow (ECCV 2018), section 5.

    Args:
        certainty, error: (K,).
    """
    return float((sparsification_curve(certainty, error) - sparsification_curve(-np.asarray(error), error)).mean())


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two samples (K,); equal values share their mean rank. NaN for a constant one."""
    from scipy import stats  # takes long to import, and most that use this module do without

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        return float(stats.spearmanr(first, second).statistic)


class Symmetry:
    """A rotational symmetry of a category's objects: ``order`` equal steps about an axis, or any angle.

    Args:
        text: "AXIS:ORDER", as "y:2" for half turns about the vertical, "y:inf" for a surface of revolution.

    Raises:
        ValueError: another text.
    """

    def __init__(self, text: str):
        axis, _, order = text.partition(":")
        if axis not in ("x", "y", "z") or not (order == "inf" or (order.isdecimal() and 0 < int(order) <= _MAX_ORDER)):
            raise ValueError(f"{text!r} is no symmetry")
        self.name = text
        self.axis = np.eye(3)["xyz".index(axis)]
        self.order = None if order == "inf" else int(order)

    def angular_error(self, estimated: np.ndarray, object_to_camera: np.ndarray) -> np.ndarray:
        """Least :func:`angular_error` to any relative rotation that the views of a symmetric object allow.

        Turning the object by S between the views changes nothing visible, so R_1 S R_0^T is as true as R_1 R_0^T
        (Hodan et al., BOP, ECCV 2018, section 2.2, takes the least over the same group).

        Args:
            estimated: (*, 3, 3) from view 0 to view 1. object_to_camera: (*, 2, 4, 4), the true poses.

        Returns:
            float64 (*), degrees.
        """
        rotation = np.asarray(object_to_camera)[..., :3, :3]
        first, second = rotation[..., 0, :, :], rotation[..., 1, :, :]
        # tr(Sᵀ Q) for Q = R_1ᵀ R̂ R_0 and S(θ) = aaᵀ + cos θ (I − aaᵀ) + sin θ [a]×
        q = np.swapaxes(second, -1, -2) @ estimated @ first
        cross = np.cross(self.axis, np.eye(3)).T
        fixed = q @ self.axis @ self.axis
        cosine = np.trace(q, axis1=-2, axis2=-1) - fixed
        sine = (q * cross).sum((-2, -1))
        if self.order is None:
            best = fixed + np.hypot(cosine, sine)
        else:
            angles = 2 * np.pi * np.arange(self.order) / self.order
            best = fixed + (cosine[..., None] * np.cos(angles) + sine[..., None] * np.sin(angles)).max(-1)
        return np.degrees(np.arccos(np.clip((best - 1) / 2, -1, 1)))


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.asarray(array, np.float64))
