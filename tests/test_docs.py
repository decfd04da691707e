"""What the documentation tells to type exists."""

import re
from pathlib import Path

import pytest

import cli

PAGES = sorted((Path(cli.__file__).parent / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page):
    text = page.read_text(encoding="utf-8")
    options = {name for command in cli.commands.commands.values() for param in command.params for name in param.opts}
    code = " ".join(re.findall(r"`([^`\n]+)`", text))
    assert set(re.findall(r"keypointnet ([a-z][a-z-]*)", code)) <= set(cli.commands.commands)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", code)) - {"--help", "--logdir", "--gpus"} <= options


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    named = re.findall(r"`((?:data|train|render)/[\w/.]+)`", page.read_text(encoding="utf-8"))
    linked = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8"))
    missing = [name for name in named if not (page.parent.parent / name).exists()]
    assert not missing and all((page.parent / name).exists() for name in linked)
