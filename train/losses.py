"""The terms of the objective, each its own function, each per item.

Shapes: B pairs, 2 views, N keypoints, A axes, maps of h×w. Keypoints are (u, v, z) in the image coordinates of
``intrinsics`` (normalised ones in training) with depth along the camera's +z; ``points`` are the same keypoints
lifted to the camera frame. Every term returns (B,). The paper's, but for the pose, which has one value a pair, sum
over the two views, as the official code does. Equations are those of arXiv 1807.03146.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from data.geometry import (
    invert_rigid,
    pair_weights,
    procrustes,
    project,
    rotation_distance,
    transform_points,
    unproject,
)
from train import distributed
from train.batches import PairBatch, with_mates
from train.config import LossWeights
from train.networks import Prediction, count_paired, pixel_grid

MASK_SIDE = 48  # pixels in which distances from the object are taken; those that hold any of it count


def consistency(keypoints: Tensor, transforms: Tensor, intrinsics: Tensor) -> Tensor:
    """Multi-view consistency (eq. 1): squared image distance between moved and detected keypoints, both ways.

    Args:
        keypoints: (B, 2, N, 3). transforms: (B, 2, 4, 4), view i's camera frame to the other's.
        intrinsics: (B, 2, 3, 3).

    Returns:
        (B,) mean over keypoints, summed over the two directions.
    """
    moved = transform_points(transforms, unproject(intrinsics, keypoints))
    projected = project(intrinsics.flip(1), moved)
    error = (projected - keypoints.flip(1))[..., :2].square().sum(-1)
    return error.mean(-1).sum(1)


def residuals(points: Tensor, rotation: Tensor) -> Tensor:
    """What is left between the two views' points after the true rotation.

    Both point sets are centred first: an offset common to all keypoints, above all in depth, cannot be seen.

    Args:
        points: (B, 2, N, 3) camera-frame keypoints. rotation: (B, 3, 3) from view 0 to view 1.

    Returns:
        (B, N, 3), object units.
    """
    centered = points - points.mean(-2, keepdim=True)
    return centered[:, 0] @ rotation.transpose(-1, -2) - centered[:, 1]


def spatial_consistency(points: Tensor, rotation: Tensor) -> Tensor:
    """Spatial consistency (ours): squared :func:`residuals` over the squared size of the point sets.

    Eq. 1 compares projections, so that depth counts only as far as the camera's turn makes it visible. Without the
    division keypoints would move together, for then all distances are small.

    Returns:
        (B,) mean squared residual / mean squared distance of keypoints from their centre, over both views.
    """
    size = (points - points.mean(-2, keepdim=True)).square().sum(-1).mean((-2, -1))
    return residuals(points, rotation).square().sum(-1).mean(-1) / size.clamp(min=1e-3)


def canonical_consistency(points: Tensor, object_to_camera: Tensor) -> Tensor:
    """Canonical consistency (ours): a keypoint lies at the same place in the object frame, whatever the object.

    What 3D-SE measures, but for what cannot be seen: how far a view's point set as a whole is off along the camera's
    axis. Relative to the size of the sets, or keypoints would move together.

    Args:
        points: (B, 2, N, 3) camera-frame keypoints. object_to_camera: (B, 2, 4, 4).

    Returns:
        (B,) mean squared distance of keypoints from their means over the batch, less that of the set along the axis /
        the batch's mean squared distance of keypoints from their sets' centres.
    """
    placed = transform_points(invert_rigid(object_to_camera), points)
    centered = placed - placed.mean(-2, keepdim=True)
    size = distributed.batch_mean(centered.square().sum(-1).mean())
    away = placed - distributed.batch_mean(placed.mean((0, 1)))
    unseen = (away.mean(-2) * object_to_camera[..., 2, :3]).sum(-1)  # along the camera's z axis
    return (away.square().sum(-1).mean(-1) - unseen.square()).mean(-1) / size.clamp(min=1e-3)


def relative_pose(points: Tensor, rotation: Tensor, noise: float | Tensor = 0.0, sigma: Tensor | None = None) -> Tensor:
    """Relative pose (eq. 2 and 3): angle between the true rotation and the one Procrustes recovers.

    Args:
        points: (B, 2, N, 3) camera-frame keypoints. rotation: (B, 3, 3) from view 0 to view 1.
        noise: standard deviation of the Gaussian noise on all coordinates, in object units.
        sigma: (B, 2, N) uncertainties that weight the keypoints, or None for equal weights.

    Returns:
        (B,) radians.
    """
    points = points + noise * distributed.randn(*points.shape, dtype=points.dtype, device=points.device)
    weights = None if sigma is None else pair_weights(sigma)
    return rotation_distance(procrustes(points[:, 0], points[:, 1], weights), rotation)


def uncertainty(points: Tensor, sigma: Tensor, rotation: Tensor) -> Tensor:
    """Negative log-likelihood of the :func:`residuals`.

    They are taken as Gaussian, with variance σ² per coordinate from each view
    (Kendall and Gal, arXiv 1703.04977, eq. 5).

    Args:
        points: (B, 2, N, 3) camera-frame keypoints. sigma: (B, 2, N), object units.
        rotation: (B, 3, 3) from view 0 to view 1.

    Returns:
        (B,) mean over keypoints; the constant is left out.
    """
    variance = sigma.square().sum(1)
    return (residuals(points, rotation).square().sum(-1) / (2 * variance) + 1.5 * variance.log()).mean(-1)


def supervision(points: Tensor, labels: Tensor) -> Tensor:
    """Squared distance to labelled keypoints, those of the supervised baseline (Table 1, rows a and b).

    Args:
        points: (B, 2, N, 3) camera-frame keypoints. labels: (B, 2, N, 3), NaN where an object has no such part.

    Returns:
        (B,) mean over the labelled keypoints, summed over views.
    """
    known = ~labels.isnan().any(-1)
    squared = (points - labels.nan_to_num()).square().sum(-1) * known
    return (squared.sum(-1) / known.sum(-1).clamp(min=1)).sum(1)


def separation(points: Tensor, delta: float, mirror: bool = False) -> Tensor:
    """Hinge on squared 3D distances below ``delta`` (eq. 6; δ² of the paper), over all ordered pairs of keypoints.

    The pairs of a point with itself add the constant ``delta``, and the sum is divided by 2N: both as the official
    code has it.

    Args:
        points: (B, 2, N, 3). mirror: leave out the pairs that :func:`mirror_separation` is for.

    Returns:
        (B,) summed over views.
    """
    squared = (points.unsqueeze(-2) - points.unsqueeze(-3)).square().sum(-1)
    hinge = (delta - squared).clamp(min=0)
    if mirror:
        k = torch.arange(points.shape[-2], device=points.device)
        partners = (k // 2 == k[:, None] // 2) & (k != k[:, None])
        hinge = hinge.masked_fill(partners, 0)
    return hinge.sum((-2, -1)).sum(1) / (2 * points.shape[-2])


def mirror_separation(points: Tensor, object_to_camera: Tensor, distance: float) -> Tensor:
    """Mirror separation (ours): hinge on how far keypoint 2k lies beyond 2k + 1 along an axis of the object.

    The two of a mirror pair begin on each other in the plane of symmetry, where views agree best. :func:`separation`
    has no slope there; this has, and the same one in all views. Their axis is x, across that plane. The last two of an
    even number have no mirror images and stay in the plane, where they can fall together as well: theirs is z.

    Args:
        points: (B, 2, N, 3) camera-frame keypoints. object_to_camera: (B, 2, 4, 4).
        distance: along the axis, object units, from which on a pair is left alone.

    Returns:
        (B,) mean over the pairs, summed over views.
    """
    num_keypoints = points.shape[-2]
    apart = points[..., : num_keypoints // 2 * 2 : 2, :] - points[..., 1::2, :]
    x, z = axis_directions(object_to_camera, ("x", "z")).unbind(-2)
    mirrored = count_paired(num_keypoints) // 2
    along = torch.stack([x] * mirrored + [z] * (num_keypoints // 2 - mirrored), dim=-2)
    return (distance - (apart * along).sum(-1)).clamp(min=0).mean(-1).sum(1)


def silhouette(heatmaps: Tensor, mask: Tensor) -> Tensor:
    """−log of the heat map's mass inside the object (eq. 7).

    Args:
        heatmaps: (B, 2, N, h, w). mask: (B, 2, h, w) in [0, 1].

    Returns:
        (B,) mean over keypoints, summed over views.
    """
    inside = (heatmaps * mask.unsqueeze(2)).flatten(3).sum(-1)
    return -torch.log(inside + 1e-12).mean(-1).sum(1)


def object_distance(keypoints: Tensor, mask: Tensor, zoom: Tensor | None = None) -> Tensor:
    """Object distance (ours): how far keypoints lie beside the object in the image.

    :func:`silhouette` holds heat maps on the object, but the mean of one that covers two parts can lie between them.

    Args:
        keypoints: (B, 2, N, 3), u and v normalised, from the centre of the mask. mask: (B, 2, S, S) in [0, 1].
        zoom: (B, 2) side of the square that the mask covers, in images; 1 by default.

    Returns:
        (B,) mean over keypoints, summed over views; in half sides of the square, 0 on pixels of at least 1/2.
    """
    uv = keypoints[..., :2] if zoom is None else keypoints[..., :2] / zoom[..., None, None]
    pixels = pixel_grid(*mask.shape[-2:], like=keypoints).flatten(1)
    with torch.no_grad():  # which pixel is the nearest
        off_object = torch.where(mask.flatten(2) < 0.5, 1e3, 0.0).unsqueeze(2)
        nearest = (pixels.square().sum(0) + off_object - 2 * uv @ pixels).argmin(-1)
    half_pixel = 1 / mask.shape[-1]
    beside = ((uv - pixels.T[nearest]).abs() - half_pixel).clamp(min=0)
    return torch.linalg.vector_norm(beside, dim=-1).mean(-1).sum(1)


def variance(heatmaps: Tensor, keypoints: Tensor, zoom: Tensor | None = None) -> Tensor:
    """Variance of each heat map about its mean (eq. 8), in squared normalised image units.

    Args:
        heatmaps: (B, 2, N, h, w). keypoints: (B, 2, N, 3), u and v normalised, from the centre of the maps.
        zoom: (B, 2) side of the square that the maps cover, in images; 1 by default.

    Returns:
        (B,) mean over keypoints, summed over views.
    """
    grid = pixel_grid(*heatmaps.shape[-2:], like=heatmaps)
    mean_square = (heatmaps * grid.square().sum(0)).flatten(3).sum(-1)
    if zoom is not None:
        mean_square = mean_square * zoom.square().unsqueeze(-1)
    return (mean_square - keypoints[..., :2].square().sum(-1)).mean(-1).sum(1)


def axis_end_projections(object_to_camera: Tensor, intrinsics: Tensor, axes: tuple[str, ...]) -> Tensor:
    """Where the + and − ends of object axes project: (*, 4, 4) and (*, 3, 3) -> (*, A, 2, 2), (x, y) last."""
    center, directions = object_to_camera[..., None, :3, 3], axis_directions(object_to_camera, axes)
    ends = torch.stack([center + directions, center - directions], dim=-2).flatten(-3, -2)
    return project(intrinsics, ends)[..., :2].unflatten(-2, (len(axes), 2))


def axis_directions(object_to_camera: Tensor, axes: tuple[str, ...]) -> Tensor:
    """Object axes in the camera frame: (*, 4, 4) -> (*, A, 3)."""
    # One slice an axis: a list of columns would be copied to the GPU, which waits for all that it has yet to do.
    return torch.stack([object_to_camera[..., :3, "xyz".index(axis)] for axis in axes], dim=-2)


def axis_rightward(object_to_camera: Tensor, axes: tuple[str, ...]) -> Tensor:
    """How far object axes point to the camera's right: their x in the camera frame, (*, 4, 4) -> (*, A) in [-1, 1]."""
    return axis_directions(object_to_camera, axes)[..., 0]


