import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from data.atomic import holding
from data.dataset import PairDataset
from data.errors import UserError
from data.manifest import Manifest, save_manifest
from data.shard import ModelEntry
from tests.made_up import BALLS, SIZE, Oracle, intrinsics, look_at, make_dataset
from train.config import make_config
from train.detector import Detector, build_network, save_config
from train.eval import evaluate as evaluation_module
from train.eval import metrics
from train.eval.compare import compare
from train.eval.evaluate import LOCK_NAME, EvalOptions, evaluate, evaluate_all, headline_table
from train.eval.evaluation import Evaluation
from train.eval.failures import PairGeometry, behind_surface, name_failure
from train.eval.gallery import notable_pairs, similar_views
from train.eval.predictions import heatmap_spread, load_predictions, predict_split, sample_pairs, save_predictions
from train.provenance import DATA_NAME, DIGITS, LearnedModels, save_training_data

CONTRACT = [
    "n_models",
    "n_pairs",
    "angular_error_mean_deg",
    "angular_error_median_deg",
    "accuracy_at_5_deg",
    "accuracy_at_10_deg",
    "accuracy_at_30_deg",
    "flip_rate",
    "keypoint_3d_se",
    "keypoint_3d_se_within_model",
    "orientation_accuracy",
    "silhouette_hit_rate",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "balls", models=3, pairs=5)


@pytest.fixture(scope="module")
def dataset(folder):
    return PairDataset(folder, "test")


def evaluation(dataset, predictions, axes=("x", "z")):
    return Evaluation("oracle", "airplane", "test", dataset, predictions, axes)


@pytest.fixture
def run(tmp_path, monkeypatch, dataset):
    """A run folder whose detector is an oracle; yields the folder and the oracle."""
    folder = tmp_path / "run"
    folder.mkdir()
    save_config(make_config("cpu", source_size=SIZE), folder)
    (folder / "model.safetensors").write_bytes(b"weights")
    oracle = Oracle(dataset, noise=0.1)
    monkeypatch.setattr(evaluation_module.Detector, "load", lambda run, device="cpu": oracle)
    return folder, oracle


def test_a_perfect_detector_scores_perfectly(dataset):
    figures = evaluation(dataset, predict_split(Oracle(dataset), dataset, progress=False)).metrics
    assert figures["n_models"] == 3 and figures["n_pairs"] == 15
    assert figures["angular_error_mean_deg"] < 1e-3  # keypoints are stored as float32
    assert figures["accuracy_at_5_deg"] == 1 and figures["flip_rate"] == 0
    assert figures["keypoint_3d_se_within_model"] < 1e-5
    # models differ by some 10 % in every direction, which the paper's spread counts
    assert 0.01 < figures["keypoint_3d_se"] < 0.2
    assert figures["orientation_accuracy"] == 1
    assert figures["silhouette_hit_rate"] == 1
    assert figures["repeatability_at_0.1"] == 1 and figures["add_accuracy_at_0.1_diameter"] == 1
    assert (
        figures["add_mean"] < 1e-3 and figures["translation_error_mean"] < 1e-3 and figures["center_error_mean"] < 1e-3
    )
    # the centres of balls of radius 0.25 lie within them, and span less than the balls do
    assert figures["inclusivity_at_0.1"] == 0 and 0.3 < figures["coverage"] < 0.7
    assert figures["dual_alignment_score"] == 1 and figures["mean_iou_at_0.1"] == 1 and "pck_at_0.05" in figures
    assert "symmetry" not in figures


