"""What a run tells while it trains: progress bar, ``metrics.jsonl``, TensorBoard."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from data.atomic import errors_named, write_bytes
from train import distributed

METRICS_NAME = "metrics.jsonl"
# What shows how far a training is must not end it: a closed pipe, or a terminal without a degree sign.
_UNSEEN = suppress(OSError, UnicodeError)


class Logger:
    """Progress bar, ``metrics.jsonl`` and TensorBoard events of a run. All processes count, the main one writes."""

    def __init__(self, run: Path, step: int, steps: int):
        self._main = distributed.is_main()
        if self._main:
            self._path = run / METRICS_NAME
            write_bytes(self._path, b"".join(whole_lines(self._path, step)))
            self._board = SummaryWriter(run / "tensorboard", purge_step=step + 1)
        self._progress = tqdm(
            total=steps, initial=step, desc="train", unit="step", dynamic_ncols=True, disable=not self._main
        )
        self._clear()

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *exception) -> None:
        with _UNSEEN:
            self._progress.close()
        if self._main:
            self._board.close()

    def _clear(self) -> None:
        self._sums: Tensor | float = 0.0
        self._steps = 0
        self._started = time.monotonic()

    def count(self, values: dict[str, Tensor]) -> None:
        """Add a step's values, of any shape, to the running means."""
        self._names = tuple(values)
        self._sums = self._sums + torch.stack([value.detach().mean() for value in values.values()])
        self._steps += 1
        with _UNSEEN:
            self._progress.update()

    def means(self) -> dict[str, float]:
        """Means since the last call, over the pairs of all processes; and the steps per second."""
        means = dict(zip(self._names, (distributed.mean(self._sums) / self._steps).tolist()))
        means["steps_per_second"] = self._steps / (time.monotonic() - self._started)
        self._clear()
        return means

    @contextmanager
    def time_out(self) -> Iterator[None]:
        """What is done within does not count for the steps per second."""
        started = time.monotonic()
        yield
        self._started += time.monotonic() - started

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log all values of a step, once."""
        if not self._main:
            return
        with errors_named(self._path), open(self._path, "a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if "loss" in values:
            with _UNSEEN:
                self._progress.set_postfix_str(" ".join(f"{name[:4]} {values[name]:.3f}" for name in self._names))

    def show_validation(self, step: int, figures: dict[str, float], picture: Image.Image) -> None:
        """Tell errors on validation pairs and show their keypoints; the main process alone calls this."""
        self._board.add_image("validation", np.asarray(picture), step, dataformats="HWC")
        with _UNSEEN:
            self._progress.write(
                f"step {step}: validation error mean {figures['error_mean_deg']:.1f}°, "
                f"median {figures['error_median_deg']:.1f}°, flags right {figures['orientation_accuracy']:.1%}"
            )


@contextmanager
def no_tracebacks_of_files() -> Iterator[None]:
    """Threads that cannot write are silent: where the disk is full TensorBoard's notices first, and the main one says
    so in a line."""
    hook = threading.excepthook

    def tell(failure) -> None:
        if not issubclass(failure.exc_type, OSError):
            hook(failure)

    threading.excepthook = tell
    try:
        yield
    finally:
        threading.excepthook = hook


def whole_lines(path: Path, step: int) -> list[bytes]:
    """The lines of ``metrics.jsonl`` up to a step, but for damaged ones, as one that was cut off by a kill."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith(b"\n") and _step_of(line) <= step]


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return math.inf
