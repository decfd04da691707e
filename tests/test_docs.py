"""What the documentation tells to type exists."""

import dataclasses
import re
from pathlib import Path

import pytest

import cli
from train.config import make_config

ROOT = Path(cli.__file__).parent
PAGES = [
    ROOT / "README.md",
    *(page for room in ("benchmarks", "data", "docs", "train") for page in sorted((ROOT / room).rglob("*.md"))),
]
# Options of click, other programs and benchmarks.
OTHERS = {
    "--no-deps",
    "--gpu",
    "--help",
    "--logdir",
    "--gpus",
    "--nproc-per-node",
    "--pictures",
    "--seeds",
    "--only",
    "--each",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_exist(page):
    text = page.read_text(encoding="utf-8")
    params = [param for command in cli.commands.commands.values() for param in command.params]
    options = {name for param in params for name in param.opts + param.secondary_opts}
    code = "\n".join(
        "".join(found)
        for found in re.findall(r"```sh\n(.*?)```|`([^`\n]+)`|^ +(python cli\.py .*)$", text, re.S | re.M)
    )
    assert set(re.findall(r"(?:keypointnet|cli\.py) ([a-z][a-z-]*)", code)) <= set(cli.commands.commands)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", code)) - OTHERS <= options


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page):
    named = re.findall(r"`((?:data|train|render)/[\w/.]+)`", page.read_text(encoding="utf-8"))
    linked = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8"))
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing and all((page.parent / name).exists() for name in linked)


def test_the_presets_settings_are_told_as_they_are():
    rows = re.findall(
        r"^\| `(\w+)` \| (.*) \| (.*) \| (.*) \|$", (ROOT / "docs/method.md").read_text(encoding="utf-8"), re.M
    )
    told = {name: values for name, *values in rows}
    presets = [dataclasses.asdict(make_config(preset)) for preset in ("paper", "cpu", "gpu")]
    settings = {name: [_shown(preset[name]) for preset in presets] for name in presets[0]}
    del settings["preset"], settings["weights"]
    assert told == {name: values for name, values in settings.items() if len(set(values)) > 1}


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
