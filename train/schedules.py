"""What changes from step to step: learning rate, noise, weights of terms, how far flags are trusted.

A step is a number counted from 0, or an integer tensor without dimensions, and so is then what is made of it.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from train.config import LossWeights, TrainConfig


def flag_anneal(config: TrainConfig, step: int | Tensor) -> float | Tensor:
    """Weight of the true orientation flags: 1, then falling to 0 between the two settings (section 3.3).

    The flag that is fed is rounded, so it changes at 1/2.
    """
    start, end = config.anneal_start * config.steps, config.anneal_end * config.steps
    return _clip((end - step) / max(end - start, 1))


def loss_weights(config: TrainConfig, step: int | Tensor) -> LossWeights:
    """Weights of the terms in a step: spatial consistency waits for the end of the flags' annealing.

    From the start it would keep pairs of mirror images together in the plane of symmetry, where they agree best.
    """
    annealed = flag_anneal(config, step) <= 0
    return dataclasses.replace(config.weights, spatial_consistency=config.weights.spatial_consistency * annealed)


def learning_rate(config: TrainConfig, step: int | Tensor) -> float | Tensor:
    """Linear warm-up, then constant or a half cosine to zero."""
    warmup = _clip((step + 1) / max(config.warmup_steps, 1))
    angle = math.pi * step / config.steps
    cosine = torch.cos(angle) if isinstance(angle, Tensor) else math.cos(angle)
    decay = 0.5 + 0.5 * cosine if config.cosine_decay else 1.0
    return config.learning_rate * warmup * decay


def noise(config: TrainConfig, step: int | Tensor) -> float | Tensor:
    """Standard deviation of the pose term's noise: linear from ``noise`` to ``noise_end``."""
    return config.noise + (config.noise_end - config.noise) * step / config.steps


def average_weight(config: TrainConfig, step: int | Tensor) -> float | Tensor:
    """Weight of a step's result in the moving average: 1 - ``average_decay``, more at first, so the start is soon
    forgotten."""
    return 1 - _clip((1 + step) / (10 + step), config.average_decay)


def _clip(value: float | Tensor, high: float = 1.0) -> float | Tensor:
    """Into [0, ``high``]."""
    return value.clamp(0, high) if isinstance(value, Tensor) else min(max(value, 0.0), high)
