"""Memory of a long rendering, which must stay flat: of the program and its workers, as the models go by.

    python benchmarks/memory.py [--models 4000]                     # built-in shapes
    python benchmarks/memory.py --meshes DIR [DIR...] [--models 4000]   # copies of the mesh files in these folders
    python benchmarks/memory.py --heavy      # a mesh of 1.3 million faces and one with a texture of 8192 x 8192 pixels
"""

import argparse
import itertools
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from data.manifest import PARTS
from data.shard import ShardReader
from render.config import RenderConfig
from render.pipeline import render_dataset
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
    rendered, models = step, {}
    while not ended.wait(0.2):
        for path in parts.glob("*.h5"):
            if path not in models:
                with ShardReader(path) as part:
                    models[path] = len(part.models)
        done = sum(models.values())
        if done >= rendered:
            print(f"{done:7} {resident('self'):7}", flush=True)
            rendered = done + step


def copies(folders: list[Path], models: int, out: Path) -> Path:
    """A ShapeNetCore folder of so many models: those of the folders, over and over,
    as hard links where that is possible."""
    sources = sorted(path for folder in folders for path in folder.iterdir() if path.is_dir())
    for number, source in zip(range(models), itertools.cycle(sources)):
        shutil.copytree(source, out / f"{number:06d}-{source.name}", copy_function=_link)
    return out


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another disk
        shutil.copy(source, target)


def render_heavy(folder: Path) -> None:
    """Print what the command takes for two heavy meshes."""
    shape = [1, 0.6, 2]
    trimesh.creation.icosphere(subdivisions=8).apply_scale(shape).export(folder / "million.obj")
    textured = trimesh.creation.icosphere(subdivisions=5).apply_scale(shape)
    x, y, z = textured.vertices.T
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    picture = Image.fromarray(noise).resize((8192, 8192), Image.Resampling.NEAREST)
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=picture)
    uv = np.column_stack([np.arctan2(x, z) / 6.3 + 0.5, y / 1.3 + 0.5])
    textured.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    textured.export(folder / "texture.glb")
    start = time.monotonic()
    command = [sys.executable, ROOT / "cli.py", "render", folder / "out", "--meshes", folder, "--pairs-per-model", "8"]
    subprocess.run(command, check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    print(f"{time.monotonic() - start:.1f} s, the largest process took {peak} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=4000)
    parser.add_argument("--meshes", type=Path, nargs="+", default=[], help="ShapeNetCore category folders")
    parser.add_argument("--heavy", action="store_true", help="see above")
    arguments = parser.parse_args()
    models = arguments.models
    if arguments.heavy:
        with tempfile.TemporaryDirectory() as folder:
            render_heavy(Path(folder))
        return
    with tempfile.TemporaryDirectory() as folder:
        out, views = Path(folder) / "dataset", ViewSettings(64)
        config = RenderConfig(out, category="chair", models=models, pairs_per_model=2, views=views, progress=False)
        if arguments.meshes:
            config.meshes, config.category = copies(arguments.meshes, models, Path(folder) / "meshes"), None
        ended = threading.Event()
        watcher = threading.Thread(target=watch, args=(out / PARTS, max(1, models // 10), ended))
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
