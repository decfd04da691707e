"""Muon on views of convolution kernels, and its state."""

import copy

import pytest
import torch
from torch import nn

from train.config import make_config
from train.optimizer import Optimizers, make_optimizer, muon


def make_network(memory_format=torch.contiguous_format) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1, bias=False), nn.Flatten(), nn.Linear(4 * 9, 5))
    return network.to(memory_format=memory_format)


def steps(network: nn.Module, optimizer: Optimizers, count: int, learning_rate: float | torch.Tensor = 6e-3) -> None:
    for i in range(count):
        torch.manual_seed(i)
        optimizer.zero_grad()
        network(torch.randn(8, 3, 5, 5)).square().mean().backward()
        optimizer.step(learning_rate)


@pytest.mark.parametrize("memory_format", (torch.contiguous_format, torch.channels_last))
def test_muon_moves_a_kernel_by_an_orthogonal_matrix_of_adams_size(memory_format):
    kernel = nn.Parameter(torch.randn(4, 6, 3, 3).to(memory_format=memory_format))
    before = kernel.detach().clone()
    optimizer = muon([kernel], lr=0.1, weight_decay=0.0)
    kernel.grad = torch.randn(4, 6, 3, 3)
    optimizer.step()
    update = (before - kernel.detach()).permute(0, 2, 3, 1).flatten(1) / (0.1 * 0.2 * 54**0.5)
    singular = torch.linalg.svdvals(update)
    assert 0.5 < singular.min() and singular.max() < 1.5  # what its three iterations leave
    direction = kernel.grad.permute(0, 2, 3, 1).flatten(1)
    assert (update * direction).sum() > 0.9 * torch.linalg.svdvals(direction).sum() * singular.min()


@pytest.mark.parametrize("name", ("adam", "muon"))
def test_all_parameters_learn_and_the_state_goes_on(name):
    config = make_config("cpu", optimizer=name)
    whole, first, second = (make_network(torch.channels_last) for _ in range(3))
    initial = [p.detach().clone() for p in whole.parameters()]
    steps(whole, make_optimizer(config, whole), 2)
    assert all(not torch.equal(a, b) for a, b in zip(initial, whole.parameters(), strict=True))

    optimizer = make_optimizer(config, first)
    steps(first, optimizer, 2)
    second.load_state_dict(first.state_dict())
    resumed = make_optimizer(config, second)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(first, optimizer, 1)
    steps(second, resumed, 1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("name", ("adam", "muon"))
def test_a_learning_rate_that_is_a_tensor(name):
    config = make_config("cpu", optimizer=name, weight_decay=0.1)
    first, second, still = make_network(), make_network(), make_network()
    steps(first, make_optimizer(config, first), 3, 0.02)
    steps(second, make_optimizer(config, second), 3, torch.tensor(0.02))
    steps(still, make_optimizer(config, still), 3, torch.tensor(0.0))
    for one, other, unmoved, initial in zip(*(n.parameters() for n in (first, second, still, make_network()))):
        torch.testing.assert_close(one, other)
        assert torch.equal(unmoved, initial)
