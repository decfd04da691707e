"""The folder of a dataset while it is rendered: parts, the lock, what is there already."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from data.atomic import holding, is_at, write_bytes
from data.errors import UserError
from data.manifest import MANIFEST_NAME, MERGING, PARTS, SHARD_NAME, Manifest, file_sha256, load_manifest
from data.shard import ShardReader, canonical_json
from render.config import RenderConfig, category_of
from render.sources import Source

LOCK = "lock"
SETTINGS = "settings.json"  # what the parts were rendered with


def unfinished_settings(out: Path) -> dict | None:
    """What an unfinished rendering in ``out`` was begun with; None where there is none.

    Raises:
        UserError: the file is damaged.
    """
    marker = out / PARTS / SETTINGS
    try:
        settings = json.loads(marker.read_bytes()) if marker.exists() else None
    except (ValueError, RecursionError):
        settings = ()
    if not isinstance(settings, dict | None):
        raise UserError(f"{marker}: damaged: delete {marker.parent} to render anew")
    return settings


def existing_manifest(out: Path, config: RenderConfig, settings: dict) -> Manifest:
    """The manifest to go on from; refuses a folder that holds anything else than this dataset."""
    if (out / MERGING).exists():
        raise UserError(f"{out}: holds an unfinished merge: run that merge again to end it, or choose a new folder")
    unfinished = unfinished_settings(out)
    begun = not (out / MANIFEST_NAME).exists() or any((out / PARTS).glob("*.h5"))  # else there is nothing to give up
    if unfinished is not None and begun and unfinished != settings:
        _require_same_settings(
            out, unfinished, settings, f"; to give up the unfinished rendering, delete {out / PARTS}"
        )
    if (out / MANIFEST_NAME).exists():
        manifest = load_manifest(out)
        if not _grows(manifest.settings, settings):
            _require_same_settings(out, manifest.settings, settings)
        elif not config.grow:
            _require_same_settings(
                out, manifest.settings, settings, ", or --grow to keep its shards and add what is missing"
            )
    else:
        manifest = Manifest(category_of(config), config.seed, settings)
    listed = {shard.file for shard in manifest.shards}
    foreign = sorted(path.name for path in out.iterdir() if SHARD_NAME.fullmatch(path.name) and path.name not in listed)
    if foreign and unfinished is None:  # else they are what a killed run left
        raise UserError(
            f"{out}: holds {foreign[0]}, but no {MANIFEST_NAME} that lists it: choose a new folder, or move it away"
        )
    return manifest


def claim(out: Path, settings: dict) -> None:
    """Note what the parts are rendered with, and clear away what killed runs left."""
    write_bytes(out / PARTS / SETTINGS, canonical_json(settings).encode())
    for remains in (out / PARTS).glob("run-*"):
        _remove_tree(remains)


def _grows(before: dict, after: dict) -> bool:
    """Whether the second settings ask for the same dataset with more models or more pairs of each, or none of both."""
    numbers = ("models", "pairs_per_model", "hybrids")
    if any(before.get(name) != after.get(name) for name in (before.keys() | after.keys()) - set(numbers)):
        return False
    # No number of models: all there are.
    pairs = [(before.get(name), after.get(name)) for name in numbers]
    return all(more is None or (fewer is not None and fewer <= more) for fewer, more in pairs)


def _require_same_settings(out: Path, theirs: dict, ours: dict, advice: str = "") -> None:
    differ = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    if differ:
        raise UserError(
            f"{out}: was rendered with other settings ({', '.join(differ)}): use the same ones to go on, or a new "
            f"folder{advice}"
        )


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the only right to write in ``out``. The lock goes with the process, however that ends."""
    parts = out / PARTS
    busy = f"{out}: another run is writing to it: wait for it to end, or choose a new folder"
    with holding(parts / LOCK, busy) as lock:
        try:
            yield
        finally:
            refused = is_at(lock, parts / LOCK) and not (parts / SETTINGS).exists()
            if refused:  # leave the folder as it was
                clear(parts)


