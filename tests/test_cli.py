"""The command line: help, options read from the settings, errors in one line, and every command once for real."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.shell_completion import ShellComplete
from PIL import Image

import cli
from data.errors import UserError

ROOT = Path(cli.__file__).parent
# What other programs rely on: arguments and options of every command.
CONTRACT = {
    "render": (
        "OUT",
        "--category --meshes --models --pairs-per-model --image-size --seed --workers --splits --task --ray --backend "
        "--strict",
    ),
    "train": ("DATASET... RUN", "--preset --keypoints --steps --batch-size --seed --device --resume"),
    "eval": ("RUN [RUN...] DATASET...", "--split --out --symmetry"),
    "compare": ("EVALUATION...", "--out"),
    "predict": ("RUN IMAGE...", "--out --mask --background --intrinsics --object-length"),
    "pose": ("RUN A B", "--intrinsics --object-length"),
    "spin": ("RUN MESH OUT", ""),
    "view": ("RUN MESH", ""),
    "inspect": ("DATASET", "--verify --preview --json"),
    "export": ("RUN FILE.onnx", ""),
    "merge": ("OUT DATASET...", ""),
    "export-data": ("DATASET OUT", "--to"),
    "doctor": ("", ""),
}


def run(*arguments: object) -> int:
    """Exit status of the command line, run in this process."""
    with pytest.raises(SystemExit) as exit:
        cli.main([str(argument) for argument in arguments])
    return exit.value.code or 0


def one_line(capsys) -> str:
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1, (out, err)
    return err


def option(command: str, argument: str) -> click.Option:
    return next(param for param in cli.commands.commands[command].params if param.name == argument)


@pytest.mark.parametrize("command", cli.commands.commands)
def test_help_has_an_example(command, capsys):
    assert run(command, "--help") == 0
    assert re.search(rf"^  Examples?:\n    keypointnet {command}\b", capsys.readouterr().out, re.MULTILINE)


def test_settings_are_listed_under_headings(capsys):
    run("render", "--help")
    text = capsys.readouterr().out
    for heading, first in ("Cameras", "--image-size"), ("Light", "--sky"), ("Domain randomisation.*", "--recolor"):
        assert re.search(rf"\n\n{heading}:\n  {first} ", text)
    assert text.count("\n\nOptions:\n") == 1 and text.count("\n  --sky ") == 1


@pytest.mark.parametrize("command", CONTRACT)
def test_contract(command, capsys):
    arguments, options = CONTRACT[command]
    run(command, "--help")
    text = capsys.readouterr().out
    assert f"Usage: keypointnet {command} [OPTIONS] {arguments}".rstrip() in text
    words = text.replace(",", " ").split()
    assert [name for name in options.split() if name not in words] == []


def test_help_imports_nothing_heavy():
    script = """
import sys, cli
for command in [[], *([name] for name in cli.commands.commands)]:
    try: cli.main([*command, "--help"])
    except SystemExit as exit: assert exit.code == 0
heavy = {"numpy", "torch", "h5py", "trimesh", "pyrender", "PIL", "tqdm"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def settings_classes():
    from render.config import RenderConfig
    from render.shading import Light
    from render.variety import Variety
    from render.views import ViewSettings
    from train.config import LossWeights, TrainConfig
    from train.eval.predict import PredictOptions

    return [
        ("render", "", RenderConfig, {"out", "task", "progress", "views", "light", "variety"}),
        ("render", "views__", ViewSettings, set()),
        ("render", "light__", Light, set()),
        ("render", "variety__", Variety, set()),
        ("train", "", TrainConfig, {"preset", "camera_distance", "focal_length", "source_size", "weights"}),
        ("train", "weights__", LossWeights, set()),
        ("predict", "", PredictOptions, set()),
    ]


@pytest.mark.parametrize("index", range(7))
def test_every_setting_is_an_option(index):
    command, part, settings, others = settings_classes()[index]
    for field in dataclasses.fields(settings):
        if field.name in others:
            continue
        found = option(command, part + field.name)
        assert found.default is None or found.default is click.core.UNSET  # the settings class alone applies defaults
        if isinstance(field.default, (int, float, str, tuple)) and not isinstance(field.default, bool):
            written = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else str(field.default)
            assert found.help.endswith(f"[default: {written}]")
            assert found.type.convert(written, found, None) == field.default
        is_flag = bool in (typing.get_type_hints(settings)[field.name],)
        assert found.is_flag == is_flag


def test_given_options_by_part():
    options = {"seed": 3, "models": None, "strict": False, "views__shift": 0.1, "views__roll_degrees": None}
    assert cli.given(options) == {"seed": 3, "strict": False, "views": {"shift": 0.1}}


def test_an_empty_path_is_refused(capsys):
    assert run("render", "", "--category", "car") == 2
    assert "'OUT': is empty: give a path." in one_line(capsys)


def test_empty_values_are_refused(capsys):
    assert run("render", "out", "--category", "car", "--task", "") == 1
    assert "task: '' is not I/N" in one_line(capsys)
    assert run("train", "data", "run", "--init-from", "") == 2
    assert "'--init-from': is empty: give a value, or leave the option out" in one_line(capsys)


def test_tuples_are_joined_by_commas(capsys):
    assert option("train", "axes").type.convert("x,z", None, None) == ("x", "z")
    assert option("render", "splits").type.convert("0, 0, 1", None, None) == (0.0, 0.0, 1.0)
    assert run("render", "out", "--splits", "1,2") == 2
    assert "3 values" in one_line(capsys)
    assert run("render", "out", "--splits", "1,2,x") == 2
    assert "'x' is not a valid float" in one_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["rendr"], "'render'"),
        (["render", "out", "--modls", "3"], "'--models'"),
        (["train", "d", "r", "--step", "3"], "--steps"),
    ],
)
def test_suggests_the_near_name(arguments, suggestion, capsys):
    assert run(*arguments) == 2
    message = one_line(capsys)
    assert suggestion in message and "--help" in message


