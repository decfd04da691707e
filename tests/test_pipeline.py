"""Rendering a dataset: the same bytes every time, and nothing lost."""

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import h5py
import numpy as np
import pytest
import trimesh

import render.pipeline
from data.assemble import absent_tasks, merge
from data.errors import UserError
from data.manifest import load_manifest
from data.schema import split_of
from data.shard import read_models
from data.verify import verify
from render.config import RenderConfig, check_config, parse_task
from render.pipeline import pair_rng, render_dataset
from render.views import ViewSettings, sample_pair
from render.workers import WorkerDied, _environment_of_workers, run_tasks, time_limit

ROOT = Path(__file__).parent.parent
VIEWS = ViewSettings(image_size=32)


@pytest.fixture(scope="module")
def meshes(tmp_path_factory):
    """Eight good meshes and two bad ones."""
    folder = tmp_path_factory.mktemp("meshes")
    rng = np.random.default_rng(0)
    for i in range(8):
        mesh = trimesh.creation.icosphere(2)
        mesh.apply_scale(rng.uniform(0.3, 1, 3))
        mesh.visual.vertex_colors = rng.integers(0, 256, (len(mesh.vertices), 4), np.uint8)
        mesh.export(folder / f"{i}.ply")
    (folder / "bad.obj").write_text("<html>")
    (folder / "empty.stl").write_bytes(b"")
    return folder


def config(out, meshes, **options):
    options = {"meshes": meshes, "pairs_per_model": 2, "views": VIEWS, "workers": 1, "progress": False} | options
    return RenderConfig(Path(out), **options)


def contents(folder):
    """Every file of a folder, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*")) if path.is_file()
    }  # fmt: skip


@pytest.fixture(scope="module")
def reference(meshes, tmp_path_factory):
    """An undisturbed rendering: its folder."""
    out = tmp_path_factory.mktemp("reference") / "data"
    render_dataset(config(out, meshes))
    return out


def command(out, meshes, **options):
    """The same rendering as a program of its own."""
    options = {"pairs_per_model": 2} | options
    arguments = ", ".join(f"{name}={value!r}" for name, value in options.items())
    code = f"""
if __name__ == "__main__":
    import sys
    from pathlib import Path
    from data.errors import UserError
    from render.config import RenderConfig
    from render.pipeline import render_dataset
    from render.views import ViewSettings
    try:
        render_dataset(RenderConfig(Path({str(out)!r}), meshes=Path({str(meshes)!r}),
                       views=ViewSettings(image_size=32), {arguments}))
    except (UserError, KeyboardInterrupt) as error:
        sys.exit(f"{{type(error).__name__}}: {{error}}")