def true_flags(object_to_camera: Tensor, axes: tuple[str, ...]) -> Tensor:
    """1 where an object axis points to the camera's right, (*, 4, 4) -> (*, A), as the official code has it.

    Which of its ends projects farther right is the same but for perspective: it differs in 0.08 % of the default views.
    """
    return (axis_rightward(object_to_camera, axes) > 0).to(object_to_camera.dtype)


def orientation(axis_ends: Tensor, true_axis_ends: Tensor) -> Tensor:
    """Squared error of the predicted axis ends (section 3.3).

    Args:
        axis_ends, true_axis_ends: (B, 2, A, 2, 2).

    Returns:
        (B,) mean over ends and coordinates, summed over views.
    """
    return (axis_ends - true_axis_ends).square().mean((2, 3, 4)).sum(1)


def pair_terms(
    views: list[Prediction],
    batch: PairBatch,
    axes: tuple[str, ...],
    delta: float,
    noise: float | Tensor,
    mirror: bool = False,
    on_object: bool = False,
) -> dict[str, Tensor]:
    """All terms for a batch of pairs.

    Args:
        views: predictions of view 0 and view 1.
        batch: what they were made from. Its mask is reduced to the maps' size by area; its labels, if any, are learned
            in place of the geometry of the pair, see :func:`supervision`; with mates, the terms that compare views are
            means over both pairs.
        axes: object axes the network predicts. delta, noise: of :func:`separation` and :func:`relative_pose`.
        mirror: whether :func:`mirror_separation` parts its pairs in place of :func:`separation`, by half its distance,
            so that both stay on a narrow part.
        on_object: whether :func:`object_distance` is asked for.

    Returns:
        name of each term, a field of :class:`LossWeights` -> (B,). With labels these are "supervision" and
        "orientation"; "uncertainty" comes only from networks that tell theirs.
    """
    keypoints = torch.stack([v.keypoints for v in views], dim=1)
    heatmaps = torch.stack([v.heatmaps for v in views], dim=1)
    axis_ends = torch.stack([v.axis_ends for v in views], dim=1)
    intrinsics, mates = batch.intrinsics, batch.mates
    points = unproject(intrinsics, keypoints)
    sigma = None if views[0].sigma is None else with_mates(torch.stack([v.sigma for v in views], dim=1), mates)
    compared, rotation = with_mates(points, mates), batch.transforms[:, 0, :3, :3]
    terms = {
        "consistency": consistency(with_mates(keypoints, mates), batch.transforms, with_mates(intrinsics, mates)),
        "spatial_consistency": spatial_consistency(compared, rotation),
        "canonical_consistency": canonical_consistency(points, batch.object_to_camera),
        "pose": relative_pose(compared, rotation, noise, sigma),
        "separation": separation(points, delta, mirror),
        "silhouette": silhouette(heatmaps, F.adaptive_avg_pool2d(batch.mask, heatmaps.shape[-2:])),
        "variance": variance(heatmaps, keypoints, batch.zoom),
        "orientation": orientation(axis_ends, axis_end_projections(batch.object_to_camera, intrinsics, axes)),
    }
    if on_object:
        terms["object_distance"] = object_distance(keypoints, F.adaptive_max_pool2d(batch.mask, MASK_SIDE), batch.zoom)
    if mirror:
        terms["mirror_separation"] = mirror_separation(points, batch.object_to_camera, math.sqrt(delta) / 2)
    if batch.labels is not None:
        terms = {"supervision": supervision(points, batch.labels), "orientation": terms["orientation"]}
        compared = compared.detach()  # uncertainties are learned from the pair, keypoints are not
    if sigma is not None:
        terms["uncertainty"] = uncertainty(compared, sigma, rotation)
    return {name: term.view(len(points), -1).mean(1) for name, term in terms.items()}


def objective(terms: dict[str, Tensor], weights: LossWeights) -> Tensor:
    """Weighted sum of per-item terms: dict of (B,) -> (B,)."""
    return sum(getattr(weights, name) * term for name, term in terms.items())
