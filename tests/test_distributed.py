"""Training in two processes against one: the same numbers up to rounding, and one process that writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data.errors import UserError
from tests.made_up_pairs import make_dataset
from train.distributed import process_group

ROOT = Path(__file__).parents[1]
# So low a learning rate leaves the weights as they are, so the optimiser's state is made of means of gradients. A
# higher one lets rounding errors grow: Adam's first steps are as long for small gradients as for large ones.
OPTIONS = (
    "--preset cpu --device cpu --precision float32 --width 4 --batch-size 4 --learning-rate 1e-7 --weight-decay 0 "
    "--image-size 32 --steps 6 --log-every 1 --validate-every 3 --checkpoint-every 3"
).split()


def flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.flatten().double() for tensor in tensors])


def moments(run: Path) -> dict[tuple[int, str], torch.Tensor]:
    """Each moment of each optimiser, of all its parameters together."""
    optimizers = torch.load(run / "checkpoint.pt", weights_only=True)["optimizer"]
    states = [list(optimizer["state"].values()) for optimizer in optimizers]
    return {
        (number, name): flat(parameter[name] for parameter in state)
        for number, state in enumerate(states)
        for name in state[0].keys() - {"step"}
    }


def test_two_processes_train_as_one(tmp_path):
    dataset = make_dataset(tmp_path / "pairs")
    launchers = {
        "one": [sys.executable],
        "two": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    }
    running = [
        subprocess.Popen([*launcher, ROOT / "cli.py", "train", dataset, tmp_path / name, *OPTIONS], cwd=tmp_path)
        for name, launcher in launchers.items()
    ]
    assert [process.wait() for process in running] == [0, 0]

    one, two = tmp_path / "one", tmp_path / "two"
    logs = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, two)]
    assert [line["step"] for line in logs[1]] == [1, 2, 3, 4, 5, 6]
    for ours, theirs in zip(*logs, strict=True):
        for name in ours.keys() - {"steps_per_second"}:
            # A few pairs near which the rotation is undetermined make most of the gradient, and magnify rounding.
            tolerance = 5e-2 if name == "gradient_norm" else 1e-4
            assert abs(ours[name] - theirs[name]) <= tolerance * max(1, abs(ours[name])), (ours["step"], name)

    ours, theirs = moments(one), moments(two)
    assert {name for _, name in ours} == {"momentum_buffer", "exp_avg", "exp_avg_sq"}
    for name, moment in ours.items():  # 1e-5 apart, but 1e-2 where rounding turns a single ReLU on
        assert (moment - theirs[name]).norm() < 3e-2 * moment.norm(), name
    weights = [flat(load_file(run / "model.safetensors").values()) for run in (one, two)]
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-5)  # and running statistics
    assert len(list((two / "tensorboard").iterdir())) == 1


def test_a_rank_without_the_rest_is_told(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UserError, match="RANK is set, but not .*WORLD_SIZE.*unset RANK"), process_group():
        pytest.fail("went on")
