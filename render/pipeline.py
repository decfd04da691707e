"""From meshes to a dataset: `render_dataset` draws, renders and stores the view pairs of every model.

The unit of work is one model. A worker renders it into a part, a shard of one model under OUT/.parts; when all parts
are there they are assembled into the final shards. A pair depends only on (seed, model id, pair index), so neither
the number of workers, nor tasks, nor interruptions change a byte, and a dataset can grow in models and in pairs.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.annotations import Annotations, load_keypointnet_annotations
from data.assemble import assemble
from data.atomic import holding, is_at, write_bytes
from data.errors import UserError
from data.manifest import MANIFEST_NAME, MERGING, PARTS, SHARD_NAME, Failure, Manifest, file_sha256, load_manifest
from data.schema import ModelPairs, split_of
from data.shard import ShardReader, canonical_json, read_models, write_shard
from render.backends import Backend, open_backend
from render.cluster import connected, run_tasks_on_ray
from render.doctor import resolve
from render.mesh import Mesh
from render.shading import Light, check_light
from render.shapes import CATEGORIES, generate, keypoint_names
from render.sources import LAYOUTS, MeshError, Source, discover
from render.variety import Variety, check_variety, variety_settings, vary_images, vary_object
from render.views import ViewSettings, check_views, sample_pair
from render.workers import WorkerDied, run_tasks, time_limit

DEFAULT_MODELS = 400
LOCK = "lock"
SETTINGS = "settings.json"  # what the parts were rendered with
# Names of ShapeNetCore's folders that have built-in shapes too, so that both kinds of dataset can be merged.
SYNSETS = {"02691156": "airplane", "02958343": "car", "03001627": "chair"}
_OBJECT_RADIUS = np.sqrt(3)  # of the sphere around a box of side 2
_MAX_BYTES_PER_MODEL = 4 << 30
_BLOCKED = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file got too big",
}


@dataclass
class RenderConfig:
    """Every option of a rendering."""

    out: Path  # the dataset folder
    category: str | None = None  # built-in shapes to draw: airplane, car or chair
    meshes: Path | None = None  # instead of shapes: a ShapeNetCore category folder, any folder of meshes, or one mesh
    models: int | None = None  # how many; by default 400 shapes, or all meshes (which come in the order of their ids)
    annotations: Path | None = None  # with --meshes: JSON of the KeypointNet dataset (You et al. 2020), its keypoints
    pairs_per_model: int = 16  # pairs of views of each model
    seed: int = 0  # all randomness comes from it
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1)  # shares of train, val, test; every model is in one of them
    views: ViewSettings = field(default_factory=ViewSettings)  # image size and cameras
    light: Light = field(default_factory=Light)
    variety: Variety = field(default_factory=Variety)  # domain randomisation
    backend: str = "auto"  # auto, egl, osmesa or embree
    strict: bool = False  # a mesh that cannot be used is an error, instead of an entry in `failures`
    time_limit: float = 600.0  # seconds of processor time in which a mesh can be read, or it is left out; 0: none
    # How the work is done; these shape no byte of the data.
    grow: bool = False  # OUT holds fewer models or fewer pairs of each: keep its shards and render what is missing
    workers: int | None = None  # processes; by default one per core, here or of the cluster
    ray: str | None = None  # address of a Ray cluster to work on: HOST:PORT, ray://HOST:PORT or auto
    task: tuple[int, int] | None = None  # (I, N): only every N-th model, from the I-th; `merge` joins the parts
    progress: bool = True  # show a progress bar


@dataclass(frozen=True)
class RenderSummary:
    """What a call of :func:`render_dataset` did. Counts are of the whole dataset, except ``rendered``."""

    models: int
    pairs: int
    rendered: int  # models that this call rendered
    failures: list[Failure]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; the message says how far it got and how to go on."""


def parse_task(text: str) -> tuple[int, int]:
    """``"I/N"`` to numbers; values are checked by :func:`render_dataset`."""
    try:
        index, count = (int(part) for part in text.split("/"))
    except ValueError:
        raise UserError(f"task: {text!r} is not I/N: give two whole numbers such as 1/8") from None
    return index, count