def test_shells_complete_commands_options_and_shipped_weights():
    def completed(arguments, incomplete):
        shell = ShellComplete(cli.commands, {}, "keypointnet", "_KEYPOINTNET_COMPLETE")
        return [(item.type, item.value) for item in shell.get_completions(arguments, incomplete)]

    assert completed([], "pre") == [("plain", "predict")]
    assert completed(["render", "out"], "--mod") == [("plain", "--models")]
    assert completed(["train"], "--preset=") == [("plain", name) for name in ("paper", "cpu", "gpu")]
    for arguments in (["eval"], ["eval", "run"]):
        assert completed(arguments, "a") == [("plain", "airplane"), ("dir", "a")]
    assert completed(["spin", "car"], "")[0][0] == "file"


def test_runs_come_before_datasets(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset.json").write_text("{}")
    data = str(tmp_path / "data")
    assert cli.runs_and_datasets([data]) == ([], [tmp_path / "data"])
    assert cli.runs_and_datasets(["car", "chair", data, data]) == (["car", "chair"], [tmp_path / "data"] * 2)
    assert run("eval", "car", "chiar", data) == 1
    message = one_line(capsys)
    assert message.startswith("error: chiar: not a run folder") and "nor is it a dataset" in message
    assert run("eval", "car", tmp_path / "dta") == 1
    assert one_line(capsys).startswith(f"error: {tmp_path}/dta: ")


def test_missing_argument(capsys):
    assert run("merge", "out") == 2
    assert one_line(capsys) == "error: Missing argument 'DATASET...'. See: keypointnet merge --help\n"
    assert run("export-data", "a", "b") == 2
    assert "'--to'. Choose from: tfrecord, webdataset, bop. See: " in one_line(capsys)


def test_no_command_shows_help(capsys):
    assert run() == 2
    assert "Commands:" in capsys.readouterr().err


def test_bad_input_is_one_line(tmp_path, capsys):
    assert run("inspect", tmp_path / "nothing") == 1
    assert one_line(capsys).startswith("error: ") and not (tmp_path / "nothing").exists()
    assert run("render", tmp_path / "out") == 1
    assert "--category" in one_line(capsys) and not (tmp_path / "out").exists()
    assert run("render", tmp_path / "out", "--category", "car", "--task", "1-2") == 1
    assert "I/N" in one_line(capsys)


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (UserError("a: is not b: use c"), 1, "error: a: is not b: use c\n"),
        (
            PermissionError(13, "Permission denied", "/x"),
            1,
            "error: /x: Permission denied: make it accessible, or choose another place\n",
        ),
        (
            OSError(28, "No space left on device"),
            1,
            "error: file system: No space left on device: make room and run the same command again\n",
        ),
        (UserError("a\nfile: is missing"), 1, "error: a file: is missing\n"),
        (MemoryError(), 1, f"error: {cli.NO_MEMORY}\n"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), 1, f"error: {cli.NO_MEMORY}\n"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"),
            1,
            f"error: {cli.NO_MEMORY}\n",
        ),
        (
            ValueError("odd\nsecond line"),
            1,
            "error: unexpected ValueError: odd (a bug; with KEYPOINTNET_DEBUG=1 set, the same command shows where)\n",
        ),
        (
            ModuleNotFoundError("No module named 'h5py'", name="h5py"),
            1,
            f"error: {sys.executable}: has no package 'h5py': `. .venv/bin/activate` after `make setup`, or "
            "`pip install .`\n",
        ),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
        (KeyboardInterrupt("3 of 4 models are done"), 130, "\n3 of 4 models are done\n"),
    ],
)
def test_failures(raised, code, line, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise raised

    monkeypatch.delenv(cli.DEBUG_VARIABLE, raising=False)
    monkeypatch.setattr(cli.commands.commands["merge"], "callback", fail)
    assert run("merge", "out", "in") == code
    assert capsys.readouterr() == ("", line)


def test_python_without_packages():
    result = subprocess.run([sys.executable, "-S", "cli.py", "train"], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ") and "no package 'click'" in result.stderr and "activate" in result.stderr
    assert result.stderr.count("\n") == 1


def test_debug_shows_where(monkeypatch):
    def fail(*args, **kwargs):
        raise ValueError("odd")

    monkeypatch.setenv(cli.DEBUG_VARIABLE, "1")
    monkeypatch.setattr(cli.commands.commands["merge"], "callback", fail)
    with pytest.raises(ValueError, match="odd"):
        cli.main(["merge", "out", "in"])


def test_closed_pipe_is_quiet():
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run([sys.executable, "cli.py", "--help"], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert result.returncode != 0 and result.stderr == b""


def test_from_meshes_to_keypoints(tmp_path, capsys):
    """Every command once, on a dataset of a few tiny pictures."""
    planes, trained = tmp_path / "planes", tmp_path / "run"
    render = ["--category", "airplane", "--models", 4, "--pairs-per-model", 2, "--image-size", 16, "--splits", "1,1,1"]
    render += ["--workers", 1, "--backend", "embree", "--shift", 0.1]
    for part in (1, 2):
        assert run("render", tmp_path / f"part-{part}", *render, "--task", f"{part}/2") == 0
    capsys.readouterr()
    assert run("merge", tmp_path / "half", tmp_path / "part-1") == 0
    absent = "; tasks of the rendering in none of the parts: 2/2\n"
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'half'}: 2 models, 4 pairs{absent}")
    assert run("merge", planes, tmp_path / "part-1", tmp_path / "part-2") == 0
    assert capsys.readouterr().out.endswith(f"{planes}: 4 models, 8 pairs\n")
    assert run("inspect", planes, "--verify", "--json", "--preview", tmp_path / "planes.png") == 0
    assert Image.open(tmp_path / "planes.png").size
    capsys.readouterr()
    assert run("inspect", planes, "--json") == 0
    assert json.loads(capsys.readouterr().out)["settings"]["views"]["shift"] == 0.1

    small = ["--width", 4, "--batch-size", 2, "--weight-pose", 3, "--checkpoint-every", 1, "--device", "cpu"]
    assert run("train", planes, trained, "--preset", "cpu", "--steps", 1, *small) == 0
    assert run("train", planes, trained, "--preset", "cpu", "--steps", 2, *small, "--resume") == 0
    assert run("train", planes, trained, "--steps", 3, "--resume") == 0  # with the settings of the run
    assert run("train", planes, trained, "--width", 8, "--resume") == 1
    config = json.loads((trained / "config.json").read_text())
    assert (config["width"], config["steps"], config["weights"]["pose"], config["weights"]["variance"]) == (
        4,
        3,
        3,
        0.5,
    )
    assert run("train", planes, trained, "--preset", "cpu") == 1  # never overwrites a run

    capsys.readouterr()
    assert run("eval", trained, planes, "--split", "train", "--out", tmp_path / "eval") == 0
    assert "median" in capsys.readouterr().out
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text())["n_pairs"] > 0

    picture = np.zeros((40, 50, 4), np.uint8)
    picture[10:30, 15:40] = 255
    Image.fromarray(picture).save(tmp_path / "box.png")
    assert run("predict", trained, tmp_path / "box.png", "--out", tmp_path / "found") == 0
    assert (tmp_path / "found" / "predictions.json").exists()
    pytest.importorskip("onnx")
    assert run("export", trained, tmp_path / "planes.onnx") == 0
    assert (tmp_path / "planes.onnx").stat().st_size > 0


def test_doctor(monkeypatch, capsys):
    import render.doctor
    from render.doctor import BackendReport

    reports = [BackendReport("egl", False, False, "no libEGL", "install libegl1")]
    monkeypatch.setattr(render.doctor, "diagnose", lambda: reports)
    assert run("doctor") == 1
    out, err = capsys.readouterr()
    assert out == "egl: does not work: no libEGL\n  install libegl1\n" and "no rendering backend works" in err
    reports.append(BackendReport("embree", True, False, "Embree 4"))
    monkeypatch.setattr(render.doctor, "resolve", lambda name: "embree")
    assert run("doctor") == 0
    assert capsys.readouterr().out.endswith("embree: works: Embree 4\n--backend auto takes embree\n")
    monkeypatch.setattr(render.doctor, "resolve", lambda name: "egl")
    assert run("doctor") == 0
    assert "--backend auto takes egl, which does not work" in capsys.readouterr().out


def test_damaged_dataset_is_named(tmp_path, capsys):
    assert run("render", tmp_path, "--category", "car", "--models", 1, "--pairs-per-model", 1, "--image-size", 16) == 0
    shard = next(tmp_path.glob("*.h5"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    capsys.readouterr()
    assert run("inspect", tmp_path, "--verify") == 1
    assert shard.name in one_line(capsys)
    (tmp_path / "test-00077.h5").touch()
    assert run("inspect", tmp_path, "--verify") == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[:2] for line in lines] == [
        ["error", f" {path}"] for path in (shard, tmp_path / "test-00077.h5")
    ]


def test_presets_offered_are_those_there_are():
    from train.config import PRESETS

    assert set(option("train", "preset").type.choices) == set(PRESETS)
