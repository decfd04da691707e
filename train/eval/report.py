"""The report: one HTML page that needs nothing else, from an :class:`~train.eval.evaluation.Evaluation`."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from data.atomic import write_bytes
from train.eval import charts, metrics, overlays
from train.eval.evaluation import HEADLINE, PAPER_ROWS, PAPER_TABLE_1, Evaluation, shown
from train.eval.gallery import model_name, notable_pairs, similar_views

TEMPLATE = Path(__file__).with_name("report_template.html")
VIEW_PIXELS = 288  # side of a view on the page
HEATMAP_PIXELS = 144
MODELS_IN_GRID = 12
HARDEST_MODELS = 6
MODELS_IN_SPACE = 8
CLOUD_POINTS = 5000  # per model in the 3D view

TERMS = {
    "Angular error": "Geodesic angle 2·asin(‖R̂ − R‖ / 2√2) between the true relative rotation and the one "
    "that Procrustes recovers from the two keypoint sets (arXiv 1807.03146, eq. 2 and 3). All figures use the "
    "predicted orientation flags.",
    "Within x°": "Share of pairs with an error of at most x degrees.",
    "Flips": "Share of pairs beyond 90°: the object was seen the wrong way round in one of the views.",
    "3D-SE": "Keypoints are lifted into the object frame with the true pose; the root of the mean squared distance of "
    "each keypoint to its mean over the whole split, averaged over keypoints, pairs beyond 90° left out. Objects are "
    "2 long. Models differ in shape, so it does not reach 0.",
    "3D-SE in a model": "The same spread over the views of one model, averaged over models, nothing left out.",
    "Orientation": "Share of views whose orientation flags are all right.",
    "Inside the mask": "Share of keypoints that project on the object.",
    "More figures": "Each is defined, with its source, in FORMAT.md of train/eval.",
    "Intervals": "95 % bootstrap intervals, drawing whole models with replacement.",
    "Failure names": "good: at most 10° · flip: a wrong flag and beyond 30°, or beyond 90° · swap: two keypoints "
    "changed places · outside the mask: over a quarter of a view's keypoints miss the object · occluded: those that "
    "are off are mostly behind the surface in a view · drift: keypoints slid over the object. The first that fits is "
    "named.",
}


def write_report(evaluation: Evaluation, path: str | Path) -> None:
    """Write the page atomically; below 10 MB for up to 20 000 models."""
    figures = evaluation.metrics
    parts = {
        "title": html.escape(f"{figures['run']} · {figures['category']}"),
        "subtitle": html.escape(
            f"{evaluation.predictions.keypoints.shape[2]} keypoints, measured on the {figures['split']} split: "
            f"{figures['n_pairs']} view pairs of {figures['n_models']} models. "
            f"Orientation flags on axis {', '.join(evaluation.axes)}."
        ),
        "figures": _figures(figures),
        "table": _table(figures) + _further(figures),
        "errors": _error_charts(evaluation),
        "hardest": _hardest(evaluation),
        "failures": _failures(evaluation),
        "pairs": _pairs(evaluation),
        "models": _models(evaluation),
        "keypoints": _keypoints(evaluation),
        "terms": '<dl class="terms">' + "".join(f"<dt>{k}</dt><dd>{v}</dd>" for k, v in TERMS.items()) + "</dl>",
        # a "</script>" in a name would end the element
        "data": json.dumps(_space(evaluation), separators=(",", ":")).replace("<", "\\u003c"),
    }
    # In one pass: names of models and runs may look like slots.
    page = re.sub(r"\{\{(\w+)\}\}", lambda slot: parts[slot[1]], TEMPLATE.read_text(encoding="utf-8"))
    write_bytes(Path(path), page.encode(errors="backslashreplace"))


def _figures(figures: dict) -> str:
    def card(name: str, key: str, form: str, interval: str) -> str:
        low, high = figures["confidence_interval_95"][key]
        small = f"{shown(interval, low)} to {shown(interval, high)}"
        value = shown(form, figures[key])
        return f'<div class="panel"><span>{name}</span><b>{value}</b><small>95 %: {small}</small></div>'

    return "".join(
        (
            card("Median error", "angular_error_median_deg", "{:.1f}°", "{:.1f}"),
            card("Mean error", "angular_error_mean_deg", "{:.1f}°", "{:.1f}"),
            card("Within 5°", "accuracy_at_5_deg", "{:.0%}", "{:.0%}"),
            card("Within 10°", "accuracy_at_10_deg", "{:.0%}", "{:.0%}"),
            card("Within 30°", "accuracy_at_30_deg", "{:.0%}", "{:.0%}"),
            card("Flips", "flip_rate", "{:.1%}", "{:.0%}"),
            card("3D-SE", "keypoint_3d_se", "{:.3f}", "{:.3f}"),
            card("3D-SE in a model", "keypoint_3d_se_within_model", "{:.3f}", "{:.3f}"),
            card("Orientation right", "orientation_accuracy", "{:.1%}", "{:.0%}"),
            card("Inside the mask", "silhouette_hit_rate", "{:.1%}", "{:.0%}"),
        )
    )


def _table(figures: dict) -> str:
    ours = (f"{figures['run']}, this evaluation", *(figures[column] for column in HEADLINE))
    paper = PAPER_TABLE_1.get(figures["category"], ())
    rows = [("ours", ours)]
    rows += [("", (f"Paper: {label}", *values)) for label, values in zip(PAPER_ROWS, paper, strict=False)]
    body = "".join(
        f'<tr class="{kind}"><td>{html.escape(label)}</td><td>{mean:.2f}°</td><td>{median:.2f}°</td>'
        f"<td>{shown('{:.3f}', spread)}</td></tr>"
        for kind, (label, mean, median, spread) in rows
    )
    note = (
        "The paper's figures (arXiv 1807.03146, Table 1) are for ShapeNet's test models at 128 px; the models here are "
        "others, so read them as an orientation, not as a contest."
        if paper
        else "The paper's Table 1 has no such category; it covers airplanes, cars and chairs."
    )
    return (
        f"<table><thead><tr><th></th><th>Mean</th><th>Median</th><th>3D-SE</th></tr></thead>{body}</table>"
        f'<p class="note">{note}</p>'
    )


def _further(figures: dict) -> str:
    """The figures that only some readers want, folded away."""
    rows = {
        "Keypoints found again by the other view within 0.1": ("repeatability_at_0.1", "{:.1%}"),
        "Coverage of the object's box": ("coverage", "{:.1%}"),
        "Keypoints within 0.1 of the surface": ("inclusivity_at_0.1", "{:.1%}"),
        "ADD, mean": ("add_mean", "{:.3f}"),
        "Pairs with ADD below a tenth of the diameter": ("add_accuracy_at_0.1_diameter", "{:.1%}"),
        "Translation error, mean": ("translation_error_mean", "{:.3f}"),
        "Error of the object's centre, mean": ("center_error_mean", "{:.3f}"),
        "Dual alignment score": ("dual_alignment_score", "{:.1%}"),
        "Mean IoU with semantic keypoints at 0.1": ("mean_iou_at_0.1", "{:.1%}"),
        "Semantic keypoints right within 0.05 (PCK)": ("pck_at_0.05", "{:.1%}"),
        "Semantic keypoints right within 0.1 (PCK)": ("pck_at_0.1", "{:.1%}"),
        "Confidence: mean calibration error": ("confidence_calibration_error", "{:.3f}"),
        "Confidence: AUSE, 0 is the best": ("confidence_ause", "{:.3f}"),
        "Confidence: AUSE of chance": ("confidence_ause_of_chance", "{:.3f}"),
        "Confidence: rank correlation of claimed and true error": ("confidence_rank_correlation", "{:.2f}"),
        f"Mean error under symmetry {figures.get('symmetry')}": ("symmetric_angular_error_mean_deg", "{:.2f}°"),
        f"Median error under symmetry {figures.get('symmetry')}": ("symmetric_angular_error_median_deg", "{:.2f}°"),
    }
    body = "".join(
        f"<tr><td>{name}</td><td>{shown(form, figures[key])}</td></tr>"
        for name, (key, form) in rows.items()
        if key in figures
    )
    return f"<details><summary>More figures</summary><table>{body}</table></details>"


def _error_charts(evaluation: Evaluation) -> str:
    errors = evaluation.predictions.angular_error_deg
    azimuth, elevation = evaluation.view_angles()
    both = np.repeat(errors, 2)
    rotation = metrics.angular_error(evaluation.dataset.R.numpy(), np.eye(3))
    low = 10 * np.floor(elevation.min() / 10)
    high = 10 * np.ceil(max(elevation.max(), low + 10) / 10)
    names, means, medians = _per_model(evaluation)
    figures = {
        "Histogram": charts.histogram(errors),
        "Share of pairs within an error": charts.cumulative(errors),
        "By the rotation between the views": charts.binned(
            rotation, errors, np.arange(0, 181, 20), "rotation between the views (°)", range(0, 181, 30)
        ),
        "By the camera's azimuth (each view of a pair)": charts.binned(
            azimuth.ravel(),
            both,
            np.arange(-180, 181, 30),
            "azimuth (°): 0 front, 90 right side",
            range(-180, 181, 60),
        ),
        "By the camera's elevation (each view of a pair)": charts.binned(
            elevation.ravel(), both, np.arange(low, high + 1, 10), "elevation (°)", np.arange(low, high + 1, 20)
        ),
        "By model (bars: mean, dots: median)": charts.per_model(names, means, medians),
        **_confidence_charts(evaluation),
    }
    return "".join(f'<figure class="panel"><figcaption>{t}</figcaption>{svg}</figure>' for t, svg in figures.items())


def _confidence_charts(evaluation: Evaluation) -> dict[str, str]:
    """Two charts for a detector that tells its confidence, none for others."""
    if evaluation.certainty is None:
        return {}
    certainty, error = evaluation.certainty.ravel(), evaluation.distances.ravel()
    curve = metrics.reliability_curve(evaluation.predictions.sigma, evaluation.distances)
    return {
        "Is the confidence calibrated? (dotted: perfectly)": charts.reliability(*curve),
        "Does it tell good keypoints from bad? (dashed: the best order, dotted: chance)": charts.sparsification(
            metrics.sparsification_curve(certainty, error), metrics.sparsification_curve(-error, error)
        ),
    }


def _per_model(evaluation: Evaluation) -> tuple[list[str], np.ndarray, np.ndarray]:
    errors = evaluation.predictions.angular_error_deg
    groups = [errors[evaluation.model_index == m] for m in evaluation.models]
    names = [evaluation.dataset.model_ids[m] for m in evaluation.models]
    return names, np.array([g.mean() for g in groups]), np.array([np.median(g) for g in groups])


def _hardest(evaluation: Evaluation) -> str:
    names, means, medians = _per_model(evaluation)
    errors = evaluation.predictions.angular_error_deg
    rows = []
    for m in np.argsort(-means, kind="stable")[:HARDEST_MODELS]:
        own = errors[evaluation.model_index == evaluation.models[m]]
        rows.append(
            f"<tr><td>{html.escape(names[m])}</td><td>{means[m]:.1f}°</td><td>{medians[m]:.1f}°</td>"
            f"<td>{(own > metrics.FLIP_DEGREES).mean():.0%}</td><td>{len(own)}</td></tr>"
        )
    head = "<tr><th>Model</th><th>Mean</th><th>Median</th><th>Flips</th><th>Pairs</th></tr>"
    return f"<table><thead>{head}</thead>{''.join(rows)}</table>"


def _failures(evaluation: Evaluation) -> str:
    pairs = evaluation.ranked_pairs()
    counts = Counter(evaluation.name_failure(int(pair))[0] for pair in pairs)
    return ", ".join(f"{name} {count / len(pairs):.1%}" for name, count in counts.most_common())


def _pairs(evaluation: Evaluation) -> str:
    groups = notable_pairs(evaluation, 6)
    titles = {"worst": "Worst", "median": "Around the median", "best": "Best"}
    sections = []
    for kind, title in titles.items():
        chosen = groups[kind][: 6 if kind == "worst" else 3]
        body = "".join(_pair(evaluation, pair) for pair in chosen)
        sections.append(f'<h3 class="group">{title}</h3><div class="pairs">{body}</div>')
    return "".join(sections)


def _pair(evaluation: Evaluation, pair: int) -> str:
    said = evaluation.predictions
    name, sentence = evaluation.name_failure(pair)
    rgba = evaluation.rgba(pair)
    views = "".join(
        f'<img alt="view {v} with keypoints" src="{_view_uri(rgba[v], said.keypoints[pair, v])}">' for v in range(2)
    )
    points = metrics.camera_points(said.keypoints[pair], evaluation.intrinsics[pair])
    points = points - points.mean(1, keepdims=True)
    svg = charts.aligned_sets(points[0] @ said.R_estimated[pair].T, points[1])
    return (
        f'<div class="panel pair"><h3>{said.angular_error_deg[pair]:.1f}° '
        f'<span class="tag {"good" if name == "good" else ""}">{name}</span></h3>'
        f'<div class="about">{html.escape(model_name(evaluation, pair))}, pair {pair}: {html.escape(sentence)}</div>'
        f'<div class="views">{views}</div>{svg}</div>'
    )


def _models(evaluation: Evaluation) -> str:
    front = similar_views(evaluation, MODELS_IN_GRID)
    rear = similar_views(evaluation, MODELS_IN_GRID, azimuth=-145.0)
    cells = []
    for near, far in zip(front, rear, strict=True):
        images = "".join(
            f'<img alt="keypoints on a model" '
            f'src="{_view_uri(evaluation.rgba(pair)[view], evaluation.predictions.keypoints[pair, view])}">'
            for pair, view in (near, far)
        )
        name = html.escape(model_name(evaluation, near[0]))
        cells.append(
            f'<figure><div class="views">{images}</div><figcaption title="{name}">{name}</figcaption></figure>'
        )
    return "".join(cells)


def _keypoints(evaluation: Evaluation) -> str:
    said, figures = evaluation.predictions, evaluation.metrics
    within = metrics.spread_within_models(evaluation.points, evaluation.shape_index)
    cells = []
    for k in range(said.keypoints.shape[2]):
        rows = {
            "spread within a model": f"{within[k]:.3f}",
            "spread over the split": shown("{:.3f}", figures["keypoint_spread"][k]),
            "median distance between the views": f"{np.median(evaluation.distances[:, k]):.3f}",
            "size of the heat map (σ)": f"{said.heatmap_spread[..., k].mean():.1f} px",
            "inside the mask": f"{figures['silhouette_hit_rate_per_keypoint'][k]:.1%}",
        }
        maps = "".join(
            f'<img alt="heat map of keypoint {k}" '
            f'src="{_heatmap_uri(evaluation.rgba(int(pair))[0], said.heatmaps[s, 0, k], k)}">'
            for s, pair in enumerate(said.heatmap_pair[:3])
        )
        color = overlays.css_color(k)
        cells.append(
            f'<div class="panel"><h3><span class="swatch" style="background:{color};color:{overlays.ink_on(k)}">{k}'
            f"</span>Keypoint {k}</h3><dl>{''.join(f'<dt>{n}</dt><dd>{v}</dd>' for n, v in rows.items())}</dl>"
            f'<div class="maps">{maps}</div></div>'
        )
    return "".join(cells)


def _space(evaluation: Evaluation) -> dict:
    """What the 3D view draws: per model all keypoints and a coloured cloud of its surface, as base64 arrays."""
    number = evaluation.predictions.keypoints.shape[2]
    models = []
    for pair, _ in similar_views(evaluation, MODELS_IN_SPACE):
        shape = int(evaluation.shape_index[pair])
        own = np.flatnonzero(evaluation.shape_index == shape)
        cloud, color = evaluation.surface_of(shape, CLOUD_POINTS)
        models.append(
            {
                "name": model_name(evaluation, pair),
                "points": _base64(_thousandths(evaluation.points[own[:200]].reshape(-1, 3))),
                "cloud": _base64(_thousandths(cloud)),
                "shade": _base64(color),
            }
        )
    return {
        "colors": [",".join(map(str, overlays.keypoint_color(k))) for k in range(number)],
        "ink": [overlays.ink_on(k) for k in range(number)],
        "models": models,
    }


def _thousandths(points: np.ndarray) -> np.ndarray:
    return np.clip(np.round(points * 1000), -32767, 32767).astype("<i2")


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _view_uri(rgba: np.ndarray, keypoints: np.ndarray) -> str:
    view, points = overlays.close_up(rgba, keypoints)
    # views are shown small, the dots must still be read
    return _jpeg_uri(overlays.draw_view(view, points, scale=VIEW_PIXELS / len(view), dot=1 / 27))


def _heatmap_uri(rgba: np.ndarray, heatmap: np.ndarray, index: int) -> str:
    return _jpeg_uri(overlays.draw_heatmap(rgba, heatmap, index, scale=HEATMAP_PIXELS / rgba.shape[0]))


def _jpeg_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
