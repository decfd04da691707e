"""The package, its requirements and the make targets."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import cli

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it there

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("render", "train", "data")
SOURCES = [ROOT / "cli.py", *(path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
# Distributions by the name that is imported, where the two differ. PyOpenGL comes with pyrender, which pins it.
DISTRIBUTIONS = {"PIL": "pillow", "OpenGL": "pyrender", "grpc": "grpcio", "tomllib": "tomli"}
TESTS = sorted((ROOT / "tests").rglob("*.py"))


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def requirements(project) -> list[Requirement]:
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    return [Requirement(line) for line in lines if not line.startswith("keypointnet")]


def applicable(requirements: list[Requirement], python: str) -> list[Requirement]:
    environment = {**default_environment(), "python_version": python}
    return [item for item in requirements if item.marker is None or item.marker.evaluate(environment)]


def pins(python: str) -> dict[str, Version]:
    """The versions of constraints.txt for one Python."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    chosen = applicable([Requirement(line) for line in lines if line and not line.startswith("#")], python)
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) for pin in chosen)
    names = [canonicalize_name(pin.name) for pin in chosen]
    assert len(set(names)) == len(names)
    return {name: Version(str(pin.specifier)[2:]) for name, pin in zip(names, chosen, strict=True)}


def test_every_requirement_has_a_lower_bound(requirements):
    for requirement in requirements:
        assert any(part.operator in (">=", "==") for part in requirement.specifier), requirement


@pytest.mark.parametrize("python", PYTHONS)
def test_tested_versions_lie_in_the_ranges(python, project, requirements):
    assert python in SpecifierSet(project["requires-python"])
    pinned = pins(python)
    for requirement in applicable(requirements, python):
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def undeclared(path: Path, nodes: Iterable[ast.AST], declared: list[str]) -> list[tuple[str, str]]:
    """(file, module) of imports from elsewhere that are no requirement."""
    known = {*sys.stdlib_module_names, *ROOMS, "cli", "tests"}
    found = []
    for node in nodes:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        for name in {name.split(".")[0] for name in names} - known:
            if canonicalize_name(DISTRIBUTIONS.get(name, name)) not in declared:
                found.append((str(path.relative_to(ROOT)), name))
    return found


def test_every_import_is_a_requirement(project, requirements):
    declared = [canonicalize_name(requirement.name) for requirement in requirements]
    always = [canonicalize_name(Requirement(line).name) for line in project["dependencies"]]
    missing = []
    for path in SOURCES + TESTS:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        missing += undeclared(path, ast.walk(tree), declared)
        if path in SOURCES:  # what an extra brings may be imported inside a function alone
            missing += undeclared(path, tree.body, always)
    assert not missing


def test_sources_compile_without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in SOURCES:
            compile(path.read_text(encoding="utf-8"), path, "exec")


def test_rooms_keep_apart():
    """render and train share nothing but data, and render does without torch."""
    forbidden = {"render": ("train", "torch", "cli"), "train": ("render", "cli"), "data": ("render", "train", "cli")}
    for path in SOURCES[1:]:
        room = path.relative_to(ROOT).parts[0]
        found = re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert not set(found) & set(forbidden[room]), path


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Where a copy of the project was installed by pip, without its requirements."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for name in ("cli.py", "pyproject.toml", "README.md", "LICENSE", *ROOMS):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", target, source], check=True, stderr=subprocess.DEVNULL)
    return target


def test_install_brings_every_file(installed):
    for room in ROOMS:
        wanted = {
            path.relative_to(ROOT)
            for path in (ROOT / room).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert {path for path in wanted if not (installed / path).exists()} == set()
    assert not (installed / "tests").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["render", "--help"], ["rendr"], ["inspect", "nothing"]])
def test_console_script_equals_cli(installed, arguments, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    commands = [[installed / "bin" / "keypointnet"], [sys.executable, ROOT / "cli.py"]]
    script, module = (
        subprocess.run([*command, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True)
        for command, env in zip(commands, (environment, os.environ), strict=True)
    )
    assert (script.returncode, script.stdout, script.stderr) == (module.returncode, module.stdout, module.stderr)


def make(*targets: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *targets], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
class TestMake:
    def test_help_names_every_target(self):
        targets = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
        assert [target for target in targets if target != "help" and f"make {target} " not in make()] == []

    def test_test_runs_pytest(self):
        assert "-m pytest -q tests" in make("-n", "test")

    def test_setup_installs_the_tested_versions(self):
        assert "-c constraints.txt" in make("-n", "-W", "pyproject.toml", "setup")

    def test_demo_commands_are_valid(self):
        lines = re.findall(r"cli\.py (.+)", make("-n", "demo"))
        assert [line.split()[0] for line in lines] == ["render", "train", "eval"]
        for line in lines:
            name, *arguments = line.split()
            cli.commands.commands[name].make_context(name, arguments)


def system_packages(tmp_path: Path, **programs: str) -> subprocess.CompletedProcess:
    """Run .ci/system-packages where some programs are replaced by shell scripts."""
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [ROOT / ".ci" / "system-packages", "some-library"]
    return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)


def test_no_root_no_packages(tmp_path):
    result = system_packages(tmp_path, id="echo 1000", sudo="exit 1", **{"apt-get": "touch called"})
    assert result.returncode == 1 and result.stdout == "not root, and sudo asks for a password\n"
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("programs", [{"id": "echo 0"}, {"id": "echo 1000", "sudo": 'shift; exec "$@"'}])
def test_packages_after_an_update(programs, tmp_path):
    apt = 'echo "$@" >>calls; case "$*" in *update) touch updated;; *) [ -e updated ];; esac'
    result = system_packages(tmp_path, **programs, **{"apt-get": apt})
    assert result.returncode == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[-1] for call in calls] == ["some-library", "update", "some-library"]


def test_packages_failure_says_why(tmp_path):
    apt = 'echo "E: Unable to locate package some-library" >&2; exit 100'
    result = system_packages(tmp_path, id="echo 0", sleep="exit 0", **{"apt-get": apt})
    assert result.returncode == 1
    assert result.stdout == "apt-get: E: Unable to locate package some-library\n"
