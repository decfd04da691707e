from __future__ import annotations

import json
import random

import pytest

from data.errors import UserError
from data.manifest import MANIFEST_NAME, Failure, Manifest, ShardEntry, checksum_holds, load_manifest, save_manifest
from data.shard import ModelEntry


@pytest.fixture
def manifest():
    return Manifest(
        "chair",
        5,
        {"image_size": 64, "name": "Stühle"},
        [ShardEntry("train-00000.h5", "train", 32, 2, 1000, "a" * 64)],
        [ModelEntry("m-0", "train", "x/y.obj", 12), ModelEntry("m-1", "train", "z.obj", 7, "b" * 64)],
        [Failure("bad.obj", 'no "faces"')],
    )


def test_round_trip(tmp_path, manifest):
    save_manifest(tmp_path, manifest)
    assert load_manifest(tmp_path) == manifest
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST_NAME]


def test_fields_of_the_contract(tmp_path, manifest):
    save_manifest(tmp_path, manifest)
    fields = json.loads((tmp_path / MANIFEST_NAME).read_bytes())
    assert (fields["format"], fields["format_version"]) == ("keypoint-pairs", 1)
    assert (fields["category"], fields["seed"], fields["settings"]) == ("chair", 5, manifest.settings)
    assert {"file", "split", "pairs", "models", "sha256"} <= set(fields["shards"][0])
    assert {"model_id", "split", "source", "faces"} <= set(fields["models"][0])
    assert fields["failures"] == [{"source": "bad.obj", "reason": 'no "faces"'}]


def test_every_flipped_bit_and_every_truncation_is_caught(tmp_path, manifest):
    save_manifest(tmp_path, manifest)
    path = tmp_path / MANIFEST_NAME
    content = path.read_bytes()
    assert checksum_holds(content)
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << random.Random(position).randrange(8)
        assert not checksum_holds(bytes(flipped)), position
        assert not checksum_holds(content[:position])
    assert not checksum_holds(content + b"\n")


def test_a_damaged_manifest_is_refused(tmp_path, manifest):
    save_manifest(tmp_path, manifest)
    path = tmp_path / MANIFEST_NAME
    path.write_bytes(path.read_bytes().replace(b'"faces": 12', b'"faces": 13'))
    with pytest.raises(UserError, match=r"dataset\.json: damaged"):
        load_manifest(tmp_path)


def test_a_manifest_by_other_programs_needs_no_checksum(tmp_path, manifest):
    save_manifest(tmp_path, manifest)
    path = tmp_path / MANIFEST_NAME
    fields = json.loads(path.read_bytes())
    for name in ("bytes",):
        del fields["shards"][0][name]
    del fields["checksum"], fields["models"][1]["geometry"]
    path.write_text(json.dumps(fields))
    assert load_manifest(tmp_path).models[0] == manifest.models[0]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "damaged"),
        (b"\xff\xfe\x00garbage", "damaged"),
        (b"[1, 2]", "damaged"),
        (b"[" * 100_000, "damaged"),
        (b"{}", "not a keypoint-pairs"),
        (b'{"format": "coco"}', "not a keypoint-pairs"),
        (b'{"format": "keypoint-pairs", "format_version": 2}', "format_version 2.*update"),
        (b'{"format": "keypoint-pairs", "format_version": 1}', "lacks 'settings'"),
        (b'{"format": "keypoint-pairs", "format_version": "x"}', "damaged"),
    ],
)
def test_garbage_gets_one_clear_line(tmp_path, content, message):
    (tmp_path / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(UserError, match=f"dataset.json: .*{message}") as caught:
        load_manifest(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_shard_cannot_lie_outside_the_folder(tmp_path, manifest):
    manifest.shards[0] = ShardEntry("../train-00000.h5", "train", 32, 2, 1000, "a" * 64)
    save_manifest(tmp_path, manifest)
    with pytest.raises(UserError, match="damaged"):
        load_manifest(tmp_path)


def test_folders_that_are_no_datasets_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        load_manifest(tmp_path / "none")
    with pytest.raises(UserError, match="not a dataset"):
        load_manifest(tmp_path)
    (tmp_path / ".parts").mkdir()
    with pytest.raises(UserError, match="has not ended"):
        load_manifest(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not a folder"):
        load_manifest(tmp_path / "file")
