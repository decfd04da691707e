from __future__ import annotations

import fcntl
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import replace

import h5py
import numpy as np
import pytest

import data.assemble
from data.assemble import assemble, merge
from data.errors import UserError
from data.manifest import Failure, load_manifest
from data.shard import ShardReader, read_models, write_shard
from tests.made_up_pairs import (
    DEPTH_OFFSET,
    DEPTH_SCALE,
    KEYPOINTS,
    SETTINGS,
    folder_bytes,
    make_dataset,
    make_manifest,
    make_model,
    write_part,
)

MODELS = 24


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    return [write_part(folder, make_model(number)) for number in range(MODELS)]


@pytest.fixture(scope="module")
def undisturbed(parts, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assemble(out, parts, make_manifest(), pairs_per_shard=8)
    return folder_bytes(out)


def test_sources_in_the_folder_itself_are_refused_and_stay(tmp_path):
    shard = write_part(tmp_path, make_model(0)).rename(tmp_path / "train-00000.h5")
    before = shard.read_bytes()
    with pytest.raises(UserError, match="train-00000.h5: lies in the folder that is to be written"):
        assemble(tmp_path, [shard], make_manifest())
    assert shard.read_bytes() == before


def test_everything_arrives_sorted_in_shards_of_whole_models(parts, tmp_path):
    manifest = assemble(tmp_path / "out", parts, make_manifest(), pairs_per_shard=8)
    assert load_manifest(tmp_path / "out") == manifest
    assert [model.model_id for model in manifest.models] == [f"model-{number:03d}" for number in range(MODELS)]
    assert {entry.split for entry in manifest.shards} == {"train", "val", "test"}
    seen = []
    for entry in manifest.shards:
        models = list(read_models(tmp_path / "out" / entry.file))
        assert [model.model_id for model in models] == sorted(model.model_id for model in models)
        assert len(models) == entry.models and sum(len(model.rgba) for model in models) == entry.pairs
        for model in models:
            seen.append(model.model_id)
            original = make_model(int(model.model_id[-3:]))
            assert model.split == entry.split == original.split
            for name in ("rgba", "depth", "object_to_camera", "intrinsics", "semantic_keypoints"):
                np.testing.assert_array_equal(getattr(model, name), getattr(original, name))
    assert sorted(seen) == [f"model-{number:03d}" for number in range(MODELS)]
    train = [entry.pairs for entry in manifest.shards if entry.split == "train"]
    assert all(8 <= pairs < 8 + 3 for pairs in train[:-1])


def test_bytes_do_not_depend_on_the_order_or_grouping_of_sources(parts, undisturbed, tmp_path):
    assemble(tmp_path / "a", random.Random(0).sample(parts, len(parts)), make_manifest(), pairs_per_shard=8)
    assert folder_bytes(tmp_path / "a") == undisturbed
    halves = []
    for name, own in (("x", parts[::2]), ("y", parts[1::2])):
        manifest = assemble(tmp_path / name, own, make_manifest())
        halves += [tmp_path / name / entry.file for entry in manifest.shards]
    assemble(tmp_path / "b", halves, make_manifest(), pairs_per_shard=8)
    assert folder_bytes(tmp_path / "b") == undisturbed


def _assemble_slowly(out, parts):
    if not (out / "dataset.json").exists():  # as callers do: a finished dataset is not made again
        assemble(out, parts, make_manifest(), pairs_per_shard=8, progress=lambda pairs: time.sleep(0.01))


def test_killed_again_and_again_it_ends_with_the_same_bytes(parts, undisturbed, tmp_path):
    out = tmp_path / "out"
    killed = 0
    fork = multiprocessing.get_context("fork")
    for attempt in range(12):
        process = fork.Process(target=_assemble_slowly, args=(out, parts))
        process.start()
        time.sleep(random.Random(attempt).uniform(0.0, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        names = {path.name for path in out.iterdir()} if out.exists() else set()
        assert "dataset.json" not in names or folder_bytes(out) == undisturbed
    assert killed > 5
    assemble(out, parts, make_manifest(), pairs_per_shard=8)
    assert folder_bytes(out) == undisturbed


def test_remains_of_a_killed_run_with_more_models_go(parts, undisturbed, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("train-00000.h5", "train-00031.h5", "test-00000.h5.tmp", "dataset.json.tmp"):
        (out / name).write_bytes(b"remains")
    (out / "notes.txt").write_bytes(b"the user's own")
    assemble(out, parts, make_manifest(), pairs_per_shard=8)
    assert folder_bytes(out) == {**undisturbed, "notes.txt": b"the user's own"}


def test_growing_keeps_the_old_shards(parts, tmp_path):
    out = tmp_path / "out"
    first = assemble(out, parts[:10], make_manifest(), pairs_per_shard=8)
    before = folder_bytes(out)
    grown = assemble(out, parts[10:], first, pairs_per_shard=8)
    after = folder_bytes(out)
    assert all(after[name] == content for name, content in before.items() if name.endswith(".h5"))
    assert len(grown.models) == MODELS and sum(entry.pairs for entry in grown.shards) == 3 * MODELS
    assert set(first.shards) < set(grown.shards)
    assert {entry.file for entry in grown.shards} | {"dataset.json"} == set(after)


def test_compressed_images_are_copied_to_the_bytes_that_writing_them_gives(tmp_path):
    models = [make_model(number, split="train") for number in range(4)]
    write_shard(tmp_path / "written.h5", "train", models, SETTINGS, KEYPOINTS, DEPTH_OFFSET, DEPTH_SCALE)
    assemble(tmp_path / "out", [write_part(tmp_path / "parts", model) for model in models], make_manifest())
    assert (tmp_path / "out" / "train-00000.h5").read_bytes() == (tmp_path / "written.h5").read_bytes()


def test_progress_counts_pairs(parts, tmp_path):
    counts = []
    assemble(tmp_path / "out", parts, make_manifest(), progress=counts.append)
    assert sum(counts) == 3 * MODELS


def test_merging_the_tasks_of_one_rendering_is_that_rendering(parts, tmp_path):
    whole = make_manifest(failures=(Failure("a.obj", "no faces"), Failure("b.obj", "empty")))
    assemble(tmp_path / "whole", parts, whole)
    assemble(tmp_path / "1", parts[0::3], make_manifest(failures=(Failure("b.obj", "empty"),)))
    assemble(tmp_path / "2", parts[1::3], make_manifest(failures=(Failure("a.obj", "no faces"),)))
    assemble(tmp_path / "3", parts[2::3], make_manifest())
    merge(tmp_path / "merged", [tmp_path / "3", tmp_path / "1", tmp_path / "2"])
    assert folder_bytes(tmp_path / "merged") == folder_bytes(tmp_path / "whole")
    merge(tmp_path / "merged", [tmp_path / "1", tmp_path / "2", tmp_path / "3"])  # done already: nothing to do
    assert folder_bytes(tmp_path / "merged") == folder_bytes(tmp_path / "whole")


def test_merging_other_settings_keeps_each_shards_own_and_the_first_folders_bytes(tmp_path):
    other = {**SETTINGS, "seed": 1}
    first = make_dataset(tmp_path / "a", range(8), pairs_per_shard=2048)
    second = make_dataset(tmp_path / "b", range(8, 12), settings=other)
    merged = merge(tmp_path / "m", [first, second])
    assert merged.settings == {"merged": [SETTINGS, other]} and merged.seed == 0
    after = folder_bytes(tmp_path / "m")
    for name, content in folder_bytes(first).items():
        assert name == "dataset.json" or after[name] == content
    assert len(merged.models) == 12
    again = merge(tmp_path / "n", [tmp_path / "m", second])
    assert again == merged


def test_merging_adds_pairs_to_a_model_once(tmp_path):
    few = make_dataset(tmp_path / "few", range(4), pairs=3)
    more = make_dataset(tmp_path / "more", range(4), settings={**SETTINGS, "pairs_per_model": 2}, pairs=2, seed=9)
    assert sum(entry.pairs for entry in merge(tmp_path / "m", [few, more, few]).shards) == 4 * (3 + 2)
    assert sum(entry.pairs for entry in merge(tmp_path / "n", [few, few]).shards) == 4 * 3


@pytest.mark.parametrize(
    "other",
    [
        {"settings": {**SETTINGS, "light": {"sun": 1}}},
        {"settings": {**SETTINGS, "variety": {"recolor": 1}}},
        {"focal": 90.0},
    ],
)
def test_merging_keeps_pairs_that_only_share_their_poses(other, tmp_path):
    plain, varied = make_dataset(tmp_path / "a", range(4)), make_dataset(tmp_path / "b", range(4), **other)
    assert sum(entry.pairs for entry in merge(tmp_path / "m", [plain, varied]).shards) == 2 * 4 * 3


def test_a_merge_of_more_pairs_is_not_taken_for_done(tmp_path):
    first, second = make_dataset(tmp_path / "a", range(4)), make_dataset(tmp_path / "b", range(4), seed=1)
    merge(tmp_path / "m", [first])
    with pytest.raises(UserError, match="already holds another dataset"):
        merge(tmp_path / "m", [first, second])


def test_a_merge_is_done_only_if_it_holds_the_same_shapes_and_all_its_shards(tmp_path):
    source = make_dataset(tmp_path / "a", range(4))
    done = merge(tmp_path / "m", [source])
    assert merge(tmp_path / "m", [source]) == done
    shutil.rmtree(source)
    changed = [replace(make_model(number), geometry="f" * 64) for number in range(4)]
    assemble(source, [write_part(tmp_path / "other", model) for model in changed], make_manifest())
    with pytest.raises(UserError, match="already holds another dataset"):
        merge(tmp_path / "m", [source])
    shutil.rmtree(source)
    make_dataset(tmp_path / "a", range(4))
    (tmp_path / "m" / done.shards[-1].file).unlink()
    with pytest.raises(UserError, match=f"{done.shards[-1].file}: missing"):
        merge(tmp_path / "m", [source])


@pytest.mark.parametrize("order", [("named", "plain"), ("plain", "named")])
def test_a_merge_keeps_semantic_keypoints_whatever_the_order(tmp_path, order):
    model = make_model(0)
    for name, keypoints in (("named", KEYPOINTS), ("plain", ())):
        own = replace(model, semantic_keypoints=model.semantic_keypoints if keypoints else None)
        path = tmp_path / f"{name}.h5"
        write_shard(path, own.split, [own], SETTINGS, keypoints, DEPTH_OFFSET, DEPTH_SCALE)
        assemble(tmp_path / name, [path], make_manifest())
    (shard,) = merge(tmp_path / "m", [tmp_path / name for name in order]).shards
    with ShardReader(tmp_path / "m" / shard.file) as reader:
        assert reader.header.keypoint_names == KEYPOINTS and reader.num_pairs == 3


def test_a_mesh_that_failed_in_one_part_and_is_in_another_did_not_fail(tmp_path):
    parts = [write_part(tmp_path, make_model(number)) for number in range(2)]
    failures = (Failure("made-up:1", "missing texture"), Failure("made-up:2", "empty"))
    assemble(tmp_path / "a", parts[:1], make_manifest(failures=failures))
    assemble(tmp_path / "b", parts[1:], make_manifest())
    assert merge(tmp_path / "m", [tmp_path / "a", tmp_path / "b"]).failures == [Failure("made-up:2", "empty")]
    grown = (Failure("made-up:0", "empty; it keeps its 3 pairs"),)
    assemble(tmp_path / "c", parts[:1], make_manifest(failures=grown))
    assert merge(tmp_path / "n", [tmp_path / "c", tmp_path / "b"]).failures == list(grown)


def test_damage_that_comes_while_joining_is_named(tmp_path, monkeypatch):
    source = make_dataset(tmp_path / "a", range(4), pairs_per_shard=2048)
    shard = next(source.glob("train*.h5"))
    plan = data.assemble._plan

    def plan_and_replace(*arguments):
        blocks = plan(*arguments)
        write_shard(shard, "train", [make_model(0, pairs=1, split="train")], SETTINGS, KEYPOINTS)
        return blocks

    monkeypatch.setattr("data.assemble._plan", plan_and_replace)
    with pytest.raises(UserError, match=f"{shard.name}: damaged"):
        merge(tmp_path / "m", [source])


def test_merge_refuses_what_does_not_belong_together(tmp_path):
    chairs = make_dataset(tmp_path / "chairs", range(4))
    cars = tmp_path / "cars"
    assemble(cars, [write_part(tmp_path / "p", make_model(9))], make_manifest(category="car"))
    with pytest.raises(UserError, match="different categories"):
        merge(tmp_path / "m", [chairs, cars])
    large = make_dataset(tmp_path / "large", range(9, 11), size=24, settings={**SETTINGS, "image_size": 24})
    with pytest.raises(UserError, match="image-size"):
        merge(tmp_path / "m", [chairs, large])
    wrong_split = {"train": "test", "val": "train", "test": "train"}[make_model(2).split]
    leak = make_dataset(tmp_path / "leak", [2], settings={**SETTINGS, "seed": 3}, split=wrong_split)
    with pytest.raises(UserError, match="model-002.*leak"):
        merge(tmp_path / "m", [chairs, leak])
    shape = tmp_path / "shape"
    part = write_part(tmp_path / "q", replace(make_model(2), geometry="f" * 64))
    assemble(shape, [part], make_manifest())
    with pytest.raises(UserError, match="model-002 is another shape"):
        merge(tmp_path / "m", [chairs, shape])
    before = folder_bytes(cars)
    with pytest.raises(UserError, match="already holds another dataset"):
        merge(cars, [chairs])
    assert folder_bytes(cars) == before
    with pytest.raises(UserError, match="choose a new folder"):
        merge(chairs, [chairs])
    assert not (tmp_path / "m" / "dataset.json").exists()


def test_merge_does_not_launder_damage(tmp_path):
    source = make_dataset(tmp_path / "a", range(4))
    shard = next(source.glob("train-*.h5"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=shard.name):
        merge(tmp_path / "m", [source])


def test_a_faster_codec_holds_the_same_pairs(parts, tmp_path):
    pytest.importorskip("hdf5plugin")
    assemble(tmp_path / "gzip", parts, make_manifest(), pairs_per_shard=8)
    merge(tmp_path / "zstd", [tmp_path / "gzip"], codec="zstd")
    merge(tmp_path / "again", [tmp_path / "zstd"], codec="zstd")
    assert folder_bytes(tmp_path / "again") == folder_bytes(tmp_path / "zstd")
    for name in ("train-00000.h5", "test-00000.h5"):
        with h5py.File(tmp_path / "zstd" / name) as file:
            assert "32015" in file["rgba"]._filters  # the registered number of zstd
    back = [
        model
        for entry in load_manifest(tmp_path / "zstd").shards
        for model in read_models(tmp_path / "zstd" / entry.file)
    ]
    for model in back:
        np.testing.assert_array_equal(model.rgba, make_model(int(model.model_id[-3:])).rgba)
    with pytest.raises(UserError, match="holds this merge already, with --codec zstd"):
        merge(tmp_path / "zstd", [tmp_path / "gzip"])
    merge(tmp_path / "back", [tmp_path / "zstd"])
    assemble(tmp_path / "one", parts, make_manifest())
    assert folder_bytes(tmp_path / "back") == folder_bytes(tmp_path / "one")


def test_a_codec_that_is_not_installed_is_a_clear_error(parts, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such codec"):
        assemble(tmp_path / "out", parts, make_manifest(), codec="zip")
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(UserError, match="pip install hdf5plugin"):
        assemble(tmp_path / "out", parts, make_manifest(), codec="zstd")
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: False)
    with pytest.raises(UserError, match="model-.*pip install hdf5plugin"):
        list(read_models(parts[0]))


def test_merging_parts_without_models(tmp_path):
    empty = tmp_path / "empty"
    assemble(empty, [], make_manifest())
    assert merge(tmp_path / "m", [empty]).shards == []
    assert load_manifest(tmp_path / "m").models == []
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["dataset.json"]


def test_merge_leaves_files_of_others_alone(tmp_path):
    source = make_dataset(tmp_path / "a", range(4))
    out = tmp_path / "out"
    out.mkdir()
    (out / "train-00000.h5").write_bytes(b"a shard whose manifest is lost")
    with pytest.raises(UserError, match="out: holds train-00000.h5 but no dataset.json: choose a new folder"):
        merge(out, [source])
    assert folder_bytes(out) == {"train-00000.h5": b"a shard whose manifest is lost"}
    (tmp_path / "rendering" / ".parts").mkdir(parents=True)
    with pytest.raises(UserError, match="holds an unfinished rendering"):
        merge(tmp_path / "rendering", [source])


def test_a_merge_that_was_killed_is_done_again(tmp_path, monkeypatch):
    source = make_dataset(tmp_path / "a", range(8), pairs_per_shard=2048)

    def killed(*_):
        raise SystemExit  # as far as the folder is concerned

    with monkeypatch.context() as patch:
        patch.setattr("data.assemble.save_manifest", killed)
        with pytest.raises(SystemExit):
            merge(tmp_path / "m", [source])
    assert (tmp_path / "m" / "train-00000.h5").exists()
    with pytest.raises(UserError, match="merging has not ended"):
        load_manifest(tmp_path / "m")
    merge(tmp_path / "m", [source])
    assert folder_bytes(tmp_path / "m") == folder_bytes(source)


def test_two_merges_into_one_folder(tmp_path):
    source = make_dataset(tmp_path / "a", range(4))
    (tmp_path / "m").mkdir()
    with open(tmp_path / "m" / ".merging", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another merge is writing to it"):
            merge(tmp_path / "m", [source])


def test_a_merge_that_is_refused_leaves_nothing(tmp_path):
    source = make_dataset(tmp_path / "a", range(4))
    next(source.glob("*.h5")).unlink()
    with pytest.raises(UserError, match="damaged"):
        merge(tmp_path / "m", [source])
    assert not (tmp_path / "m").exists()
