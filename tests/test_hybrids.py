"""Models joined of the parts of two meshes."""

import shutil

import numpy as np
import pytest
import trimesh

from data.assemble import merge
from data.dataset import PairDataset
from data.errors import UserError
from data.manifest import load_manifest
from data.schema import split_of
from render.config import RenderConfig
from render.hybrids import draw_hybrid, join
from render.mesh import build_mesh
from render.pipeline import _open_source, render_dataset
from render.sources import MeshError, Source
from render.views import ViewSettings

RED, BLUE = (250, 10, 20), (5, 15, 240)


def box(size, color, back=None):
    """A box in the object frame, of a few hundred faces so that a cut meets many."""
    shape = trimesh.creation.box(size).subdivide().subdivide()
    faces, colors = shape.faces, np.tile(np.uint8(color), (len(shape.faces), 1))
    if back is not None:
        faces = np.concatenate([faces, faces[:, ::-1]])
        colors = np.concatenate([colors, np.tile(np.uint8(back), (len(shape.faces), 1))])
    return build_mesh(shape.vertices, faces, colors)


def area(mesh):
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).area


def centers(mesh):
    return mesh.vertices[mesh.faces].mean(1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_part_keeps_its_colours_and_its_end(axis):
    joined = join(box((2, 2, 2), RED), box((2, 2, 2), BLUE), axis, (0.25, 0.25))
    red = (joined.colors == RED).all(-1).all(-1)
    assert (joined.colors[~red] == BLUE).all()
    assert centers(joined)[red, axis].max() < -0.5 + 1e-6 and centers(joined)[~red, axis].min() > -0.5 - 1e-6
    assert area(joined) == pytest.approx(24)


def test_a_mesh_joined_with_itself_is_itself():
    mesh = box((0.5, 1, 2), RED)
    joined = join(mesh, mesh, 2, (0.37, 0.37))
    np.testing.assert_allclose(joined.vertices.min(0), mesh.vertices.min(0), atol=1e-9)
    np.testing.assert_allclose(joined.vertices.max(0), mesh.vertices.max(0), atol=1e-9)
    assert area(joined) == pytest.approx(area(mesh))


def test_the_second_part_is_stretched_to_the_section_of_the_first():
    first, second = box((1, 0.5, 2), RED), box((0.8, 0.6, 2), BLUE)
    joined = join(first, second, 2, (0.5, 0.5))
    # In the first one's units: a length of 1, and one of 1 by the geometric mean of both factors.
    length = 1 + np.sqrt(1 / 0.8 * 0.5 / 0.6)
    np.testing.assert_allclose(np.ptp(joined.vertices, axis=0), 2 / length * np.array([1, 0.5, length]))
    red = (joined.colors == RED).all(-1).all(-1)
    for axis in (0, 1):
        of_each = [np.ptp(joined.vertices[joined.faces[part]].reshape(-1, 3)[:, axis]) for part in (red, ~red)]
        assert of_each[0] == pytest.approx(of_each[1])


def test_colours_of_backs_are_kept():
    joined = join(box((1, 1, 2), RED, back=BLUE), box((1, 1, 2), RED, back=BLUE), 2, (0.4, 0.6))
    assert (joined.colors == RED).all() and (joined.back_colors == BLUE).all()


def test_parts_that_do_not_fit_are_not_joined():
    assert join(box((2, 2, 2), RED), box((1, 2, 2), BLUE), 2, (0.5, 0.5)) is None  # twice as wide
    balls = [trimesh.creation.icosphere(2).apply_translation((0, 0, z)) for z in (-4, 4)]
    gap = trimesh.util.concatenate(balls)
    gap = build_mesh(gap.vertices, gap.faces, np.tile(np.uint8(RED), (len(gap.faces), 1)))
    assert join(gap, box((2, 2, 2), BLUE), 2, (0.5, 0.5)) is None  # nothing is there to cut


def test_colours_that_change_over_a_face_are_cut_where_they_are():
    ball = trimesh.creation.icosphere(3)
    colors = np.rint(127.5 * (1 + ball.vertices[ball.faces])).astype(np.uint8)
    mesh = build_mesh(ball.vertices, ball.faces, colors)
    joined = join(mesh, mesh, 2, (0.437, 0.437))
    np.testing.assert_allclose(joined.colors, 127.5 * (1 + joined.vertices[joined.faces]), atol=1.5)


def test_a_mesh_that_cannot_be_used_is_named():
    meshes = {"a": box((2, 2, 0.5), RED), "b": box((0.2, 2, 2), BLUE)}

    def load(source):
        if source.name not in meshes:
            raise MeshError("has no faces")
        return meshes[source.name]

    rng = np.random.default_rng(0)
    with pytest.raises(MeshError, match="^c: has no faces$"):
        draw_hybrid([Source(name, name) for name in "cc"], load, "z", rng)
    with pytest.raises(MeshError, match="no two meshes fit"):
        draw_hybrid([Source(name, name) for name in "ab"], load, "z", rng)


# --- a dataset of them ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def meshes(tmp_path_factory):
    """Ten boxes, each of a colour of its own."""
    folder = tmp_path_factory.mktemp("boxes")
    for number in range(10):
        shape = trimesh.creation.box((1, 1 + number / 50, 2))
        shape.visual.face_colors = (20 * number + 20, 0, 0, 255)
        shape.export(folder / f"{number}.ply")
    return folder


def config(out, meshes, **options):
    options = {"hybrids": 6, "pairs_per_model": 2, "workers": 1, "progress": False, "views": ViewSettings(32)} | options
    return RenderConfig(out, meshes=meshes, **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_bytes_whatever_the_workers_and_the_tasks(tmp_path, meshes):
    render_dataset(config(tmp_path / "one", meshes))
    render_dataset(config(tmp_path / "two", meshes, workers=2))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    parts = [tmp_path / "part-1", tmp_path / "part-2"]
    for number, part in enumerate(parts, 1):
        render_dataset(config(part, meshes, task=(number, 2)))
    merge(tmp_path / "merged", parts)
    assert contents(tmp_path / "one") == contents(tmp_path / "merged")
    render_dataset(config(tmp_path / "grown", meshes, hybrids=3))
    render_dataset(config(tmp_path / "grown", meshes, grow=True))
    for field in ("model_id", "geometry", "faces"):
        of_each = [
            [getattr(entry, field) for entry in load_manifest(tmp_path / name).models] for name in ("one", "grown")
        ]
        assert of_each[0] == of_each[1]


def test_all_are_for_training_and_made_of_the_train_split(tmp_path, meshes):
    options = {"splits": (0.5, 0.2, 0.3), "seed": 1}
    render_dataset(config(tmp_path / "hybrids", meshes, **options))
    manifest = load_manifest(tmp_path / "hybrids")
    assert [entry.split for entry in manifest.models] == ["train"] * 6
    train = [i for i in range(10) if split_of(1, f"{i}.ply", (0.5, 0.2, 0.3)) == "train"]
    assert 2 <= len(train) < 10
    mesh_of = _open_source(config(tmp_path / "hybrids", meshes, **options))
    drawn = [mesh_of(Source(f"hybrid-{i}", f"hybrids:1:{i}")).colors[..., 0] for i in range(30)]
    assert set(np.concatenate(drawn).ravel()) == {20 * i + 20 for i in train}


def test_meshes_that_cannot_be_used_are_failures_or_with_strict_an_error(tmp_path, meshes):
    folder = tmp_path / "meshes"
    shutil.copytree(meshes, folder)
    (folder / "bad.obj").write_text("<html>")
    options = {"hybrids": 12, "splits": (1, 0, 0)}
    summary = render_dataset(config(tmp_path / "out", folder, **options))
    assert summary.models + len(summary.failures) == 12 and 0 < len(summary.failures) < 12
    assert all("bad.obj: " in failure.reason for failure in summary.failures)
    with pytest.raises(UserError, match="bad.obj: "):
        render_dataset(config(tmp_path / "strict", folder, strict=True, **options))


def test_hybrids_of_meshes_that_are_tested_on_are_refused(tmp_path, meshes):
    splits = {"splits": (0.5, 0.2, 0.3), "seed": 1}
    plain = config(tmp_path / "plain", meshes, hybrids=None, **splits)
    render_dataset(plain)
    render_dataset(config(tmp_path / "same", meshes, **splits))
    render_dataset(config(tmp_path / "other", meshes, splits=(1, 0, 0)))
    PairDataset([plain.out, tmp_path / "same"], "train")
    with pytest.raises(UserError, match="other: may be joined of meshes that .*plain has outside its train split"):
        PairDataset([plain.out, tmp_path / "other"], "train")
    merge(tmp_path / "merged", [tmp_path / "same", tmp_path / "other"])
    with pytest.raises(UserError, match="merged: may be joined of meshes that .*plain has outside its train split"):
        PairDataset([plain.out, tmp_path / "merged"], "train")
    with pytest.raises(UserError, match="other: may be joined of meshes that .*plain has outside its train split"):
        merge(tmp_path / "all", [plain.out, tmp_path / "other"])
    assert not (tmp_path / "all").exists()
    merge(tmp_path / "all", [plain.out, tmp_path / "same"])
    PairDataset(tmp_path / "all", "train")
    with pytest.raises(UserError, match="other: may be joined of meshes that .*all has outside its train split"):
        PairDataset([tmp_path / "all", tmp_path / "other"], "train")


def test_of_other_meshes_a_folder_is_not_continued(tmp_path, meshes):
    render_dataset(config(tmp_path / "hybrids", meshes, models=9))
    with pytest.raises(UserError, match="hybrids_of"):
        render_dataset(config(tmp_path / "hybrids", meshes, models=8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hybrids": 0}, "hybrids: 0: ask for 1 to 1000000"),
        ({"hybrid_axis": "w"}, "hybrid-axis: 'w': choose one of x, y, z"),
        ({"splits": (0, 0, 1)}, "0 of its 10 meshes are in the train split, hybrids need two"),
        ({"hybrids": None, "hybrid_axis": "y"}, "hybrid-axis: is for --hybrids"),
        ({"meshes": None, "category": "car"}, "hybrids: are joined of meshes: give --meshes"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, meshes, options, message):
    with pytest.raises(UserError, match=message):
        render_dataset(config(tmp_path / "out", **({"meshes": meshes} | options)))
    assert not (tmp_path / "out").exists()
