"""Draws that all kinds of shapes are made of."""

from __future__ import annotations

import numpy as np


def chance(rng: np.random.Generator, probability: float) -> bool:
    return bool(rng.random() < probability)


def choice(rng: np.random.Generator, *options):
    """One of the options, each as likely."""
    return options[rng.integers(len(options))]
