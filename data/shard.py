"""Reading and writing one shard: an HDF5 file of whole models and their view pairs (FORMAT.md).

The bytes of a shard depend only on its content: no time stamps, a fixed order of creation, a pinned file format.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import deflate
import h5py
import numpy as np

from data.atomic import DeferredErrorFile, errors_named, publish, temporary_path
from data.errors import UserError
from data.schema import FIELDS, FORMAT, FORMAT_VERSION, SPLITS, ModelPairs, relative_motion

# HDF5 1.10's format (2016): the oldest whose headers and chunk indices carry checksums.
_LIBVER = ("v110", "v110")
CODECS = ("gzip", "zstd")
_POSE_FIELDS = ("object_to_camera", "intrinsics", "R", "t")


@dataclass(frozen=True)
class ShardHeader:
    """What all models of a shard share.

    Attributes:
        split: one of ``SPLITS``. settings: JSON text of every option that shaped the data.
        keypoint_names: names of the semantic keypoints, empty when the source knows none.
        depth_offset, depth_scale: z-depth = offset + value * scale, object units.
    """

    split: str
    settings: str
    keypoint_names: tuple[str, ...]
    depth_offset: float
    depth_scale: float

    @property
    def deforms(self) -> bool:
        """Whether each pair shows its model in a shape of its own."""
        variety = json.loads(self.settings).get("variety") or {}
        return bool(variety.get("stretch") or variety.get("warp"))


@dataclass(frozen=True)
class ModelEntry:
    """One model of a shard or of the manifest. ``geometry`` is a SHA-256 in hex, or empty."""

    model_id: str
    split: str
    source: str
    faces: int
    geometry: str = ""

    def leaks(self, other: ModelEntry) -> bool:
        """Whether this and the entry of that id elsewhere would show one model in two splits."""
        other_shape = self.geometry and other.geometry and self.geometry != other.geometry
        return self.split != other.split and not other_shape


def write_shard(
    path: Path,
    split: str,
    models: Iterable[ModelPairs],
    settings: dict,
    keypoint_names: Sequence[str] = (),
    depth_offset: float = 0.0,
    depth_scale: float = 1.0,
    final: bool = True,
) -> None:
    """Write models to a shard, one at a time; ``path`` appears only when it is complete.

    Args:
        models: at least one; their ``semantic_keypoints`` rows follow ``keypoint_names``.
        settings: every option that shaped the data (JSON types).
        depth_offset, depth_scale: z-depth = offset + value * scale, object units.
        final: see :class:`ShardWriter`.

    Raises:
        ValueError: a model belongs to another split, has no pairs, or arrays of wrong shape or type.
        OSError: the disk is full or not writable; no file is left behind.
    """
    header = ShardHeader(split, canonical_json(settings), tuple(keypoint_names), depth_offset, depth_scale)
    with ShardWriter(path, header, final=final) as writer:
        for model in models:
            writer.append(model)


def read_models(path: Path) -> Iterator[ModelPairs]:
    """The models of a shard, one at a time, in the order they were written.

    Raises:
        UserError: the file is missing, damaged, or not a shard.
    """
    with ShardReader(path) as reader:
        for slot in range(len(reader.models)):
            yield reader.read_model(slot)


def canonical_json(value: object) -> str:
    """JSON text that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


