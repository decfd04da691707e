"""Several evaluations side by side: one table, and their error curves in one picture."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from data.atomic import write_bytes
from data.errors import UserError
from train.eval import charts
from train.eval.overlays import keypoint_color

COLUMNS = {
    "mean °": ("angular_error_mean_deg", "{:.2f}"),
    "median °": ("angular_error_median_deg", "{:.2f}"),
    "within 5°": ("accuracy_at_5_deg", "{:.1%}"),
    "10°": ("accuracy_at_10_deg", "{:.1%}"),
    "30°": ("accuracy_at_30_deg", "{:.1%}"),
    "flips": ("flip_rate", "{:.1%}"),
    "3D-SE": ("keypoint_3d_se", "{:.3f}"),
    "3D-SE within": ("keypoint_3d_se_within_model", "{:.3f}"),
    "orientation": ("orientation_accuracy", "{:.1%}"),
    "in mask": ("silhouette_hit_rate", "{:.1%}"),
}


@dataclass(frozen=True)
class Evaluated:
    """An evaluation folder: its name, the figures of ``metrics.json``, the errors (P,) and what data they are of."""

    name: str
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
        figures = json.loads((folder / "metrics.json").read_text())
        with h5py.File(folder / "predictions.h5") as file:
            errors, data = file["angular_error_deg"][()], str(file.attrs["data"])
    except (OSError, ValueError, KeyError):
        raise UserError(f"{folder}: not an evaluation: give the folders that `eval` wrote") from None
    return Evaluated(str(folder), figures, errors, data)


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
    write_bytes(Path(out), _page(evaluated).encode())
    return _text_table(evaluated)


def _rows(evaluated: Sequence[Evaluated]) -> list[list[str]]:
    rows = []
    for each in evaluated:
        mark = "" if each.data == evaluated[0].data else " *"
        rows.append([each.name + mark, *(form.format(each.figures[key]) for key, form in COLUMNS.values())])
    return rows


def _note(evaluated: Sequence[Evaluated]) -> str:
    same = all(each.data == evaluated[0].data for each in evaluated)
    return "" if same else "* of other data than the first: the figures cannot be compared pair by pair"


def _text_table(evaluated: Sequence[Evaluated]) -> str:
    rows = [["", *COLUMNS], *_rows(evaluated)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join([*lines, *filter(None, [_note(evaluated)])])


def _page(evaluated: Sequence[Evaluated]) -> str:
    def cells(row: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"

    colors = ["rgb({},{},{})".format(*keypoint_color(i)) for i in range(len(evaluated))]
    legend = "".join(
        f'<li><span style="background:{color}"></span>{html.escape(each.name)}</li>'
        for color, each in zip(colors, evaluated, strict=True)
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Comparison</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><style>'
        "body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}"
        "div{overflow-x:auto}table{border-collapse:collapse}td,th{padding:.3em .7em;text-align:right;border-bottom:1px "
        "solid #ddd;white-space:nowrap}td:first-child{text-align:left}svg{max-width:640px;width:100%;font:12px "
        "system-ui,sans-serif}ul{list-style:none;padding:0}li span{display:inline-block;width:1.6em;height:.3em;"
        "margin-right:.6em;vertical-align:middle}</style>"
        f"<h1>Comparison of {len(evaluated)} evaluations</h1>"
        f"<div><table>{cells(['', *COLUMNS], 'th')}{''.join(cells(row, 'td') for row in _rows(evaluated))}</table></div>"
        f"<p>{html.escape(_note(evaluated))}</p>"
        f"<h2>Share of pairs within an error</h2>{charts.overlaid([e.errors for e in evaluated], colors)}"
        f"<ul>{legend}</ul></html>\n"
    )
