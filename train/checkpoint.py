"""What a run needs to go on from where it was stopped, and how it is kept."""

from __future__ import annotations

import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from data.atomic import write_bytes
from data.errors import UserError
from train import distributed
from train.detector import WEIGHTS_NAME, save_weights
from train.optimizer import MovingAverage, Optimizers

CHECKPOINT_NAME = "checkpoint.pt"
PREVIOUS_NAME = "checkpoint-previous.pt"


@dataclass
class TrainState:
    """What changes in a training."""

    network: nn.Module
    average: MovingAverage  # of its weights
    optimizer: Optimizers
    step: int = 0  # steps done


def save_checkpoint(run: Path, state: TrainState, data: str) -> None:
    """Write ``checkpoint.pt``, then ``model.safetensors``, each atomically; the checkpoint before is kept.

    Whatever kills the process in between, resuming writes the weights first of all.

    Args:
        data: fingerprint of the pairs that the run trains on.
    """
    if not distributed.is_main():
        return
    buffer = io.BytesIO()
    stored = {
        "step": state.step,
        "data": data,
        "network": state.network.state_dict(),
        "average": state.average.network.state_dict(),
        "optimizer": state.optimizer.state_dict(),
    }
    torch.save(stored, buffer)
    path = run / CHECKPOINT_NAME
    if path.exists():
        os.replace(path, run / PREVIOUS_NAME)
    write_bytes(path, buffer.getvalue())
    save_weights(state.average.network, run / WEIGHTS_NAME)


def find_checkpoint(run: Path) -> Path | None:
    """The newest one to go on from."""
    return next((run / name for name in (CHECKPOINT_NAME, PREVIOUS_NAME) if (run / name).exists()), None)


def other_pairs(run: Path) -> UserError:
    """What to say of datasets that are not those of the run."""
    return UserError(f"{run}: was started with other pairs: resume with the same datasets, or use --init-from {run}")


def load_checkpoint(run: Path, state: TrainState, steps: int, data: str) -> None:
    """Restore ``state`` from a run's newest checkpoint; a run that was stopped before the first one starts anew.

    Args:
        steps: how many the run is to have. data: see :func:`save_checkpoint`.

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
        return
    try:
        with zipfile.ZipFile(path) as archive:  # PyTorch writes checksums but does not compare them
            if member := archive.testzip():
                raise ValueError(f"wrong checksum of {member}")
        stored = torch.load(path, map_location="cpu", weights_only=True)
        state.network.load_state_dict(stored["network"])
        state.average.network.load_state_dict(stored["average"])
        state.optimizer.load_state_dict(stored["optimizer"])
        state.step, trained_on = int(stored["step"]), stored["data"]
    except OSError:
        raise
    except Exception as error:  # whatever unpickling random bytes can raise
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":.")
        remedy = "train again"
        if path.name == CHECKPOINT_NAME and (run / PREVIOUS_NAME).exists():
            remedy = f"delete it, and --resume goes on from {PREVIOUS_NAME}"
        raise UserError(f"{path}: damaged, or not a checkpoint of this run ({reason}): {remedy}") from None
    if trained_on != data:
        raise other_pairs(run)
    if state.step > steps:
        raise UserError(f"{run}: {state.step} steps are done already, more than {steps}: give more --steps")
