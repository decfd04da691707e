"""Memory of a long rendering, which must stay flat: of the program and its workers, as the models go by.

    python benchmarks/memory.py [--models 4000]
"""

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from render.pipeline import PARTS, RenderConfig, render_dataset
from render.views import ViewSettings


def resident(process: str) -> int:
    """MiB of a process and of those it started."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        children = " ".join(path.read_text() for path in Path(f"/proc/{process}/task").glob("*/children")).split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return (pages >> 8) + sum(map(resident, children))


def watch(parts: Path, step: int, ended: threading.Event) -> None:
    """Print the memory after every ``step`` models."""
    rendered = step
    while not ended.wait(0.2):
        done = sum(1 for _ in parts.glob("*.h5"))
        if done >= rendered:
            print(f"{done:7} {resident('self'):7}", flush=True)
            rendered = done + step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=4000)
    models = parser.parse_args().models
    with tempfile.TemporaryDirectory() as folder:
        config = RenderConfig(
            Path(folder), category="chair", models=models, pairs_per_model=2, views=ViewSettings(64), progress=False
        )
        ended = threading.Event()
        watcher = threading.Thread(target=watch, args=(Path(folder) / PARTS, max(1, models // 10), ended))
        print(" models     MiB")
        watcher.start()
        start = time.monotonic()
        try:
            render_dataset(config)
        finally:
            ended.set()
            watcher.join()
        print(f"{models:7} {resident('self'):7}  the shards are written; {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
