from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import signal
import struct
import tarfile
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tqdm import tqdm

from data.assemble import assemble
from data.errors import UserError
from data.interchange import FORMATS, export
from data.interchange.bop import MM_PER_UNIT
from data.interchange.common import encode_rgba
from data.interchange.tfrecord import encode_example
from data.manifest import load_manifest, save_manifest
from data.shard import read_models
from tests.made_up_pairs import (
    DEPTH_OFFSET,
    DEPTH_SCALE,
    SETTINGS,
    make_dataset,
    make_manifest,
    make_model,
    write_part,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "set", range(10), pairs=2)


def _models(dataset):
    """Models in the manifest's order."""
    models = [model for entry in load_manifest(dataset).shards for model in read_models(dataset / entry.file)]
    return sorted(models, key=lambda model: model.model_id)


def _files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _premultiply(straight):
    return np.concatenate(
        [(straight[..., :3] * (straight[..., 3:] / 255)).round().astype(np.uint8), straight[..., 3:]], -1
    )


def _decode(content):
    return np.array(Image.open(io.BytesIO(content)))


def test_straight_alpha_gives_every_premultiplied_colour_back():
    alpha, color = np.meshgrid(np.arange(256), np.arange(256))
    rgba = np.stack([np.minimum(color, alpha)] * 3 + [alpha], -1).astype(np.uint8)
    np.testing.assert_array_equal(_premultiply(_decode(encode_rgba(rgba)).astype(float)), rgba)


def test_a_view_over_a_background_keeps_its_colours():
    rgba = np.random.default_rng(0).integers(0, 256, (8, 8, 4), np.uint8)
    rgba[0, 0] = 90, 80, 70, 0  # nothing covers it, and yet it has a colour
    np.testing.assert_array_equal(_decode(encode_rgba(rgba)), rgba)


def test_bop_refuses_deformed_models(tmp_path):
    bent = make_dataset(tmp_path / "bent", range(3), settings={**SETTINGS, "variety": {"warp": 0.5}})
    with pytest.raises(UserError, match="one rigid model"):
        export(bent, tmp_path / "out", "bop")
    assert not (tmp_path / "out").exists()


# --- tfrecord --------------------------------------------------------------------------------------------------------


def _read_records(path):
    """By the tfrecord package: features of every record as numpy arrays."""
    loader = pytest.importorskip("tfrecord.reader")
    kinds = {f"img{v}": "byte" for v in range(2)} | {f"{m}{v}": "float" for m in ("mv", "mvi") for v in range(2)}
    return list(loader.tfrecord_loader(str(path), None, kinds))


def test_tfrecord_holds_what_the_official_code_reads(dataset, tmp_path):
    out = tmp_path / "out"
    export(dataset, out, "tfrecord")
    projection = np.array([[float(x) for x in line.split(" ")] for line in open(out / "projection.txt")])
    assert projection.shape == (4, 4)
    stems = dict(line.split() for line in open(out / "job.txt"))
    models = _models(dataset)
    for stem, model in zip(sorted(stems), models, strict=True):
        assert stems[stem] == model.model_id
        records = _read_records(out / f"{stem}.tfrecord")
        assert len(records) == len(model.rgba)
        for record, rgba, poses in zip(records, model.rgba, model.object_to_camera, strict=True):
            for view in range(2):
                np.testing.assert_array_equal(
                    _premultiply(_decode(bytes(record[f"img{view}"])).astype(float)), rgba[view]
                )
                modelview, inverse = (record[f"{name}{view}"].reshape(4, 4) for name in ("mv", "mvi"))
                assert modelview.dtype == np.float32
                np.testing.assert_allclose(modelview @ inverse, np.eye(4), atol=1e-4)
                # The official projection of a point and our own land on the same pixel.
                point = np.array([0.3, -0.5, 0.2, 1.0])
                x, y, z, _ = modelview @ point
                assert z < 0
                u, v = -projection[0, 0] * x / z, -projection[1, 1] * y / z
                camera = (poses[view] @ point)[:3]
                ours = model.intrinsics[0, 0] @ camera / camera[2]
                np.testing.assert_allclose([(u + 1) * 8, (1 - v) * 8], ours[:2], atol=1e-3)
    for split, name in (("train", "train.txt"), ("val", "dev.txt"), ("test", "test.txt")):
        listed = [stems[line.strip()] for line in open(out / name)]
        assert listed == [model.model_id for model in models if model.split == split]


