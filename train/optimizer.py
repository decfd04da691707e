"""What the settings call an optimiser: Adam, or Muon for kernels and matrices with Adam for the rest."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from train.config import TrainConfig


def make_optimizer(config: TrainConfig, network: nn.Module) -> Optimizers:
    """The optimiser of ``config`` for the network's trainable parameters; weight decay is decoupled and spares vectors.

    The learning rate means the same for both: Muon's updates are scaled to the size of Adam's.
    """
    trainable = [p for p in network.parameters() if p.requires_grad]
    matrices, vectors = [p for p in trainable if p.ndim > 1], [p for p in trainable if p.ndim <= 1]
    settings = dict(lr=config.learning_rate, weight_decay=config.weight_decay)
    kind = dict(fused=True, capturable=config.device == "cuda")  # by a CUDA graph
    if config.optimizer == "muon":
        first = muon(matrices, **settings)
    else:
        first = torch.optim.AdamW(matrices, **kind, **settings)
    return Optimizers(trainable, first, torch.optim.AdamW(vectors, **kind, lr=config.learning_rate, weight_decay=0.0))


def muon(weights: list[nn.Parameter], **settings) -> torch.optim.Muon:
    """Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) for weights of two or more dimensions.

    PyTorch's takes matrices alone: it is given views of the weights as (output channels, all the rest), and before each
    step the same views of their gradients.
    """
    matrices = [nn.Parameter(_as_matrix(w.detach(), w)) for w in weights]
    # Five iterations, the default, cost two thirds more and train no better (benchmarks/ablations.md).
    optimizer = torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", ns_steps=3, **settings)

    def lend_gradients(*_) -> None:
        for matrix, weight in zip(matrices, weights, strict=True):
            matrix.grad = _as_matrix(weight.grad.contiguous(memory_format=_memory_format(weight)), weight)

    optimizer.register_step_pre_hook(lend_gradients)
    optimizer.register_step_post_hook(lambda *_: optimizer.zero_grad())
    return optimizer


def _as_matrix(values: Tensor, weight: Tensor) -> Tensor:
    """View of ``values``, laid out in memory like ``weight`` (O, ...), as (O, the rest)."""
    if _memory_format(weight) is torch.channels_last:
        values = values.permute(0, 2, 3, 1)
    return values.view(len(values), -1)


def _memory_format(weight: Tensor) -> torch.memory_format:
    return torch.contiguous_format if weight.is_contiguous() else torch.channels_last


class Optimizers:
    """Several optimisers of one network, used as one."""

    def __init__(self, parameters: list[nn.Parameter], *optimizers: torch.optim.Optimizer):
        self._parameters, self._optimizers = parameters, optimizers

    @property
    def param_groups(self) -> list[dict]:
        """Those of all."""
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    def zero_grad(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float | Tensor) -> None:
        """Move the parameters against their gradients.

        Args:
            learning_rate: a number, or a tensor without dimensions, which a CUDA graph needs: numbers stay in it as
                they were. Muon takes no tensor, but all these steps are proportional to the rate, so one of rate 1 is
                made, and then shortened.
        """
        shortened = isinstance(learning_rate, Tensor)
        for group in self.param_groups:
            group["lr"] = 1.0 if shortened else learning_rate
        before = [parameter.clone() for parameter in self._parameters] if shortened else []
        for optimizer in self._optimizers:
            optimizer.step()
        if shortened:
            torch._foreach_sub_(self._parameters, before)
            torch._foreach_mul_(self._parameters, learning_rate)
            torch._foreach_add_(self._parameters, before)

    def state_dict(self) -> list[dict]:
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load_state_dict(self, states: list[dict]) -> None:
        for optimizer, state in zip(self._optimizers, states, strict=True):
            groups = zip(state["param_groups"], optimizer.param_groups, strict=True)
            settings = [  # the state may come from another device
                {**group, "capturable": own["capturable"]} if "capturable" in own else group for group, own in groups
            ]
            optimizer.load_state_dict({**state, "param_groups": settings})


class MovingAverage:
    """Moving average of a network's weights and statistics.

    Attributes:
        network: one with the averages.
    """

    def __init__(self, network: nn.Module):
        self.network = copy.deepcopy(network).requires_grad_(False)
        pairs = list(zip(self.network.state_dict().values(), network.state_dict().values()))
        averaged = [(old, new) for old, new in pairs if old.is_floating_point()]
        self._averages, self._present = map(list, zip(*averaged))
        self._copied = [(old, new) for old, new in pairs if not old.is_floating_point()]

    @torch.no_grad()
    def update(self, weight: float | Tensor) -> None:
        """Count the network's weights as they are now.

        Args:
            weight: of these in the average, 0 to 1; a number, or a tensor without dimensions.
        """
        weights = [weight] * len(self._present) if isinstance(weight, Tensor) else weight
        torch._foreach_lerp_(self._averages, self._present, weights)
        for old, new in self._copied:
            old.copy_(new)