class ShardWriter:
    """Context manager that collects models into a new shard and publishes it on a clean exit.

    Args:
        codec: "gzip", which every HDF5 reads, or "zstd", a little smaller, which needs hdf5plugin wherever it is read.
        final: without it, a shard to be copied from soon: not forced to the disk, and no descriptions in it, which
            saves a quarter of the time where a model has few pairs.
    """

    def __init__(self, path: Path, header: ShardHeader, codec: str = "gzip", final: bool = True):
        if header.split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {header.split!r}")
        self._path = Path(path)
        self._final = final
        self._compression = _compression(codec)
        self.header = header
        self._models: list[ModelEntry] = []
        self._keypoints: list[np.ndarray] = []
        self._poses: dict[str, list[np.ndarray]] = {name: [] for name in _POSE_FIELDS}
        self._model_index: list[np.ndarray] = []
        self._images: tuple[h5py.Dataset, h5py.Dataset] | None = None  # of colour and depth
        self._pairs = 0

    def __enter__(self) -> ShardWriter:
        self._raw = DeferredErrorFile(temporary_path(self._path), "w+b")
        # Without a cache chunks reach the file in the order of writing, whether compressed here or before.
        self._file = h5py.File(self._raw, "w", libver=_LIBVER, rdcc_nbytes=0)
        self._file.attrs["format"] = FORMAT
        self._file.attrs["format_version"] = np.int64(FORMAT_VERSION)
        self._file.attrs["split"] = self.header.split
        self._file.attrs["settings"] = self.header.settings
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            with errors_named(self._path):
                try:
                    if kind is None:
                        self._write_tables()
                finally:
                    self._file.close()
                    self._raw.close()
                if self._raw.error is not None:
                    raise self._raw.error
                if kind is None:
                    publish(self._path, durable=self._final)
        finally:
            temporary_path(self._path).unlink(missing_ok=True)

    def append(self, model: ModelPairs) -> None:
        """Add a model and its pairs."""
        _check_model(model, self.header)
        rgba, depth = self._grow_images(len(model.rgba), model.rgba.shape[2:4])
        for row in range(len(model.rgba)):  # pair by pair: colour and depth of a pair lie side by side in the file
            rgba[self._pairs + row] = model.rgba[row]
            depth[self._pairs + row] = model.depth[row]
        entry = ModelEntry(model.model_id, model.split, model.source, model.faces, model.geometry)
        rotation, translation = relative_motion(np.asarray(model.object_to_camera, np.float64))
        poses = (model.object_to_camera, model.intrinsics, rotation, translation)
        self._append_tables(entry, dict(zip(_POSE_FIELDS, poses, strict=True)), model.semantic_keypoints)

    def append_from(self, reader: ShardReader, slot: int, rows: np.ndarray) -> None:
        """Add rows of one model of another shard, copying images as compressed where the encoding is the same."""
        rgba, depth = self._grow_images(len(rows), reader.image_size)
        copies = []
        for name, target in (("rgba", rgba), ("depth", depth)):
            source = reader.dataset(name)
            copies.append((name, source, target, _same_encoding(source, target), (0,) * (source.ndim - 1)))
        for position, row in enumerate(rows, start=self._pairs):
            for name, source, target, same, corner in copies:
                if same:
                    mask, chunk = reader.read_chunk(source, (int(row), *corner))
                    target.id.write_direct_chunk((position, *corner), chunk, mask)
                else:
                    target[position] = reader.read(name, row)
        poses = {name: reader.read(name, rows) for name in _POSE_FIELDS}
        self._append_tables(reader.models[slot], poses, reader.semantic_keypoints(slot))

    @property
    def num_pairs(self) -> int:
        return self._pairs

    @property
    def num_models(self) -> int:
        return len(self._models)

    def _grow_images(self, count: int, image_size: tuple[int, int]) -> tuple[h5py.Dataset, h5py.Dataset]:
        if self._raw.error is not None:
            raise self._raw.error
        if self._images is None:
            height, width = image_size
            rgba = self._create_images("rgba", (2, height, width, 4))
            depth = self._create_images("depth", (2, height, width), shuffle=True)
            depth.attrs["depth_offset"] = np.float64(self.header.depth_offset)
            depth.attrs["depth_scale"] = np.float64(self.header.depth_scale)
            self._images = rgba, depth
        rgba, depth = self._images
        if rgba.shape[2:4] != tuple(image_size):
            raise ValueError(f"images of {rgba.shape[2:4]} and {tuple(image_size)} pixels do not fit in one shard")
        rgba.resize(self._pairs + count, axis=0)
        depth.resize(self._pairs + count, axis=0)
        return rgba, depth

    def _create_images(self, name: str, shape: tuple[int, ...], shuffle: bool = False) -> h5py.Dataset:
        dataset = self._file.create_dataset(
            name, (0, *shape), FIELDS[name].dtype, chunks=(1, *shape), maxshape=(None, *shape),
            **self._compression, shuffle=shuffle, fletcher32=True, track_times=False,
        )  # fmt: skip
        self._describe(dataset, name)
        return dataset

    def _append_tables(self, entry: ModelEntry, poses: dict[str, np.ndarray], keypoints: np.ndarray | None) -> None:
        count = len(poses["t"])
        for name, rows in poses.items():
            self._poses[name].append(np.asarray(rows, np.float64))
        self._model_index.append(np.full(count, len(self._models), np.int32))
        self._models.append(entry)
        if keypoints is None:
            keypoints = np.full((len(self.header.keypoint_names), 3), np.nan)
        self._keypoints.append(np.asarray(keypoints, np.float32))
        self._pairs += count

    def _write_tables(self) -> None:
        if not self._models:
            raise ValueError("a shard needs at least one model")
        for name in _POSE_FIELDS:
            self._write_table(name, np.concatenate(self._poses[name]))
        self._write_table("model_index", np.concatenate(self._model_index))
        self._write_table("model_id", _strings([m.model_id for m in self._models]))
        if self.header.keypoint_names:
            points = self._write_table("semantic_keypoints", np.stack(self._keypoints))
            points.attrs["names"] = list(self.header.keypoint_names)
            points.attrs["names_utf8"] = _strings(self.header.keypoint_names)  # a checksum covers these
        self._write_table("model_source", _strings([m.source for m in self._models]))
        self._write_table("model_faces", np.array([m.faces for m in self._models], np.int64))
        self._write_table("model_geometry", _strings([m.geometry for m in self._models]))

    def _write_table(self, name: str, values: np.ndarray) -> h5py.Dataset:
        # One chunk: only chunked data can carry a checksum.
        dataset = self._file.create_dataset(
            name, data=values, chunks=values.shape, fletcher32=True, track_times=False
        )  # fmt: skip
        self._describe(dataset, name)
        return dataset

    def _describe(self, dataset: h5py.Dataset, name: str) -> None:
        if not self._final:
            return
        dataset.attrs["description"] = FIELDS[name].description
        if FIELDS[name].units is not None:
            dataset.attrs["units"] = FIELDS[name].units


