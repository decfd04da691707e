"""Meshes of the user's own: finding them in a folder and turning any of them into a :class:`Mesh`."""
from __future__ import annotations
from dataclasses import dataclass
from pathlib import Path
from render.mesh import Mesh

class MeshError(Exception):
    """A mesh that cannot be used; the message is the reason."""

@dataclass(frozen=True)
class Source:
    """One model to render. ``name`` stands in the manifest; ``path`` is None for a built-in shape."""
    model_id: str
    name: str
    path: Path | None = None

def discover(folder: Path) -> list[Source]: ...
def load_mesh(path: Path, root: Path | None = None) -> Mesh: ...
