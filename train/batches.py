"""From stored pairs to network input: resizing, normalised geometry, augmentation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from data.geometry import normalize_intrinsics, pair_transforms
from train import distributed


@dataclass
class PairBatch:
    """B pairs of views, ready for a network.

    Attributes:
        images: (B, 2, 4, H, W) in [0, 1], RGB composited on black and alpha. mask: (B, 2, H, W) in {0, 1}.
        object_to_camera, transforms: (B, 2, 4, 4); ``transforms[:, i]`` takes camera i to camera 1−i.
        intrinsics: (B, 2, 3, 3) for normalised image coordinates.
        labels: (B, 2, S, 3) semantic keypoints in the camera frames, NaN where there is none; None where not asked for.
    """

    images: Tensor
    mask: Tensor
    object_to_camera: Tensor
    transforms: Tensor
    intrinsics: Tensor
    labels: Tensor | None = None

    def to(self, device: str | torch.device) -> PairBatch:
        return PairBatch(**{name: x if x is None else x.to(device) for name, x in vars(self).items()})


def resize_images(rgba: Tensor, size: int) -> Tensor:
    """uint8 (n, H, W, 4) to float (n, 4, size, size) in [0, 1], reduced by area or enlarged bilinearly."""
    images = rgba.permute(0, 3, 1, 2).contiguous().float() / 255  # planes: several times as fast to change colours of
    if images.shape[-2:] == (size, size):
        return images
    if min(images.shape[-2:]) >= size:
        return F.interpolate(images, size=(size, size), mode="area")
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


def make_batch(rgba: Tensor, object_to_camera: Tensor, intrinsics: Tensor, image_size: int) -> PairBatch:
    """Turn stored pairs into network input.

    Args:
        rgba: uint8 (B, 2, H, W, 4). object_to_camera: float64 (B, 2, 4, 4).
        intrinsics: float64 (B, 2, 3, 3) in pixels of ``rgba``.
    """
    images = resize_images(rgba.flatten(0, 1), image_size).unflatten(0, rgba.shape[:2])
    return PairBatch(
        images=images,
        mask=(images[:, :, 3] > 0).float(),
        object_to_camera=object_to_camera.float(),
        transforms=pair_transforms(object_to_camera).float(),
        intrinsics=normalize_intrinsics(intrinsics, *rgba.shape[2:4]).float(),
    )


def mirror_pairs(batch: PairBatch, chosen: Tensor) -> PairBatch:
    """Mirror both views of the chosen pairs about the image's vertical axis.

    The picture of a mirrored object: its right is the original's left, so with M = diag(−1, 1, 1) on both the camera
    and the object side, R becomes M R M and t becomes M t. No keypoints need to be exchanged.

    Args:
        chosen: bool (B,).
    """
    mirror = torch.ones(4, device=batch.images.device)  # filled there: a copy from the host would wait for the GPU
    mirror[0] = -1
    conjugate = mirror[:, None] * mirror
    flip_center = torch.ones(3, 3, device=mirror.device)
    flip_center[0, 2] = -1  # the principal point, measured from the image's centre
    pick = chosen[:, None, None, None]
    return PairBatch(
        images=torch.where(pick[..., None], batch.images.flip(-1), batch.images),
        mask=torch.where(pick, batch.mask.flip(-1), batch.mask),
        object_to_camera=torch.where(pick, batch.object_to_camera * conjugate, batch.object_to_camera),
        transforms=torch.where(pick, batch.transforms * conjugate, batch.transforms),
        intrinsics=torch.where(pick, batch.intrinsics * flip_center, batch.intrinsics),
    )


def jitter_colors(images: Tensor, strength: float) -> Tensor:
    """Random brightness, hue and saturation per view: channels are mixed, scaled and lifted; black background stays so.

    Args:
        images: (B, 2, 4, H, W), colour premultiplied by alpha, or over a background.
        strength: standard deviation of the log gain.
    """
    rgb, alpha = images[:, :, :3], images[:, :, 3:]
    views, device = images.shape[:2], images.device
    mixing = torch.eye(3, device=device) + strength / 2 * distributed.randn(*views, 3, 3, device=device)
    gain = torch.exp(strength * distributed.randn(*views, 1, 1, device=device))
    lift = strength / 2 * distributed.randn(*views, 1, 1, 1, device=device)
    over_background = ((rgb > 0) & (alpha == 0)).any(dim=(2, 3, 4), keepdim=True)
    brightest = torch.where(over_background, 1.0, alpha)
    mixed = (gain * mixing @ rgb.flatten(3)).view_as(rgb) + lift * brightest
    return torch.cat([torch.minimum(mixed.clamp_(min=0), brightest), alpha], dim=2)
