"""Reading datasets for training: pairs by index, whole batches, and an order that nothing but the seed decides."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
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
from data.leaks import refuse_leaks
from data.manifest import Manifest, check_present, load_manifest
from data.schema import SPLITS
from data.shard import ImageReader, ModelEntry, ShardReader, damaged, require_filters

_MAX_OPEN_SHARDS = 128


class PairDataset(Dataset):
    """The view pairs of one split of one or many dataset folders, in the order of folders, shards and rows.

    An item is a dict of tensors: ``rgba`` uint8 (2, H, W, 4) premultiplied; ``object_to_camera`` float64 (2, 4, 4);
    ``intrinsics`` float64 (2, 3, 3) in pixels; ``R`` float64 (3, 3), ``t`` float64 (3,) with X_1 = R X_0 + t;
    ``model_index`` int64 () into ``model_ids``; ``shape_index`` int64 () into ``semantic_keypoints``: that of the model
    as it is, or one of the pair's own where that deforms it. Workers may be forked or spawned; files are opened per
    process.

    Args:
        folders: one dataset folder or several; their images must be of one size.
        split: "train", "val" or "test".

    Attributes:
        model_ids: name of each of the M models, over all folders.
        image_size: (H, W). category: of all folders, joined by "+". manifests: one per folder.
        object_to_camera, intrinsics, R, t, model_index, shape_index: tensors of all pairs,
            as above with a leading (P,).
        semantic_keypoints: float32 (shapes, S, 3), object frame, NaN where unknown. keypoint_names: S names.

    Raises:
        UserError: a folder is missing, damaged, foreign or of a newer format; the split is empty; images differ in
            size; a folder is given twice; a model is in this split in one folder and in another split in another.
    """

    def __init__(self, folders: str | Path | Sequence[str | Path], split: str):
        if isinstance(folders, (str, Path)):
            folders = [folders]
        if split not in SPLITS:
            raise UserError(f"split {split!r}: no such split: choose one of {', '.join(SPLITS)}")
        self.split = split
        self.folders = [Path(folder) for folder in folders]
        places = [folder.resolve() for folder in self.folders]
        if twice := [folder for folder, place in zip(self.folders, places) if places.count(place) > 1]:
            raise UserError(f"{twice[0]}: given twice: name each dataset once")
        self.manifests = [load_manifest(folder) for folder in self.folders]
        self.category = "+".join(sorted({manifest.category for manifest in self.manifests}))
        refuse_leaks(self.folders, self.manifests)
        self._paths: list[Path] = []
        self._images: Tensor | None = None
        self._open: OrderedDict[int, dict[str, ImageReader]] = OrderedDict()
        self._pid = os.getpid()
        self._buffers = _Buffers()
        self._read_tables()

    def __len__(self) -> int:
        return len(self.model_index)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        index = range(len(self))[index]
        return {name: values[0] for name, values in self.batch([index]).items()}

    def batch(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Several pairs at once: the tensors of an item with a leading (B,), on the device given to :meth:`load`."""
        indices = torch.as_tensor(indices, dtype=torch.int64).to(self.model_index.device, non_blocking=True)
        shape = (len(indices), 2, *self.image_size, 4)
        if indices.device.type == "cpu":
            rgba = self._buffers.take(shape)
        else:
            rgba = torch.empty(shape, dtype=torch.uint8, device=indices.device)
        self.gather_images(indices, rgba)
        return {"rgba": rgba, **self.gather_poses(indices)}

    def gather_images(self, indices: Tensor, rgba: Tensor) -> None:
        """Write the images of pairs ``indices`` int64 (B,) into ``rgba`` uint8 (B, 2, H, W, 4)."""
        if self._images is not None:
            # Eight bytes at a time, which a pair's size always divides: several times as fast as byte by byte.
            source, target = (images.flatten(1).view(torch.int64) for images in (self._images, rgba))
            torch.index_select(source, 0, indices, out=target)
        else:
            self._read_images("rgba", indices.tolist(), rgba.numpy())

    def gather_poses(self, indices: Tensor) -> dict[str, Tensor]:
        """All of a batch but its images."""
        return {name: getattr(self, name).index_select(0, indices) for name in _PAIR_FIELDS}

    def depth(self, index: int) -> np.ndarray:
        """float32 (2, H, W) z-depth at the pixel centres of pair ``index``, object units; 0 is background."""
        index = range(len(self))[index]
        offset, scale = self._depth_coding[self._locate(index)[0]]
        coded = self._read_images("depth", [index], np.empty((1, 2, *self.image_size), np.uint16))[0]
        return np.where(coded > 0, offset + coded * scale, 0.0).astype(np.float32)

    def load(self, device: str | torch.device = "cpu") -> PairDataset:
        """Put the uint8 images and all poses on ``device`` once; :meth:`batch` then gathers there.

        On the CPU workers do not copy them: forked ones read their parent's, spawned ones share them.
        """
        if self._images is None:
            images = torch.empty((len(self), 2, *self.image_size, 4), dtype=torch.uint8)
            for start in tqdm(range(0, len(self), 64), desc=f"reading {self.split}", disable=None, leave=False):
                rows = range(start, min(start + 64, len(self)))
                self._read_images("rgba", rows, images[start : rows.stop].numpy())
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
        shapes = _Shapes()
        self._depth_coding, ends = [], [0]
        for folder, manifest in zip(self.folders, self.manifests, strict=True):
            keys = {entry.model_id: _model_key(manifest, entry) for entry in manifest.models}
            for entry in manifest.shards:
                if entry.split != self.split:
                    continue
                path = folder / entry.file
                check_present(path, entry)
                with ShardReader(path) as reader:
                    self._check_shard(reader, entry.pairs, keys)
                    self.image_size = reader.image_size
                    for name in ("object_to_camera", "intrinsics", "R", "t"):
                        tables[name].append(reader.read(name))
                    model_index, shape_index = shapes.number(reader, keys)
                    tables["model_index"].append(model_index)
                    tables["shape_index"].append(shape_index)
                    self._depth_coding.append((reader.header.depth_offset, reader.header.depth_scale))
                    ends.append(ends[-1] + reader.num_pairs)
                self._paths.append(path)
        if not self._paths:
            names = ", ".join(map(str, self.folders))
            raise UserError(f"{names}: no pairs in split {self.split}: choose another split, or render more models")
        self._ends = np.array(ends)
        self.model_ids = [model_id for _, model_id, _ in shapes.models]
        for name, parts in tables.items():
            setattr(self, name, torch.from_numpy(np.concatenate(parts)))
        self.keypoint_names, self.semantic_keypoints = _join_keypoints(shapes.keypoints)

    def _check_shard(self, reader: ShardReader, pairs: int, keys: dict[str, _ModelKey]) -> None:
        """Raise :class:`UserError` unless a shard is what the manifest says, and of one size with those before it."""
        strangers = any(model.model_id not in keys for model in reader.models)
        if reader.header.split != self.split or reader.num_pairs != pairs or strangers:
            raise damaged(reader.path)
        if self._paths and reader.image_size != self.image_size:
            raise UserError(
                f"{reader.path}: images of {reader.image_size[1]} px, others are of {self.image_size[1]} px: "
                "give datasets of one --image-size"
            )

    def cameras(self) -> tuple[Tensor, Tensor]:
        """Distance (object units) and focal length (image heights) of all cameras, (P, 2) each."""
        return self.object_to_camera[..., :3, 3].norm(dim=-1), self.intrinsics[..., 1, 1] / self.image_size[0]

    def typical_camera(self) -> tuple[float, float]:
        """The medians of :meth:`cameras`."""
        distance, focal = (values.median() for values in self.cameras())
        return round(float(distance), 2), round(float(focal), 4)

    def fingerprint(self) -> str:
        """SHA-256 over the checksums of the split's shards, in order."""
        digest = hashlib.sha256(self.split.encode())
        for manifest in self.manifests:
            for shard in manifest.shards:
                if shard.split == self.split:
                    digest.update(shard.sha256.encode())
        return digest.hexdigest()

    def _locate(self, index: int) -> tuple[int, int]:
        """Shard and row of a pair."""
        shard = int(np.searchsorted(self._ends, index, side="right")) - 1
        return shard, index - int(self._ends[shard])

    def _read_images(self, name: str, indices: Sequence[int], out: np.ndarray) -> np.ndarray:
        """Read "rgba" or "depth" of pairs into ``out`` (len(indices), ...)."""
        for target, index in zip(out, indices, strict=True):
            shard, row = self._locate(index)
            try:
                self._image_tables(shard)[name].read_into(target, row)
            except (KeyError, OSError, RuntimeError, ValueError) as error:
                raise damaged(self._paths[shard], error) from None
        return out

    def _image_tables(self, shard: int) -> dict[str, ImageReader]:
        """The image datasets of a shard. Kept open: finding them by name takes as long as reading a pair."""
        if self._pid != os.getpid():  # a forked worker must not share the parent's file handles
            self._open, self._pid = OrderedDict(), os.getpid()
        if shard in self._open:
            self._open.move_to_end(shard)
        else:
            if len(self._open) >= _MAX_OPEN_SHARDS:
                self._open.popitem(last=False)[1]["rgba"].close()
            file = h5py.File(self._paths[shard], "r", rdcc_nbytes=0)
            require_filters(file["rgba"], self._paths[shard])
            self._open[shard] = {name: ImageReader(file[name]) for name in ("rgba", "depth")}
        return self._open[shard]


