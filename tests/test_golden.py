"""The paper's network, losses and gradients against vectors computed by the official TF1 graph in float64.

``golden_paper.npz`` holds the weights, inputs and float64 results of that graph (tensorflow/models,
research/keypointnet) at batch 2, 5 keypoints, 8 filters, 128 px, without noise.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from data.geometry import procrustes, project, transform_points, unproject
from train import losses
from train.batches import PairBatch
from train.config import make_config
from train.networks import PaperNetwork
from train.optimizer import make_optimizer
from train.schedules import loss_weights as scheduled_weights
from train.trainer import loss_terms, optimizer_step

GOLDEN = Path(__file__).parent / "golden_paper.npz"
TERMS = {
    "consistency": "con",
    "pose": "angular",
    "separation": "sep",
    "silhouette": "sill",
    "variance": "variance",
    "orientation": "lr",
}
TOLERANCE = 1e-6


def load_weights(network: PaperNetwork, golden: dict[str, np.ndarray]) -> dict[str, torch.nn.Parameter]:
    """Copy the TF variables into ``network``; returns TF variable name -> our parameter, for the trainable ones."""
    named = {}
    for scope, trunk, heads in (
        ("KeypointNetwork", network.trunk, {"conv_xy": network.heatmap_head, "conv_z": network.depth_head}),
        ("KeypointNetwork/OrientationNetwork", network.orientation_trunk, {"Conv": network.orientation_head}),
    ):
        for i in range(12):
            conv, norm = trunk[3 * i], trunk[3 * i + 1]
            named[f"{scope}/dconv{i}/weights"] = conv.weight
            named[f"{scope}/dconv{i}/BatchNorm/beta"] = norm.bias
            norm.running_mean.copy_(torch.from_numpy(golden[f"w/{scope}/dconv{i}/BatchNorm/moving_mean"]))
            norm.running_var.copy_(torch.from_numpy(golden[f"w/{scope}/dconv{i}/BatchNorm/moving_variance"]))
        for name, head in heads.items():
            named[f"{scope}/{name}/weights"] = head.weight
            named[f"{scope}/{name}/biases"] = head.bias
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(torch.from_numpy(to_torch_layout(golden[f"w/{name}"])))
    return named


def to_torch_layout(array: np.ndarray) -> np.ndarray:
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array


def to_opencv(transform: torch.Tensor) -> torch.Tensor:
    """Turn a row-major OpenGL model-view matrix (16,) into the dataset's frame: y and z of the camera negated."""
    return torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.double)) @ transform.double().view(-1, 4, 4)


def build(mode: str):
    golden = dict(np.load(GOLDEN))
    network = PaperNetwork(num_keypoints=5, width=8).double()
    parameters = load_weights(network, golden)
    network.train(mode == "train64")
    images = [torch.from_numpy(golden[f"in/img{i}"]).double().permute(0, 3, 1, 2) for i in range(2)]
    poses = torch.stack([to_opencv(torch.from_numpy(golden[f"in/mv{i}"])) for i in range(2)], dim=1)
    flip = torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.double))
    inverses = [torch.from_numpy(golden[f"in/mvi{i}"]).double().view(-1, 4, 4) @ flip for i in range(2)]
    transforms = torch.stack([poses[:, 1] @ inverses[0], poses[:, 0] @ inverses[1]], dim=1)
    focal = golden["in/projection"][0, 0]
    intrinsics = torch.diag(torch.tensor([focal, focal, 1.0], dtype=torch.double)).expand(2, 2, 3, 3)
    return golden, network, parameters, images, poses, transforms, intrinsics


def run(network, images, poses, transforms, intrinsics, step: int):
    """Predictions of both views and the six terms, as the trainer computes them for ``--preset paper``."""
    anneal = min(max((60000 - step) / 30000, 0), 1)
    flags = losses.true_flags(poses, network.axes)
    views = [network(images[i][:, :3], flags[:, i], anneal) for i in range(2)]
    batch = to_batch(images, poses, transforms, intrinsics)
    return views, losses.pair_terms(views, batch, network.axes, delta=0.05, noise=0.0)


