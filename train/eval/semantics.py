"""How learned keypoints relate to semantic ones, the named points that a dataset may know of its models.

M models, N learned keypoints, S semantic ones; NaN where a model has no such part. All in the object frame, object
units: the longest side of every model's bounding box is 2.
"""

from __future__ import annotations

import numpy as np

BOX_SIDE = 2.0  # object units
IOU_RADIUS = 0.1  # share of the box's side
FOLDS = 5
RIDGE = 1e-3  # of the linear map, per sample


def dual_alignment_score(learned: np.ndarray, semantic: np.ndarray) -> float:
    """Dual alignment score: do learned keypoints keep their semantic neighbour from model to model?

    Shi et al., Skeleton Merger (CVPR 2021, arXiv 2103.10814), section 4. On a reference model, every learned keypoint
    is given the name of the nearest semantic one; the forward score is how often it has the same name on another
    model. The backward score exchanges the roles: how often a semantic point has the same nearest learned one. The
    score is the mean of both, averaged over all ordered pairs of models instead of one chosen reference. Semantic
    points that one of the two models lacks are left out for both.

    Args:
        learned: (M, N, 3). semantic: (M, S, 3).

    Returns:
        In [0, 1]; NaN for fewer than two models, or without common points.
    """
    distance = np.linalg.norm(learned[:, :, None] - semantic[:, None], axis=-1)  # (M, N, S)
    known = ~np.isnan(distance[:, 0])
    nearest = np.where(known[:, None], distance, np.inf).argmin(1)  # (M, S), of the learned keypoints
    scores = []
    for reference in range(len(learned)):  # against all models at once
        common = known[reference] & known
        a, b = (np.where(common[:, None], of, np.inf).argmin(2) for of in (distance[reference], distance))
        forward = (a == b).mean(1)
        backward = ((nearest[reference] == nearest) & common).sum(1) / common.sum(1).clip(min=1)
        counted = common.any(1)
        counted[reference] = False
        scores.append((forward + backward)[counted] / 2)
    scores = np.concatenate(scores)
    return float(scores.mean()) if len(scores) else float("nan")


def mean_iou(learned: np.ndarray, semantic: np.ndarray) -> float:
    """Mean intersection over union of learned and semantic keypoints at ``IOU_RADIUS``.

    You et al., KeypointNet (CVPR 2020, arXiv 2002.12687), section 5, with straight distances for geodesic ones: a
    semantic point with a learned one within it is found (TP), one without is missed (FN), a learned point with
    no semantic one within it is false (FP); TP / (TP + FP + FN) per model, averaged over models.

    Args:
        learned: (M, N, 3). semantic: (M, S, 3).

    Returns:
        In [0, 1]; NaN when no model has semantic points.
    """
    scores = []
    for own, named in zip(learned, semantic, strict=True):
        named = named[~np.isnan(named).any(-1)]
        if len(named):
            near = np.linalg.norm(own[:, None] - named[None], axis=-1) <= IOU_RADIUS * BOX_SIDE
            found, false = near.any(0).sum(), (~near.any(1)).sum()
            scores.append(found / (len(named) + false))
    return float(np.mean(scores)) if scores else float("nan")


def predict_semantic(points: np.ndarray, semantic: np.ndarray, model_index: np.ndarray) -> np.ndarray:
    """Semantic keypoints from learned ones by the best linear map, fitted on other models.

    Thewlis et al., Unsupervised learning of object landmarks (ICCV 2017), section 4: an affine map from the 3N
    coordinates of the learned keypoints of a view to each semantic keypoint, by least squares (with a little ridge). It
    is fitted on all models but a fifth, and applied to that fifth, in turn.

    Args:
        points: (V, N, 3) learned keypoints of views, in the object frame. semantic: (M, S, 3). model_index: (V,).

    Returns:
        float64 (V, S, 3); NaN where no other model has the semantic point.
    """
    inputs = np.column_stack([points.reshape(len(points), -1), np.ones(len(points))])
    targets = semantic[model_index]
    models = np.unique(model_index)
    fold = (np.searchsorted(models, model_index) * min(FOLDS, len(models))) // len(models)
    predicted = np.full(targets.shape, np.nan)
    for part in np.unique(fold):
        for s in range(semantic.shape[1]):
            fit = (fold != part) & ~np.isnan(targets[:, s]).any(-1)
            if fit.any():
                a, b = inputs[fit], targets[fit, s]
                weights = np.linalg.solve(a.T @ a + RIDGE * len(a) * np.eye(a.shape[1]), a.T @ b)
                predicted[fold == part, s] = inputs[fold == part] @ weights
    return predicted


def correct_keypoints(predicted: np.ndarray, truth: np.ndarray, share: float) -> float:
    """PCK: share of keypoints within ``share`` of the bounding box's longest side of their true place.

    Yang and Ramanan, PAMI 2013, here in 3D. Points that are unknown or could not be predicted are left out.

    Args:
        predicted, truth: (*, S, 3).

    Returns:
        In [0, 1]; NaN when nothing is known.
    """
    distance = np.linalg.norm(predicted - truth, axis=-1)
    distance = distance[~np.isnan(distance)]
    return float((distance <= share * BOX_SIDE).mean()) if len(distance) else float("nan")