class ShardReader:
    """An open shard. Every failure of HDF5 becomes a :class:`UserError` that names the file.

    As a context manager it opens a shard that was closed again, for images; what it read at first it still knows.

    Attributes:
        header: what all its models share. models: its models in order.
        num_pairs: P. image_size: (H, W).
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self._open()
        try:
            self._read_header()
        except (KeyError, OSError, RuntimeError, ValueError, TypeError, AttributeError, MemoryError) as error:
            self.close()
            raise damaged(self.path, error) from None
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        try:
            # A chunk is read whole, once: caching it would only copy it.
            self._file = h5py.File(self.path, "r", rdcc_nbytes=0)
            self._datasets: dict[str, h5py.Dataset] = {}
        except FileNotFoundError:
            raise UserError(f"{self.path}: no such shard: restore it, or run the same `render` again") from None
        except OSError as error:
            raise damaged(self.path, error) from None

    def __enter__(self) -> ShardReader:
        if not self._file:
            self._open()
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._datasets.clear()  # HDF5 takes long to close a file whose datasets are open
        self._file.close()

    def dataset(self, name: str) -> h5py.Dataset:
        try:
            return self._dataset(name)
        except (KeyError, OSError, RuntimeError) as error:
            raise damaged(self.path, error) from None

    def _dataset(self, name: str) -> h5py.Dataset:
        # By h5py's lower level, and once: of a shard of few pairs, finding the datasets takes longest.
        if name not in self._datasets:
            self._datasets[name] = h5py.Dataset(h5py.h5d.open(self._file.id, name.encode()), readonly=True)
        return self._datasets[name]

    def read_chunk(self, dataset: h5py.Dataset, corner: tuple[int, ...]) -> tuple[int, bytes]:
        """A chunk as it is stored: which of the dataset's filters it went without, and its bytes, unchecked."""
        try:
            return dataset.id.read_direct_chunk(corner)
        except (OSError, RuntimeError, ValueError) as error:
            raise damaged(self.path, error) from None

    @property
    def codec(self) -> str:
        """That of the images, one of ``CODECS``."""
        return "gzip" if h5py.h5z.FILTER_DEFLATE in _filters(self.dataset("rgba")) else "zstd"

    def read(self, name: str, rows=()) -> np.ndarray:
        """Rows of a dataset (all by default); checksums are checked on the way."""
        try:
            return self._dataset(name)[rows]
        except (KeyError, OSError, RuntimeError) as error:
            raise damaged(self.path, error) from None

    def holds(self, name: str) -> bool:
        """Whether there is such a dataset."""
        # By its link: `name in file` and `file.get(name)` take a damaged object for an absent one.
        return self._file.id.links.exists(name.encode())

    def rows_of(self, slot: int) -> np.ndarray:
        """The pairs of a model, in order."""
        return np.flatnonzero(self._model_index == slot)

    def semantic_keypoints(self, slot: int) -> np.ndarray | None:
        """float32 (S, 3) of a model, or None where the source knows none."""
        return self.read("semantic_keypoints", slot) if self.header.keypoint_names else None

    def read_model(self, slot: int) -> ModelPairs:
        """All of one model."""
        rows, entry = self.rows_of(slot), self.models[slot]
        return ModelPairs(
            entry.model_id, entry.split, entry.source, entry.faces,
            self.read("rgba", rows), self.read("depth", rows), self.read("object_to_camera", rows),
            self.read("intrinsics", rows), self.semantic_keypoints(slot), entry.geometry,
        )  # fmt: skip

    def _read_header(self) -> None:
        attributes = self._file.attrs
        check_format(self.path, _text(attributes["format"]), int(attributes["format_version"]))
        depth = self._dataset("depth").attrs
        points = self._dataset("semantic_keypoints") if self.holds("semantic_keypoints") else None
        self.header = ShardHeader(
            _text(attributes["split"]),
            canonical_json(dict(json.loads(_text(attributes["settings"])))),
            _keypoint_names(points.attrs) if points is not None else (),
            float(depth["depth_offset"]),
            float(depth["depth_scale"]),
        )
        if self.header.split not in SPLITS:
            raise ValueError("unknown split")
        rgba = self._dataset("rgba")
        require_filters(rgba, self.path)
        self.num_pairs, _, height, width, _ = rgba.shape
        self.image_size = (height, width)
        self._model_index = self._dataset("model_index")[:]
        names = list(self._dataset("model_id").asstr()[:])
        sources = self._optional_strings("model_source", len(names))
        geometry = self._optional_strings("model_geometry", len(names))
        faces = self._dataset("model_faces")[:] if self.holds("model_faces") else np.zeros(len(names), np.int64)
        self.models = [
            ModelEntry(name, self.header.split, source, int(count), digest)
            for name, source, count, digest in zip(names, sources, faces, geometry, strict=True)
        ]
        for name in (*_POSE_FIELDS, "depth", "model_index"):
            if len(self._dataset(name)) != self.num_pairs:
                raise ValueError(f"{name} does not have a row for every pair")
        if self.num_pairs and not 0 <= self._model_index.min() <= self._model_index.max() < len(names):
            raise ValueError("model_index points outside model_id")

    def _optional_strings(self, name: str, count: int) -> list[str]:
        return list(self._dataset(name).asstr()[:]) if self.holds(name) else [""] * count


