"""How fast training is beside the paper's network, and where a step's time goes: python benchmarks/train.py

Rows take turns, several rounds, one thread; the figure is the median, in seconds of CPU time, which other programs on
the machine hardly touch. The peer is the network of --preset paper (tests/test_golden.py: the official graph's numbers)
in the same framework, at the paper's 128 pixels and at 64, also with our bfloat16. A step is all of it: loading from
memory, augmentation, forward, objective, backward, clipping, optimiser, average. The peers' batches are smaller, for
they take long.

With --gpu the same on a GPU, in seconds of the clock: --preset gpu as a CUDA graph and kernel by kernel, beside the
paper's network: python benchmarks/train.py --gpu

With --race SECONDS it also trains --preset cpu until the median error of validation pairs is below 10 degrees, at most
for so long, and --preset paper (--batch-size 16) for the time that took: python benchmarks/train.py --race 1200
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import torch
from torch.profiler import ProfilerActivity, profile

from data.dataset import PairDataset
from render.config import RenderConfig
from render.pipeline import render_dataset
from render.views import ViewSettings
from train import losses, schedules
from train.config import TrainConfig, make_config
from train.cuda_graph import GraphedStep
from train.loader import make_pair_loader
from train.trainer import (
    choose_device,
    keep_freed_memory,
    loss_terms,
    optimizer_step,
    prepare,
    settle,
    start,
    training_step,
)

GOAL_DEGREES = 10
PHASES = ("loading", "augmentation", "forward, objective", "backward", "clip, optimiser", "average")


def steps(config: TrainConfig, pairs: PairDataset) -> Iterator[list[float]]:
    """Training steps as ``train.trainer`` takes them; gives the CPU seconds of each of ``PHASES``."""
    config = settle(config, "cpu", pairs)
    state = start(config)
    loader = iter(make_pair_loader(pairs, config, 0, "cpu"))
    for step in count():
        marks = [time.process_time()]
        stored = next(loader)
        marks.append(time.process_time())
        batch = prepare(stored, pairs, config, step)
        marks.append(time.process_time())
        terms = loss_terms(state.network, batch, config, step)
        loss = losses.objective(terms, schedules.loss_weights(config, step)).mean()
        marks.append(time.process_time())
        loss.backward()
        marks.append(time.process_time())
        optimizer_step(state.network, state.optimizer, config, step)
        marks.append(time.process_time())
        state.average.update(schedules.average_weight(config, step))
        marks.append(time.process_time())
        yield [after - before for before, after in zip(marks, marks[1:])]


def compare(pairs: PairDataset, rounds: int, peer_batch: int) -> None:
    ours = make_config("cpu")
    rows = {f"--preset cpu, {ours.image_size} px, batch {ours.batch_size}": ours}
    for size, precision in ((128, "float32"), (64, "float32"), (64, "bfloat16")):
        peer = make_config("paper", image_size=size, batch_size=peer_batch, precision=precision)
        rows[f"the paper's network, {size} px, {precision}, batch {peer_batch}"] = peer
    running = {name: steps(config, pairs) for name, config in rows.items()}
    times: dict[str, list[list[float]]] = {name: [] for name in rows}
    for run in running.values():
        next(run)
    for _ in range(rounds):
        for name, run in running.items():
            times[name] += [next(run) for _ in range(5 if rows[name] is ours else 1)]
    rates = {
        name: rows[name].batch_size / statistics.median(sum(step) for step in taken) for name, taken in times.items()
    }
    first = next(iter(rates.values()))
    for name, rate in rates.items():
        print(
            f"{name:52s} {rate:8.2f} pairs/s"
            + ("" if rate == first else f"   ours is {first / rate:.0f} times as fast")
        )

    print("where the time of a step of --preset cpu goes:")
    taken = next(iter(times.values()))
    medians = [statistics.median(step[i] for step in taken) for i in range(len(PHASES))]
    for phase, seconds in zip(PHASES, medians):
        print(f"{phase:20s} {seconds * 1e3:7.2f} ms {seconds / sum(medians):6.1%}")
    profiled = next(iter(running.values()))
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(5):
            next(profiled)
    shares = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    total = sum(shares.values())
    print("operators of the same step, by torch.profiler:")
    shown = {"Procrustes' SVD": sum(v for k, v in shares.items() if "svd" in k or "NearestRotation" in k)}
    shown |= dict(sorted(shares.items(), key=lambda item: -item[1])[:8])
    for name, value in shown.items():
        print(f"{name:40s} {value / total:6.1%}")


def compare_on_gpu(folder: Path, peer_batch: int, steps: int = 50) -> None:
    """Pairs per second of whole training steps, images on the GPU."""
    rows = {
        "--preset gpu, a CUDA graph": make_config("gpu"),
        "--preset gpu, kernel by kernel": make_config("gpu", cuda_graph=False),
    }
    for precision in ("float32", "bfloat16"):
        peer = make_config("paper", batch_size=peer_batch, precision=precision, cuda_graph=False)
        rows[f"the paper's network, 128 px, {precision}"] = peer
    first = None
    for name, config in rows.items():
        pairs = PairDataset(folder, "train")
        device = choose_device("cuda")
        config = settle(config, device, pairs)
        state = start(config)
        take_step = partial(training_step, state.network, state, pairs, config)
        if config.cuda_graph:
            take_step = GraphedStep(take_step)
        loader = iter(make_pair_loader(pairs, config, 0, device))
        for step in range(10 + steps):
            if step == 10:
                torch.cuda.synchronize()
                began = time.perf_counter()
            take_step(next(loader), step)
        torch.cuda.synchronize()
        seconds = (time.perf_counter() - began) / steps
        rate = config.batch_size / seconds
        first = first or rate
        print(
            f"{name:42s} batch {config.batch_size:4d} {1e3 * seconds:8.1f} ms {rate:8.0f} pairs/s"
            + ("" if rate == first else f"   the graph is {first / rate:.1f} times as fast"),
            flush=True,
        )


def race(dataset: Path, folder: Path, limit: float) -> None:
    """Time that --preset cpu takes to the goal, and where --preset paper is after as long."""
    seconds = train_until_goal(dataset, folder / "ours", limit, "--preset", "cpu", "--validate-every", "100")
    train_until_goal(
        dataset, folder / "paper", seconds, "--preset", "paper", "--batch-size", "16", "--validate-every", "20"
    )


def train_until_goal(dataset: Path, run: Path, limit: float, *options: str) -> float:
    """Train until the goal, at most ``limit`` seconds of wall time; gives the time it took."""
    command = [sys.executable, ROOT / "cli.py", "train", dataset, run, "--device", "cpu", "--log-every", "10", *options]
    start = time.monotonic()
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and time.monotonic() - start < limit and not reached(run):
            time.sleep(0.5)
        seconds = time.monotonic() - start
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    errors = medians(run)
    done = "not even one validation" if not errors else f"median {errors[-1][1]:.1f} degrees at step {errors[-1][0]}"
    print(f"{' '.join(options)}: {done} after {seconds:.0f} s", flush=True)
    return seconds


def medians(run: Path) -> list[tuple[int, float]]:
    """(step, median error in degrees) of the validations so far."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    logged = [json.loads(line) for line in lines if line.endswith("\n")]
    name = "validation_error_median_deg"
    return [(line["step"], line[name]) for line in logged if name in line]


def reached(run: Path) -> bool:
    return any(error < GOAL_DEGREES for _, error in medians(run))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peer-batch", type=int, default=4, help="pairs per step of the paper's network")
    parser.add_argument("--models", type=int, default=64, help="built-in aeroplanes; --race needs a thousand or more")
    parser.add_argument("--gpu", action="store_true", help="see above")
    parser.add_argument("--race", type=float, metavar="SECONDS", help="see above")
    arguments = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.race:
            race(render(Path(folder) / "planes", max(arguments.models, 1500)), Path(folder), arguments.race)
            return
        if arguments.gpu:
            print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
            compare_on_gpu(render(Path(folder) / "planes", arguments.models), 16 * arguments.peer_batch)
            return
        torch.set_num_threads(1)
        print(f"{os.cpu_count()} cores, one used, PyTorch {torch.__version__}")
        dataset = render(Path(folder) / "planes", arguments.models)
        compare(PairDataset(dataset, "train").load(), arguments.rounds, arguments.peer_batch)


def render(folder: Path, models: int) -> Path:
    views = ViewSettings(image_size=128)
    render_dataset(RenderConfig(folder, category="airplane", models=models, pairs_per_model=8, views=views))
    return folder


if __name__ == "__main__":
    main()
