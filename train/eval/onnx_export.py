"""Export of a trained detector to ONNX, with what a consumer must know in the file's metadata."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data.atomic import replacing
from data.errors import UserError
from train.detector import Detector

OPSET = 17
TOLERANCE = 1e-4  # see :func:`compare`

INPUT = "image"
OUTPUTS = ("keypoints", "heatmaps", "axis_ends", "flags", "sigma")  # the last one of networks that predict it
CONVENTIONS = {
    INPUT: "float32 (batch, 4, size, size): red, green, blue, alpha in [0, 1], colour composited on black "
    "(premultiplied); the object framed as in training",
    "keypoints": "float32 (batch, N, 3): u, v, z; pixels of the input, (0, 0) is the corner of the top-left pixel, u "
    "to the right, v down; z is depth along the camera's +z in object units (longest side of the object = 2)",
    "heatmaps": "float32 (batch, N, h, w): each sums to 1 over the image, or is 0 where it lies between the samples",
    "axis_ends": "float32 (batch, A, 2, 2): projections (u, v), pixels, of the + and - end of each orientation axis",
    "flags": "float32 (batch, A): 1 where an axis' + end lies to the right of its - end",
    "sigma": "float32 (batch, N): standard deviation that the network expects of each coordinate of a keypoint, object "
    "units, an offset common to all keypoints left aside",
    "object_frame": "+y up, -z front, +x to the object's own right",
    "camera_frame": "+x right, +y down, +z forward",
}


class ExportedDetector(nn.Module):
    """A network from its input to pixels, as one graph."""

    def __init__(self, detector: Detector):
        super().__init__()
        self.detector = detector
        self.network = detector.network  # for its parameters

    @property
    def outputs(self) -> list[str]:
        return [name for name in OUTPUTS if name != "sigma" or self.network.predicts_sigma]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        found, half = self.detector.find(image), self.detector.image_size / 2
        uv, z = found.keypoints[..., :2], found.keypoints[..., 2:]
        keypoints = torch.cat([(uv + 1) * half, z], dim=-1)
        values = (keypoints, found.heatmaps, (found.axis_ends + 1) * half, found.flags, found.sigma)
        return values[: len(self.outputs)]


def export_onnx(run: str | Path, path: str | Path) -> float | None:
    """Write a detector as an ONNX file with a dynamic batch, and compare it with PyTorch.

    Args:
        run: run folder, or name of shipped weights.

    Returns:
        Largest difference between onnxruntime and PyTorch, see :func:`compare`; None where onnxruntime
        is not installed.

    Raises:
        UserError: the run cannot be used, ``path`` does not end in .onnx, ``onnx`` is not installed, or the file does
            not agree with PyTorch.
    """
    path = Path(path)
    if path.suffix.lower() != ".onnx":
        raise UserError(f"{path}: give a name that ends in .onnx")
    try:
        import onnx
    except ImportError:
        raise UserError("export: needs the package onnx: pip install onnx onnxruntime") from None
    detector = Detector.load(run)
    model = ExportedDetector(detector).eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        _trace(model, partial, detector.image_size)
        graph = onnx.load(partial)
        graph.doc_string = "KeypointNet: ordered 3D keypoints of one object from one image (arXiv 1807.03146)"
        onnx.helper.set_model_props(graph, metadata(detector))
        onnx.checker.check_model(graph)
        onnx.save(graph, partial)
        difference = compare(model, partial, detector.image_size)
        if difference is not None and not difference <= TOLERANCE:
            raise UserError(f"{path}: onnxruntime differs from PyTorch by {difference:.1e}: not exported")
    return difference


def _trace(model: ExportedDetector, path: Path, image_size: int) -> None:
    example = torch.zeros(2, 4, image_size, image_size)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's remarks about constant shapes
        # the tracing exporter needs no package besides onnx, the newer one needs onnxscript
        torch.onnx.export(
            model,
            (example,),
            path,
            input_names=[INPUT],
            output_names=model.outputs,
            dynamic_axes={name: {0: "batch"} for name in (INPUT, *model.outputs)},
            opset_version=OPSET,
            dynamo=False,
        )


def metadata(detector: Detector) -> dict[str, str]:
    """The file's metadata: settings and conventions, values as text (JSON where structured)."""
    config = detector.config
    return {
        "keypoints": str(detector.num_keypoints),
        "image_size": str(detector.image_size),
        "camera": json.dumps(
            {
                "model": "pinhole, looks at the object's centre",
                "distance": config.camera_distance,  # object units
                "focal_length": config.focal_length,  # in image heights
            }
        ),
        "orientation_axes": json.dumps(list(config.axes)),
        "conventions": json.dumps(CONVENTIONS),
    }


def compare(model: ExportedDetector, path: Path, image_size: int) -> float | None:
    """Largest difference of an output between onnxruntime and PyTorch on made-up images, in batches of 1 and 5.

    Returns:
        In half images for positions, object units for z and sigma; heat maps and flags as they are. None where
        onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    pixel = 2 / image_size
    scales = {"keypoints": np.array([pixel, pixel, 1]), "axis_ends": pixel}
    worst = 0.0
    for batch in (1, 5):
        coarse = torch.rand(batch, 4, 8, 8, generator=generator)
        images = nn.functional.interpolate(coarse, size=image_size, mode="bilinear")
        images[:, :3] *= images[:, 3:]
        with torch.no_grad():
            expected = model(images)
        found = session.run(model.outputs, {INPUT: images.numpy()})
        for name, ours, theirs in zip(model.outputs, expected, found, strict=True):
            worst = max(worst, float(np.abs((theirs - ours.numpy()) * scales.get(name, 1)).max()))
    return worst
