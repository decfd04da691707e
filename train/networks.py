"""Networks that map one image to N ordered 3D keypoints, and the orientation flags they condition on.

A network works in two steps. ``encode`` looks at the image and predicts where the ends of one or two object axes
project; whether an axis' + end lies to the right of its − end is that axis' flag. ``decode`` predicts N heat maps
and N depth maps given the flags, because the two ends of a nearly symmetric object look alike (section 3.3).

Image coordinates are normalised: [−1, 1] from corner to corner, x right, y down. Depth is along the camera's +z.
"""

from __future__ import annotations

import math
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

    def split_views(self, views: int) -> list[Prediction]:
        """Of images whose views alternate, one prediction a view."""
        return [Prediction(**{k: v if v is None else v[i::views] for k, v in vars(self).items()}) for i in range(views)]

    def mirror(self, axes: tuple[str, ...]) -> Prediction:
        """What this says of mirrored images, about the originals: keypoints trade places with their mirror images."""
        order = mirror_permutation(self.keypoints.shape[1])

        def exchange(values: Tensor) -> Tensor:
            # One slice a keypoint: a list of indices would be copied to the GPU,
            # which waits for all that it has yet to do.
            parts = values.unbind(1)
            return torch.stack([parts[k] for k in order], dim=1)

        return Prediction(
            keypoints=_negate_x(exchange(self.keypoints)),
            heatmaps=exchange(self.heatmaps).flip(-1),
            axis_ends=mirror_axis_ends(self.axis_ends, axes),
            flags=mirror_flags(self.flags, axes),
            sigma=None if self.sigma is None else exchange(self.sigma),
        )

    def merge(self, other: Prediction, weight: Tensor) -> Prediction:
        """Weighted mean with another: ``weight`` (B,) is the other's."""

        def mean(own: Tensor | None, others: Tensor | None) -> Tensor | None:
            return own if own is None else torch.lerp(own, others, weight.view(-1, *[1] * (own.ndim - 1)))

        return Prediction(**{name: mean(value, getattr(other, name)) for name, value in vars(self).items()})


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


def count_paired(num_keypoints: int) -> int:
    """How many of the keypoints, the first ones, come in pairs of mirror images: all but the last one or two."""
    return (num_keypoints - 1) // 2 * 2


def mirror_permutation(num_keypoints: int) -> list[int]:
    """The mirror image of each keypoint: 0 and 1, 2 and 3 and so on of each other, the last one or two their own."""
    paired = count_paired(num_keypoints)
    return [k ^ 1 if k < paired else k for k in range(num_keypoints)]


def _negate_x(points: Tensor) -> Tensor:
    """Mirror (*, D) points with x first."""
    return torch.cat([-points[..., :1], points[..., 1:]], dim=-1)


def mirror_axis_ends(axis_ends: Tensor, axes: tuple[str, ...]) -> Tensor:
    """Axis ends (B, A, 2, 2) in the mirrored image: a mirrored object's right was its left."""
    ends = zip(_negate_x(axis_ends).unbind(1), axes)
    return torch.stack([e.flip(1) if axis == "x" else e for e, axis in ends], dim=1)


def mirror_flags(flags: Tensor, axes: tuple[str, ...]) -> Tensor:
    """Flags (B, A) in the mirrored image."""
    return torch.stack([f if axis == "x" else 1 - f for f, axis in zip(flags.unbind(1), axes)], dim=1)