def test_noise_wrong_flags_and_misses_are_counted(dataset):
    said = predict_split(Oracle(dataset, noise=0.2), dataset, progress=False)
    said.flags[0, 1, 0] ^= True
    said.keypoints[:, 0, 2, 0] = -5
    figures = evaluation(dataset, said).metrics
    assert 2 < figures["angular_error_mean_deg"] < 30
    assert figures["orientation_accuracy"] == pytest.approx(29 / 30)
    assert figures["orientation_accuracy_per_axis"] == {"x": pytest.approx(29 / 30), "z": 1}
    assert figures["silhouette_hit_rate"] == pytest.approx(1 - 1 / 10)
    assert list(figures["confidence_interval_95"]) == CONTRACT[2:]
    for name, (low, high) in figures["confidence_interval_95"].items():
        assert low <= figures[name] <= high or name == "keypoint_3d_se"  # of fewer models it is less


def test_error_under_a_declared_symmetry(dataset):
    said = predict_split(Oracle(dataset), dataset, progress=False)
    half_turn = np.diag([-1.0, 1, -1])
    pose = dataset.object_to_camera.numpy()[..., :3, :3]
    said.R_estimated = pose[:, 1] @ half_turn @ pose[:, 0].transpose(0, 2, 1)
    plain = Evaluation("oracle", "table", "test", dataset, said, ("x", "z"))
    declared = Evaluation("oracle", "table", "test", dataset, said, ("x", "z"), metrics.Symmetry("y:2"))
    assert not any(name.startswith("symm") for name in plain.metrics)
    assert declared.metrics["symmetry"] == "y:2"
    assert declared.metrics["symmetric_angular_error_mean_deg"] < 1e-3
    assert declared.metrics["add_mean"] > 0.5
    figures = declared.metrics | {"run": "oracle"}
    assert "\nunder symmetry y:2: mean 0.00° · median 0.00° · flips 0.0%" in headline_table(figures)
    assert "symmetry" not in headline_table(plain.metrics | {"run": "oracle"})


def test_no_semantic_figures_without_semantic_keypoints(dataset, monkeypatch):
    said = predict_split(Oracle(dataset), dataset, progress=False)
    monkeypatch.setattr(dataset, "semantic_keypoints", dataset.semantic_keypoints[:, :0])
    figures = evaluation(dataset, said).metrics
    assert not {"dual_alignment_score", "mean_iou_at_0.1", "pck_at_0.05", "pck_at_0.1"} & set(figures)


def test_confidence_is_measured_where_the_detector_has_one(dataset, tmp_path):
    def sure(sigma):
        oracle = Oracle(dataset, noise=0.1)  # in depth; much less across
        detect = oracle.detect
        oracle.detect = lambda *a: replace(detect(*a), sigma=np.full((len(a[0]), 2, 5), sigma, np.float32))
        return predict_split(oracle, dataset, progress=False)

    silent = evaluation(dataset, predict_split(Oracle(dataset), dataset, progress=False)).metrics
    assert [name for name in silent if name.startswith("confidence_")] == ["confidence_interval_95"]
    true, boastful = (evaluation(dataset, sure(sigma)).metrics for sigma in (0.05, 0.005))
    assert true["confidence_calibration_error"] < 0.2 < 0.4 < boastful["confidence_calibration_error"]
    assert 0 < true["confidence_ause"] and 0 < true["confidence_ause_of_chance"] < 1
    said = sure(0.1)
    save_predictions(tmp_path / "p.h5", said, {"data": "x"})
    loaded = load_predictions(tmp_path / "p.h5", {"data": "x"})
    assert loaded.sigma.shape == (15, 2, 5) and np.allclose(loaded.sigma, 0.1)


def test_numbers_do_not_depend_on_the_batch_size(dataset):
    one, all_ = (predict_split(Oracle(dataset, 0.1), dataset, batch_size=b, progress=False) for b in (1, 64))
    assert np.array_equal(one.keypoints, all_.keypoints)
    assert np.array_equal(one.angular_error_deg, all_.angular_error_deg)
    assert np.array_equal(one.heatmaps, all_.heatmaps) and np.array_equal(one.heatmap_pair, all_.heatmap_pair)


