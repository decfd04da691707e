"""Refusing datasets that together would train on what they validate or test on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from data.errors import UserError
from data.manifest import Manifest
from data.shard import ModelEntry


def leak(path: Path, entry: ModelEntry, other: ModelEntry, place: str) -> UserError:
    """What to say of a model in ``path`` that is in another split at another place."""
    return UserError(
        f"{path}: model {entry.model_id} is in split {entry.split} here and in {other.split} {place}, which would leak "
        "training models into the test: render both with the same --seed and --splits"
    )


def refuse_leaks(folders: Sequence[Path], manifests: Sequence[Manifest]) -> None:
    """Refuse a model that one dataset has in this split and another in that, and see :func:`refuse_leaks_of_hybrids`.

    Raises:
        UserError: there is one.
    """
    known: dict[tuple[str, str], list[tuple[ModelEntry, Path]]] = defaultdict(list)
    for folder, manifest in zip(folders, manifests, strict=True):
        for entry in manifest.models:
            namesakes = known[manifest.category, entry.model_id]
            for other, place in namesakes:
                if entry.leaks(other):
                    raise leak(folder, entry, other, f"in {place}")
            namesakes.append((entry, folder))
    refuse_leaks_of_hybrids(folders, manifests)


def refuse_leaks_of_hybrids(folders: Sequence[Path], manifests: Sequence[Manifest]) -> None:
    """Refuse hybrids beside meshes of another seed or other shares of the splits.

    They bear other names than the meshes they are joined of, those that their seed and shares put into train.

    Raises:
        UserError: there are such.
    """
    datasets = list(zip(folders, manifests, strict=True))
    for (folder, manifest), (place, other) in product(datasets, datasets):
        hybrids = [settings for settings in manifest.renderings if settings.get("hybrids")]
        meshes = [s for s in other.renderings if s.get("source") == "meshes" and not s.get("hybrids")]
        apart = any(_drawn_apart(one, another) for one, another in product(hybrids, meshes))
        if apart and manifest.category == other.category and any(entry.split != "train" for entry in other.models):
            raise UserError(
                f"{folder}: may be joined of meshes that {place} has outside its train split: render both with the "
                "same --seed and --splits"
            )


def _drawn_apart(settings: dict, others: dict) -> bool:
    return any(settings.get(name) != others.get(name) for name in ("seed", "splits"))
