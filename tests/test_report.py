import base64
import io
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from data.dataset import PairDataset
from tests.browser import CHROMIUM, Page
from tests.made_up import Oracle, make_dataset
from train.eval import charts
from train.eval.evaluation import Evaluation
from train.eval.predictions import predict_split
from train.eval.report import write_report


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    dataset = PairDataset(make_dataset(tmp_path_factory.mktemp("data") / "balls", models=4, pairs=5), "test")
    dataset.model_ids[0] = "</script><b>&bad"
    said = predict_split(Oracle(dataset, noise=0.15), dataset, progress=False)
    said.angular_error_deg[2] = 170
    said.flags[2, 0, 0] ^= True
    return Evaluation("a <run>", "airplane", "test", dataset, said, ("x", "z"))


@pytest.fixture(scope="module")
def page(subject, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(subject, path)
    return path


def test_the_page_needs_nothing_else(page):
    text = page.read_text()
    assert not re.findall(r"\{\{\w+\}\}", text)
    assert all(uri.startswith("data:") for uri in re.findall(r'src="([^"]*)"', text))
    assert all(uri.startswith(("data:", "#")) for uri in re.findall(r'href="([^"]*)"', text))
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert len(text) < 10e6


def test_names_are_escaped(page):
    text = page.read_text()
    assert "<b>&bad" not in text and "a <run>" not in text
    assert "&lt;/script&gt;&lt;b&gt;&amp;bad" in text


def test_a_name_may_look_like_a_slot_of_the_page(subject, tmp_path):
    write_report(replace(subject, run="{{data}} {{terms}}"), tmp_path / "report.html")
    assert "{{data}} {{terms}}" in (tmp_path / "report.html").read_text()


def test_the_page_tells_the_figures(subject, page):
    text = page.read_text()
    assert f"{subject.metrics['angular_error_median_deg']:.1f}°" in text
    assert "17.33°" in text and "0.230" in text
    assert "orientation flag wrong: x in view 0" in text
    pictures = [Image.open(io.BytesIO(base64.b64decode(b))) for b in re.findall(r"image/jpeg;base64,([^\"]+)", text)]
    # two views of 4 worst, 3 median and 3 best pairs, two of each model, three heat maps of each keypoint
    assert len(pictures) == 2 * (4 + 3 + 3) + 2 * 4 + 3 * 5


def test_3d_data_are_the_points_of_the_object_frame(subject, page):
    data = json.loads(re.search(r'application/json">(.*?)</script>', page.read_text(), re.DOTALL)[1])
    assert len(data["models"]) == 4 and len(data["colors"]) == 5
    points = np.frombuffer(base64.b64decode(data["models"][1]["points"]), "<i2").reshape(5, 2, 5, 3) / 1000
    assert np.allclose(points, subject.points[5:10], atol=6e-4)
    cloud = np.frombuffer(base64.b64decode(data["models"][1]["cloud"]), "<i2").reshape(-1, 3) / 1000
    balls = subject.dataset.semantic_keypoints[1].numpy()
    distance = np.linalg.norm(cloud[:, None] - balls, axis=-1).min(1)
    assert np.abs(distance - 0.25).max() < 0.08  # on the balls' surfaces, but for the made-up perspective


def test_charts_are_well_formed_and_show_the_data():
    rng = np.random.default_rng(0)
    errors = np.concatenate([rng.uniform(0, 20, 90), rng.uniform(160, 180, 10)])
    angles = rng.uniform(0, 180, 100)
    drawn = {
        "histogram": charts.histogram(errors),
        "cumulative": charts.cumulative(errors),
        "binned": charts.binned(angles, errors, np.arange(0, 181, 30), "angle <°>", (0, 90, 180)),
        "models": charts.per_model([f"m&{i}" for i in range(100)], errors, errors / 2),
        "aligned": charts.aligned_sets(rng.normal(size=(5, 3)), rng.normal(size=(5, 3))),
    }
    trees = {name: ElementTree.fromstring(svg) for name, svg in drawn.items()}
    titles = [t.text for t in trees["histogram"].iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == 36
    shares = [float(re.search(r"([\d.]+)% of pairs", t)[1]) for t in titles]
    assert sum(shares) == pytest.approx(100) and sum(shares[32:]) == pytest.approx(10)
    assert "90.0% within 30°" in drawn["cumulative"]


def test_bins_cover_every_pair_once_and_may_be_empty():
    values, errors = np.array([0.0, 10.0, 30.0]), np.array([1.0, 3.0, 5.0])
    svg = charts.binned(values, errors, [0, 10, 20, 30], "x", (0, 30))
    assert "0 to 10: 1 pairs, median 1.0°" in svg and "10 to 20: 1 pairs, median 3.0°" in svg
    assert "20 to 30: 1 pairs, median 5.0°" in svg
    assert "20 to 30" not in charts.binned(values[:2], errors[:2], [0, 10, 20, 30], "x", (0, 30))


def test_a_confidence_gets_its_charts(subject, tmp_path):
    said = replace(subject.predictions, sigma=np.full((20, 2, 5), 0.15, np.float32))
    sure = replace(subject, predictions=said)
    write_report(sure, tmp_path / "sure.html")
    write_report(subject, tmp_path / "silent.html")
    shown = [(tmp_path / name).read_text() for name in ("sure.html", "silent.html")]
    assert "nan" not in shown[0], "a constant confidence has no rank correlation"
    for text in ("Reliability of the confidence", "Sparsification by confidence", "mean calibration error"):
        assert [text in page for page in shown] == [True, False]


@pytest.mark.parametrize("value, top", [(0, 1), (0.9, 1), (1.1, 2), (0.03, 0.04), (33, 40), (43, 50), (81, 100)])
def test_axes_end_above_the_data_and_have_round_ticks(value, top):
    ticks = charts.nice_ticks(value)
    assert ticks[0] == 0 and ticks[-1] == pytest.approx(top)
    step = ticks[1] / 10 ** np.floor(np.log10(ticks[1]) + 1e-9)
    assert np.allclose(np.diff(ticks), ticks[1]) and np.isclose(step, [1, 2, 2.5, 5]).any()


FRAME = "new Promise((then) => requestAnimationFrame(() => setTimeout(then)))"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [390, 1300], ids=["phone", "desktop"])
def test_in_a_browser(page, tmp_path, width):
    with Page(page, width, tmp_path / "profile") as browser:
        assert browser.evaluate("document.querySelectorAll('#which option').length") == 4  # filled in by the script
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        browser.evaluate("scene = document.getElementById('scene'), scene.scrollIntoView({block: 'center'})")
        painted = "scene.getContext('2d').getImageData(0, 0, scene.width, scene.height).data.some((value) => value)"
        assert browser.evaluate(painted)  # without an animation frame
        left, top, across = browser.evaluate("(({x, y, width}) => [x, y, width])(scene.getBoundingClientRect())")
        before = browser.evaluate("scene.toDataURL()")
        browser.drag((left + 0.3 * across, top + 100), (left + 0.6 * across, top + 120))
        browser.evaluate(FRAME)
        turned = browser.evaluate("scene.toDataURL()")
        browser.evaluate("which.value = 1, which.dispatchEvent(new Event('change')), " + FRAME)
        assert len({before, turned, browser.evaluate("scene.toDataURL()")}) == 3
        assert browser.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
        assert not browser.complaints
