from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from data.assemble import assemble, merge
from data.dataset import PairDataset
from data.errors import UserError
from data.inspect import _COLORS, _common_points, contact_sheet, describe, format_description
from data.manifest import Failure
from data.schema import ModelPairs
from data.shard import write_shard
from tests.made_up_pairs import SETTINGS, make_dataset, make_manifest, make_model, write_part

SIZE, FOV, DISTANCE = 64, 5.0, 30.0
OFFSET, SCALE = 27.0, 1e-4


def _look_from(azimuth: float, elevation: float) -> np.ndarray:
    """Pose of a camera that looks at the origin; azimuth 0 is in front (-z), 90 on the object's right (+x)."""
    a, e = np.radians([azimuth, elevation])
    position = DISTANCE * np.array([np.sin(a) * np.cos(e), np.sin(e), -np.cos(a) * np.cos(e)])
    forward = -position / DISTANCE
    right = np.cross(forward, [0, 1, 0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = [right, np.cross(forward, right), forward]
    pose[:3, 3] = -pose[:3, :3] @ position
    return pose


def _draw_ellipsoid(pose: np.ndarray, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An ellipsoid coloured by object coordinates: rgba (H, W, 4) and z-depth (H, W), by exact ray casting."""
    radii = np.array([0.9, 0.5, 0.7])
    row, column = np.mgrid[:SIZE, :SIZE] + 0.5
    rays = np.stack([column, row, np.ones_like(row)], -1) @ np.linalg.inv(intrinsics).T @ pose[:3, :3]
    origin = -pose[:3, :3].T @ pose[:3, 3]
    a, b, c = ((rays / radii) ** 2).sum(-1), (rays * origin / radii**2).sum(-1), ((origin / radii) ** 2).sum() - 1
    hit = b * b - a * c > 0
    depth = np.where(hit, (-b - np.sqrt(np.maximum(b * b - a * c, 0))) / a, 0)  # rays have z = 1: length is depth
    color = (origin + depth[..., None] * rays) * 0.5 + 0.5
    rgba = np.concatenate([color, np.ones_like(color[..., :1])], -1) * hit[..., None]
    return (rgba * 255).round().astype(np.uint8), depth


def _ellipsoid_dataset(folder, views, **change):
    focal = SIZE / 2 / np.tan(np.radians(FOV) / 2)
    intrinsics = np.array([[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1]])
    poses = np.array([[_look_from(*view) for view in pair] for pair in views])
    images = [[_draw_ellipsoid(pose, intrinsics) for pose in pair] for pair in poses]
    rgba = np.array([[rgba for rgba, _ in pair] for pair in images])
    z = np.array([[depth for _, depth in pair] for pair in images])
    depth = np.where(z > 0, np.rint((z - OFFSET) / SCALE), 0).astype(np.uint16)
    cameras = np.tile(intrinsics, (len(views), 2, 1, 1))
    model = replace(ModelPairs("egg", "test", "ellipsoid", 1, rgba, depth, poses, cameras), **change)
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_shard(folder.parent / "part.h5", "test", [model], {"distance": DISTANCE}, (), OFFSET, SCALE)
    assemble(folder, [folder.parent / "part.h5"], make_manifest({"distance": DISTANCE}))
    return folder, poses


VIEWS = [((-20, 10), (15, 40)), ((80, 5), (125, 32)), ((170, 65), (-170, 20))]


def test_view_statistics(tmp_path):
    folder, _ = _ellipsoid_dataset(tmp_path / "set", VIEWS)
    summary = describe(folder)
    azimuths = dict(zip(summary["azimuth_deg"]["edges"], summary["azimuth_deg"]["counts"]))
    assert {edge for edge, count in azimuths.items() if count} == {-30, 0, 60, 120, 150, -180}
    elevations = dict(zip(summary["elevation_deg"]["edges"], summary["elevation_deg"]["counts"]))
    assert {edge: count for edge, count in elevations.items() if count} == {0: 2, 15: 1, 30: 2, 60: 1}
    assert sum(summary["rotation_angle_deg"]["counts"]) == 3
    assert summary["distance"] == pytest.approx({"min": 30, "mean": 30, "max": 30})
    assert summary["fov_deg"] == pytest.approx({"min": 5, "mean": 5, "max": 5})
    assert summary["sampled"]["points_inside_other_silhouette"] > 0.999
    assert 0.1 < summary["sampled"]["coverage"] < 0.5 and summary["sampled"]["cut_off"] == 0


def test_counts_failures_and_duplicates(tmp_path):
    manifest = make_manifest(failures=(Failure("bad.obj", "no faces"),))
    models = [make_model(number) for number in range(6)]
    models[4].geometry = models[1].geometry
    assemble(tmp_path / "set", [write_part(tmp_path / "parts", model) for model in models], manifest)
    summary = describe(tmp_path / "set")
    assert (summary["models"], summary["pairs"], summary["image_size"]) == (6, 18, [16, 16])
    assert sum(part["models"] for part in summary["splits"].values()) == 6
    assert sum(part["pairs"] for part in summary["splits"].values()) == 18
    assert summary["failures"] == [{"source": "bad.obj", "reason": "no faces"}]
    assert summary["duplicates"] == [[f"model-001 ({models[1].split})", f"model-004 ({models[4].split})"]]
    assert summary["semantic_keypoints"] == ["nose", "tail", "wing"]
    assert summary["faces"] == {"min": 10, "median": 12.5, "max": 15}
    assert json.loads(json.dumps(summary)) == summary
    text = format_description(summary)
    for expected in ("6 models", "18 pairs", "bad.obj: no faces", "model-001", "image_size = 16", "nose, tail"):
        assert expected in text


def test_settings_of_merged_datasets_are_told_apart(tmp_path):
    first = make_dataset(tmp_path / "a", range(2))
    second = make_dataset(tmp_path / "b", range(2, 4), settings={**SETTINGS, "seed": 7})
    merge(tmp_path / "m", [first, second])
    lines = format_description(describe(tmp_path / "m")).splitlines()
    for expected in ("  image_size = 16", "  dataset 1: seed = 0", "  dataset 2: seed = 7"):
        assert lines.count(expected) == 1


def test_an_empty_dataset_can_be_described(tmp_path):
    assemble(tmp_path / "set", [], make_manifest())
    assert "0 models" in format_description(describe(tmp_path / "set"))
    with pytest.raises(UserError, match="no pairs"):
        contact_sheet(tmp_path / "set", tmp_path / "sheet.png")


def test_the_numbers_stand_on_the_same_object_points(tmp_path):
    folder, poses = _ellipsoid_dataset(tmp_path / "set", VIEWS)
    dataset = PairDataset(folder, "test")
    for index in range(len(dataset)):
        views = _common_points(dataset, index)
        assert len(views[0]) == 8
        colors = []
        for view, points in enumerate(views):
            column, row = np.floor(points[:, :2]).astype(int).T
            pixels = dataset[index]["rgba"][view].numpy()[row, column]
            assert (pixels[:, 3] == 255).all()
            colors.append(pixels[:, :3].astype(int))
        # The colour of the ellipsoid is the object point itself, so it tells whether the point is the same one.
        assert np.abs(colors[0] - colors[1]).max() < 255 * 0.04


def _inverted(poses):
    return np.linalg.inv(poses)


def _opengl(poses):
    return np.diag([1.0, -1, -1, 1]) @ poses


@pytest.mark.parametrize("mistake", [_inverted, _opengl, lambda poses: poses[:, ::-1]])
def test_a_wrong_convention_is_seen(tmp_path, mistake):
    right, poses = _ellipsoid_dataset(tmp_path / "right" / "set", VIEWS)
    wrong, _ = _ellipsoid_dataset(tmp_path / "wrong" / "set", VIEWS, object_to_camera=np.array(mistake(poses)))
    figure = [describe(folder)["sampled"]["points_inside_other_silhouette"] for folder in (right, wrong)]
    dataset = PairDataset(wrong, "test")
    drawn = sum(len(_common_points(dataset, index)[0]) for index in range(3))
    assert figure[1] < 0.9 * figure[0] or drawn < 12


def test_what_leaves_the_image_of_a_cut_off_object_is_no_mistake(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.test_inspect.FOV", 2.5)
    folder, _ = _ellipsoid_dataset(tmp_path / "set", VIEWS)
    sampled = describe(folder)["sampled"]
    assert sampled["cut_off"] == 1 and sampled["points_inside_other_silhouette"] > 0.999


def test_an_object_outside_of_the_other_image_is_no_mistake(tmp_path, monkeypatch):
    look, aside = _look_from, np.zeros((4, 4))
    aside[0, 3] = 10
    monkeypatch.setattr("tests.test_inspect._look_from", lambda a, e: look(a, e) + aside * ((a, e) == VIEWS[0][1]))
    folder, _ = _ellipsoid_dataset(tmp_path / "set", VIEWS)
    assert not PairDataset(folder, "test")[0]["rgba"][1].any()
    assert describe(folder)["sampled"]["points_inside_other_silhouette"] > 0.999


def test_the_sheet_shows_each_number_twice(tmp_path):
    folder, _ = _ellipsoid_dataset(tmp_path / "set", VIEWS[:1])
    contact_sheet(folder, tmp_path / "sheet.png")
    pixels = np.array(Image.open(tmp_path / "sheet.png").convert("RGB")).reshape(-1, 3)
    for color in _COLORS:
        rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (pixels == rgb).all(1).sum() > 100
    contact_sheet(folder, tmp_path / "again.png")
    assert (tmp_path / "sheet.png").read_bytes() == (tmp_path / "again.png").read_bytes()


def test_a_picture_that_cannot_be_written_is_a_clear_error(tmp_path):
    folder = make_dataset(tmp_path / "set", range(2))
    for path, message in (
        (tmp_path / "a.xyz", "no picture format"),
        (tmp_path / "a.psd", "no picture format"),  # which Pillow reads but does not write
        (folder / "dataset.json" / "a.png", "cannot be written"),
    ):
        with pytest.raises(UserError, match=message):
            contact_sheet(folder, path)
