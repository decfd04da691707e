"""How keypoints lie on the object: against the surface that the views of a model show.

A dataset holds depth maps, not meshes; the surface of a model is the points that all its views see, in the object
frame. What no view sees (the underside, say) is not part of it. M models, N keypoints, S surface points.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import pdist

from train.eval import metrics

SURFACE_POINTS = 1000  # per model
INCLUSIVITY_RADIUS = 0.1  # object units


def visible_surface(
    rgba: np.ndarray,
    depth: np.ndarray,
    intrinsics: np.ndarray,
    object_to_camera: np.ndarray,
    count: int = SURFACE_POINTS,
) -> tuple[np.ndarray, np.ndarray]:
    """Points of one model's surface and their colours, evenly from all pixels of all views.

    Args:
        rgba: uint8 (V, H, W, 4). depth: (V, H, W), 0 = background. intrinsics: (V, 3, 3). object_to_camera: (V, 4, 4).
        count: how many points at most.

    Returns:
        float64 (S, 3) in the object frame, and uint8 (S, 3).
    """
    # at the rim, the pixel's centre may lie on the background behind a covered corner
    solid = (depth > 0) & (rgba[..., 3] == 255)
    if not solid.any():  # an object thinner than a pixel is all rim
        solid = depth > 0
    view, row, column = np.nonzero(solid)
    chosen = np.random.default_rng(0).permutation(len(view))[:count]
    view, row, column = view[chosen], row[chosen], column[chosen]
    uvz = np.stack([column + 0.5, row + 0.5, depth[view, row, column]], axis=-1)
    points = metrics.object_points(uvz[:, None], intrinsics[view], object_to_camera[view])[:, 0]
    return points, rgba[view, row, column, :3]


def coverage(keypoints: np.ndarray, surface: np.ndarray) -> float:
    """Intersection over union of the axis-aligned bounding boxes of the keypoints and of the surface.

    Fernandez-Labrador et al., ECCV 2020 (arXiv 2003.07619), section 5: how far the keypoints span the object.

    Args:
        keypoints: (N, 3). surface: (S, 3).
    """
    low, high = (np.stack([f(points, axis=0) for points in (keypoints, surface)]) for f in (np.min, np.max))
    overlap = np.clip(high.min(0) - low.max(0), 0, None).prod()
    union = (high - low).prod(1).sum() - overlap
    return float(overlap / union) if union > 0 else 0.0


def inclusivity(keypoints: np.ndarray, surface: np.ndarray) -> float:
    """Share of keypoints that lie within ``INCLUSIVITY_RADIUS`` of the surface (same source as :func:`coverage`).

    Args:
        keypoints: (N, 3). surface: (S, 3), object units.
    """
    distance = np.linalg.norm(keypoints[:, None] - surface[None], axis=-1).min(1)
    return float((distance <= INCLUSIVITY_RADIUS).mean())


def add_error(
    surface: np.ndarray, estimated: tuple[np.ndarray, np.ndarray], truth: tuple[np.ndarray, np.ndarray]
) -> float:
    """ADD: mean distance between the surface moved by an estimated and by the true pose.

    Hinterstoisser et al., ACCV 2012, section 4.

    Args:
        surface: (S, 3) in the frame that the poses start from. estimated, truth: rotation (3, 3), translation (3,).
    """
    moved = surface @ (estimated[0] - truth[0]).T + (estimated[1] - truth[1])
    return float(np.linalg.norm(moved, axis=-1).mean())


def diameter(surface: np.ndarray) -> float:
    """Largest distance between two points of the surface (S, 3)."""
    return float(pdist(surface).max(initial=0))
