"""Built-in parametric shapes: unlimited models of a category, each a pure function of (category, seed, index)."""

from __future__ import annotations

from importlib import import_module

import numpy as np

from data.errors import UserError
from render.mesh import Mesh

CATEGORIES = ("airplane", "car", "chair")  # a module each


def generate(category: str, seed: int, index: int) -> Mesh:
    """Model number ``index`` of a category, in the object frame (longest side of the bounding box = 2)."""
    module = _module(category)
    return module.build(np.random.default_rng([seed, index, CATEGORIES.index(category)]))


def keypoint_names(category: str) -> tuple[str, ...]:
    """Names of the semantic keypoints, in the order that every model of the category has them in."""
    return _module(category).KEYPOINTS


def _module(category: str):
    if category not in CATEGORIES:
        raise UserError(f"category: {category!r} is not built in: choose one of {', '.join(CATEGORIES)}")
    return import_module(f"render.shapes.{category}")  # takes a moment, and meshes of the user's own do without
