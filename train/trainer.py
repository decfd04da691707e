"""The training loop. DATASET and RUN are folders; with --resume the same command goes on with the run in RUN.

One process, on the CPU or on one GPU:

    python cli.py train DATASET RUN --preset cpu
    python cli.py train DATASET RUN --preset gpu

The GPUs of one machine, or of two with RUN on a disk that both see (the same command on each, HOST being the first):

    torchrun --nproc-per-node 4 cli.py train DATASET RUN --preset gpu
    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 cli.py train DATASET RUN ...

``--batch-size`` is that of all processes together, and the result is theirs up to rounding, however many there are.
Everything random in a step depends on (seed, step) alone, so a run that was stopped anywhere and resumed ends with
the same weights as one that was not.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import math
import os
import signal
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from data.atomic import holding, write_bytes
from data.dataset import PairDataset, PairLoader, PairSampler, couples, make_loader
from data.errors import UserError
from data.geometry import transform_points
from train import distributed, losses
from train.batches import PairBatch, find_mates, jitter_colors, make_batch
from train.config import LossWeights, TrainConfig, replace_settings
from train.detector import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    Detector,
    build_network,
    find_run,
    load_config,
    load_weights,
    save_config,
    save_weights,
)
from train.eval import metrics
from train.eval.overlays import draw_grid
from train.networks import KeypointNetwork
from train.optimizer import Optimizers, make_optimizer

CHECKPOINT_NAME = "checkpoint.pt"
PREVIOUS_NAME = "checkpoint-previous.pt"
METRICS_NAME = "metrics.jsonl"
LOCK_NAME = ".lock"
FREE_TO_CHANGE = ("steps", "device", "log_every", "validate_every", "checkpoint_every")
VALIDATION_PAIRS = 256
PICTURE_MODELS = 12


@distributed.process_group()
def train(config: TrainConfig, datasets: list[Path], run: Path, resume: bool = False) -> None:
    """Train a network, or go on with a run that was stopped. Under torchrun, all processes call this.

    Args:
        config: every setting; with ``resume``, those of the run; only ``FREE_TO_CHANGE`` may differ.
        datasets: dataset folders; their train splits are mixed, their val splits validate.
        run: folder for settings, weights, checkpoint and logs.

    Raises:
        UserError: the run folder is taken (without ``resume``) or not there (with it), a dataset is unusable, or the
            loss or its gradient is no longer finite.
        KeyboardInterrupt: the user stopped it; a checkpoint has been written.
    """
    device = choose_device(config.device)
    pairs = PairDataset(datasets, "train")
    validation = open_validation(pairs)
    distance, focal_length = pairs.typical_camera()
    precision = "bfloat16" if uses_bfloat16(config, device) else "float32"
    config = dataclasses.replace(
        config, device=device, precision=precision, camera_distance=distance, focal_length=focal_length
    )
    if config.supervised:
        require_labels(config, pairs)
        config = replace_settings(config, keypoints=len(pairs.keypoint_names))
    if distributed.is_main():
        check_run_folder(config, run, resume)
    distributed.barrier()

    torch.manual_seed(config.seed)
    network = build_network(config)
    if config.init_from and not (resume and find_checkpoint(run)):
        load_initial_weights(network, config)
    network.to(device, memory_format=torch.channels_last)
    network.bfloat16 = precision == "bfloat16"
    average = MovingAverage(network, config.average_decay)
    optimizer = make_optimizer(config, network)
    data = pairs.fingerprint()
    step = load_checkpoint(run, config.steps, network, average, optimizer, data) if resume else 0

    replica = distributed.distribute(network)
    loader = make_pair_loader(pairs, config, step, device)
    with (
        claim_run_folder(config, run, resume),
        stop_on_interrupt() as interrupt,
        Logger(run, step, config.steps) as logger,
    ):
        if step and distributed.is_main():  # a kill may have come between the checkpoint and them
            save_weights(average.network, run / WEIGHTS_NAME)
        for stored in loader:
            torch.manual_seed(config.seed * 1_000_003 + step)
            batch = prepare(stored, pairs, config, device, step)
            terms = forward(replica, batch, config, step)
            loss = losses.objective(terms, weights_at(config, step)).mean()
            loss.backward()
            norm = descend(network, optimizer, config, step)
            average.update(step)
            step += 1

            logger.count({**terms, "loss": loss, "gradient_norm": norm})
            stopping = distributed.anywhere(interrupt.requested)
            last = step == config.steps or stopping
            checkpoint = step % config.checkpoint_every == 0 or last
            if step % config.log_every == 0 or checkpoint:
                means = logger.means()
                for name in ("loss", "gradient_norm"):
                    if not math.isfinite(means[name]):
                        raise UserError(
                            f"{run}: the {name} is {means[name]} by step {step}: try a lower --learning-rate, in "
                            "another folder"
                        )
                logger.write(step, {**means, "learning_rate": learning_rate(config, step - 1)})
            if validation and (step % config.validate_every == 0 or step == config.steps):
                logger.write_validation(step, Detector(average.network, config, device), validation)
            if checkpoint:
                save_checkpoint(run, step, network, average, optimizer, data)
            if stopping and step < config.steps:
                distributed.barrier()
                raise KeyboardInterrupt(
                    f"stopped at step {step} of {config.steps}: go on with the same command and --resume"
                )


def choose_device(name: str) -> str:
    """"auto" is the GPU where there is one.

    Raises:
        UserError: "cuda" where there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch sees no GPU here: use --device cpu, or install a CUDA build of torch")
    if name == "cuda":
        gpu, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if gpu >= gpus:
            raise UserError(
                f"this machine has {gpus} GPUs, fewer than processes: start torchrun --nproc-per-node {gpus}"
            )
        torch.cuda.set_device(gpu)
        torch.backends.cudnn.benchmark = True  # all batches are of one shape
    return name


