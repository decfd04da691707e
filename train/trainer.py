"""The training loop. DATASET and RUN are folders; with --resume the same command goes on with the run in RUN.

One process, on the CPU or on one GPU:

    python cli.py train DATASET RUN --preset cpu
    python cli.py train DATASET RUN --preset gpu

The GPUs of one machine, or of two with RUN on a disk that both see (the same command on each, HOST being the first):

    torchrun --nproc-per-node 4 cli.py train DATASET RUN --preset gpu
    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 cli.py train DATASET RUN ...

``--batch-size`` is that of all processes together, and the result is theirs up to rounding, however many there are.
Everything random in a step depends on (seed, step) alone, so a run that was stopped anywhere and resumed ends with
the same weights as one that was not; on a GPU up to rounding, for its kernels are chosen by their speed.
"""

from __future__ import annotations

import ctypes
import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from data.atomic import holding
from data.dataset import PairDataset
from data.errors import UserError, resumable
from data.geometry import transform_points
from data.manifest import MANIFEST_NAME
from data.signals import STOPS, handled_by
from train import distributed, losses, schedules
from train.batches import PairBatch, find_mates, jitter_colors, make_batch
from train.checkpoint import (
    CHECKPOINT_NAME,
    PREVIOUS_NAME,
    TrainState,
    find_checkpoint,
    load_checkpoint,
    other_pairs,
    save_checkpoint,
)
from train.config import TrainConfig, replace_settings
from train.cuda_graph import GraphedStep
from train.detector import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    Detector,
    build_network,
    find_run,
    load_config,
    load_weights,
    resolve_device,
    save_config,
    save_weights,
)
from train.eval.validation import open_validation, validate
from train.loader import make_pair_loader
from train.logger import METRICS_NAME, Logger, no_tracebacks_of_files
from train.networks import KeypointNetwork
from train.optimizer import MovingAverage, Optimizers, make_optimizer
from train.provenance import save_training_data

LOCK_NAME = ".lock"
FREE_TO_CHANGE = ("steps", "device", "cuda_graph", "log_every", "validate_every", "checkpoint_every")


@distributed.process_group()
def train(config: TrainConfig, datasets: Sequence[str | Path], run: str | Path, resume: bool = False) -> None:
    """Train a network, or go on with a run that was stopped. Under torchrun, all processes call this.

    Args:
        config: every setting; with ``resume``, those of the run; only ``FREE_TO_CHANGE`` may differ.
        datasets: dataset folders; their train splits are mixed, their val splits validate.
        run: folder for settings, weights, checkpoint, logs and ``training_data.json`` (:mod:`train.provenance`).

    Raises:
        UserError: the run folder is taken (without ``resume``) or not there (with it), a dataset is unusable, or the
            loss or its gradient is no longer finite.
        KeyboardInterrupt: the user stopped it; a checkpoint has been written.
    """
    keep_freed_memory()
    run, device = Path(run), choose_device(config.device)
    pairs = PairDataset(datasets, "train")
    validation = open_validation(pairs)
    if resume and (run / CONFIG_NAME).exists():
        config = as_begun(config, load_config(run))
    elif config.init_from and find_run(config.init_from) == Path(config.init_from):
        # Whole, for the run may be gone on with from another folder; shipped weights keep their name.
        config = dataclasses.replace(config, init_from=str(Path(config.init_from).resolve()))
    config = settle(config, device, pairs)
    if config.supervised:
        pairs.semantic_keypoints = pairs.semantic_keypoints.to(device)
    if distributed.is_main():
        check_run_folder(config, run, resume)
    distributed.barrier()

    # The weights that a run began with may be gone when it goes on.
    state = start(dataclasses.replace(config, init_from=None) if resume and find_checkpoint(run) else config)
    data = pairs.fingerprint()
    with ExitStack() as stack:
        stack.enter_context(claim_run_folder(config, run, resume))
        stack.enter_context(resumable(run, "go on with the same command and --resume"))
        if resume:
            load_checkpoint(run, state, config.steps, data)
        replica = distributed.distribute(state.network)
        loader = make_pair_loader(pairs, config, state.step, device)
        take_step = partial(training_step, replica, state, pairs, config)
        if device == "cuda" and config.cuda_graph and distributed.world_size() == 1:
            take_step = GraphedStep(take_step)
        if distributed.is_main():
            if state.step:  # a kill may have come between the checkpoint and them
                save_weights(state.average.network, run / WEIGHTS_NAME)
            else:
                save_training_data(run, pairs, find_run(config.init_from) if config.init_from else None)
            save_config(config, run)
        interrupt = stack.enter_context(stop_on_interrupt())
        stack.enter_context(no_tracebacks_of_files())
        logger = stack.enter_context(Logger(run, state.step, config.steps))
        for stored in loader:
            torch.manual_seed(config.seed * 1_000_003 + state.step)
            values = take_step(stored, state.step)
            state.step += 1

            logger.count(values)
            stopping = distributed.any_rank(interrupt.requested)
            last = state.step == config.steps or stopping
            checkpoint = state.step % config.checkpoint_every == 0 or last
            due = validation and (state.step % config.validate_every == 0 or state.step == config.steps)
            if state.step % config.log_every == 0 or checkpoint or due:
                values = {**logger.means(), "learning_rate": schedules.learning_rate(config, state.step - 1)}
                require_finite(values, run, state.step)
                if due and distributed.is_main():
                    with logger.time_out():
                        figures, picture = validate(Detector(state.average.network, config, device), validation)
                    values |= {f"validation_{name}": value for name, value in figures.items()}
                    logger.show_validation(state.step, figures, picture)
                logger.write(state.step, values)
            if checkpoint:
                save_checkpoint(run, state, data)
            if stopping and state.step < config.steps:
                distributed.barrier()
                raise KeyboardInterrupt(
                    f"stopped at step {state.step} of {config.steps}: go on with the same command and --resume"
                )


