"""Is every byte of a dataset as it was written? Never trusts what it reads, never stops at the first finding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.atomic import TEMPORARY_SUFFIX
from data.errors import UserError
from data.manifest import (
    MANIFEST_NAME,
    Manifest,
    ShardEntry,
    checksum_holds,
    decode_manifest,
    file_sha256,
    load_manifest,
    unknown_fields,
)
from data.schema import FIELDS, relative_motion
from data.shard import ShardReader


def verify(folder: Path) -> list[str]:
    """Check the manifest and every shard of a dataset.

    The SHA-256 of each shard is compared before HDF5 touches it, so garbage cannot do harm.

    Returns:
        One line per problem, each beginning with the path of the file concerned; empty when all is well.
    """
    folder = Path(folder)
    path = folder / MANIFEST_NAME
    try:
        load_manifest(folder)  # for its messages about folders that are no datasets
        content = path.read_bytes()
        manifest = decode_manifest(path, content)
    except UserError as error:
        return [str(error)]
    except OSError as error:
        return [f"{path}: cannot be read: {error.strerror}"]
    problems = []
    if not checksum_holds(content):  # ours have one; those of other programs need none
        problems += [f"{path}: holds {name!r}, which is no field of the format" for name in unknown_fields(content)]
    with tqdm(
        total=sum(max(0, s.bytes) for s in manifest.shards),
        unit="B",
        unit_scale=True,
        desc="verify",
        disable=None,
        leave=False,
    ) as bar:
        for entry in manifest.shards:
            problems += [
                f"{folder / entry.file}: {what}" for what in _check_shard(folder / entry.file, entry, manifest)
            ]
            bar.update(max(0, entry.bytes))
    return [*problems, *_check_manifest(path, manifest), *_find_strays(folder, manifest)]


def _check_shard(path: Path, entry: ShardEntry, manifest: Manifest) -> Iterator[str]:
    try:
        size, digest = path.stat().st_size, file_sha256(path)
    except FileNotFoundError:
        yield f"missing, though {MANIFEST_NAME} lists it"
        return
    except OSError as error:
        yield f"cannot be read: {error.strerror}"
        return
    if digest != entry.sha256:
        expected = f", {entry.bytes} expected" if entry.bytes >= 0 else ""  # other programs need not tell
        yield f"damaged: its SHA-256 is not the one in {MANIFEST_NAME} ({size} bytes{expected})"
        return
    try:
        with ShardReader(path) as reader:
            yield from _check_content(reader, entry, manifest)
    except UserError:
        yield "not a readable shard, though its SHA-256 is right"


def _check_content(reader: ShardReader, entry: ShardEntry, manifest: Manifest) -> Iterator[str]:
    found = (reader.header.split, reader.num_pairs, len(reader.models))
    if found != (entry.split, entry.pairs, entry.models):
        yield f"holds {found[1]} pairs of {found[2]} models of {found[0]}, unlike {MANIFEST_NAME} says"
    splits = {model.model_id: model.split for model in manifest.models}
    for model in reader.models:
        if splits.get(model.model_id) != reader.header.split:
            yield f"model {model.model_id} is not in {MANIFEST_NAME} as one of {reader.header.split}"
    if problems := list(_check_tables(reader)):
        yield from problems
        return
    poses = reader.read("object_to_camera")
    rotation, translation = relative_motion(poses)
    close = (
        np.isclose(reader.read("R"), rotation, atol=1e-9).all()
        and np.isclose(reader.read("t"), translation, atol=1e-6).all()
    )
    if not (close and np.isfinite(reader.read("intrinsics")).all()):
        yield "R and t do not follow from object_to_camera, or poses are not finite"


def _check_tables(reader: ShardReader) -> Iterator[str]:
    sizes: dict[str, int] = {}
    for name, field in FIELDS.items():
        if not reader.holds(name):  # those that must be there the reader has asked for
            continue
        table = reader.dataset(name)
        if field.dtype != "string" and table.dtype != field.dtype:
            yield f"{name} is {table.dtype}, not {field.dtype}"
        fits = len(table.shape) == len(field.shape) and all(
            size == (expected if isinstance(expected, int) else sizes.setdefault(expected, size))
            for size, expected in zip(table.shape, field.shape)
        )
        if not fits:
            yield f"{name} has the shape {table.shape}, not ({', '.join(map(str, field.shape))})"


def _check_manifest(path: Path, manifest: Manifest) -> Iterator[str]:
    files = [entry.file for entry in manifest.shards]
    if len(set(files)) < len(files):
        yield f"{path}: lists a shard twice"
    ids = [model.model_id for model in manifest.models]
    if len(set(ids)) < len(ids):
        yield f"{path}: lists a model twice"


def _find_strays(folder: Path, manifest: Manifest) -> Iterator[str]:
    listed = {entry.file for entry in manifest.shards}
    for path in sorted(folder.iterdir()):
        if path.name.removesuffix(TEMPORARY_SUFFIX).endswith(".h5") and path.name not in listed:
            yield f"{path}: not part of the dataset: {MANIFEST_NAME} does not list it"
