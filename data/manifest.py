"""The manifest ``dataset.json``: what a dataset folder holds, with a checksum for every shard and for itself."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from data.atomic import write_bytes
from data.errors import UserError
from data.schema import FORMAT, FORMAT_VERSION, SPLITS
from data.shard import ModelEntry, check_format

MANIFEST_NAME = "dataset.json"
MERGING = ".merging"  # is in a folder that `merge` has not finished
PARTS = ".parts"  # the same of `render`
SHARD_NAME = re.compile(r"(train|val|test)-\d{5,}\.h5")
_CHECKSUM = re.compile(rb'\n "checksum": "([0-9a-f]{64})"\n}\n\Z')


@dataclass(frozen=True)
class ShardEntry:
    """One shard of a dataset. ``pairs`` and ``models`` are counts, ``bytes`` the file's size."""

    file: str
    split: str
    pairs: int
    models: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Failure:
    """A mesh that was left out, and why."""

    source: str
    reason: str


@dataclass
class Manifest:
    """What ``dataset.json`` says.

    Attributes:
        category: what the models are. seed: the seed that views and splits came from.
        settings: every option that shaped the data.
        shards: in order of split, then number. models: in order of id. failures: meshes that were left out.
        tasks: (I, N) of the tasks that made a part of a rendering; none if it is whole.
    """

    category: str
    seed: int
    settings: dict
    shards: list[ShardEntry] = field(default_factory=list)
    models: list[ModelEntry] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    tasks: list[tuple[int, int]] = field(default_factory=list)

    @property
    def renderings(self) -> list[dict]:
        """Settings of what was rendered: of a merged dataset several."""
        return self.settings.get("merged", [self.settings])


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:05d}.h5"


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``dataset.json`` atomically."""
    write_bytes(Path(folder) / MANIFEST_NAME, _encode(manifest))


def load_manifest(folder: Path) -> Manifest:
    """Read ``dataset.json``.

    Raises:
        UserError: the folder is not a dataset, its rendering has not ended, its manifest is damaged, or its format
            is newer than this program.
    """
    path = Path(folder) / MANIFEST_NAME
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(_why_missing(Path(folder))) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): check its permissions") from None
    return decode_manifest(path, content)


def decode_manifest(path: Path, content: bytes) -> Manifest:
    """Parse and check the bytes of a manifest; ``path`` is for messages. See :func:`load_manifest`."""
    broken = UserError(f"{path}: damaged or edited by hand (checksum or structure is wrong): restore it")
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        raise broken from None
    if not isinstance(fields, dict):
        raise broken
    check_format(path, fields.get("format"), fields.get("format_version"))
    if "checksum" in fields and not checksum_holds(content):
        raise broken
    try:
        return _decode(fields)
    except KeyError as error:
        raise UserError(f"{path}: lacks {error}, which data/FORMAT.md asks for: add it, or restore the file") from None
    except (TypeError, ValueError, AttributeError):
        raise broken from None


def check_present(path: Path, entry: ShardEntry) -> None:
    """Refuse a shard that is missing, or that is not as long as its entry says, if it says.

    Raises:
        UserError: so it is.
    """
    try:
        size = path.stat().st_size
    except OSError:
        raise UserError(
            f"{path}: missing, though {MANIFEST_NAME} lists it: restore it, or run the same `render` again"
        ) from None
    if entry.bytes >= 0 and size != entry.bytes:
        raise UserError(
            f"{path}: damaged ({size} bytes instead of {entry.bytes}): restore it, or delete it and render again"
        )


def checksum_holds(content: bytes) -> bool:
    """Whether the manifest ends with the SHA-256 of itself (taken with the checksum's digits replaced by zeros)."""
    match = _CHECKSUM.search(content)
    return match is not None and match[1].decode() == _digest(content, match.start(1))


def unknown_fields(content: bytes) -> list[str]:
    """Names in a manifest that the format does not have."""
    known = {"format", "format_version", "checksum", *(field.name for field in fields(Manifest))}
    return sorted(json.loads(content).keys() - known)


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _digest(content: bytes, position: int) -> str:
    return hashlib.sha256(content[:position] + b"0" * 64 + content[position + 64 :]).hexdigest()


def _encode(manifest: Manifest) -> bytes:
    fields = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(manifest), "checksum": "0" * 64}
    if not manifest.tasks:
        del fields["tasks"]
    content = (json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    position = _CHECKSUM.search(content).start(1)
    return content[:position] + _digest(content, position).encode() + content[position + 64 :]


def _decode(fields: dict) -> Manifest:
    if not isinstance(fields["settings"], dict) or not isinstance(fields["category"], str):
        raise TypeError("settings must be an object and category a string")
    shards = [
        ShardEntry(s["file"], s["split"], int(s["pairs"]), int(s["models"]), int(s.get("bytes", -1)), s["sha256"])
        for s in fields["shards"]
    ]
    models = [
        ModelEntry(m["model_id"], m["split"], m["source"], int(m["faces"]), m.get("geometry", ""))
        for m in fields["models"]
    ]
    failures = [Failure(f["source"], f["reason"]) for f in fields["failures"]]
    if any(not isinstance(text, str) for f in failures for text in (f.source, f.reason)):
        raise TypeError("failures are texts")
    for entry in shards:
        if not SHARD_NAME.fullmatch(entry.file) or entry.split not in SPLITS:
            raise ValueError(f"{entry.file!r} is not the name of a shard")
        if not isinstance(entry.sha256, str) or entry.pairs < 0 or entry.models < 0:
            raise ValueError(f"{entry.file!r} needs a digest and counts")
    for entry in models:
        if not isinstance(entry.model_id, str) or not isinstance(entry.geometry, str) or entry.split not in SPLITS:
            raise ValueError("a model needs an id and a split")
    tasks = [(int(number), int(of)) for number, of in fields.get("tasks", [])]
    return Manifest(fields["category"], fields["seed"], fields["settings"], shards, models, failures, tasks)


def _why_missing(folder: Path) -> str:
    if not folder.exists():
        return f"{folder}: no such folder: give the folder that `render` wrote"
    if not folder.is_dir():
        return f"{folder}: not a folder: give the folder that `render` wrote"
    if (folder / PARTS).is_dir():
        return f"{folder}: rendering has not ended: run the same `render` command again to finish it"
    if (folder / MERGING).exists():
        return f"{folder}: merging has not ended: run the same `merge` command again to finish it"
    return f"{folder}: no {MANIFEST_NAME} in it, so not a dataset: give the folder that `render` wrote"