"""
    script = Path(out).parent / "command.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, script], stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def wait_for_a_part(out, process):
    while not list(Path(out).glob(".parts/*.h5")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


class TestResult:
    def test_summary_and_manifest(self, reference, meshes):
        manifest = load_manifest(reference)
        assert [model.model_id for model in manifest.models] == [f"{i}.ply" for i in range(8)]
        assert {failure.source: failure.reason for failure in manifest.failures} == {
            "bad.obj": "has no faces", "empty.stl": "the file is empty",
        }  # fmt: skip
        assert sum(shard.pairs for shard in manifest.shards) == 16
        assert set(contents(reference)) == {"dataset.json"} | {shard.file for shard in manifest.shards}

    def test_a_bad_mesh_that_was_removed_is_forgotten(self, meshes, tmp_path):
        shutil.copytree(meshes, tmp_path / "meshes")
        render_dataset(config(tmp_path / "data", tmp_path / "meshes"))
        (tmp_path / "meshes" / "bad.obj").unlink()
        summary = render_dataset(config(tmp_path / "data", tmp_path / "meshes"))
        assert [failure.source for failure in summary.failures] == ["empty.stl"]

    def test_a_folder_whose_name_is_not_text(self, meshes, tmp_path):
        folder = os.fsencode(tmp_path) + b"/m\xff"
        shutil.copytree(meshes, os.fsdecode(folder))
        render_dataset(config(tmp_path / "data", Path(os.fsdecode(folder)), models=1))
        assert load_manifest(tmp_path / "data").category == r"m\xff"

    def test_pairs_are_what_the_views_say(self, reference):
        manifest = load_manifest(reference)
        for shard in manifest.shards:
            for model in read_models(reference / shard.file):
                assert model.split == split_of(0, model.model_id, (0.8, 0.1, 0.1))
                pose, camera = sample_pair(pair_rng(0, model.model_id, 1), VIEWS)
                np.testing.assert_array_equal(model.object_to_camera[1], pose)
                np.testing.assert_array_equal(model.intrinsics[1], camera)
                assert (model.rgba[..., 3] == 255).any(axis=(2, 3)).all()
                assert ((model.rgba[..., 3] < 255) | (model.depth > 0)).all()

    def test_depth_codes_back_to_depth(self, tmp_path):
        mesh = trimesh.creation.icosphere(4)
        mesh.export(tmp_path / "ball.ply")
        out = tmp_path / "data"
        render_dataset(config(out, tmp_path / "ball.ply", views=ViewSettings(32, shift=0)))
        import h5py

        shard = out / load_manifest(out).shards[0].file
        with h5py.File(shard) as file:
            depth = file["depth"]
            values = depth[...]
            z = values * depth.attrs["depth_scale"] + depth.attrs["depth_offset"]
        assert z[values > 0].min() == pytest.approx(29, abs=0.02)
        assert (values == 0).any() and z[values > 0].max() < 30

    def test_built_in_shapes(self, tmp_path):
        options = {"meshes": None, "category": "chair", "models": 3, "pairs_per_model": 1}
        summary = render_dataset(config(tmp_path / "data", **options))
        assert (summary.models, summary.pairs, summary.rendered, summary.failures) == (3, 3, 3, [])
        model = next(read_models(tmp_path / "data" / load_manifest(tmp_path / "data").shards[0].file))
        assert model.semantic_keypoints.shape[1] == 3


class TestDeterminism:
    def test_workers(self, reference, meshes, tmp_path):
        render_dataset(config(tmp_path / "data", meshes, workers=3))
        assert contents(tmp_path / "data") == contents(reference)

    def test_tasks_merged(self, reference, meshes, tmp_path):
        parts = [tmp_path / str(i) for i in range(3)]
        for i, part in enumerate(parts):
            render_dataset(config(part, meshes, task=(i + 1, 3)))
        merge(tmp_path / "data", parts)
        assert contents(tmp_path / "data") == contents(reference)
        manifests = [load_manifest(part) for part in parts]
        assert absent_tasks(manifests) == absent_tasks([load_manifest(reference)]) == []
        assert absent_tasks(manifests[1:]) == [(1, 3)] and absent_tasks([*manifests[1:], manifests[0]]) == []
        assert absent_tasks([load_manifest(reference), manifests[0]]) == []
        merge(tmp_path / "two", parts[1:])
        assert load_manifest(tmp_path / "two").tasks == [(2, 3), (3, 3)]
        render_dataset(config(tmp_path / "other", meshes, pairs_per_model=1, models=2))
        assert merge(tmp_path / "both", [tmp_path / "two", tmp_path / "other"]).tasks == []  # no one rendering's
        merge(tmp_path / "three", [tmp_path / "two", parts[0]])
        assert contents(tmp_path / "three") == contents(reference)

    def test_tasks_one_after_the_other(self, meshes, tmp_path):
        tasks = []
        for i in (0, 1, 3, 2, 1):
            render_dataset(config(tmp_path, meshes, task=(i, 3)))
            tasks.append(load_manifest(tmp_path).tasks)
        assert tasks == [[(3, 3)], [(1, 3), (3, 3)], [(1, 3), (3, 3)], [], []]
        render_dataset(config(tmp_path / "grown", meshes, models=2))
        render_dataset(config(tmp_path / "grown", meshes, models=8, grow=True, task=(1, 2)))
        assert load_manifest(tmp_path / "grown").tasks == [(1, 2)]

    def test_tasks_of_bad_meshes_alone_merged(self, reference, meshes, tmp_path):
        parts = [tmp_path / str(i) for i in range(12)]  # more than there are meshes
        for i, part in enumerate(parts):
            render_dataset(config(part, meshes, task=(i + 1, 12)))
        merge(tmp_path / "data", parts)
        assert contents(tmp_path / "data") == contents(reference)

    def test_order_of_files_on_disk(self, reference, meshes, tmp_path):
        copy = tmp_path / meshes.name
        copy.mkdir()
        for path in sorted(meshes.iterdir(), reverse=True):
            shutil.copy(path, copy)
        render_dataset(config(tmp_path / "data", copy))
        assert contents(tmp_path / "data") == contents(reference)

    def test_more_meshes_leave_the_others_pairs_alone(self, reference, meshes, tmp_path):
        copy = shutil.copytree(meshes, tmp_path / meshes.name)
        shutil.copytree(reference, tmp_path / "data")
        trimesh.creation.icosphere(1).export(copy / "00.ply")
        summary = render_dataset(config(tmp_path / "data", copy))
        assert (summary.models, summary.rendered) == (9, 1)
        old, new = (
            {
                model.model_id: model
                for shard in load_manifest(folder).shards
                for model in read_models(folder / shard.file)
            }
            for folder in (reference, tmp_path / "data")
        )
        assert set(new) == set(old) | {"00.ply"}
        for name, model in old.items():
            np.testing.assert_array_equal(model.rgba, new[name].rgba)
            np.testing.assert_array_equal(model.object_to_camera, new[name].object_to_camera)

    def test_more_pairs_leave_the_first_ones_alone(self, tmp_path):
        dense = trimesh.creation.icosphere(5)  # one that the ray tracer thins out, by the view's resolution
        dense.export(tmp_path / "dense.ply")
        views = ViewSettings(image_size=32, distance=(3, 40), fov_degrees=(5, 40))
        for pairs in (2, 5):
            config_ = config(tmp_path / str(pairs), tmp_path / "dense.ply", views=views, splits=(1, 0, 0))
            render_dataset(dataclasses.replace(config_, pairs_per_model=pairs))
        (few,), (many,) = (list(read_models(tmp_path / pairs / "train-00000.h5")) for pairs in ("2", "5"))
        for name in ("rgba", "depth", "object_to_camera", "intrinsics"):
            np.testing.assert_array_equal(getattr(few, name), getattr(many, name)[:2])


def models_of(folder):
    """Model id -> (poses, images) of all its pairs, in order."""
    found = {}
    for shard in load_manifest(folder).shards:
        for model in read_models(folder / shard.file):
            found.setdefault(model.model_id, []).append((model.object_to_camera, model.rgba, model.depth))
    return {name: [np.concatenate(arrays) for arrays in zip(*parts)] for name, parts in found.items()}


FEW = {"models": 6, "pairs_per_model": 2}
MORE = {"models": 9, "pairs_per_model": 5}


@pytest.fixture(scope="module")
def few(meshes, tmp_path_factory):
    out = tmp_path_factory.mktemp("few") / "data"
    render_dataset(config(out, meshes, **FEW))
    return out


@pytest.fixture(scope="module")
def grown(few, meshes, tmp_path_factory):
    out = Path(shutil.copytree(few, tmp_path_factory.mktemp("grown") / "data"))
    render_dataset(config(out, meshes, **MORE, grow=True))
    return out


class TestGrowing:
    def test_old_shards_stay_and_the_pairs_are_those_of_a_fresh_rendering(self, few, grown, meshes, tmp_path):
        fresh = tmp_path / "fresh"
        render_dataset(config(fresh, meshes, **MORE))
        before, after = contents(few), contents(grown)
        assert all(after[name] == digest for name, digest in before.items() if name != "dataset.json")
        assert len(after) > len(before) and verify(grown) == []
        ours, theirs = load_manifest(grown), load_manifest(fresh)
        assert (ours.settings, ours.models, ours.failures) == (theirs.settings, theirs.models, theirs.failures)
        ours, theirs = models_of(grown), models_of(fresh)
        assert ours.keys() == theirs.keys()
        for name, arrays in theirs.items():
            assert len(arrays[0]) == 5
            for mine, fresh_ones in zip(ours[name], arrays, strict=True):
                np.testing.assert_array_equal(mine, fresh_ones)

    @pytest.mark.parametrize("lost_first", [True, False])
    def test_a_shard_that_is_lost_while_it_grows(self, few, grown, meshes, tmp_path, monkeypatch, lost_first):
        out = Path(shutil.copytree(few, tmp_path / "data"))
        shard = next(out.glob("train-*.h5"))
        precious = shard.read_bytes()
        if lost_first:
            shard.unlink()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(render.pipeline, "assemble", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            render_dataset(config(out, meshes, **MORE, grow=True))
        if lost_first:
            shard.write_bytes(precious)
        else:
            shard.unlink()
        render_dataset(config(out, meshes, **MORE, grow=True))
        ours, theirs = models_of(out), models_of(grown)
        assert ours.keys() == theirs.keys()
        for name, arrays in theirs.items():
            for mine, right in zip(ours[name], arrays, strict=True):
                np.testing.assert_array_equal(mine, right)

    def test_killed_again_and_again(self, few, grown, meshes, tmp_path):
        out = Path(shutil.copytree(few, tmp_path / "data"))
        kills = 0
        process = command(out, meshes, workers=2, grow=True, **MORE)
        while process.poll() is None:
            if len(list(out.glob(".parts/*.h5"))) > 2 * kills and kills < 2:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                kills += 1
                process = command(out, meshes, workers=2, grow=True, **MORE)
            time.sleep(0.01)
        assert process.returncode == 0, process.communicate()[1]
        assert kills >= 1 and contents(out) == contents(grown)

    def test_again_does_nothing(self, grown, meshes):
        before = contents(grown)
        for grow in (False, True):
            assert render_dataset(config(grown, meshes, **MORE, grow=grow)).rendered == 0
        assert contents(grown) == before

    def test_other_meshes_are_added_only_when_asked(self, few, meshes, tmp_path):
        out, folder = Path(shutil.copytree(few, tmp_path / "data")), tmp_path / meshes.name
        folder.mkdir()
        for name in ("6.ply", "7.ply"):
            shutil.copy(meshes / name, folder / f"new-{name}")
        with pytest.raises(UserError, match="holds none of the models of .*--grow to add"):
            render_dataset(config(out, folder, **FEW))
        assert contents(out) == contents(few)
        assert render_dataset(config(out, folder, **FEW, grow=True)).rendered == 2

    def test_a_mesh_that_got_worse_is_told(self, few, meshes, tmp_path):
        out = Path(shutil.copytree(few, tmp_path / "data"))
        folder = Path(shutil.copytree(meshes, tmp_path / meshes.name))
        first = load_manifest(out).models[0]
        (folder / first.source).write_text("<html>")
        summary = render_dataset(config(out, folder, **MORE, grow=True))
        (told,) = [failure for failure in summary.failures if failure.source == first.source]
        assert told.reason.endswith("; it keeps its 2 pairs")
        assert len(models_of(out)[first.model_id][0]) == 2 and verify(out) == []

    def test_a_mesh_of_another_shape_is_told_and_can_be_restored(self, few, grown, meshes, tmp_path):
        out = Path(shutil.copytree(few, tmp_path / "data"))
        folder = Path(shutil.copytree(meshes, tmp_path / meshes.name))
        first = load_manifest(out).models[0]
        trimesh.creation.box((1, 2, 3)).export(folder / first.source)
        summary = render_dataset(config(out, folder, **MORE, grow=True))
        (told,) = [failure for failure in summary.failures if failure.source == first.source]
        assert told.reason.startswith("another shape than when") and len(models_of(out)[first.model_id][0]) == 2
        shutil.copy(meshes / first.source, folder / first.source)
        render_dataset(config(out, folder, **MORE, grow=True))
        assert len(models_of(out)[first.model_id][0]) == 5 and verify(out) == []

    def test_after_a_failed_strict_run(self, reference, meshes, tmp_path):
        out = Path(shutil.copytree(reference, tmp_path / "data"))
        with pytest.raises(UserError, match="leave --strict out"):
            render_dataset(config(out, meshes, strict=True))
        assert render_dataset(config(out, meshes, pairs_per_model=3, grow=True)).rendered == 8

    def test_only_when_asked_and_only_upwards(self, few, meshes, tmp_path):
        before = contents(few)
        with pytest.raises(UserError, match=r"other settings \(models, pairs_per_model\).*or --grow"):
            render_dataset(config(few, meshes, **MORE))
        for option in ({"models": 5}, {"pairs_per_model": 1}, {"seed": 1}, {"views": ViewSettings(33)}):
            with pytest.raises(UserError, match="other settings.*new folder$"):
                render_dataset(config(few, meshes, **{**FEW, **option}, grow=True))
        with pytest.raises(UserError, match="cannot get more"):
            render_dataset(config(few, meshes, **MORE, grow=True, task=(1, 2)))
        assert contents(few) == before

    def test_a_shard_that_is_gone(self, few, grown, meshes, tmp_path):
        out = Path(shutil.copytree(grown, tmp_path / "data"))
        old = load_manifest(few).shards[0].file
        (out / old).unlink()
        with pytest.raises(UserError, match=f"{old}: missing, and model .* has pairs in other shards too"):
            render_dataset(config(out, meshes, **MORE))

    def test_unfinished_growing_is_not_thrown_away(self, few, meshes, tmp_path, monkeypatch):
        out = Path(shutil.copytree(few, tmp_path / "data"))
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(render.pipeline, "assemble", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            render_dataset(config(out, meshes, **MORE, grow=True))
        for options in (FEW, {**MORE, "pairs_per_model": 6, "grow": True}):
            with pytest.raises(UserError, match="other settings.*give up the unfinished rendering"):
                render_dataset(config(out, meshes, **options))
        assert render_dataset(config(out, meshes, **MORE, grow=True)).rendered == 0  # assembled alone


class TestInterruption:
    def test_again_does_nothing(self, reference, meshes):
        before = contents(reference)
        stamps = {path: path.stat().st_mtime_ns for path in reference.iterdir()}
        assert render_dataset(config(reference, meshes)).rendered == 0
        assert contents(reference) == before
        assert {path: path.stat().st_mtime_ns for path in reference.iterdir()} == stamps

    def test_a_shard_that_is_gone_is_rendered_again(self, reference, meshes, tmp_path):
        out = Path(shutil.copytree(reference, tmp_path / "data"))
        shards = load_manifest(out).shards
        (out / shards[0].file).unlink()
        assert render_dataset(config(out, meshes)).rendered == shards[0].models
        assert contents(out) == contents(reference)

    def test_a_shard_that_is_gone_with_its_meshes(self, reference, meshes, tmp_path):
        out = Path(shutil.copytree(reference, tmp_path / "data"))
        fewer = Path(shutil.copytree(meshes, tmp_path / meshes.name))
        lost = load_manifest(out).shards[0]
        (model, *_) = [entry for entry in load_manifest(out).models if entry.split == lost.split]
        (out / lost.file).unlink()
        (fewer / model.source).unlink()
        with pytest.raises(UserError, match=f"{lost.file}: missing, and model {model.model_id} in it is not among"):
            render_dataset(config(out, fewer))

    def test_killed_again_and_again(self, reference, meshes, tmp_path):
        out = tmp_path / "data"
        process = command(out, meshes, workers=2)
        kills, parts = 0, 0
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            now = len(list(out.glob(".parts/*.h5")))
            if now >= parts + 3:  # it got somewhere: kill it
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                kills, parts = kills + 1, now
                process = command(out, meshes, workers=2)
            time.sleep(0.01)
        errors = process.communicate()[1]
        assert process.returncode == 0, errors
        assert kills >= 1
        assert contents(out) == contents(reference)

    def test_killed_while_assembling(self, reference, meshes, tmp_path, monkeypatch):
        out = tmp_path / "data"

        def assemble_a_little(folder, *_):
            (folder / "train-00000.h5.tmp").write_bytes(b"half")
            (folder / "train-00007.h5").write_bytes(b"remains")
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(render.pipeline, "assemble", assemble_a_little)
            render_dataset(config(out, meshes))
        render_dataset(config(out, meshes))
        assert contents(out) == contents(reference)

    def test_parts_that_a_crash_of_the_machine_tore(self, reference, meshes, tmp_path, monkeypatch):
        out = tmp_path / "data"
        with monkeypatch.context() as patch, pytest.raises(RuntimeError):
            patch.setattr(render.pipeline, "assemble", Mock(side_effect=RuntimeError))
            render_dataset(config(out, meshes))
        empty, half, flipped, *_ = sorted((out / ".parts").glob("*.h5"))
        os.truncate(empty, 0)
        os.truncate(half, half.stat().st_size // 2)
        with open(flipped, "r+b") as file, h5py.File(flipped) as part:
            file.seek(part["rgba"].id.get_chunk_info(0).byte_offset + 20)
            file.write(b"\xff\x00\xff\x00")
        render_dataset(config(out, meshes))
        assert contents(out) == contents(reference)

    def test_a_part_with_other_settings_in_it_is_rendered_again(self, reference, meshes, tmp_path, monkeypatch):
        """No checksum of HDF5 covers them."""
        out = tmp_path / "data"
        with monkeypatch.context() as patch, pytest.raises(RuntimeError):
            patch.setattr(render.pipeline, "assemble", Mock(side_effect=RuntimeError))
            render_dataset(config(out, meshes))
        part = min((out / ".parts").glob("*.h5"))
        assert b'"sky":' in part.read_bytes()
        part.write_bytes(part.read_bytes().replace(b'"sky":', b'"skY":'))
        render_dataset(config(out, meshes))
        assert contents(out) == contents(reference)

    def test_ctrl_c_while_assembling_says_how_to_go_on(self, meshes, tmp_path, monkeypatch):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="all models.*run the same"):
            patch.setattr(render.pipeline, "assemble", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            render_dataset(config(tmp_path / "data", meshes, models=1))

    def test_killed_while_clearing_up(self, reference, meshes, tmp_path):
        out = Path(shutil.copytree(reference, tmp_path / "data"))
        (out / ".parts" / "run-0").mkdir(parents=True)
        (out / ".parts" / "0123.h5").write_bytes(b"")
        render_dataset(config(out, meshes))
        assert contents(out) == contents(reference)

    def test_parts_go_before_what_tells_their_settings(self, meshes, tmp_path, monkeypatch):
        """Else a run killed in between leaves parts that nothing tells from those of the next run's settings."""
        removed, unlink = [], Path.unlink
        monkeypatch.setattr(
            Path, "unlink", lambda path, **options: (removed.append(path.name), unlink(path, **options))
        )
        render_dataset(config(tmp_path / "data", meshes))
        assert removed[-2:] == ["settings.json", "lock"] and sum(name.endswith(".h5") for name in removed) >= 8

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_stopped(self, meshes, tmp_path, number):
        out = tmp_path / "data"
        process = command(out, meshes, workers=1, pairs_per_model=200)  # long enough not to be done before the signal
        wait_for_a_part(out, process)
        start = time.monotonic()
        os.killpg(process.pid, number)  # terminals and schedulers send it to all of them
        errors = process.communicate()[1]
        assert time.monotonic() - start < 2
        assert "KeyboardInterrupt: interrupted: " in errors and "run the same command again" in errors
        assert "Traceback" not in errors
        undisturbed = tmp_path / "undisturbed"
        for folder in (out, undisturbed):
            render_dataset(config(folder, meshes, pairs_per_model=200))
        assert contents(out) == contents(undisturbed)

    def test_workers_die_with_their_owner(self, meshes, tmp_path):
        process = command(tmp_path / "data", meshes, workers=2)
        wait_for_a_part(tmp_path / "data", process)
        process.kill()  # it alone
        process.communicate()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.02)
        pytest.fail("workers outlived their owner")


