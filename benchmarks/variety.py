"""What domain randomisation costs: views/s of one core with each option, and the ratio to none.

    python benchmarks/variety.py MESH...

Processor time, so other load on the machine hardly matters; rendering alone, without loading and storing.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parent.parent))

from render.backends import open_backend  # noqa: E402
from render.config import RenderConfig  # noqa: E402
from render.doctor import resolve  # noqa: E402
from render.loading import load_mesh  # noqa: E402
from render.pipeline import render_model  # noqa: E402
from render.sources import Source  # noqa: E402
from render.variety import Variety  # noqa: E402

TOGETHER = Variety(
    recolor=0.6, color_jitter=0.5, stretch=0.2, warp=0.6, sun_spread_degrees=60.0, light_tint=0.2, ambient=(0.5, 1.1),
    brightness=0.2, contrast=0.2,
)  # fmt: skip  # the command of docs/variety.md
VARIETIES = {
    "none": Variety(),
    "recolor": Variety(recolor=1.0),
    "color-jitter": Variety(color_jitter=0.5),
    "mottle": Variety(mottle=1.0),
    "light": Variety(sun_spread_degrees=60.0, light_tint=0.2, ambient=(0.5, 1.1)),
    "stretch": Variety(stretch=0.2),
    "warp": Variety(warp=0.6),
    "brightness, contrast": Variety(brightness=0.2, contrast=0.2),
    "backgrounds": Variety(backgrounds=("solid", "gradient", "noise")),
    "docs/variety.md's": TOGETHER,
}


@click.command()
@click.argument("meshes", metavar="MESH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--pairs", default=48, show_default=True, help="of each mesh and option")
@click.option("--backend", default="auto", show_default=True)
def main(meshes: tuple[Path, ...], pairs: int, backend: str) -> None:
    """Print a table: a row per option, over all MESHes."""
    backend = resolve(backend)
    renderer = open_backend(backend)
    loaded = [load_mesh(path) for path in meshes]
    faces = ", ".join(str(len(mesh.faces)) for mesh in loaded)
    click.echo(f"{backend}, 128 px, {pairs} pairs of each of {len(loaded)} meshes ({faces} faces)\n")
    click.echo("| options | views/s | of none |\n|---|---|---|")
    plain = None
    for name, variety in VARIETIES.items():
        seconds = 0.0
        for path, mesh in zip(meshes, loaded, strict=True):
            config = RenderConfig(
                Path("unused"), meshes=path, pairs_per_model=pairs, variety=variety, backend=backend, progress=False
            )
            start = time.process_time()
            render_model(config, Source(path.name, path.name, path), mesh, renderer)
            seconds += time.process_time() - start
        rate = 2 * pairs * len(loaded) / seconds
        plain = plain or rate
        click.echo(f"| {name} | {rate:.0f} | {rate / plain:.2f} |")


if __name__ == "__main__":
    main()
