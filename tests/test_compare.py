import hashlib
import json

import h5py
import numpy as np
import pytest

from data.errors import UserError
from tests.browser import CHROMIUM, Page
from train.eval.compare import COLUMNS, compare


def evaluated(folder, errors, data="same"):
    folder.mkdir()
    figures = {key: float(np.mean(errors)) for key, *_ in COLUMNS.values()}
    (folder / "metrics.json").write_text(json.dumps(figures))
    with h5py.File(folder / "predictions.h5", "w") as file:
        file["angular_error_deg"] = np.array(errors, float)
        file.attrs["data"] = data
    digest = hashlib.sha256((folder / "predictions.h5").read_bytes()).hexdigest()
    (folder / "predictions.h5.sha256").write_text(digest)
    return folder


def test_table_and_curves_of_all_evaluations(tmp_path):
    a, b = evaluated(tmp_path / "a<1>", [1, 2, 3]), evaluated(tmp_path / "b", [10, 20, 30])
    lines = compare([a, b], tmp_path / "page.html").splitlines()
    assert len(lines) == 3 and len({len(line) for line in lines}) == 1
    assert lines[1].startswith(str(a)) and "2.00" in lines[1] and "20.00" in lines[2]
    page = (tmp_path / "page.html").read_text()
    assert page.count("<polyline") == 2 and "a&lt;1&gt;" in page and "http" not in page.replace("http://www.w3.org", "")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [390, 1300], ids=["phone", "desktop"])
def test_in_a_browser(tmp_path, width):
    folders = [evaluated(tmp_path / f"{i}% of a run with a long name", np.arange(1, 5) * i) for i in range(1, 5)]
    for folder in folders:
        (folder / "report.html").write_text("a report")
    compare(folders, tmp_path / "pages" / "comparison.html")
    with Page(tmp_path / "pages" / "comparison.html", width, tmp_path / "profile") as browser:
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.evaluate("document.querySelectorAll('polyline').length") == 4
        links = browser.evaluate("[...document.links].map((link) => link.href)")
        assert links == [(folder / "report.html").as_uri() for folder in folders]
        assert not browser.complaints


def test_evaluations_of_other_data_are_marked(tmp_path):
    folders = [evaluated(tmp_path / name, [1, 2], data) for name, data in (("a", "x"), ("b", "x"), ("c", "y"))]
    lines = compare(folders, tmp_path / "page.html").splitlines()
    assert ["*" in line for line in lines] == [False, False, False, True, True]


def test_errors_under_a_symmetry_that_all_share(tmp_path):
    folders = [evaluated(tmp_path / name, [100, 120]) for name in "ab"]
    for folder in folders:
        figures = json.loads((folder / "metrics.json").read_text())
        extra = {f"symmetric_{COLUMNS[name][0]}": 0.25 for name in ("mean °", "median °", "flips")}
        (folder / "metrics.json").write_text(json.dumps({**figures, "symmetry": "y:2", **extra}))
    table = compare(folders, tmp_path / "page.html")
    assert "flips y:2" in table and "25.0%" in table and "mean ° y:2" in (tmp_path / "page.html").read_text()
    other = evaluated(tmp_path / "c", [1, 2])
    assert "y:2" not in compare([*folders, other], tmp_path / "page.html")


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="not an evaluation"):
        compare([tmp_path], tmp_path / "page.html")


@pytest.mark.parametrize("content", ["{}", "[]", '{"angular_error_mean_deg": "x"}', None])
def test_damaged_evaluations_are_refused(tmp_path, content):
    folder = evaluated(tmp_path / "a", [1, 2])
    if content is None:
        stored = folder / "predictions.h5"
        stored.write_bytes(stored.read_bytes()[:-1] + b"\x01")
    else:
        (folder / "metrics.json").write_text(content)
    with pytest.raises(UserError, match="damaged, unfinished"):
        compare([folder], tmp_path / "page.html")