def open_validation(pairs: PairDataset) -> PairDataset | None:
    """The validation pairs of the same folders, or None where no folder has any."""
    splits = {shard.split for manifest in pairs.manifests for shard in manifest.shards}
    return PairDataset(pairs.folders, "val") if "val" in splits else None


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


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this machine, and the container (cgroup v2) where there is one, can give;
    files in the page cache can go."""
    meminfo = dict(line.split(":") for line in (root / "proc/meminfo").read_text().splitlines())
    available = int(meminfo["MemAvailable"].split()[0]) * 1024
    cgroup = root / "sys/fs/cgroup"
    if (cgroup / "memory.max").exists() and (limit := (cgroup / "memory.max").read_text().strip()) != "max":
        usage = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        used = int((cgroup / "memory.current").read_text()) - int(usage["inactive_file"])
        available = min(available, int(limit) - used)
    return available


def fits_in_memory(pairs: PairDataset, device: str) -> bool:
    """Whether all images take at most half of what is free, here (where they are read first) and on the device."""
    free = available_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if device == "cuda":
        free = min(free, torch.cuda.mem_get_info()[0])
    height, width = pairs.image_size
    return len(pairs) * 2 * height * width * 4 < free / 2


def make_pair_loader(pairs: PairDataset, config: TrainConfig, step: int, device: str) -> PairLoader:
    """This process' share of the batches from ``step`` on, from memory where the images fit, else from the shards."""
    rank, world_size = distributed.rank(), distributed.world_size()
    batch_size, steps = config.batch_size, config.steps - step
    if config.cross_pairs and world_size > 1 and batch_size % (2 * world_size):
        raise UserError(
            f"batch size {batch_size}: {world_size} processes need an even share each to compare views across pairs: "
            f"take a multiple of {2 * world_size}, or --no-cross-pairs"
        )
    groups = couples(pairs.shape_index.numpy()) if config.cross_pairs else None
    sampler = PairSampler(len(pairs), batch_size, config.seed, steps, step * batch_size, rank, world_size, groups)
    if fits_in_memory(pairs, device):
        return make_loader(pairs.load(device), sampler)
    # A GPU is faster than one process reads.
    workers = min(8, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))) if device == "cuda" else 0
    return make_loader(pairs, sampler, workers, worker_init_fn=ignore_signals)