def test_figures_of_a_network_do_not_depend_on_the_run_or_the_batch_size(dataset):
    torch.manual_seed(0)
    config = make_config("cpu", width=4, keypoints=5, image_size=SIZE)
    detector = Detector(build_network(config), config)
    said = [predict_split(detector, dataset, batch_size=b, progress=False) for b in (4, 4, 1, 64)]
    first = evaluation(dataset, said[0]).metrics
    for other in said[1:]:
        assert all(np.array_equal(values, getattr(other, name)) for name, values in vars(said[0]).items())
        assert evaluation(dataset, other).metrics == first


def test_evaluate_writes_the_contract(run, folder, dataset, tmp_path):
    (tmp_path / "out" / "overlays").mkdir(parents=True)
    (tmp_path / "out" / "overlays" / "best-9.png").touch()  # of an evaluation of more models
    _, out = evaluate(run[0], [folder], out=tmp_path / "out", progress=False)
    figures = json.loads((out / "metrics.json").read_text())
    assert all(np.isfinite(figures[name]) for name in CONTRACT)
    with h5py.File(out / "predictions.h5") as file:
        assert file["keypoints"].shape == (15, 2, 5, 3) and file["keypoints"].dtype == np.float32
        assert file["R_estimated"].shape == (15, 3, 3) and file["R_estimated"].dtype == np.float64
        assert file["angular_error_deg"].shape == (15,) and file["angular_error_deg"].dtype == np.float64
        assert all(stored.attrs["description"] for stored in file.values())
        # the stored error is that of the stored rotation, in the dataset's order
        again = metrics.angular_error(file["R_estimated"][()], dataset.R.numpy())
        assert np.allclose(file["angular_error_deg"], again)
        assert figures["angular_error_mean_deg"] == pytest.approx(again.mean())
    kinds = ("best", "median", "worst")
    pictures = {"models.png", *(f"{kind}-{rank}.png" for kind in kinds for rank in (1, 2, 3))}
    assert {p.name for p in (out / "overlays").iterdir()} == pictures
    assert (out / "report.html").stat().st_size < 10e6
    assert not list(out.rglob("*.tmp"))


def test_predictions_are_reused_only_for_the_same_weights_and_data(run, folder, tmp_path, monkeypatch, capfd):
    run_folder, oracle = run
    out = tmp_path / "out"
    evaluate(run_folder, [folder], out=out, progress=False)
    (out / "overlays" / "plane-1.png").write_bytes(b"the user's own")
    before, calls = (out / "metrics.json").read_bytes(), oracle.calls
    with monkeypatch.context() as patch:
        patch.setattr(evaluation_module.Detector, "load", None)  # no network is made
        evaluate(run_folder, [folder], out=out, progress=False)
    assert oracle.calls == calls
    assert (out / "metrics.json").read_bytes() == before and not capfd.readouterr().err
    assert (out / "overlays" / "plane-1.png").exists()
    (run_folder / "model.safetensors").write_bytes(b"other weights")
    evaluate(run_folder, [folder], out=out, progress=False)
    assert oracle.calls > calls
    calls = oracle.calls
    other = make_dataset(tmp_path / "other", models=3, pairs=5, seed=1)
    oracle.poses.update(Oracle(PairDataset(other, "test")).poses)
    capfd.readouterr()
    evaluate(run_folder, [other], out=out, progress=False)
    assert oracle.calls > calls
    assert "out: replaces what was there, of other data or weights" in capfd.readouterr().err


def test_a_broken_cache_is_made_anew(dataset, tmp_path):
    path, key = tmp_path / "predictions.h5", {"weights": "a", "data": "b"}
    said = predict_split(Oracle(dataset), dataset, progress=False)
    assert load_predictions(path, key) is None
    save_predictions(path, said, key)
    assert np.array_equal(load_predictions(path, key).keypoints, said.keypoints)
    assert load_predictions(path, {**key, "weights": "c"}) is None
    content = path.read_bytes()
    at = content.index(said.keypoints.tobytes())
    for damaged in (content[:1000], content[:at] + b"\xff" + content[at + 1 :], content[:-1] + b"\x01"):
        path.write_bytes(damaged)
        assert load_predictions(path, key) is None


