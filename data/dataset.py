"""Reading datasets for training: pairs by index, whole batches, and an order that nothing but the seed decides."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from data.errors import UserError
from data.manifest import MANIFEST_NAME, Manifest, load_manifest
from data.schema import FIELDS, SPLITS
from data.shard import ModelEntry, ShardReader, damaged, require_filters

_MAX_OPEN_SHARDS = 128


class PairDataset(Dataset):
    """The view pairs of one split of one or many dataset folders, in the order of folders, shards and rows.

    An item is a dict of tensors: ``rgba`` uint8 (2, H, W, 4) premultiplied; ``object_to_camera`` float64 (2, 4, 4);
    ``intrinsics`` float64 (2, 3, 3) in pixels; ``R`` float64 (3, 3), ``t`` float64 (3,) with X_1 = R X_0 + t;
    ``model_index`` int64 () into ``model_ids``. Workers may be forked or spawned; files are opened per process.

    Args:
        folders: one dataset folder or several; their images must be of one size.
        split: "train", "val" or "test".
        cache: keep all images in memory, see :meth:`load`.

    Attributes:
        model_ids: name of each model, over all folders.
        image_size: (H, W). category: of the first folder. manifests: one per folder.
        object_to_camera, intrinsics, R, t, model_index: tensors of all pairs, as above with a leading (P,).
        semantic_keypoints: float32 (M, S, 3), object frame, NaN where unknown. keypoint_names: S names.

    Raises:
        UserError: a folder is missing, damaged, foreign or of a newer format; the split is empty; images differ in
            size; a model is in this split in one folder and in another split in another.
    """

    def __init__(self, folders: str | Path | Sequence[str | Path], split: str, cache: bool = False):
        if isinstance(folders, (str, Path)):
            folders = [folders]
        if split not in SPLITS:
            raise UserError(f"split {split!r}: no such split: choose one of {', '.join(SPLITS)}")
        self.split = split
        self.folders = [Path(folder) for folder in folders]
        self.manifests = [load_manifest(folder) for folder in self.folders]
        self.category = self.manifests[0].category
        _refuse_leaks(self.folders, self.manifests)
        self._paths: list[Path] = []
        self._images: Tensor | None = None
        self._open: OrderedDict[int, dict[str, h5py.Dataset]] = OrderedDict()
        self._pid = os.getpid()
        self._read_tables()
        if cache:
            self.load()

    def __len__(self) -> int:
        return len(self.model_index)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        index = range(len(self))[index]
        return {name: values[0] for name, values in self.batch([index]).items()}

    def batch(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Several pairs at once: the tensors of an item with a leading (B,), on the device given to :meth:`load`."""
        indices = torch.as_tensor(indices, dtype=torch.int64, device=self.model_index.device)
        if self._images is not None:
            # Eight bytes at a time, which a pair's size always divides: several times as fast as byte by byte.
            words = self._images.flatten(1).view(torch.int64).index_select(0, indices)
            rgba = words.view(torch.uint8).view(-1, *self._images.shape[1:])
        else:
            rgba = torch.from_numpy(self._read_images("rgba", indices.tolist()))
        fields = {name: getattr(self, name).index_select(0, indices) for name in _PAIR_FIELDS}
        return {"rgba": rgba, **fields}

    def depth(self, index: int) -> np.ndarray:
        """float32 (2, H, W) z-depth at the pixel centres of pair ``index``, object units; 0 is background."""
        index = range(len(self))[index]
        offset, scale = self._depth_coding[self._locate(index)[0]]
        coded = self._read_images("depth", [index])[0]
        return np.where(coded > 0, offset + coded * scale, 0.0).astype(np.float32)

    def load(self, device: str | torch.device = "cpu") -> PairDataset:
        """Put the uint8 images and all poses on ``device`` once; :meth:`batch` then gathers there.

        On the CPU the memory is shared, so that workers do not copy it.
        """
        if self._images is None:
            images = torch.empty((len(self), 2, *self.image_size, 4), dtype=torch.uint8)
            images.share_memory_()
            for start in tqdm(range(0, len(self), 64), desc=f"reading {self.split}", disable=None, leave=False):
                rows = range(start, min(start + 64, len(self)))
                images[start : rows.stop] = torch.from_numpy(self._read_images("rgba", rows))
            self._images = images
        self._images = self._images.to(device)
        for name in _PAIR_FIELDS:
            setattr(self, name, getattr(self, name).to(device))
        return self

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": OrderedDict()}

    def _read_tables(self) -> None:
        """Everything but the images, of every shard."""
        tables: dict[str, list[np.ndarray]] = {name: [] for name in _PAIR_FIELDS}
        keypoints: list[tuple[tuple[str, ...], np.ndarray | None]] = []
        slots: dict[tuple[str, str, str], int] = {}
        self._depth_coding, ends = [], [0]
        for folder, manifest in zip(self.folders, self.manifests, strict=True):
            listed = {entry.model_id: entry for entry in manifest.models}
            for entry in manifest.shards:
                if entry.split != self.split:
                    continue
                path = folder / entry.file
                _check_size(path, entry.bytes)
                with ShardReader(path) as reader:
                    if reader.header.split != self.split or reader.num_pairs != entry.pairs:
                        raise damaged(path)
                    if self._paths and reader.image_size != self.image_size:
                        raise UserError(
                            f"{path}: images of {reader.image_size[1]} px, others are of {self.image_size[1]} px: "
                            "give datasets of one --image-size"
                        )
                    self.image_size = reader.image_size
                    for name in _PAIR_FIELDS[:-1]:
                        tables[name].append(reader.read(name))
                    local = np.empty(len(reader.models), np.int64)
                    for slot, model in enumerate(reader.models):
                        if model.model_id not in listed:
                            raise damaged(path)
                        key = _model_key(manifest, listed[model.model_id])
                        if key not in slots:
                            slots[key] = len(slots)
                            keypoints.append((reader.header.keypoint_names, reader.semantic_keypoints(slot)))
                        local[slot] = slots[key]
                    tables["model_index"].append(local[reader.read("model_index")])
                    self._depth_coding.append((reader.header.depth_offset, reader.header.depth_scale))
                    ends.append(ends[-1] + reader.num_pairs)
                self._paths.append(path)
        if not self._paths:
            names = ", ".join(map(str, self.folders))
            raise UserError(f"{names}: no pairs in split {self.split}: choose another split, or render more models")
        self._ends = np.array(ends)
        self.model_ids = [model_id for _, model_id, _ in slots]
        for name, parts in tables.items():
            setattr(self, name, torch.from_numpy(np.concatenate(parts)))
        self.keypoint_names, self.semantic_keypoints = _join_keypoints(keypoints)

    def _locate(self, index: int) -> tuple[int, int]:
        """Shard and row of a pair."""
        shard = int(np.searchsorted(self._ends, index, side="right")) - 1
        return shard, index - int(self._ends[shard])

    def _read_images(self, name: str, indices: Sequence[int]) -> np.ndarray:
        trailing = (4,) if name == "rgba" else ()
        images = np.empty((len(indices), 2, *self.image_size, *trailing), FIELDS[name].dtype)
        for position, index in enumerate(indices):
            shard, row = self._locate(index)
            try:
                images[position] = self._image_tables(shard)[name][row]
            except (KeyError, OSError, RuntimeError, ValueError):
                raise damaged(self._paths[shard]) from None
        return images

    def _image_tables(self, shard: int) -> dict[str, h5py.Dataset]:
        """The image datasets of a shard. Kept open: finding them by name takes as long as reading a pair."""
        if self._pid != os.getpid():  # a forked worker must not share the parent's file handles
            self._open, self._pid = OrderedDict(), os.getpid()
        if shard in self._open:
            self._open.move_to_end(shard)
        else:
            if len(self._open) >= _MAX_OPEN_SHARDS:
                self._open.popitem(last=False)[1]["rgba"].file.close()
            file = h5py.File(self._paths[shard], "r", rdcc_nbytes=0)
            require_filters(file["rgba"], self._paths[shard])
            self._open[shard] = {name: file[name] for name in ("rgba", "depth")}
        return self._open[shard]


