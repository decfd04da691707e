"""Why a pair went wrong: one word that a reader can act on, and a sentence about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.images import pixels_under
from train.eval.metrics import FLIP_DEGREES

GOOD_DEGREES = 10.0
OFF_DISTANCE = 0.25  # object units; a keypoint farther from its partner than this is called off
HIDDEN_MARGIN = 0.2  # object units; a keypoint this far behind the visible surface is called hidden


@dataclass(frozen=True)
class PairGeometry:
    """What is known of one pair once truth is at hand; N keypoints, A axes.

    Attributes:
        error: angular error, degrees.
        points: (2, N, 3) keypoints of each view, in the object frame.
        inside: bool (2, N), whether each keypoint projects inside the mask.
        hidden: bool (2, N), whether each lies behind the visible surface, see :func:`behind_surface`.
        flags, true_flags: bool (2, A). axes: their names.
    """

    error: float
    points: np.ndarray
    inside: np.ndarray
    hidden: np.ndarray
    flags: np.ndarray
    true_flags: np.ndarray
    axes: tuple[str, ...]


def name_failure(pair: PairGeometry) -> tuple[str, str]:
    """Name what is wrong with a pair, most telling cause first.

    - ``good``: the error is at most 10 degrees.
    - ``flip``: an orientation flag is wrong and the error exceeds 30 degrees.
    - ``swap``: two keypoints changed places between the views.
    - ``flip`` again: the error exceeds 90 degrees though the flags are right.
    - ``outside the mask``: more than a quarter of the keypoints of a view miss the object.
    - ``occluded``: most of the keypoints that are off lie behind the visible surface in a view.
    - ``drift``: keypoints moved over the object without any of the above.

    Returns:
        (name, sentence).
    """
    if pair.error <= GOOD_DEGREES:
        return "good", "the two sets agree"
    wrong = [f"{axis} in view {v}" for v in range(2) for a, axis in enumerate(pair.axes) if _differs(pair, v, a)]
    # near the boundary a flag may be wrong without harm
    if wrong and pair.error > 30:
        return "flip", f"orientation flag wrong: {', '.join(wrong)}"
    swapped = _swaps(pair.points)
    if swapped:
        return "swap", "keypoints changed places: " + ", ".join(f"{i} and {j}" for i, j in swapped)
    if pair.error > FLIP_DEGREES:
        return "flip", "flags are right, yet the sets agree best the wrong way round"
    if ((~pair.inside).mean(-1) > 0.25).any():
        return "outside the mask", " and ".join(
            f"{int((~inside).sum())} keypoints miss the object in view {v}"
            for v, inside in enumerate(pair.inside)
            if not inside.all()
        )
    distance = np.linalg.norm(pair.points[0] - pair.points[1], axis=-1)
    # a small object, or few points: the farthest ones are to blame even when none is off by much
    off = distance >= min(OFF_DISTANCE, np.sort(distance)[-min(2, len(distance))])
    names = ", ".join(map(str, np.flatnonzero(off)))
    if (off & pair.hidden.any(0)).sum() * 2 > off.sum():
        return "occluded", f"keypoints off, mostly hidden in a view: {names}"
    return "drift", f"keypoints off by up to {distance.max():.2f}: {names}"


def behind_surface(keypoints: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Which keypoints lie behind the visible surface.

    Args:
        keypoints: (V, N, 3) as (u, v, z). depth: (V, H, W) z-depth, 0 = background.

    Returns:
        bool (V, N); False where a keypoint projects on background.
    """
    row, column, inside = pixels_under(keypoints, depth.shape[-2:])
    surface = depth[np.arange(len(depth))[:, None], row, column]
    return inside & (surface > 0) & (keypoints[..., 2] > surface + HIDDEN_MARGIN)


def _differs(pair: PairGeometry, view: int, axis: int) -> bool:
    return bool(pair.flags[view, axis] != pair.true_flags[view, axis])


def _swaps(points: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (i, j) of keypoints that fit far better when exchanged in view 1."""
    distance = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    own = np.diag(distance)
    kept, exchanged = own[:, None] + own[None], distance + distance.T
    first, second = np.nonzero(np.triu((exchanged < 0.5 * kept) & (kept > 2 * OFF_DISTANCE), 1))
    return list(zip(first.tolist(), second.tolist(), strict=True))