class ImageReader:
    """Rows of ``rgba`` or ``depth`` of an open shard.

    Where a pair is a chunk that gzip packed, it is unpacked by libdeflate, three times as fast as in HDF5. That checks
    the Adler-32 of the pixels themselves instead of the Fletcher-32 of the chunk.
    """

    def __init__(self, images: h5py.Dataset):
        self._images = images
        gzipped = _filters(images) == [h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32]
        self._direct = gzipped and images.chunks == (1, *images.shape[1:]) and images.dtype.isnative
        self._rest = (0,) * (images.ndim - 1)

    def read_into(self, target: np.ndarray, row: int) -> None:
        """Read a row into a contiguous array of its shape and type.

        Raises:
            OSError, RuntimeError, ValueError: the file is damaged.
        """
        if not self._direct:
            target[:] = self._images[row]
            return
        skipped, chunk = self._images.id.read_direct_chunk((row, *self._rest))
        if skipped:
            raise ValueError("a chunk is not compressed like the others")
        try:
            pixels = deflate.zlib_decompress(memoryview(chunk)[:-4], target.nbytes)
        except deflate.DeflateError as error:
            raise ValueError("a chunk is damaged") from error
        target.reshape(-1)[:] = np.frombuffer(pixels, target.dtype)

    def close(self) -> None:
        """Close the whole file."""
        self._images.file.close()


