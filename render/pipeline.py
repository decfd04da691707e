"""From meshes to a dataset: `render_dataset` draws, renders and stores the view pairs of every model.

The unit of work is one model, or a few that have few pairs. A worker renders it into a part, a shard of its own under
OUT/.parts; when all parts are there they are assembled into the final shards. A pair depends only on (seed, model id,
pair index), so neither the number of workers, nor tasks, nor interruptions change a byte, and a dataset can grow in
models and in pairs.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.annotations import Annotations, load_keypointnet_annotations
from data.assemble import assemble
from data.atomic import write_bytes
from data.errors import UserError, resumable
from data.manifest import MANIFEST_NAME, PARTS, Failure, Manifest, file_sha256, load_manifest
from data.schema import SPLITS, ModelPairs, split_of
from data.shard import write_shard
from data.signals import handled_by
from render.backends import Backend, open_backend
from render.cluster import connected, run_tasks_on_ray
from render.config import DEFAULT_MODELS, RenderConfig, check_config, data_settings, parents_of, with_absolute_paths
from render.doctor import resolve
from render.folder import (
    claim,
    clear,
    count_pairs,
    existing_manifest,
    locked,
    models_in_parts,
    part_name,
    unfinished_settings,
    without_lost_shards,
)
from render.mesh import Mesh
from render.shapes import generate, keypoint_names
from render.sources import LAYOUTS, MeshError, Source, discover, printable
from render.variety import vary_images, vary_object
from render.views import ViewSettings, sample_pair
from render.workers import WorkerDied, run_tasks, time_limit

_PAIRS_PER_PART = 16  # at most, where models have fewer
_GROUPS_PER_WORKER = 8  # at least, so that all workers end at about the same time
_RAY_WORKERS = 128  # of a cluster, which may grow
_PARENTS_KEPT = 32  # meshes that a worker keeps for its next hybrids


# What became of models: of each, None or what went wrong; or what went wrong with all of them.
_Outcome = Exception | list[Exception | None]


@dataclass(frozen=True)
class Job:
    """What is to be rendered, as every worker is told."""

    config: RenderConfig
    settings: dict  # of the data, see :func:`data_settings`
    held: Mapping[str, int]  # model id: how many of its pairs the dataset has already
    geometries: Mapping[str, str]  # model id: the geometry that these pairs show, where it is known


@dataclass(frozen=True)
class RenderSummary:
    """What a call of :func:`render_dataset` did. Counts are of the whole dataset, except ``rendered``."""

    models: int
    pairs: int
    rendered: int  # models that this call rendered
    failures: list[Failure]


def render_dataset(config: RenderConfig) -> RenderSummary:
    """Render a dataset, or what is missing of it.

    Raises:
        UserError: options that make no sense, another run at work on the folder, a folder made with other settings,
            a full disk, or, if ``strict``, a mesh that cannot be used.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the same call goes on where it stopped, as the message says.
    """
    check_config(config)
    config = replace(with_absolute_paths(config), backend=_backend(config))
    everything = _sources(config)
    _check_annotations(config, everything)
    sources = _for_task(everything, config.task)
    settings = data_settings(config)
    out = config.out
    stop_on_sigterm = handled_by(signal.default_int_handler, signal.SIGTERM)
    with connected(config.ray), stop_on_sigterm, resumable(out, "run the same command again to go on"), locked(out):
        manifest = existing_manifest(out, config, settings)
        manifest = without_lost_shards(out, manifest, sources)
        held = count_pairs(out, manifest)
        _require_meshes_of_short_models(config, held, sources)
        _require_same_meshes(config, manifest, held, everything)
        claim(out, settings)
        geometries = {entry.model_id: entry.geometry for entry in manifest.models if entry.geometry}
        job = Job(config, settings, held, geometries)
        return _finish(job, manifest, sources, everything)


def _backend(config: RenderConfig) -> str:
    """The backend to use. ``auto`` goes on with the one that OUT was begun with, on whatever machine that was."""
    out, begun = config.out, {}
    if config.backend == "auto":
        if (out / MANIFEST_NAME).exists():
            begun = load_manifest(out).settings
        else:
            begun = unfinished_settings(out) or {}
    return resolve(begun.get("backend", config.backend))


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
        _split_of(config, source),
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
    near, far = max(0.0, views.distance[0] - views.reach), views.distance[1] + views.reach
    scale = (far - near) / 65534
    return float(near - scale), float(scale)


# --- the sources -----------------------------------------------------------------------------------------------------


def _keypoint_names(config: RenderConfig, mesh: Mesh) -> tuple[str, ...]:
    return keypoint_names(config.category) if config.category else tuple(mesh.semantic_keypoints)


def _annotations(config: RenderConfig) -> Annotations:
    """The annotations of the category, which the folder's name tells where the file holds several."""
    if config.annotations is None:
        return {}
    return load_keypointnet_annotations(config.annotations, config.meshes.resolve().name)


