"""Networks that map one image to N ordered 3D keypoints, and the orientation flags they condition on.

A network works in two steps. ``encode`` looks at the image and predicts where the ends of one or two object axes
project; whether an axis' + end lies to the right of its − end is that axis' flag. ``decode`` predicts N heat maps
and N depth maps given the flags, because the two ends of a nearly symmetric object look alike (section 3.3).

Image coordinates are normalised: [−1, 1] from corner to corner, x right, y down. Depth is along the camera's +z.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOG_SIGMA = -2.5  # of an untrained network's keypoints; what it learns is the difference, at most 4 either way


@dataclass
class Prediction:
    """What a network says of B images, N keypoints, A axes, maps of h×w.

    Attributes:
        keypoints: (B, N, 3) as (u, v, z), normalised image coordinates and depth.
        heatmaps: (B, N, h, w), each map sums to 1.
        axis_ends: (B, A, 2, 2) projections (x, y) of the + and − end of each axis at distance 1 from the origin.
        flags: (B, A) in {0, 1}, those the keypoints were decoded with.
        sigma: (B, N) standard deviation that the network expects of each coordinate of a keypoint, object units;
            None where it does not say.
    """

    keypoints: Tensor
    heatmaps: Tensor
    axis_ends: Tensor
    flags: Tensor
    sigma: Tensor | None = None

    def deal(self, views: int) -> list[Prediction]:
        """Of images whose views alternate, one prediction a view."""
        return [Prediction(**{k: v if v is None else v[i::views] for k, v in vars(self).items()}) for i in range(views)]


def pixel_grid(height: int, width: int, like: Tensor) -> Tensor:
    """Normalised coordinates of pixel centres: (2, height, width) as (x, y), dtype and device of ``like``."""
    x = (torch.arange(width, dtype=like.dtype, device=like.device) * 2 + 1) / width - 1
    y = (torch.arange(height, dtype=like.dtype, device=like.device) * 2 + 1) / height - 1
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])


def spatial_softmax(logits: Tensor) -> Tensor:
    """Softmax over the pixels of each map: (B, N, h, w) -> (B, N, h, w) (eq. 4)."""
    return logits.flatten(2).softmax(-1).view_as(logits)


def expectation(heatmaps: Tensor, values: Tensor) -> Tensor:
    """Expected value under each heat map (eq. 5).

    Args:
        heatmaps: (B, N, h, w), each summing to 1.
        values: (D, h, w) shared by all maps.

    Returns:
        (B, N, D).
    """
    return heatmaps.flatten(2) @ values.flatten(1).T


def flags_from_axis_ends(axis_ends: Tensor) -> Tensor:
    """1 where an axis' + end projects to the right of its − end: (B, A, 2, 2) -> (B, A)."""
    return (axis_ends[..., 0, 0] > axis_ends[..., 1, 0]).to(axis_ends.dtype)


