from __future__ import annotations

import json
import pickle
import random
import re
import shutil
import time
from collections import Counter
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from data.assemble import merge
from data.dataset import PairDataset, PairLoader, PairSampler, couples, epoch_order
from data.errors import UserError
from data.manifest import load_manifest, save_manifest
from data.shard import read_models
from tests.made_up_pairs import DEPTH_OFFSET, DEPTH_SCALE, KEYPOINTS, SETTINGS, folder_bytes, make_dataset, make_model

SPLIT = "train"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "set", range(16))


@pytest.fixture(scope="module")
def dataset(folder):
    return PairDataset(folder, SPLIT)


def _originals(folder):
    for entry in load_manifest(folder).shards:
        if entry.split == SPLIT:
            for model in read_models(folder / entry.file):
                original = make_model(int(model.model_id[-3:]))
                for row in range(3):
                    yield original, row


def test_items_are_the_pairs_in_order(folder, dataset):
    originals = list(_originals(folder))
    assert len(dataset) == len(originals) > 15
    for index, (model, row) in enumerate(originals):
        item = dataset[index]
        assert item["rgba"].dtype == torch.uint8
        np.testing.assert_array_equal(item["rgba"], model.rgba[row])
        np.testing.assert_array_equal(item["object_to_camera"], model.object_to_camera[row])
        np.testing.assert_array_equal(item["intrinsics"], model.intrinsics[row])
        assert item["R"].dtype == item["t"].dtype == torch.float64
        assert dataset.model_ids[int(item["model_index"])] == model.model_id
        coded = model.depth[row]
        expected = np.where(coded > 0, DEPTH_OFFSET + coded * DEPTH_SCALE, 0).astype(np.float32)
        np.testing.assert_array_equal(dataset.depth(index), expected)
        np.testing.assert_array_equal(
            dataset.semantic_keypoints[int(item["model_index"])].numpy(), model.semantic_keypoints
        )
    assert dataset.keypoint_names == KEYPOINTS
    assert dataset.image_size == (16, 16)
    with pytest.raises(IndexError):
        dataset[len(dataset)]
    assert torch.equal(dataset[-1]["rgba"], dataset[len(dataset) - 1]["rgba"])


def test_batches_caches_and_items_agree(folder, dataset):
    indices = [5, 0, 17, 5]
    batch = dataset.batch(indices)
    cached = PairDataset(folder, SPLIT).load().batch(torch.tensor(indices))
    assert batch.keys() == cached.keys() == dataset[0].keys()
    for name, values in batch.items():
        assert torch.equal(values, torch.stack([dataset[index][name] for index in indices]))
        assert torch.equal(values, cached[name]) and values.dtype == cached[name].dtype


def test_spawned_workers_share_the_cache(folder):
    cached = PairDataset(folder, SPLIT).load()
    ForkingPickler.dumps(cached)  # what starting a spawned worker does
    assert cached._images.is_shared()


def test_a_batch_in_use_is_not_written_over(dataset):
    kept = [dataset.batch([index])["rgba"] for index in range(6)]
    views = [dataset.batch([index])["rgba"][0, 1] for index in range(6)]
    for _ in range(6):
        dataset.batch([7])
    for index in range(6):
        assert torch.equal(kept[index][0], dataset[index]["rgba"])
        assert torch.equal(views[index], dataset[index]["rgba"][1])


def test_memory_of_finished_batches_is_used_again(dataset):
    addresses = set()
    for _ in range(20):
        batch = dataset.batch(range(5))  # the last one is alive until it is replaced
        addresses.add(batch["rgba"].data_ptr())
    assert len(addresses) == 2


def test_several_folders_follow_each_other(folder, dataset, tmp_path):
    other = make_dataset(tmp_path / "other", range(16, 24), settings={**SETTINGS, "seed": 2}, split=SPLIT)
    both = PairDataset([folder, other], SPLIT)
    assert len(both) == len(dataset) + 24
    assert both.model_ids == dataset.model_ids + [f"model-{number:03d}" for number in range(16, 24)]
    np.testing.assert_array_equal(both[len(dataset) + 4]["rgba"], make_model(17).rgba[1])
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))  # the same models, under one number each
    twice = PairDataset([folder, copy], SPLIT)
    assert twice.model_ids == dataset.model_ids
    assert twice[len(dataset)]["model_index"] == dataset[0]["model_index"]