_PAIR_FIELDS = ("object_to_camera", "intrinsics", "R", "t", "model_index", "shape_index")


class _Buffers:
    """Memory for batches of images. It is used again once nobody holds the tensors made of it, because the operating
    system takes longer to hand out fresh memory than a batch takes to be copied."""

    _KEPT = 4

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple:
        return _Buffers, ()  # other processes have their own

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """A uint8 tensor of any content that shares memory with no other tensor in use."""
        with self._lock:
            for number in range(len(self._arrays)):
                # One reference is the list's, one the argument's; a tensor, and each of its views, holds a third.
                if self._arrays[number].shape == shape and sys.getrefcount(self._arrays[number]) == 2:
                    return torch.from_numpy(self._arrays[number])
            self._arrays = [np.empty(shape, np.uint8), *self._arrays[: self._KEPT - 1]]
            return torch.from_numpy(self._arrays[0])


def couples(shape_index: np.ndarray) -> np.ndarray:
    """Pairs two by two, as many as possible with one shape: int64 (P,) -> (ceil(P / 2), 2); an odd one twice."""
    order = np.argsort(shape_index, kind="stable")
    _, first, inverse, count = np.unique(shape_index[order], return_index=True, return_inverse=True, return_counts=True)
    coupled = np.arange(len(order)) - first[inverse] < count[inverse] // 2 * 2
    rest = order[~coupled]
    return np.concatenate([order[coupled], rest, rest[-1:] if len(rest) % 2 else rest[:0]]).reshape(-1, 2)


