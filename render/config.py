"""Every option of a rendering."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from data.errors import UserError
from data.manifest import file_sha256
from data.schema import split_of
from data.shard import canonical_json
from render.doctor import resolve
from render.shading import Light, check_light
from render.shapes import CATEGORIES
from render.sources import Source, discover
from render.variety import Variety, check_variety, variety_settings
from render.views import ViewSettings, check_views

DEFAULT_MODELS = 400
# Names of ShapeNetCore's folders that have built-in shapes too, so that both kinds of dataset can be merged.
SYNSETS = {"02691156": "airplane", "02958343": "car", "03001627": "chair"}
AXES = ("x", "y", "z")  # of the object frame
_MAX_BYTES_PER_MODEL = 4 << 30
_MAX_SHAPES = 1_000_000  # their ids have six digits, so that they sort as their numbers do


@dataclass
class RenderConfig:
    """Every option of a rendering."""

    out: Path  # the dataset folder
    category: str | None = None  # built-in shapes to draw: airplane, car or chair
    meshes: Path | None = None  # instead of shapes: a ShapeNetCore category folder, any folder of meshes, or one mesh
    models: int | None = None  # how many; by default 400 shapes, or all meshes (which come in the order of their ids)
    hybrids: int | None = None  # with --meshes: in their place so many, each joined of parts of two; all for training
    hybrid_axis: str = "z"  # of the object: one part follows on the other along x, y or z
    annotations: Path | None = None  # with --meshes: JSON of the KeypointNet dataset (You et al. 2020), its keypoints
    pairs_per_model: int = 16  # pairs of views of each model
    seed: int = 0  # all randomness comes from it
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1)  # shares of train, val, test; every model is in one of them
    views: ViewSettings = field(default_factory=ViewSettings)  # image size and cameras
    light: Light = field(default_factory=Light)
    variety: Variety = field(default_factory=Variety)  # domain randomisation
    backend: str = "auto"  # auto, egl or embree; osmesa is not offered
    strict: bool = False  # a mesh that cannot be used is an error, instead of an entry in `failures`
    time_limit: float = 600.0  # seconds of processor time in which a mesh can be read, or it is left out; 0: none
    # How the work is done; these shape no byte of the data.
    grow: bool = False  # OUT holds fewer models or fewer pairs of each: keep its shards and render what is missing
    workers: int | None = None  # processes; by default one per core, here or of the cluster
    ray: str | None = None  # address of a Ray cluster to work on: HOST:PORT, ray://HOST:PORT or auto
    task: tuple[int, int] | None = None  # (I, N): only every N-th model, from the I-th; `merge` joins the parts
    progress: bool = True  # show a progress bar


def parse_task(text: str) -> tuple[int, int]:
    """``"I/N"`` to numbers; values are checked by :func:`render_dataset`."""
    try:
        index, count = (int(part) for part in text.split("/"))
    except ValueError:
        raise UserError(f"task: {text!r} is not I/N: give two whole numbers such as 1/8") from None
    return index, count


def check_config(config: RenderConfig) -> None:
    """Raise :class:`UserError` for the first option that makes no sense."""

    def require(condition: bool, message: str) -> None:
        if not condition:
            raise UserError(message)

    require(
        (config.category is None) != (config.meshes is None),
        "render: give either --category (built-in shapes) or --meshes (a folder of meshes)",
    )
    require(
        config.annotations is None or config.meshes is not None,
        "annotations: built-in shapes have keypoints of their own: leave it out, or use --meshes",
    )
    if config.category is not None:
        require(
            config.category in CATEGORIES,
            f"category: {config.category!r} is not built in: choose one of {', '.join(CATEGORIES)}, or use --meshes",
        )
    require(config.models is None or config.models >= 1, f"models: {config.models}: ask for at least 1")
    require(
        config.category is None or (config.models or 0) <= _MAX_SHAPES,
        f"models: {config.models}: one seed gives {_MAX_SHAPES} shapes: ask for fewer, or use another --seed as well",
    )
    require(config.pairs_per_model >= 1, f"pairs-per-model: {config.pairs_per_model}: ask for at least 1")
    require(
        config.hybrids is None or config.meshes is not None,
        "hybrids: are joined of meshes: give --meshes, or leave it out",
    )
    require(
        config.hybrids is None or 1 <= config.hybrids <= _MAX_SHAPES,
        f"hybrids: {config.hybrids}: ask for 1 to {_MAX_SHAPES}",
    )
    require(
        config.hybrids is None or config.annotations is None,
        "annotations: a hybrid has keypoints of neither mesh: leave it out",
    )
    require(
        config.hybrids is not None or config.hybrid_axis == RenderConfig.hybrid_axis,
        "hybrid-axis: is for --hybrids: add them, or leave it out",
    )
    require(config.hybrid_axis in AXES, f"hybrid-axis: {config.hybrid_axis!r}: choose one of {', '.join(AXES)}")
    check_views(config.views)
    varied, size = config.variety.of_objects or config.variety.of_images, config.views.image_size
    need = config.pairs_per_model * 2 * size**2 * (24 if varied else 12)  # bytes a pixel, measured
    require(
        need <= _MAX_BYTES_PER_MODEL,
        f"pairs-per-model: {config.pairs_per_model} pairs of {size} pixels need {need / 2**30:.0f} GiB of "
        "memory in each worker: ask for fewer or smaller ones",
    )
    require(0 <= config.seed < 2**63, f"seed: {config.seed}: choose a whole number from 0 to 2^63 - 1")
    require(config.workers is None or 1 <= config.workers <= 1024, f"workers: {config.workers}: choose 1 to 1024")
    require(0 <= config.time_limit < 1e9, f"time-limit: {config.time_limit}: give seconds, or 0 for none")
    require(
        len(config.splits) == 3 and all(s >= 0 for s in config.splits) and 0 < sum(config.splits) < np.inf,
        f"splits: {','.join(map(str, config.splits))}: give three shares, none negative and not all 0",
    )
    if config.task is not None:
        index, count = config.task
        require(
            count >= 1 and 0 <= index <= count,
            f"task: {index}/{count}: give I/N with N at least 1 and I from 1 to N (0 stands for N)",
        )
    check_light(config.light)
    check_variety(config.variety)
    resolve(config.backend)
    out = config.out
    require(not out.exists() or out.is_dir(), f"{out}: is a file: choose a folder for the dataset")


def with_absolute_paths(config: RenderConfig) -> RenderConfig:
    """Paths that mean the same in every process, on every machine."""
    pictures = config.variety.background_images
    variety = replace(config.variety, background_images=pictures and Path(pictures).absolute())
    return replace(
        config,
        meshes=config.meshes and config.meshes.absolute(),
        annotations=config.annotations and config.annotations.absolute(),
        variety=variety,
    )


def data_settings(config: RenderConfig) -> dict:
    """Every option that shapes the data, as JSON types; ``backend`` must be resolved."""
    settings = {
        "source": "shapes" if config.category else "meshes",
        "category": category_of(config),
        "models": config.models if config.meshes else config.models or DEFAULT_MODELS,
        "pairs_per_model": config.pairs_per_model,
        "seed": config.seed,
        "splits": [float(share) for share in config.splits],
        "views": asdict(config.views),
        "light": asdict(config.light),
        "backend": config.backend,
    }
    if config.annotations:
        settings["annotations"] = {"sha256": file_sha256(config.annotations)}
    if config.hybrids:
        names = "\n".join(source.name for source in parents_of(config))
        digest = hashlib.sha256(names.encode()).hexdigest()
        settings["hybrids"] = config.hybrids
        settings["hybrids_of"] = {"axis": config.hybrid_axis, "parents_sha256": digest}
    if variety := variety_settings(config.variety):
        settings["variety"] = variety
    return json.loads(canonical_json(settings))


def parents_of(config: RenderConfig) -> list[Source]:
    """The meshes that hybrids are joined of: none that a rendering of the meshes themselves would validate or test.

    Raises:
        UserError: there are fewer than two.
    """
    found = discover(config.meshes)[: config.models]
    parents = [source for source in found if split_of(config.seed, source.model_id, config.splits) == "train"]
    if len(parents) < 2:
        raise UserError(
            f"{config.meshes}: {len(parents)} of its {len(found)} meshes are in the train split, hybrids need two: "
            "give more meshes, or a larger first share to --splits"
        )
    return parents


def category_of(config: RenderConfig) -> str:
    if config.category:
        return config.category
    name = os.fsencode(config.meshes.resolve().name).decode("utf-8", "backslashreplace")
    return SYNSETS.get(name, name)
