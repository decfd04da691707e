"""Rigid geometry and pinhole projection on torch tensors: the one place for it.

Frames are those of the dataset: the camera looks along +z with +x right and +y down, poses are 4×4 matrices acting
on column vectors, and ``K`` maps camera coordinates to image coordinates. Image coordinates are pixels when ``K``
is in pixels and [−1, 1] when it comes from :func:`normalize_intrinsics`; every function here works in both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def transform_points(transform: Tensor, points: Tensor) -> Tensor:
    """Apply rigid transforms to points.

    Args:
        transform: (*, 4, 4). points: (*, N, 3).

    Returns:
        (*, N, 3), ``R x + t``.
    """
    return points @ transform[..., :3, :3].transpose(-1, -2) + transform[..., None, :3, 3]


def invert_rigid(transform: Tensor) -> Tensor:
    """Invert rigid transforms (*, 4, 4) by transposing the rotation."""
    rotation_t = transform[..., :3, :3].transpose(-1, -2)
    inverse = torch.zeros_like(transform)
    inverse[..., :3, :3] = rotation_t
    inverse[..., :3, 3] = -(rotation_t @ transform[..., :3, 3:]).squeeze(-1)
    inverse[..., 3, 3] = 1
    return inverse


def pair_transforms(object_to_camera: Tensor) -> Tensor:
    """Relative motion of a pair, both ways.

    Args:
        object_to_camera: (*, 2, 4, 4) poses of the two views.

    Returns:
        (*, 2, 4, 4): entry i takes camera i's coordinates to those of camera 1−i.
    """
    return object_to_camera.flip(-3) @ invert_rigid(object_to_camera)


def camera_angles(object_to_camera: Tensor) -> tuple[Tensor, Tensor]:
    """Where cameras stand, seen from the object.

    Args:
        object_to_camera: (*, 4, 4).

    Returns:
        Azimuth about +y (0 in front of the object, at −z; 90 at its right, +x) in [−180, 180] and elevation above
        the x-z plane in [−90, 90], both (*), degrees.
    """
    x, y, z = invert_rigid(object_to_camera)[..., :3, 3].unbind(-1)
    return torch.rad2deg(torch.atan2(x, -z)), torch.rad2deg(torch.atan2(y, torch.hypot(x, z)))


def normalize_intrinsics(intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Turn K in pixels into K for image coordinates in [−1, 1] (the corners of the image), same axes.

    Args:
        intrinsics: (*, 3, 3) in pixels, (0, 0) being the corner of the top-left pixel.
    """
    u, v, w = intrinsics.unbind(-2)
    return torch.stack([u * (2 / width) - w, v * (2 / height) - w, w], dim=-2)


def project(intrinsics: Tensor, points: Tensor) -> Tensor:
    """Project camera-frame points.

    Args:
        intrinsics: (*, 3, 3). points: (*, N, 3) with z > 0.

    Returns:
        (*, N, 3): u, v in the units of ``intrinsics``, and z kept.
    """
    depth = points[..., 2:]
    uv = (points @ intrinsics.transpose(-1, -2))[..., :2] / depth
    return torch.cat([uv, depth], dim=-1)


def unproject(intrinsics: Tensor, keypoints: Tensor) -> Tensor:
    """Lift image points with depth to the camera frame, the inverse of :func:`project`.

    Args:
        intrinsics: (*, 3, 3), upper triangular. keypoints: (*, N, 3) as (u, v, z).

    Returns:
        (*, N, 3) in the camera frame.
    """
    fx, fy = intrinsics[..., None, 0, 0], intrinsics[..., None, 1, 1]
    skew, cx, cy = intrinsics[..., None, 0, 1], intrinsics[..., None, 0, 2], intrinsics[..., None, 1, 2]
    u, v, depth = keypoints.unbind(-1)
    y = (v - cy) / fy
    x = (u - cx - skew * y) / fx
    return torch.stack([x * depth, y * depth, depth], dim=-1)


