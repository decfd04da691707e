"""What each part of the recipe is worth: short trainings that differ from it in one point, on unseen shapes.

    python benchmarks/ablations.py FOLDER --category car             # every variant; finished ones are kept
    python benchmarks/ablations.py FOLDER --category car --seeds 2 --steps 2000 --only recipe adam
    python benchmarks/ablations.py FOLDER --category car --seeds 3 --steps 0 --only recipe --each  # the preset's steps

FOLDER keeps datasets, runs and evaluations. Variants are options of `train` on top of ``--preset cpu``, given below;
the number of steps is the same for all; some have a dataset of their own. Prints a row for each: mean over the seeds,
or with --each one for every seed. The results are in ablations.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from train.eval.overlays import tile

FIGURES = {
    "mean": "angular_error_mean_deg",
    "median": "angular_error_median_deg",
    "3D-SE": "keypoint_3d_se",
    "within": "keypoint_3d_se_within_model",
    "flips": "flip_rate",
    "flags right": "orientation_accuracy",
    "inside mask": "silhouette_hit_rate",
    "distinct": "distinct_keypoints_at_0.05",
}
VARIANTS = {
    "recipe": "",
    # What the network is shown
    "whole-image": "--margin 0",
    "64-px-half-size-maps": "--image-size 64 --reduction 2",
    "128-px": "--image-size 128",
    "no-mirror-images": "--no-mirror",
    "no-color-jitter": "--color-jitter 0",
    # Network and optimiser
    "narrow": "--width 16",
    "wide": "--width 32",
    "adam": "--optimizer adam --learning-rate 0.004",
    "no-weight-averaging": "--average-decay 0",
    # Flags
    "one-flag": "--axes x",
    "predicted-flags-everywhere": "--flag-margin 1",
    "true-flags-in-training": "--flag-margin 0",
    "orientation-weight-1": "--weight-orientation 1",
    # Objective
    "paper-pose-weight-and-noise": "--weight-pose 0.2 --noise 0.1 --noise-end 0.1",
    "pose-weight-4": "--weight-pose 4",
    "constant-noise": "--noise-end 0.05",
    "no-uncertainty": "--weight-uncertainty 0",
    "no-spatial-consistency": "--weight-spatial-consistency 0",
    "no-canonical-consistency": "--weight-canonical-consistency 0",
    "no-mirror-separation": "--weight-mirror-separation 0",
    "no-object-distance": "--weight-object-distance 0",
    "no-cross-pairs": "--no-cross-pairs",
    "without-consistency": "--weight-consistency 0",
    "without-pose": "--weight-pose 0",
    "without-separation": "--weight-separation 0",
    "without-silhouette": "--weight-silhouette 0",
    "without-variance": "--weight-variance 0",
    # The paper's side experiments
    "supervised": "--supervised --no-mirror",
    "3-keypoints": "--keypoints 3",
    "5-keypoints": "--keypoints 5",
    "20-keypoints": "--keypoints 20",
    "deformed": "",
    "backgrounds": "",
}
# Variants with a dataset of their own: options of `render`.
DATASETS = {
    "deformed": "--warp 0.6 --stretch 0.2",
    "backgrounds": "--backgrounds solid,gradient,noise",
}


def cli(*arguments: object) -> None:
    subprocess.run([sys.executable, str(ROOT / "cli.py"), *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def measure(dataset: Path, run: Path, options: str, steps: int, seed: int) -> dict[str, float]:
    """Figures of a variant on the dataset's test split; trains only what is not there."""
    figures = run / "eval-test" / "metrics.json"
    if not figures.exists():
        resume = ["--resume"] if (run / "config.json").exists() else []
        # Validation costs time and decides nothing.
        settings = ["--seed", seed, *(["--steps", steps, "--validate-every", steps] if steps else [])]
        cli("train", dataset, run, "--preset", "cpu", *settings, *options.split(), *resume)
        cli("eval", run, dataset)
    return json.loads(figures.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--category", default="car")
    parser.add_argument("--models", type=int, default=12000)
    parser.add_argument("--pairs-per-model", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1500, help="0 for the preset's own")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="write one with four views and keypoints of each variant")
    parser.add_argument("--each", action="store_true", help="a row for every seed")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    chosen = parser.parse_args()

    print("| variant | options | " + " | ".join(FIGURES) + " |\n|---|---|" + "---|" * len(FIGURES))
    pictures = []
    for name in chosen.only:
        dataset = chosen.folder / "-".join([chosen.category, *([name] if name in DATASETS else [])])
        size = ["--models", chosen.models, "--pairs-per-model", chosen.pairs_per_model]
        cli("render", dataset, "--category", chosen.category, *size, *DATASETS.get(name, "").split())
        runs = []
        for seed in range(chosen.first_seed, chosen.first_seed + chosen.seeds):
            run = chosen.folder / f"{chosen.category}-{name}-{chosen.steps or 'all'}-{seed}"
            runs.append(measure(dataset, run, VARIANTS[name], chosen.steps, seed))
            if chosen.each:
                print_row(f"{name}, seed {seed}", name, runs[-1:])
        if not chosen.each:
            print_row(name, name, runs)
        pictures.append(first_row(run / "eval-test" / "overlays" / "models.png"))
    if chosen.picture:
        picture = tile(pictures, 2, chosen.only)
        picture.thumbnail((1600, 10_000))
        picture.save(chosen.picture, optimize=True)


def first_row(path: Path) -> Image.Image:
    """The first four of the sixteen views in an evaluation's picture."""
    with Image.open(path) as picture:
        return picture.crop((0, 0, picture.width, picture.height // 4))


def print_row(label: str, name: str, runs: list[dict[str, float]]) -> None:
    means = (f"{np.mean([run[key] for run in runs]):.3g}" for key in FIGURES.values())
    print(f"| {' | '.join([label, DATASETS.get(name, VARIANTS[name]), *means])} |", flush=True)


if __name__ == "__main__":
    main()