def to_batch(images, poses, transforms, intrinsics) -> PairBatch:
    pixels, zoom = torch.stack(images, dim=1), torch.ones(2, 2, dtype=torch.double)
    return PairBatch(pixels, (pixels[:, :, 3] > 0).double(), poses, transforms, intrinsics, zoom)


def close(actual: torch.Tensor, expected: np.ndarray, tolerance: float = TOLERANCE) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mode", ["eval64", "train64"])
def test_matches_the_official_graph(mode):
    golden, network, parameters, images, poses, transforms, intrinsics = build(mode)
    views, terms = run(network, images, poses, transforms, intrinsics, int(golden["in/global_step"]))
    ends = losses.axis_end_projections(poses, intrinsics, network.axes)
    to_gl = torch.tensor([1.0, -1, -1], dtype=torch.double)
    for i, view in enumerate(views):
        close(view.keypoints * to_gl, golden[f"{mode}/uvz{i}"])
        close(view.axis_ends[:, 0] * to_gl[:2], golden[f"{mode}/orient{i}"])
        close(ends[:, i, 0] * to_gl[:2], golden[f"{mode}/xp{i}"])
        close(view.flags, golden[f"{mode}/lr_flag{i}"])
        moved = transform_points(transforms[:, i], unproject(intrinsics[:, i], view.keypoints))
        close((project(intrinsics[:, i], moved) * to_gl)[..., :2], golden[f"{mode}/uv_proj{i}"])
    lifted = [unproject(intrinsics[:, i], views[i].keypoints) for i in range(2)]
    frame = torch.diag(to_gl)
    close((frame @ procrustes(*lifted) @ frame).transpose(1, 2), golden[f"{mode}/rot_est_T"])
    for ours, theirs in TERMS.items():
        close(terms[ours].mean(), golden[f"{mode}/{theirs}"])

    total = losses.objective(terms, losses.LossWeights()).mean()
    close(total, golden[f"{mode}/total"])
    total.backward()
    squared = 0.0
    for name, parameter in parameters.items():
        expected = to_torch_layout(golden[f"{mode}/grad/{name}"])
        squared += parameter.grad.square().sum()
        scale = max(np.linalg.norm(expected), 1.0)
        assert np.linalg.norm(parameter.grad.numpy() - expected) <= TOLERANCE * scale, name
    close(squared.sqrt(), golden[f"{mode}/grad_global_norm"])


def test_two_steps_of_the_official_optimiser():
    """As ``--preset paper`` trains. The second step is the first that shows whether the gradients were clipped."""
    golden, network, _, images, poses, transforms, intrinsics = build("train64")
    batch = to_batch(images, poses, transforms, intrinsics)
    config = make_config("paper", keypoints=5, width=8, noise=0.0, noise_end=0.0)
    optimizer = make_optimizer(config, network)
    step, norms = int(golden["in/global_step"]), []
    for i, expected in enumerate(golden["train64/step_losses"][:3], start=1):
        terms = loss_terms(network, batch, config, step)
        total = losses.objective(terms, scheduled_weights(config, step)).mean()
        close(total, expected)
        total.backward()
        for group in optimizer.param_groups:  # TF adds epsilon before the bias correction, torch after it
            group["eps"] = 1e-8 / (1 - 0.999**i) ** 0.5
        norms.append(optimizer_step(network, optimizer, config, step))
    close(norms[0], golden["train64/grad_global_norm"])


def test_batch_norm_statistics_follow_the_official_updates():
    golden, network, _, images, *_ = build("train64")
    for i in (1, 0):
        network(images[i][:, :3], torch.from_numpy(golden[f"in/lr{i}"] > 0).double(), 1.0)
    norm = network.trunk[1]
    prefix = "train/bn_update/KeypointNetwork/dconv0/BatchNorm"
    close(norm.running_mean, golden[f"{prefix}/moving_mean"], 1e-5)
    close(norm.running_var, golden[f"{prefix}/moving_variance"], 1e-5)