def as_begun(config: TrainConfig, before: TrainConfig) -> TrainConfig:
    """Settings to go on with: what has several names has that of the run's own settings."""
    precision, parent = config.precision, config.init_from
    if precision == "auto":  # another machine might choose another
        precision = before.precision
    if parent and before.init_from and _folder_of(parent) == _folder_of(before.init_from):
        parent = before.init_from
    return dataclasses.replace(config, precision=precision, init_from=parent)


def _folder_of(run: str | Path) -> Path:
    try:
        return find_run(run).resolve()
    except UserError:  # gone since
        return Path(run).resolve()


def settle(config: TrainConfig, device: str, pairs: PairDataset) -> TrainConfig:
    """Settings as the run folder has them: what this machine and the dataset decide is filled in.

    Raises:
        UserError: a supervised run on a dataset without labels, or whose labels do not go with the network; an axis
            whose flag the views do not tell.
    """
    precision = "bfloat16" if uses_bfloat16(config, device) else "float32"
    distance, focal_length = pairs.typical_camera()
    for axis in config.axes:
        if (losses.axis_rightward(pairs.object_to_camera, (axis,)).abs() < 1e-6).all():
            raise UserError(
                f"axes {','.join(config.axes)}: {axis} points neither right nor left in any view of "
                f"{pairs.folders[0]}, so its flag says nothing: leave it out, or render with --roll-degrees"
            )
    config = dataclasses.replace(
        config,
        device=device,
        precision=precision,
        camera_distance=distance,
        focal_length=focal_length,
        source_size=max(pairs.image_size),
    )
    if config.supervised:
        require_labels(config, pairs)
        config = replace_settings(config, keypoints=len(pairs.keypoint_names))
    return config


def start(config: TrainConfig) -> TrainState:
    """A training before its first step; ``config`` names its device and precision."""
    torch.manual_seed(config.seed)
    network = build_network(config)
    if config.init_from:
        load_initial_weights(network, config)
    network.to(config.device, memory_format=torch.channels_last)
    network.bfloat16 = config.precision == "bfloat16"
    return TrainState(network, MovingAverage(network), make_optimizer(config, network))


def require_finite(means: dict[str, float], run: Path, step: int) -> None:
    """Stop a training that has diverged.

    Raises:
        UserError: the loss or its gradient is no longer finite.
    """
    for name in ("loss", "gradient_norm"):
        if not math.isfinite(means[name]):
            raise UserError(
                f"{run}: the {name} is {means[name]} by step {step}: try a lower --learning-rate, in another folder"
            )


def choose_device(name: str) -> str:
    """:func:`resolve_device`, and of several GPUs this process's own.

    Raises:
        UserError: it cannot be used.
    """
    name = resolve_device(name)
    if name == "cuda":
        gpu, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if gpu >= gpus:
            raise UserError(
                f"this machine has {gpus} GPUs, fewer than processes: start torchrun --nproc-per-node {gpus}"
            )
        torch.cuda.set_device(gpu)
        torch.backends.cudnn.benchmark = True  # all batches are of one shape
    return name