def ignore_signals(worker: int) -> None:
    """Leave what a terminal or a scheduler sends to all processes to the one that trains, which writes a checkpoint."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def check_run_folder(config: TrainConfig, run: Path, resume: bool) -> None:
    """Refuse a folder that holds a run, or with ``resume`` one that does not hold this run."""
    if not resume:
        for name in (CONFIG_NAME, CHECKPOINT_NAME, PREVIOUS_NAME, WEIGHTS_NAME, METRICS_NAME):
            if (run / name).exists():
                raise UserError(f"{run}: holds a run already: add --resume to go on with it, or choose another folder")
        return
    if not (run / CONFIG_NAME).exists():
        raise UserError(f"{run}: no run to resume (no {CONFIG_NAME}): train without --resume")
    before, now = dataclasses.asdict(load_config(run)), dataclasses.asdict(config)
    if before["precision"] == "auto":  # of a version that did not resolve it
        before["precision"] = now["precision"]
    differing = [name for name in now if name not in FREE_TO_CHANGE and now[name] != before[name]]
    if differing:
        name = differing[0]
        raise UserError(
            f"{run}: was started with {name} = {before[name]}, not {now[name]}: resume with the same options, "
            "or train into another folder"
        )


@contextmanager
def claim_run_folder(config: TrainConfig, run: Path, resume: bool) -> Iterator[None]:
    """Hold the only right to write in ``run``, which goes with the process, however that ends; write the settings."""
    with ExitStack() as stack:
        if distributed.is_main():
            busy = f"{run}: another training is writing to it: wait, or choose another folder"
            stack.enter_context(holding(run / LOCK_NAME, busy))
            check_run_folder(config, run, resume)  # again: another training may have come and gone
            save_config(config, run)
        distributed.barrier()
        yield


def prepare(stored: dict[str, Tensor], pairs: PairDataset, config: TrainConfig, device: str, step: int) -> PairBatch:
    """Network input on the device of a batch as :meth:`PairDataset.batch` gives it, augmented;
    labelled if supervised."""
    stored = {name: tensor.to(device) for name, tensor in stored.items()}
    views = (stored["rgba"], stored["object_to_camera"], stored["intrinsics"])
    mates = find_mates(stored["shape_index"], step * config.batch_size) if config.cross_pairs else None
    batch = make_batch(*views, config.image_size, config.margin, mates)
    if config.color_jitter:
        batch.images = jitter_colors(batch.images, config.color_jitter)
    if config.supervised:
        points = pairs.semantic_keypoints.to(device)[stored["shape_index"]].unsqueeze(1).expand(-1, 2, -1, -1)
        batch.labels = transform_points(batch.object_to_camera, points)
    return batch


def forward(network: KeypointNetwork, batch: PairBatch, config: TrainConfig, step: int) -> dict[str, Tensor]:
    """Terms of the objective for a batch: name -> (B,)."""
    network.train()
    images = batch.images[:, :, : network.in_channels]
    flags = losses.true_flags(batch.object_to_camera, network.axes)
    # Far from where a flag changes, a wrong one is a plain mistake, and teaches the keypoints nothing.
    near = losses.axis_rightward(batch.object_to_camera, network.axes).abs() <= config.flag_margin
    anneal = torch.where(near, flag_anneal(config, step), 1.0)
    mirrored = distributed.rand(len(images), 2, device=images.device) < 0.5 if config.mirror else None
    inputs = (images, flags, anneal, batch.zoom, mirrored)
    if network.normalizes_views_apart:
        views = [network(*(x if x is None else x[:, i] for x in inputs)) for i in range(2)]
    else:
        views = network(*(x if x is None else x.flatten(0, 1) for x in inputs)).deal(2)
    noise = config.noise + (config.noise_end - config.noise) * step / config.steps
    return losses.pair_terms(views, batch, network.axes, config.delta, noise)


def descend(network: nn.Module, optimizer: Optimizers, config: TrainConfig, step: int) -> Tensor:
    """Move the weights against their gradient and forget it; gives its global norm before clipping."""
    norm = nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip, foreach=True)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, step)
    optimizer.step()
    optimizer.zero_grad()
    return norm


def uses_bfloat16(config: TrainConfig, device: str) -> bool:
    """Whether convolutions run in bfloat16: if asked for, or on "auto" where the processor multiplies in it."""
    if config.precision == "auto":
        return torch.cuda.is_bf16_supported() if device == "cuda" else torch.cpu._is_avx512_bf16_supported()
    return config.precision == "bfloat16"


def flag_anneal(config: TrainConfig, step: int) -> float:
    """Weight of the true orientation flags: 1, then falling to 0 between the two settings (section 3.3).

    The flag that is fed is rounded, so it changes at 1/2.
    """
    start, end = config.anneal_start * config.steps, config.anneal_end * config.steps
    return float(np.clip((end - step) / max(end - start, 1), 0, 1))


def weights_at(config: TrainConfig, step: int) -> LossWeights:
    """Weights of the terms in a step: spatial consistency waits for the end of the flags' annealing.

    From the start it would keep pairs of mirror images together in the plane of symmetry, where they agree best.
    """
    return dataclasses.replace(config.weights, spatial_consistency=0.0) if flag_anneal(config, step) else config.weights


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then constant or a half cosine to zero."""
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    decay = 0.5 + 0.5 * math.cos(math.pi * step / config.steps) if config.cosine_decay else 1.0
    return config.learning_rate * warmup * decay