def test_tfrecord_frames_carry_right_checksums(dataset, tmp_path):
    crc32c = pytest.importorskip("crc32c").crc32c
    export(dataset, tmp_path / "out", "tfrecord")

    def masked(content):
        crc = crc32c(content)
        return (crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8 & 0xFFFFFFFF

    content = next((tmp_path / "out").glob("*.tfrecord")).read_bytes()
    records = 0
    while content:
        length, length_crc = struct.unpack("<QI", content[:12])
        assert masked(content[:8]) == length_crc
        assert masked(content[12 : 12 + length]) == struct.unpack("<I", content[12 + length : 16 + length])[0]
        content = content[16 + length :]
        records += 1
    assert records == 2


def test_examples_parse_as_protobuf():
    example_pb2 = pytest.importorskip("tfrecord.example_pb2")
    values = np.arange(200) / 7
    example = example_pb2.Example.FromString(encode_example({"b": b"x" * 300, "a": values}))
    assert example.features.feature["b"].bytes_list.value[0] == b"x" * 300
    np.testing.assert_array_equal(example.features.feature["a"].float_list.value, values.astype(np.float32))


def test_tfrecord_refuses_cameras_that_differ(tmp_path):
    model = make_model(0)
    model.intrinsics[1, 0, 0, 0] *= 1.1
    assemble(tmp_path / "set", [write_part(tmp_path / "parts", model)], make_manifest())
    with pytest.raises(UserError, match="one projection"):
        export(tmp_path / "set", tmp_path / "out", "tfrecord")
    assert not (tmp_path / "out").exists(), "another format could not go there"
    export(tmp_path / "set", tmp_path / "bop", "bop")
    model.intrinsics[:] = make_model(0).intrinsics
    model.intrinsics[..., 0, 2] += 1
    assemble(tmp_path / "aside", [write_part(tmp_path / "parts", model)], make_manifest())
    with pytest.raises(UserError, match="not centred in the image"):
        export(tmp_path / "aside", tmp_path / "out", "tfrecord")


def test_tfrecord_tells_of_sizes_that_the_official_code_does_not_read(dataset, tmp_path, capsys):
    export(dataset, tmp_path / "out", "tfrecord")
    size = next(read_models(next(dataset.glob("*.h5")))).rgba.shape[2:4]
    assert f"{dataset}: {size[1]} x {size[0]} pixels; the official code reads 128" in capsys.readouterr().err


# --- webdataset ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["tfrecord", "bop"])
def test_a_model_that_the_manifest_does_not_list_is_damage(tmp_path, to):
    dataset = make_dataset(tmp_path / "set", range(4))
    manifest = load_manifest(dataset)
    save_manifest(dataset, replace(manifest, models=manifest.models[1:]))
    with pytest.raises(UserError, match="damaged"):
        export(dataset, tmp_path / "out", to)


def test_webdataset_reads_every_pair(dataset, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    out = tmp_path / "out"
    export(dataset, out, "webdataset")
    tars = sorted(str(path) for path in out.glob("*.tar"))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    expected = {(m.model_id, i): (m, i) for m in _models(dataset) for i in range(len(m.rgba))}
    assert len({sample["__key__"] for sample in samples}) == len(samples) == len(expected)
    seen = dict.fromkeys((model.model_id for model in _models(dataset)), 0)
    for sample in samples:
        record = json.loads(sample["json"])
        model, row = expected[record["model_id"], seen[record["model_id"]]]
        seen[record["model_id"]] += 1
        assert sample["__key__"].startswith(model.split) and record["split"] == model.split
        for view in range(2):
            straight = _decode(sample[f"view{view}.png"]).astype(float)
            np.testing.assert_array_equal(_premultiply(straight), model.rgba[row, view])
            np.testing.assert_array_equal(_decode(sample[f"depth{view}.png"]), model.depth[row, view])
        np.testing.assert_array_equal(record["object_to_camera"], model.object_to_camera[row])
        np.testing.assert_array_equal(record["intrinsics"], model.intrinsics[row])
        assert (record["depth_offset"], record["depth_scale"]) == (DEPTH_OFFSET, DEPTH_SCALE)
        moved = np.array(record["R"]) @ model.object_to_camera[row, 0, :3, 3] + record["t"]
        np.testing.assert_allclose(moved, model.object_to_camera[row, 1, :3, 3], atol=1e-9)


# --- bop -------------------------------------------------------------------------------------------------------------


def _load_scene(folder, name):
    """As bop_toolkit_lib.inout does: keys to integers, matrices from flat lists."""
    shapes = {"cam_K": (3, 3), "cam_R_m2c": (3, 3), "cam_t_m2c": (3, 1)}

    def convert(entry):
        return {key: np.reshape(value, shapes[key]) if key in shapes else value for key, value in entry.items()}

    content = json.loads((folder / name).read_text())
    return {
        int(key): [convert(item) for item in value] if isinstance(value, list) else convert(value)
        for key, value in content.items()
    }


def test_bop_follows_the_documented_rules(dataset, tmp_path):
    out = tmp_path / "out"
    export(dataset, out, "bop")
    objects = json.loads((out / "objects.json").read_text())
    for number, model in enumerate(_models(dataset), start=1):
        assert objects[str(number)]["model_id"] == model.model_id
        scene = out / model.split / f"{number:06d}"
        cameras, poses, infos = (_load_scene(scene, f"scene_{name}.json") for name in ("camera", "gt", "gt_info"))
        assert list(cameras) == list(poses) == list(infos) == list(range(2 * len(model.rgba)))
        for image, camera in cameras.items():
            row, view = divmod(image, 2)
            (pose,) = poses[image]
            assert pose["obj_id"] == number
            rgb = np.array(Image.open(scene / "rgb" / f"{image:06d}.png"))
            np.testing.assert_array_equal(rgb, model.rgba[row, view, ..., :3])
            # Depth, in millimetres after depth_scale, is as fine as half a step of 16 bits allows.
            picture = np.array(Image.open(scene / "depth" / f"{image:06d}.png"))
            assert picture.dtype == np.uint16
            coded = model.depth[row, view]
            expected = np.where(coded > 0, (DEPTH_OFFSET + coded * DEPTH_SCALE) * MM_PER_UNIT, 0)
            assert np.abs(picture * camera["depth_scale"] - expected).max() <= camera["depth_scale"] / 2 + 1e-6
            mask = np.array(Image.open(scene / "mask_visib" / f"{image:06d}_000000.png"))
            np.testing.assert_array_equal(mask, (coded > 0) * np.uint8(255))
            assert infos[image][0]["px_count_visib"] == (coded > 0).sum()
            # K [R | t] maps an object point, in millimetres, to the index of the pixel that it falls on.
            point = np.array([0.3, -0.5, 0.2])
            projected = camera["cam_K"] @ (pose["cam_R_m2c"] @ point[:, None] * MM_PER_UNIT + pose["cam_t_m2c"])
            ours = model.intrinsics[row, view] @ (model.object_to_camera[row, view] @ [*point, 1])[:3]
            np.testing.assert_allclose(projected[:2, 0] / projected[2] + 0.5, ours[:2] / ours[2])


# --- every format ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", FORMATS)
def test_bytes_depend_on_the_dataset_alone(dataset, tmp_path, to):
    export(dataset, tmp_path / "a", to)
    time.sleep(1.1)
    export(dataset, tmp_path / "elsewhere" / "b", to)
    files = _files(tmp_path / "a")
    assert files == _files(tmp_path / "elsewhere" / "b")
    export(dataset, tmp_path / "a", to)  # done already: nothing to do
    assert _files(tmp_path / "a") == files
    assert not [name for name in files if name.endswith(".tmp")]


@pytest.mark.parametrize("to", FORMATS)
def test_killed_again_and_again_it_ends_with_the_same_bytes(dataset, tmp_path, to):
    start = time.perf_counter()
    export(dataset, tmp_path / "undisturbed", to)
    duration = time.perf_counter() - start
    fork = multiprocessing.get_context("fork")
    killed = 0
    for attempt in range(6):
        process = fork.Process(target=_export_alone, args=(dataset, tmp_path / "out", to))
        process.start()
        time.sleep(random.Random(attempt).uniform(0, duration / 2) / (attempt + 1))  # ever less is left to do
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    assert killed >= 2
    export(dataset, tmp_path / "out", to)
    assert _files(tmp_path / "out") == _files(tmp_path / "undisturbed")


def _export_alone(*arguments):
    tqdm.set_lock(threading.RLock())  # one that is killed must not hold the lock that it shares with the tests
    export(*arguments)


def _frames(path):
    """The number of records of a TFRecord file."""
    content, count = path.read_bytes(), 0
    while content:
        content = content[16 + struct.unpack("<Q", content[:8])[0] :]
        count += 1
    return count


def _members(path):
    with tarfile.open(path) as tar:
        return len(tar.getnames())


@pytest.mark.parametrize("to", FORMATS)
def test_models_in_several_shards_are_joined(tmp_path, to):
    first = assemble(tmp_path / "set", [write_part(tmp_path / "a", make_model(0))], make_manifest())
    other = {**SETTINGS, "seed": 5}
    more = replace(make_model(0, pairs=2, seed=7))
    assemble(tmp_path / "set", [write_part(tmp_path / "b", more, other)], first)
    export(tmp_path / "set", tmp_path / "out", to)
    names = list(_files(tmp_path / "out"))
    if to == "tfrecord":
        assert _frames(tmp_path / "out" / "000000.tfrecord") == 3 + 2
    elif to == "webdataset":
        assert sum(_members(path) for path in (tmp_path / "out").glob("*.tar")) == 5 * (3 + 2)
    else:
        assert sum("/rgb/" in name for name in names) == 2 * (3 + 2)


def test_two_exports_into_one_folder(dataset, tmp_path, monkeypatch):
    def again(*_):
        export(dataset, tmp_path / "out", "bop")

    monkeypatch.setattr("data.interchange.bop.locate_models", again)
    with pytest.raises(UserError, match="another export is writing to it"):
        export(dataset, tmp_path / "out", "bop")


def test_full_disk_is_named(dataset, tmp_path, monkeypatch):
    def full(self, content):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_bytes", full)
        with pytest.raises(UserError, match="out: the disk is full: mend that, then run the same command again"):
            export(dataset, tmp_path / "out", "bop")
    export(dataset, tmp_path / "out", "bop")
    assert (tmp_path / "out" / "export.json").exists()


def test_other_folders_are_left_alone(dataset, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file: choose a folder"):
        export(dataset, tmp_path / "file", "bop")
    for out in (tmp_path, dataset):
        with pytest.raises(UserError, match="choose a new folder"):
            export(dataset, out, "bop")
    export(dataset, tmp_path / "out", "bop")
    with pytest.raises(UserError, match="choose a new folder"):
        export(dataset, tmp_path / "out", "tfrecord")
    with pytest.raises(UserError, match="no such format"):
        export(dataset, tmp_path / "x", "coco")
