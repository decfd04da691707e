from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from dataclasses import replace

import h5py
import pytest

from data.manifest import load_manifest, save_manifest
from data.verify import verify
from tests.made_up_pairs import folder_bytes, make_dataset


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "set", range(8), pairs=2)


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "set")


def test_a_sound_dataset_has_no_problems_and_is_left_alone(folder, original):
    assert verify(folder) == []
    assert folder_bytes(folder) == folder_bytes(original)


@pytest.mark.parametrize("name", ["dataset.json", "train-00000.h5", "val-00000.h5"])
def test_any_flipped_bit_is_caught_and_the_file_named(folder, name):
    path = folder / name
    content = path.read_bytes()
    rng = random.Random(name)
    positions = {0, 1, len(content) - 1, *rng.sample(range(len(content)), 25)}
    for position in positions:
        flipped = bytearray(content)
        flipped[position] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        problems = verify(folder)
        assert problems and str(path) in problems[0], position
    path.write_bytes(content)
    assert verify(folder) == []


@pytest.mark.parametrize("name", ["dataset.json", "train-00000.h5"])
def test_truncation_growth_garbage_and_absence_are_caught(folder, name):
    path = folder / name
    content = path.read_bytes()
    half = len(content) // 2
    random_bytes = random.Random(1).randbytes(len(content))
    for damaged in (b"", content[:1], content[:half], content[:-1], content + b"\0", bytes(len(content)), random_bytes):
        path.write_bytes(damaged)
        problems = verify(folder)
        assert problems and name in problems[0]
        assert all("\n" not in problem for problem in problems)
    path.unlink()
    assert name in verify(folder)[0]
    path.mkdir()
    assert name in verify(folder)[0]


def test_every_damaged_file_is_named_not_only_the_first(folder):
    for name in ("train-00000.h5", "test-00000.h5"):
        (folder / name).write_bytes(b"garbage")
    problems = "\n".join(verify(folder))
    assert "train-00000.h5: damaged" in problems and "test-00000.h5: damaged" in problems


def test_shards_exchanged_or_left_over_are_found(folder):
    train, test = folder / "train-00000.h5", folder / "test-00000.h5"
    shutil.copy(test, folder / "test-00001.h5")
    train.rename(folder / "x")
    test.rename(train)
    (folder / "x").rename(test)
    problems = "\n".join(verify(folder))
    for name in ("train-00000.h5: damaged", "test-00000.h5: damaged", "test-00001.h5: not part of the dataset"):
        assert name in problems


def test_manifests_of_other_programs_need_no_checksum(folder):
    path = folder / "dataset.json"
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b",\n")] + b"\n}\n")
    assert verify(folder) == []


def test_manifests_of_other_programs_need_no_lengths(folder):
    path = folder / "dataset.json"
    fields = json.loads(path.read_bytes())
    del fields["checksum"]
    for shard in fields["shards"]:
        del shard["bytes"]
    path.write_text(json.dumps(fields))
    assert verify(folder) == []
    (folder / "train-00000.h5").write_bytes(b"garbage")
    assert "not the one in dataset.json (7 bytes)" in verify(folder)[0]


def test_a_checksum_whose_name_is_damaged_is_missed(folder):
    path = folder / "dataset.json"
    path.write_bytes(path.read_bytes().replace(b'"checksum"', b'"checksul"'))
    assert "dataset.json: holds 'checksul'" in verify(folder)[0]


def test_content_is_compared_even_where_checksums_hold(folder):
    """A program that writes wrong shards with right checksums is found out too."""
    path = folder / "train-00000.h5"
    with h5py.File(path, "a") as file:
        file["t"][0, 0] += 0.5
        file["model_id"][0] = b"model-xxx"
    manifest = load_manifest(folder)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.shards[0] = replace(manifest.shards[0], sha256=digest, bytes=path.stat().st_size)
    save_manifest(folder, manifest)
    problems = "\n".join(verify(folder))
    assert "R and t do not follow" in problems and "model-xxx is not in dataset.json" in problems


def test_garbage_with_a_right_checksum_does_not_crash(folder):
    path = folder / "train-00000.h5"
    content = path.read_bytes()
    manifest = load_manifest(folder)
    rng = random.Random(2)
    for size in (0, 8, 600, len(content)):
        damaged = bytearray(content[:size])
        for _ in range(size // 20):
            damaged[rng.randrange(size)] = rng.randrange(256)
        path.write_bytes(damaged)
        manifest.shards[0] = replace(manifest.shards[0], sha256=hashlib.sha256(damaged).hexdigest(), bytes=size)
        save_manifest(folder, manifest)
        assert verify(folder) == [f"{path}: not a readable shard, though its SHA-256 is right"]


def test_folders_that_are_no_datasets(tmp_path):
    assert "no such folder" in verify(tmp_path / "none")[0]
    assert "not a dataset" in verify(tmp_path)[0]


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("rgba", lambda values: values.astype("float32") / 255, "rgba is float32, not uint8"),
        ("R", lambda values: values.reshape(-1, 9), r"R has the shape \(\d+, 9\), not \(P, 3, 3\)"),
        ("depth", lambda values: values[:, :, 1:], r"depth has the shape \(\d+, 2, 15, 16\), not \(P, 2, H, W\)"),
    ],
)
def test_tables_that_are_not_of_the_format_are_found(folder, name, change, problem):
    """As another program may write them, with a right SHA-256."""
    path = folder / "train-00000.h5"
    with h5py.File(path, "r+") as file:
        values, attributes = change(file[name][:]), dict(file[name].attrs)
        del file[name]
        file[name] = values
        file[name].attrs.update(attributes)
    manifest = load_manifest(folder)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    shards = [replace(s, sha256=digest, bytes=-1) if s.file == path.name else s for s in manifest.shards]
    save_manifest(folder, replace(manifest, shards=shards))
    (found,) = verify(folder)
    assert re.fullmatch(re.escape(str(path)) + ": " + problem, found)