class MovingAverage:
    """Exponential moving average of a network's weights and statistics, which forgets its start quickly.

    Args:
        decay: share that is kept in each step; 0 keeps the last weights.

    Attributes:
        network: one with the averages.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._decay = decay
        pairs = list(zip(self.network.state_dict().values(), network.state_dict().values()))
        self._averaged = [(old, new) for old, new in pairs if old.is_floating_point()]
        self._copied = [(old, new) for old, new in pairs if not old.is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights as they are after ``step`` (counted from 0)."""
        keep = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(*map(list, zip(*self._averaged)), 1 - keep)
        for old, new in self._copied:
            old.copy_(new)


def save_checkpoint(
    run: Path, step: int, network: nn.Module, average: MovingAverage, optimizer: Optimizers, data: str
) -> None:
    """Write ``checkpoint.pt``, then ``model.safetensors``, each atomically; the checkpoint before is kept.

    Whatever kills the process in between, resuming writes the weights first of all.
    """
    if not distributed.is_main():
        return
    buffer = io.BytesIO()
    state = {
        "step": step,
        "data": data,
        "network": network.state_dict(),
        "average": average.network.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(state, buffer)
    path = run / CHECKPOINT_NAME
    if path.exists():
        os.replace(path, run / PREVIOUS_NAME)
    write_bytes(path, buffer.getvalue())
    save_weights(average.network, run / WEIGHTS_NAME)


def find_checkpoint(run: Path) -> Path | None:
    """The newest one to go on from."""
    return next((run / name for name in (CHECKPOINT_NAME, PREVIOUS_NAME) if (run / name).exists()), None)


def load_checkpoint(
    run: Path, steps: int, network: nn.Module, average: MovingAverage, optimizer: Optimizers, data: str
) -> int:
    """Restore the state of a run from its newest checkpoint; a run that was stopped before the first one starts anew.

    Args:
        steps: how many the run is to have. data: fingerprint of the pairs to train on.

    Returns:
        steps done.

    Raises:
        UserError: the checkpoint is damaged, missing, of another run or of other data, or has more than ``steps``.
    """
    path = find_checkpoint(run)
    if path is None:
        if (run / WEIGHTS_NAME).exists():
            raise UserError(
                f"{run}: has weights but no {CHECKPOINT_NAME} to go on from: train into another folder, with "
                f"--init-from {run} to begin with these weights"
            )
        return 0
    try:
        with zipfile.ZipFile(path) as archive:  # PyTorch writes checksums but does not compare them
            if member := archive.testzip():
                raise ValueError(f"wrong checksum of {member}")
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state["network"])
        average.network.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, trained_on = int(state["step"]), state["data"]
    except OSError:
        raise
    except Exception as error:  # whatever unpickling random bytes can raise
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":.")
        remedy = "train again"
        if path.name == CHECKPOINT_NAME and (run / PREVIOUS_NAME).exists():
            remedy = f"delete it, and --resume goes on from {PREVIOUS_NAME}"
        raise UserError(f"{path}: damaged, or not a checkpoint of this run ({reason}): {remedy}") from None
    if trained_on != data:
        raise UserError(f"{run}: was started with other pairs: resume with the same datasets, or use --init-from {run}")
    if step > steps:
        raise UserError(f"{run}: {step} steps are done already, more than {steps}: give more --steps")
    return step


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

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Logger:
    """Progress bar, ``metrics.jsonl`` and TensorBoard events of a run. All processes count, the main one writes."""

    def __init__(self, run: Path, step: int, steps: int):
        self._main = distributed.is_main()
        self._progress = tqdm(
            total=steps, initial=step, desc="train", unit="step", dynamic_ncols=True, disable=not self._main
        )
        if self._main:
            self._path = run / METRICS_NAME
            write_bytes(self._path, b"".join(whole_lines(self._path, step)))
            self._board = SummaryWriter(run / "tensorboard", purge_step=step)
        self._clear()

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *exception) -> None:
        self._progress.close()
        if self._main:
            self._board.close()

    def _clear(self) -> None:
        self._sums: Tensor | float = 0.0
        self._steps = 0
        self._started = time.monotonic()

    def count(self, values: dict[str, Tensor]) -> None:
        """Add a step's values, of any shape, to the running means."""
        self._names = tuple(values)
        self._sums = self._sums + torch.stack([value.detach().mean() for value in values.values()])
        self._steps += 1
        self._progress.update()

    def means(self) -> dict[str, float]:
        """Means since the last call, over the pairs of all processes; and the steps per second."""
        means = dict(zip(self._names, (distributed.mean(self._sums) / self._steps).tolist()))
        means["steps_per_second"] = self._steps / (time.monotonic() - self._started)
        self._clear()
        return means

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log values of a step."""
        if not self._main:
            return
        with open(self._path, "a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if "loss" in values:
            self._progress.set_postfix_str(" ".join(f"{name[:4]} {values[name]:.3f}" for name in self._names))

    def write_validation(self, step: int, detector: Detector, pairs: PairDataset) -> None:
        """Log errors on validation pairs and draw their keypoints."""
        if not self._main:
            return
        started = time.monotonic()
        chosen = np.unique(np.linspace(0, len(pairs) - 1, min(VALIDATION_PAIRS, len(pairs))).round().astype(int))
        stored = pairs.batch(chosen)
        found = detector.detect(stored["rgba"].flatten(0, 1))
        keypoints = found.keypoints.reshape(len(chosen), 2, *found.keypoints.shape[1:])
        points = metrics.camera_points(keypoints, stored["intrinsics"].numpy())
        sigma = None if found.sigma is None else found.sigma.reshape(keypoints.shape[:3])
        errors = metrics.angular_error(metrics.relative_rotation(points, sigma), stored["R"].numpy())
        true_flags = losses.true_flags(stored["object_to_camera"], detector.network.axes).flatten(0, 1).bool().numpy()
        values = {
            "validation_error_mean_deg": float(errors.mean()),
            "validation_error_median_deg": float(np.median(errors)),
            "validation_orientation_accuracy": metrics.orientation_accuracy(found.flags, true_flags),
        }
        self.write(step, values)
        shown = np.linspace(0, len(chosen) - 1, min(PICTURE_MODELS, len(chosen))).round().astype(int)
        picture = draw_grid(stored["rgba"][shown, 0].numpy(), keypoints[shown, 0])
        self._board.add_image("validation", np.asarray(picture), step, dataformats="HWC")
        self.say(
            f"step {step}: validation error mean {values['validation_error_mean_deg']:.1f}°, "
            f"median {values['validation_error_median_deg']:.1f}°, "
            f"flags right {values['validation_orientation_accuracy']:.1%}"
        )
        self._started += time.monotonic() - started

    def say(self, line: str) -> None:
        """Print a line above the progress bar."""
        self._progress.write(line)


def whole_lines(path: Path, step: int) -> list[bytes]:
    """The lines of ``metrics.jsonl`` up to a step, but for damaged ones, as one that was cut off by a kill."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith(b"\n") and _step_of(line) <= step]


def _step_of(line: bytes) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf
