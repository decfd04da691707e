"""What all exports share: reading models, PNG pictures, and folders that a killed export can go on with."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.atomic import TEMPORARY_SUFFIX, publish, take_lock, temporary_path
from data.errors import UserError, resumable
from data.manifest import MANIFEST_NAME, Manifest, load_manifest
from data.schema import ModelPairs, has_background
from data.shard import ShardHeader, ShardReader, damaged

EXPORT_NAME = "export.json"


@contextmanager
def export_folder(dataset: Path, out: Path, to: str) -> Iterator[tuple[Manifest, tqdm] | None]:
    """The folder of an export, from empty to complete; yields None where it is complete already.

    ``export.json`` says what was exported. It bears a temporary name until all else is written, so whatever else
    stands under its final name before that is whole, and need not be written again.
    """
    manifest = load_manifest(dataset)
    digest = hashlib.sha256((dataset / MANIFEST_NAME).read_bytes()).hexdigest()
    label = json.dumps({"format": to, "category": manifest.category, "manifest_sha256": digest}, indent=1) + "\n"
    done, started = out / EXPORT_NAME, temporary_path(out / EXPORT_NAME)
    if _holds(done, label):
        yield None
        return
    if not _holds(started, label):
        if out.exists() and not out.is_dir():
            raise UserError(f"{out}: is a file: choose a folder for the export")
        if out.exists() and any(path != started for path in out.iterdir()):
            raise UserError(f"{out}: holds other files: choose a new folder for the export")
        out.mkdir(parents=True, exist_ok=True)
        started.write_text(label)
    with open(started, "r+") as lock:
        take_lock(lock, f"{out}: another export is writing to it: wait for it to end, or choose a new folder")
        _remove_unfinished(out, keep=started)
        bar = tqdm(total=len(manifest.models), unit="model", desc=f"export to {to}", disable=None)
        with resumable(out, "run the same command again to go on"), bar:
            yield manifest, bar
        os.sync()  # once it says it is complete nothing is looked at again
        publish(done)


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def _remove_unfinished(out: Path, keep: Path) -> None:
    for path in sorted(out.rglob(f"*{TEMPORARY_SUFFIX}")):
        if path.is_dir():
            shutil.rmtree(path)
        elif path != keep:
            path.unlink(missing_ok=True)


def read_parts(places: list[tuple[Path, int]]) -> Iterator[tuple[ShardHeader, ModelPairs]]:
    """The pairs of one model, shard by shard, from where :func:`locate_models` found them."""
    for path, slot in places:
        with ShardReader(path) as reader:
            yield reader.header, reader.read_model(slot)


def locate_models(dataset: Path, manifest: Manifest) -> dict[str, list[tuple[Path, int]]]:
    """Where the pairs of each model lie: its id -> (shard, slot in it), models in the manifest's order."""
    places: dict[str, list[tuple[Path, int]]] = {model.model_id: [] for model in manifest.models}
    for entry in manifest.shards:
        with ShardReader(dataset / entry.file) as reader:
            for slot, model in enumerate(reader.models):
                if model.model_id not in places:
                    raise damaged(dataset / entry.file)
                places[model.model_id].append((dataset / entry.file, slot))
    return places


def encode_rgba(rgba: np.ndarray) -> bytes:
    """A premultiplied uint8 (H, W, 4) view as PNG, which knows straight alpha only.

    Exact: ``round(straight * alpha / 255)`` gives the premultiplied colour back. A view with a background keeps its
    colours as they are.
    """
    if has_background(rgba):
        return encode_png(rgba)
    straight = rgba.copy()
    partial = (rgba[..., 3] > 0) & (rgba[..., 3] < 255)
    color, alpha = rgba[partial, :3].astype(int), rgba[partial, 3:].astype(int)
    straight[partial, :3] = np.minimum((color * 255 + alpha // 2) // alpha, 255)
    return encode_png(straight)


def encode_png(image: np.ndarray) -> bytes:
    """PNG of uint8 (H, W), (H, W, 3) or (H, W, 4), or of uint16 (H, W)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
