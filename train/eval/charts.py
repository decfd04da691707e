"""Small charts as inline SVG text: a histogram, curves, medians over bins, bars, two aligned point sets.

All share one coordinate system (420 wide) so that their letters have one size on a page.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Sequence

import numpy as np

from train.eval.metrics import FLIP_DEGREES
from train.eval.overlays import css_color

WIDTH, HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 14, 40
_INK, _GRID, _ACCENT, _SOFT, _WARN = "#4a5060", "#e4e7ee", "#3056d3", "#b9c7f5", "#d6455d"


class Axes:
    """Linear axes that turn data into SVG elements.

    Args:
        x_range, y_range: data limits. x_label, y_label: what they show, with units.
    """

    def __init__(self, x_range: tuple[float, float], y_range: tuple[float, float], x_label: str, y_label: str):
        self.x_range, self.y_range = x_range, y_range
        self.labels = (x_label, y_label)
        self.parts: list[str] = []

    def x(self, value: float) -> float:
        low, high = self.x_range
        return _LEFT + (value - low) / (high - low) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    def ticks(self, x_ticks: Sequence[float], y_ticks: Sequence[float], percent: bool = False) -> None:
        for value in y_ticks:
            y = self.y(value)
            self.parts.append(f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_GRID}"/>')
            self.text(_LEFT - 6, y + 4, f"{100 * value:.3g}%" if percent else f"{value:g}", "end")
        for value in x_ticks:
            x, base = self.x(value), HEIGHT - _BOTTOM
            self.parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 4}" stroke="{_INK}"/>')
            self.text(x, base + 17, f"{value:g}", "middle")

    def bar(self, low: float, high: float, value: float, title: str, color: str = _ACCENT) -> None:
        x, width = self.x(low), max(0.8, self.x(high) - self.x(low) - 1)
        y, base = self.y(value), self.y(self.y_range[0])
        self.parts.append(
            f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{max(0, base - y):.2f}" fill="{color}">'
            f"<title>{html.escape(title)}</title></rect>"
        )

    def line(self, xs: Sequence[float], ys: Sequence[float], color: str = _ACCENT, dash: str = "") -> None:
        points = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in zip(xs, ys, strict=True))
        style = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"{style}/>')

    def band(self, xs: Sequence[float], low: Sequence[float], high: Sequence[float]) -> None:
        forth = [f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in zip(xs, high, strict=True)]
        back = [f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in zip(xs, low, strict=True)][::-1]
        self.parts.append(f'<polygon points="{" ".join(forth + back)}" fill="{_SOFT}" opacity=".6"/>')

    def dot(self, x: float, y: float, title: str, color: str = _ACCENT, radius: float = 3.5) -> None:
        self.parts.append(
            f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{radius}" fill="{color}">'
            f"<title>{html.escape(title)}</title></circle>"
        )

    def rule(self, x: float, label: str) -> None:
        at = self.x(x)
        self.parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}" stroke="{_WARN}" '
            f'stroke-dasharray="3 3"/>'
        )
        end = "end" if at > WIDTH * 0.6 else "start"
        self.text(at + (-4 if end == "end" else 4), _TOP + 10, label, end, _WARN)

    def text(self, x: float, y: float, content: str, anchor: str = "start", color: str = _INK) -> None:
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{html.escape(content)}</text>'
        )

    def svg(self, title: str) -> str:
        base = HEIGHT - _BOTTOM
        frame = f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{base}" y2="{base}" stroke="{_INK}"/>'
        self.text((WIDTH + _LEFT - _RIGHT) / 2, HEIGHT - 6, self.labels[0], "middle")
        label = (
            f'<text transform="translate(12 {(_TOP + base) / 2:.0f}) rotate(-90)" text-anchor="middle" '
            f'fill="{_INK}">{html.escape(self.labels[1])}</text>'
        )
        return _svg(WIDTH, HEIGHT, title, frame + label + "".join(self.parts))


def histogram(errors: np.ndarray) -> str:
    """Share of pairs per 5 degrees of angular error; (P,) degrees."""
    edges = np.arange(0, 181, 5)
    share = np.histogram(errors, edges)[0] / len(errors)
    levels = nice_ticks(share.max())
    axes = Axes((0, 180), (0, levels[-1]), "angular error (°)", "share of pairs")
    axes.ticks(range(0, 181, 30), levels, percent=True)
    for low, value in zip(edges, share, strict=False):
        color = _WARN if low >= FLIP_DEGREES else _ACCENT
        axes.bar(low, low + 5, value, f"{low}–{low + 5}°: {value:.1%} of pairs", color)
    axes.rule(float(np.median(errors)), f"median {np.median(errors):.1f}°")
    return axes.svg("Histogram of angular errors")


def cumulative(errors: np.ndarray) -> str:
    """Share of pairs within an error, over 0 to 60 degrees; (P,) degrees."""
    axes = _cumulative([errors], [_ACCENT])
    for at in (5, 10, 30):
        share = float((errors <= at).mean())
        axes.dot(at, share, f"{share:.1%} within {at}°")
        # a label under the curve, where the next part of it cannot cross it
        axes.text(axes.x(at) + 8, axes.y(share) + 15, f"{share:.0%} ≤ {at}°")
    return axes.svg("Cumulative distribution of angular errors")


def overlaid(errors: Sequence[np.ndarray], colors: Sequence[str]) -> str:
    """:func:`cumulative` of several evaluations in one picture; each (P,) degrees, with its CSS colour."""
    return _cumulative(errors, colors).svg("Cumulative distributions of angular errors")


def _cumulative(errors: Sequence[np.ndarray], colors: Sequence[str]) -> Axes:
    limit = 60
    xs = np.linspace(0, limit, 121)
    axes = Axes((0, limit), (0, 1), "angular error (°)", "share of pairs within")
    axes.ticks(range(0, limit + 1, 10), np.linspace(0, 1, 5), percent=True)
    for own, color in zip(errors, colors, strict=True):
        axes.line(xs, np.searchsorted(np.sort(own), xs, side="right") / len(own), color)
    return axes


def binned(values: np.ndarray, errors: np.ndarray, edges: Sequence[float], label: str, ticks: Sequence[float]) -> str:
    """Median error (line), middle half (band) and mean (dashed) over bins of something.

    Args:
        values, errors: (P,). edges: bin limits. label: what ``values`` is, with units. ticks: on the x axis.
    """
    rows = []
    for low, high in itertools.pairwise(edges):
        # the last bin includes its upper end
        chosen = errors[(values >= low) & ((values < high) | (high == edges[-1]))]
        if len(chosen):
            rows.append(((low + high) / 2, *np.percentile(chosen, (25, 50, 75)), chosen.mean(), len(chosen), low, high))
    middle, q1, median, q3, mean, count, low, high = map(np.array, zip(*rows, strict=True))
    levels = nice_ticks(max(q3.max(), mean.max()))
    axes = Axes((edges[0], edges[-1]), (0, levels[-1]), label, "angular error (°)")
    axes.ticks(ticks, levels)
    axes.band(middle, q1, q3)
    axes.line(middle, mean, _WARN, "5 4")
    axes.line(middle, median)
    for i, x in enumerate(middle):
        about = f"{low[i]:g} to {high[i]:g}: {count[i]} pairs"
        axes.dot(x, mean[i], f"{about}, mean {mean[i]:.1f}°", _WARN, 2.5)
        axes.dot(x, median[i], f"{about}, median {median[i]:.1f}°")
    return axes.svg(f"Angular error against {label}")


def reliability(expected: np.ndarray, observed: np.ndarray) -> str:
    """Observed against expected share of keypoints (K,), beside the diagonal of a calibrated confidence."""
    axes = Axes((0, 1), (0, 1), "share expected within", "share found within")
    axes.ticks(np.linspace(0, 1, 5), np.linspace(0, 1, 5), percent=True)
    axes.line((0, 1), (0, 1), _INK, "3 3")
    axes.line(expected, observed)
    return axes.svg("Reliability of the confidence")


def sparsification(by_confidence: np.ndarray, by_error: np.ndarray) -> str:
    """Relative mean error against the share left out (K,), by confidence (line) and by the true error (dashed)."""
    removed = np.arange(len(by_error)) / len(by_error)
    chosen = np.unique(np.linspace(0, 0.99 * (len(removed) - 1), 100).astype(int))
    levels = nice_ticks(max(by_confidence[chosen].max(), 1))
    axes = Axes((0, 1), (0, levels[-1]), "share of keypoints left out, least certain first", "mean error, relative")
    axes.ticks(np.linspace(0, 1, 5), levels)
    axes.line((0, 1), (1, 1), _INK, "3 3")
    axes.line(removed[chosen], by_error[chosen], _WARN, "5 4")
    axes.line(removed[chosen], by_confidence[chosen])
    return axes.svg("Sparsification by confidence")


def per_model(names: Sequence[str], means: np.ndarray, medians: np.ndarray) -> str:
    """Mean (bars) and median (dots) error of every model, best first; (M,) degrees."""
    order = np.argsort(means, kind="stable")
    levels = nice_ticks(means.max())
    axes = Axes((0, len(names)), (0, levels[-1]), f"{len(names)} models, best first", "angular error (°)")
    axes.ticks((), levels)
    for rank, m in enumerate(order):
        axes.bar(rank, rank + 1, means[m], f"{names[m]}: mean {means[m]:.1f}°, median {medians[m]:.1f}°", _SOFT)
    radius = max(1.0, min(3.5, 120 / len(names)))
    for rank, m in enumerate(order):
        axes.dot(rank + 0.5, medians[m], f"{names[m]}: median {medians[m]:.1f}°", radius=radius)
    return axes.svg("Angular error per model")


def aligned_sets(moved: np.ndarray, target: np.ndarray) -> str:
    """Keypoints of view 0 turned by the estimated rotation (rings) onto those of view 1 (dots), from two sides.

    Args:
        moved, target: (N, 3), both centred, in view 1's camera frame.
    """
    panel, gap = 200, 20
    limit = max(0.3, float(np.abs(np.concatenate([moved, target])).max())) * 1.15
    parts = []
    for i, (title, axes) in enumerate((("as the camera sees it", (0, 1)), ("from above", (0, 2)))):
        left = i * (panel + gap)
        flip = 1 if axes[1] == 1 else -1  # farther from the camera is drawn higher up
        parts.append(f'<rect x="{left}" y="18" width="{panel}" height="{panel}" fill="none" stroke="{_GRID}"/>')
        parts.append(f'<text x="{left + panel / 2}" y="12" text-anchor="middle" fill="{_INK}">{title}</text>')

        def place(point: np.ndarray, left=left, axes=axes, flip=flip) -> tuple[float, float]:
            x, y = point[axes[0]], point[axes[1]] * flip
            return left + panel / 2 * (1 + x / limit), 18 + panel / 2 * (1 + y / limit)

        for k, (a, b) in enumerate(zip(moved, target, strict=True)):
            (ax, ay), (bx, by) = place(a), place(b)
            color = css_color(k)
            parts.append(
                f'<line x1="{ax:.1f}" y1="{ay:.1f}" x2="{bx:.1f}" y2="{by:.1f}" stroke="{color}" opacity=".6"/>'
                f'<circle cx="{ax:.1f}" cy="{ay:.1f}" r="5" fill="none" stroke="{color}" stroke-width="2"/>'
                f'<circle cx="{bx:.1f}" cy="{by:.1f}" r="4" fill="{color}"><title>keypoint {k}</title></circle>'
            )
    return _svg(2 * panel + gap, panel + 22, "Point sets after alignment", "".join(parts))


def nice_ticks(value: float) -> np.ndarray:
    """Evenly spaced round numbers from 0 to the first that is not below ``value``; 0 to 1 for a value of 0 or less."""
    if not value > 0:
        return np.linspace(0, 1, 5)
    power = 10.0 ** np.floor(np.log10(value))
    top = next(step for step in (1, 2, 4, 5, 8, 10) if step * power >= value * (1 - 1e-9))
    return np.linspace(0, top * power, 6 if top == 5 else 5)


def _svg(width: float, height: float, title: str, body: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(title)}" '
        f'xmlns="http://www.w3.org/2000/svg">{body}</svg>'
    )