def clear(parts: Path) -> None:
    """Remove the parts, then what they were rendered with, the lock last: until then no other run begins."""
    for path in parts.iterdir():
        if path.is_dir():
            _remove_tree(path)
        elif path.name not in (SETTINGS, LOCK):
            path.unlink()
    (parts / SETTINGS).unlink(missing_ok=True)
    (parts / LOCK).unlink()
    with suppress(OSError):  # another run has already begun to use the folder
        parts.rmdir()


def _remove_tree(folder: Path) -> None:
    """Remove a folder even while a worker of a killed run, about to die, may still write in it."""
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
    shutil.rmtree(folder)


def count_pairs(out: Path, manifest: Manifest) -> Counter[str]:
    """How many pairs the dataset holds of each model."""
    held: Counter[str] = Counter()
    for shard in manifest.shards:
        with ShardReader(out / shard.file) as reader:
            held.update({model.model_id: len(reader.rows_of(slot)) for slot, model in enumerate(reader.models)})
    return held


def without_lost_shards(out: Path, manifest: Manifest, sources: list[Source]) -> Manifest:
    """The manifest without shards that are gone, and without the models in them, which are to be rendered again.

    Raises:
        UserError: a model in them cannot be, or has pairs in other shards too.
    """
    shards = [shard for shard in manifest.shards if (out / shard.file).exists()]
    if len(shards) == len(manifest.shards):
        return manifest
    lost = next(shard.file for shard in manifest.shards if shard not in shards)
    held = count_pairs(out, replace(manifest, shards=shards))
    known = {source.model_id for source in sources}
    failed = {failure.source for failure in manifest.failures}
    for entry in manifest.models:
        if entry.model_id not in held and entry.model_id not in known:
            why = f"model {entry.model_id} in it is not among the {len(sources)} to render"
        elif entry.source not in failed and 0 < held[entry.model_id] < manifest.settings["pairs_per_model"]:
            why = f"model {entry.model_id} has pairs in other shards too"
        else:
            continue
        raise UserError(f"{out / lost}: missing, and {why}: restore it, or delete {out} and render it again")
    return replace(manifest, shards=shards, models=[entry for entry in manifest.models if entry.model_id in held])


def part_name(sha256: str) -> str:
    """What a part is called, by the digest of its bytes."""
    return f"{sha256}.h5"


def models_in_parts(
    out: Path, wanted: Mapping[str, str], elsewhere: Set[str], held: Mapping[str, int], pairs: int
) -> set[str]:
    """Ids of the models in parts of earlier runs.

    Torn parts are deleted (parts are not forced to the disk one by one: a crash tears some), those with other pairs
    than the dataset lacks, and those whose meshes are gone.

    Args:
        wanted: id -> source of the models to render.
        elsewhere: ids of those that are for other tasks to render.
        held: id -> how many of its pairs the dataset holds already. pairs: how many it shall hold.

    Raises:
        UserError: the parts are of another task, or of other meshes.
    """

    def refuse(what: str, advice: str) -> None:
        raise UserError(
            f"{out}: holds an unfinished rendering of {what}: {advice}, or a new folder; to give the unfinished "
            f"rendering up, delete {out / PARTS}"
        )

    found: set[str] = set()
    strange: set[str] = set()
    useless = []
    for path in (out / PARTS).glob("*.h5"):
        made_of: dict[str, str] = {}
        if path.name == part_name(file_sha256(path)):  # HDF5 itself may hang on a damaged file
            with ShardReader(path) as part:
                made_of = {model.model_id: model.source for model in part.models}
                fits = all(
                    len(part.rows_of(slot)) == pairs - held.get(model.model_id, 0)
                    for slot, model in enumerate(part.models)
                )
        for model_id, source in made_of.items():
            if model_id in elsewhere:
                refuse(f"another task, with {source}", "give the same --task, or none, to go on")
            if wanted.get(model_id, source) != source:
                refuse(f"{source}, not of {wanted[model_id]}", "give the same meshes to go on")
        if made_of and fits and made_of.keys() <= wanted.keys():
            found |= made_of.keys()
        else:
            useless.append(path)
            strange |= made_of.keys() - held.keys() - wanted.keys()
    if strange and not found:
        refuse(f"other meshes, with {min(strange)}", "give the same meshes to go on")
    for path in useless:
        path.unlink()
    return found