def _annotated_id(source: Source) -> str:
    """What KeypointNet calls a model: its id in ShapeNetCore, or the name of its file."""
    return source.model_id if source.name.endswith(f"/{LAYOUTS[0]}") else Path(source.name).stem


def _check_annotations(config: RenderConfig, sources: list[Source]) -> None:
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
    if config.hybrids:
        ids = (f"hybrid-s{config.seed}-{index:06d}" for index in range(config.hybrids))
        return [Source(model_id, f"hybrids:{config.seed}:{i}") for i, model_id in enumerate(ids)]
    if config.meshes:
        sources = discover(config.meshes)
        if config.models and config.models > len(sources):
            print(f"{config.meshes}: {len(sources)} models, fewer than --models {config.models}", file=sys.stderr)
        return sources[: config.models]
    count = config.models or DEFAULT_MODELS
    ids = (f"{config.category}-s{config.seed}-{index:06d}" for index in range(count))
    return [Source(model_id, f"shapes:{config.category}:{config.seed}:{i}") for i, model_id in enumerate(ids)]


def _split_of(config: RenderConfig, source: Source) -> str:
    return "train" if config.hybrids else split_of(config.seed, source.model_id, config.splits)


def _for_task(sources: list[Source], task: tuple[int, int] | None) -> list[Source]:
    return sources if task is None else sources[(task[0] - 1) % task[1] :: task[1]]


def _open_source(config: RenderConfig) -> Callable[[Source], Mesh]:
    """A function that gives the mesh of a model, with the keypoints that annotations have of it."""
    if config.category:
        return lambda source: generate(config.category, config.seed, int(source.name.rsplit(":", 1)[1]))
    from render.loading import load_mesh  # takes long to import, and built-in shapes do without

    root, annotations = config.meshes if config.meshes.is_dir() else None, _annotations(config)
    names = sorted({name for points in annotations.values() for name in points}, key=int)

    def load(source: Source) -> Mesh:
        points = annotations.get(_annotated_id(source), {})
        return load_mesh(source.path, root, {name: points.get(name, np.full(3, np.nan)) for name in names})

    if not config.hybrids:
        return load
    from render.hybrids import draw_hybrid

    parents, load_parent = parents_of(config), lru_cache(_PARENTS_KEPT)(load)
    return lambda source: draw_hybrid(
        parents, load_parent, config.hybrid_axis, pair_rng(config.seed, source.model_id, 0, "hybrid")
    )


# --- the work --------------------------------------------------------------------------------------------------------