class KeypointNetwork(nn.Module):
    """Common part of all networks: from heat and depth maps to keypoints.

    Subclasses define ``encode(images) -> (features, axis_ends)`` and ``decode(features, flags) -> maps``: the logits of
    the heat maps, the depth maps and, where the network tells its uncertainty, maps of log σ; all (B, N, h, w).

    Args:
        num_keypoints: N.
        camera_distance: depth that the depth maps are measured from, towards the camera.
        axes: object axes that have a flag, of "x", "y", "z".

    Attributes:
        normalizes_views_apart: in training the two views of a pair pass one after the other, each with batch statistics
            of its own, as the official code has it; else as one batch, which is faster.
        predicts_sigma: whether the network tells how much its keypoints err.
        mirror_average: in evaluation, predict axis ends from the image and from its mirror image, and average.
        bfloat16: run the convolutions in bfloat16; weights, soft-argmax and results keep the images' precision.
    """

    in_channels: int
    normalizes_views_apart = False
    mirror_average = False
    predicts_sigma = False
    bfloat16 = False

    def __init__(self, num_keypoints: int, camera_distance: float, axes: tuple[str, ...]):
        super().__init__()
        self.num_keypoints = num_keypoints
        self.camera_distance = camera_distance
        self.axes = axes

    def forward(self, images: Tensor, true_flags: Tensor | None = None, anneal: float | Tensor = 0.0) -> Prediction:
        """Detect keypoints.

        Args:
            images: (B, C, H, W) in [0, 1], RGB or RGB and alpha, colour composited on black.
            true_flags: (B, A) in {0, 1}, or None to rely on the predicted ones.
            anneal: weight of the true flags, one for all or (B, A); the flag fed is round(anneal·true + (1 − anneal)·predicted).
        """
        with self._autocast(images):
            features, axis_ends = self.encode(images)
            if self.mirror_average and not self.training:
                axis_ends = (axis_ends + self._axis_ends_of_mirrored(images)) / 2
        axis_ends = axis_ends.to(images.dtype)
        flags = flags_from_axis_ends(axis_ends.detach())
        if true_flags is not None:
            flags = torch.round(anneal * true_flags + (1 - anneal) * flags)
        with self._autocast(images):
            logits, *maps = (m.to(images.dtype) for m in self.decode(features, flags))
        heatmaps = spatial_softmax(logits)
        uv = expectation(heatmaps, pixel_grid(*heatmaps.shape[-2:], like=heatmaps))
        depth, *log_sigma = ((heatmaps * m).flatten(2).sum(-1) for m in maps)
        z = self.camera_distance - depth
        sigma = (LOG_SIGMA + log_sigma[0].clamp(-4, 4)).exp() if log_sigma else None
        return Prediction(torch.cat([uv, z.unsqueeze(-1)], dim=-1), heatmaps, axis_ends, flags, sigma)

    def _axis_ends_of_mirrored(self, images: Tensor) -> Tensor:
        """Axis ends (B, A, 2, 2) as the mirrored images show them: a mirrored object's right was its left."""
        ends = self.encode(images.flip(-1))[1] * images.new_tensor([-1.0, 1.0])
        return torch.stack([e.flip(1) if axis == "x" else e for e, axis in zip(ends.unbind(1), self.axes)], dim=1)

    def _autocast(self, images: Tensor) -> torch.autocast:
        return torch.autocast(images.device.type, torch.bfloat16, enabled=self.bfloat16)

    def encode(self, images: Tensor) -> tuple[Tensor | list[Tensor], Tensor]:
        raise NotImplementedError

    def decode(self, features: Tensor | list[Tensor], flags: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class DilatedTrunk(nn.Sequential):
    """The paper's trunk: 3×3 convolutions of constant width, no bias, batch norm without scale, leaky ReLU 0.1."""

    DILATIONS = (1, 1, 2, 4, 8, 16, 1, 2, 4, 8, 16, 1)

    def __init__(self, in_channels: int, width: int):
        layers: list[nn.Module] = []
        for i, dilation in enumerate(self.DILATIONS):
            conv = nn.Conv2d(in_channels if i == 0 else width, width, 3, padding=dilation, dilation=dilation, bias=False)
            nn.init.xavier_uniform_(conv.weight)
            norm = nn.BatchNorm2d(width, eps=1e-3, momentum=1e-3)
            norm.weight.requires_grad_(False)
            layers += [conv, norm, nn.LeakyReLU(0.1)]
        super().__init__(*layers)


def _plain_head(in_channels: int, out_channels: int) -> nn.Conv2d:
    head = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    nn.init.xavier_uniform_(head.weight)
    nn.init.zeros_(head.bias)
    return head


class PaperNetwork(KeypointNetwork):
    """The network of arXiv 1807.03146, layer by layer as the official TF1 code builds it.

    Full-resolution maps; a separate half-width trunk predicts the ends of the ±x axis; the flag is a constant fourth
    channel. The depth head points towards the camera (the official z is −30 + d in a frame that looks along −z).
    """

    in_channels = 3
    normalizes_views_apart = True

    def __init__(self, num_keypoints: int = 10, camera_distance: float = 30.0, width: int = 64):
        super().__init__(num_keypoints, camera_distance, axes=("x",))
        self.orientation_trunk = DilatedTrunk(3, width // 2)
        self.orientation_head = _plain_head(width // 2, 2)
        self.trunk = DilatedTrunk(4, width)
        self.heatmap_head = _plain_head(width, num_keypoints)
        self.depth_head = _plain_head(width, num_keypoints)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = spatial_softmax(self.orientation_head(self.orientation_trunk(images)))
        ends = expectation(maps, pixel_grid(*maps.shape[-2:], like=maps))
        return images, ends.unsqueeze(1)

    def decode(self, features: Tensor, flags: Tensor) -> tuple[Tensor, Tensor]:
        flag_plane = flags[:, :, None, None].expand(-1, -1, *features.shape[-2:])
        hidden = self.trunk(torch.cat([features, flag_plane], dim=1))
        return self.heatmap_head(hidden), self.depth_head(hidden)


class ConvBlock(nn.Sequential):
    """3×3 convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            ConvBlock(channels, channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


class FlagModulation(nn.Module):
    """Per-channel scale and shift chosen by the combination of flags (FiLM)."""

    def __init__(self, num_axes: int, channels: int):
        super().__init__()
        self.affine = nn.Linear(2**num_axes, 2 * channels, bias=False)
        nn.init.normal_(self.affine.weight, std=0.3)

    def forward(self, x: Tensor, flags: Tensor) -> Tensor:
        scale, shift = self.affine(flag_combination(flags))[:, :, None, None].chunk(2, dim=1)
        return x * (1 + scale) + shift


def flag_combination(flags: Tensor) -> Tensor:
    """One-hot of the combination of A flags: (B, A) in {0, 1} -> (B, 2^A)."""
    combined = torch.ones_like(flags[:, :1])
    for flag in flags.unbind(1):
        combined = torch.cat([combined * (1 - flag[:, None]), combined * flag[:, None]], dim=1)
    return combined


class TopDownBlock(nn.Module):
    """One level of the decoder: the coarser level, enlarged, is added to a skip connection, then refined.

    The flags modulate the result, see :class:`FlagModulation`.
    """

    def __init__(self, in_channels: int, out_channels: int, num_axes: int):
        super().__init__()
        self.lateral = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.merge = ConvBlock(out_channels, out_channels)
        self.modulate = FlagModulation(num_axes, out_channels)

    def forward(self, x: Tensor, skip: Tensor, flags: Tensor) -> Tensor:
        x = F.interpolate(self.lateral(x), size=skip.shape[-2:], mode="nearest")
        return F.relu(self.modulate(self.merge(x + skip), flags))


class CompactNetwork(KeypointNetwork):
    """One encoder–decoder for orientation and keypoints, maps at half the input's resolution.

    The encoder is shared: its bottleneck predicts the axis ends from the whole image, and the decoder is told the
    flags at every level. About the same function as the paper's two networks at a small part of the arithmetic.

    Args:
        width: channels of the finest level; those of the coarser ones are ``MULTIPLIERS`` times as many.
    """

    in_channels = 4
    mirror_average = True
    predicts_sigma = True
    MULTIPLIERS = (1, 2, 4, 6)
    BLOCKS = (1, 1, 1)  # residual blocks of the encoder at 1/4, 1/8 and 1/16 of the input's resolution

    def __init__(
        self,
        num_keypoints: int = 10,
        camera_distance: float = 30.0,
        width: int = 24,
        image_size: int = 64,
        axes: tuple[str, ...] = ("x", "z"),
    ):
        super().__init__(num_keypoints, camera_distance, axes)
        widths = [m * width for m in self.MULTIPLIERS]
        self.stem = ConvBlock(self.in_channels, width, stride=2)
        self.down = nn.ModuleList(
            nn.Sequential(ConvBlock(a, b, stride=2), *(ResidualBlock(b) for _ in range(blocks)))
            for a, b, blocks in zip(widths[:-1], widths[1:], self.BLOCKS)
        )
        bottleneck = widths[-1] * (image_size // 16) ** 2
        self.axis_head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(bottleneck, 128, bias=False),
            nn.BatchNorm1d(128),
            nn.ReLU(inplace=True),
            nn.Linear(128, 4 * len(axes)),
        )
        self.bottom = FlagModulation(len(axes), widths[-1])
        self.global_context = nn.Linear(bottleneck, widths[-1])
        self.up = nn.ModuleList(TopDownBlock(a, b, len(axes)) for a, b in zip(widths[:0:-1], widths[-2::-1]))
        self.refine = ConvBlock(width, width)
        self.head = nn.Conv2d(width, 3 * num_keypoints, 3, padding=1)

    def encode(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        levels = [self.stem(images)]
        for down in self.down:
            levels.append(down(levels[-1]))
        axis_ends = self.axis_head(levels[-1]).view(-1, len(self.axes), 2, 2)
        return levels, axis_ends

    def decode(self, features: list[Tensor], flags: Tensor) -> tuple[Tensor, ...]:
        *skips, x = features
        x = F.relu(self.bottom(x + self.global_context(x.flatten(1))[:, :, None, None], flags))
        for up, skip in zip(self.up, reversed(skips)):
            x = up(x, skip, flags)
        return self.head(self.refine(x)).chunk(3, dim=1)
