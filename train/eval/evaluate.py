"""The command `eval`: predictions of a split, made once and kept, then figures, pictures and the report from them."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.atomic import holding, write_bytes
from data.dataset import PairDataset
from data.errors import UserError
from data.manifest import MANIFEST_NAME
from train.config import TrainConfig
from train.detector import CONFIG_NAME, WEIGHTS_NAME, Detector, find_run, load_config, resolve_device
from train.eval import metrics
from train.eval.compare import compare
from train.eval.evaluation import HEADLINE, METRICS_NAME, PAPER_ROWS, PAPER_TABLE_1, Evaluation, shown
from train.eval.gallery import write_overlays
from train.eval.predictions import Predictions, load_predictions, predict_split, save_predictions
from train.eval.report import write_report
from train.provenance import load_learned_models

LOCK_NAME = ".eval.lock"
OTHER_CAMERA = 0.05  # relative difference of distance or focal length that is worth a word


@dataclass(frozen=True)
class EvalOptions:
    """Options of an evaluation.

    Raises:
        UserError: ``symmetry`` is none, or the device cannot be used.
    """

    split: str = "test"  # train, val or test
    device: str = "cpu"  # where the network runs: auto, cpu or cuda
    symmetry: str | None = None  # AXIS:ORDER of the objects, as y:2 or y:inf: adds the error under it

    def __post_init__(self) -> None:
        resolve_device(self.device)
        self.declared_symmetry  # complains of others before any work starts

    @property
    def declared_symmetry(self) -> metrics.Symmetry | None:
        try:
            return metrics.Symmetry(self.symmetry) if self.symmetry else None
        except ValueError as error:
            raise UserError(f"symmetry: {error}: give AXIS:ORDER, as y:2, or y:inf for any angle") from None


def evaluate(
    run: str | Path,
    datasets: list[str | Path],
    out: str | Path | None = None,
    options: EvalOptions = EvalOptions(),
    progress: bool = True,
) -> tuple[Evaluation, Path]:
    """Measure a detector on a split and write metrics.json, predictions.h5, overlays/ and report.html.

    Predictions are reused when the folder has those of the same weights on the same data: no network is run then.

    Args:
        run: run folder, or name of shipped weights. datasets: one or more dataset folders.
        out: folder to write to; by default ``eval-SPLIT`` in the run folder, ``RUN-eval-SPLIT`` here for a shipped
            name.

    Raises:
        UserError: the run or a dataset cannot be used, the split is empty, or ``out`` is a dataset.
    """
    split, config = options.split, load_config(find_run(run))
    dataset = PairDataset(datasets, split)
    warn_of_empty_datasets(dataset)
    warn_of_other_views(config, dataset)
    warn_of_learned_models(run, dataset)
    if out is None:
        out = Path(run) / f"eval-{split}" if find_run(run) == Path(run) else Path(f"{Path(run).name}-eval-{split}")
    if (Path(out) / MANIFEST_NAME).exists():
        raise UserError(f"{out}: a dataset: choose another --out")
    out, key = Path(out), {"weights": weights_fingerprint(run), "data": dataset.fingerprint()}
    with holding(out / LOCK_NAME, f"{out}: another evaluation is writing to it: wait, or choose another --out"):
        predictions = _predictions(run, dataset, out, key, options.device, progress)
        name = Path(run).resolve().name
        evaluation = Evaluation(
            name, dataset.category, split, dataset, predictions, config.axes, options.declared_symmetry
        )
        figures = json.dumps(_without_nan(evaluation.metrics), indent=1) + "\n"
        (out / METRICS_NAME).unlink(missing_ok=True)  # it comes last, and tells that the rest belongs to it
        write_overlays(evaluation, out / "overlays")
        write_report(evaluation, out / "report.html")
        write_bytes(out / METRICS_NAME, figures.encode())
    return evaluation, out


def _predictions(
    run: str | Path, dataset: PairDataset, out: Path, key: dict[str, str], device: str, progress: bool
) -> Predictions:
    """Those in ``out`` if they are of these weights and data, as ``key`` has them, else new ones, kept there."""
    path = out / "predictions.h5"
    if (found := load_predictions(path, key)) is not None:
        return found
    if path.exists():
        print(
            f"{out}: replaces what was there, of other data or weights, or damaged: --out keeps both", file=sys.stderr
        )
    made = predict_split(Detector.load(run, device), dataset, progress=progress)
    (out / METRICS_NAME).unlink(missing_ok=True)  # figures of others must not stand beside these
    save_predictions(path, made, key)
    return made


def warn_of_empty_datasets(dataset: PairDataset) -> None:
    """One line on standard error for each folder that has nothing in the split, where others have."""
    for folder, manifest in zip(dataset.folders, dataset.manifests, strict=True):
        if not any(shard.split == dataset.split for shard in manifest.shards):
            print(f"{folder}: no pairs in split {dataset.split}: not in these figures", file=sys.stderr)


def warn_of_other_views(config: TrainConfig, dataset: PairDataset) -> None:
    """One line on standard error where pairs are of a camera that a detector was not trained with, or less sharp."""
    if (size := max(dataset.image_size)) < config.source_size:
        print(
            f"{dataset.folders[0]}: images of {size} pixels, the detector was trained with {config.source_size}: "
            "expect poor figures",
            file=sys.stderr,
        )
    pairs = [sum(s.pairs for s in manifest.shards if s.split == dataset.split) for manifest in dataset.manifests]
    for name, values in zip(("camera_distance", "focal_length"), dataset.cameras()):
        ours = getattr(config, name)
        for folder, own in zip(dataset.folders, values.split(pairs), strict=True):
            if own.numel() and abs((theirs := own.median()) - ours) > OTHER_CAMERA * ours:
                print(
                    f"{folder}: {name.replace('_', ' ')} {theirs:g}, the detector was trained with {ours:g}: expect "
                    "poor figures",
                    file=sys.stderr,
                )


def warn_of_learned_models(run: str | Path, dataset: PairDataset) -> None:
    """One line on standard error where models of the split are among those that a detector learned from."""
    learned = load_learned_models(find_run(run))
    for folder, manifest in zip(dataset.folders, dataset.manifests, strict=True):
        models = [model for model in manifest.models if model.split == dataset.split]
        if known := sum(learned.includes(manifest.category, model) for model in models):
            print(
                f"{folder}: {run} learned from {known} of these {len(models)} models: the figures are not those of "
                "unseen ones: choose another split, or the training's --seed and --splits",
                file=sys.stderr,
            )


def _without_nan(figures):
    """The same with None for NaN, which JSON does not know."""
    if isinstance(figures, dict):
        return {name: _without_nan(value) for name, value in figures.items()}
    if isinstance(figures, list):
        return [_without_nan(value) for value in figures]
    return None if isinstance(figures, float) and math.isnan(figures) else figures


def evaluate_all(
    runs: Sequence[str | Path],
    datasets: list[str | Path],
    out: str | Path | None = None,
    options: EvalOptions = EvalOptions(),
    progress: bool = True,
) -> tuple[str, list[Path]]:
    """Measure several detectors on the same split and write ``comparison.html``, one page about all of them.

    Args:
        out: folder for the page and a folder per run; by default the page is written here, the rest as by
            :func:`evaluate`. The others are those of :func:`evaluate`.

    Returns:
        The figures as one text table, and the paths of the page and the evaluations.

    Raises:
        UserError: a run or a dataset cannot be used, or the split is empty.
    """
    for run in runs:
        find_run(run)  # none is measured if one is missing
    folders = [None if out is None else Path(out) / name for name in _names_of(runs)]
    written = [evaluate(run, datasets, folder, options, progress)[1] for run, folder in zip(runs, folders, strict=True)]
    page = Path(out or ".") / "comparison.html"
    return compare(written, page), [page, *written]


def _names_of(runs: Sequence[str | Path]) -> list[str]:
    """A name for each run: the last parts of its path, as many as tell all apart.

    Raises:
        UserError: a run is given twice.
    """
    paths = [find_run(run).resolve() for run in runs]
    if twice := [run for run, path in zip(runs, paths) if paths.count(path) > 1]:
        raise UserError(f"{twice[0]}: given twice: name each run once")
    for count in range(1, max(len(path.parts) for path in paths)):
        names = ["-".join(path.parts[1:][-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"{runs[0]}: cannot be told from another run by its path: rename its folder")


def weights_fingerprint(run: str | Path) -> str:
    """SHA-256 over a run's settings and weights.

    Raises:
        UserError: no such run, or it has no weights yet.
    """
    settings, weights = (find_run(run) / name for name in (CONFIG_NAME, WEIGHTS_NAME))
    if not weights.exists():
        raise UserError(f"{weights}: no weights there yet: let the training reach its first checkpoint")
    return hashlib.sha256(settings.read_bytes() + weights.read_bytes()).hexdigest()


def headline_table(figures: dict) -> str:
    """The headline figures as a text table, beside the paper's where it has the category."""
    name = f"{figures['run']} on {figures['n_models']} {figures['category']} models, {figures['n_pairs']} pairs"
    rows = [(name, *(figures[column] for column in HEADLINE))]
    paper = PAPER_TABLE_1.get(figures["category"], ())
    rows += [(f"paper: {label}", *values) for label, values in zip(PAPER_ROWS, paper, strict=False)]
    width = max(len(row[0]) for row in rows)
    lines = [f"{'':{width}}  mean °  median °  3D-SE"]
    lines += [f"{row[0]:{width}}  {row[1]:6.2f}  {row[2]:8.2f}  {shown('{:5.3f}', row[3]):>5}" for row in rows]
    if paper:
        lines.append("(the paper's figures are for other models: ShapeNet's, 128 px)")
    lines.append(
        f"within 5° {figures['accuracy_at_5_deg']:.1%} · 10° {figures['accuracy_at_10_deg']:.1%} · "
        f"30° {figures['accuracy_at_30_deg']:.1%} · flips {figures['flip_rate']:.1%} · "
        f"orientation right {figures['orientation_accuracy']:.1%} · "
        f"inside the mask {figures['silhouette_hit_rate']:.1%} · "
        f"3D-SE within a model {figures['keypoint_3d_se_within_model']:.3f} · "
        f"{figures['distinct_keypoints_at_0.05']} of {len(figures['keypoint_spread'])} keypoints distinct"
    )
    if "symmetry" in figures:
        lines.append(
            f"under symmetry {figures['symmetry']}: mean {figures['symmetric_angular_error_mean_deg']:.2f}° · median "
            f"{figures['symmetric_angular_error_median_deg']:.2f}° · flips {figures['symmetric_flip_rate']:.1%}"
        )
    return "\n".join(lines)
