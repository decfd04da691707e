"""Turn shards into the final shards of a dataset folder: after rendering, and to merge datasets.

What is written depends only on the models given, not on how they were spread over files, so that
rendering in one go, in parts that are merged, or with interruptions gives the same bytes.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from itertools import count, groupby
from pathlib import Path

import numpy as np

from data.atomic import TEMPORARY_SUFFIX, holding
from data.errors import UserError
from data.leaks import leak, refuse_leaks_of_hybrids
from data.manifest import (
    MANIFEST_NAME,
    MERGING,
    PARTS,
    SHARD_NAME,
    Failure,
    Manifest,
    ShardEntry,
    check_present,
    file_sha256,
    load_manifest,
    save_manifest,
    shard_name,
)
from data.schema import PAIRS_PER_SHARD, SPLITS
from data.shard import ModelEntry, ShardHeader, ShardReader, ShardWriter, canonical_json, damaged
from data.signals import STOPS, handled_by

Progress = Callable[[int], None]


@dataclass(frozen=True)
class _Block:
    """Pairs of one model in one source shard, which is closed in between: there may be thousands."""

    source: ShardReader
    slot: int
    rows: np.ndarray

    @property
    def entry(self) -> ModelEntry:
        return self.source.models[self.slot]


def assemble(
    out: Path,
    sources: Iterable[Path],
    manifest: Manifest,
    pairs_per_shard: int = PAIRS_PER_SHARD,
    progress: Progress = lambda pairs: None,
    codec: str = "gzip",
) -> Manifest:
    """Write the final shards and, last of all, ``dataset.json`` from shards that lie elsewhere.

    Models are sorted by split and id; a shard is closed as soon as it holds ``pairs_per_shard`` pairs. Sources that
    differ in settings do not share shards; those of the first come first. A pair that occurs again (same model,
    cameras, light and variety) is left out. Images are copied compressed, so this runs at the speed of the disk with
    little memory. Killed at any moment and run again, it leaves the same bytes and nothing else. The sources are only
    read.

    Args:
        out: the dataset folder. Shards in it that ``manifest`` does not list are remains of a killed run and go.
        sources: shards, in any order, in other folders.
        manifest: category, seed, settings and failures of the result. Shards and models that it already lists are
            kept as they are, and new shards take the first free names.
        pairs_per_shard: a shard holds whole models and is closed at this many pairs.
        progress: called with the number of pairs just written.
        codec: of the images, one of ``data.shard.CODECS``.

    Returns:
        The manifest as saved.

    Raises:
        UserError: a model is in two splits, or one name stands for two shapes, or image sizes differ, or a source lies
            in ``out``.
    """
    out, sources = Path(out), list(sources)
    inside = {folder for folder in {Path(path).parent for path in sources} if folder.resolve() == out.resolve()}
    for path in sources:
        if Path(path).parent in inside:
            raise UserError(f"{path}: lies in the folder that is to be written: move it to another one first")
    out.mkdir(parents=True, exist_ok=True)
    shards = list(manifest.shards)
    with _deferred_interrupt() as check_interrupt:
        blocks = _plan(sources, manifest, check_interrupt)
        taken = {shard.file for shard in manifest.shards}
        _remove_remains(out, taken)
        for split in SPLITS:
            free = (name for number in count() if (name := shard_name(split, number)) not in taken)
            ours = (block for block in blocks if block.entry.split == split)
            for members, name in zip(_pack(ours, pairs_per_shard), free):
                shards.append(_write(out / name, members, progress, codec, check_interrupt))
    shards.sort(key=lambda shard: (SPLITS.index(shard.split), shard.file))
    models = {entry.model_id: entry for entry in [*manifest.models, *(block.entry for block in blocks)]}
    failures = sorted(set(manifest.failures), key=astuple)
    result = replace(manifest, shards=shards, models=[models[name] for name in sorted(models)], failures=failures)
    save_manifest(out, result)
    return result


def merge(out: Path, folders: Sequence[Path], progress: Progress = lambda pairs: None, codec: str = "gzip") -> Manifest:
    """Join datasets of one category (or the parts of `render --task I/N`) into a new dataset folder.

    The parts of one rendering give the bytes of that rendering done in one go. Where settings differ, each shard
    keeps its own, the first folder's shards stay as they are, and the manifest's ``settings`` is
    ``{"merged": [...]}`` with ``seed`` that of the first folder.

    Raises:
        UserError: categories differ, a source is damaged, hybrids may be joined of tested meshes, ``out`` holds
            another dataset, and see :func:`assemble`.
    """
    out = Path(out)
    if not folders:
        raise UserError("merge: no dataset given: name at least one")
    manifests = [load_manifest(folder) for folder in folders]
    if any(Path(folder).resolve() == out.resolve() for folder in folders):
        raise UserError(f"{out}: is one of the datasets to merge: choose a new folder for the result")
    categories = sorted({manifest.category for manifest in manifests})
    if len(categories) > 1:
        raise UserError(
            f"merge: the datasets are of different categories ({', '.join(categories)}): merge like with like"
        )
    refuse_leaks_of_hybrids(folders, manifests)
    settings: list[dict] = []
    for manifest in manifests:
        settings += [s for s in manifest.renderings if s not in settings]
    target = Manifest(
        categories[0],
        manifests[0].seed,
        settings[0] if len(settings) == 1 else {"merged": settings},
        failures=_failures_of_all(manifests),
    )
    if len(settings) == 1 and absent_tasks(manifests):
        target.tasks = sorted({task for manifest in manifests for task in manifest.tasks})
    with _claimed(out):
        digests = {
            Path(folder) / shard.file: shard.sha256
            for folder, manifest in zip(folders, manifests, strict=True)
            for shard in manifest.shards
        }
        if (out / MANIFEST_NAME).exists():
            return _already_merged(out, target, digests, codec)
        for path, sha256 in digests.items():
            if not path.is_file() or file_sha256(path) != sha256:
                raise damaged(path)
        return assemble(out, digests, target, progress=progress, codec=codec)


def absent_tasks(manifests: Sequence[Manifest]) -> list[tuple[int, int]]:
    """(I, N) of the tasks of `render --task` whose parts are not among datasets that hold other parts.

    Nothing is said of a rendering that is among them whole, or in parts of several N.
    """
    there: dict[str, set[tuple[int, int]]] = defaultdict(set)
    whole = {canonical_json(manifest.settings) for manifest in manifests if not manifest.tasks}
    for manifest in manifests:
        there[canonical_json(manifest.settings)].update(manifest.tasks)
    absent = []
    for settings, tasks in there.items():
        counts = {of for _, of in tasks}
        if settings not in whole and len(counts) == 1:
            absent += sorted({(i, of) for of in counts for i in range(1, of + 1)} - tasks)
    return absent


def _failures_of_all(manifests: list[Manifest]) -> list[Failure]:
    """What failed in a dataset, without what another one could render."""
    sources = [{entry.source for entry in manifest.models} for manifest in manifests]
    return [
        failure
        for manifest, own in zip(manifests, sources, strict=True)
        for failure in manifest.failures
        if failure.source in own or not any(failure.source in theirs for theirs in sources)
    ]


@contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """Hold the only right to merge into ``out``,
    by a file that also tells what a killed merge left from foreign shards."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file: choose a folder for the dataset")
    marker = out / MERGING
    if not marker.exists() and not (out / MANIFEST_NAME).exists():
        foreign = [path.name for path in sorted(out.glob("*")) if SHARD_NAME.fullmatch(path.name)]
        unfinished = (out / PARTS).exists()
        if foreign or unfinished:
            held = "an unfinished rendering" if unfinished else f"{foreign[0]} but no {MANIFEST_NAME}"
            raise UserError(f"{out}: holds {held}: choose a new folder")
    new = not out.exists()
    with holding(marker, f"{out}: another merge is writing to it: wait for it to end, or choose a new folder"):
        try:
            yield
        finally:
            written = any(SHARD_NAME.fullmatch(path.name.removesuffix(TEMPORARY_SUFFIX)) for path in out.iterdir())
            complete = (out / MANIFEST_NAME).exists()
            if complete or not written:  # else it is to be done again, which the marker tells
                marker.unlink()
                if new and not written and not complete:
                    out.rmdir()


