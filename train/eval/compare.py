"""Several evaluations side by side: one table, and their error curves over each other."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from data.atomic import write_bytes
from data.errors import UserError
from train.eval import charts
from train.eval.evaluation import METRICS_NAME, shown
from train.eval.overlays import css_color
from train.eval.predictions import open_predictions

# heading: key of metrics.json, form of the figure, form of its interval's ends
COLUMNS = {
    "mean °": ("angular_error_mean_deg", "{:.2f}", "{:.1f}"),
    "median °": ("angular_error_median_deg", "{:.2f}", "{:.1f}"),
    "within 5°": ("accuracy_at_5_deg", "{:.1%}", "{:.0%}"),
    "10°": ("accuracy_at_10_deg", "{:.1%}", "{:.0%}"),
    "30°": ("accuracy_at_30_deg", "{:.1%}", "{:.0%}"),
    "flips": ("flip_rate", "{:.1%}", "{:.0%}"),
    "3D-SE": ("keypoint_3d_se", "{:.3f}", "{:.3f}"),
    "3D-SE within": ("keypoint_3d_se_within_model", "{:.3f}", "{:.3f}"),
    "orientation": ("orientation_accuracy", "{:.1%}", "{:.0%}"),
    "in mask": ("silhouette_hit_rate", "{:.1%}", "{:.0%}"),
}
SYMMETRIC = ("mean °", "median °", "flips")  # columns that come once more where `eval` was told of a symmetry


@dataclass(frozen=True)
class Evaluated:
    """An evaluation folder, the figures of its ``metrics.json``, the errors (P,) and what data they are of."""

    folder: Path
    figures: dict
    errors: np.ndarray
    data: str


def load_evaluation(folder: str | Path) -> Evaluated:
    """Read what `eval` has written.

    Raises:
        UserError: not such a folder.
    """
    folder = Path(folder)
    try:
        figures = json.loads((folder / METRICS_NAME).read_text())
        with open_predictions(folder / "predictions.h5") as file:
            errors, data = file["angular_error_deg"][()], str(file.attrs["data"])
        for key, form, interval_form in COLUMNS.values():  # which fails for what are no figures
            _cell(figures, key, form, interval_form)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{folder}: not an evaluation, or damaged, unfinished, or of an older version: give folders that `eval` "
            "wrote, or run it again"
        ) from None
    return Evaluated(folder, figures, errors, data)


def compare(folders: Sequence[str | Path], out: str | Path) -> str:
    """Write a page with the table and the curves of several evaluations.

    Args:
        folders: of `eval`. out: the page, HTML.

    Returns:
        The table as text. Evaluations of other data than the first one's are marked.

    Raises:
        UserError: a folder is not of an evaluation.
    """
    evaluated = [load_evaluation(folder) for folder in folders]
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, _page(evaluated, out.parent).encode(errors="backslashreplace"))
    return _text_table(evaluated)


def _columns(evaluated: Sequence[Evaluated]) -> dict[str, tuple[str, str, str]]:
    """``COLUMNS``, and those of the symmetry that all evaluations were told of."""
    (symmetry, *others) = {each.figures.get("symmetry") for each in evaluated}
    if symmetry is None or others:
        return COLUMNS
    return COLUMNS | {f"{name} {symmetry}": (f"symmetric_{COLUMNS[name][0]}", *COLUMNS[name][1:]) for name in SYMMETRIC}


def _names(evaluated: Sequence[Evaluated]) -> list[str]:
    return [f"{each.folder}{'' if each.data == evaluated[0].data else ' *'}" for each in evaluated]


def _note(evaluated: Sequence[Evaluated]) -> str:
    same = all(each.data == evaluated[0].data for each in evaluated)
    return "" if same else "* of other data than the first: such figures cannot be set against each other"


def _text_table(evaluated: Sequence[Evaluated]) -> str:
    columns = _columns(evaluated)
    rows = [["", *columns]]
    for name, each in zip(_names(evaluated), evaluated, strict=True):
        rows.append([name, *(shown(form, each.figures[key]) for key, form, _ in columns.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join([*lines, *filter(None, [_note(evaluated)])])


def _page(evaluated: Sequence[Evaluated], parent: Path) -> str:
    """The page, whose links to the reports hold from the folder ``parent``."""
    colors, columns = [css_color(i) for i in range(len(evaluated))], _columns(evaluated)
    rows = []
    for color, name, each in zip(colors, _names(evaluated), evaluated, strict=True):
        report = html.escape(quote(os.fsencode(os.path.relpath(each.folder / "report.html", parent))))
        link = f'<a href="{report}">{html.escape(name.removeprefix(f"{parent}/"))}</a>'
        cells = "".join(f"<td>{_cell(each.figures, *column)}</td>" for column in columns.values())
        rows.append(f'<tr><td><span><i style="background:{color}"></i>{link}</span></td>{cells}</tr>')
    head = "".join(f"<th>{name}</th>" for name in ("", *columns))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Comparison</title>'
        '<link rel="icon" href="data:,"><meta name="viewport" content="width=device-width, initial-scale=1"><style>'
        "body{font:15px/1.5 system-ui,sans-serif;max-width:1160px;margin:20px auto;padding:0 16px;color:#1d2330}"
        "h1{font-size:1.6rem}h2{font-size:1.18rem}a{color:#3056d3;text-decoration:none}p{color:#5b6375}"
        "div{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
        "td,th{padding:.35em .5em;text-align:right;border-bottom:1px solid #e2e6ee;white-space:nowrap}"
        "th{color:#5b6375;font-size:.86rem}small{display:block;color:#5b6375;font-size:.76rem}"
        "td:first-child,th:first-child{text-align:left;white-space:normal;overflow-wrap:anywhere;min-width:9em;"
        "position:sticky;left:0;background:#fff}"
        "span{display:flex;align-items:center;gap:.5em}i{width:16px;height:16px;border-radius:4px;flex:none}"
        "svg{display:block;max-width:640px;width:100%;font:12px system-ui,sans-serif}</style></head><body>"
        f"<h1>Comparison of {len(evaluated)} evaluations</h1>"
        f"<div><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f"<p>Small: 95 % bootstrap intervals over models. {html.escape(_note(evaluated))}</p>"
        f"<h2>Share of pairs within an error</h2>{charts.overlaid([e.errors for e in evaluated], colors)}"
        "</body></html>\n"
    )


def _cell(figures: dict, key: str, form: str, ends: str) -> str:
    interval = figures.get("confidence_interval_95", {}).get(key)  # older evaluations have fewer
    small = f"<small>{'–'.join(map(ends.format, interval))}</small>" if interval and None not in interval else ""
    return shown(form, figures[key]) + small
