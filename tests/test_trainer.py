"""The trainer: what a run leaves behind, stopping and going on, refusals; and that it learns."""

import dataclasses
import errno
import fcntl
import json
import math
import os
import platform
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.assemble import assemble
from data.dataset import PairDataset
from data.errors import UserError
from data.geometry import project, transform_points
from data.manifest import load_manifest
from render.config import RenderConfig
from render.pipeline import render_dataset
from render.views import ViewSettings
from tests.made_up import Oracle
from tests.made_up import make_dataset as make_balls
from tests.made_up_pairs import make_dataset, make_manifest, make_model, write_part
from train import loader, losses, schedules, trainer
from train.config import CHOICES, config_from_dict, make_config
from train.detector import Detector, load_config
from train.eval.evaluate import evaluate
from train.eval.validation import open_validation, validate
from train.logger import Logger
from train.networks import Prediction, pixel_grid
from train.optimizer import MovingAverage, Optimizers, make_optimizer
from train.trainer import loss_terms, optimizer_step, prepare, settle, start, train, training_step, uses_bfloat16

ROOT = Path(__file__).parents[1]
STEPS = 8


SMALL = dict(width=4, batch_size=4, steps=STEPS, log_every=2, validate_every=4, checkpoint_every=4, device="cpu")


def small_config(**overrides):
    return make_config("cpu", **{**SMALL, **overrides})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "pairs")


