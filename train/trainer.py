"""The training loop.

    python cli.py train DATASET RUN --preset cpu

Everything random in a step depends on (seed, step) alone, so a run that was stopped anywhere and resumed ends with
the same weights as one that was not.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from data.atomic import publish, temporary_path
from data.dataset import PairDataset, PairSampler, make_loader
from data.errors import UserError
from train import distributed, losses
from train.batches import PairBatch, jitter_colors, make_batch, mirror_pairs
from train.config import TrainConfig
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

CHECKPOINT_NAME = "checkpoint.pt"
METRICS_NAME = "metrics.jsonl"
VALIDATION_PAIRS = 256
PICTURE_MODELS = 12


def train(config: TrainConfig, datasets: list[Path], run: Path, resume: bool = False) -> None:
    """Train a network, or go on with a run that was stopped.

    Args:
        config: every setting; with ``resume``, those of the run are used and only ``steps`` may differ.
        datasets: dataset folders; their train splits are mixed, their val splits validate.
        run: folder for settings, weights, checkpoint and logs.

    Raises:
        UserError: the run folder is taken (without ``resume``) or not there (with it), a dataset is unusable, or the
            loss is no longer finite.
        KeyboardInterrupt: the user stopped it; a checkpoint has been written.
    """
    device = choose_device(config.device)
    pairs = PairDataset(datasets, "train")
    validation = open_validation(datasets)
    config.camera_distance, config.focal_length = typical_camera(pairs)
    prepare_run_folder(config, run, resume)

    torch.manual_seed(config.seed)
    network = build_network(config)
    if config.init_from:
        load_weights(network, find_run(config.init_from) / WEIGHTS_NAME)
    network.to(device, memory_format=torch.channels_last)
    network.bfloat16 = uses_bfloat16(config, device)
    average = AveragedModel(network, multi_avg_fn=averaging(config.average_decay), use_buffers=True)
    optimizer = make_optimizer(config, network)
    step = load_checkpoint(run, network, average, optimizer) if resume else 0

    if fits_in_memory(pairs, device):
        pairs.load(device)
    sampler = PairSampler(len(pairs), config.batch_size, config.seed, config.steps - step, step * config.batch_size)
    with stop_on_interrupt() as interrupt, Logger(run, step, config.steps) as logger:
        for stored in make_loader(pairs, sampler):
            torch.manual_seed(config.seed * 1_000_003 + step)
            stored = {name: tensor.to(device) for name, tensor in stored.items()}
            batch = make_batch(stored["rgba"], stored["object_to_camera"], stored["intrinsics"], config.image_size)
            batch = augment(batch, config)
            terms = forward(network, batch, config, step)
            loss = losses.objective(terms, config.weights).mean()
            if not torch.isfinite(loss):
                raise UserError(f"{run}: the loss is {loss.item()} at step {step}: try a lower --learning-rate")
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip)
            optimizer.step()
            average.update_parameters(network)
            step += 1

            logger.count(terms, loss)
            last = step == config.steps or interrupt.requested
            if step % config.log_every == 0 or last:
                logger.write_terms(step, optimizer.param_groups[0]["lr"])
            if validation and (step % config.validate_every == 0 or step == config.steps):
                logger.write_validation(step, Detector(average.module, config, device), validation)
            if step % config.checkpoint_every == 0 or last:
                save_checkpoint(run, step, network, average, optimizer)
            if interrupt.requested:
                raise KeyboardInterrupt(
                    f"stopped at step {step} of {config.steps}: go on with the same command and --resume"
                )


def choose_device(name: str) -> str:
    """"auto" is the GPU where there is one.

    Raises:
        UserError: "cuda" where there is none.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch sees no GPU here: use --device cpu, or install a CUDA build of torch")
    return name


def open_validation(datasets: list[Path]) -> PairDataset | None:
    """The validation pairs, or None where no dataset has any."""
    try:
        return PairDataset(datasets, "val")
    except UserError:
        return None


