"""Why gzip 1 and one pair per chunk: python benchmarks/codecs.py DATASET (pip install hdf5plugin)

Size per pair, and pairs per second of one core's time (not of the clock) for writing, for reading in order and shuffled
by h5py, and shuffled by data.shard.ImageReader, of the colour and depth images of a dataset's train split.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import h5py
import hdf5plugin
import numpy as np

from data.manifest import load_manifest
from data.shard import ImageReader, ShardReader

CODECS = {
    "none": {},
    "gzip 1": {"compression": "gzip", "compression_opts": 1},
    "gzip 4": {"compression": "gzip", "compression_opts": 4},
    "lzf": {"compression": "lzf"},
    "lz4 (hdf5plugin)": dict(hdf5plugin.LZ4()),
    "zstd 3 (hdf5plugin)": dict(hdf5plugin.Zstd(clevel=3)),
    "blosc2 lz4 (hdf5plugin)": dict(hdf5plugin.Blosc2(cname="lz4")),
}
CHUNKS = (1, 4, 16)
PAIRS = 128
REPEATS = 3


def measure(images: np.ndarray, path: Path, chunk: int, options: dict) -> tuple[float, ...]:
    """Bytes per pair, and pairs per second of writing, reading in order, reading shuffled, the same by ImageReader."""
    order = np.random.default_rng(0).permutation(len(images)).tolist()
    best = [np.inf] * 4
    for _ in range(REPEATS):
        start = time.process_time()
        with h5py.File(path, "w", libver=("v110", "v110")) as file:
            dataset = file.create_dataset(
                "x", images.shape, images.dtype, chunks=(chunk, *images.shape[1:]), fletcher32=True, **options
            )
            for first in range(0, len(images), chunk):
                dataset[first : first + chunk] = images[first : first + chunk]
        times = [time.process_time() - start]
        for rows in (range(len(images)), order):
            # Room for one chunk: without it those of 4 and 16 pairs would be unpacked for every pair, even in order.
            with h5py.File(path, rdcc_nbytes=images[:chunk].nbytes if chunk > 1 else 0) as file:
                dataset = file["x"]
                start = time.process_time()
                for row in rows:
                    dataset[row]
                times.append(time.process_time() - start)
        with h5py.File(path, rdcc_nbytes=0) as file:
            reader, target = ImageReader(file["x"]), np.empty_like(images[0])
            start = time.process_time()
            for row in order:
                reader.read_into(target, row)
            times.append(time.process_time() - start)
        best = [min(pair) for pair in zip(best, times)]
    return path.stat().st_size / len(images), *(len(images) / seconds for seconds in best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    folder = parser.parse_args().dataset
    entry = next(entry for entry in load_manifest(folder).shards if entry.split == "train")
    with ShardReader(folder / entry.file) as reader:
        arrays = {name: reader.read(name, np.s_[:PAIRS]) for name in ("rgba", "depth")}
    print(
        "| images | codec | pairs per chunk | bytes per pair | written/s | in order/s | shuffled/s | `ImageReader`/s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for (name, images), (codec, options), chunk in itertools.product(arrays.items(), CODECS.items(), CHUNKS):
            for shuffle in (False, True) if codec == "gzip 1" and name == "depth" else (False,):
                filters = {**options, "shuffle": True} if shuffle else options
                row = measure(images, Path(scratch) / "x.h5", chunk, filters)
                numbers = " | ".join(f"{value:.0f}" for value in row)
                print(f"| `{name}` | {codec}{', shuffle filter' * shuffle} | {chunk} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