def render_dataset(config: RenderConfig) -> RenderSummary:
    """Render a dataset, or what is missing of it.

    Raises:
        UserError: options that make no sense, another run at work on the folder, a folder made with other settings,
            a full disk, or, if ``strict``, a mesh that cannot be used.
        Interrupted: Ctrl-C; the same call goes on where it stopped.
    """
    check_config(config)
    config = replace(_with_absolute_paths(config), backend=_backend(config))
    everything = _sources(config)
    _refuse_strangers(config, everything)
    sources = _for_task(everything, config.task)
    settings = data_settings(config)
    out = Path(config.out)
    with connected(config.ray), _io_errors_named(out), _locked(out):
        manifest = _existing_manifest(out, config, settings)
        held = _count_pairs(out, manifest)
        _refuse_orphans(config, held, sources)
        _refuse_others(config, held, everything)
        _claim(out, settings)
        return _finish(config, settings, manifest, held, sources, {source.name for source in everything})


def _backend(config: RenderConfig) -> str:
    """The backend to use. ``auto`` goes on with the one that OUT was begun with, on whatever machine that was."""
    out, begun = Path(config.out), {}
    if config.backend == "auto":
        if (out / MANIFEST_NAME).exists():
            begun = load_manifest(out).settings
        elif (out / PARTS / SETTINGS).exists():
            begun = json.loads((out / PARTS / SETTINGS).read_bytes())
    return resolve(begun.get("backend", config.backend))


def _with_absolute_paths(config: RenderConfig) -> RenderConfig:
    """Paths that mean the same in every process, on every machine."""
    pictures = config.variety.background_images
    variety = replace(config.variety, background_images=pictures and Path(pictures).absolute())
    return replace(
        config,
        meshes=config.meshes and Path(config.meshes).absolute(),
        annotations=config.annotations and Path(config.annotations).absolute(),
        variety=variety,
    )


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
    require(config.pairs_per_model >= 1, f"pairs-per-model: {config.pairs_per_model}: ask for at least 1")
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
    out = Path(config.out)
    require(not out.exists() or out.is_dir(), f"{out}: is a file: choose a folder for the dataset")



