"""The doctor, on patients with every ailment that users of headless GL report."""

import os
import stat
import subprocess
import sys
from ctypes.util import find_library

import pytest

from data.errors import UserError
from render import doctor
from render.doctor import BackendReport, diagnose, examine
from render.failures import explain


def test_embree_works_here():
    report = examine("embree")
    assert report.works and not report.gpu and "embreex" in report.detail and "embree: works" in str(report)


def test_every_backend_is_reported(monkeypatch):
    monkeypatch.setattr(doctor, "_try_in_a_process", lambda name: {"renderer": name})
    assert [report.name for report in diagnose()] == ["embree", "egl", "osmesa"]


def test_auto_takes_what_there_is(monkeypatch):
    reports = {"egl": BackendReport("egl", True, False, "llvmpipe")}
    monkeypatch.setattr(doctor, "examine", reports.__getitem__)
    monkeypatch.setattr(doctor, "_gpu_devices", list)
    assert doctor.resolve.__wrapped__("auto") == "embree"
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)  # no wheel of embreex for this machine
    assert doctor.resolve.__wrapped__("auto") == "egl"
    reports["egl"] = BackendReport("egl", False, False, "no libEGL")
    doctor.resolve.cache_clear()
    with pytest.raises(UserError, match="embreex is not installed"):
        doctor.resolve.__wrapped__("auto")


