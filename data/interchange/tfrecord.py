"""The records that the official TF1 code reads (tensorflow/models, research/keypointnet)."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
from tensorboard.summary.writer.record_writer import RecordWriter

from data.atomic import replacing, write_bytes
from data.errors import UserError
from data.interchange.common import encode_rgba, export_folder, locate_models, read_parts
from data.manifest import load_manifest
from data.shard import ShardReader

_LISTS = {"train": "train.txt", "val": "dev.txt", "test": "test.txt"}
_OFFICIAL_SIZE = (128, 128)
_NEAR, _FAR = 0.1, 100.0  # of the projection matrix; the official code uses neither
_OPENCV_TO_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def export_tfrecord(dataset: Path, out: Path) -> None:
    """One ``NNNNNN.tfrecord`` per model, ``projection.txt``, and the lists of splits and model ids.

    Raises:
        UserError: the pairs do not share one centred K, for which the format has no place.
    """
    projection = _projection(dataset)  # or a refusal, before there is a folder
    with export_folder(dataset, out, "tfrecord") as work:
        if work is None:
            return
        manifest, bar = work
        places = locate_models(dataset, manifest)
        names = {model_id: f"{number:06d}" for number, model_id in enumerate(places)}
        for model_id, name in names.items():
            if not (out / f"{name}.tfrecord").exists():
                _write_records(out / f"{name}.tfrecord", places[model_id])
            bar.update()
        for split, file in _LISTS.items():
            stems = [names[model.model_id] for model in manifest.models if model.split == split]
            write_bytes(out / file, "".join(f"{stem}\n" for stem in stems).encode())
        write_bytes(out / "job.txt", "".join(f"{stem} {model_id}\n" for model_id, stem in names.items()).encode())
        if projection is not None:
            lines = (" ".join(f"{value:.9g}" for value in row) + "\n" for row in projection)
            write_bytes(out / "projection.txt", "".join(lines).encode())


def _write_records(path: Path, places: list[tuple[Path, int]]) -> None:
    with replacing(path) as temporary, open(temporary, "wb") as file:
        writer = RecordWriter(file)
        for _, model in read_parts(places):
            for rgba, poses in zip(model.rgba, model.object_to_camera, strict=True):
                writer.write(encode_example(_features(rgba, poses)))
        writer.flush()


def _features(rgba: np.ndarray, object_to_camera: np.ndarray) -> dict[str, bytes | np.ndarray]:
    features: dict[str, bytes | np.ndarray] = {}
    for view in range(2):
        modelview = _OPENCV_TO_OPENGL @ object_to_camera[view]
        features[f"img{view}"] = encode_rgba(rgba[view])
        features[f"mv{view}"] = modelview.ravel()
        features[f"mvi{view}"] = np.linalg.inv(modelview).ravel()
    return features


def _projection(dataset: Path) -> np.ndarray | None:
    """The OpenGL projection matrix (4, 4) of all views; None where there are none."""
    matrices = []
    for entry in load_manifest(dataset).shards:
        with ShardReader(dataset / entry.file) as reader:
            height, width = reader.image_size
            matrices.append(reader.read("intrinsics").reshape(-1, 3, 3))
    if not matrices:
        return None
    k = np.concatenate(matrices)
    projection = np.zeros((4, 4))
    projection[0, 0], projection[1, 1] = 2 * k[0, 0, 0] / width, 2 * k[0, 1, 1] / height
    projection[2, 2:] = -(_FAR + _NEAR) / (_FAR - _NEAR), -2 * _FAR * _NEAR / (_FAR - _NEAR)
    projection[3, 2] = -1
    if not np.allclose(k, k[0]):
        raise UserError(
            f"{dataset}: its cameras differ in field of view or centre, and tfrecord has one projection for all: "
            "render with a fixed field of view, or export to webdataset or bop"
        )
    if not np.allclose(k[0, :2, 2], (width / 2, height / 2)) or not np.isclose(k[0, 0, 1], 0):
        raise UserError(
            f"{dataset}: its cameras are skewed or not centred in the image, for which tfrecord has no place: export "
            "to webdataset or bop"
        )
    if (height, width) != _OFFICIAL_SIZE:
        print(f"{dataset}: {width} x {height} pixels; the official code reads 128 x 128 alone", file=sys.stderr)
    return projection


def encode_example(features: dict[str, bytes | np.ndarray]) -> bytes:
    """A serialised ``tf.train.Example``: bytes become a BytesList, arrays a FloatList (float32).

    Written out by hand, because the order of a map's entries, and so the bytes, is left open by protobuf libraries.
    """
    entries = b""
    for name in sorted(features):
        value = features[name]
        if isinstance(value, bytes):
            feature = _field(1, _field(1, value))
        else:
            feature = _field(2, _field(1, struct.pack(f"<{value.size}f", *value)))
        entries += _field(1, _field(1, name.encode()) + _field(2, feature))
    return _field(1, entries)


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])
