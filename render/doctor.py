"""Which rendering backends work on this machine, and what to do about each that does not.

Every backend is tried in a process of its own: drivers crash, and PyOpenGL reads its environment only once.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_TIMEOUT = 60  # seconds; a hanging driver counts as broken
_SOFTWARE = re.compile(r"llvmpipe|softpipe|swrast|software", re.IGNORECASE)


@dataclass(frozen=True)
class BackendReport:
    """What is known of a backend.

    Attributes:
        works: it rendered a triangle rightly.
        gpu: it did so on a GPU.
        detail: vendor, renderer, version and device; or why it does not work.
        advice: what to install or set, empty if nothing.
    """

    name: str
    works: bool
    gpu: bool
    detail: str
    advice: str = ""

    def __str__(self) -> str:
        head = f"{self.name}: {'works' if self.works else 'does not work'}: {self.detail}"
        return f"{head}\n  {self.advice}" if self.advice else head


def diagnose() -> list[BackendReport]:
    """Try every backend."""
    return [examine(name) for name in ("embree", "egl", "osmesa")]


def examine(name: str) -> BackendReport:
    """Try one backend."""
    if name == "osmesa":
        return BackendReport(name, False, False, *explain("OSMesaCreateContextAttribs"))
    outcome = _try_in_a_process(name)
    if "error" in outcome:
        return BackendReport(name, False, False, *explain(outcome["error"]))
    detail = ", ".join(f"{key} {value}" for key, value in outcome.items())
    gpu = name == "egl" and not _SOFTWARE.search(detail)
    return BackendReport(name, True, gpu, detail, "" if gpu or name != "egl" else _software_advice())


def explain(error: str) -> tuple[str, str]:
    """Why, and what to do, from what a failing backend said."""
    for pattern, why, advice in _CAUSES:
        if re.search(pattern, error):
            return why, advice
    return error.strip().splitlines()[-1][:300] if error.strip() else "it failed and said nothing", ""


_CAUSES = (
    (
        r"No module named 'pyrender'|No module named 'OpenGL'",
        "pyrender is not installed",
        "pip install pyrender",
    ),
    (r"No module named 'embreex'", "embreex is not installed", "pip install embreex"),
    (
        r"OSMesaCreateContextAttribs",
        "not offered: pyrender 0.1.45 requires PyOpenGL 3.1.0, which is too old for OSMesa (it has no "
        "OSMesaCreateContextAttribs)",
        "use embree, which is faster on a CPU and needs no GL",
    ),
    (
        r"dtype size changed|multiarray failed to import|compiled using NumPy 1|binary incompatib",
        "PyOpenGL-accelerate was built for another numpy",
        "pip uninstall PyOpenGL-accelerate (it is not needed)",
    ),
    (
        r"imported before PYOPENGL_PLATFORM",
        "PyOpenGL was imported before PYOPENGL_PLATFORM was set to egl",
        "export PYOPENGL_PLATFORM=egl in the shell, before Python starts",
    ),
    (
        r"PYOPENGL_PLATFORM is set to",
        "PYOPENGL_PLATFORM is set to something else than egl",
        "unset PYOPENGL_PLATFORM",
    ),
    (
        r"Unable to load EGL|libEGL\.so|EGL platform plugin is not available",
        "libEGL is not installed",
        "apt-get install libegl1 libgl1-mesa-dri",
    ),
    (
        r"Unable to load OpenGL|libGL\.so|libOpenGL\.so",
        "libGL is not installed",
        "apt-get install libgl1 libegl1 libgl1-mesa-dri",
    ),
    (
        r"failed to (load|open) (driver|swrast|\S+_dri)|swrast_dri\.so|DRI driver",
        "there is no DRI driver, so EGL has nothing to draw with",
        "apt-get install libgl1-mesa-dri, or the driver of your GPU",
    ),
    (
        r"Invalid device ID",
        "EGL finds no device of that number (EGL_DEVICE_ID, 0 if unset)",
        "unset EGL_DEVICE_ID; if there is none at all: apt-get install libgl1-mesa-dri, or the driver of your GPU",
    ),
    (
        r"EGL_BAD_DISPLAY|12296|0x3008",
        "EGL does not accept its display (EGL_BAD_DISPLAY)",
        "unset DISPLAY and WAYLAND_DISPLAY; in a container, give it the GPU (see NVIDIA_DRIVER_CAPABILITIES)",
    ),
    (
        r"eglInitialize|EGL_NOT_INITIALIZED|12289|0x3001",
        "EGL cannot be initialised (eglInitialize failed)",
        "give your user access to /dev/dri (group render or video), and update the driver or libgl1-mesa-dri",
    ),
    (
        r"EGL_BAD_(CONFIG|MATCH|CONTEXT|ATTRIBUTE)|12293|12297|12294|12292|GLSL|OpenGL 4\.1",
        "the driver offers no OpenGL 4.1 core context",
        "update the driver or libgl1-mesa-dri",
    ),
)


def _software_advice() -> str:
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return (
            "an NVIDIA GPU is there but EGL does not see it: in a container, set NVIDIA_DRIVER_CAPABILITIES=all; else "
            "install the driver's EGL library (libnvidia-gl)"
        )
    if Path("/proc/driver/nvidia").exists():
        return "the machine has an NVIDIA GPU that this container does not see: start it with --gpus all"
    return "drawn by software: embree is faster on this machine, and what --backend auto takes"


def _try_in_a_process(name: str) -> dict[str, str]:
    """What :func:`_try` says of a backend: its properties, or an ``error``."""
    root = str(Path(__file__).parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    try:
        process = subprocess.run(
            [sys.executable, "-m", "render.doctor", name],
            capture_output=True, text=True, timeout=_TIMEOUT, env=os.environ | {"PYTHONPATH": path}, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": f"it did not answer in {_TIMEOUT} seconds"}
    if process.returncode < 0:
        return {"error": f"it crashed ({signal.Signals(-process.returncode).name})\n{process.stderr}".strip()}
    try:
        return json.loads(process.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": process.stderr}


def _try(name: str) -> dict[str, str]:
    """Render a triangle here and now. Raises whatever goes wrong."""
    import numpy as np

    from render.backends import open_backend
    from render.mesh import build_mesh
    from render.views import intrinsics, look_at

    triangle = build_mesh(np.array([[-1, -1, 0], [1, -1, 0], [0, 1, 0]]), np.array([[0, 1, 2]]), np.full((1, 3), 200))
    rgba, depth = open_backend(name).render(
        triangle, look_at(np.array([0, 0, 30.0]))[None], intrinsics(32, 5)[None], 32
    )
    if not (rgba[0, 18, 16, 3] == 255 and abs(depth[0, 18, 16] - 30) < 0.01 and not rgba[0, 0, 0].any()):
        raise RuntimeError("a triangle came out wrong: update the driver")
    if name == "embree":
        from importlib.metadata import version

        return {"renderer": "embreex", "version": version("embreex"), "device": "CPU"}
    from OpenGL import GL

    strings = {"vendor": GL.GL_VENDOR, "renderer": GL.GL_RENDERER, "version": GL.GL_VERSION}
    device = {"device": os.environ.get("EGL_DEVICE_ID", "0")}
    return {key: GL.glGetString(value).decode() for key, value in strings.items()} | device


if __name__ == "__main__":
    try:
        print(json.dumps(_try(sys.argv[1])))
    except BaseException as problem:  # whatever it is, it is the answer
        print(json.dumps({"error": f"{type(problem).__name__}: {problem}"}))