_PAIR_FIELDS = ("object_to_camera", "intrinsics", "R", "t", "model_index")


def epoch_order(num_pairs: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the pairs in an epoch, int64 (P,): a pure function of its arguments, the same on every machine."""
    # RandomState: numpy promises never to change its streams.
    bits = np.random.MT19937(np.random.SeedSequence([seed, epoch]))
    return np.random.RandomState(bits).permutation(num_pairs)


class PairSampler(Sampler[list[int]]):
    """Batches of indices cut from one endless stream: epoch 0 in its order, then epoch 1, and so on.

    Sample k of the stream is ``epoch_order(num_pairs, seed, k // num_pairs)[k % num_pairs]``, whatever the number of
    workers, processes and restarts; a batch may run over the end of an epoch. The whole state is a count of samples.

    Args:
        num_pairs: P. batch_size: pairs per step over all processes together.
        start: samples already consumed over all processes (0, or steps × batch size of the run to go on with).
        num_batches: how many batches to give.
        rank, world_size: this process gets its share, in order of rank, of every batch.
    """

    def __init__(
        self,
        num_pairs: int,
        batch_size: int,
        seed: int,
        num_batches: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        if num_pairs < 1:
            raise ValueError("no pairs to sample from")
        if batch_size % world_size:
            raise UserError(
                f"batch size {batch_size}: cannot be shared by {world_size} processes: take a multiple of it"
            )
        self.num_pairs, self.batch_size, self.seed = num_pairs, batch_size, seed
        self.num_batches, self.start = num_batches, start
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch_size // self.world_size
        epoch, order = -1, np.empty(0, np.int64)
        for batch in range(self.num_batches):
            first = self.start + batch * self.batch_size + self.rank * share
            indices = []
            for sample in range(first, first + share):
                if sample // self.num_pairs != epoch:
                    epoch = sample // self.num_pairs
                    order = epoch_order(self.num_pairs, self.seed, epoch)
                indices.append(int(order[sample % self.num_pairs]))
            yield indices


def make_loader(dataset: PairDataset, sampler: PairSampler, num_workers: int = 0, **options) -> DataLoader:
    """A DataLoader that gives :meth:`PairDataset.batch` of each batch of ``sampler``, in its order.

    Args:
        options: passed on to the DataLoader (``pin_memory``, ``multiprocessing_context``, ...).
    """
    return DataLoader(_Batches(dataset), sampler=sampler, batch_size=None, num_workers=num_workers, **options)


class _Batches(Dataset):
    def __init__(self, dataset: PairDataset):
        self._dataset = dataset

    def __getitem__(self, indices: list[int]) -> dict[str, Tensor]:
        return self._dataset.batch(indices)


def _model_key(manifest: Manifest, entry: ModelEntry) -> tuple[str, str, str]:
    # Two folders may use one name for two shapes; the geometry tells them apart where it is known.
    return manifest.category, entry.model_id, entry.geometry


def _refuse_leaks(folders: list[Path], manifests: list[Manifest]) -> None:
    splits: dict[tuple, tuple[str, Path]] = {}
    for folder, manifest in zip(folders, manifests, strict=True):
        for entry in manifest.models:
            split, other = splits.setdefault(_model_key(manifest, entry), (entry.split, folder))
            if split != entry.split:
                raise UserError(
                    f"{folder}: model {entry.model_id} is in split {entry.split} here and in {split} in {other}, which "
                    "would leak training models into the test: render both with the same --seed and --splits"
                )


def _check_size(path: Path, expected: int) -> None:
    try:
        size = path.stat().st_size
    except OSError:
        raise UserError(f"{path}: missing, though {MANIFEST_NAME} lists it: restore it or render again") from None
    if expected >= 0 and size != expected:
        raise UserError(f"{path}: damaged ({size} bytes instead of {expected}): restore it or render again")


def _join_keypoints(tables: list[tuple[tuple[str, ...], np.ndarray | None]]) -> tuple[tuple[str, ...], Tensor]:
    """Semantic keypoints of all models under the union of their names, NaN where a model lacks one."""
    names = tuple(dict.fromkeys(name for own, _ in tables for name in own))
    joined = torch.full((len(tables), len(names), 3), torch.nan)
    for row, (own, points) in enumerate(tables):
        for name, point in zip(own, points if points is not None else (), strict=True):
            joined[row, names.index(name)] = torch.from_numpy(point)
    return names, joined