def _already_merged(out: Path, target: Manifest, sources: Iterable[Path], codec: str) -> Manifest:
    existing = load_manifest(out)
    blocks = _plan(sources, target, lambda: None)
    entries = {block.entry.model_id: block.entry for block in blocks}
    same = (
        (existing.category, existing.seed, existing.settings) == (target.category, target.seed, target.settings)
        and existing.models == [entries[model_id] for model_id in sorted(entries)]
        and set(existing.failures) == set(target.failures)
        and sum(shard.pairs for shard in existing.shards) == sum(len(block.rows) for block in blocks)
    )
    if not same:
        raise UserError(f"{out}: already holds another dataset: choose a new folder")
    for shard in existing.shards:
        check_present(out / shard.file, shard)
    for shard in existing.shards[:1]:
        with ShardReader(out / shard.file) as reader:
            if reader.codec != codec:
                raise UserError(f"{out}: holds this merge already, with --codec {reader.codec}: choose a new folder")
    return existing


def _plan(sources: Iterable[Path], manifest: Manifest, check_interrupt: Callable) -> list[_Block]:
    """What to write of every model of every source, in the order in which it will be written."""
    blocks = []
    groups: dict[tuple, int] = {}
    image_size = None
    for path in sources:
        check_interrupt()
        with ShardReader(path) as reader:
            image_size = image_size or reader.image_size
            if reader.image_size != image_size:
                raise UserError(
                    f"{path}: images of {reader.image_size[1]} px, others are of {image_size[1]} px: "
                    "datasets to merge must agree in --image-size"
                )
            groups.setdefault(_group(reader.header), len(groups))
            blocks += [_Block(reader, slot, reader.rows_of(slot)) for slot in range(len(reader.models))]
    blocks.sort(key=lambda b: (SPLITS.index(b.entry.split), groups[_group(b.source.header)], b.entry.model_id))
    _refuse_conflicts(blocks, manifest)
    return _without_repeats(blocks)


