"""Where a training's batches come from: memory where all images fit, else the shards."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch

from data.dataset import PairDataset, PairLoader, PairSampler, couples
from data.errors import UserError
from data.signals import STOPS
from train import distributed
from train.config import TrainConfig


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this machine, and the container (cgroup v2) where there is one, can give;
    files in the page cache can go."""
    meminfo = dict(line.split(":") for line in (root / "proc/meminfo").read_text().splitlines())
    available = int(meminfo["MemAvailable"].split()[0]) * 1024
    cgroup = root / "sys/fs/cgroup"
    if (cgroup / "memory.max").exists() and (limit := (cgroup / "memory.max").read_text().strip()) != "max":
        usage = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        used = int((cgroup / "memory.current").read_text()) - int(usage["inactive_file"])
        available = min(available, int(limit) - used)
    return available


def fits_in_memory(pairs: PairDataset, device: str) -> bool:
    """Whether all images take at most half of what is free, here (where they are read first) and on the device."""
    free = available_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if device == "cuda":
        free = min(free, torch.cuda.mem_get_info()[0])
    height, width = pairs.image_size
    return len(pairs) * 2 * height * width * 4 < free / 2


def make_pair_loader(pairs: PairDataset, config: TrainConfig, step: int, device: str) -> PairLoader:
    """This process' share of the batches from ``step`` on, from memory where the images fit, else from the shards."""
    rank, world_size = distributed.rank(), distributed.world_size()
    batch_size, steps = config.batch_size, config.steps - step
    if config.cross_pairs and world_size > 1 and batch_size % (2 * world_size):
        raise UserError(
            f"batch size {batch_size}: {world_size} processes need an even share each to compare views across pairs: "
            f"take a multiple of {2 * world_size}, or --no-cross-pairs"
        )
    groups = couples(pairs.shape_index.numpy()) if config.cross_pairs else None
    sampler = PairSampler(len(pairs), batch_size, config.seed, steps, step * batch_size, rank, world_size, groups)
    if fits_in_memory(pairs, device):
        return PairLoader(pairs.load(device), sampler)
    # A GPU is faster than one process reads.
    workers = min(8, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))) if device == "cuda" else 0
    return PairLoader(pairs, sampler, workers, worker_init_fn=ignore_signals)


def ignore_signals(worker: int) -> None:
    """Leave what a terminal or a scheduler sends to all processes to the one that trains, which writes a checkpoint."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
