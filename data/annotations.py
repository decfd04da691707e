"""Semantic keypoints from elsewhere: the annotations of the KeypointNet dataset (You et al., CVPR 2020).

That dataset annotates models of ShapeNetCore v2. Its ``xyz`` are points on the surface of a model's
``models/model_normalized.obj``, in the coordinates of that file (in the authors' example, to 1e-8): +y up, −z front,
as in the object frame here, but centred and scaled as the file is. `render --annotations` passes them through the same
normalisation as the mesh. Meshes of ShapeNetCore v1 have other coordinates; there the annotations do not fit.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from data.errors import UserError

# model_id -> semantic_id as text -> float64 (3,), coordinates of the model's file.
Annotations = dict[str, dict[str, np.ndarray]]


def load_keypointnet_annotations(path: str | Path, class_id: str | None = None) -> Annotations:
    """Read a file of annotations, one category's or all.

    Args:
        path: JSON, a list of objects with ``class_id``, ``model_id`` and ``keypoints``, each of these with
            ``semantic_id`` and ``xyz``.
        class_id: a category (WordNet's number) to take alone, if the file holds it.

    Returns:
        model_id -> semantic_id as text -> float64 (3,), coordinates of the model's file. A model lacks the points that
        nobody annotated on it. Every model has its names in ascending order of the numbers.

    Raises:
        UserError: not such a file.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
        chosen = [entry for entry in entries if entry.get("class_id") == class_id] or entries
        return {entry["model_id"]: _keypoints(entry["keypoints"]) for entry in chosen}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"{path}: not annotations of the KeypointNet dataset ({reason}): give a file of its annotations folder"
        ) from None


def _keypoints(annotated: list[dict]) -> dict[str, np.ndarray]:
    points = {}
    for keypoint in sorted(annotated, key=lambda k: int(k["semantic_id"])):
        xyz = np.array(keypoint["xyz"], np.float64)
        if xyz.shape != (3,) or not np.isfinite(xyz).all():
            raise ValueError(f"xyz is {keypoint['xyz']!r}")
        points[str(int(keypoint["semantic_id"]))] = xyz
    return points
