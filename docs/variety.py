"""Draw the pictures of docs/variety.md: a strip of pairs' first views for every option.

    python docs/variety.py --pictures FOLDER MESH...
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import click
import numpy as np
from PIL import Image

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.variety import TOGETHER  # noqa: E402
from render.backends import open_backend  # noqa: E402
from render.hybrids import draw_hybrid  # noqa: E402
from render.loading import load_mesh  # noqa: E402
from render.pipeline import pair_rng  # noqa: E402
from render.shading import Light  # noqa: E402
from render.sources import discover  # noqa: E402
from render.variety import Variety, vary_images, vary_object  # noqa: E402
from render.views import ViewSettings, intrinsics, look_at, sample_pair  # noqa: E402

SIZE = 96  # pixels of a view
VARIANTS = 6  # beside the unchanged object
GREY = 225  # behind the views that have no background of their own
FOV_DEGREES = 4.8
POSITION = np.array([-0.5, 0.36, -0.79])  # of the camera where that is not what varies
VARIETIES = {
    "recolor": Variety(recolor=1.0),
    "color-jitter": Variety(color_jitter=0.7),
    "mottle": Variety(mottle=1.0),
    "stretch": Variety(stretch=0.3),
    "warp": Variety(warp=1.0),
    "asymmetric": Variety(warp=1.0, asymmetric=True),
    "sun-spread-degrees": Variety(sun_spread_degrees=90.0, ambient=(0.3, 0.3)),
    "light-tint": Variety(light_tint=0.6),
    "ambient": Variety(ambient=(0.1, 1.2), sun_spread_degrees=60.0),
    "backgrounds": Variety(backgrounds=("solid", "gradient", "noise")),
    "brightness": Variety(brightness=0.6),
    "contrast": Variety(contrast=0.8),
    "together": TOGETHER,
}
VIEWS = {
    "roll-degrees": ViewSettings(SIZE, fov_degrees=(4.8, 4.8), shift=0.0, roll_degrees=45.0),
    "distance": ViewSettings(SIZE, fov_degrees=(6.5, 6.5), shift=0.0, distance=(16.0, 40.0)),
    "fov-degrees": ViewSettings(SIZE, fov_degrees=(4.0, 9.0), shift=0.0),
    "shift": ViewSettings(SIZE, fov_degrees=(5.5, 5.5), shift=0.6),
}


@click.command()
@click.argument("meshes", metavar="MESH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--pictures", type=click.Path(path_type=Path), help="folder for the strip of --background-images")
def main(meshes: tuple[Path, ...], pictures: Path | None) -> None:
    """Draw a strip for every option, a row per MESH, into docs/variety/."""
    loaded = {path.parent.parent.name: load_mesh(path) for path in meshes}
    (HERE / "variety").mkdir(exist_ok=True)
    varieties = VARIETIES | ({"background-images": Variety(background_images=pictures)} if pictures else {})
    for name, variety in varieties.items():
        shown = list(loaded.items())[: 2 if name.startswith("background") else None]
        save(name, [[unchanged(mesh), *variants(mesh, key, variety)] for key, mesh in shown])
    for name, views in VIEWS.items():
        save(name, [cameras(mesh, key, views) for key, mesh in loaded.items()])
    save("hybrids", [hybrids(path.parents[2]) for path in meshes])


def unchanged(mesh) -> np.ndarray:
    return on_grey(draw(mesh, *camera(), Light())[0])


def variants(mesh, key: str, variety: Variety) -> list[np.ndarray]:
    """The object as the first pairs show it, always from the same side."""
    strip = []
    for pair in range(VARIANTS):
        draws = partial(pair_rng, 0, key, pair)
        varied, light = vary_object(mesh, Light(), variety, draws)
        views = vary_images(draw(varied, *camera(), light), variety, draws)
        has_background = variety.backgrounds or variety.background_images
        strip.append(views[0, ..., :3] if has_background else on_grey(views[0]))
    return strip


def cameras(mesh, key: str, views: ViewSettings) -> list[np.ndarray]:
    """The first views of the first pairs."""
    pairs = [sample_pair(pair_rng(0, key, pair), views) for pair in range(VARIANTS + 1)]
    return [on_grey(draw(mesh, pose, intrinsics_, Light())[0]) for pose, intrinsics_ in pairs]


def hybrids(folder: Path) -> list[np.ndarray]:
    """The first hybrids of the meshes in a category folder, from one side."""
    parents = discover(folder)
    axis = "y" if folder.name == "03001627" else "z"  # chairs are cut into upper and lower parts
    draws = (np.random.default_rng(number) for number in range(VARIANTS + 1))
    return [unchanged(draw_hybrid(parents, lambda source: load_mesh(source.path), axis, rng)) for rng in draws]


def camera() -> tuple[np.ndarray, np.ndarray]:
    """The same view twice: poses (2, 4, 4) and intrinsics (2, 3, 3)."""
    pose = look_at(30 * POSITION / np.linalg.norm(POSITION))
    return np.stack([pose] * 2), np.stack([intrinsics(SIZE, FOV_DEGREES)] * 2)


def draw(mesh, poses: np.ndarray, cameras: np.ndarray, light: Light) -> np.ndarray:
    return open_backend("embree").render(mesh, poses, cameras, SIZE, light)[0]


def on_grey(view: np.ndarray) -> np.ndarray:
    return (view[..., :3] + GREY * (1 - view[..., 3:] / 255) + 0.5).astype(np.uint8)


def save(name: str, rows: list[list[np.ndarray]]) -> None:
    """A grid of views, in few colours to keep the repository small."""
    grid = Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows]))
    path = HERE / "variety" / f"{name}.png"
    smooth = name.startswith("background")  # gradients need more colours, and dithering
    palette = grid.quantize(256 if smooth else 96)
    dither = Image.Dither.FLOYDSTEINBERG if smooth else Image.Dither.NONE
    grid.quantize(palette=palette, dither=dither).save(path, optimize=True)
    click.echo(f"{path}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
