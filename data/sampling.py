"""Which of many to show."""

from __future__ import annotations

import numpy as np


def evenly_spread(total: int, count: int) -> np.ndarray:
    """At most ``count`` of the numbers 0 to ``total`` − 1, the first and the last among them: int64, ascending."""
    if not total:
        return np.empty(0, np.int64)
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))