class KeypointNetwork(nn.Module):
    """Common part of all networks: from heat and depth maps to keypoints.

    Subclasses define ``encode(images) -> (features, axis_ends)`` and ``decode(features, flags) -> maps``: the logits of
    the heat maps, the depth maps and, where the network tells its uncertainty, maps of log σ; all (B, N, h, w).

    Args:
        num_keypoints: N.
        camera_distance: depth that the depth maps are measured from, towards the camera.
        axes: object axes that have a flag, of "x", "y", "z".
        mirror: whether keypoints are learned in pairs of mirror images, see :func:`mirror_permutation`: then, in
            evaluation, the network looks at each image and at its mirror image, and says the mean.

    Attributes:
        normalizes_views_apart: in training the two views of a pair pass one after the other, each with batch statistics
            of its own, as the official code has it; else as one batch, which is faster.
        predicts_sigma: whether the network tells how much its keypoints err.
        bfloat16: run the convolutions in bfloat16; weights, soft-argmax and results keep the images' precision.
    """

    in_channels: int
    normalizes_views_apart = False
    predicts_sigma = False
    bfloat16 = False

    def __init__(self, num_keypoints: int, camera_distance: float, axes: tuple[str, ...], mirror: bool = False):
        super().__init__()
        self.num_keypoints = num_keypoints
        self.camera_distance = camera_distance
        self.axes = axes
        self.mirror = mirror

    def forward(
        self,
        images: Tensor,
        true_flags: Tensor | None = None,
        anneal: float | Tensor = 0.0,
        zoom: Tensor | None = None,
        mirrored: Tensor | None = None,
    ) -> Prediction:
        """Detect keypoints.

        Args:
            images: (B, C, H, W) in [0, 1], RGB or RGB and alpha, colour composited on black.
            true_flags: (B, A) in {0, 1}, or None to rely on the predicted ones.
            anneal: weight of the true flags, one for all or (B, A);
                the flag fed is round(anneal·true + (1 − anneal)·predicted).
            zoom: (B,) side of the square that the images show, over that of the image that coordinates are relative to;
                1 by default. Keypoints and axis ends are in that image's scale, from the square's centre.
            mirrored: bool (B,), in training: of these the network sees the mirror image, and what it says is mirrored
                back. So two views of one object agree only if keypoints are as :func:`mirror_permutation` has them.
        """
        if mirrored is None:
            return self._detect(images, true_flags, anneal, zoom)
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        if true_flags is not None:
            true_flags = torch.where(mirrored[:, None], mirror_flags(true_flags, self.axes), true_flags)
        found = self._detect(images, true_flags, anneal, zoom)
        return found.merge(found.mirror(self.axes), mirrored.to(images.dtype))

    def _detect(
        self, images: Tensor, true_flags: Tensor | None, anneal: float | Tensor, zoom: Tensor | None
    ) -> Prediction:
        sides = [images, images.flip(-1)] if self.mirror and not self.training else [images]
        features, ends = zip(*(self._encode(side) for side in sides))
        axis_ends = ends[0] if len(sides) == 1 else (ends[0] + mirror_axis_ends(ends[1], self.axes)) / 2
        flags = flags_from_axis_ends(axis_ends.detach())
        if true_flags is not None:
            flags = torch.round(anneal * true_flags + (1 - anneal) * flags)
        if zoom is None:
            zoom = images.new_ones(images.shape[0])
        found = self._decode(features[0], axis_ends, flags, zoom, images.dtype)
        if len(sides) == 1:
            return found
        mirrored = (mirror_axis_ends(axis_ends, self.axes), mirror_flags(flags, self.axes))
        other = self._decode(features[1], *mirrored, zoom, images.dtype)
        merged = found.merge(other.mirror(self.axes), torch.full_like(zoom, 0.5))
        if merged.sigma is not None:
            merged.sigma = merged.sigma / math.sqrt(2)  # of a mean of two, as if they erred independently
        return merged

    def _encode(self, images: Tensor) -> tuple[Tensor | list[Tensor], Tensor]:
        with self._autocast(images):
            features, axis_ends = self.encode(images)
        return features, axis_ends.to(images.dtype)

    def _decode(
        self, features: Tensor | list[Tensor], axis_ends: Tensor, flags: Tensor, zoom: Tensor, dtype: torch.dtype
    ) -> Prediction:
        with self._autocast(axis_ends):
            logits, *maps = (m.to(dtype) for m in self.decode(features, flags))
        heatmaps = spatial_softmax(logits)
        uv = expectation(heatmaps, pixel_grid(*heatmaps.shape[-2:], like=heatmaps)) * zoom[:, None, None]
        depth, *log_sigma = ((heatmaps * m).flatten(2).sum(-1) for m in maps)
        z = self.camera_distance - depth * zoom[:, None]
        sigma = (LOG_SIGMA + log_sigma[0].clamp(-4, 4)).exp() * zoom[:, None] if self.predicts_sigma else None
        return Prediction(torch.cat([uv, z.unsqueeze(-1)], dim=-1), heatmaps, axis_ends, flags, sigma)

    def _autocast(self, images: Tensor) -> torch.autocast:
        return torch.autocast(images.device.type, torch.bfloat16, enabled=self.bfloat16)

    def encode(self, images: Tensor) -> tuple[Tensor | list[Tensor], Tensor]:
        raise NotImplementedError

    def decode(self, features: Tensor | list[Tensor], flags: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError


class DilatedTrunk(nn.Sequential):
    """The paper's trunk: 3×3 convolutions of constant width, no bias, batch norm without scale, leaky ReLU 0.1."""

    DILATIONS = (1, 1, 2, 4, 8, 16, 1, 2, 4, 8, 16, 1)

    def __init__(self, in_channels: int, width: int):
        layers: list[nn.Module] = []
        for i, dilation in enumerate(self.DILATIONS):
            conv = nn.Conv2d(
                in_channels if i == 0 else width, width, 3, padding=dilation, dilation=dilation, bias=False
            )
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
    """One encoder–decoder for orientation and keypoints, maps ``reduction`` times smaller than the input.

    The encoder is shared: its bottleneck predicts the axis ends from the whole image, and the decoder is told the
    flags at every level. About the same function as the paper's two networks at a small part of the arithmetic.

    Args:
        width: channels of the finest level; those of the coarser ones are ``MULTIPLIERS`` times as many.
        image_size: side of the input, pixels. reduction: that of the maps is so many times smaller, a power of 2.
        predicts_sigma: without it the maps of log σ are left unused.
    """

    in_channels = 4
    MULTIPLIERS = (1, 2, 4, 6)
    BLOCKS = (1, 1, 1)  # residual blocks of the encoder at 1/2, 1/4 and 1/8 of the maps' resolution

    def __init__(
        self,
        num_keypoints: int = 10,
        camera_distance: float = 30.0,
        width: int = 24,
        image_size: int = 96,
        axes: tuple[str, ...] = ("x", "z"),
        reduction: int = 4,
        mirror: bool = False,
        predicts_sigma: bool = True,
    ):
        super().__init__(num_keypoints, camera_distance, axes, mirror)
        self.predicts_sigma = predicts_sigma
        widths = [m * width for m in self.MULTIPLIERS]
        stages = reduction.bit_length() - 1
        channels = [self.in_channels] + [width] * stages
        self.stem = nn.Sequential(*(ConvBlock(a, b, stride=2) for a, b in zip(channels, channels[1:])))
        self.down = nn.ModuleList(
            nn.Sequential(ConvBlock(a, b, stride=2), *(ResidualBlock(b) for _ in range(blocks)))
            for a, b, blocks in zip(widths[:-1], widths[1:], self.BLOCKS)
        )
        bottleneck = widths[-1] * (image_size // (8 * reduction)) ** 2
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
