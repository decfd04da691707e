"""Made-up models and datasets for the tests of data/: small, quick, and every number known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.assemble import assemble
from data.manifest import Failure, Manifest
from data.schema import ModelPairs, split_of
from data.shard import write_shard

SETTINGS = {"image_size": 16, "pairs_per_model": 3, "seed": 0}
FRACTIONS = (0.6, 0.2, 0.2)
DEPTH_OFFSET, DEPTH_SCALE = 28.0, 0.001
KEYPOINTS = ("nose", "tail", "wing")


def make_model(
    number: int,
    pairs: int = 3,
    size: int = 16,
    split: str | None = None,
    seed: int = 0,
    labelled: bool = True,
    focal: float = 183.0,
) -> ModelPairs:
    """A model whose images and poses are random numbers drawn from its number and ``seed``;
    keypoints if ``labelled``."""
    rng = np.random.default_rng([number, seed])
    model_id = f"model-{number:03d}"
    rgba = np.zeros((pairs, 2, size, size, 4), np.uint8)
    rgba[:, :, 3:-3, 2:-2] = rng.integers(1, 255, (pairs, 2, size - 6, size - 4, 4))
    rgba[..., :3] = np.minimum(rgba[..., :3], rgba[..., 3:])  # premultiplied
    depth = np.where(rgba[..., 3] > 0, rng.integers(1, 4000, rgba.shape[:-1]), 0).astype(np.uint16)
    pose = np.tile(np.eye(4), (pairs, 2, 1, 1))
    pose[..., :3, :3] = np.linalg.qr(rng.normal(size=(pairs, 2, 3, 3)))[0]
    pose[..., :3, 0] *= np.linalg.det(pose[..., :3, :3])[..., None]
    pose[..., :3, 3] = rng.normal(size=(pairs, 2, 3)) + (0, 0, 30)
    intrinsics = np.tile([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], (pairs, 2, 1, 1))
    keypoints = rng.uniform(-1, 1, (len(KEYPOINTS), 3)).astype(np.float32)
    if not labelled:
        keypoints[:] = np.nan
    return ModelPairs(
        model_id, split or split_of(0, model_id, FRACTIONS), f"made-up:{number}", 10 + number,
        rgba, depth, pose, intrinsics, keypoints, f"{number:064x}",
    )  # fmt: skip


def write_part(folder: Path, model: ModelPairs, settings: dict = SETTINGS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{model.model_id}.h5"
    write_shard(path, model.split, [model], settings, KEYPOINTS, DEPTH_OFFSET, DEPTH_SCALE)
    return path


def make_manifest(settings: dict = SETTINGS, failures: tuple[Failure, ...] = (), category: str = "chair") -> Manifest:
    return Manifest(category, 0, settings, failures=list(failures))


def make_dataset(folder: Path, numbers=range(12), pairs_per_shard: int = 8, settings: dict = SETTINGS, **model) -> Path:
    """A whole dataset folder of made-up models; ``model`` goes to :func:`make_model`."""
    parts = folder.parent / f"{folder.name}-parts"
    sources = [write_part(parts, make_model(number, **model), settings) for number in numbers]
    assemble(folder, sources, make_manifest(settings), pairs_per_shard=pairs_per_shard)
    return folder


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