def check_format(path: Path, name: object, version: object) -> None:
    """Raise :class:`UserError` unless ``name`` and ``version`` are of a format that this program reads."""
    if name != FORMAT:
        raise UserError(f"{path}: not a {FORMAT} file: give the folder that `render` wrote")
    if not isinstance(version, int) or version < 1:
        raise UserError(f"{path}: format_version {version!r} makes no sense: the file is damaged")
    if version > FORMAT_VERSION:
        raise UserError(f"{path}: format_version {version}, this program reads up to {FORMAT_VERSION}: update it")


def require_filters(images: h5py.Dataset, path: Path) -> None:
    """Make the codec of a dataset available, or raise :class:`UserError`."""
    needed = _filters(images)
    if all(map(h5py.h5z.filter_avail, needed)):
        return
    with suppress(ImportError):
        import hdf5plugin  # noqa: F401  registers its codecs with HDF5

        if all(map(h5py.h5z.filter_avail, needed)):
            return
    raise UserError(f"{path}: compressed with a codec that is not installed: pip install hdf5plugin")


def _filters(dataset: h5py.Dataset) -> list[int]:
    """The numbers of a dataset's filters, in the order of writing."""
    plist = dataset.id.get_create_plist()
    return [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]


def _compression(codec: str) -> dict:
    """h5py's options for a codec."""
    if codec == "gzip":
        return {"compression": "gzip", "compression_opts": 1}
    if codec != "zstd":
        raise UserError(f"--codec {codec}: no such codec: choose one of {', '.join(CODECS)}")
    try:
        import hdf5plugin
    except ImportError:
        raise UserError("--codec zstd: hdf5plugin is not installed: pip install hdf5plugin, or use gzip") from None
    return dict(hdf5plugin.Zstd(clevel=3))


def damaged(path: Path, error: Exception | None = None) -> UserError:
    """What to say of a shard that cannot be read: that it is damaged, unless the system says otherwise."""
    if isinstance(error, OSError) and error.errno:
        reason = os.strerror(error.errno)  # the error's own text is HDF5's
        return UserError(f"{path}: cannot be read ({reason}): check its permissions, the disk, and `ulimit -n`")
    return UserError(f"{path}: damaged (checksum or structure is wrong): restore it, or delete it and render again")


def _check_model(model: ModelPairs, header: ShardHeader) -> None:
    pairs, height, width = len(model.rgba), *model.rgba.shape[2:4]
    expected = {
        "rgba": (pairs, 2, height, width, 4),
        "depth": (pairs, 2, height, width),
        "object_to_camera": (pairs, 2, 4, 4),
        "intrinsics": (pairs, 2, 3, 3),
    }
    for name, shape in expected.items():
        array = getattr(model, name)
        if array.shape != shape or array.dtype != FIELDS[name].dtype:
            raise ValueError(
                f"{model.model_id}: {name} must be {FIELDS[name].dtype} {shape}, got {array.dtype} {array.shape}"
            )
    if not pairs:
        raise ValueError(f"{model.model_id}: a model needs at least one pair")
    if model.split != header.split:
        raise ValueError(f"{model.model_id}: belongs to split {model.split}, not {header.split}")
    if model.semantic_keypoints is not None and model.semantic_keypoints.shape != (len(header.keypoint_names), 3):
        raise ValueError(f"{model.model_id}: semantic_keypoints must be ({len(header.keypoint_names)}, 3)")


def _same_encoding(source: h5py.Dataset, target: h5py.Dataset) -> bool:
    def encoding(dataset: h5py.Dataset) -> tuple:
        plist = dataset.id.get_create_plist()
        filters = [plist.get_filter(i)[:3] for i in range(plist.get_nfilters())]
        return dataset.chunks, dataset.dtype.str, filters

    return encoding(source) == encoding(target)


def _keypoint_names(attributes: h5py.AttributeManager) -> tuple[str, ...]:
    names = tuple(map(_text, attributes["names"]))
    if "names_utf8" in attributes and names != tuple(name.decode() for name in attributes["names_utf8"]):
        raise ValueError("the names of the keypoints are damaged")
    return names


def _text(value: str | bytes) -> str:
    """A string attribute: bytes where another program wrote it with a fixed length."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _strings(values: Sequence[str]) -> np.ndarray:
    # Fixed length: strings of variable length live in a heap that no checksum covers.
    encoded = [value.encode() for value in values]
    return np.array(encoded, h5py.string_dtype("utf-8", max(1, *map(len, encoded))))
