"""How fast views are rendered, side by side with the loop that pyrender's documentation shows.

    python benchmarks/render.py                        # built-in shapes, written to PLY files first
    python benchmarks/render.py --meshes DIR [DIR...]  # ShapeNetCore category folders or any folders of meshes

Our figures are of the whole command in processes of its own: start-up, loading, rendering, compression (gzip 1) and
writing. RGBA and depth of pairs of views are stored by all. The peer reads the same meshes, with one OffscreenRenderer
and one `render` call per view; it renders fewer of them, as many pairs of each, so its start-up alone is left out of
its time. Peer and ours take turns, several rounds; figures are medians. Processor time tells the same on a machine that
is busy otherwise.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PEER = """
import sys
import time
import h5py, numpy as np, pyrender, trimesh
from data.schema import split_of
from render.pipeline import pair_rng
from render.sources import discover
from render.views import ViewSettings, sample_pair
from pathlib import Path

folder, out, models, pairs, size = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
renderer = pyrender.OffscreenRenderer(size, size)
sources = discover(folder)[:models]
clock, cpu = -time.perf_counter(), -time.process_time()
with h5py.File(out, "w") as file:
    packed = {"compression": "gzip", "compression_opts": 1}
    count, shape = len(sources) * pairs, (2, size, size)
    rgba = file.create_dataset("rgba", (count, *shape, 4), "u1", chunks=(1, *shape, 4), **packed)
    depth = file.create_dataset("depth", (count, *shape), "u2", chunks=(1, *shape), **packed)
    for number, source in enumerate(sources):
        loaded = trimesh.load_mesh(source.path)
        loaded.apply_translation(-loaded.bounds.mean(0))
        loaded.apply_scale(2 / loaded.extents.max())
        scene = pyrender.Scene(bg_color=[0, 0, 0, 0], ambient_light=[0.3] * 3)
        scene.add(pyrender.Mesh.from_trimesh(loaded))
        light = scene.add(pyrender.DirectionalLight(intensity=3.0))
        for pair in range(pairs):
            poses, cameras = sample_pair(pair_rng(0, source.model_id, pair), ViewSettings(size))
            for view in range(2):
                k = cameras[view]
                camera = pyrender.IntrinsicsCamera(k[0, 0], k[1, 1], k[0, 2], k[1, 2], znear=20, zfar=40)
                pose = np.linalg.inv(poses[view]) @ np.diag([1.0, -1, -1, 1])
                node = scene.add(camera, pose=pose)
                scene.set_pose(light, pose)
                color, z = renderer.render(scene, pyrender.RenderFlags.RGBA)
                scene.remove_node(node)
                rgba[number * pairs + pair, view] = color
                depth[number * pairs + pair, view] = np.where(z > 0, (z - 20) * 3000, 0)
print(clock + time.perf_counter(), cpu + time.process_time())
"""


class Cost(NamedTuple):
    """Of a command: seconds of the clock, of all its processors, and the memory (MiB) of its largest process."""

    clock: float
    cpu: float
    memory: float


def run(command: list[str]) -> tuple[Cost, str]:
    """What a command cost and printed."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, "PYOPENGL_PLATFORM": "egl"}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        clock = time.perf_counter() - start
        output.seek(0)
        errors.seek(0)
        if status:
            raise SystemExit(errors.read()[-2000:])
        return Cost(clock, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024), output.read()


def ours(
    meshes: Path, models: int, pairs: int, size: int = 128, workers: int | None = None, backend: str = "embree"
) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, str(ROOT / "cli.py"), "render", folder, "--meshes", str(meshes), "--models", str(models),
            "--pairs-per-model", str(pairs), "--image-size", str(size), "--backend", backend,
        ]  # fmt: skip
        return run(command + (["--workers", str(workers)] if workers else []))[0]


def peer(meshes: Path, models: int, pairs: int, size: int = 128) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        whole, printed = run(
            [sys.executable, "-c", PEER, str(meshes), f"{folder}/out.h5", str(models), str(pairs), str(size)]
        )
    clock, cpu = map(float, printed.split()[-2:])
    return Cost(clock, cpu, whole.memory)