def epoch_order(num_pairs: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the pairs in an epoch, int64 (P,): a pure function of its arguments, the same on every machine."""
    # RandomState: numpy promises never to change its streams.
    bits = np.random.MT19937(np.random.SeedSequence([seed, epoch]))
    return np.random.RandomState(bits).permutation(num_pairs)


class PairSampler(Sampler[list[int]]):
    """Batches of indices cut from one endless stream: epoch 0 in its order, then epoch 1, and so on.

    Sample k of the stream is ``epoch_order(num_pairs, seed, k // num_pairs)[k % num_pairs]``, whatever the number of
    workers, processes and restarts; a batch may run over the end of an epoch. The whole state is a count of samples.
    With ``groups``, it is the groups that are shuffled, and sample k is one of group ``k // T``.

    Args:
        num_pairs: P. batch_size: pairs per step over all processes together.
        start: samples already consumed over all processes (0, or steps × batch size of the run to go on with).
        num_batches: how many batches to give.
        rank, world_size: this process gets its share, in order of rank, of every batch.
        groups: int64 (G, T), pairs that follow each other in the stream, see :func:`couples`; by default each by
            itself.
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
        groups: np.ndarray | None = None,
    ):
        if num_pairs < 1:
            raise ValueError("no pairs to sample from")
        if batch_size % world_size:
            raise UserError(
                f"batch size {batch_size}: cannot be shared by {world_size} processes: take a multiple of it"
            )
        self.groups = np.arange(num_pairs)[:, None] if groups is None else groups
        self.batch_size, self.seed = batch_size, seed
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
                group, place = divmod(sample, self.groups.shape[1])
                if group // len(self.groups) != epoch:
                    epoch = group // len(self.groups)
                    order = epoch_order(len(self.groups), self.seed, epoch)
                indices.append(int(self.groups[order[group % len(self.groups)], place]))
            yield indices


class PairLoader:
    """Iterable over :meth:`PairDataset.batch` of each batch of ``sampler``, in its order, which workers read ahead.

    Workers write images into slots of one piece of shared memory that lives as long as the iteration. A DataLoader by
    itself gets new shared memory for every tensor, which takes longer than reading the images from the shards.

    Args:
        num_workers: processes; 0 reads in this one.
        options: passed on to the workers' DataLoader (``prefetch_factor``, ``multiprocessing_context``, ...).
    """

    def __init__(self, dataset: PairDataset, sampler: PairSampler, num_workers: int = 0, **options):
        self.dataset, self.sampler, self.num_workers, self._options = dataset, sampler, num_workers, options

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        if not self.num_workers or self.dataset.model_index.device.type != "cpu":  # a GPU does not need them
            yield from map(self.dataset.batch, self.sampler)
            return
        options = {"prefetch_factor": 2, **self._options}
        # A DataLoader asks for the next batch before it hands one out, so one more slot is in use than it looks ahead.
        slots = self._share_slots(1 + self.num_workers * options["prefetch_factor"])
        filler, tasks = _SlotFiller(self.dataset, slots), _SlotTasks(self.sampler, len(slots))
        loader = DataLoader(filler, sampler=tasks, batch_size=None, num_workers=self.num_workers, **options)
        for (slot, indices), error in zip(tasks, loader, strict=True):
            if error is not None:
                raise error
            indices = torch.tensor(indices)
            rgba = self.dataset._buffers.take((len(indices), *slots.shape[2:])).copy_(slots[slot])
            yield {"rgba": rgba, **self.dataset.gather_poses(indices)}

    def _share_slots(self, count: int) -> Tensor:
        """uint8 (count, B, 2, H, W, 4) in shared memory."""
        shape = (count, self.sampler.batch_size // self.sampler.world_size, 2, *self.dataset.image_size, 4)
        try:
            return torch.empty(shape, dtype=torch.uint8).share_memory_()
        except RuntimeError:
            raise UserError(
                f"{self.num_workers} workers need {np.prod(shape) / 2**20:.0f} MiB of shared memory, more than there "
                "is: use fewer, or give the container more (docker run --shm-size)"
            ) from None


class _SlotTasks(Sampler[tuple[int, list[int]]]):
    """The batches of a sampler, each with the slot to read it into."""

    def __init__(self, sampler: PairSampler, num_slots: int):
        self._sampler, self._num_slots = sampler, num_slots

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        return ((number % self._num_slots, indices) for number, indices in enumerate(self._sampler))


class _SlotFiller(Dataset):
    """What a worker does: reads a batch into a slot; returns None, or the error, for its message to stay one line."""

    def __init__(self, dataset: PairDataset, slots: Tensor):
        self._dataset, self._slots = dataset, slots

    def __getitem__(self, task: tuple[int, list[int]]) -> UserError | None:
        slot, indices = task
        try:
            self._dataset.gather_images(torch.tensor(indices), self._slots[slot])
        except UserError as error:
            return error
        return None


_ModelKey = tuple[str, str, str]


def _model_key(manifest: Manifest, entry: ModelEntry) -> _ModelKey:
    # Two folders may use one name for two shapes; the geometry tells them apart where it is known.
    return manifest.category, entry.model_id, entry.geometry


class _Shapes:
    """Numbers of the models and shapes of many shards, and what is known of each shape.

    Attributes:
        models: number of each model. keypoints: names and points (S, 3) of each shape.
    """

    def __init__(self) -> None:
        self.models: dict[_ModelKey, int] = {}
        self.keypoints: list[tuple[tuple[str, ...], np.ndarray | None]] = []
        self._of_model: dict[int, int] = {}  # shapes of models as they are

    def number(self, reader: ShardReader, keys: dict[str, _ModelKey]) -> tuple[np.ndarray, np.ndarray]:
        """Model and shape of every pair of a shard, int64 (P,) each."""
        models = [self.models.setdefault(keys[entry.model_id], len(self.models)) for entry in reader.models]
        rows = reader.read("model_index")
        if reader.header.deforms:
            shapes = len(self.keypoints) + np.arange(reader.num_pairs)
            self.keypoints += [(reader.header.keypoint_names, None)] * reader.num_pairs
            return np.array(models)[rows], shapes
        shapes = [self._of(model, reader, row) for row, model in enumerate(models)]
        return np.array(models)[rows], np.array(shapes)[rows]

    def _of(self, model: int, reader: ShardReader, row: int) -> int:
        """The shape of a model as it is, that of row ``row`` of a shard."""
        own = reader.header.keypoint_names, reader.semantic_keypoints(row)
        if model not in self._of_model:
            self._of_model[model] = len(self.keypoints)
            self.keypoints.append(own)
        elif not _known(self.keypoints[self._of_model[model]][1]):  # another folder may know them
            self.keypoints[self._of_model[model]] = own
        return self._of_model[model]


def _known(points: np.ndarray | None) -> bool:
    return points is not None and bool(np.isfinite(points).any())


def _join_keypoints(tables: list[tuple[tuple[str, ...], np.ndarray | None]]) -> tuple[tuple[str, ...], Tensor]:
    """Semantic keypoints of all shapes under the union of their names, NaN where a shape lacks one."""
    names = tuple(dict.fromkeys(name for own, _ in tables for name in own))
    joined = torch.full((len(tables), len(names), 3), torch.nan)
    for row, (own, points) in enumerate(tables):
        if points is not None:
            joined[row, [names.index(name) for name in own]] = torch.from_numpy(points)
    return names, joined
