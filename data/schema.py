"""The shard and manifest schema: names, types, units, and which split a model belongs to. FORMAT.md is the prose."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FORMAT = "keypoint-pairs"
FORMAT_VERSION = 1
SPLITS = ("train", "val", "test")
PAIRS_PER_SHARD = 2048


@dataclass(frozen=True)
class Field:
    """One HDF5 dataset of a shard: its type, its shape, and what its attributes ``description`` and ``units`` say."""

    dtype: str
    shape: tuple[str | int, ...]  # letters stand for sizes: P pairs, M models, S points, H rows, W columns
    description: str
    units: str | None = None


FIELDS: dict[str, Field] = {
    "rgba": Field(
        "uint8",
        ("P", 2, "H", "W", 4),
        "colour composited on black (premultiplied alpha), or on the background that settings name, sRGB; "
        "alpha is coverage; [pair, view, row, column, channel]",
        "1/255",
    ),
    "depth": Field(
        "uint16",
        ("P", 2, "H", "W"),
        "z-depth at the pixel's centre = depth_offset + value * depth_scale; 0 = background; [pair, view, row, column]",
        "object units (longest side of the bounding box = 2)",
    ),
    "object_to_camera": Field(
        "float64",
        ("P", 2, 4, 4),
        "rigid transform T of each view, X_camera = T @ X_object; object frame +y up, -z front; "
        "camera frame +x right, +y down, +z forward",
        "object units",
    ),
    "intrinsics": Field(
        "float64",
        ("P", 2, 3, 3),
        "K of each view, camera coordinates to pixels; (0, 0) is the corner of the top-left pixel",
        "pixels",
    ),
    "R": Field("float64", ("P", 3, 3), "relative rotation, X_1 = R @ X_0 + t, camera frame 0 to camera frame 1"),
    "t": Field(
        "float64",
        ("P", 3),
        "relative translation, X_1 = R @ X_0 + t, camera frame 0 to camera frame 1",
        "object units",
    ),
    "model_index": Field("int32", ("P",), "row of each pair's model in model_id"),
    "model_id": Field("string", ("M",), "name of each model, unique within the dataset"),
    "semantic_keypoints": Field(
        "float32",
        ("M", "S", 3),
        "named points of each model in the object frame; the attribute names lists them; NaN = no such part",
        "object units",
    ),
    "model_source": Field("string", ("M",), "what each model was made from"),
    "model_faces": Field("int64", ("M",), "number of triangles of each model"),
    "model_geometry": Field("string", ("M",), "SHA-256 of each model's normalised geometry, empty when not known"),
}


@dataclass
class ModelPairs:
    """One model and its view pairs, the unit that renderers produce and shards store.

    Attributes:
        model_id: unique name of the model. split: one of ``SPLITS``. source: what the model was made from.
        faces: number of triangles.
        rgba: uint8 (P, 2, H, W, 4), premultiplied, or over a background.
        depth: uint16 (P, 2, H, W), coded as the shard's attributes say.
        object_to_camera: float64 (P, 2, 4, 4). intrinsics: float64 (P, 2, 3, 3), pixels.
        semantic_keypoints: float32 (S, 3) in the object frame, rows named by the shard; None where none are known.
        geometry: SHA-256 (hex) of the normalised geometry, to find one mesh under two names; empty when not known.
    """

    model_id: str
    split: str
    source: str
    faces: int
    rgba: np.ndarray
    depth: np.ndarray
    object_to_camera: np.ndarray
    intrinsics: np.ndarray
    semantic_keypoints: np.ndarray | None = None
    geometry: str = ""


def has_background(rgba: np.ndarray) -> bool:
    """Whether an image (H, W, 4), or one of several, shows a background: colour where nothing covers.

    Such RGB is the object over the background. Otherwise it is premultiplied by alpha, as over black.
    """
    return bool(((rgba[..., 3] == 0) & rgba[..., :3].any(-1)).any())


def split_of(seed: int, model_id: str, fractions: Sequence[float]) -> str:
    """The split of a model: a pure function of the seed and the model's id.

    Args:
        fractions: shares of train, val and test, not negative, with a positive sum (they need not sum to 1).
    """
    digest = hashlib.sha256(f"{seed}:{model_id}".encode()).digest()
    position = int.from_bytes(digest[:6], "big") / 2**48
    train, val, test = fractions
    total = train + val + test
    if position < train / total:
        return "train"
    return "val" if position < (train + val) / total else "test"


def relative_motion(object_to_camera: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R (..., 3, 3) and t (..., 3) with X_1 = R X_0 + t, from the poses (..., 2, 4, 4) of both views (float64)."""
    rotation, translation = object_to_camera[..., :3, :3], object_to_camera[..., :3, 3]
    relative = rotation[..., 1, :, :] @ np.swapaxes(rotation[..., 0, :, :], -1, -2)
    moved = (relative @ translation[..., 0, :, None])[..., 0]
    return relative, translation[..., 1, :] - moved