def load_initial_weights(network: KeypointNetwork, config: TrainConfig) -> None:
    """Start from the weights of ``init_from``.

    Raises:
        UserError: they are not there, damaged, or of a network of another shape; says which setting to change.
    """
    folder = find_run(config.init_from)
    theirs = load_config(folder)
    shaping = ["network", "keypoints", "width", "axes", "mirror"]
    if config.network == "compact":
        shaping += ["image_size", "reduction"]
    for name in shaping:
        if (value := getattr(theirs, name)) != getattr(config, name):
            option = name.replace("_", "-")
            if isinstance(value, bool):
                advice = f"--{option}" if value else f"--no-{option}"
            else:
                advice = f"--{option} {','.join(value) if name == 'axes' else value}"
            if name == "keypoints" and config.supervised:
                advice = "weights of a supervised run on the same labels, whose number is that of keypoints"
            raise UserError(f"init-from {config.init_from}: a network of another {name}: add {advice}")
    load_weights(network, folder / WEIGHTS_NAME)


def require_labels(config: TrainConfig, pairs: PairDataset) -> None:
    """Refuse to learn labels that are not there.

    Raises:
        UserError: there are none, or they are to be mirrored.
    """
    if pairs.semantic_keypoints.isnan().all():
        raise UserError(
            f"{pairs.folders[0]}: has no semantic keypoints to learn: render it with --annotations, without --stretch "
            "and --warp"
        )
    if config.mirror:
        raise UserError("--supervised: labels do not say which are mirror images of each other: add --no-mirror")


def check_run_folder(config: TrainConfig, run: Path, resume: bool) -> None:
    """Refuse a folder that holds a run, or with ``resume`` one that does not hold this run."""
    if (run / MANIFEST_NAME).exists():
        raise UserError(f"{run}: a dataset, not a run: name a run folder after the datasets")
    begun = find_checkpoint(run) or (run / WEIGHTS_NAME).exists()
    if not resume:
        for name in (CONFIG_NAME, CHECKPOINT_NAME, PREVIOUS_NAME, WEIGHTS_NAME, METRICS_NAME):
            if (run / name).exists():
                advice = "to go on with it" if begun else "with the same options, delete the folder"
                raise UserError(f"{run}: holds a run already: add --resume {advice}, or choose another folder")
        return
    if not (run / CONFIG_NAME).exists():
        advice = "restore it, or train into another folder" if begun else "train without --resume"
        raise UserError(f"{run}: no run to resume (no {CONFIG_NAME}): {advice}")
    before, now = dataclasses.asdict(load_config(run)), dataclasses.asdict(config)
    if before["precision"] == "auto":  # of a version that did not resolve it
        before["precision"] = now["precision"]
    differing = [name for name in now if name not in FREE_TO_CHANGE and now[name] != before[name]]
    if {"camera_distance", "focal_length", "source_size"} & set(differing):  # of the pairs, not the user's to choose
        raise other_pairs(run)
    if differing:
        name = "supervised" if "supervised" in differing else differing[0]  # it decides how many keypoints there are
        raise UserError(
            f"{run}: was started with {name} = {before[name]}, not {now[name]}: resume with the same options, "
            "or train into another folder"
        )


@contextmanager
def claim_run_folder(config: TrainConfig, run: Path, resume: bool) -> Iterator[None]:
    """Hold the only right to write in ``run``, which goes with the process, however that ends."""
    with ExitStack() as stack:
        if distributed.is_main():
            busy = f"{run}: another training is writing to it: wait, or choose another folder"
            stack.enter_context(holding(run / LOCK_NAME, busy))
            check_run_folder(config, run, resume)  # again: another training may have come and gone
        distributed.barrier()
        yield


def training_step(
    replica: nn.Module,
    state: TrainState,
    pairs: PairDataset,
    config: TrainConfig,
    stored: dict[str, Tensor],
    step: int | Tensor,
) -> dict[str, Tensor]:
    """Learn from a batch, as :meth:`PairDataset.batch` gives it.

    Args:
        step: a number, or an integer tensor without dimensions on the device, which a CUDA graph needs.

    Returns:
        What to log: the terms of each pair, the loss and the norm of its gradient.
    """
    batch = prepare(stored, pairs, config, step)
    terms = loss_terms(replica, batch, config, step)
    loss = losses.objective(terms, schedules.loss_weights(config, step)).mean()
    loss.backward()
    norm = optimizer_step(state.network, state.optimizer, config, step)
    state.average.update(schedules.average_weight(config, step))
    return {name: value.detach() for name, value in {**terms, "loss": loss, "gradient_norm": norm}.items()}