def _without_repeats(blocks: list[_Block]) -> list[_Block]:
    """Each pair once, of those with semantic keypoints if there are such."""
    occurrences = Counter(block.entry.model_id for block in blocks)
    seen: dict[str, set[bytes]] = defaultdict(set)
    rows = {}
    for number, block in sorted(enumerate(blocks), key=lambda item: not item[1].source.header.keypoint_names):
        rows[number] = block.rows
        if occurrences[block.entry.model_id] > 1:
            pairs, told = _identities(block), seen[block.entry.model_id]
            rows[number] = block.rows[[pair not in told for pair in pairs]]
            told.update(pairs)
    return [replace(block, rows=rows[number]) for number, block in enumerate(blocks) if len(rows[number])]


def _identities(block: _Block) -> list[bytes]:
    """What tells each pair of a model from others: its cameras, and what its light and variety were drawn from."""
    settings = json.loads(block.source.header.settings)
    rendered = canonical_json([settings.get(name) for name in ("light", "variety")]).encode()
    with block.source as reader:
        cameras = zip(reader.read("object_to_camera", block.rows), reader.read("intrinsics", block.rows), strict=True)
        return [rendered + pose.tobytes() + intrinsics.tobytes() for pose, intrinsics in cameras]


def _refuse_conflicts(blocks: list[_Block], manifest: Manifest) -> None:
    known = {entry.model_id: entry for entry in manifest.models}
    for block in blocks:
        entry = block.entry
        other = known.setdefault(entry.model_id, entry)
        if entry.leaks(other):
            raise leak(block.source.path, entry, other, "elsewhere")
        if entry.geometry and other.geometry and entry.geometry != other.geometry:
            raise UserError(
                f"{block.source.path}: model {entry.model_id} is another shape here than elsewhere: rename one of them"
            )


def _group(header: ShardHeader) -> tuple:
    # One shard holds models of one header only: its attributes stand for all of them.
    return header.settings, header.keypoint_names, header.depth_offset, header.depth_scale


def _pack(blocks: Iterable[_Block], pairs_per_shard: int) -> Iterator[list[_Block]]:
    for _, group in groupby(blocks, key=lambda block: _group(block.source.header)):
        members, pairs = [], 0
        for block in group:
            members.append(block)
            pairs += len(block.rows)
            if pairs >= pairs_per_shard:
                yield members
                members, pairs = [], 0
        if members:
            yield members


def _write(path: Path, members: list[_Block], progress: Progress, codec: str, check_interrupt: Callable) -> ShardEntry:
    with ShardWriter(path, members[0].source.header, codec) as writer:
        for source, blocks in groupby(members, key=lambda block: block.source):
            with source as reader:
                for block in blocks:
                    check_interrupt()
                    writer.append_from(reader, block.slot, block.rows)
                    progress(len(block.rows))
    return ShardEntry(
        path.name, writer.header.split, writer.num_pairs, writer.num_models, path.stat().st_size, file_sha256(path)
    )


@contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C and SIGTERM back; the function given raises KeyboardInterrupt.

    In the callbacks of h5py Python would swallow it now and then.
    """
    requested = []

    def check() -> None:
        if requested:
            raise KeyboardInterrupt

    with handled_by(lambda *_: requested.append(True), *STOPS):
        yield check
    check()


def _remove_remains(out: Path, keep: set[str]) -> None:
    for path in out.iterdir():
        name = path.name.removesuffix(TEMPORARY_SUFFIX)
        if (SHARD_NAME.fullmatch(name) or path.name == MANIFEST_NAME + TEMPORARY_SUFFIX) and path.name not in keep:
            path.unlink()