def typical_camera(pairs: PairDataset) -> tuple[float, float]:
    """Median distance (object units) and focal length (image heights) of a dataset's cameras."""
    distance = pairs.object_to_camera[..., :3, 3].norm(dim=-1).median()
    focal = pairs.intrinsics[..., 1, 1].median() / pairs.image_size[0]
    return round(float(distance), 2), round(float(focal), 4)


def fits_in_memory(pairs: PairDataset, device: str) -> bool:
    """Whether all images take at most half of what is free on the device; they are read from the shards if not."""
    if device == "cuda":
        free = torch.cuda.mem_get_info()[0]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    height, width = pairs.image_size
    return len(pairs) * 2 * height * width * 4 < free / 2


def prepare_run_folder(config: TrainConfig, run: Path, resume: bool) -> None:
    """Claim the run folder and write ``config.json``, or check that it holds the run that is to go on."""
    if resume:
        if not (run / CHECKPOINT_NAME).exists():
            raise UserError(f"{run}: no {CHECKPOINT_NAME} to resume from: train without --resume")
        before, now = dataclasses.asdict(load_config(run)), dataclasses.asdict(config)
        differing = [name for name in now if name not in ("steps", "device") and now[name] != before[name]]
        if differing:
            name = differing[0]
            raise UserError(
                f"{run}: was started with {name} = {before[name]}, not {now[name]}: resume with the same options, "
                "or train into another folder"
            )
    elif (run / CONFIG_NAME).exists():
        raise UserError(f"{run}: holds a run already: add --resume to go on with it, or choose another folder")
    run.mkdir(parents=True, exist_ok=True)
    save_config(config, run)


def augment(batch: PairBatch, config: TrainConfig) -> PairBatch:
    """Random mirroring and colours, as the settings say."""
    if config.mirror:
        batch = mirror_pairs(batch, distributed.rand(len(batch.images), device=batch.images.device) < 0.5)
    if config.color_jitter:
        batch = dataclasses.replace(batch, images=jitter_colors(batch.images, config.color_jitter))
    return batch


def forward(network: KeypointNetwork, batch: PairBatch, config: TrainConfig, step: int) -> dict[str, Tensor]:
    """Terms of the objective for a batch: name -> (B,). The two views pass the network one after the other."""
    network.train()
    images = batch.images[:, :, : network.in_channels]
    flags = losses.true_flags(batch.object_to_camera, network.axes)
    views = [network(images[:, i], flags[:, i], flag_anneal(config, step)) for i in range(2)]
    return losses.pair_terms(
        views,
        batch.object_to_camera,
        batch.transforms,
        batch.intrinsics,
        batch.mask,
        network.axes,
        config.delta,
        config.noise,
    )


def uses_bfloat16(config: TrainConfig, device: str) -> bool:
    """Whether convolutions run in bfloat16: if asked for, or on "auto" where the processor multiplies in it."""
    if config.precision == "auto":
        return torch.cuda.is_bf16_supported() if device == "cuda" else torch.cpu._is_avx512_bf16_supported()
    return config.precision == "bfloat16"


def flag_anneal(config: TrainConfig, step: int) -> float:
    """Weight of the true orientation flags: 1, then falling to 0 between the two settings (section 3.3)."""
    start, end = config.anneal_start * config.steps, config.anneal_end * config.steps
    return float(np.clip((end - step) / max(end - start, 1), 0, 1))


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then constant or a half cosine to zero."""
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    decay = 0.5 + 0.5 * math.cos(math.pi * step / config.steps) if config.cosine_decay else 1.0
    return config.learning_rate * warmup * decay


def make_optimizer(config: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay on the weights of convolutions and linear layers alone."""
    trainable = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def averaging(decay: float):
    """Update of an exponential moving average that forgets its start quickly; 0 keeps the last weights."""

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        keep = min(decay, (1 + int(count)) / (10 + int(count)))
        for old, new in zip(averaged, current):
            if old.is_floating_point():
                old.lerp_(new, 1 - keep)
            else:
                old.copy_(new)

    return update