def prepare(stored: dict[str, Tensor], pairs: PairDataset, config: TrainConfig, step: int | Tensor) -> PairBatch:
    """Network input, on the device of ``config``, of a batch as :meth:`PairDataset.batch` gives it; augmented, and
    labelled if supervised."""
    stored = {name: tensor.to(config.device) for name, tensor in stored.items()}
    views = (stored["rgba"], stored["object_to_camera"], stored["intrinsics"])
    mates = find_mates(stored["shape_index"], step * config.batch_size) if config.cross_pairs else None
    batch = make_batch(*views, config.image_size, config.margin, mates)
    if config.color_jitter:
        batch.images = jitter_colors(batch.images, config.color_jitter)
    if config.supervised:
        points = pairs.semantic_keypoints[stored["shape_index"]].unsqueeze(1).expand(-1, 2, -1, -1)
        batch.labels = transform_points(batch.object_to_camera, points)
    return batch


def loss_terms(
    network: KeypointNetwork, batch: PairBatch, config: TrainConfig, step: int | Tensor
) -> dict[str, Tensor]:
    """Terms of the objective for a batch: name -> (B,)."""
    network.train()
    images = batch.images[:, :, : network.in_channels]
    flags = losses.true_flags(batch.object_to_camera, network.axes)
    # Far from where a flag changes, a wrong one is a plain mistake, and teaches the keypoints nothing.
    near = losses.axis_rightward(batch.object_to_camera, network.axes).abs() <= config.flag_margin
    anneal = torch.where(near, schedules.flag_anneal(config, step), 1.0)
    mirrored = distributed.rand(len(images), 2, device=images.device) < 0.5 if config.mirror else None
    inputs = (images, flags, anneal, batch.zoom, mirrored)
    if network.normalizes_views_apart:
        views = [network(*(x if x is None else x[:, i] for x in inputs)) for i in range(2)]
    else:
        views = network(*(x if x is None else x.flatten(0, 1) for x in inputs)).split_views(2)
    mirror, on_object = config.mirror and config.weights.mirror_separation > 0, config.weights.object_distance > 0
    noise = schedules.noise(config, step)
    return losses.pair_terms(views, batch, network.axes, config.delta, noise, mirror, on_object)


def optimizer_step(network: nn.Module, optimizer: Optimizers, config: TrainConfig, step: int | Tensor) -> Tensor:
    """Move the weights against their gradient and forget it; gives its global norm before clipping."""
    norm = nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip, foreach=True)
    optimizer.step(schedules.learning_rate(config, step))
    optimizer.zero_grad()
    return norm


def uses_bfloat16(config: TrainConfig, device: str) -> bool:
    """Whether convolutions run in bfloat16: if asked for, or on "auto" where the processor multiplies in it."""
    if config.precision == "auto":
        if device == "cuda":
            return torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.cpu._is_avx512_bf16_supported()
    return config.precision == "bfloat16"


def keep_freed_memory() -> None:
    """Let glibc keep the memory that a step frees for the next one; other C libraries are left alone.

    Else it gives it back to the system and takes it anew, page by page, for a tenth of the time of a step.
    """
    trim_threshold, mmap_threshold = -1, -3  # names of mallopt(3), as malloc.h has them
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(mmap_threshold, 2**25)  # the greatest that it takes
        libc.mallopt(trim_threshold, 2**30)


class Interrupt:
    """Whether the user, or the system with SIGTERM, asked to stop."""

    requested = False


@contextmanager
def stop_on_interrupt() -> Iterator[Interrupt]:
    """Let the first Ctrl-C or SIGTERM end the step in hand; a second one stops at once.

    Under torchrun a second one means nothing: torchrun passes on what the terminal has sent to all processes already.
    """
    interrupt = Interrupt()

    def request(signum, frame):
        if interrupt.requested and not torch.distributed.is_torchelastic_launched():
            raise KeyboardInterrupt
        interrupt.requested = True

    with handled_by(request, *STOPS):
        yield interrupt
