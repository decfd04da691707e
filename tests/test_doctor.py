"""The doctor, on patients with every ailment that users of headless GL report."""

import os
import stat
import subprocess
import sys

import pytest

from render import doctor
from render.doctor import diagnose, examine, explain


def test_embree_works_here():
    report = examine("embree")
    assert report.works and not report.gpu and "embreex" in report.detail and "embree: works" in str(report)


def test_every_backend_is_reported(monkeypatch):
    monkeypatch.setattr(doctor, "_try_in_a_process", lambda name: {"renderer": name})
    assert [report.name for report in diagnose()] == ["embree", "egl", "osmesa"]


@pytest.mark.parametrize(
    "error, why, advice",
    [
        ("ModuleNotFoundError: No module named 'pyrender'", "pyrender is not installed", "pip install"),
        ("ModuleNotFoundError: No module named 'embreex'", "embreex is not installed", "pip install"),
        ("ImportError: ('Unable to load EGL library', 'EGL: cannot open shared object file')", "libEGL", "libegl1"),
        ("ImportError: ('Unable to load OpenGL library', 'GL: cannot open')", "libGL", "libgl1"),
        ("MESA-LOADER: failed to open swrast: /usr/lib/dri/swrast_dri.so", "no DRI driver", "libgl1-mesa-dri"),
        ("ValueError: Invalid device ID (0)", "no device of that number", "EGL_DEVICE_ID"),
        ("EGLError: EGLError(err = EGL_BAD_DISPLAY, baseOperation = eglInitialize)", "EGL_BAD_DISPLAY", "DISPLAY"),
        ("EGLError: EGLError(err = EGL_NOT_INITIALIZED, baseOperation = eglInitialize)", "eglInitialize", "/dev/dri"),
        (
            "ImportError: cannot import name 'OSMesaCreateContextAttribs' from 'OpenGL.osmesa'",
            "PyOpenGL 3.1.0",
            "embree",
        ),
        ("ValueError: numpy.dtype size changed, may indicate binary incompatibility", "another numpy", "pip uninstall"),
        ("UserError: backend: PyOpenGL was imported before PYOPENGL_PLATFORM was set", "imported before", "export"),
        ("UserError: backend: PYOPENGL_PLATFORM is set to 'glx'", "something else", "unset"),
        ("EGLError: EGLError(err = EGL_BAD_MATCH)", "OpenGL 4.1", "update"),
        ("RuntimeError: first line\nsomething new", "something new", ""),
        ("", "said nothing", ""),
    ],
)
def test_explains(error, why, advice):
    told = explain(error)
    assert why in told[0] and advice in told[1] and "\n" not in told[0]


def fake_interpreter(tmp_path, monkeypatch, script):
    """What a backend's process does is what ``script`` does."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setattr(sys, "executable", str(path))


def test_a_crash(tmp_path, monkeypatch):
    fake_interpreter(tmp_path, monkeypatch, "kill -SEGV $$")
    report = examine("egl")
    assert not report.works and "crashed (SIGSEGV)" in report.detail


def test_a_driver_that_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_TIMEOUT", 0.2)
    fake_interpreter(tmp_path, monkeypatch, "exec sleep 10")
    assert "did not answer" in examine("egl").detail


def test_what_mesa_says_on_stderr_counts(tmp_path, monkeypatch):
    fake_interpreter(tmp_path, monkeypatch, "echo 'MESA-LOADER: failed to open swrast' >&2; exit 1")
    assert "no DRI driver" in examine("egl").detail


@pytest.mark.parametrize("renderer, gpu", [("NVIDIA H100", True), ("llvmpipe (LLVM 15)", False), ("softpipe", False)])
def test_tells_a_gpu_from_software(tmp_path, monkeypatch, renderer, gpu):
    fake_interpreter(tmp_path, monkeypatch, f"""echo '{{"renderer": "{renderer}"}}'""")
    report = examine("egl")
    assert report.works and report.gpu is gpu and renderer in report.detail and bool(report.advice) is not gpu


def test_a_gpu_that_a_container_hides(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "Path", lambda path: tmp_path / str(path).strip("/"))
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    assert "--gpus all" in doctor._software_advice()
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia0").touch()
    assert "NVIDIA_DRIVER_CAPABILITIES" in doctor._software_advice()


# The same ailments in the flesh, where a fake package or variable brings them about in a real process.


def ill_module(tmp_path, name, body):
    path = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(body)


@pytest.mark.parametrize(
    "name, module, body, why",
    [
        ("embree", "embreex", "raise ModuleNotFoundError(\"No module named 'embreex'\")", "embreex is not installed"),
        ("egl", "pyrender", "raise ModuleNotFoundError(\"No module named 'pyrender'\")", "pyrender is not installed"),
        ("egl", "pyrender", "raise ImportError('Unable to load EGL library')", "libEGL is not installed"),
        ("egl", "pyrender", "raise ValueError('numpy.dtype size changed')", "another numpy"),
        (
            "egl",
            "pyrender",
            "class OffscreenRenderer:\n def __init__(self, *a): raise ValueError('Invalid device ID (0)')",
            "device",
        ),
    ],
)
def test_real_process_with_a_fake_package(tmp_path, monkeypatch, name, module, body, why):
    ill_module(tmp_path, module, body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = examine(name)
    assert not report.works and why in report.detail


def test_real_process_with_another_platform_set(monkeypatch):
    monkeypatch.setenv("PYOPENGL_PLATFORM", "osmesa")
    assert "something else than egl" in examine("egl").detail


def test_platform_set_after_import():
    code = """
import os, sys
sys.modules["OpenGL.platform"] = type(sys)("OpenGL.platform")
sys.modules["OpenGL.platform"].PLATFORM = type("GLXPlatform", (), {})()
from data.errors import UserError
from render.gl import import_pyrender
try:
    import_pyrender()
except UserError as error:
    print(error)
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYOPENGL_PLATFORM"}
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert "imported before PYOPENGL_PLATFORM" in process.stdout