def test_labels_are_known_only_where_the_shape_is(tmp_path):
    """Where a model is rendered as it is and, elsewhere, bent, its keypoints belong to the former pairs alone."""
    plain = make_dataset(tmp_path / "plain", [3], split=SPLIT)
    settings = {**SETTINGS, "variety": {"warp": 0.5}}
    bent = make_dataset(tmp_path / "bent", [3], settings=settings, split=SPLIT, seed=1, labelled=False)
    merge(tmp_path / "merged", [plain, bent])
    for folders in ([plain, bent], [bent, plain], [tmp_path / "merged"]):
        pairs = PairDataset(folders, SPLIT)
        labels = pairs.semantic_keypoints[pairs.shape_index]
        as_made = torch.from_numpy(make_model(3).object_to_camera)
        is_plain = (pairs.object_to_camera[:, None] == as_made).flatten(2).all(-1).any(-1)
        assert len(pairs) == 6 and is_plain.sum() == 3
        assert torch.equal(~labels.isnan().any(-1).any(-1), is_plain)
        assert pairs.model_ids == ["model-003"] and not pairs.model_index.any()


def test_labels_of_one_folder_hold_for_the_same_shape_in_others(tmp_path):
    known = make_dataset(tmp_path / "known", [3, 4], split=SPLIT)
    unknown = make_dataset(tmp_path / "unknown", [3, 4], split=SPLIT, labelled=False)
    expected = PairDataset(known, SPLIT).semantic_keypoints
    for folders in ([known, unknown], [unknown, known]):
        assert torch.equal(PairDataset(folders, SPLIT).semantic_keypoints, expected)


def test_models_that_leak_between_folders_are_refused(folder, tmp_path):
    mine = next(m.model_id for m in load_manifest(folder).models if m.split == SPLIT)
    leak = make_dataset(tmp_path / "leak", [int(mine[-3:])], split="test")
    with pytest.raises(UserError, match=f"{mine}.*leak"):
        PairDataset([folder, leak], SPLIT)
    with pytest.raises(UserError, match=f"{mine}.*leak"):
        PairDataset([folder, leak], "test")


def test_a_folder_that_is_given_twice_is_refused(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(UserError, match="given twice: name each dataset once"):
        PairDataset([folder, tmp_path / "link"], SPLIT)


def test_images_of_two_sizes_are_refused(folder, tmp_path):
    large = make_dataset(tmp_path / "large", range(30, 34), size=20, split=SPLIT)
    with pytest.raises(UserError, match="20 px.*image-size"):
        PairDataset([folder, large], SPLIT)


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(UserError, match="no such split"):
        PairDataset(folder, "validation")
    train_only = make_dataset(tmp_path / "t", range(2), split="train")
    with pytest.raises(UserError, match="no pairs in split test"):
        PairDataset(train_only, "test")
    (train_only / "train-00000.h5").unlink()
    with pytest.raises(UserError, match=r"train-00000\.h5: missing"):
        PairDataset(train_only, "train")


# --- the order -------------------------------------------------------------------------------------------------------


def test_the_order_is_written_down():
    # A change would break the resuming of runs, and with it every comparison with earlier ones.
    assert epoch_order(10, seed=0, epoch=0).tolist() == [6, 1, 0, 5, 3, 8, 7, 9, 2, 4]
    assert epoch_order(10, seed=0, epoch=1).tolist() == [7, 3, 5, 0, 1, 4, 6, 8, 9, 2]
    assert epoch_order(10, seed=1, epoch=0).tolist() == [1, 0, 9, 8, 6, 3, 7, 4, 2, 5]


def test_every_epoch_sees_every_pair_once():
    stream = sum(PairSampler(25, 4, seed=3, num_batches=25), [])
    for epoch in range(4):
        part = stream[25 * epoch : 25 * (epoch + 1)]
        assert sorted(part) == list(range(25)) and part == epoch_order(25, 3, epoch).tolist()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1, 2, 5, 8])
