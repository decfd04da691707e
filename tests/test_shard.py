from __future__ import annotations

import errno
import json
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from data.errors import UserError
from data.schema import FIELDS
from data.shard import ModelEntry, ShardReader, read_models, write_shard
from tests.made_up_pairs import DEPTH_OFFSET, DEPTH_SCALE, KEYPOINTS, SETTINGS, make_model, write_part


@pytest.fixture
def models():
    return [make_model(number, pairs=2 + number, split="train") for number in range(3)]


@pytest.fixture
def shard(tmp_path, models):
    path = tmp_path / "train-00000.h5"
    write_shard(path, "train", iter(models), SETTINGS, KEYPOINTS, DEPTH_OFFSET, DEPTH_SCALE)
    return path


def test_models_come_back_as_written(shard, models):
    back = list(read_models(shard))
    assert [model.model_id for model in back] == [model.model_id for model in models]
    for got, expected in zip(back, models, strict=True):
        for name, value in vars(expected).items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(getattr(got, name), value)
                assert getattr(got, name).dtype == value.dtype
            else:
                assert getattr(got, name) == value


def test_strings_of_other_programs_may_be_of_fixed_length(shard, models):
    with h5py.File(shard, "r+") as file:
        for name in ("format", "split", "settings"):
            file.attrs[name] = np.bytes_(file.attrs[name])
        names = file["semantic_keypoints"].attrs
        names["names"] = np.array([name.encode() for name in names["names"]])
    with ShardReader(shard) as reader:
        assert reader.header.split == "train" and reader.header.keypoint_names == tuple(KEYPOINTS)
        assert json.loads(reader.header.settings) == SETTINGS


@pytest.mark.parametrize("geometry, leaks", [("aa", True), ("", True), ("bb", False)])
def test_one_model_in_two_splits(geometry, leaks):
    ours, theirs = ModelEntry("a", "train", "", 1, "aa"), ModelEntry("a", "test", "", 1, geometry)
    assert ours.leaks(theirs) == theirs.leaks(ours) == leaks and not ours.leaks(ours)


def test_layout_is_the_contract(shard):
    with h5py.File(shard) as file:
        assert file.attrs["format"] == "keypoint-pairs" and file.attrs["format_version"] == 1
        assert file.attrs["split"] == "train"
        assert file.attrs["settings"] == '{"image_size":16,"pairs_per_model":3,"seed":0}'
        pairs, models = 9, 3
        expected = {
            "rgba": ("uint8", (pairs, 2, 16, 16, 4)),
            "depth": ("uint16", (pairs, 2, 16, 16)),
            "object_to_camera": ("float64", (pairs, 2, 4, 4)),
            "intrinsics": ("float64", (pairs, 2, 3, 3)),
            "R": ("float64", (pairs, 3, 3)),
            "t": ("float64", (pairs, 3)),
            "model_index": ("int32", (pairs,)),
            "semantic_keypoints": ("float32", (models, len(KEYPOINTS), 3)),
        }
        for name, (dtype, shape) in expected.items():
            assert (file[name].dtype, file[name].shape) == (dtype, shape), name
        for name in file:
            assert file[name].attrs["description"] == FIELDS[name].description
            assert file[name].attrs.get("units") == FIELDS[name].units
        assert file["model_id"].asstr()[:].tolist() == ["model-000", "model-001", "model-002"]
        assert file["model_index"][:].tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2]
        assert file["semantic_keypoints"].attrs["names"].tolist() == list(KEYPOINTS)
        assert file["depth"].attrs["depth_offset"] == DEPTH_OFFSET
        assert file["depth"].attrs["depth_scale"] == DEPTH_SCALE
        assert file["rgba"].chunks == (1, 2, 16, 16, 4)


def test_no_semantic_keypoints_where_the_source_knows_none(tmp_path):
    write_shard(tmp_path / "a.h5", "train", [replace(make_model(0, split="train"), semantic_keypoints=None)], SETTINGS)
    with h5py.File(tmp_path / "a.h5") as file:
        assert "semantic_keypoints" not in file
    assert next(read_models(tmp_path / "a.h5")).semantic_keypoints is None


def test_bytes_depend_neither_on_path_nor_on_time(shard, tmp_path, models):
    time.sleep(1.1)  # HDF5's time stamps count seconds
    other = tmp_path / "elsewhere-with-a-longer-name.h5"
    write_shard(other, "train", models, dict(reversed(SETTINGS.items())), KEYPOINTS, DEPTH_OFFSET, DEPTH_SCALE)
    assert shard.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(split="val"), "split"),
        (dict(depth=np.zeros((3, 2, 16, 16), np.float32)), "depth"),
        (dict(rgba=np.zeros((3, 2, 8, 16, 4), np.uint8)), "depth"),
        (dict(intrinsics=np.zeros((2, 2, 3, 3))), "intrinsics"),
        (dict(semantic_keypoints=np.zeros((5, 3), np.float32)), "semantic_keypoints"),
    ],
)
def test_wrong_models_are_refused_and_leave_no_file(tmp_path, change, message):
    wrong = replace(make_model(1, split="train"), **change)
    with pytest.raises(ValueError, match=message):
        write_shard(tmp_path / "a.h5", "train", [make_model(0, split="train"), wrong], SETTINGS, KEYPOINTS)
    assert not list(tmp_path.iterdir())


def test_a_failing_source_of_models_leaves_no_file(tmp_path):
    def models():
        yield make_model(0, split="train")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "a.h5", "train", models(), SETTINGS, KEYPOINTS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("limit", [100, 3000, 20_000, 60_000])
def test_a_full_disk_is_an_oserror_and_leaves_no_file(tmp_path, limit):
    # A limit on the size of files stands in for the full disk: both fail in write().
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError) as caught:
            write_shard(tmp_path / "a.h5", "train", [make_model(0, 40, split="train")], SETTINGS, KEYPOINTS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG
    assert not list(tmp_path.iterdir())
    write_part(tmp_path, make_model(0))  # and there is no harm to later files


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b"\x89HDF\r\n\x1a\n", bytes(5000), b"\x89HDF\r\n\x1a\n" + bytes(5000)]
)
def test_garbage_is_a_clear_error(tmp_path, content):
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.h5: damaged"):
        list(read_models(tmp_path / "a.h5"))


def test_other_hdf5_files_newer_versions_and_missing_files_are_told_apart(shard, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(UserError, match="other.h5: "):
        list(read_models(tmp_path / "other.h5"))
    with h5py.File(shard, "a") as file:
        file.attrs["format_version"] = 2
    with pytest.raises(UserError, match="format_version 2.*update"):
        list(read_models(shard))
    with pytest.raises(UserError, match="no such shard"):
        list(read_models(tmp_path / "none.h5"))


def test_writing_shards_needs_no_torch():
    code = "import sys, data.assemble, data.shard, data.manifest; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0


def test_too_many_open_files_is_no_damage(shard):
    """A shard that cannot be opened is told from one that is damaged."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(UserError, match=r"train-00000\.h5: cannot be read \(Too many open files\)"):
            next(read_models(shard))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