def save_checkpoint(
    run: Path, step: int, network: nn.Module, average: AveragedModel, optimizer: torch.optim.Optimizer
) -> None:
    """Write ``checkpoint.pt`` and ``model.safetensors``, each atomically."""
    state = {
        "step": step,
        "network": network.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    path = run / CHECKPOINT_NAME
    torch.save(state, temporary_path(path))
    publish(path)
    save_weights(average.module, run / WEIGHTS_NAME)


def load_checkpoint(
    run: Path, network: nn.Module, average: AveragedModel, optimizer: torch.optim.Optimizer
) -> int:
    """Restore the state of a run.

    Returns:
        steps done.

    Raises:
        UserError: the checkpoint is damaged or of other settings.
    """
    path = run / CHECKPOINT_NAME
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])
    except Exception as error:  # whatever unpickling random bytes can raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: damaged, or not a checkpoint of this run ({reason}): train again") from None


class Interrupt:
    """Whether Ctrl-C was pressed."""

    requested = False


@contextmanager
def stop_on_interrupt() -> Iterator[Interrupt]:
    """Let the first Ctrl-C end the step in hand; a second one stops at once."""
    interrupt = Interrupt()

    def request(signum, frame):
        if interrupt.requested:
            raise KeyboardInterrupt
        interrupt.requested = True

    previous = signal.signal(signal.SIGINT, request)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, previous)


class Logger:
    """Progress bar, ``metrics.jsonl`` and TensorBoard events of a run."""

    def __init__(self, run: Path, step: int, steps: int):
        self._path = run / METRICS_NAME
        lines = self._path.read_text().splitlines() if step and self._path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        self._path.write_text("".join(line + "\n" for line in kept))
        self._board = SummaryWriter(run / "tensorboard", purge_step=step)
        self._progress = tqdm(total=steps, initial=step, desc="train", unit="step", dynamic_ncols=True)
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self._started = time.monotonic()

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *exception) -> None:
        self._progress.close()
        self._board.close()

    def count(self, terms: dict[str, Tensor], loss: Tensor) -> None:
        """Add a step to the running means."""
        for name, value in {**terms, "loss": loss}.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach().mean()
        self._steps += 1
        self._progress.update()

    def write_terms(self, step: int, rate: float) -> None:
        """Log the means since the last call."""
        means = {name: float(value) / self._steps for name, value in self._sums.items()}
        seconds = time.monotonic() - self._started
        self._write(step, {**means, "learning_rate": rate, "steps_per_second": self._steps / seconds})
        self._progress.set_postfix_str(" ".join(f"{name[:4]} {value:.3f}" for name, value in means.items()))
        self._sums, self._steps, self._started = {}, 0, time.monotonic()

    def write_validation(self, step: int, detector: Detector, pairs: PairDataset) -> None:
        """Log errors on validation pairs and draw their keypoints."""
        started = time.monotonic()
        chosen = np.unique(np.linspace(0, len(pairs) - 1, min(VALIDATION_PAIRS, len(pairs))).round().astype(int))
        stored = pairs.batch(chosen)
        found = detector.detect(stored["rgba"].flatten(0, 1))
        keypoints = found.keypoints.reshape(len(chosen), 2, *found.keypoints.shape[1:])
        points = metrics.camera_points(keypoints, stored["intrinsics"].numpy())
        errors = metrics.angular_error(metrics.relative_rotation(points), stored["R"].numpy())
        true_flags = losses.true_flags(stored["object_to_camera"], detector.network.axes).flatten(0, 1).bool().numpy()
        values = {
            "validation_error_mean_deg": float(errors.mean()),
            "validation_error_median_deg": float(np.median(errors)),
            "validation_orientation_accuracy": metrics.orientation_accuracy(found.flags, true_flags),
        }
        self._write(step, values)
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

    def _write(self, step: int, values: dict[str, float]) -> None:
        with open(self._path, "a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