def test_the_same_sequence_for_any_number_of_workers(dataset, workers):
    sampler = PairSampler(len(dataset), 6, seed=1, num_batches=9)
    expected = [dataset.batch(indices) for indices in sampler]
    loaded = list(PairLoader(dataset, sampler, workers))
    assert len(loaded) == len(expected) == len(sampler)
    for got, wanted in zip(loaded, expected, strict=True):
        assert got.keys() == wanted.keys()
        assert all(torch.equal(got[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("prefetch", [1, 3])
def test_workers_that_are_ahead_write_over_nothing(dataset, prefetch):
    sampler = PairSampler(len(dataset), 2, seed=1, num_batches=40)
    for got, indices in zip(PairLoader(dataset, sampler, 2, prefetch_factor=prefetch), sampler, strict=True):
        time.sleep(0.005)  # time for the workers to fill every slot that they may
        assert torch.equal(got["rgba"], dataset.batch(indices)["rgba"])


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("cache", [False, True])
def test_workers_may_be_forked_or_spawned(folder, context, cache):
    dataset = PairDataset(folder, SPLIT)
    if cache:
        dataset.load()
    dataset[0]  # files are open here when the workers start
    sampler = PairSampler(len(dataset), 4, seed=1, num_batches=4)
    loaded = PairLoader(dataset, sampler, 2, multiprocessing_context=context)
    for got, indices in zip(loaded, sampler, strict=True):
        assert torch.equal(got["rgba"], dataset.batch(indices)["rgba"])


def test_open_files_do_not_travel(dataset):
    dataset[0]
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[3]["rgba"], dataset[3]["rgba"])


@pytest.mark.parametrize("num_pairs", [37, 5])
def test_the_same_global_sequence_for_any_number_of_processes(num_pairs):
    whole = list(PairSampler(num_pairs, 8, seed=2, num_batches=20))
    for world_size in (1, 2, 4, 8):
        ranks = [PairSampler(num_pairs, 8, 2, 20, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert [sum(shares, []) for shares in zip(*ranks, strict=True)] == whole


def test_stopping_and_going_on_with_other_numbers_changes_nothing(dataset):
    """Stops in mid-epoch; before and after, workers, processes and even the batch size differ."""
    whole = sum(PairSampler(len(dataset), 8, seed=5, num_batches=12), [])
    stream, consumed = [], 0
    for batch_size, batches, world_size, workers in [
        (8, 2, 1, 0),
        (8, 1, 4, 2),
        (16, 2, 8, 0),
        (4, 3, 2, 1),
        (28, 1, 1, 0),
    ]:
        ranks = [
            PairSampler(len(dataset), batch_size, 5, batches, consumed, rank, world_size) for rank in range(world_size)
        ]
        loaders = [PairLoader(dataset, sampler, workers) for sampler in ranks]
        for shares in zip(*loaders, strict=True):
            stream += [_fingerprint(image) for share in shares for image in share["rgba"]]
        consumed += batch_size * batches
    assert consumed == len(whole)
    assert stream == [_fingerprint(dataset[index]["rgba"]) for index in whole]


def _fingerprint(image):
    return hash(image.numpy().tobytes())


def test_pairs_stay_together_in_groups():
    groups = np.random.default_rng(0).permutation(24).reshape(12, 2)
    stream = sum(PairSampler(24, 4, seed=3, num_batches=12, groups=groups), [])
    for epoch, part in enumerate((stream[:24], stream[24:])):
        assert part == groups[epoch_order(12, 3, epoch)].ravel().tolist()
    shares = [list(PairSampler(24, 4, 3, 6, start=4, rank=rank, world_size=2, groups=groups)) for rank in range(2)]
    assert sum((a + b for a, b in zip(*shares)), []) == stream[4:28]


def test_couples_show_one_shape_where_they_can():
    shapes = np.array([5, 5, 5, 2, 2, -1, -2, 5, 7])
    found = couples(shapes)
    assert sorted(found.ravel().tolist()) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 8]
    same = shapes[found[:, 0]] == shapes[found[:, 1]]
    assert same.tolist() == [True, True, True, False, True] and found[-1].tolist() == [8, 8]
    assert couples(np.repeat(np.arange(3), 4)).tolist() == np.arange(12).reshape(6, 2).tolist()
    assert couples(np.zeros(1, int)).tolist() == [[0, 0]]


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(UserError, match="batch size 6.*4 processes"):
        PairSampler(10, 6, 0, 1, world_size=4)


# --- damage ----------------------------------------------------------------------------------------------------------


def _everything(dataset):
    tensors = dataset.batch(range(len(dataset)))
    tensors["depth"] = torch.from_numpy(np.stack([dataset.depth(index) for index in range(len(dataset))]))
    tensors["keypoints"] = dataset.semantic_keypoints
    return tensors, dataset.model_ids, dataset.keypoint_names


def test_a_flipped_bit_is_an_error_or_does_no_harm(tmp_path):
    folder = make_dataset(tmp_path / "set", range(3), pairs=2, split="train")
    (path,) = folder.glob("*.h5")
    content = path.read_bytes()
    tensors, *names = _everything(PairDataset(folder, "train"))
    outcomes = Counter()
    rng = random.Random(0)
    for _ in range(100):
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            got, *got_names = _everything(PairDataset(folder, "train"))
        except UserError as error:
            assert path.name in str(error)
            outcomes["error"] += 1
        else:  # in a description, or in space that nothing uses
            assert got_names == names
            assert all(torch.equal(got[name], tensors[name]) for name in tensors)
            outcomes["harmless"] += 1
    assert outcomes["error"] > 50


def test_a_damaged_name_of_a_keypoint_is_an_error(tmp_path):
    # The attribute's strings lie where HDF5 has no checksum, so no random flip need ever hit them.
    folder = make_dataset(tmp_path / "set", range(3), pairs=2, split="train")
    (path,) = folder.glob("*.h5")
    content = path.read_bytes()
    places = [place.start() for place in re.finditer(KEYPOINTS[0].encode(), content)]
    assert len(places) == 2
    for place in places:
        for offset in range(len(KEYPOINTS[0])):
            flipped = bytearray(content)
            flipped[place + offset] ^= 1
            path.write_bytes(flipped)
            with pytest.raises(UserError, match=r"train-00000\.h5: damaged"):
                PairDataset(folder, "train")


def test_truncated_shards_are_refused(tmp_path):
    folder = make_dataset(tmp_path / "set", range(3), split="train")
    (path,) = folder.glob("*.h5")
    content = path.read_bytes()
    for size in (0, 1, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=rf"train-00000\.h5: damaged \({size} bytes"):
            PairDataset(folder, "train")


def test_a_shard_damaged_during_training_is_an_error(tmp_path):
    folder = make_dataset(tmp_path / "set", range(3), split="train")
    dataset = PairDataset(folder, "train")
    (path,) = folder.glob("*.h5")
    with h5py.File(path) as file:
        chunk = file["rgba"].id.get_chunk_info(4)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 4
    path.write_bytes(content)
    for sample in range(len(dataset)):
        if sample == 4:
            with pytest.raises(UserError, match=r"train-00000\.h5: damaged"):
                dataset[sample]
        else:
            dataset[sample]
    for workers in (0, 2):
        with pytest.raises(UserError, match=r"^[^\n]*train-00000\.h5: damaged[^\n]*$"):
            list(PairLoader(dataset, PairSampler(len(dataset), 3, 0, 4), workers))


def test_shards_by_plain_h5py_can_be_read(tmp_path):
    """Another program follows the contract and no more: other chunks, no checksums, no extra tables."""
    folder = make_dataset(tmp_path / "set", range(4), split="train")
    expected, *names = _everything(PairDataset(folder, "train"))
    path = folder / "train-00000.h5"
    with h5py.File(path) as source, h5py.File(tmp_path / "plain.h5", "w") as target:
        target.attrs.update(source.attrs)
        for name in source:
            if not name.startswith("model_") or name == "model_index":
                target[name] = source[name][:]
                target[name].attrs.update(source[name].attrs)
        target["model_id"] = source["model_id"].asstr()[:].astype(object)
    path.write_bytes((tmp_path / "plain.h5").read_bytes())
    manifest = json.loads((folder / "dataset.json").read_bytes())
    del manifest["shards"][0]["bytes"], manifest["checksum"]
    (folder / "dataset.json").write_text(json.dumps(manifest))
    got, *got_names = _everything(PairDataset(folder, "train"))
    assert got_names == names and all(torch.equal(got[name], expected[name]) for name in expected)


def test_nothing_is_written(folder, dataset):
    before = folder_bytes(folder)
    _everything(PairDataset(folder, SPLIT))
    assert folder_bytes(folder) == before


@pytest.mark.parametrize(
    "change, split",
    [
        (lambda manifest: object.__setattr__(manifest.shards[0], "pairs", 10), "train"),
        (lambda manifest: object.__setattr__(manifest.shards[0], "split", "val"), "val"),
        (lambda manifest: manifest.models.pop(), "train"),
    ],
    ids=["more pairs", "another split", "a model less"],
)
def test_a_manifest_of_other_shards_is_refused(tmp_path, change, split):
    folder = make_dataset(tmp_path / "set", range(3), split="train")
    manifest = load_manifest(folder)
    change(manifest)
    save_manifest(folder, manifest)
    with pytest.raises(UserError, match=r"train-00000\.h5: damaged"):
        PairDataset(folder, split)


def test_deformed_pairs_have_shapes_of_their_own(tmp_path):
    plain = make_dataset(tmp_path / "plain", range(6), split="train")
    bent = make_dataset(tmp_path / "bent", range(6), split="train", settings={**SETTINGS, "variety": {"warp": 0.5}})
    coloured = make_dataset(tmp_path / "c", range(6), split="train", settings={**SETTINGS, "variety": {"recolor": 1}})
    both = PairDataset([plain, bent, coloured], "train")
    first, second, third = both.shape_index.view(3, -1)
    assert torch.equal(first, both.model_index[: len(first)]) and torch.equal(first, third)
    assert len(second.unique()) == len(second) and not set(second.tolist()) & set(first.tolist())
    assert sorted(both.shape_index.unique().tolist()) == list(range(len(both.semantic_keypoints)))