@pytest.fixture(scope="module")
def finished_run(dataset, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    train(small_config(), [str(dataset)], str(run))
    return run


def program(dataset, run, **settings):
    """A training of its own, with a small network; what it tells goes to a pipe."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in {**SMALL, **settings}.items()]
    command = [sys.executable, ROOT / "cli.py", "train", dataset, run, "--preset", "cpu", *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def wait_for_lines(run, count, process):
    log = run / "metrics.jsonl"
    while not log.exists() or log.read_bytes().count(b"\n") < count:
        assert process.poll() is None
        time.sleep(0.005)


def weights(run):
    return Detector.load(run).network.state_dict()


def assert_same_weights(run, other):
    ours, theirs = weights(run), weights(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_run_folder(finished_run, dataset):
    config = json.loads((finished_run / "config.json").read_text())
    assert config["preset"] == "cpu" and config["axes"] == ["x", "z"] and config["weights"]["pose"] == 2.0
    assert config["camera_distance"] == pytest.approx(30, abs=1)
    assert config["source_size"] == PairDataset(dataset, "train").image_size[0] != 128
    lines = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8] and all("loss" in line for line in lines)
    for name in ("consistency", "pose", "separation", "silhouette", "variance", "orientation", "spatial_consistency"):
        assert np.isfinite(lines[0][name])
    assert [line["step"] for line in lines if "validation_error_mean_deg" in line] == [4, 8]
    assert list((finished_run / "tensorboard").glob("events.out.tfevents.*"))
    checkpoint = torch.load(finished_run / "checkpoint.pt", weights_only=True)
    assert checkpoint["step"] == STEPS
    rates = [group["lr"] for state in checkpoint["optimizer"] for group in state["param_groups"]]
    assert rates == [schedules.learning_rate(small_config(), STEPS - 1)] * 2 and rates[0] == lines[-1]["learning_rate"]
    saved = weights(finished_run)
    assert torch.equal(saved["head.weight"], checkpoint["average"]["head.weight"])
    assert not torch.equal(saved["head.weight"], checkpoint["network"]["head.weight"])
    assert saved["stem.0.1.num_batches_tracked"] == STEPS


def test_run_folder_says_what_it_learned_from(dataset, finished_run):
    told = json.loads((finished_run / "training_data.json").read_text())
    (source,) = told["datasets"]
    learned, manifest = PairDataset(dataset, "train"), load_manifest(dataset)
    assert source["folder"] == str(dataset.resolve()) and source["settings"] == manifest.settings
    assert list(source["models"]) == sorted(learned.model_ids) and told["init_from"] is None
    assert told["pairs_sha256"] == learned.fingerprint()


def test_a_closed_pipe_ends_no_training(dataset, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("train.logger.tqdm.write", broken)
    train(small_config(steps=2, validate_every=1), [dataset], tmp_path / "run")
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 2


def test_ctrl_c_with_output_piped_to_a_program_keeps_a_checkpoint(dataset, tmp_path):
    """Ctrl-C ends `tee` as well, so that nobody reads the progress any more."""
    run = tmp_path / "run"
    with program(dataset, run, steps=5000, log_every=1, checkpoint_every=5000) as process:
        wait_for_lines(run, 1, process)
        process.stderr.close()
        process.send_signal(signal.SIGINT)
    assert process.returncode
    assert 0 < torch.load(run / "checkpoint.pt", weights_only=True)["step"] < 5000


def test_every_step_has_random_numbers_of_its_own(dataset, tmp_path, monkeypatch):
    real_loss_terms, drawn = trainer.loss_terms, []

    def recording_loss_terms(*arguments):
        drawn.append(torch.get_rng_state())
        return real_loss_terms(*arguments)

    monkeypatch.setattr(trainer, "loss_terms", recording_loss_terms)
    train(small_config(steps=4, color_jitter=0.0), [dataset], tmp_path / "run")
    assert len({bytes(state.numpy()) for state in drawn}) == 4


def test_the_averaged_weights_are_validated(dataset, tmp_path):
    train(small_config(precision="float32"), [dataset], tmp_path)
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    figures, _ = validate(Detector.load(tmp_path), PairDataset(dataset, "val"))
    assert {name: last[f"validation_{name}"] for name in figures} == pytest.approx(figures, abs=0.01)


def test_a_second_ctrl_c_stops_at_once(dataset, tmp_path, monkeypatch):
    def interrupted_twice(*_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the step went on")

    monkeypatch.setattr(trainer, "loss_terms", interrupted_twice)
    with pytest.raises(KeyboardInterrupt):
        train(small_config(), [dataset], tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_every_line_of_the_log_has_a_loss(dataset, tmp_path):
    train(small_config(steps=6, log_every=4, validate_every=3, checkpoint_every=6), [dataset], tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [line["step"] for line in lines] == [3, 4, 6]
    assert [line["step"] for line in lines if "validation_error_mean_deg" in line] == [3, 6]


def test_an_axis_whose_flag_no_view_tells(dataset):
    pairs, config = PairDataset(dataset, "train"), small_config(axes=("x", "y"))
    assert settle(config, "cpu", pairs).axes == ("x", "y")
    pairs.object_to_camera[..., 0, 1] = 0  # as of cameras that stand upright
    with pytest.raises(UserError, match="axes x,y: y points neither right nor left in any view of .*--roll-degrees"):
        settle(config, "cpu", pairs)


def test_spatial_consistency_counts_in_the_second_half(finished_run):
    lines = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    for line in (line for line in lines if "loss" in line):
        counted = dataclasses.asdict(small_config().weights)
        counted["spatial_consistency"] = 2.0 if line["step"] > STEPS / 2 else 0.0
        loss = sum(weight * line[name] for name, weight in counted.items() if name in line)
        assert line["loss"] == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize(
    "stop_at, number", [(2, signal.SIGINT), (5, signal.SIGTERM)], ids=["before the first checkpoint", "after it"]
)
def test_interrupted_run_goes_on_to_the_same_weights(dataset, finished_run, tmp_path, monkeypatch, stop_at, number):
    real_loss_terms = trainer.loss_terms

    def interrupting_loss_terms(network, batch, config, step):
        if step == stop_at:
            assert signal.getsignal(number) != signal.SIG_DFL  # which would end all tests
            os.kill(os.getpid(), number)
        return real_loss_terms(network, batch, config, step)

    monkeypatch.setattr(trainer, "loss_terms", interrupting_loss_terms)
    with pytest.raises(KeyboardInterrupt):
        train(small_config(), [dataset], tmp_path / "run")
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == stop_at + 1
    monkeypatch.undo()
    train(small_config(), [dataset], tmp_path / "run", resume=True)
    assert_same_weights(tmp_path / "run", finished_run)


def test_killed_run_goes_on_to_the_same_weights(dataset, tmp_path):
    """kill -9 at a random moment: in a step, while a checkpoint is written (here after every step), mid-epoch."""
    chance = random.Random(0)
    run, settings = tmp_path / "run", dict(steps=40, log_every=1, validate_every=1000)
    train(small_config(**settings), [dataset], tmp_path / "undisturbed")
    with program(dataset, run, **settings, checkpoint_every=1) as process:
        wait_for_lines(run, chance.randint(1, 25), process)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
    assert process.returncode == -signal.SIGKILL
    train(small_config(**settings), [dataset], run, resume=True)
    assert_same_weights(run, tmp_path / "undisturbed")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 41))


def test_run_killed_before_its_first_checkpoint_starts_anew(dataset, finished_run, tmp_path):
    (tmp_path / "config.json").write_bytes((finished_run / "config.json").read_bytes())
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 2, "loss": 1.0}}\n\0\0\n{"[" * 99_999}\n{{"step": 4, "lo')
    train(small_config(), [dataset], tmp_path, resume=True)
    assert_same_weights(tmp_path, finished_run)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8]


def test_starting_from_other_weights(dataset, finished_run, tmp_path):
    config = small_config(init_from=str(finished_run), learning_rate=0.0, weight_decay=0.0, steps=1)
    train(config, [dataset], tmp_path / "run")
    ours, theirs = weights(tmp_path / "run"), weights(finished_run)
    assert torch.equal(ours["head.weight"], theirs["head.weight"])
    told = [json.loads((run / "training_data.json").read_text()) for run in (tmp_path / "run", finished_run)]
    assert told[0]["init_from"] == told[1]


def test_weights_to_start_from_are_named_for_any_working_folder(dataset, finished_run, tmp_path, monkeypatch):
    shutil.copytree(finished_run, tmp_path / "start")
    monkeypatch.chdir(tmp_path)
    train(small_config(init_from="start", steps=1), [dataset], tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["init_from"] == str(tmp_path / "start")
    for name in ("checkpoint.pt", "model.safetensors", "metrics.jsonl"):  # as of a run that was killed before its first
        (tmp_path / "run" / name).unlink()
    train(small_config(init_from="start", steps=1), [dataset], tmp_path / "run", resume=True)
    before = weights(tmp_path / "run")
    for name in ("checkpoint.pt", "model.safetensors", "metrics.jsonl"):
        (tmp_path / "run" / name).unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    train(load_config(tmp_path / "run"), [dataset], tmp_path / "run", resume=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(tmp_path / "run").items())


def test_going_on_needs_no_more_the_weights_that_it_started_from(dataset, finished_run, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(finished_run, start)
    config = small_config(init_from=str(start))
    train(config, [dataset], tmp_path / "run")
    shutil.rmtree(start)
    train(dataclasses.replace(config, steps=STEPS + 2), [dataset], tmp_path / "run", resume=True)
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == STEPS + 2


@pytest.mark.parametrize("name", ["config.json", "checkpoint.pt", "model.safetensors", "metrics.jsonl"])
def test_taken_run_folder_is_refused(dataset, tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(UserError, match="holds a run already.*--resume"):
        train(small_config(), [dataset], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "precious"


def test_a_dataset_is_no_run_folder(dataset, tmp_path):
    forgotten = Path(shutil.copytree(dataset, tmp_path / "data"))
    before = sorted(path.name for path in forgotten.iterdir())
    with pytest.raises(UserError, match="a dataset, not a run"):
        train(small_config(), [dataset], forgotten)
    assert sorted(path.name for path in forgotten.iterdir()) == before


def test_two_trainings_in_one_folder_are_refused(dataset, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with open(run / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another training is writing to it"):
            train(small_config(), [dataset], run)
    assert not (run / "config.json").exists()


def test_resume_refuses_other_settings_data_and_folders(dataset, finished_run, tmp_path):
    with pytest.raises(UserError, match="width = 4, not 8"):
        train(small_config(width=8), [dataset], finished_run, resume=True)
    with pytest.raises(UserError, match="no run to resume"):
        train(small_config(), [dataset], tmp_path / "nothing", resume=True)
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match="no config.json.*: restore it, or train into another folder"):
        train(small_config(), [dataset], tmp_path, resume=True)
    with pytest.raises(UserError, match="started with supervised = False, not True"):
        train(small_config(supervised=True, mirror=False), [dataset], finished_run, resume=True)
    recoloured = tmp_path / "recoloured"
    models = [make_model(number) for number in range(12)]
    parts = [write_part(tmp_path, dataclasses.replace(model, rgba=model.rgba // 2)) for model in models]
    assemble(recoloured, parts, make_manifest())
    farther, away = tmp_path / "farther", np.zeros((4, 4))
    away[2, 3] = 3
    parts = [
        write_part(tmp_path, dataclasses.replace(model, object_to_camera=model.object_to_camera + away))
        for model in models
    ]
    assemble(farther, parts, make_manifest())
    for others in ([dataset, recoloured], [recoloured], [farther]):
        with pytest.raises(UserError, match="was started with other pairs"):
            train(small_config(), others, finished_run, resume=True)
    with pytest.raises(UserError, match="8 steps are done already"):
        train(small_config(steps=6), [dataset], finished_run, resume=True)
    assert json.loads((finished_run / "config.json").read_text())["steps"] == STEPS


def test_resume_keeps_the_precision_of_the_machine_that_began(dataset, tmp_path, monkeypatch):
    for bfloat16 in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bfloat16)
        train(
            small_config(precision="auto", steps=2 if bfloat16 else 3), [dataset], tmp_path / "run", resume=not bfloat16
        )
    assert json.loads((tmp_path / "run" / "config.json").read_text())["precision"] == "bfloat16"


@pytest.mark.parametrize("damage", ["cut off", "a bit flipped", "of another network", "not a checkpoint"])
def test_damaged_checkpoint_gets_one_clear_line_and_the_one_before_serves(dataset, finished_run, tmp_path, damage):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    newest, content = run / "checkpoint.pt", bytearray((run / "checkpoint.pt").read_bytes())
    if damage == "cut off":
        newest.write_bytes(content[: len(content) // 2])
    elif damage == "a bit flipped":
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
    elif damage == "of another network":
        state = torch.load(newest, weights_only=True)
        torch.save({**state, "network": {"weight": torch.zeros(3)}}, newest)
    else:
        newest.write_text("{}")
    bad = newest.read_bytes()
    with pytest.raises(UserError, match="checkpoint.pt: damaged, .*: delete it, .* checkpoint-previous.pt") as error:
        train(small_config(), [dataset], run, resume=True)
    assert "\n" not in str(error.value) and newest.read_bytes() == bad
    assert torch.load(run / "checkpoint-previous.pt", weights_only=True)["step"] == 4
    newest.unlink()
    train(small_config(), [dataset], run, resume=True)
    assert_same_weights(run, finished_run)


def test_a_run_that_lost_its_checkpoint_keeps_its_weights(dataset, finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run, ignore=shutil.ignore_patterns("checkpoint*"))
    with pytest.raises(UserError, match="has weights but no checkpoint.pt to go on from: .*--init-from"):
        train(small_config(), [dataset], run, resume=True)
    assert_same_weights(run, finished_run)


def test_a_run_killed_between_its_checkpoint_and_its_weights_gets_them(dataset, finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run, ignore=shutil.ignore_patterns("model.safetensors"))
    train(small_config(), [dataset], run, resume=True)
    assert_same_weights(run, finished_run)


def test_settings_are_written_as_they_were_resolved(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for precision in ("float32", "bfloat16"):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: precision == "bfloat16")
        train(small_config(device="auto", steps=1), [dataset], tmp_path / precision)
        settings = json.loads((tmp_path / precision / "config.json").read_text())
        assert settings["device"] == "cpu" and settings["precision"] == precision
    heads = [weights(tmp_path / precision)["head.weight"] for precision in ("float32", "bfloat16")]
    assert not torch.equal(*heads)


def test_files_follow_the_umask(dataset, finished_run):
    expected = 0o666 & ~current_umask()
    for name in ("config.json", "checkpoint.pt", "checkpoint-previous.pt", "model.safetensors", "metrics.jsonl"):
        assert stat.S_IMODE((finished_run / name).stat().st_mode) == expected, name


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_available_memory_is_that_of_the_container_where_there_is_one(tmp_path):
    assert 2**28 < loader.available_memory() < 2**44
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable:    5000 kB\n")
    assert loader.available_memory(tmp_path) == 5000 * 1024
    cgroup = tmp_path / "sys/fs/cgroup"
    cgroup.mkdir(parents=True)
    for name, text in {"max": "1000\n", "current": "900\n", "stat": "anon 500\ninactive_file 400\n"}.items():
        (cgroup / f"memory.{name}").write_text(text)
    assert loader.available_memory(tmp_path) == 500
    (cgroup / "memory.max").write_text("max\n")
    assert loader.available_memory(tmp_path) == 5000 * 1024


def test_images_that_do_not_fit_in_memory_are_read_from_the_shards(dataset, finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "available_memory", lambda: 1000)
    monkeypatch.setattr(PairDataset, "load", lambda *_: pytest.fail("loaded all images"))
    train(small_config(), [dataset], tmp_path / "run")
    assert (tmp_path / "run/model.safetensors").read_bytes() == (finished_run / "model.safetensors").read_bytes()


@pytest.mark.parametrize("bad_step, log_step", [(4, 6), (5, 6), (7, 8)])
def test_loss_that_is_not_finite_stops_the_run(dataset, tmp_path, monkeypatch, bad_step, log_step):
    real_loss_terms = trainer.loss_terms

    def exploding_loss_terms(network, batch, config, step):
        terms = real_loss_terms(network, batch, config, step)
        return {**terms, "pose": terms["pose"] * (float("nan") if step == bad_step else 1)}

    monkeypatch.setattr(trainer, "loss_terms", exploding_loss_terms)
    with pytest.raises(UserError, match=f"the loss is nan by step {log_step}.*--learning-rate"):
        train(small_config(), [dataset], tmp_path / "run")
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 4
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "run").values())


def test_gradient_that_is_not_finite_is_not_saved(dataset, tmp_path, monkeypatch):
    real_loss_terms = trainer.loss_terms

    def loss_terms_with_a_pole(network, batch, config, step):
        terms = real_loss_terms(network, batch, config, step)
        zero = terms["pose"] * 0
        return {**terms, "pose": terms["pose"] + (zero.sqrt() if step == 7 else 0)}

    monkeypatch.setattr(trainer, "loss_terms", loss_terms_with_a_pole)
    with pytest.raises(UserError, match="the gradient_norm is nan by step 8.*--learning-rate"):
        train(small_config(), [dataset], tmp_path / "run")
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 4
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "run").values())


def test_a_full_disk_names_the_file_and_how_to_go_on(dataset, tmp_path, monkeypatch):
    def full(self, step, values):
        raise OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl")

    monkeypatch.setattr(Logger, "write", full)
    with pytest.raises(UserError, match="metrics.jsonl: the disk is full: .* --resume"):
        train(small_config(), [dataset], tmp_path / "run")
    monkeypatch.undo()
    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", lambda *_: full(*[None] * 3))
    tracebacks = []
    monkeypatch.setattr(threading, "excepthook", tracebacks.append)
    with pytest.raises(UserError, match="the disk is full: .* --resume"):
        train(small_config(steps=200, log_every=1), [dataset], tmp_path / "board")
    assert not tracebacks and threading.excepthook == tracebacks.append
    (tmp_path / "file").write_text("not a run")
    with pytest.raises(OSError):  # nothing to resume yet, so the command line tells to name a folder
        train(small_config(), [dataset], tmp_path / "file")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_steps_keep_the_memory_they_free(dataset):
    """Memory that is taken anew, page by page, counts as page faults."""
    code = f"""if True:
        import resource, sys
        from pathlib import Path
        from data.dataset import PairDataset
        from train.config import make_config
        from train.loader import make_pair_loader
        from train.trainer import keep_freed_memory, settle, start, training_step
        if "kept" in sys.argv:
            keep_freed_memory()
        pairs = PairDataset([Path({str(dataset)!r})], "train")
        config = settle(make_config("cpu", batch_size=8, steps=10), "cpu", pairs)
        state, faults = start(config), []
        for step, stored in enumerate(make_pair_loader(pairs, config, 0, "cpu")):
            training_step(state.network, state, pairs, config, stored, step)
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        print(faults[-1] - faults[2])
    """
    given_back, kept = (
        int(subprocess.run([sys.executable, "-c", code, word], stdout=subprocess.PIPE, cwd=ROOT, check=True).stdout)
        for word in ("given-back", "kept")
    )
    assert kept < given_back / 4


def test_unknown_preset_and_setting():
    with pytest.raises(UserError, match="preset 'big' is unknown"):
        make_config("big")
    with pytest.raises(UserError, match="unknown training setting 'speed'"):
        make_config("cpu", speed=2)
    with pytest.raises(UserError, match="unknown weight 'beauty'"):
        make_config("cpu", {"beauty": 2.0})


def test_settings_that_no_network_can_have():
    with pytest.raises(UserError, match="image_size 72: with reduction 4, give a multiple of 32"):
        make_config("cpu", image_size=72)
    with pytest.raises(UserError, match="margin 0.5: give 1 to 10"):
        make_config("cpu", margin=0.5)
    with pytest.raises(UserError, match="reduction 3 is unknown: choose one of 2, 4, 8"):
        make_config("cpu", reduction=3)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"keypoints": 2}, "keypoints 2: give 3 to 1000"),
        ({"steps": 0}, "steps 0: give 1"),
        ({"validate_every": 0}, "validate_every 0: give 1"),
        ({"seed": -1}, "seed -1: give 0"),
        ({"learning_rate": float("nan")}, "learning_rate nan: give"),
        ({"axes": ("w",)}, "axes w: give one or more of x, y and z"),
        ({"axes": ("x", "x")}, "axes x,x: .* each once"),
        ({"axes": ()}, "axes : give one or more"),
        ({"weights": {"pose": -1.0}}, "weight of pose -1.0: give 0 or more"),
        ({"width": 24.0}, "width 24.0: give a value of type int"),
        ({"mirror": "no"}, "mirror 'no': give a value of type bool"),
        ({"weights": {"pose": True}}, "pose True: give a value of type float"),
        ({"anneal_start": 0.9}, "anneal_start 0.9: is after anneal_end 0.5"),
        ({"network": "paper"}, "one flag, of x, and no mirror images: add --axes x --no-mirror"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(UserError, match=message):
        make_config("cpu", **settings)


@pytest.mark.parametrize(
    "name, settings, option",
    [
        ("supervision", {}, "--supervised"),
        ("mirror_separation", {"mirror": False}, "--mirror"),
        ("uncertainty", {"network": "paper", "axes": ("x",), "mirror": False, "margin": 0.0}, "--network compact"),
        ("separation", {"supervised": True, "mirror": False}, "--no-supervised"),
        ("mirror_separation", {"supervised": True, "mirror": False}, "--no-supervised"),
    ],
)
def test_weights_of_terms_that_are_not_there(name, settings, option):
    with pytest.raises(UserError, match=f"weight of {name}: without {option} there is no such term"):
        make_config("cpu", {name: 1.0}, **settings)
    assert getattr(make_config("cpu", {name: 0.0}, **settings).weights, name) == 0


def test_weights_of_terms_replace_the_presets_one_by_one():
    assert dataclasses.asdict(make_config("cpu", {"pose": 9.0}).weights) == {
        **dataclasses.asdict(make_config("cpu").weights), "pose": 9.0
    }  # fmt: skip


@pytest.mark.parametrize("name", CHOICES)
def test_unknown_names_in_settings(name):
    with pytest.raises(UserError, match=f"{name} 'best' is unknown: choose one of "):
        make_config("cpu", **{name: "best"})


def test_config_survives_json():
    config = small_config(axes=("x",))
    assert config_from_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_paper_preset_is_the_papers():
    config = make_config("paper")
    assert (config.steps, config.batch_size, config.learning_rate) == (200_000, 256, 1e-3)
    assert (config.delta, config.noise, config.noise_end, config.gradient_clip) == (0.05, 0.1, 0.1, 5.0)
    assert dataclasses.asdict(config.weights) == dict(
        consistency=1, pose=0.2, separation=1, silhouette=1, variance=0.5, orientation=1, supervision=1, uncertainty=0,
        spatial_consistency=0, canonical_consistency=0, mirror_separation=0, object_distance=0,
    )  # fmt: skip
    # annealed linearly between steps 30 000 and 60 000
    assert [schedules.flag_anneal(config, step) for step in (0, 30_000, 45_000, 60_000, 199_999)] == [1, 1, 0.5, 0, 0]
    assert schedules.learning_rate(config, 0) == schedules.learning_rate(config, 199_999) == 1e-3


def test_learning_rate_warms_up_and_decays():
    config = small_config(steps=100, warmup_steps=10, learning_rate=1.0)
    assert schedules.learning_rate(config, 0) == pytest.approx(0.1)
    assert schedules.learning_rate(config, 50) == pytest.approx(0.5)
    assert schedules.learning_rate(config, 99) < 1e-3


def test_spatial_consistency_waits_for_the_flags():
    config = small_config(steps=100, anneal_start=0.2, anneal_end=0.5)
    assert [schedules.loss_weights(config, step).spatial_consistency for step in (0, 49, 50, 99)] == [0, 0, 2, 2]
    assert schedules.loss_weights(config, 0) == dataclasses.replace(config.weights, spatial_consistency=0)
    assert config.weights.spatial_consistency == 2


def test_a_step_down_is_clipped_and_as_long_as_the_schedule_says():
    network = torch.nn.Linear(2, 1, bias=False)
    before = network.weight.detach().clone()
    network.weight.grad = torch.tensor([[30.0, 40.0]])
    config = small_config(steps=100, warmup_steps=60, learning_rate=0.1, gradient_clip=5.0)
    optimizer = Optimizers(list(network.parameters()), torch.optim.SGD(network.parameters(), lr=1.0))
    assert optimizer_step(network, optimizer, config, step=50) == 50
    expected = 0.1 * 51 / 60 * 0.5 * torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(before - network.weight, expected)
    assert network.weight.grad is None


def test_bfloat16_is_not_chosen_where_a_gpu_only_emulates_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not uses_bfloat16(small_config(precision="auto"), "cuda")


def test_steps_may_be_tensors():
    """As in a CUDA graph."""
    config = small_config(steps=100, warmup_steps=10, anneal_start=0.4, anneal_end=0.5, average_decay=0.9)
    for step in (0, 5, 45, 49, 50, 99):
        for schedule in (
            schedules.flag_anneal,
            schedules.learning_rate,
            schedules.noise,
            schedules.average_weight,
            lambda *args: schedules.loss_weights(*args).spatial_consistency,
        ):
            assert schedule(config, torch.tensor(step)).item() == pytest.approx(schedule(config, step), abs=1e-6)


@pytest.mark.parametrize("optimizer", ("adam", "muon"))
def test_a_step_that_is_a_tensor_learns_the_same(dataset, optimizer):
    pairs = PairDataset(dataset, "train")
    config = small_config(precision="float32", average_decay=0.5, warmup_steps=0, optimizer=optimizer)
    results = []
    for number in (int, torch.tensor, None):
        state = start(config)
        for step in range(3) if number else ():
            torch.manual_seed(step)
            values = training_step(
                state.network, state, pairs, config, pairs.batch(range(config.batch_size)), number(step)
            )
        learned = [  # heat maps do not depend on their bias: all of its gradient is rounding
            weights.flatten() for name, weights in state.average.network.named_parameters() if name != "head.bias"
        ]
        results.append(torch.cat(learned))
    assert not any(value.requires_grad for value in values.values())
    one, other, initial = results
    assert (one - other).norm() < 5e-2 * (one - initial).norm()  # rounding: Muon works in bfloat16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("preset", ("cpu", "paper"))
def test_a_cuda_graph_learns_what_single_steps_learn(dataset, tmp_path, preset):
    lines = []
    for graph in (True, False):
        settings = {**SMALL, "device": "cuda", "steps": 30, "log_every": 10, "batch_size": 8, "width": 8}
        config = make_config(preset, cuda_graph=graph, **settings)
        train(config, [dataset], run := tmp_path / str(graph))
        logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        lines.append([line for line in logged if "loss" in line])
    for ours, theirs in zip(*lines, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.1), ours["step"]
        assert ours["learning_rate"] == theirs["learning_rate"]


@pytest.mark.parametrize("decay, expected", [(0.2, 0.2 * (1.9 * 2 / 11 + 4 * 9 / 11) + 0.8 * 8), (0.0, 8.0)])
def test_averaged_weights_forget_their_start(decay, expected):
    network = torch.nn.BatchNorm1d(1)
    network.running_mean.fill_(1)
    average, config = MovingAverage(network), small_config(average_decay=decay)
    for step, value in enumerate((2.0, 4.0, 8.0)):  # kept are 1/10, 2/11 and, for 3/12 is more, the decay
        torch.nn.init.constant_(network.weight, value)
        network.running_mean.fill_(value)
        network.num_batches_tracked += 1
        average.update(schedules.average_weight(config, step))
    assert average.network.weight.item() == average.network.running_mean.item() == pytest.approx(expected)
    assert average.network.num_batches_tracked == 3 and network.weight.item() == 8


class Knowing(torch.nn.Module):
    """Finds ``points`` (B, N, 3) of a batch's objects where they are, with flat heat maps; keeps what it was asked."""

    in_channels, axes, normalizes_views_apart = 4, ("x", "z"), False

    def __init__(self, batch, points):
        super().__init__()
        self.poses, self.intrinsics = batch.object_to_camera.flatten(0, 1), batch.intrinsics.flatten(0, 1)
        self.points = points.repeat_interleave(2, dim=0)

    def forward(self, images, flags, anneal, zoom, mirrored):
        self.images, self.flags, self.anneal, self.mirrored = images, flags, anneal, mirrored
        keypoints = project(self.intrinsics, transform_points(self.poses, self.points))
        ends = losses.axis_end_projections(self.poses, self.intrinsics, self.axes)
        count = keypoints.shape[:2]
        return Prediction(keypoints, torch.full((*count, 6, 6), 1 / 36), ends, flags, torch.full(count, 0.1))


def knowing(dataset, config):
    pairs = PairDataset(dataset, "train")
    stored = pairs.batch([0, 1, 2, 3, 4, 6])
    stored["model_index"].zero_()  # nothing is to be taken from it
    batch = prepare(stored, pairs, config, step=0)
    return Knowing(batch, pairs.semantic_keypoints[stored["shape_index"]]), batch


def test_terms_of_a_network_that_knows_all(dataset):
    config = small_config(noise=0.0, noise_end=0.0, delta=0.01)
    config.weights.object_distance = 1.0
    network, batch = knowing(dataset, config)
    terms = loss_terms(network, batch, config, step=0)
    centers = project(network.intrinsics, transform_points(network.poses, network.points))[..., :2].unflatten(0, (6, 2))
    spread = batch.zoom.square() * 2 / 3 * (1 - 1 / 36) - centers.square().sum(-1).mean(-1)
    shapes = network.points[::2] - network.points[::2].mean(1, keepdim=True)
    offset = network.points.mean(1) - network.points.mean((0, 1))
    sideways = torch.linalg.cross(offset, network.poses[:, 2, :3]).square().sum(-1).unflatten(0, (6, 2)).mean(1)
    apart = ((shapes - shapes.mean(0)).square().sum(-1).mean(1) + sideways) / shapes.square().sum(-1).mean()
    gaps = network.points[::2, :1, 0] - network.points[::2, 1:2, 0]  # of three keypoints two are a pair
    covered = torch.nn.functional.adaptive_max_pool2d(batch.mask, 48).flatten(2) > 0
    pixels = pixel_grid(48, 48, like=centers).flatten(1).T
    squares = (centers / batch.zoom[..., None, None]).flatten(0, 1)
    objects = [pixels[c] for c in covered.flatten(0, 1)]
    nearest = torch.stack([o[torch.cdist(p, o).argmin(-1)] for p, o in zip(squares, objects)])
    beside = ((squares - nearest).abs() - 1 / 48).clamp(min=0).norm(dim=-1).mean(-1).unflatten(0, (6, 2)).sum(1)
    expected = dict(
        mirror_separation=2 * (0.05 - gaps).clamp(min=0).mean(1),
        consistency=0, spatial_consistency=0, canonical_consistency=apart, pose=0, orientation=0, separation=0.01,
        variance=spread.sum(1), object_distance=beside,
        silhouette=-batch.mask.mean((2, 3)).log().sum(1), uncertainty=1.5 * math.log(2 * 0.1**2),
    )  # fmt: skip
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        value = torch.as_tensor(value, dtype=torch.float32).expand(6)
        torch.testing.assert_close(terms[name], value, atol=1e-4, rtol=1e-4, msg=name)


def test_without_mirror_separation_pairs_are_kept_apart_as_all_others(dataset):
    far = small_config(delta=100)
    off = dataclasses.replace(far, weights=dataclasses.replace(far.weights, mirror_separation=0))
    apart, together = (loss_terms(*knowing(dataset, config), config, step=0) for config in (far, off))
    assert apart["mirror_separation"].min() > 1 and "mirror_separation" not in together
    assert (apart["separation"] < together["separation"]).all()


def test_labels_are_those_of_each_view(dataset):
    config = small_config(supervised=True, mirror=False, keypoints=3)
    terms = loss_terms(*knowing(dataset, config), config, step=0)
    assert terms["supervision"].max() < 1e-6


def test_noise_of_the_pose_term_fades(dataset):
    config = small_config(noise=0.004, noise_end=0.002, mirror=False)
    network, batch = knowing(dataset, config)
    angles = []
    for step in (0, STEPS // 4):
        torch.manual_seed(0)
        angles.append(loss_terms(network, batch, config, step)["pose"].mean().item())
    assert 0.001 < angles[0] < 0.1 and angles[1] / angles[0] == pytest.approx(3.5 / 4, rel=0.01)


def test_predicted_flags_count_near_where_a_flag_changes(dataset):
    config = small_config(steps=100, anneal_start=0.4, anneal_end=0.5, flag_margin=0.3)
    network, batch = knowing(dataset, config)
    loss_terms(network, batch, config, step=45)
    rightward = network.poses[:, 0, [0, 2]]
    near = rightward.abs() < 0.3
    assert 0.2 < near.float().mean() < 0.8
    assert torch.equal(network.anneal, torch.where(near, 0.5, 1.0))
    assert torch.equal(network.flags, (rightward > 0).float())


def test_half_of_the_views_are_mirrored(dataset):
    torch.manual_seed(0)
    for mirror in (True, False):
        config = small_config(mirror=mirror)
        network, batch = knowing(dataset, config)
        torch.manual_seed(0)
        loss_terms(network, batch, config, step=0)
        if mirror:
            mirrored = network.mirrored.unflatten(0, (6, 2))
            torch.manual_seed(0)
            assert torch.equal(mirrored, torch.rand(6, 2) < 0.5)
            assert mirrored.any() and not mirrored.all() and (mirrored[:, 0] != mirrored[:, 1]).any()
        else:
            assert network.mirrored is None
        assert torch.equal(network.images, batch.images.flatten(0, 1))


def test_batches_are_prepared_as_the_settings_say(dataset):
    torch.manual_seed(0)
    pairs = PairDataset(dataset, "train")
    stored = pairs.batch([0, 1, 2])  # of one shape
    plain, framed, jittered = (
        prepare(stored, pairs, small_config(batch_size=3, **settings), step=1)
        for settings in (dict(color_jitter=0.0, cross_pairs=False, margin=0.0), dict(color_jitter=0.0), {})
    )
    assert plain.mates is None and torch.equal(plain.zoom, torch.ones(3, 2))
    assert jittered.mates.tolist() == [0, 2, 1]  # the second three of a stream: the first one's mate was in the first
    torch.testing.assert_close(framed.zoom, torch.full((3, 2), 1.15 * 12 / 16))
    assert torch.equal(jittered.images[:, :, 3], framed.images[:, :, 3])
    assert ((jittered.images - framed.images).abs().mean((2, 3, 4)) > 0.01).all()


class Certain(Oracle):
    """Takes its first keypoint, which is far off, for the worst by far."""

    def __init__(self, dataset):
        super().__init__(dataset)
        self.network = SimpleNamespace(axes=self.config.axes)

    def detect(self, rgba):
        found = super().detect(rgba)
        found.keypoints[..., 0, :] += 9
        return dataclasses.replace(found, sigma=np.where(np.arange(5), 0.01, 1e3) * np.ones((len(rgba), 2, 1)))


def test_validation_figures_of_a_detector_that_knows_all(tmp_path):
    pairs = PairDataset(make_balls(tmp_path / "pairs"), "test")
    with Logger(tmp_path, 0, 1) as logger:
        figures, picture = validate(Certain(pairs), pairs)
        logger.show_validation(1, figures, picture)
        logger.write(1, figures)
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, **figures}
    assert figures["error_mean_deg"] < 0.01 > figures["error_median_deg"] and figures["orientation_accuracy"] == 1


@pytest.mark.parametrize("optimizer", ("adam", "muon"))
def test_weight_decay_spares_biases_and_norms(optimizer):
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    decayed, spared = make_optimizer(small_config(weight_decay=0.1, optimizer=optimizer), network).param_groups
    assert [p.numel() for p in decayed["params"]] == [18] and decayed["weight_decay"] == 0.1
    assert {p.ndim for p in spared["params"]} == {1} and spared["weight_decay"] == 0


def test_supervised_runs_learn_the_labels_there_are(dataset, tmp_path):
    with pytest.raises(UserError, match="--no-mirror"):
        train(small_config(supervised=True), [dataset], tmp_path / "run")
    train(small_config(supervised=True, mirror=False), [dataset], tmp_path / "run")
    names = PairDataset(dataset, "train").keypoint_names
    assert Detector.load(tmp_path / "run").num_keypoints == len(names) > 0
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert "supervision" in line and "consistency" not in line


def test_it_learns(tmp_path):
    """A thirteenth of the preset's steps on built-in aeroplanes brings unseen ones far below chance
    (a median of 90 degrees)."""
    render_dataset(
        RenderConfig(
            out=tmp_path / "planes",
            category="airplane",
            models=300,
            pairs_per_model=8,
            splits=(0.85, 0.0, 0.15),
            views=ViewSettings(image_size=64),
            progress=False,
        )
    )
    train(make_config("cpu", steps=450, device="cpu"), [tmp_path / "planes"], tmp_path / "run")
    evaluation, _ = evaluate(tmp_path / "run", [tmp_path / "planes"], tmp_path / "eval")
    assert evaluation.metrics["angular_error_median_deg"] < 25
    assert evaluation.metrics["silhouette_hit_rate"] > 0.9


def test_labels_of_bent_shapes_cannot_be_learned(tmp_path):
    make_dataset(tmp_path / "bent", range(3), split="train", labelled=False)
    with pytest.raises(UserError, match="no semantic keypoints to learn: .* without --stretch and --warp"):
        train(small_config(supervised=True, mirror=False), [tmp_path / "bent"], tmp_path / "run")


def test_a_damaged_validation_split_is_told(tmp_path):
    pairs = make_dataset(tmp_path / "pairs")
    next(pairs.glob("val-*.h5")).write_bytes(b"damaged")
    with pytest.raises(UserError, match="val-00000.h5: damaged"):
        train(small_config(), [pairs], tmp_path / "run")
    assert open_validation(PairDataset(make_dataset(tmp_path / "all", split="train"), "train")) is None


def test_weights_of_another_network_say_which_option_is_missing(finished_run, dataset, tmp_path):
    for settings, advice in (
        ({"width": 8}, "another width: add --width 4"),
        ({"mirror": False}, "another mirror: add --mirror"),
        ({"axes": ("z", "x")}, "another axes: add --axes x,z"),
        ({"image_size": 64}, "another image_size: add --image-size 96"),
    ):
        with pytest.raises(UserError, match=advice):
            train(small_config(init_from=str(finished_run), **settings), [dataset], tmp_path / "run")


def test_pairs_of_a_model_come_two_by_two(dataset):
    """Five models have three pairs each: a couple, and a rest of five of which the last comes twice."""
    batches = loader.make_pair_loader(PairDataset(dataset, "train"), small_config(batch_size=8), 0, "cpu")
    epoch = torch.cat([stored["shape_index"] for stored, _ in zip(batches, range(2))]).view(-1, 2)
    assert (epoch[:, 0] == epoch[:, 1]).sum() == 6


def test_couples_of_pairs_are_not_cut_between_processes(dataset, monkeypatch):
    monkeypatch.setattr(loader.distributed, "world_size", lambda: 2)
    pairs = PairDataset(dataset, "train")
    with pytest.raises(UserError, match="batch size 6: 2 processes .* a multiple of 4, or --no-cross-pairs"):
        loader.make_pair_loader(pairs, small_config(batch_size=6), 0, "cpu")
    loader.make_pair_loader(pairs, small_config(batch_size=6, cross_pairs=False), 0, "cpu")
    loader.make_pair_loader(pairs, small_config(batch_size=8), 0, "cpu")
