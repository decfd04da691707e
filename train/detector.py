"""A trained network as a tool: images in, ordered 3D keypoints out; and how a run keeps its weights and settings."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from data.atomic import write_bytes
from data.errors import UserError
from train.batches import MOST_REDUCED, decode_images, frame_objects, resize_images, uncrop
from train.config import TrainConfig, config_from_dict
from train.networks import CompactNetwork, KeypointNetwork, PaperNetwork, Prediction

PRETRAINED = Path(__file__).parent / "pretrained"
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
BATCH_SIZE = 8  # images per forward pass; speed only, the results do not depend on it


@dataclass
class Detections:
    """Keypoints of images. N keypoints, A orientation axes, maps of h×w; pixels are those of the input images.

    Attributes:
        keypoints: float32 (*, N, 3) as (u, v, z): pixels, pixels, depth along the camera's +z in object units.
        heatmaps: float32 (*, N, h, w), each summing to 1 over the image.
        axis_ends: float32 (*, A, 2, 2), projections (u, v) of the + and − end of each axis.
        flags: bool (*, A), the predicted flags that the keypoints were decoded with.
        sigma: float32 (*, N), standard deviation of each coordinate that the network expects of a keypoint, object
            units; None of a network that expects none.
    """

    keypoints: np.ndarray
    heatmaps: np.ndarray
    axis_ends: np.ndarray
    flags: np.ndarray
    sigma: np.ndarray | None = None


def build_network(config: TrainConfig) -> KeypointNetwork:
    """A freshly initialised network for these settings."""
    if config.network == "paper":
        return PaperNetwork(config.keypoints, config.camera_distance, config.width)
    return CompactNetwork(
        config.keypoints, config.camera_distance, config.width, config.image_size, config.axes, config.reduction,
        config.mirror, config.weights.uncertainty > 0,
    )  # fmt: skip


class Detector:
    """A network with its settings, for inference on one device.

    Attributes:
        config: settings of the run. network: the network in evaluation mode.
    """

    def __init__(self, network: KeypointNetwork, config: TrainConfig, device: str = "cpu"):
        self.network = network.to(device).eval()
        self.config = config
        self.device = device

    @property
    def num_keypoints(self) -> int:
        return self.config.keypoints

    @property
    def image_size(self) -> int:
        """Side of square images that hold all that the network can use, pixels: what it learned from had no more."""
        if not self.config.margin:
            return self.config.image_size
        return min(self.config.source_size, MOST_REDUCED * self.config.image_size)

    @classmethod
    def load(cls, run: str | Path, device: str = "cpu") -> Detector:
        """Load a run folder, or shipped weights by name.

        Args:
            device: "auto", "cpu" or "cuda".

        Raises:
            UserError: no such run or name, files that do not belong together, or "cuda" where there is none.
        """
        device = resolve_device(device)
        folder = find_run(run)
        config = load_config(folder)
        network = build_network(config)
        load_weights(network, folder / WEIGHTS_NAME)
        return cls(network, config, device)

    @torch.inference_mode()
    def detect(self, rgba: np.ndarray | Tensor) -> Detections:
        """Detect keypoints.

        Args:
            rgba: uint8 (*, H, W, 4), colour premultiplied by alpha; square images framed like the training views.

        Returns:
            Detections, the same whatever else is in the batch.
        """
        rgba = torch.as_tensor(rgba)
        *leading, height, width, _ = rgba.shape
        batches = rgba.reshape(-1, height, width, 4).split(BATCH_SIZE)
        parts = zip(*map(self._forward, batches))
        found = (torch.cat(part).cpu() for part in parts)
        keypoints, heatmaps, ends, flags, *sigma = (part.reshape(*leading, *part.shape[1:]) for part in found)
        to_pixels = torch.tensor([width / 2, height / 2])
        keypoints[..., :2] = (keypoints[..., :2] + 1) * to_pixels
        return Detections(
            keypoints=keypoints.numpy(),
            heatmaps=heatmaps.numpy(),
            axis_ends=((ends + 1) * to_pixels).numpy(),
            flags=flags.bool().numpy(),
            sigma=sigma[0].numpy() if sigma else None,
        )

    def _forward(self, rgba: Tensor) -> tuple[Tensor, ...]:
        framed, squares = self._frame(decode_images(rgba.to(self.device)))
        # Convolutions may sum in another order for another batch size, so every batch is filled to the same one.
        missing = BATCH_SIZE - len(rgba)
        framed = torch.cat([framed, framed.new_zeros(missing, *framed.shape[1:])])
        found = self._find(framed, torch.cat([squares, squares.new_ones(missing, 3)]))
        parts = (found.keypoints, found.heatmaps, found.axis_ends, found.flags, found.sigma)
        return tuple(x[: len(rgba)] for x in parts if x is not None)

    def find(self, images: Tensor) -> Prediction:
        """What the network says of whole images.

        Args:
            images: (B, 4, H, W), RGB premultiplied by alpha, and alpha, in [0, 1].

        Returns:
            Keypoints, heat maps and axis ends in normalised coordinates of the whole images.
        """
        return self._find(*self._frame(images))

    def _frame(self, images: Tensor) -> tuple[Tensor, Tensor]:
        images = resize_images(images, min(images.shape[-1], self.image_size))
        return frame_objects(images, self.config.image_size, self.config.margin)

    def _find(self, framed: Tensor, squares: Tensor) -> Prediction:
        """:meth:`find` of what :func:`frame_objects` gives."""
        found = self.network(framed[:, : self.network.in_channels], zoom=squares[:, 2])
        heatmaps, center = found.heatmaps, squares[:, None, :2]
        if self.config.margin:
            heatmaps = uncrop(heatmaps, squares, 2 * heatmaps.shape[-1])  # finer, for it covers more
            heatmaps = heatmaps / heatmaps.sum((-2, -1), keepdim=True).clamp(min=1e-12)  # 0: all of it is outside
        return replace(
            found,
            keypoints=torch.cat([found.keypoints[..., :2] + center, found.keypoints[..., 2:]], dim=-1),
            axis_ends=found.axis_ends + center.unsqueeze(1),
            heatmaps=heatmaps,
        )


def resolve_device(name: str) -> str:
    """ "cpu" or "cuda"; "auto" is the GPU where there is one.

    Raises:
        UserError: another name, or "cuda" where there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device {name!r} is unknown: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch sees no GPU here: use --device cpu, or install a CUDA build of torch")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def find_run(run: str | Path) -> Path:
    """Folder of a run, or of shipped weights if ``run`` is their name and no such folder exists."""
    if (Path(run) / CONFIG_NAME).exists():
        return Path(run)
    if (PRETRAINED / str(run) / CONFIG_NAME).exists():
        return PRETRAINED / str(run)
    shipped = ", ".join(sorted(p.parent.name for p in PRETRAINED.glob(f"*/{CONFIG_NAME}"))) or "none"
    raise UserError(f"{run}: not a run folder (no {CONFIG_NAME}): train one first, or name shipped weights ({shipped})")


