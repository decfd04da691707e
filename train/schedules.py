"""What changes from step to step: learning rate, noise, weights of terms, how far flags are trusted."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from train.config import LossWeights, TrainConfig


def flag_anneal(config: TrainConfig, step: int) -> float:
    """Weight of the true orientation flags: 1, then falling to 0 between the two settings (section 3.3).

    The flag that is fed is rounded, so it changes at 1/2.
    """
    start, end = config.anneal_start * config.steps, config.anneal_end * config.steps
    return float(np.clip((end - step) / max(end - start, 1), 0, 1))


def loss_weights(config: TrainConfig, step: int) -> LossWeights:
    """Weights of the terms in a step: spatial consistency waits for the end of the flags' annealing.

    From the start it would keep pairs of mirror images together in the plane of symmetry, where they agree best.
    """
    return dataclasses.replace(config.weights, spatial_consistency=0.0) if flag_anneal(config, step) else config.weights


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then constant or a half cosine to zero."""
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    decay = 0.5 + 0.5 * math.cos(math.pi * step / config.steps) if config.cosine_decay else 1.0
    return config.learning_rate * warmup * decay


def noise(config: TrainConfig, step: int) -> float:
    """Standard deviation of the pose term's noise: linear from ``noise`` to ``noise_end``."""
    return config.noise + (config.noise_end - config.noise) * step / config.steps
