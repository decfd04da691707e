"""Which meshes there are: files in a folder, and the id of each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError

SUFFIXES = (".obj", ".ply", ".stl", ".off", ".glb", ".gltf")
# ShapeNetCore's layouts, version 2 first; what stands before them is the model's id.
LAYOUTS = ("models/model_normalized.obj", "model.obj")


class MeshError(Exception):
    """A mesh that cannot be used; the message is the reason."""


@dataclass(frozen=True)
class Source:
    """One model to render.

    Attributes:
        model_id: unique in its dataset, and the same whatever other models there are.
        name: where it comes from, as it stands in the manifest.
        path: its file; None for a built-in shape.
    """

    model_id: str
    name: str
    path: Path | None = None


def discover(folder: Path) -> list[Source]:
    """All meshes in a folder and the folders in it, sorted by model id.

    A ShapeNetCore model, ``<id>/model.obj`` or ``<id>/models/model_normalized.obj``, is called ``<id>``; any other
    mesh by its path in the folder, suffix included. ``folder`` may also be a single mesh.

    Raises:
        UserError: there is no such folder, no mesh in it, or a folder in it that cannot be listed.
    """
    if folder.is_file():
        if folder.suffix.lower() not in SUFFIXES:
            raise UserError(f"{folder}: not a mesh that can be read: give one of {', '.join(SUFFIXES)}")
        return [Source(folder.name, folder.name, folder)]
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder: give a ShapeNetCore category folder or any folder of meshes")
    found: dict[str, Source] = {}
    for path in _mesh_files(folder):
        name = printable(path.relative_to(folder).as_posix())
        model_id, rank = _model_id(name)
        if model_id not in found or rank < _model_id(found[model_id].name)[1]:
            found[model_id] = Source(model_id, name, path)
    if not found:
        raise UserError(f"{folder}: no mesh in it: meshes end in {', '.join(SUFFIXES)}")
    return [found[model_id] for model_id in sorted(found)]


def printable(text: str) -> str:
    """The text, with bytes of a file's name that are no UTF-8, lone surrogates and control characters escaped."""
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError:  # surrogates that do not stand for bytes
        data = text.encode("utf-8", "backslashreplace")
    text = data.decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def _model_id(name: str) -> tuple[str, int]:
    """The model's id, and which of several files of one id is to be taken (the lowest)."""
    for rank, layout in enumerate(LAYOUTS):
        if name.endswith("/" + layout):
            return name[: -len(layout) - 1], rank
    return name, len(LAYOUTS)


def _refuse_unreadable(error: OSError) -> None:
    raise UserError(
        f"{error.filename}: cannot be listed ({error.strerror}): make it readable, or leave it out of --meshes"
    )


def _mesh_files(folder: Path) -> Iterator[Path]:
    """Files that look like meshes; links are followed, but no folder is visited twice."""
    visited = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_refuse_unreadable):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                yield Path(parent, name)