def save_config(config: TrainConfig, folder: Path) -> None:
    """Write every setting to ``config.json``."""
    write_bytes(folder / CONFIG_NAME, (json.dumps(dataclasses.asdict(config), indent=2) + "\n").encode())


def load_config(folder: Path) -> TrainConfig:
    """Read ``config.json``.

    Raises:
        UserError: not a settings file of this program. OSError: it cannot be read.
    """
    path = folder / CONFIG_NAME
    content = path.read_bytes()
    try:
        return config_from_dict(json.loads(content))
    except (ValueError, TypeError, KeyError, RecursionError, UserError) as error:
        raise UserError(
            f"{path}: not the settings of a training run ({error}): train again into another folder"
        ) from None


def save_weights(network: KeypointNetwork, path: Path) -> None:
    """Write the weights as safetensors, atomically."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_bytes(path, save(state))


def load_weights(network: KeypointNetwork, path: Path) -> None:
    """Read weights into a network of the same settings.

    Raises:
        UserError: the file is missing, damaged, or of another network. OSError: it cannot be read.
    """
    try:
        state = load(path.read_bytes())
        if not all(tensor.isfinite().all() for tensor in state.values()):
            raise ValueError("not all numbers are finite")
        network.load_state_dict(state)
    except FileNotFoundError:
        raise UserError(f"{path}: no weights there yet: let the training reach its first checkpoint") from None
    except (SafetensorError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: damaged, or not of the network in {CONFIG_NAME} ({reason}): train again") from None
