"""From stored pairs to network input: resizing, normalised geometry, augmentation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from data.geometry import normalize_intrinsics, pair_transforms
from train import distributed
from train.networks import pixel_grid


@dataclass
class PairBatch:
    """B pairs of views, ready for a network.

    Attributes:
        images: (B, 2, 4, H, W) in [0, 1], RGB composited on black and alpha. mask: (B, 2, H, W) in {0, 1}.
        object_to_camera: (B, 2, 4, 4). transforms: (B, 2, 4, 4); ``transforms[:, i]`` takes camera i to camera 1−i;
            with ``mates`` (2B, 2, 4, 4), see :func:`with_mates`.
        intrinsics: (B, 2, 3, 3) for normalised coordinates of the stored images, but (0, 0) at the centre of
            ``images``.
        zoom: (B, 2) side of the square of the stored image that ``images`` show, over the side of all of it.
        labels: (B, 2, S, 3) semantic keypoints in the camera frames, NaN where there is none; None where not asked for.
        mates: int64 (B,), see :func:`find_mates`; None where not asked for.
    """

    images: Tensor
    mask: Tensor
    object_to_camera: Tensor
    transforms: Tensor
    intrinsics: Tensor
    zoom: Tensor
    labels: Tensor | None = None
    mates: Tensor | None = None


MOST_REDUCED = 2  # times that squares are reduced bilinearly, which of a much larger image would skip pixels


def decode_images(rgba: Tensor) -> Tensor:
    """uint8 (B, H, W, 4) to float (B, 4, H, W) in [0, 1]."""
    return rgba.permute(0, 3, 1, 2).contiguous().float() / 255  # planes: several times as fast to change colours of


def resize_images(images: Tensor, size: int) -> Tensor:
    """(B, C, H, W) to (B, C, size, size), reduced by :func:`box_filter` or enlarged bilinearly."""
    if images.shape[-2:] == (size, size):
        return images
    if min(images.shape[-2:]) >= size:
        rows, columns = (box_filter(length, size, like=images) for length in images.shape[-2:])
        return rows @ images @ columns.T
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


def box_filter(length: int, size: int, like: Tensor) -> Tensor:
    """Weights (size, length) of a box filter, Pillow's up to ties: each new pixel is the mean of those whose centres
    lie in it.

    The windows of PyTorch's ``mode="area"`` overlap unless ``size`` divides ``length``, and blur what they share.
    """
    edges = torch.arange(size + 1, device=like.device, dtype=torch.float64) * (length / size)
    centers = torch.arange(length, device=like.device, dtype=torch.float64) + 0.5
    inside = ((centers > edges[:-1, None]) & (centers <= edges[1:, None])).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


def object_squares(alpha: Tensor, margin: float) -> Tensor:
    """The square around the object in each image.

    Args:
        alpha: (B, H, W) coverage. margin: side of the square over the longer side of the object's bounding box.

    Returns:
        (B, 3) as (x, y, half side), normalised image coordinates; the whole image where nothing is covered.
    """
    bounds = []
    for dim in (-2, -1):
        covered = alpha.amax(dim) > _SOLID
        pixels = torch.arange(covered.shape[-1], device=alpha.device, dtype=alpha.dtype) * (2 / covered.shape[-1]) - 1
        low = torch.where(covered, pixels, 1.0).amin(-1)
        high = torch.where(covered, pixels, -1.0).amax(-1) + 2 / covered.shape[-1]
        bounds.append(torch.stack([low, high]))
    low, high = torch.stack(bounds, dim=-1)
    half = margin / 2 * (high - low).amax(-1, keepdim=True)
    seen = half > 0
    return torch.cat([torch.where(seen, (low + high) / 2, 0.0), torch.where(seen, half, 1.0)], dim=-1)


_SOLID = 0.1  # coverage of pixels that count


def crop(images: Tensor, squares: Tensor, size: int) -> Tensor:
    """Resample squares of images bilinearly: (B, C, H, W) and (B, 3) -> (B, C, size, size); zero outside the image."""
    center, half = squares[:, None, None, :2], squares[:, None, None, 2:]
    grid = pixel_grid(size, size, like=images).permute(1, 2, 0)
    return F.grid_sample(images, grid * half + center, align_corners=False)


def uncrop(images: Tensor, squares: Tensor, size: int) -> Tensor:
    """Put squares back where :func:`crop` took them: (B, C, h, w) and (B, 3) -> (B, C, size, size), whole images."""
    inverse = torch.cat([-squares[:, :2], torch.ones_like(squares[:, 2:])], dim=-1) / squares[:, 2:]
    return crop(images, inverse, size)


def frame_objects(images: Tensor, size: int, margin: float) -> tuple[Tensor, Tensor]:
    """What a network is shown of whole images.

    Args:
        images: (B, 4, H, W), alpha last. margin: see :func:`object_squares`; 0 for the whole image.

    Returns:
        (B, 4, size, size) and the squares (B, 3) that these show.
    """
    if not margin:
        whole = torch.cat([images.new_zeros(images.shape[0], 2), images.new_ones(images.shape[0], 1)], dim=-1)
        return resize_images(images, size), whole
    images = resize_images(images, min(images.shape[-1], MOST_REDUCED * size))
    squares = object_squares(images[:, 3], margin)
    return crop(images, squares, size), squares


def make_batch(
    rgba: Tensor,
    object_to_camera: Tensor,
    intrinsics: Tensor,
    image_size: int,
    margin: float = 0.0,
    mates: Tensor | None = None,
) -> PairBatch:
    """Turn stored pairs into network input.

    Args:
        rgba: uint8 (B, 2, H, W, 4). object_to_camera: float64 (B, 2, 4, 4).
        intrinsics: float64 (B, 2, 3, 3) in pixels of ``rgba``.
        image_size: side of the input. margin: see :func:`frame_objects`. mates: see :func:`find_mates`.
    """
    framed = frame_objects(decode_images(rgba.flatten(0, 1)), image_size, margin)
    images, squares = (x.unflatten(0, rgba.shape[:2]) for x in framed)
    centered = normalize_intrinsics(intrinsics, *rgba.shape[2:4]).float()
    centered[..., :2, 2] -= squares[..., :2]
    return PairBatch(
        images=images,
        mask=(images[:, :, 3] > 0).float(),
        object_to_camera=object_to_camera.float(),
        transforms=pair_transforms(with_mates(object_to_camera, mates)).float(),
        intrinsics=centered,
        zoom=squares[..., 2],
        mates=mates,
    )


def find_mates(shape_index: Tensor, start: int | Tensor = 0) -> Tensor:
    """Of pairs that come in :func:`data.dataset.couples`, the other one if it shows the same shape,
    else each one itself.

    Args:
        shape_index: (B,), see ``data.dataset.PairDataset``. start: number of the first one in the stream.

    Returns:
        int64 (B,).
    """
    own = torch.arange(len(shape_index), device=shape_index.device)
    other = ((own + start) ^ 1) - start
    here = (other >= 0) & (other < len(own))
    other = other.where(here, own)
    return other.where(shape_index[other] == shape_index, own)


def with_mates(values: Tensor, mates: Tensor | None) -> Tensor:
    """Each pair, and after it its first view with its mate's second one: (B, 2, *) -> (2B, 2, *).

    Args:
        mates: int64 (B,), or None, which leaves ``values`` as they are.
    """
    if mates is None:
        return values
    across = torch.stack([values[:, 0], values[mates, 1]], dim=1)
    return torch.stack([values, across], dim=1).flatten(0, 1)


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
