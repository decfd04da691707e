"""What a run learned from, kept beside its weights, so that nobody takes models that it knows for unseen ones."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from data.atomic import write_bytes
from data.dataset import PairDataset
from data.errors import UserError
from data.shard import ModelEntry

DATA_NAME = "training_data.json"
DIGITS = 16  # of a geometry's SHA-256: enough to tell models apart


@dataclass
class LearnedModels:
    """The models that a run learned from, and the one that its weights began with.

    Attributes:
        geometries: of those whose geometry is known. names: geometry, or "", of each (category, model id).
    """

    geometries: set[str] = field(default_factory=set)
    names: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, category: str, models: dict[str, str]) -> None:
        """Models of a dataset: id -> geometry, or ""."""
        self.names |= {(category, model_id): geometry for model_id, geometry in models.items()}
        self.geometries.update(filter(None, models.values()))

    def includes(self, category: str, model: ModelEntry) -> bool:
        """Whether a model is one of them: by its geometry, by its name only where a geometry is not known."""
        geometry, known = model.geometry[:DIGITS], self.names.get((category, model.model_id))
        return geometry in self.geometries or known is not None and not (geometry and known)


def save_training_data(run: Path, pairs: PairDataset, parent: Path | None) -> None:
    """Write ``training_data.json``: the datasets of a run, and those of the run whose weights it begins with.

    Args:
        parent: that run's folder, if any; one of an older version, or shipped weights, tells nothing.

    Raises:
        UserError: the parent's is damaged.
    """
    datasets = [
        {
            "folder": str(folder.resolve()),
            "category": manifest.category,
            "seed": manifest.seed,
            "settings": manifest.settings,
            "models": {m.model_id: m.geometry[:DIGITS] for m in manifest.models if m.split == pairs.split},
        }
        for folder, manifest in zip(pairs.folders, pairs.manifests, strict=True)
    ]
    before = _load(parent) if parent else None
    content = {"pairs_sha256": pairs.fingerprint(), "datasets": datasets, "init_from": before}
    write_bytes(run / DATA_NAME, (json.dumps(content, indent=1) + "\n").encode())


def load_learned_models(run: Path) -> LearnedModels:
    """Read ``training_data.json``; of a run without it nothing is known.

    Raises:
        UserError: it is damaged.
    """
    learned, content = LearnedModels(), _load(run)
    try:
        while content is not None:
            for dataset in content["datasets"]:
                learned.add(dataset["category"], dataset["models"])
            content = content["init_from"]
    except (TypeError, KeyError, AttributeError):
        raise _damaged(run) from None
    return learned


def _load(run: Path) -> dict:
    path = run / DATA_NAME
    try:
        content = json.loads(path.read_bytes()) if path.exists() else {"datasets": [], "init_from": None}
    except (ValueError, RecursionError):
        raise _damaged(run) from None
    if not isinstance(content, dict):
        raise _damaged(run)
    return content


def _damaged(run: Path) -> UserError:
    return UserError(f"{run / DATA_NAME}: damaged or edited by hand: restore or delete it")
