"""Every setting of a training run, and the presets."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

from data.errors import UserError


@dataclass
class LossWeights:
    """Weights of the terms; the defaults are the paper's (section 4)."""

    consistency: float = 1.0
    pose: float = 0.2
    separation: float = 1.0
    silhouette: float = 1.0
    variance: float = 0.5
    orientation: float = 1.0
    supervision: float = 1.0  # with --supervised: squared distance to the semantic keypoints
    object_distance: float = 0.0  # ours: keypoints on the object in the image, not their heat maps alone
    uncertainty: float = 0.0  # ours: likelihood of the residuals under the predicted uncertainties
    spatial_consistency: float = 0.0  # ours: consistency in space, over the size of the point set; from anneal_end on
    canonical_consistency: float = 0.0  # ours: keypoints of all objects at one place of the object frame
    mirror_separation: float = 0.0  # ours, with --mirror: keypoints 2k and 2k + 1 on their own sides of the object


@dataclass
class TrainConfig:
    """Settings of one run, as written to ``config.json``. The defaults are the ``paper`` preset's."""

    preset: str = "paper"
    # Network
    network: str = "paper"  # "paper" or "compact"
    keypoints: int = 10  # N; a supervised run takes as many as there are labels
    image_size: int = 128  # side of the network's input
    margin: float = 0.0  # side of the square around the object that the network sees, over the object's; 0: whole image
    reduction: int = 4  # the compact network's maps are so many times smaller than its input: 2, 4 or 8
    width: int = 64  # channels of the paper's trunk, or of the compact network's finest level
    axes: tuple[str, ...] = ("x",)  # object axes with an orientation flag
    camera_distance: float = 30.0  # object units; taken from the dataset
    focal_length: float = 11.4519  # in image heights; taken from the dataset
    source_size: int = 128  # side of the images that are learned from; taken from the dataset; no detail beyond is used
    # Optimisation
    steps: int = 200_000
    batch_size: int = 256  # pairs
    optimizer: str = "adam"  # "adam", or "muon": Muon on weight matrices and kernels, Adam on the rest
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup_steps: int = 0
    cosine_decay: bool = False  # to zero at the last step
    gradient_clip: float = 5.0  # global norm
    average_decay: float = 0.0  # of the exponential moving average of the weights; 0 keeps the last weights
    seed: int = 0
    device: str = "auto"  # "auto", "cpu" or "cuda"
    cuda_graph: bool = True  # one launch a step on a GPU, where there is one process
    precision: str = "float32"  # of convolutions: "float32" (a GPU: TF32), "bfloat16", "auto": that where it is native
    init_from: str | None = None  # run folder or shipped name whose weights training starts from
    # Objective
    supervised: bool = False  # learn the dataset's semantic keypoints instead of discovering some: the paper's baseline
    weights: LossWeights = field(default_factory=LossWeights)
    delta: float = 0.05  # squared distance below which keypoints repel each other (δ²), squared object units
    noise: float = 0.1  # standard deviation added to points before the pose term, object units: in the first step
    noise_end: float = 0.1  # the same in the last step; it changes linearly
    anneal_start: float = 0.15  # share of the steps; half-way to anneal_end the flag turns from truth to prediction
    anneal_end: float = 0.3  # share of the steps, see above; from here on spatial consistency counts
    flag_margin: float = 1.0  # the prediction counts only where the axis' x in the camera frame is within this of 0
    cross_pairs: bool = False  # read the pairs of a model two by two, and compare views across the two as well
    # Augmentation
    mirror: bool = False  # show the network half of the views mirrored: keypoints are learned in pairs of mirror images
    color_jitter: float = 0.0  # strength of random brightness, hue and saturation per view
    # Logging, in steps
    log_every: int = 50
    validate_every: int = 2000
    checkpoint_every: int = 1000


# Where our presets depart from the paper, and why, is told in docs/method.md.
_COMPACT = dict(
    network="compact",
    margin=1.15,
    axes=("x", "z"),
    optimizer="muon",
    learning_rate=6e-3,
    weight_decay=1e-4,
    cosine_decay=True,
    precision="auto",
    weights=LossWeights(
        pose=2.0,
        silhouette=2.0,
        orientation=6.0,
        object_distance=5.0,
        uncertainty=0.02,
        spatial_consistency=2.0,
        canonical_consistency=2.0,
        mirror_separation=0.5,
    ),
    delta=0.1,
    noise=0.05,
    noise_end=0.01,
    anneal_start=0.4,
    anneal_end=0.5,
    flag_margin=0.3,
    cross_pairs=True,
    mirror=True,
    color_jitter=0.3,
)
PRESETS: dict[str, dict] = {
    "paper": {},
    "cpu": dict(
        **_COMPACT,
        image_size=96,
        width=24,
        steps=6000,
        batch_size=16,
        warmup_steps=200,
        average_decay=0.998,
        validate_every=500,
        checkpoint_every=500,
    ),
    "gpu": dict(
        **_COMPACT,
        image_size=128,
        reduction=2,
        width=32,
        steps=30_000,
        batch_size=128,
        warmup_steps=500,
        average_decay=0.999,
    ),
}


