"""How fast pairs come off the disk, shuffled, beside the usual ways, in one run: python benchmarks/load.py

Peers: (a) what h5py's documentation shows, one index per array and pair, in a DataLoader; (b) WebDataset with the same
views as PNG (pip install webdataset); (c) a memory copy of the same bytes, batch by batch into the same place; and what
training with --preset cpu consumes, steps/s times batch size, with all cores. Rows take turns, in many short rounds. A
ratio is the median of the rounds' ratios, so that what else runs on the machine harms both sides. Every process reads
with one thread. All files are in the page cache.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import h5py
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.train import steps
from data.dataset import PairDataset, PairLoader, PairSampler
from data.interchange.common import encode_rgba
from data.manifest import load_manifest
from train.config import PRESETS, make_config

SPLIT = "train"
WORKERS = (0, 1, 2)
COPY, WEBDATASET, NAIVE, TRAINING = "(c) memory copy", "(b) WebDataset", "(a) naive h5py", "training, --preset cpu"
TRAINING_BATCH = PRESETS["cpu"]["batch_size"]


class NaiveDataset(Dataset):
    """One h5py index per array and pair."""

    def __init__(self, path: Path):
        self._path = path
        with h5py.File(path) as file:
            self._length = len(file["rgba"])
        self._file = None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict:
        if self._file is None:
            self._file = h5py.File(self._path)
        return {name: self._file[name][index] for name in ("rgba", "object_to_camera", "intrinsics")}


def write_gzip_copy(source: Path, target: Path) -> None:
    """The same arrays with h5py's own choices: automatic chunks, gzip."""
    with h5py.File(source) as old, h5py.File(target, "w") as new:
        for name in ("rgba", "object_to_camera", "intrinsics"):
            new.create_dataset(name, data=old[name][:], compression="gzip")


def write_png_tar(source: Path, target: Path) -> None:
    with h5py.File(source) as file, tarfile.open(target, "w") as tar:
        for row in range(len(file["rgba"])):
            poses = {name: file[name][row].tolist() for name in ("object_to_camera", "intrinsics")}
            files = {f"view{view}.png": encode_rgba(file["rgba"][row][view]) for view in range(2)}
            for name, content in {**files, "json": json.dumps(poses).encode()}.items():
                member = tarfile.TarInfo(f"{row:06d}.{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def decode_sample(sample: dict) -> dict:
    views = [np.array(Image.open(io.BytesIO(sample[f"view{view}.png"]))) for view in range(2)]
    poses = json.loads(sample["json"])
    return {"rgba": np.stack(views), **{name: np.array(value) for name, value in poses.items()}}


def make_webdataset_loader(path: Path, batch_size: int, workers: int) -> Iterator:
    import webdataset

    # resampled: every worker reads the one tar file, for ever.
    pipeline = webdataset.WebDataset(str(path), resampled=True, shardshuffle=False).shuffle(256).map(decode_sample)
    return iter(DataLoader(pipeline, batch_size=batch_size, num_workers=workers))


def endless(make: Callable[[], Iterator]) -> Iterator:
    while True:
        yield from make()


def copy_memory(images: torch.Tensor, batch_size: int) -> Iterator:
    """(c): whole batches, as they lie in memory."""
    target = torch.empty_like(images[:batch_size])
    for start in itertools.cycle(range(0, len(images) - batch_size + 1, batch_size)):
        yield target.copy_(images[start : start + batch_size])


def measure(batches: Iterator, seconds: float, ahead: int) -> float:
    """Pairs per second, after ``ahead`` batches that workers have read while other rows had their turn."""
    for _ in range(ahead):
        next(batches)
    pairs, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        batch = next(batches)
        pairs += len(batch["rgba"] if isinstance(batch, dict) else batch)
    return pairs / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--models", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=0.3, help="per row and round")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), arguments)


def run(folder: Path, arguments: argparse.Namespace) -> None:
    from render.config import RenderConfig
    from render.pipeline import render_dataset
    from render.views import ViewSettings

    size, batch_size = arguments.image_size, arguments.batch_size
    config = RenderConfig(
        folder / "set", category="car", models=arguments.models, splits=(1, 0, 0), views=ViewSettings(image_size=size)
    )
    render_dataset(config)
    (entry,) = load_manifest(folder / "set").shards
    shard = folder / "set" / entry.file
    write_gzip_copy(shard, folder / "naive.h5")
    write_png_tar(shard, folder / "png.tar")

    stored, cached = PairDataset(folder / "set", SPLIT), PairDataset(folder / "set", SPLIT).load()
    sampler = PairSampler(len(stored), batch_size, 0, 10**6)
    rows: dict[str, Iterator] = {
        COPY: copy_memory(cached._images, batch_size),
        "cached": iter(PairLoader(cached, sampler)),
    }
    for workers in WORKERS:
        naive = DataLoader(NaiveDataset(folder / "naive.h5"), batch_size, shuffle=True, num_workers=workers)
        rows[f"shards, {workers} workers"] = iter(PairLoader(stored, sampler, workers))
        rows[f"{WEBDATASET}, {workers} workers"] = make_webdataset_loader(folder / "png.tar", batch_size, workers)
        rows[f"{NAIVE}, {workers} workers"] = endless(lambda loader=naive: loader)
    rows[TRAINING] = (range(TRAINING_BATCH) for _ in steps(make_config("cpu"), cached))

    rates: dict[str, list[float]] = {name: [] for name in rows}
    threads = torch.get_num_threads()
    for number in range(arguments.rounds + 1):
        for name, batches in rows.items():
            torch.set_num_threads(threads if name == TRAINING else 1)
            ahead = 5 if "workers" in name and "0 workers" not in name else 0
            rate = measure(batches, arguments.seconds, ahead)
            if number:  # the first round starts workers and fills caches
                rates[name].append(rate)
    report(folder, stored, entry.bytes, batch_size, rates)


def report(folder: Path, dataset: PairDataset, shard_bytes: int, batch_size: int, rates: dict) -> None:
    def ratio(name: str, peer: str) -> str:
        return f"{statistics.median(a / b for a, b in zip(rates[name], rates[peer], strict=True)):.3g}"

    raw, count = dataset[0]["rgba"].numel(), len(dataset)
    sizes = {name: (folder / name).stat().st_size / count for name in ("naive.h5", "png.tar")}
    print(f"{count} pairs of {dataset.image_size[0]} px, batches of {batch_size}, {os.cpu_count()} cores, load average "
          f"{os.getloadavg()[0]:.1f}")  # fmt: skip
    print(f"bytes per pair: raw {raw}, shard {shard_bytes / count:.0f} (depth included), "
          f"naive {sizes['naive.h5']:.0f}, PNG {sizes['png.tar']:.0f}")  # fmt: skip
    for name, values in rates.items():
        rate = statistics.median(values)
        print(f"{name:28s} {rate:10.0f} pairs/s {rate * raw / 1e6:9.0f} MB/s")
    print("| workers | shards / WebDataset | shards / naive h5py | shards / training |")
    print("|---|---|---|---|")
    for workers in WORKERS:
        ours, peers = f"shards, {workers} workers", [f"{peer}, {workers} workers" for peer in (WEBDATASET, NAIVE)]
        print(f"| {workers} | " + " | ".join(ratio(ours, peer) for peer in (*peers, TRAINING)) + " |")
    print(f"cached / memory copy: {ratio('cached', COPY)}, cached / training: {ratio('cached', TRAINING)}")
    print(f"training: {statistics.median(rates[TRAINING]) / TRAINING_BATCH:.2f} steps/s of {TRAINING_BATCH} pairs")


if __name__ == "__main__":
    main()
