"""Latency of an exported detector in onnxruntime beside PyTorch: python benchmarks/onnx.py [RUN]

Both run the same network on the same images, on one thread; they take turns, and a figure is the median over rounds of
the processor's time, which other work on the machine disturbs least. "API" is train.api.detect, from a picture in
memory to points.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# Behind the packages: this file is called onnx, like the package that the export needs.
sys.path[:] = [*sys.path[1:], str(Path(__file__).parents[1])]

import numpy as np
import onnxruntime
import torch

from train.api import detect, load
from train.eval.onnx_export import INPUT, ExportedDetector, export_onnx


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", default="airplane", help="run folder, or name of shipped weights")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "detector.onnx"
        export_onnx(arguments.run, file)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        size_mb = file.stat().st_size / 1e6
    detector = load(arguments.run)
    model = ExportedDetector(detector).eval()
    print(f"{arguments.run}: {detector.image_size} px, one thread, {size_mb:.1f} MB as ONNX, "
          f"onnxruntime {onnxruntime.__version__}, PyTorch {torch.__version__}")  # fmt: skip

    print("| images at once | PyTorch, ms an image | onnxruntime, ms an image | PyTorch / onnxruntime |")
    print("|---|---|---|---|")
    for batch_size in arguments.batch_sizes:
        images = np.random.default_rng(0).random((batch_size, 4, *[detector.image_size] * 2), np.float32)
        in_torch, in_onnxruntime = compare(
            lambda images=torch.from_numpy(images): model(images),
            lambda images=images: session.run(None, {INPUT: images}),
            rounds=arguments.rounds,
        )
        per_image = [1000 * seconds / batch_size for seconds in (in_torch, in_onnxruntime)]
        print(f"| {batch_size} | {per_image[0]:.2f} | {per_image[1]:.2f} | {in_torch / in_onnxruntime:.2f} |")

    picture = np.zeros((480, 640, 4), np.uint8)
    picture[100:400, 150:500] = 200
    (seconds,) = compare(lambda: detect(detector, picture), rounds=arguments.rounds)
    print(f"API: {1000 * seconds:.1f} ms a picture of 640 x 480 px")


@torch.inference_mode()
def compare(*calls: Callable[[], object], rounds: int) -> list[float]:
    """Median processor seconds of each call; they take turns."""
    seconds: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    for _ in range(rounds):
        for call, own in zip(calls, seconds, strict=True):
            start = time.process_time()
            call()
            own.append(time.process_time() - start)
    return [statistics.median(own) for own in seconds]


if __name__ == "__main__":
    main()