def data_settings(config: RenderConfig) -> dict:
    """Every option that shapes the data, as JSON types; ``backend`` must be resolved."""
    settings = {
        "source": "shapes" if config.category else "meshes",
        "category": _category(config),
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
    if variety := variety_settings(config.variety):
        settings["variety"] = variety
    return json.loads(canonical_json(settings))


def render_model(config: RenderConfig, source: Source, mesh: Mesh, backend: Backend, first: int = 0) -> ModelPairs:
    """Render the pairs of one model, from the ``first``."""
    draws = [partial(pair_rng, config.seed, source.model_id, i) for i in range(first, config.pairs_per_model)]
    poses, cameras = (np.stack(values) for values in zip(*(sample_pair(draw(), config.views) for draw in draws)))
    rgba, z = _render_pairs(config, mesh, backend, poses, cameras, draws)
    offset, scale = depth_coding(config.views)
    seen = z > 0
    depth = np.zeros(z.shape, np.uint16)
    depth[seen] = np.clip(np.rint((z[seen] - offset) / scale), 1, 65535)
    return ModelPairs(
        source.model_id,
        split_of(config.seed, source.model_id, config.splits),
        source.name,
        len(mesh.faces),
        rgba,
        depth,
        poses,
        cameras,
        _stored_keypoints(config, mesh),
        hashlib.sha256(mesh.vertices.astype(np.float32)[mesh.faces].tobytes()).hexdigest(),
    )


def _render_pairs(
    config: RenderConfig, mesh: Mesh, backend: Backend, poses: np.ndarray, cameras: np.ndarray, draws: list[Callable]
) -> tuple[np.ndarray, np.ndarray]:
    """rgba uint8 (P, 2, H, W, 4) and depth float32 (P, 2, H, W) of all pairs, each with its variety."""
    size, variety = config.views.image_size, config.variety
    if variety.of_objects:
        rendered = []
        for pose, camera, draw in zip(poses, cameras, draws, strict=True):
            varied, light = vary_object(mesh, config.light, variety, draw)
            rendered.append(backend.render(varied, pose, camera, size, light))
        rgba, z = (np.stack(images) for images in zip(*rendered, strict=True))
    else:
        rgba, z = backend.render(mesh, poses.reshape(-1, 4, 4), cameras.reshape(-1, 3, 3), size, config.light)
        rgba, z = rgba.reshape(-1, 2, size, size, 4), z.reshape(-1, 2, size, size)
    if variety.of_images:
        rgba = np.stack([vary_images(pair, variety, draw) for pair, draw in zip(rgba, draws, strict=True)])
    return rgba, z


def _stored_keypoints(config: RenderConfig, mesh: Mesh) -> np.ndarray | None:
    """Semantic keypoints as shards store them, per model: not a number where every pair has another shape."""
    names = _keypoint_names(config, mesh)
    if not names:
        return None
    if config.variety.deforms:
        return np.full((len(names), 3), np.nan, np.float32)
    return np.array([mesh.semantic_keypoints[name] for name in names], np.float32)


def pair_rng(seed: int, model_id: str, pair: int, option: str = "") -> np.random.Generator:
    """The random numbers of one pair, for its cameras or for an option of :class:`Variety`; a pure function."""
    digest = hashlib.sha256(f"{seed}:{model_id}:{pair}{option and ':'}{option}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def depth_coding(views: ViewSettings) -> tuple[float, float]:
    """(offset, scale), object units: 16-bit values 1 to 65535 span all depths that the views can see."""
    reach = _OBJECT_RADIUS * (1 + views.shift)
    near, far = max(0.0, views.distance[0] - reach), views.distance[1] + reach
    scale = (far - near) / 65534
    return float(near - scale), float(scale)


# --- the sources -----------------------------------------------------------------------------------------------------


def _category(config: RenderConfig) -> str:
    if config.category:
        return config.category
    name = os.fsencode(Path(config.meshes).resolve().name).decode("utf-8", "backslashreplace")
    return SYNSETS.get(name, name)


def _keypoint_names(config: RenderConfig, mesh: Mesh) -> tuple[str, ...]:
    return keypoint_names(config.category) if config.category else tuple(mesh.semantic_keypoints)


def _annotations(config: RenderConfig) -> Annotations:
    """The annotations of the category, which the folder's name tells where the file holds several."""
    if config.annotations is None:
        return {}
    return load_keypointnet_annotations(config.annotations, Path(config.meshes).resolve().name)


def _annotated_id(source: Source) -> str:
    """What KeypointNet calls a model: its id in ShapeNetCore, or the name of its file."""
    return source.model_id if source.name.endswith(f"/{LAYOUTS[0]}") else Path(source.name).stem


def _refuse_strangers(config: RenderConfig, sources: list[Source]) -> None:
    """Raise :class:`UserError` for annotations that do not belong to the meshes."""
    if config.annotations is None:
        return
    annotations = _annotations(config)
    if any(source.name.endswith(f"/{LAYOUTS[1]}") for source in sources):
        raise UserError(
            f"{config.annotations}: annotates ShapeNetCore v2, but {config.meshes} holds v1, whose meshes have other "
            "coordinates: give the v2 folder, or leave --annotations out"
        )
    if not any(_annotated_id(source) in annotations for source in sources):
        raise UserError(
            f"{config.annotations}: annotates none of the {len(sources)} models of {config.meshes}: give the file of "
            "this category, or leave --annotations out"
        )


def _sources(config: RenderConfig) -> list[Source]:
    """All models of the dataset, sorted by id."""
    if config.meshes:
        return discover(Path(config.meshes))[: config.models]
    count = config.models or DEFAULT_MODELS
    ids = (f"{config.category}-s{config.seed}-{index:06d}" for index in range(count))
    return [Source(model_id, f"shapes:{config.category}:{config.seed}:{i}") for i, model_id in enumerate(ids)]


def _for_task(sources: list[Source], task: tuple[int, int] | None) -> list[Source]:
    return sources if task is None else sources[(task[0] - 1) % task[1] :: task[1]]


def _mesh_of(config: RenderConfig, source: Source, annotations: Annotations) -> Mesh:
    if source.path is not None:
        from render.loading import load_mesh  # takes long to import, and built-in shapes do without

        root = Path(config.meshes)
        names = sorted({name for points in annotations.values() for name in points}, key=int)
        points = annotations.get(_annotated_id(source), {})
        points = {name: points.get(name, np.full(3, np.nan)) for name in names}
        return load_mesh(source.path, root if root.is_dir() else None, points)
    return generate(config.category, config.seed, int(source.name.rsplit(":", 1)[1]))


# --- the work --------------------------------------------------------------------------------------------------------


def _finish(
    config: RenderConfig,
    settings: dict,
    manifest: Manifest,
    held: Mapping[str, int],
    sources: list[Source],
    everything: Set[str],
) -> RenderSummary:
    """Render what is missing, assemble, and clear the parts away.

    Args:
        sources: those of this task. everything: names of the sources of all tasks; failures of others are forgotten.
    """
    out = Path(config.out)
    parts = out / PARTS
    wanted = {_part(parts, s.model_id): s for s in sources if held.get(s.model_id, 0) < config.pairs_per_model}
    missing = [source for path, source in wanted.items() if not _is_whole(path)]
    failures = sorted(_render_missing(config, settings, parts, missing, held, len(sources)), key=astuple)
    ready = sorted(path for path in wanted if path.exists())
    others = everything - {source.name for source in sources}
    kept = [failure for failure in manifest.failures if failure.source in others]
    if not ready and not manifest.models and sources and config.task is None:  # a task may hold bad meshes alone
        _clear(parts)
        raise UserError(
            f"{config.meshes or config.category}: none of the {len(sources)} models could be rendered, the first "
            f"because {failures[0].reason}: {failures[0].source}"
        )
    complete = replace(manifest, settings=settings, failures=kept + failures)
    unchanged = (complete.settings, set(complete.failures)) == (manifest.settings, set(manifest.failures))
    if ready or not unchanged or not (out / MANIFEST_NAME).exists():
        try:
            manifest = assemble(out, ready, complete)
        except KeyboardInterrupt:
            raise Interrupted(
                "interrupted: all models are rendered and kept: run the same command again to write the shards"
            ) from None
    _clear(parts)
    pairs = sum(shard.pairs for shard in manifest.shards)
    return RenderSummary(len(manifest.models), pairs, len(missing) - len(failures), manifest.failures)


def _count_pairs(out: Path, manifest: Manifest) -> Counter[str]:
    """How many pairs the dataset holds of each model."""
    held: Counter[str] = Counter()
    for shard in manifest.shards:
        with ShardReader(out / shard.file) as reader:
            held.update({model.model_id: len(reader.rows_of(slot)) for slot, model in enumerate(reader.models)})
    return held


def _refuse_orphans(config: RenderConfig, held: Mapping[str, int], sources: list[Source]) -> None:
    known = {source.model_id for source in sources}
    for model_id, pairs in held.items():
        if pairs < config.pairs_per_model and model_id not in known:
            raise UserError(
                f"{config.out}: model {model_id} has {pairs} pairs and cannot get more, for it is not among the "
                f"{len(sources)} models to render: restore its mesh, ask for more models, or leave --task out"
            )


def _refuse_others(config: RenderConfig, held: Mapping[str, int], everything: list[Source]) -> None:
    """Raise :class:`UserError` for a dataset of other meshes, whose folder may bear the same name."""
    if config.grow or not config.meshes or not held:
        return
    found = everything if config.models is None else discover(config.meshes)  # beyond the number asked for too
    if held.keys().isdisjoint(source.model_id for source in found):
        raise UserError(
            f"{config.out}: holds none of the models of {config.meshes}: give the meshes it was made of, a new folder, "
            "or --grow to add these to it"
        )


def _part(parts: Path, model_id: str) -> Path:
    return parts / f"{hashlib.sha256(model_id.encode()).hexdigest()[:32]}.h5"


def _is_whole(part: Path) -> bool:
    """Whether a part of an earlier run can be used. Parts are not forced to the disk one by one: a crash tears some."""
    if not part.exists():
        return False
    try:
        for _ in read_models(part):  # checks every byte
            pass
    except UserError:
        part.unlink()
        return False
    return True


def _render_missing(
    config: RenderConfig, settings: dict, parts: Path, missing: list[Source], held: Mapping[str, int], total: int
) -> list[Failure]:
    """Render models into parts, without the pairs that are held already; returns those that could not be."""
    failures: list[Failure] = []
    outcomes = _render_parts(config, settings, parts, missing, held)
    with tqdm(
        total=total, initial=total - len(missing), unit="model", desc="render", disable=not config.progress
    ) as bar:
        try:
            for source, outcome in outcomes:
                if isinstance(outcome, MemoryError):
                    outcome = MeshError("needs more memory than there is")
                if isinstance(outcome, (MeshError, WorkerDied)):
                    kept = held.get(source.model_id, 0)
                    failures.append(Failure(source.name, f"{outcome}{f'; it keeps its {kept} pairs' * (kept > 0)}"))
                    if config.strict:
                        raise UserError(f"{source.name}: {outcome}: mend or remove it, or leave --strict out")
                elif isinstance(outcome, Exception):
                    raise outcome
                elif outcome is not None:
                    write_bytes(_part(parts, source.model_id), outcome)
                bar.update()
        except KeyboardInterrupt:
            bar.close()
            done = total - sum(not _part(parts, source.model_id).exists() for source in missing)
            raise Interrupted(
                f"interrupted: {done} of {total} models are done and kept: run the same command again to go on"
            ) from None
        finally:
            outcomes.close()
    return failures


def _render_parts(
    config: RenderConfig, settings: dict, parts: Path, sources: list[Source], held: Mapping[str, int]
) -> Iterator[tuple[Source, Exception | bytes | None]]:
    """Yields what became of each model: None if it has its part, the bytes to write there, or what went wrong."""
    if config.ray:
        yield from run_tasks_on_ray(partial(_open_sender, config, settings, held), sources, config.workers)
    else:
        # Workers write in a folder of this run's own: one that outlives a killed run cannot disturb the next.
        scratch = parts / f"run-{uuid.uuid4().hex}"
        scratch.mkdir()
        workers = min(config.workers or _cores(), len(sources))
        yield from run_tasks(partial(_open_renderer, config, settings, held, scratch), sources, workers)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _open_renderer(config: RenderConfig, settings: dict, held: Mapping[str, int], scratch: Path):
    """Runs in a worker: what it does with one model."""
    render_part = partial(_render_part, config, settings, held, _annotations(config), open_backend(config.backend))

    def work(source: Source) -> None:
        path = render_part(scratch, source)
        os.replace(path, scratch.parent / path.name)

    return work


def _open_sender(config: RenderConfig, settings: dict, held: Mapping[str, int]):
    """Runs on another machine: what it does with one model; no file is shared, but the meshes."""
    if config.meshes and not config.meshes.exists():
        raise UserError(f"ray: {config.meshes} is not there on node {socket.gethostname()}: put it there on every node")
    render_part = partial(_render_part, config, settings, held, _annotations(config), open_backend(config.backend))

    def work(source: Source) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            return render_part(Path(folder), source).read_bytes()

    return work


def _render_part(
    config: RenderConfig,
    settings: dict,
    held: Mapping[str, int],
    annotations: Annotations,
    backend: Backend,
    folder: Path,
    source: Source,
) -> Path:
    """Render a model into a shard of its own in ``folder``."""
    with time_limit(config.time_limit):  # libraries that read files can hang; what follows is bounded
        mesh = _mesh_of(config, source, annotations)
    model = render_model(config, source, mesh, backend, held.get(source.model_id, 0))
    path = _part(folder, source.model_id)
    offset, scale = depth_coding(config.views)
    write_shard(path, model.split, [model], settings, _keypoint_names(config, mesh), offset, scale, final=False)
    return path


# --- the folder ------------------------------------------------------------------------------------------------------


def _existing_manifest(out: Path, config: RenderConfig, settings: dict) -> Manifest:
    """The manifest to go on from; refuses a folder that holds anything else than this dataset."""
    if (out / MERGING).exists():
        raise UserError(f"{out}: holds an unfinished merge: run that merge again to end it, or choose a new folder")
    marker = out / PARTS / SETTINGS
    if marker.exists() and (unfinished := json.loads(marker.read_bytes())) != settings:
        _refuse_other(out, unfinished, settings, f"; to give up the unfinished rendering, delete {out / PARTS}")
    if (out / MANIFEST_NAME).exists():
        manifest = load_manifest(out)
        if not _grows(manifest.settings, settings):
            _refuse_other(out, manifest.settings, settings)
        elif not config.grow:
            _refuse_other(out, manifest.settings, settings, ", or --grow to keep its shards and add what is missing")
    else:
        manifest = Manifest(_category(config), config.seed, settings)
        if not marker.exists() and any(SHARD_NAME.fullmatch(path.name) for path in out.iterdir()):
            raise UserError(f"{out}: holds shards but no {MANIFEST_NAME}: choose a new folder")
    return manifest


def _claim(out: Path, settings: dict) -> None:
    """Note what the parts are rendered with, and clear away what killed runs left."""
    marker = out / PARTS / SETTINGS
    if not marker.exists():
        write_bytes(marker, canonical_json(settings).encode())
    for remains in (out / PARTS).glob("run-*"):
        _remove_tree(remains)


def _grows(before: dict, after: dict) -> bool:
    """Whether the second settings ask for the same dataset with more models or more pairs of each, or none of both."""
    numbers = ("models", "pairs_per_model")
    if any(before.get(name) != after.get(name) for name in (before.keys() | after.keys()) - set(numbers)):
        return False
    # No number of models: all there are.
    pairs = [(before.get(name), after[name]) for name in numbers]
    return all(more is None or (fewer is not None and fewer <= more) for fewer, more in pairs)


def _refuse_other(out: Path, theirs: dict, ours: dict, advice: str = "") -> None:
    differ = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    if differ:
        raise UserError(
            f"{out}: was rendered with other settings ({', '.join(differ)}): use the same ones to go on, or a new "
            f"folder{advice}"
        )


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the only right to write in ``out``. The lock goes with the process, however that ends."""
    parts = out / PARTS
    busy = f"{out}: another run is writing to it: wait for it to end, or choose a new folder"
    with holding(parts / LOCK, busy) as lock:
        try:
            yield
        finally:
            refused = is_at(lock, parts / LOCK) and not (parts / SETTINGS).exists()
            if refused:  # leave the folder as it was
                _clear(parts)


def _clear(parts: Path) -> None:
    """Remove the parts, then what they were rendered with, the lock last: until then no other run begins."""
    for path in parts.iterdir():
        if path.is_dir():
            _remove_tree(path)
        elif path.name not in (SETTINGS, LOCK):
            path.unlink()
    (parts / SETTINGS).unlink(missing_ok=True)
    (parts / LOCK).unlink()
    with suppress(OSError):  # another run has already begun to use the folder
        parts.rmdir()


def _remove_tree(folder: Path) -> None:
    """Remove a folder even while a worker of a killed run, about to die, may still write in it."""
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
    shutil.rmtree(folder)


@contextmanager
def _io_errors_named(out: Path) -> Iterator[None]:
    """Turn what a disk can do to us into one clear line."""
    try:
        yield
    except OSError as error:
        why = _BLOCKED.get(error.errno) or error.strerror
        if why is None:
            raise
        raise UserError(f"{out}: {why}: mend that and run the same command again to go on") from error