def test_figures_never_stand_beside_predictions_of_other_weights(run, folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    evaluate(run[0], [folder], out=out, progress=False)
    (run[0] / "model.safetensors").write_bytes(b"other weights")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation_module, "write_overlays", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run[0], [folder], out=out, progress=False)
    with pytest.raises(UserError, match="unfinished"):
        compare([out], tmp_path / "page.html")


def test_two_evaluations_do_not_share_a_folder(run, folder, tmp_path):
    with holding(tmp_path / "out" / LOCK_NAME, "busy"), pytest.raises(UserError, match="another evaluation"):
        evaluate(run[0], [folder], out=tmp_path / "out", progress=False)


def test_default_folder_is_in_the_run(run, folder):
    assert evaluate(run[0], [folder], progress=False)[1] == run[0] / "eval-test"
    shutil.rmtree(run[0] / "eval-test")


def test_shipped_weights_write_beside_a_dataset_of_their_name(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "airplane")
    monkeypatch.chdir(tmp_path)
    _, out = evaluate("airplane", [Path("airplane")], progress=False)
    assert out == Path("airplane-eval-test") and not list(Path("airplane").glob("eval*"))


def test_what_cannot_be_told_is_null(run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "FLIP_DEGREES", -1.0)  # all are flips
    subject, out = evaluate(run[0], [folder], out=tmp_path / "out", progress=False)

    def refuse(constant):
        raise ValueError(constant)

    figures = json.loads((out / "metrics.json").read_text(), parse_constant=refuse)
    assert figures["keypoint_3d_se"] is None and figures["confidence_interval_95"]["keypoint_3d_se"] == [None, None]
    assert "  –  " in compare([out], tmp_path / "page.html")
    page = (out / "report.html").read_text()
    assert ">nan" not in page and " nan" not in page and "nan" not in headline_table(subject.metrics)


@pytest.mark.parametrize("as_it_is", [False, True], ids=["bent", "plain and bent"])
def test_a_bent_model_is_another_one_in_each_pair(dataset, monkeypatch, as_it_is):
    subject = evaluation(dataset, predict_split(Oracle(dataset), dataset, progress=False))
    assert subject.metrics["keypoint_3d_se_within_model"] < 1e-3
    bent = evaluation(dataset, subject.predictions)
    moved = np.arange(len(dataset)) % 2  # every other pair shows the model shifted
    bent.points = subject.points + moved[:, None, None, None]
    own = 3 + np.arange(len(dataset))
    bent.shape_index = np.where(moved == 0, subject.model_index, own) if as_it_is else own
    unknown = dataset.semantic_keypoints.new_full((len(dataset), *dataset.semantic_keypoints.shape[1:]), np.nan)
    monkeypatch.setattr(dataset, "semantic_keypoints", torch.cat([dataset.semantic_keypoints, unknown]))
    figures = bent.metrics
    assert figures["n_models"] == 3
    assert figures["keypoint_3d_se_within_model"] < 1e-3 < figures["keypoint_3d_se"]
    assert figures.get("dual_alignment_score") == (1 if as_it_is else None)  # what is bent has no labels


def test_other_views_are_told(run, folder, tmp_path, capsys):
    evaluate(run[0], [folder], out=tmp_path / "a", progress=False)
    assert "trained with" not in capsys.readouterr().err
    save_config(make_config("cpu", camera_distance=20.0), run[0])
    evaluate(run[0], [folder], out=tmp_path / "b", progress=False)
    told = capsys.readouterr().err
    assert f"{folder}: camera distance 30, the detector was trained with 20" in told
    assert f"{folder}: images of {SIZE} pixels, the detector was trained with 128" in told


