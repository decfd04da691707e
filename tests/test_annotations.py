import json

import numpy as np
import pytest

from data.annotations import load_keypointnet_annotations
from data.errors import UserError


def entry(model_id, *keypoints):
    return {
        "class_id": "02691156",
        "model_id": model_id,
        "keypoints": [{"semantic_id": i, "xyz": xyz, "rgb": [0, 0, 0], "pcd_info": {}} for i, xyz in keypoints],
        "symmetries": {"reflection": [], "rotation": []},
    }


def test_points_by_model_and_semantic_id(tmp_path):
    path = tmp_path / "airplane.json"
    path.write_text(
        json.dumps([entry("a", (10, [0, 0.5, -1]), (2, [0.1, 0, 0])), entry("b", (2, [0, 0, 0])), entry("c")])
    )
    found = load_keypointnet_annotations(path)
    assert {model: list(points) for model, points in found.items()} == {"a": ["2", "10"], "b": ["2"], "c": []}
    assert found["a"]["10"].dtype == np.float64 and found["a"]["10"].tolist() == [0, 0.5, -1]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[1]",
        '{"a": 1}',
        '[{"model_id": "a"}]',
        json.dumps([entry("a", (0, [1, 2]))]),
        json.dumps([entry("a", (0, [1, 2, None]))]),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(UserError, match="not annotations") as error:
        load_keypointnet_annotations(path)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no such file"):
        load_keypointnet_annotations(tmp_path / "missing.json")


def test_annotations_are_normalised_with_their_mesh(tmp_path):
    build_mesh = pytest.importorskip("render.mesh").build_mesh
    corners = np.array([[x, y, z] for x in (1, 2) for y in (0, 0.5) for z in (-1, 3)], float)
    faces = np.array([[0, 1, 7], [0, 2, 7], [0, 4, 7], [3, 5, 6]])
    path = tmp_path / "a.json"
    path.write_text(json.dumps([entry("a", (0, corners[7].tolist()))]))
    keypoints = load_keypointnet_annotations(path)["a"]
    mesh = build_mesh(corners, faces, np.zeros((4, 3), np.uint8), keypoints)
    assert np.allclose(mesh.semantic_keypoints["0"], [0.25, 0.125, 1])
