"""Training in several processes, as torchrun starts them: what they share, and who speaks.

Every process takes its share, in order of rank, of each global batch. Random numbers are drawn for the whole batch and
then cut, batch normalisation takes its statistics over the whole batch, and gradients are averaged, so any number of
processes computes what a single one does, up to rounding. Everything here works without torchrun too, as one process.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from data.errors import UserError

FIRST_WORD_SECONDS = 5.0


def rank() -> int:
    """Number of this process among all."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes and prints for all."""
    return rank() == 0


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started, until the end of the block; nothing to do where there is only one.

    When processes fail, torchrun ends the others as soon as the first one is gone. So that one line is printed, and the
    one that tells most, the main process goes first if the user or the input is the reason, which all processes notice;
    one that has merely lost the others, or alone has an error, waits to be ended before it speaks.
    """
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE") == "1":
        yield
        return
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    except ValueError as error:  # a variable that is missing
        raise UserError(f"RANK is set, but not all of torchrun ({error}): start with torchrun, or unset RANK") from None
    main = is_main()
    try:
        yield
    except BaseException as error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if not main or not isinstance(error, (UserError, KeyboardInterrupt)):
            time.sleep(FIRST_WORD_SECONDS if main else 5 * FIRST_WORD_SECONDS)
        if not main and isinstance(error, KeyboardInterrupt):
            raise SystemExit(130) from None
        raise
    finally:
        # a replica in a reference cycle holds on to the group, and the group's threads must end before Python does
        gc.collect()
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1))


def any_rank(condition: bool) -> bool:
    """Whether ``condition`` holds in any process."""
    if world_size() == 1:
        return condition
    count = torch.tensor(float(condition))
    dist.all_reduce(count)
    return bool(count)


def mean(values: Tensor) -> Tensor:
    """Mean of ``values`` over the processes, without gradient."""
    if world_size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def batch_mean(values: Tensor) -> Tensor:
    """Mean over the processes of ``values``, means over their shares of a batch; with gradient."""
    return values if world_size() == 1 else _Gather.apply(values).mean(0)


def rand(*shape: int, **options) -> Tensor:
    """``torch.rand`` for this process' share of a batch: one process' numbers, cut along the first dimension."""
    return _share(torch.rand, shape, options)


def randn(*shape: int, **options) -> Tensor:
    """``torch.randn`` for this process' share of a batch: one process' numbers, cut along the first dimension."""
    return _share(torch.randn, shape, options)


def _share(draw, shape: tuple[int, ...], options: dict) -> Tensor:
    return draw(shape[0] * world_size(), *shape[1:], **options).chunk(world_size())[rank()]


def distribute(network: nn.Module) -> nn.Module:
    """The network to train with: itself, or where there are several processes a replica that stays equal in all."""
    if world_size() == 1:
        return network
    if next(network.parameters()).is_cuda:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    else:
        share_batch_statistics(network)
    return Replica(network)


class Replica(DistributedDataParallel):
    """A replica that has the attributes of its network too."""

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.module, name)


def share_batch_statistics(network: nn.Module) -> None:
    """Let every batch normalisation see the whole batch: ``nn.SyncBatchNorm``,
    which is for CUDA alone, on any device."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = GlobalBatchNorm


class GlobalBatchNorm(_BatchNorm):
    """Batch normalisation over the batch of all processes, whose shares are equal. x: (B, C, *)."""

    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        dims, shape = [0, *range(2, x.ndim)], [1, -1] + [1] * (x.ndim - 2)
        local = torch.stack(torch.var_mean(x.to(self.weight.dtype), dims, correction=0))
        variances, means = _Gather.apply(local).unbind(1)
        mean, variance = means.mean(0), variances.mean(0) + means.var(0, correction=0)
        count = world_size() * x.numel() // x.shape[1]
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return ((x - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)).to(x.dtype)


class _Gather(torch.autograd.Function):
    """What every process has, (*) -> (W, *); all of them contribute to the gradient of each."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        gathered = [torch.empty_like(values) for _ in range(world_size())]
        dist.all_gather(gathered, values)
        return torch.stack(gathered)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient[rank()]