def write_shapes(folder: Path, count: int) -> list[Path]:
    """Built-in shapes as meshes of their own, a folder per category."""
    import trimesh

    from render.shapes import CATEGORIES, generate

    for category in CATEGORIES:
        (folder / category).mkdir()
        for index in range(count):
            mesh = generate(category, 0, index)
            colored = trimesh.Trimesh(mesh.vertices, mesh.faces, face_colors=mesh.colors[:, 0], process=False)
            colored.export(folder / category / f"{index:04d}.ply")
    return [folder / category for category in CATEGORIES]


def write_balls(folder: Path, faces: int, count: int) -> Path:
    """Dented balls of about so many faces, alone in a folder."""
    import trimesh

    target = folder / f"{faces} faces"
    target.mkdir()
    side = round((faces / 4) ** 0.5)
    for index in range(count):
        mesh = trimesh.creation.uv_sphere(count=[side, side])
        mesh.vertices *= 1 + 0.1 * np.sin((9 + index) * mesh.vertices).prod(1, keepdims=True)
        mesh.export(target / f"{index}.ply")
    return target


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def compare(rounds: int, candidates: dict[str, tuple[int, Callable[[], Cost]]]) -> None:
    """Measure candidates (name -> number of views, command) in turn, and print a row for each;
    the first is the peer."""
    costs: dict[str, list[Cost]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, (_, command) in candidates.items():
            costs[name].append(command())
    reference = None
    for name, (views, _) in candidates.items():
        clock, cpu, memory = (statistics.median(values) / views for values in zip(*costs[name]))
        reference = reference or (clock, cpu)
        ratios = (f"{reference[0] / clock:.1f}", f"{reference[1] / cpu:.1f}") if (clock, cpu) != reference else ("", "")
        row(name, f"{1 / clock:.0f}", ratios[0], f"{1000 * cpu:.2f}", ratios[1], f"{memory * views:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meshes", type=Path, nargs="+", help="folders of meshes, by default built-in shapes")
    parser.add_argument("--models", type=int, default=160, help="models per folder, at most")
    parser.add_argument("--pairs", type=int, default=16, help="pairs per model")
    parser.add_argument("--peer-models", type=int, default=3, help="models that the peer renders")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--backends", nargs="+", default=["embree"], help="embree, egl")
    parser.add_argument("--scaling", action="store_true", help="also by workers, image size and number of faces")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        benchmark(Path(scratch), arguments)


def benchmark(scratch: Path, arguments: argparse.Namespace) -> None:
    from render.sources import discover

    pairs, rounds, few = arguments.pairs, arguments.rounds, arguments.peer_models
    row("command", "views/s", "times the peer", "processor ms per view", "times the peer", "peak MiB per process")
    row("---", "---", "---", "---", "---", "---")

    def versus_peer(name: str, folder: Path, models: int, pairs: int, peer_models: int, size: int = 128):
        commands = {f"{name}, peer": (2 * peer_models * pairs, partial(peer, folder, peer_models, pairs, size))}
        for backend in arguments.backends:
            command = partial(ours, folder, models, pairs, size, backend=backend)
            commands[f"{name}, {backend}"] = (2 * models * pairs, command)
        compare(rounds, commands)

    folders = arguments.meshes or write_shapes(scratch, arguments.models)
    for folder in folders:
        models = min(arguments.models, len(discover(folder)))
        versus_peer(folder.name, folder, models, pairs, min(few, models))
    if not arguments.scaling:
        return
    folder = folders[0]
    models = min(arguments.models, len(discover(folder)))
    for workers in (1, 2, 4, 8, 16):
        if workers <= (os.cpu_count() or 1):
            command = partial(ours, folder, models, pairs, workers=workers)
            compare(1, {f"{folder.name}, workers: {workers}": (2 * models * pairs, command)})
    for size in (64, 256):
        versus_peer(f"{folder.name}, {size} px", folder, models, pairs, 1, size)
    for faces in (200_000, 1_000_000):
        balls = write_balls(scratch, faces, 4)
        versus_peer(balls.name, balls, 4, 2 * pairs, 1)


if __name__ == "__main__":
    main()