def rotation_distance(a: Tensor, b: Tensor) -> Tensor:
    """Geodesic angle between rotations, 2·asin(‖a − b‖_F / 2√2) (eq. 2 of arXiv 1807.03146).

    Args:
        a, b: (*, 3, 3).

    Returns:
        (*) radians in [0, π]; the gradient stays finite at both ends.
    """
    chord = torch.linalg.matrix_norm(a - b) / (2 * math.sqrt(2))
    one = 1 - torch.finfo(chord.dtype).eps
    return 2 * torch.asin(chord.clamp(max=one))


def procrustes(source: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Rotation that best aligns two ordered point sets: argmin_R Σ w_k ‖R x_k − y_k‖² after centring (eq. 3).

    The result is always a proper rotation. The gradient is that of the rotation itself, not of the factors of the
    SVD, so it exists when singular values coincide; it is damped to finite where the rotation is undetermined
    (all points on a line or in one place).

    Args:
        source, target: (*, N, 3). weights: (*, N), positive, or None for equal ones.

    Returns:
        (*, 3, 3) rotation with ``target ≈ R source`` up to a translation; NaN where a point is not finite.
    """
    if source.shape != target.shape or source.shape[-1] != 3:
        raise ValueError(f"point sets must both be (*, N, 3), got {tuple(source.shape)} and {tuple(target.shape)}")
    if weights is None:
        weights = torch.ones_like(source[..., 0])
    weights = (weights / weights.sum(-1, keepdim=True)).unsqueeze(-1)
    source = source - (weights * source).sum(-2, keepdim=True)
    target = target - (weights * target).sum(-2, keepdim=True)
    covariance = target.transpose(-1, -2) @ (weights * source)
    return (_HornRotation if covariance.is_cuda else _NearestRotation).apply(covariance)


def pair_weights(sigma: Tensor) -> Tensor:
    """Weights of keypoints for :func:`procrustes`, from their uncertainties in both views: 1 / (σ₀² + σ₁²).

    Args:
        sigma: (*, 2, N) standard deviations.

    Returns:
        (*, N).
    """
    return 1 / sigma.square().sum(-2)


class _NearestRotation(torch.autograd.Function):
    """Rotation R maximising tr(Rᵀ M): R = U diag(1, 1, det UVᵀ) Vᵀ for M = U S Vᵀ.

    With M = R H, H = V diag(h) Vᵀ and h = s·diag(1, 1, det): differentiating gives, in the basis V, the skew matrix
    (Rᵀ dR)_ij = (B_ij − B_ji) / (h_i + h_j) with B = Vᵀ Rᵀ dM V.
    """

    @staticmethod
    def forward(ctx, matrix: Tensor) -> Tensor:
        finite = matrix.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
        u, s, vt = torch.linalg.svd(matrix.where(finite, 0.0))  # which raises for what is not finite
        sign = torch.det(u @ vt).sign()
        signs = torch.ones_like(s)
        signs[..., 2] = sign
        rotation = ((u * signs.unsqueeze(-2)) @ vt).where(finite, torch.nan)
        ctx.save_for_backward(rotation, s * signs, vt.transpose(-1, -2))
        return rotation

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        rotation, h, v = ctx.saved_tensors
        sums = h.unsqueeze(-1) + h.unsqueeze(-2)
        floor = 1e-5 * h[..., :1, None] + torch.finfo(h.dtype).eps
        inverse = sums / (sums.square() + floor.square())
        c = v.transpose(-1, -2) @ rotation.transpose(-1, -2) @ grad @ v
        return rotation @ v @ ((c - c.transpose(-1, -2)) * inverse) @ v.transpose(-1, -2)


class _HornRotation(torch.autograd.Function):
    """:class:`_NearestRotation` without an SVD, which on a GPU waits for all work in hand and fits in no CUDA graph.

    R's unit quaternion is the eigenvector of the largest eigenvalue of a symmetric 4×4 matrix (Horn, J. Opt. Soc.
    Am. A 4, 1987). Squared often enough, that matrix keeps no other one. For the gradient, (Rᵀ dR) is the skew matrix
    of the vector x with (tr(H) 1 − H) x = vee(Rᵀ dM − dMᵀ R).
    """

    _SQUARINGS = 24  # tell eigenvalues apart that differ by 1e-6 of themselves

    @staticmethod
    def forward(ctx, matrix: Tensor) -> Tensor:
        finite = matrix.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
        known = matrix.where(finite, 0.0).double()
        power = _quaternion_form(known)
        for _ in range(_HornRotation._SQUARINGS):
            power = power / power.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
            power = power @ power
        best = power.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None].expand(*power.shape[:-1], 1)
        quaternion = power.gather(-1, best).squeeze(-1)
        rotation = _quaternion_rotation(quaternion / quaternion.norm(dim=-1, keepdim=True))
        ctx.save_for_backward(rotation, rotation.transpose(-1, -2) @ known)
        return rotation.to(matrix.dtype).where(finite, torch.nan)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        rotation, h = ctx.saved_tensors
        one = torch.eye(3, dtype=h.dtype, device=h.device)
        sums = h.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] * one - (h + h.transpose(-1, -2)) / 2
        floor = 1e-5 * torch.linalg.matrix_norm(h) + torch.finfo(grad.dtype).eps
        c = rotation.transpose(-1, -2) @ grad.to(h.dtype)
        damped = sums @ sums + floor.square()[..., None, None] * one
        turn = _solve_3x3(damped, (sums @ _vee(c - c.transpose(-1, -2)).unsqueeze(-1)).squeeze(-1))
        return (rotation @ _skew(turn)).to(grad.dtype)


def _quaternion_form(matrix: Tensor) -> Tensor:
    """Q with qᵀ Q q = tr(R(q)ᵀ M) plus a constant that leaves no negative eigenvalue: (*, 3, 3) -> (*, 4, 4)."""
    (xx, yx, zx), (xy, yy, zy), (xz, yz, zz) = (row.unbind(-1) for row in matrix.unbind(-2))
    rows = [
        [xx + yy + zz, yz - zy, zx - xz, xy - yx],
        [yz - zy, xx - yy - zz, xy + yx, zx + xz],
        [zx - xz, xy + yx, yy - xx - zz, yz + zy],
        [xy - yx, zx + xz, yz + zy, zz - xx - yy],
    ]
    form = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    bound = 2 * torch.linalg.matrix_norm(matrix) + torch.finfo(matrix.dtype).eps
    return form + bound[..., None, None] * torch.eye(4, dtype=matrix.dtype, device=matrix.device)


def _quaternion_rotation(quaternion: Tensor) -> Tensor:
    """Unit quaternions, real part first, to rotations: (*, 4) -> (*, 3, 3)."""
    w, x, y, z = quaternion.unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _solve_3x3(matrix: Tensor, values: Tensor) -> Tensor:
    """x with A x = b for positive definite A, by A = L D Lᵀ: (*, 3, 3) and (*, 3) -> (*, 3).

    On a GPU ``torch.linalg.solve`` waits, and cofactors lose the small ones of very unequal eigenvalues.
    """
    (a, _, _), (b, c, _), (d, e, f) = (row.unbind(-1) for row in matrix.unbind(-2))
    l10, l20 = b / a, d / a
    pivot1 = c - l10 * b
    l21 = (e - l20 * b) / pivot1
    pivot2 = f - l20 * d - l21.square() * pivot1
    y0, y1, y2 = values.unbind(-1)
    y1 = y1 - l10 * y0
    y2 = y2 - l20 * y0 - l21 * y1
    x2 = y2 / pivot2
    x1 = y1 / pivot1 - l21 * x2
    x0 = y0 / a - l10 * x1 - l20 * x2
    return torch.stack([x0, x1, x2], dim=-1)


def _vee(skew: Tensor) -> Tensor:
    """The vector x of a skew matrix, the inverse of :func:`_skew`: (*, 3, 3) -> (*, 3)."""
    return torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], dim=-1)


def _skew(vector: Tensor) -> Tensor:
    """The matrix of the cross product with x: (*, 3) -> (*, 3, 3)."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [[zero, -z, y], [z, zero, -x], [-y, x, zero]]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