@pytest.mark.parametrize(
    "error, why, advice",
    [
        ("ModuleNotFoundError: No module named 'pyrender'", "pyrender is not installed", "pip install"),
        ("ModuleNotFoundError: No module named 'embreex'", "embreex is not installed", "pip install"),
        ("ImportError: ('Unable to load EGL library', 'EGL: cannot open shared object file')", "libEGL", "libegl1"),
        ("ImportError: ('Unable to load OpenGL library', 'GL: cannot open')", "libGL", "libgl1"),
        ("AttributeError: 'NoneType' object has no attribute 'glGetError'", "libGL", "libgl1"),
        ('ImportError: Library "GL" not found.', "libGL is not installed", "libgl1 "),
        ('ImportError: Library "GLU" not found.', "libGLU is not installed", "libglu1-mesa"),
        (
            "ArgumentError: (\"argument 2: TypeError: No array-type handler for type _ctypes.type (value: <cparam 'P'",
            "Python 3.12",
            "PyOpenGL>=3.1.10",
        ),
        ("MESA-LOADER: failed to open swrast: /usr/lib/dri/swrast_dri.so", "no DRI driver", "libgl1-mesa-dri"),
        ("libGL: failed to load driver: iris\nGLError: GLError( err = 12289 )", "no DRI driver", "libgl1-mesa-dri"),
        ("ValueError: Invalid device ID (3)", "no device of number 3", "EGL_DEVICE_ID"),
        ("RuntimeError: EGL_DEVICE_ID is set to 'gpu'", "set to 'gpu', which is not the number", "EGL_DEVICE_ID"),
        ("GLError: GLError( err = 12296, baseOperation = eglInitialize )", "EGL_BAD_DISPLAY", "DISPLAY"),
        ("GLError: GLError( err = 12289, baseOperation = eglInitialize )", "eglInitialize", "/dev/dri"),
        ("AssertionError: assert eglInitialize(self._egl_display, major, minor)", "eglInitialize", "/dev/dri"),
        ("GLError: GLError( err = 12297, baseOperation = eglCreateContext )", "OpenGL 4.1", "update"),
        ("RuntimeError: the driver has only 1x multisampling", "no 4x multisampling", "update"),
        ("EGLError: EGLError(err = EGL_BAD_DISPLAY, baseOperation = eglInitialize)", "EGL_BAD_DISPLAY", "DISPLAY"),
        ("EGLError: EGLError(err = EGL_NOT_INITIALIZED, baseOperation = eglInitialize)", "eglInitialize", "/dev/dri"),
        (
            "ImportError: cannot import name 'OSMesaCreateContextAttribs' from 'OpenGL.osmesa'",
            "PyOpenGL 3.1.0",
            "embree",
        ),
        ("ValueError: numpy.dtype size changed, may indicate binary incompatibility", "another numpy", "pip uninstall"),
        ("ImportError: numpy.core.multiarray failed to import", "another numpy", "pip uninstall"),
        ("RuntimeError: PyOpenGL was imported before PYOPENGL_PLATFORM was set", "imported before", "export"),
        ("RuntimeError: PYOPENGL_PLATFORM is set to 'glx'", "is set to 'glx'", "unset"),
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


@pytest.mark.parametrize(
    "files, advice",
    [
        (["proc/driver/nvidia/version"], "--gpus all"),
        (["proc/driver/nvidia/version", "dev/dri/renderD128", "dev/nvidia0"], "NVIDIA_DRIVER_CAPABILITIES"),
        (["dev/nvidia0", "usr/lib/x86_64-linux-gnu/libEGL_nvidia.so.0"], "not registered: write"),
        (
            ["dev/nvidia0", "usr/lib64/libEGL_nvidia.so.0", "usr/share/glvnd/egl_vendor.d/10_nvidia.json"],
            "__EGL_VENDOR_LIBRARY_FILENAMES",
        ),
        (["sys/class/drm/renderD128"], "--device /dev/dri"),
        (["sys/class/drm/renderD128", "dev/dri/renderD128"], "install its driver"),
        (["sys/class/drm/card0"], ""),  # a screen's connector, which cannot draw
    ],
)
def test_a_gpu_that_a_container_hides(monkeypatch, tmp_path, files, advice):
    monkeypatch.setattr(doctor, "_ROOT", tmp_path)
    for name in files:
        tmp_path.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
        tmp_path.joinpath(name).touch()
    assert advice in doctor._hidden_gpu() and bool(advice) == bool(doctor._hidden_gpu())
    for outcome in ({"renderer": "llvmpipe"}, {"error": "ValueError: Invalid device ID (0)"}):  # whether Mesa is there
        monkeypatch.setattr(doctor, "_try_in_a_process", lambda name, outcome=outcome: outcome)
        assert advice in examine("egl").advice
        assert doctor._hidden_gpu() not in examine("embree").advice or not advice
    monkeypatch.setattr(doctor, "_try_in_a_process", lambda name: {"error": 'ImportError: Library "GLU" not found.'})
    assert examine("egl").advice == "apt-get install libglu1-mesa libx11-6"  # whatever GPU there is
    monkeypatch.setattr(doctor, "_try_in_a_process", lambda name: {"renderer": "NVIDIA L4"})
    assert examine("egl").gpu and not examine("egl").advice


def test_a_gpu_closed_to_the_user(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_ROOT", tmp_path)
    tmp_path.joinpath("dev/dri").mkdir(parents=True)
    tmp_path.joinpath("dev/dri/renderD128").touch()
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert "renderD128 is there but closed to this user" in doctor._hidden_gpu()


# The same ailments in the flesh, where a fake package or variable brings them about in a real process.


WITHOUT_LIBRARY = """
import ctypes
load = ctypes.CDLL.__init__
def refuse(self, name=None, *rest, **more):
    if name and name.startswith("{}"):
        raise OSError(name + ": cannot open shared object file: No such file or directory")
    load(self, name, *rest, **more)
ctypes.CDLL.__init__ = refuse
"""


def ill_module(tmp_path, name, body):
    path = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    for package in path.relative_to(tmp_path).parents[:-1]:
        tmp_path.joinpath(package, "__init__.py").touch()
    path.write_text(body)


@pytest.mark.parametrize(
    "name, module, body, why",
    [
        ("embree", "embreex", "raise ModuleNotFoundError(\"No module named 'embreex'\")", "embreex is not installed"),
        ("egl", "pyrender", "raise ModuleNotFoundError(\"No module named 'pyrender'\")", "pyrender is not installed"),
        (
            "egl",
            "OpenGL_accelerate",
            "raise ValueError('numpy.dtype size changed, may indicate binary incompatibility.')",
            "another numpy",
        ),
        (
            "egl",
            "pyrender.platforms.egl",
            "def get_device_by_index(number): return None\n"
            "class EGLPlatform:\n"
            "    def __init__(self, *a): pass\n"
            "    def init_context(self):\n"
            "        eglInitialize = lambda: False\n"
            "        assert eglInitialize()\n",
            "eglInitialize failed",
        ),
        ("egl", "sitecustomize", WITHOUT_LIBRARY.format("libEGL"), "libEGL is not installed"),
        ("egl", "sitecustomize", WITHOUT_LIBRARY.format("libGL"), "libGL is not installed"),
        ("egl", "sitecustomize", WITHOUT_LIBRARY.format("libGL.so"), "libGL is not installed"),
        ("egl", "sitecustomize", WITHOUT_LIBRARY.format("libGLU"), "libGLU is not installed"),
    ],
)
def test_real_process_with_a_fake_package(tmp_path, monkeypatch, name, module, body, why):
    ill_module(tmp_path, module, body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = examine(name)
    assert not report.works and why in report.detail


@pytest.mark.skipif(find_library("EGL_mesa") is None, reason="no Mesa here to fail")
@pytest.mark.parametrize(
    "variable, value, why",
    [
        ("LIBGL_DRIVERS_PATH", "/nowhere", "no DRI driver"),
        ("__EGL_VENDOR_LIBRARY_FILENAMES", "/nowhere", "Invalid device ID: EGL finds no device of number 0"),
        ("MESA_GL_VERSION_OVERRIDE", "3.3", "no OpenGL 4.1 core context"),
        ("PYOPENGL_PLATFORM", "osmesa", "PYOPENGL_PLATFORM is set to 'osmesa'"),
    ],
)
def test_real_process_in_an_ill_environment(monkeypatch, variable, value, why):
    monkeypatch.setenv(variable, value)
    report = examine("egl")
    assert not report.works and why in report.detail and report.advice


def test_files_in_the_current_folder_are_not_taken_for_ours(tmp_path, monkeypatch):
    for name in ("render.py", "data.py"):
        (tmp_path / name).write_text("raise SystemExit('not this one')\n")
    monkeypatch.chdir(tmp_path)
    assert examine("embree").works


def test_platform_set_after_import():
    code = """
import sys
sys.modules["OpenGL.platform"] = type(sys)("OpenGL.platform")
sys.modules["OpenGL.platform"].PLATFORM = type("GLXPlatform", (), {})()
from render.backends import open_backend
from data.errors import UserError
try:
    open_backend("egl")
except UserError as error:
    print(error)
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYOPENGL_PLATFORM"}
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert "imported before PYOPENGL_PLATFORM" in process.stdout and "before Python starts" in process.stdout
