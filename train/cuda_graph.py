"""Training steps on a GPU without the time that it takes to launch their two thousand kernels one by one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # steps in which libraries choose their algorithms and optimisers make their state


class GraphedStep:
    """A training step that is recorded once, as a CUDA graph, and then replayed as a whole.

    The first ``WARM_UP`` steps are taken as they are. What a replay draws at random is what the step by itself would
    have drawn, from the generator's seed at that moment.

    Args:
        step: what to record, called with a batch and the number of the step. Nothing in it may wait for the GPU; what
            it changes must stay where it is in memory.
    """

    def __init__(self, step: Callable[[dict[str, Tensor], int | Tensor], dict[str, Tensor]]):
        self._step = step
        self._taken = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, stored: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        """Take a step; what it gives is valid until the next one."""
        if self._taken == 0:
            self._stored = {name: torch.empty_like(tensor, device="cuda") for name, tensor in stored.items()}
            self._number = torch.zeros((), dtype=torch.int64, device="cuda")
        for name, tensor in stored.items():
            self._stored[name].copy_(tensor)
        self._number.fill_(number)
        self._taken += 1
        if self._taken <= WARM_UP:
            return self._on_another_stream()
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._values = self._step(self._stored, self._number)
        self._graph.replay()
        return self._values

    def _on_another_stream(self) -> dict[str, Tensor]:
        """What is first done on the stream that all else is on cannot be recorded on another one."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            values = self._step(self._stored, self._number)
        torch.cuda.current_stream().wait_stream(stream)
        return values
