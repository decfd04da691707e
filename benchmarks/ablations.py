"""What each part of the recipe is worth: short trainings that differ from it in one point, on unseen shapes.

    python benchmarks/ablations.py FOLDER --category car             # every variant; finished ones are kept
    python benchmarks/ablations.py FOLDER --category car --seeds 2 --steps 2000 --only recipe adam

FOLDER keeps datasets, runs and evaluations. Variants are options of `train` on top of ``--preset cpu``, given below; the
number of steps is the same for all. Prints a row for each: mean over the seeds. The results are in ablations.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
FIGURES = {
    "mean": "angular_error_mean_deg",
    "median": "angular_error_median_deg",
    "3D-SE": "keypoint_3d_se",
    "within": "keypoint_3d_se_within_model",
    "flips": "flip_rate",
    "flags right": "orientation_accuracy",
    "inside mask": "silhouette_hit_rate",
}
VARIANTS = {
    "recipe": "",
    "adam": "--optimizer adam --learning-rate 0.004",
    "predicted-flags-everywhere": "--flag-margin 1",
    "true-flags-in-training": "--flag-margin 0",
    "one-axis": "--axes x",
    "no-uncertainty": "--weight-uncertainty 0",
    "no-mirror": "--no-mirror",
    "no-color-jitter": "--color-jitter 0",
    "paper-pose-weight-and-noise": "--weight-pose 0.2 --noise 0.1 --noise-end 0.1",
    "constant-noise": "--noise-end 0.05",
    "without-consistency": "--weight-consistency 0",
    "without-pose": "--weight-pose 0",
    "without-separation": "--weight-separation 0",
    "without-silhouette": "--weight-silhouette 0",
    "without-variance": "--weight-variance 0",
    "supervised": "--supervised --no-mirror",
    "3-keypoints": "--keypoints 3",
    "5-keypoints": "--keypoints 5",
    "20-keypoints": "--keypoints 20",
}


def cli(*arguments: object) -> None:
    subprocess.run([sys.executable, str(ROOT / "cli.py"), *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def measure(dataset: Path, run: Path, options: str, steps: int, seed: int) -> dict[str, float]:
    """Figures of a variant on the dataset's test split; trains only what is not there."""
    figures = run / "eval-test" / "metrics.json"
    if not figures.exists():
        resume = ["--resume"] if (run / "checkpoint.pt").exists() else []
        # Validation costs time and decides nothing.
        settings = ["--steps", steps, "--seed", seed, "--validate-every", steps]
        cli("train", dataset, run, "--preset", "cpu", *settings, *options.split(), *resume)
        cli("eval", run, dataset)
    return json.loads(figures.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--category", default="car")
    parser.add_argument("--models", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    chosen = parser.parse_args()

    dataset = chosen.folder / chosen.category
    size = ["--models", chosen.models, "--pairs-per-model", 8, "--image-size", 64]
    cli("render", dataset, "--category", chosen.category, *size)
    print("| variant | options | " + " | ".join(FIGURES) + " |\n|---|---|" + "---|" * len(FIGURES))
    for name in chosen.only:
        runs = [
            measure(dataset, chosen.folder / f"{chosen.category}-{name}-{seed}", VARIANTS[name], chosen.steps, seed)
            for seed in range(chosen.seeds)
        ]
        means = (np.mean([run[key] for run in runs]) for key in FIGURES.values())
        print(f"| {name} | `{VARIANTS[name]}` | " + " | ".join(f"{value:.3g}" for value in means) + " |", flush=True)


if __name__ == "__main__":
    main()
