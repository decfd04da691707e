"""How fast views are rendered, side by side with the loop that pyrender's documentation shows.

    python benchmarks/render.py                        # built-in shapes, written to OBJ files first
    python benchmarks/render.py --meshes DIR [DIR...]  # ShapeNetCore category folders or any folders of meshes

Every figure is of a whole command in a process of its own: start-up, loading, rendering, compression (gzip 1) and
writing. RGBA and depth of pairs of views are stored by all. The peer reads the same meshes, with one OffscreenRenderer
and one `render` call per view.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PEER = """
import sys
import h5py, numpy as np, pyrender, trimesh
from data.schema import split_of
from render.pipeline import pair_rng
from render.sources import discover
from render.views import ViewSettings, sample_pair
from pathlib import Path

folder, out, models, pairs, size = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
renderer = pyrender.OffscreenRenderer(size, size)
sources = discover(folder)[:models]
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
"""


def run(command: list[str]) -> tuple[float, float]:
    """Seconds and peak memory (MiB, largest process) of a command."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYOPENGL_PLATFORM": "egl"}
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(errors.decode()[-2000:])
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def ours(meshes: Path, models: int, pairs: int, size: int = 128, workers: int | None = None, backend: str = "embree"):
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, str(ROOT / "cli.py"), "render", folder, "--meshes", str(meshes), "--models", str(models),
            "--pairs-per-model", str(pairs), "--image-size", str(size), "--backend", backend,
        ]  # fmt: skip
        return run(command + (["--workers", str(workers)] if workers else []))


def peer(meshes: Path, models: int, pairs: int, size: int = 128):
    with tempfile.TemporaryDirectory() as folder:
        return run([sys.executable, "-c", PEER, str(meshes), f"{folder}/out.h5", str(models), str(pairs), str(size)])


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


def write_ball(folder: Path, faces: int) -> Path:
    """A dented ball of at least so many faces, alone in a folder."""
    import trimesh

    mesh = trimesh.creation.icosphere(int(np.ceil(np.log(faces / 20) / np.log(4))))
    mesh.vertices *= 1 + 0.1 * np.sin(9 * mesh.vertices).prod(1, keepdims=True)
    target = folder / f"ball-{len(mesh.faces)}"
    target.mkdir()
    mesh.export(target / "ball.ply")
    return target


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def report(name: str, views: int, measured: tuple[float, float], reference: float | None) -> float:
    """Print a line of the table; returns views per second."""
    rate = views / measured[0]
    row(name, f"{rate:.0f}", f"{rate / reference:.1f}" if reference else "", f"{measured[1]:.0f}")
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meshes", type=Path, nargs="+", help="folders of meshes, by default built-in shapes")
    parser.add_argument("--models", type=int, default=40, help="models per folder (the peer renders a tenth of them)")
    parser.add_argument("--pairs", type=int, default=16, help="pairs per model")
    parser.add_argument("--backends", nargs="+", default=["embree"], help="embree, egl")
    parser.add_argument("--scaling", action="store_true", help="also by workers, image size and number of faces")
    arguments = parser.parse_args()
    models, pairs = arguments.models, arguments.pairs
    few = max(1, models // 10)
    with tempfile.TemporaryDirectory() as scratch:
        folders = arguments.meshes or write_shapes(Path(scratch), models)
        row("command", "views/s", "times the peer", "peak MiB per process")
        row("---", "---", "---", "---")
        for folder in folders:
            reference = report(f"{folder.name}, peer", 2 * few * pairs, peer(folder, few, pairs), None)
            for backend in arguments.backends:
                measured = ours(folder, models, pairs, backend=backend)
                report(f"{folder.name}, {backend}", 2 * models * pairs, measured, reference)
        if not arguments.scaling:
            return
        folder = folders[0]
        for workers in (1, 2, 4, 8, 16):
            if workers <= 2 * (os.cpu_count() or 1):
                measured = ours(folder, models, pairs, workers=workers)
                report(f"{folder.name}, {workers} workers", 2 * models * pairs, measured, None)
        for size in (64, 128, 256):
            reference = report(f"{folder.name}, {size} px, peer", 2 * few * pairs, peer(folder, few, pairs, size), None)
            report(f"{folder.name}, {size} px", 2 * models * pairs, ours(folder, models, pairs, size), reference)
        for faces in (20_000, 200_000, 1_000_000):
            ball = write_ball(Path(scratch), faces)
            reference = report(f"{ball.name}, peer", 2 * pairs, peer(ball, 1, pairs), None)
            report(ball.name, 8 * 2 * pairs, ours(ball, 1, 8 * pairs), reference)


if __name__ == "__main__":
    main()