def test_datasets_without_pairs_in_the_split_are_told(run, folder, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    save_manifest(empty, Manifest("airplane", 0, {}))
    evaluate(run[0], [folder, empty], out=tmp_path / "out", progress=False)
    assert [line for line in capsys.readouterr().err.splitlines() if "no pairs" in line] == [
        f"{empty}: no pairs in split test: not in these figures"
    ]


def test_models_that_the_run_learned_from_are_told(run, folder, tmp_path, capsys):
    def told(name):
        evaluate(run[0], [folder], out=tmp_path / name, progress=False)
        return f"{folder}: {run[0]} learned from 3 of these 3 models" in capsys.readouterr().err

    others = PairDataset(make_dataset(tmp_path / "cars", category="car"), "test")  # names are those of a category
    save_training_data(run[0], others, None)
    assert not told("a")
    save_training_data(run[0], PairDataset(folder, "test"), None)
    assert told("b")
    child, parent = run[0], tmp_path / "parent"
    parent.mkdir()
    (child / DATA_NAME).rename(parent / DATA_NAME)
    save_training_data(child, others, parent)  # its weights knew them
    assert told("c")
    (child / DATA_NAME).write_text('{"datasets": 1}')
    with pytest.raises(UserError, match="training_data.json: damaged"):
        told("d")
    (child / DATA_NAME).write_bytes(b"\0")
    with pytest.raises(UserError, match="training_data.json: damaged"):
        save_training_data(parent, others, child)


@pytest.mark.parametrize(
    "name, geometry, known",
    [("a", "1" * 64, True), ("b", "1" * 64, True), ("a", "2" * 64, False), ("a", "", True), ("b", "", False)],
)
def test_models_are_known_by_their_geometry_else_by_name(name, geometry, known):
    learned = LearnedModels()
    learned.add("plane", {"a": "1" * DIGITS})
    assert learned.includes("plane", ModelEntry(name, "test", "", 1, geometry)) == known


def test_a_dataset_is_no_place_for_figures(run, folder):
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(UserError, match="a dataset: choose another --out"):
        evaluate(run[0], [folder], out=folder, progress=False)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_several_runs_give_one_table_and_a_page(run, folder, tmp_path):
    other = tmp_path / "other" / "run"
    shutil.copytree(run[0], other)
    table, written = evaluate_all([run[0], other], [folder], out=tmp_path / "out", progress=False)
    page, *folders = written
    assert [f.name for f in folders] == [f"{run[0].parent.name}-run", "other-run"]
    assert len(table.splitlines()) == 3 and page.read_text().count("<polyline") == 2
    assert all((f / "report.html").exists() and f.parent == page.parent for f in folders)
    with pytest.raises(UserError, match="not a run folder"):
        evaluate_all([run[0], tmp_path / "none"], [folder], out=tmp_path / "more", progress=False)
    with pytest.raises(UserError, match="given twice"):
        evaluate_all([other, other / ".." / "run"], [folder], out=tmp_path / "more", progress=False)
    assert not (tmp_path / "more").exists()


def test_a_run_without_weights_is_named_before_anything_is_done(run, folder, tmp_path):
    (run[0] / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights there yet"):
        evaluate(run[0], [folder], out=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_options_that_make_no_sense():
    for wrong in ("round", "y:0", "y:100000000"):
        with pytest.raises(UserError, match="give AXIS:ORDER"):
            EvalOptions(symmetry=wrong)
    with pytest.raises(UserError, match="choose auto, cpu or cuda"):
        EvalOptions(device="gpu")


def test_headline_stands_beside_the_papers(dataset):
    said = predict_split(Oracle(dataset), dataset, progress=False)
    table = headline_table(evaluation(dataset, said).metrics)
    assert "17.33" in table and "5.72" in table and "0.230" in table
    other = Evaluation("oracle", "sofa", "test", dataset, said, ("x", "z"))
    assert "paper" not in headline_table(other.metrics)


def test_notable_pairs_are_of_different_models_and_in_order(dataset):
    said = predict_split(Oracle(dataset), dataset, progress=False)
    said.angular_error_deg = np.arange(15.0)
    groups = notable_pairs(evaluation(dataset, said), 3)
    assert groups == {"best": [0, 5, 10], "median": [7, 4, 10], "worst": [14, 9, 4]}


def test_view_angles_and_similar_views(dataset):
    subject = evaluation(dataset, predict_split(Oracle(dataset), dataset, progress=False))
    azimuth, elevation = subject.view_angles()
    again = np.stack([[look_at(*angles) for angles in zip(a, e, strict=True)] for a, e in zip(azimuth, elevation)])
    assert np.allclose(again, dataset.object_to_camera.numpy(), atol=1e-6)
    views = similar_views(subject, 3, azimuth[6, 1], elevation[6, 1])
    assert (6, 1) in views and len(views) == 3


def test_heatmap_spread_by_hand():
    # two pixels of a 4x4 map over an 8x8 image, at (1, 1) and (5, 1): 2 px left and right of (3, 1)
    maps = np.zeros((1, 1, 4, 4))
    maps[0, 0, 0, [0, 2]] = 0.5
    assert heatmap_spread(maps, np.array([[[3.0, 1.0, 30.0]]]), (8, 8)) == pytest.approx(2)


def test_sample_pairs_takes_first_pairs_of_different_models():
    index = np.array([4, 4, 1, 1, 1, 7])
    assert sample_pairs(index, 2).tolist() == [0, 5]
    assert sample_pairs(index, 10).tolist() == [0, 2, 5]


def pair(error=40.0, points=None, inside=True, hidden=False, wrong_flag=False):
    points = np.stack([BALLS, BALLS]) if points is None else points
    flags = np.zeros((2, 1), bool)
    shape = points.shape[:2]
    return PairGeometry(
        error, points, np.full(shape, inside), np.full(shape, hidden), flags, flags ^ wrong_flag, axes=("x",)
    )


def test_failures_are_named():
    moved = np.stack([BALLS, BALLS + [0.4, 0, 0] * np.array([[1], [1], [0], [0], [0]])])
    swapped = np.stack([BALLS, BALLS[[0, 2, 1, 3, 4]]])
    assert name_failure(pair(error=9))[0] == "good"
    assert name_failure(pair(wrong_flag=True)) == ("flip", "orientation flag wrong: x in view 0, x in view 1")
    assert name_failure(pair(error=120))[0] == "flip"
    assert name_failure(pair(points=swapped)) == ("swap", "keypoints changed places: 1 and 2")
    assert name_failure(pair(points=moved, inside=False))[0] == "outside the mask"
    assert name_failure(pair(points=moved, hidden=True)) == ("occluded", "keypoints off, mostly hidden in a view: 0, 1")
    assert name_failure(pair(points=moved)) == ("drift", "keypoints off by up to 0.40: 0, 1")
    assert name_failure(pair(points=moved[:, :1]))[0] == "drift"


def test_behind_surface_by_hand():
    depth = np.zeros((1, 4, 4))
    depth[0, 2, 1] = 29.5
    keypoints = np.array([[[1.5, 2.5, 29.6], [1.5, 2.5, 29.9], [2.5, 1.5, 40.0], [9.0, 2.0, 40.0]]])
    assert behind_surface(keypoints, depth).tolist() == [[False, True, False, False]]


def test_made_up_cameras_agree_with_the_contract():
    # from the front, the object's right (+x) is at the picture's left, and up is up
    pose = look_at(0, 10)
    right, up = ((pose[:3, :3] @ axis)[:2] for axis in ([1, 0, 0], [0, 1, 0]))
    assert right[0] < -0.9 and up[1] < -0.9
    assert intrinsics(64)[0, 0] == pytest.approx(733, abs=1)