class TestRefusals:
    @pytest.mark.parametrize(
        "option",
        [{"seed": 1}, {"pairs_per_model": 3}, {"models": 5}, {"views": ViewSettings(33)}, {"splits": (0, 0, 1)}],
    )
    def test_other_settings(self, reference, meshes, option):
        before = contents(reference)
        with pytest.raises(UserError, match=f"other settings.*{next(iter(option))}"):
            render_dataset(config(reference, meshes, **option))
        assert contents(reference) == before

    def test_other_settings_than_an_unfinished_run(self, meshes, tmp_path, monkeypatch):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(render.pipeline, "assemble", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            render_dataset(config(tmp_path / "data", meshes))
        with pytest.raises(UserError, match="seed"):
            render_dataset(config(tmp_path / "data", meshes, seed=1))
        for damaged in (b"", b"[]", b"[" * 100_000):
            (tmp_path / "data" / ".parts" / "settings.json").write_bytes(damaged)
            with pytest.raises(UserError, match="settings.json: damaged: delete .*parts to render anew"):
                render_dataset(config(tmp_path / "data", meshes))

    def test_fewer_meshes_than_asked_for_are_told(self, meshes, tmp_path, capsys):
        for models in (10, 11):
            render_dataset(config(tmp_path / str(models), meshes, models=models))
        assert capsys.readouterr().err == f"{meshes}: 10 models, fewer than --models 11\n"

    @pytest.mark.parametrize("finished", [True, False])
    def test_auto_goes_on_with_the_backend_of_the_dataset(self, meshes, tmp_path, monkeypatch, finished):
        out = tmp_path / "data"
        if not finished:
            monkeypatch.setattr(render.pipeline, "assemble", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with contextlib.suppress(KeyboardInterrupt):
            render_dataset(config(out, meshes, models=1))
        monkeypatch.undo()
        # another machine
        monkeypatch.setattr(render.pipeline, "resolve", lambda name: "egl" if name == "auto" else name)
        assert render_dataset(config(out, meshes, models=1)).rendered == 0
        with pytest.raises(UserError, match=r"other settings \(backend\)"):
            render_dataset(config(out, meshes, models=1, backend="egl"))

    def test_a_second_run(self, meshes, tmp_path):
        (tmp_path / ".parts").mkdir()
        with open(tmp_path / ".parts" / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(UserError, match="another run"):
                render_dataset(config(tmp_path, meshes))
        render_dataset(config(tmp_path, meshes))

    def test_the_next_run_that_begins_before_this_one_has_returned(self, meshes, tmp_path, monkeypatch):
        lock = tmp_path / "data" / ".parts" / "lock"

        def begin(parts):
            clear(parts)
            lock.parent.mkdir()
            lock.touch()

        clear = render.pipeline.clear
        monkeypatch.setattr(render.pipeline, "clear", begin)
        render_dataset(config(tmp_path / "data", meshes))
        assert lock.exists()

    def test_an_unfinished_merge(self, meshes, tmp_path):
        (tmp_path / ".merging").touch()
        with pytest.raises(UserError, match="holds an unfinished merge"):
            render_dataset(config(tmp_path, meshes))
        assert [path.name for path in tmp_path.iterdir()] == [".merging"]

    def test_foreign_shards(self, meshes, tmp_path):
        (tmp_path / "train-00000.h5").write_bytes(b"precious")
        with pytest.raises(UserError, match="choose a new folder"):
            render_dataset(config(tmp_path, meshes))
        assert (tmp_path / "train-00000.h5").read_bytes() == b"precious"

    def test_a_foreign_shard_beside_ours(self, meshes, tmp_path):
        render_dataset(config(tmp_path, meshes))
        (tmp_path / "train-00007.h5").write_bytes(b"precious")
        with pytest.raises(UserError, match="holds train-00007.h5, but no dataset.json that lists it"):
            render_dataset(config(tmp_path, meshes, pairs_per_model=5, grow=True))
        assert (tmp_path / "train-00007.h5").read_bytes() == b"precious" and not (tmp_path / ".parts").exists()

    @pytest.mark.parametrize(
        "options",
        [
            {"meshes": None},
            {"category": "chair"},
            {"meshes": None, "category": "boat"},
            {"models": 0},
            {"meshes": None, "category": "car", "models": 10**6 + 1},
            {"pairs_per_model": 0},
            {"pairs_per_model": 10**9},
            {"seed": -1},
            {"workers": 0},
            {"splits": (0, 0, 0)},
            {"splits": (1, -1, 1)},
            {"splits": (float("nan"), 1, 1)},
            {"task": (4, 3)},
            {"task": (0, 0)},
            {"backend": "magic"},
            {"views": ViewSettings(4)},
            {"views": ViewSettings(distance=(1, 2))},
            {"views": ViewSettings(distance=(30, 20))},
            {"views": ViewSettings(distance=(float("nan"),) * 2)},
            {"views": ViewSettings(fov_degrees=(0, 5))},
            {"views": ViewSettings(elevation_degrees=(0, 100))},
            {"views": ViewSettings(shift=-1)},
            {"views": ViewSettings(roll_degrees=float("nan"))},
        ],
    )
    def test_options_without_sense(self, tmp_path, options):
        with pytest.raises(UserError) as error:
            check_config(config(tmp_path, **{"meshes": Path("meshes")} | options))
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("text", ["3", "x/2", "1/2/3"])
    def test_tasks_without_sense(self, text):
        with pytest.raises(UserError):
            parse_task(text)

    def test_out_is_a_file(self, meshes, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="is a file"):
            render_dataset(config(tmp_path / "file", meshes))

    def test_strict(self, meshes, tmp_path):
        with pytest.raises(UserError, match="bad.obj: has no faces"):
            render_dataset(config(tmp_path / "data", meshes, strict=True, workers=1))

    def test_nothing_but_bad_meshes(self, tmp_path):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.obj").write_text("x")
        with pytest.raises(UserError, match="none of the 1 models"):
            render_dataset(config(tmp_path / "out", tmp_path / "in"))


@contextlib.contextmanager
def file_size_limit(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [2000, 20_000])
def test_a_full_disk(reference, meshes, tmp_path, size):
    # A limit on the size of files fails writes the way a full disk does; 2 kB stop a part, 20 kB the assembly.
    out = tmp_path / "data"
    with file_size_limit(size), pytest.raises(UserError, match="run the same command again") as error:
        render_dataset(config(out, meshes))
    assert "\n" not in str(error.value)
    assert not list(out.glob("*.h5")) and not (out / "dataset.json").exists()
    render_dataset(config(out, meshes))
    assert contents(out) == contents(reference)


# --- the pool --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Diary:
    """A task that leaves a line, then does as told."""

    path: Path
    what: str


def set_up():
    return do


def do(task):
    with open(task.path, "a") as file:
        file.write(task.what + "\n")
    tries = task.path.read_text().count(task.what)
    if task.what == "die" or (task.what == "die once" and tries == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if task.what == "raise":
        raise ValueError("no")
    if task.what == "bad memory":
        raise MemoryError
    if task.what == "sleep":
        time.sleep(60)
    if task.what == "hang":  # deaf to Python's own signals, as a library in C is
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
        with time_limit(0.3):
            while True:
                pass
    return task.what.upper()


def test_a_worker_that_dies_is_retried_once_and_the_rest_goes_on(tmp_path):
    tasks = [Diary(tmp_path / what, what) for what in ("fine", "die", "die once", "raise", "also fine")]
    outcomes = {task.what: outcome for task, outcome in run_tasks(set_up, tasks, 2)}
    assert outcomes["fine"] == "FINE" and outcomes["also fine"] == "ALSO FINE" and outcomes["die once"] == "DIE ONCE"
    assert isinstance(outcomes["raise"], ValueError)
    assert isinstance(outcomes["die"], WorkerDied) and "SIGKILL" in str(outcomes["die"])
    assert (tmp_path / "die").read_text() == "die\n" * 2


def test_a_task_that_takes_too_long_is_given_up_at_once(tmp_path):
    tasks = [Diary(tmp_path / what, what) for what in ("hang", "fine")]
    outcomes = {task.what: outcome for task, outcome in run_tasks(set_up, tasks, 1)}
    assert outcomes["fine"] == "FINE"
    assert isinstance(outcomes["hang"], WorkerDied) and "--time-limit" in str(outcomes["hang"])
    assert (tmp_path / "hang").read_text() == "hang\n"


def test_ctrl_c_ends_a_wait_that_the_signal_does_not_interrupt(tmp_path):
    # So it is when the signal comes between the last look for signals and the wait, or to another thread.
    task = Diary(tmp_path / "diary", "sleep")
    sent = []

    def send():
        while not task.path.exists():
            time.sleep(0.01)
        sent.append(time.monotonic())
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    threading.Thread(target=send).start()
    with pytest.raises(KeyboardInterrupt):
        list(run_tasks(set_up, [task], 1))
    assert time.monotonic() - sent[0] < 2


def test_ctrl_c_while_a_worker_is_started_is_not_lost():
    reached_end = False
    with pytest.raises(KeyboardInterrupt), _environment_of_workers():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        reached_end = True
    assert reached_end


def test_every_mesh_has_a_time_limit(meshes, tmp_path, monkeypatch):
    limits = []

    @contextlib.contextmanager
    def spy(seconds):
        limits.append(seconds)
        yield

    def here(setup, tasks, workers, divide):
        work = setup()
        for task in tasks:
            yield task, work(task)

    monkeypatch.setattr(render.pipeline, "time_limit", spy)
    monkeypatch.setattr(render.pipeline, "run_tasks", here)
    render_dataset(config(tmp_path / "data", meshes, backend="embree", pairs_per_model=1, time_limit=7))
    assert limits == [7] * 10


def test_a_mesh_that_kills_its_worker_is_a_failure(meshes, tmp_path, monkeypatch):
    settings = config(tmp_path / "data", meshes)
    settings.backend = "embree"

    def spy(setup, tasks, workers, divide):
        work = setup()
        for task in tasks:
            deadly = [source.name for source in task] == ["3.ply"]
            yield task, WorkerDied("the worker process died (SIGKILL)") if deadly else work(task)

    monkeypatch.setattr(render.pipeline, "run_tasks", spy)
    summary = render_dataset(settings)
    assert summary.models == 7
    assert "SIGKILL" in {failure.source: failure.reason for failure in summary.failures}["3.ply"]


def test_when_a_worker_dies_its_task_is_divided(tmp_path):
    def diaries(*names):
        return Diaries([Diary(tmp_path / what, what) for what in names])

    tasks = [diaries("fine", "die", "also fine"), diaries("good", "better"), diaries("forget", "bad memory")]
    outcomes = {}
    for task, outcome in run_tasks(set_up_for_many, tasks, 1, Diaries.divide):
        outcomes |= {diary.what: outcome for diary in task.diaries}
    assert outcomes["good"] == outcomes["better"] == ["GOOD", "BETTER"]  # of one task
    assert (outcomes["fine"], outcomes["also fine"]) == (["FINE"], ["ALSO FINE"])
    assert isinstance(outcomes["die"], WorkerDied) and "died 2 times" in str(outcomes["die"])
    assert (tmp_path / "die").read_text() == "die\n" * 3
    assert outcomes["forget"] == ["FORGET"] and isinstance(outcomes["bad memory"], MemoryError)


@dataclasses.dataclass
class Diaries:
    diaries: list

    def divide(self):
        return [Diaries([diary]) for diary in self.diaries]


def set_up_for_many():
    work = set_up()
    return lambda task: [work(diary) for diary in task.diaries]


def test_models_of_few_pairs_share_parts(reference, meshes, tmp_path, monkeypatch):
    """Whatever goes into one part, and whatever is missing of it, the dataset is the same."""
    out = tmp_path / "data"
    monkeypatch.setattr(render.pipeline, "_GROUPS_PER_WORKER", 1)
    interrupt(monkeypatch, config(out, meshes))
    parts = sorted((out / ".parts").glob("*.h5"))
    held = [len(list(read_models(part))) for part in parts]
    assert sum(held) == 8 and max(held) > 2
    parts[held.index(max(held))].unlink()
    summary = render_dataset(config(out, meshes))
    assert summary.rendered == max(held) and len(summary.failures) == 2
    assert contents(out) == contents(reference)


def test_a_part_of_models_that_are_not_wanted_any_more_goes(meshes, tmp_path, monkeypatch):
    out, folder = tmp_path / "data", Path(shutil.copytree(meshes, tmp_path / "some" / meshes.name))
    monkeypatch.setattr(render.pipeline, "_GROUPS_PER_WORKER", 1)
    interrupt(monkeypatch, config(out, folder))
    (folder / "3.ply").unlink()
    assert render_dataset(config(out, folder)).models == 7
    render_dataset(config(tmp_path / "fresh", folder))
    assert contents(out) == contents(tmp_path / "fresh")


def interrupt(monkeypatch, settings):
    """Render all parts, but do not join them."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(render.pipeline, "assemble", Mock(side_effect=KeyboardInterrupt))
        render_dataset(settings)


class TestPartsOfOtherWork:
    """What an interrupted run left is neither taken for something else nor thrown away."""

    def test_of_another_task(self, reference, meshes, tmp_path, monkeypatch):
        out = tmp_path / "data"
        interrupt(monkeypatch, config(out, meshes, task=(1, 2)))
        before = contents(out)
        with pytest.raises(UserError, match="another task, with 0.ply: give the same --task, or none, "):
            render_dataset(config(out, meshes, task=(2, 2)))
        assert contents(out) == before
        assert render_dataset(config(out, meshes)).rendered == 4
        assert contents(out) == contents(reference)

    def test_of_another_folder_of_that_name(self, meshes, tmp_path, monkeypatch):
        out, folder = tmp_path / "data", tmp_path / meshes.name
        folder.mkdir()
        shutil.copy(meshes / "6.ply", folder / "new.ply")
        interrupt(monkeypatch, config(out, meshes))
        before = contents(out)
        with pytest.raises(UserError, match="other meshes, with 0.ply: give the same meshes"):
            render_dataset(config(out, folder))
        assert contents(out) == before

    def test_of_another_layout(self, tmp_path, monkeypatch):
        for name in ("v1/chairs/id/model.obj", "v2/chairs/id/models/model_normalized.obj"):
            (tmp_path / name).parent.mkdir(parents=True)
            trimesh.creation.box((1, 2, 3)).export(tmp_path / name)
        first, second = tmp_path / "v1" / "chairs", tmp_path / "v2" / "chairs"
        interrupt(monkeypatch, config(tmp_path / "data", first))
        with pytest.raises(UserError, match="rendering of id/model.obj, not of id/models/model_normalized.obj"):
            render_dataset(config(tmp_path / "data", second))
        render_dataset(config(tmp_path / "data", first))
        for grow in (False, True):
            with pytest.raises(UserError, match="id was made of id/model.obj, but .* has id/models/"):
                render_dataset(config(tmp_path / "data", second, grow=grow))


def test_a_reason_that_is_no_valid_text_can_be_told(meshes, tmp_path):
    folder = Path(shutil.copytree(meshes, tmp_path / "meshes"))
    (folder / "odd.gltf").write_text('{"asset": {"version": "2.0"}, "extensionsRequired": ["\\ud800\\n"]}')
    summary = render_dataset(config(tmp_path / "data", folder))
    (told,) = [failure.reason for failure in summary.failures if failure.source == "odd.gltf"]
    assert told.startswith("requires \\ud800\\x0a, which is not supported")
    assert told in [failure.reason for failure in load_manifest(tmp_path / "data").failures]


def test_an_interruption_counts_what_is_kept(meshes, tmp_path, monkeypatch):
    def interrupted(setup, tasks, workers, divide):
        work = setup()
        for task in tasks:
            yield task, work(task)
        raise KeyboardInterrupt

    monkeypatch.setattr(render.pipeline, "run_tasks", interrupted)
    with pytest.raises(KeyboardInterrupt, match="8 of 10 models are done and kept"):
        render_dataset(config(tmp_path / "data", meshes))