def _finish(job: Job, manifest: Manifest, sources: list[Source], everything: list[Source]) -> RenderSummary:
    """Render what is missing, assemble, and clear the parts away.

    Args:
        sources: those of this task. everything: those of all tasks; failures of others are forgotten.
    """
    config, out = job.config, job.config.out
    parts = out / PARTS
    short = [source for source in everything if job.held.get(source.model_id, 0) < config.pairs_per_model]
    ours = {source.model_id for source in sources}
    wanted = [source for source in short if source.model_id in ours]
    elsewhere = {source.model_id for source in short} - ours
    names = {source.model_id: source.name for source in wanted}
    done = models_in_parts(out, names, elsewhere, job.held, config.pairs_per_model)
    missing = [source for source in wanted if source.model_id not in done]
    failures = sorted(_render_missing(job, parts, missing, len(sources)), key=astuple)
    ready = sorted(parts.glob("*.h5"))
    others = {source.name for source in everything} - {source.name for source in sources}
    kept = [failure for failure in manifest.failures if failure.source in others]
    if not ready and not manifest.models and sources and config.task is None:  # a task may hold bad meshes alone
        clear(parts)
        raise UserError(
            f"{config.meshes or config.category}: none of the {len(sources)} models could be rendered, the first "
            f"because {failures[0].reason}: {failures[0].source}"
        )
    begun = manifest.settings == job.settings and (out / MANIFEST_NAME).exists()
    whole = config.task is None or begun and not manifest.tasks
    tasks = [] if whole else _with_task(manifest.tasks if begun else [], config.task)
    complete = replace(manifest, settings=job.settings, failures=kept + failures, tasks=tasks)
    before, after = ((m.settings, set(m.failures), m.tasks) for m in (manifest, complete))
    if ready or before != after or not (out / MANIFEST_NAME).exists():
        try:
            manifest = assemble(out, ready, complete)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                "interrupted: all models are rendered and kept: run the same command again to write the shards"
            ) from None
    clear(parts)
    pairs = sum(shard.pairs for shard in manifest.shards)
    return RenderSummary(len(manifest.models), pairs, len(missing) - len(failures), manifest.failures)


def _with_task(tasks: list[tuple[int, int]], task: tuple[int, int]) -> list[tuple[int, int]]:
    """The tasks that a folder holds after one more; none where it holds the whole rendering."""
    number, of = task
    held = sorted({*tasks, (number or of, of)})  # 0 stands for N
    return [] if sum(own == of for _, own in held) == of else held


def _require_meshes_of_short_models(config: RenderConfig, held: Mapping[str, int], sources: list[Source]) -> None:
    known = {source.model_id for source in sources}
    for model_id, pairs in held.items():
        if pairs < config.pairs_per_model and model_id not in known:
            raise UserError(
                f"{config.out}: model {model_id} has {pairs} pairs and cannot get more, for it is not among the "
                f"{len(sources)} models to render: restore its mesh, ask for more models, or leave --task out"
            )


def _require_same_meshes(
    config: RenderConfig, manifest: Manifest, held: Mapping[str, int], everything: list[Source]
) -> None:
    """Raise :class:`UserError` for a dataset of other meshes, whose folder may bear the same name."""
    made_of = {entry.model_id: entry.source for entry in manifest.models}
    for source in everything:
        if made_of.get(source.model_id, source.name) != source.name:
            raise UserError(
                f"{config.out}: model {source.model_id} was made of {made_of[source.model_id]}, but {config.meshes} "
                f"has {source.name}: give the meshes it was made of, or a new folder"
            )
    if config.grow or not config.meshes or config.hybrids or not held:
        return
    found = everything if config.models is None else discover(config.meshes)  # beyond the number asked for too
    if held.keys().isdisjoint(source.model_id for source in found):
        raise UserError(
            f"{config.out}: holds none of the models of {config.meshes}: give the meshes it was made of, a new folder, "
            "or --grow to add these to it"
        )


def _render_missing(job: Job, parts: Path, missing: list[Source], total: int) -> list[Failure]:
    """Render models into parts, without the pairs that are held already; returns those that could not be."""
    failures: list[Failure] = []
    outcomes = _render_parts(job, parts, missing)
    with tqdm(
        total=total, initial=total - len(missing), unit="model", desc="render", disable=not job.config.progress
    ) as bar:
        done = total - len(missing)
        try:
            for group, outcome in outcomes:
                of_each = [outcome] * len(group) if isinstance(outcome, Exception) else outcome
                for source, error in zip(group, of_each, strict=True):
                    failures += _failures(job, source, error)
                bar.update(len(group))
                done += of_each.count(None)
        except KeyboardInterrupt:
            bar.close()
            raise KeyboardInterrupt(
                f"interrupted: {done} of {total} models are done and kept: run the same command again to go on"
            ) from None
        finally:
            outcomes.close()
    return failures


def _failures(job: Job, source: Source, error: Exception | None) -> list[Failure]:
    """What to note of a model that could not be rendered; raises what concerns more than the model."""
    if error is None:
        return []
    if isinstance(error, MemoryError):
        error = MeshError("needs more memory than there is")
    if not isinstance(error, (MeshError, WorkerDied)):
        raise error
    reason = printable(str(error))
    if job.config.strict:
        raise UserError(f"{source.name}: {reason}: mend or remove it, or leave --strict out")
    kept = job.held.get(source.model_id, 0)
    return [Failure(source.name, f"{reason}{f'; it keeps its {kept} pairs' * (kept > 0)}")]


