"""Colours (sRGB, 0..255) as objects of daily life have them, and patterns of colours over space."""

from __future__ import annotations

import colorsys
from typing import Callable, Sequence, Union

import numpy as np

from render.shapes.draws import choice

Color = Sequence[float]
# One colour for a part, or a function from points (n, 3) to colours (n, 3).
Paint = Union[Color, Callable[[np.ndarray], np.ndarray]]

GLASS = ((28, 34, 42), (45, 60, 75), (70, 95, 115), (15, 15, 18), (110, 135, 150), (60, 70, 60))
RUBBER = (28, 28, 30)
CHROME = (196, 198, 202)
WOODS = (
    (196, 150, 98),
    (160, 105, 60),
    (120, 72, 40),
    (84, 48, 28),
    (60, 36, 24),
    (214, 178, 130),
    (140, 62, 36),
    (228, 200, 160),
    (105, 80, 55),
)
MILITARY = (
    (96, 104, 72),
    (74, 84, 58),
    (128, 118, 84),
    (160, 150, 118),
    (118, 126, 130),
    (92, 100, 108),
    (150, 156, 160),
    (60, 66, 70),
    (104, 92, 66),
)


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def jitter(rng: np.random.Generator, color, amount: float = 10.0) -> np.ndarray:
    """The colour made a little lighter or darker, and a little off in hue."""
    return np.clip(np.asarray(color) + rng.normal(0, amount) + rng.normal(0, amount / 3, 3), 0, 255)


def gray(rng: np.random.Generator, low: float = 20, high: float = 245) -> np.ndarray:
    return np.clip(rng.uniform(low, high) + rng.normal(0, 4, 3), 0, 255)


def bright(rng: np.random.Generator) -> np.ndarray:
    return hsv(rng.random(), rng.uniform(0.55, 1.0), rng.uniform(0.45, 1.0))


def muted(rng: np.random.Generator) -> np.ndarray:
    return hsv(rng.random(), rng.uniform(0.1, 0.5), rng.uniform(0.25, 0.9))


def wood(rng: np.random.Generator) -> np.ndarray:
    return jitter(rng, choice(rng, *WOODS), 12)


def metal(rng: np.random.Generator) -> np.ndarray:
    return jitter(rng, choice(rng, CHROME, (140, 142, 146), (90, 92, 96), (30, 30, 32), (220, 220, 222)), 8)


def glass(rng: np.random.Generator) -> np.ndarray:
    return jitter(rng, choice(rng, *GLASS), 6)


def white(rng: np.random.Generator) -> np.ndarray:
    return gray(rng, 215, 252)


def military(rng: np.random.Generator) -> np.ndarray:
    return jitter(rng, choice(rng, *MILITARY), 8)


def any_color(rng: np.random.Generator) -> np.ndarray:
    return choice(rng, gray, bright, bright, muted, white)(rng)


def evaluate(paint: Paint, points: np.ndarray) -> np.ndarray:
    """Colours (n, 3) of a paint at points (n, 3)."""
    return paint(points) if callable(paint) else np.broadcast_to(np.asarray(paint, float), points.shape)


def split(base: Paint, other: Paint, normal: Sequence[float], offset: float) -> Paint:
    """``other`` where points @ normal > offset, ``base`` elsewhere."""

    def colors(points: np.ndarray) -> np.ndarray:
        beyond = points @ np.asarray(normal) > offset
        return np.where(beyond[:, None], evaluate(other, points), evaluate(base, points))

    return colors


def bands(base: Paint, other: Paint, axis: int, start: float, end: float, count: int) -> Paint:
    """``count`` bands of ``other`` across an axis between two coordinates, with gaps of the same width."""

    def colors(points: np.ndarray) -> np.ndarray:
        phase = (points[:, axis] - start) / (end - start) * (2 * count - 1)
        inside = (phase >= 0) & (phase < 2 * count - 1) & (np.floor(phase) % 2 == 0)
        return np.where(inside[:, None], evaluate(other, points), evaluate(base, points))

    return colors


def camouflage(rng: np.random.Generator, colors: Sequence[Color], scale: float) -> Paint:
    """Irregular patches about ``scale`` in size, seen from above."""
    waves = rng.normal(0, 2 / scale, (6, 3))
    phases = rng.uniform(0, 2 * np.pi, 6)
    palette = np.asarray(colors, float)
    borders = np.linspace(-1.2, 1.2, len(palette) + 1)[1:-1]

    def pattern(points: np.ndarray) -> np.ndarray:
        return palette[np.digitize(np.sin(points @ waves.T + phases).sum(1), borders)]

    return pattern
