import json

import numpy as np
import pytest
import trimesh

from data.annotations import load_keypointnet_annotations
from data.dataset import PairDataset
from data.errors import UserError
from data.manifest import load_manifest
from render.config import RenderConfig
from render.mesh import build_mesh
from render.pipeline import render_dataset
from render.views import ViewSettings


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
    corners = np.array([[x, y, z] for x in (1, 2) for y in (0, 0.5) for z in (-1, 3)], float)
    faces = np.array([[0, 1, 7], [0, 2, 7], [0, 4, 7], [3, 5, 6]])
    path = tmp_path / "a.json"
    path.write_text(json.dumps([entry("a", (0, corners[7].tolist()))]))
    keypoints = load_keypointnet_annotations(path)["a"]
    mesh = build_mesh(corners, faces, np.zeros((4, 3), np.uint8), keypoints)
    assert np.allclose(mesh.semantic_keypoints["0"], [0.25, 0.125, 1])


# --- render --annotations --------------------------------------------------------------------------------------------


def shapenet(folder, boxes):
    """A ShapeNetCore v2 folder of boxes: model id -> (lowest corner, sides)."""
    for model_id, (low, sides) in boxes.items():
        path = folder / model_id / "models" / "model_normalized.obj"
        path.parent.mkdir(parents=True)
        box = trimesh.creation.box(sides)
        box.apply_translation(np.array(low) + np.array(sides) / 2)
        box.export(path)
    return folder


def rendered(out, meshes, annotations, **options):
    views = ViewSettings(image_size=16)
    config = RenderConfig(
        out, meshes=meshes, annotations=annotations, pairs_per_model=1, splits=(1, 0, 0), views=views, workers=1,
        progress=False, **options,
    )  # fmt: skip
    render_dataset(config)
    return PairDataset(out, "train")


BOXES = {"a": ((1, 2, 3), (1, 4, 2)), "b": ((0, 0, 0), (2, 2, 1)), "c": ((0, 0, 0), (1, 1, 1))}


@pytest.fixture
def meshes(tmp_path):
    return shapenet(tmp_path / "02691156", BOXES)


def annotate(path, *entries):
    path.write_text(json.dumps(entries))
    return path


def test_rendered_keypoints_are_in_the_object_frame(meshes, tmp_path):
    strange = {**entry("z", (7, [0, 0, 0])), "class_id": "03001627"}
    file = annotate(
        tmp_path / "all.json", entry("a", (10, [1, 2, 3]), (2, [2, 6, 5])), entry("b", (2, [1, 1, 0.5])), strange
    )
    dataset = rendered(tmp_path / "out", meshes, file)
    assert dataset.keypoint_names == ("2", "10")  # no 7: that is another category's
    points = dict(zip(dataset.model_ids, dataset.semantic_keypoints.numpy(), strict=True))
    np.testing.assert_allclose(points["a"], [[0.25, 1, 0.5], [-0.25, -1, -0.5]])
    np.testing.assert_allclose(points["b"], [[0, 0, 0], [np.nan] * 3])
    assert np.isnan(points["c"]).all()
    assert set(load_manifest(tmp_path / "out").settings["annotations"]) == {"sha256"}


def test_annotations_may_move_but_not_change_between_runs(meshes, tmp_path):
    file = annotate(tmp_path / "a.json", entry("a", (0, [1, 2, 3])))
    rendered(tmp_path / "out", meshes, file)
    rendered(tmp_path / "out", meshes, file.rename(tmp_path / "b.json"))
    for other in (None, annotate(tmp_path / "c.json", entry("a", (1, [1, 2, 3])))):
        with pytest.raises(UserError, match="other settings.*annotations"):
            rendered(tmp_path / "out", meshes, other)


def test_a_task_whose_models_are_not_annotated_is_done_all_the_same(meshes, tmp_path):
    file = annotate(tmp_path / "a.json", entry("a", (0, [1, 2, 3])))
    dataset = rendered(tmp_path / "out", meshes, file, task=(2, 3))
    assert dataset.model_ids == ["b"] and dataset.semantic_keypoints.isnan().all()


def test_annotations_that_do_not_belong_are_refused(meshes, tmp_path):
    file = annotate(tmp_path / "a.json", entry("x", (0, [1, 2, 3])))
    with pytest.raises(UserError, match="annotates none of the 3 models"):
        rendered(tmp_path / "out", meshes, file)
    with pytest.raises(UserError, match="no such file"):
        rendered(tmp_path / "out", meshes, tmp_path / "none.json")
    for model_id in BOXES:
        (meshes / model_id / "models" / "model_normalized.obj").rename(meshes / model_id / "model.obj")
    with pytest.raises(UserError, match="ShapeNetCore v2, but .* holds v1"):
        rendered(tmp_path / "out", meshes, annotate(tmp_path / "b.json", entry("a", (0, [1, 2, 3]))))
    with pytest.raises(UserError, match="leave it out"):
        render_dataset(RenderConfig(tmp_path / "out", category="car", annotations=file))