def _render_parts(job: Job, parts: Path, sources: list[Source]) -> Iterator[tuple[list[Source], _Outcome]]:
    """Yields models and what became of them; then those that could be rendered have a part."""
    config = job.config
    if config.ray:
        groups = _groups(config, sources, config.workers or _RAY_WORKERS)
        for group, outcome in run_tasks_on_ray(partial(_open_sender, job), groups, config.workers, _divide):
            if not isinstance(outcome, Exception):
                outcome, part = outcome
                if part is not None:
                    write_bytes(parts / part_name(hashlib.sha256(part).hexdigest()), part)
            yield group, outcome
    else:
        # Workers write in a folder of this run's own: one that outlives a killed run cannot disturb the next.
        scratch = parts / f"run-{uuid.uuid4().hex}"
        scratch.mkdir()
        workers = min(config.workers or _cores(), len(sources))
        groups = _groups(config, sources, workers)
        yield from run_tasks(partial(_open_renderer, job, scratch), groups, workers, _divide)


def _groups(config: RenderConfig, sources: list[Source], workers: int) -> list[list[Source]]:
    """Models that go into one part: of one split, and several where they have few pairs, for writing and joining a part
    takes as long as rendering five pairs."""
    size = max(1, min(_PAIRS_PER_PART // config.pairs_per_model, len(sources) // (_GROUPS_PER_WORKER * workers or 1)))
    by_split: dict[str, list[Source]] = {split: [] for split in SPLITS}
    for source in sources:
        by_split[_split_of(config, source)].append(source)
    return [ours[start : start + size] for ours in by_split.values() for start in range(0, len(ours), size)]


def _divide(group: list[Source]) -> list[list[Source]]:
    return [[source] for source in group]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _open_renderer(job: Job, scratch: Path) -> Callable[[list[Source]], _Outcome]:
    """Runs in a worker: what it does with a group of models."""
    render_part = _part_renderer(job)

    def work(group: list[Source]) -> _Outcome:
        path = scratch / f"{os.getpid()}.h5"
        outcome = render_part(path, group)
        if path.exists():
            os.replace(path, scratch.parent / part_name(file_sha256(path)))
        return outcome

    return work


def _open_sender(job: Job) -> Callable[[list[Source]], tuple[_Outcome, bytes | None]]:
    """Runs on another machine: what it does with a group of models; no file is shared, but the meshes."""
    meshes = job.config.meshes
    if meshes and not meshes.exists():
        raise UserError(f"ray: {meshes} is not there on node {socket.gethostname()}: put it there on every node")
    render_part = _part_renderer(job)

    def work(group: list[Source]) -> tuple[_Outcome, bytes | None]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "part.h5")
            outcome = render_part(path, group)
            return outcome, path.read_bytes() if path.exists() else None

    return work


def _part_renderer(job: Job) -> Callable[[Path, list[Source]], _Outcome]:
    """A function that renders models into a shard of their own; there is none if all of them are unusable."""
    config, backend, mesh_of = job.config, open_backend(job.config.backend), _open_source(job.config)
    offset, scale = depth_coding(config.views)

    def render(source: Source) -> tuple[ModelPairs, tuple[str, ...]]:
        with time_limit(config.time_limit):  # libraries that read files can hang; what follows is bounded
            mesh = mesh_of(source)
        model = render_model(config, source, mesh, backend, job.held.get(source.model_id, 0))
        if job.geometries.get(source.model_id, model.geometry) != model.geometry:
            raise MeshError("another shape than when its first pairs were rendered")
        return model, _keypoint_names(config, mesh)

    def render_part(path: Path, group: list[Source]) -> _Outcome:
        outcome: list[Exception | None] = []
        models = []
        for source in group:
            try:
                model, names = render(source)
                models.append(model)
                outcome.append(None)
            except MeshError as error:
                outcome.append(error)
        if models:
            write_shard(path, models[0].split, models, job.settings, names, offset, scale, final=False)
        return outcome

    return render_part