# Settings that name one of several things.
CHOICES = {
    "network": ("paper", "compact"),
    "optimizer": ("adam", "muon"),
    "device": ("auto", "cpu", "cuda"),
    "precision": ("float32", "bfloat16", "auto"),
    "reduction": (2, 4, 8),
}
_TYPES = {
    "int": int,
    "float": (int, float),
    "bool": bool,
    "str": str,
    "str | None": (str, type(None)),
    "tuple[str, ...]": tuple,
    "LossWeights": LossWeights,
}
# Least and greatest values of settings that are numbers.
RANGES = {
    "keypoints": (3, 1000),  # fewer do not tell a rotation
    "image_size": (8, 4096),
    "width": (2, 4096),
    "camera_distance": (1e-6, 1e6),
    "focal_length": (1e-6, 1e6),
    "source_size": (1, 2**15),
    "steps": (1, 10**9),
    "batch_size": (1, 10**6),
    "learning_rate": (0, 10),
    "weight_decay": (0, 10),
    "warmup_steps": (0, 10**9),
    "gradient_clip": (1e-6, 1e9),
    "average_decay": (0, 0.999999),
    "seed": (0, 2**43),  # times a million it still is a seed to PyTorch
    "delta": (0, 100),
    "noise": (0, 10),
    "noise_end": (0, 10),
    "anneal_start": (0, 1),
    "anneal_end": (0, 1),
    "flag_margin": (0, 1),
    "color_jitter": (0, 10),
    "log_every": (1, 10**9),
    "validate_every": (1, 10**9),
    "checkpoint_every": (1, 10**9),
}


def make_config(preset: str, weights: dict[str, float] | None = None, **overrides) -> TrainConfig:
    """Settings of a preset with some replaced, see :func:`replace_settings`.

    Raises:
        UserError: unknown preset, and what :func:`replace_settings` refuses.
    """
    if preset not in PRESETS:
        raise UserError(f"preset {preset!r} is unknown: choose one of {', '.join(PRESETS)}")
    return replace_settings(TrainConfig(preset=preset, **PRESETS[preset]), weights, **overrides)


def replace_settings(config: TrainConfig, weights: dict[str, float] | None = None, **overrides) -> TrainConfig:
    """A copy with some settings replaced.

    Args:
        weights: of terms, in place of those of ``config``. overrides: other settings.

    Raises:
        UserError: unknown setting, or a value outside of ``CHOICES`` and ``RANGES``, or one that does not go with the
            network.
    """
    known = {f.name for f in dataclasses.fields(TrainConfig)}
    if unknown := set(overrides) - known:
        raise UserError(f"unknown training setting {sorted(unknown)[0]!r}: see `train --help`")
    if unknown := set(weights or {}) - {f.name for f in dataclasses.fields(LossWeights)}:
        raise UserError(f"unknown weight {sorted(unknown)[0]!r}: see `train --help`")
    config = dataclasses.replace(config, **overrides)
    config.weights = dataclasses.replace(config.weights, **weights or {})
    _check(config)
    _refuse_unused(config, {name for name, value in (weights or {}).items() if value})
    return config


def _refuse_unused(config: TrainConfig, asked: set[str]) -> None:
    """Raise :class:`UserError` for a weight that was asked for, of a term that the other settings leave out."""
    needs = {term.name: (not config.supervised, "--no-supervised") for term in dataclasses.fields(LossWeights)}
    needs["orientation"] = (True, "")
    needs["supervision"] = (config.supervised, "--supervised")
    needs["uncertainty"] = (config.network == "compact", "--network compact")
    if not config.supervised:
        needs["mirror_separation"] = (config.mirror, "--mirror")
    for name in sorted(asked):
        given, option = needs[name]
        if not given:
            raise UserError(f"weight of {name}: without {option} there is no such term: add that, or leave it out")


def _check(config: TrainConfig) -> None:
    """Raise :class:`UserError` for the first setting that makes no sense."""
    for name, choices in CHOICES.items():
        if (value := getattr(config, name)) not in choices:
            raise UserError(f"{name} {value!r} is unknown: choose one of {', '.join(map(str, choices))}")
    for part in (config, config.weights):
        for setting in dataclasses.fields(part):
            value = getattr(part, setting.name)
            is_bool = isinstance(value, bool)
            if not isinstance(value, _TYPES[setting.type]) or is_bool != (setting.type == "bool"):
                raise UserError(f"{setting.name} {value!r}: give a value of type {setting.type}")
    for name, (low, high) in RANGES.items():
        if not low <= (value := getattr(config, name)) <= high:  # NaN compares false
            raise UserError(f"{name} {value}: give {low} to {high}")
    for name, value in dataclasses.asdict(config.weights).items():
        if not 0 <= value < math.inf:
            raise UserError(f"weight of {name} {value}: give 0 or more")
    if not config.axes or not set(config.axes) <= set("xyz") or len(set(config.axes)) < len(config.axes):
        raise UserError(f"axes {','.join(config.axes)}: give one or more of x, y and z, each once")
    if config.margin and not 1 <= config.margin <= 10:
        raise UserError(f"margin {config.margin}: give 1 to 10, or 0 for the whole image")
    if config.anneal_start > config.anneal_end:
        raise UserError(f"anneal_start {config.anneal_start}: is after anneal_end {config.anneal_end}: give less")
    step = 8 * config.reduction
    if config.network == "compact" and (config.image_size < step or config.image_size % step):
        raise UserError(f"image_size {config.image_size}: with reduction {config.reduction}, give a multiple of {step}")
    if config.network == "paper" and (config.axes != ("x",) or config.mirror):
        raise UserError("the paper's network has one flag, of x, and no mirror images: add --axes x --no-mirror")
    if config.network == "paper" and config.margin:
        raise UserError(f"margin {config.margin}: the paper's network sees whole images: add --margin 0")


def config_from_dict(values: dict) -> TrainConfig:
    """The inverse of ``dataclasses.asdict``. Missing settings take their defaults, but for ``axes`` and ``weights``.

    Raises:
        KeyError: one of these is missing.
        TypeError: unknown settings, or values of another type.
        UserError: values that :func:`make_config` refuses.
    """
    config = TrainConfig(**{**values, "axes": tuple(values["axes"]), "weights": LossWeights(**values["weights"])})
    _check(config)
    return config
