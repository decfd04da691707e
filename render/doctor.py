"""Which rendering backends work on this machine, what to do about each that does not, and which to take.

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
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from data.errors import UserError
from render.backends import BACKENDS, open_backend, unusable
from render.failures import describe, explain

_TIMEOUT = 60  # seconds; a hanging driver counts as broken
_SOFTWARE = re.compile(r"llvmpipe|softpipe|swrast|software", re.IGNORECASE)
_PACKAGES = re.compile(r"is not installed|PyOpenGL")
_ROOT = Path("/")  # of the file system


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


@lru_cache
def resolve(name: str) -> str:
    """The backend that ``name`` stands for here; ``auto`` takes EGL where it is a real GPU, else Embree if installed.

    Raises:
        UserError: no such backend, or it does not work on this machine; says why and what to do.
    """
    if name not in BACKENDS:
        raise UserError(f"backend: {name!r} is unknown: choose one of {', '.join(BACKENDS)}")
    if name == "auto":
        if find_spec("embreex") is None:  # there are no wheels of it for some machines
            return "egl" if examine("egl").works else resolve("embree")
        return "egl" if _gpu_devices() and examine("egl").gpu else "embree"
    if name == "egl" and not (report := examine(name)).works:
        raise unusable(name, report.detail, report.advice)
    if name == "embree" and find_spec("embreex") is None:
        raise unusable(name, *explain("No module named 'embreex'"))
    if name == "osmesa":
        open_backend(name)  # says why not
    return name


def diagnose() -> list[BackendReport]:
    """Try every backend."""
    return [examine(name) for name in ("embree", "egl", "osmesa")]


def examine(name: str) -> BackendReport:
    """Try one backend."""
    outcome = _try_in_a_process(name)
    hidden = _hidden_gpu() if name == "egl" else ""
    if "error" in outcome:
        why, advice = explain(outcome["error"])
        if _PACKAGES.search(why):
            hidden = ""  # EGL was never asked
        return BackendReport(name, False, False, why, "; ".join(filter(None, (advice, hidden))))
    detail = ", ".join(f"{key} {value}" for key, value in outcome.items())
    gpu = name == "egl" and not _SOFTWARE.search(detail)
    advice = hidden or "drawn by software, on the CPU: embree is faster there"
    return BackendReport(name, True, gpu, detail, advice if name == "egl" and not gpu else "")


def _gpu_devices() -> list[Path]:
    """Device files through which programs reach GPUs."""
    return _found("dev/nvidia[0-9]*", "dev/dri/renderD*")


def _found(*patterns: str) -> list[Path]:
    return [path for pattern in patterns for path in sorted(_ROOT.glob(pattern))]


def _hidden_gpu() -> str:
    """What to do if this machine has a GPU that EGL did not draw with; empty if it seems to have none."""
    for device in _gpu_devices():
        if not os.access(device, os.R_OK | os.W_OK):
            return f"the GPU {device} is there but closed to this user: add the user to its group (render or video)"
        if device.name.startswith("nvidia"):
            return f"an NVIDIA GPU is there but EGL does not see it: {_nvidia_advice()}"
        return f"the GPU {device} is there but EGL does not use it: install its driver (libgl1-mesa-dri for most)"
    if _found("proc/driver/nvidia"):
        return "the machine has an NVIDIA GPU that this container does not see: start the container with --gpus all"
    if _found("sys/class/drm/renderD*"):
        return "the machine has a GPU that this container does not see: start the container with --device /dev/dri"
    return ""


def _nvidia_advice() -> str:
    if not _found("usr/lib*/libEGL_nvidia.so*", "usr/lib/*/libEGL_nvidia.so*"):
        return (
            "in a container, set NVIDIA_DRIVER_CAPABILITIES=all; else install the driver's EGL library (libnvidia-gl)"
        )
    if not _found("etc/glvnd/egl_vendor.d/*nvidia*", "usr/share/glvnd/egl_vendor.d/*nvidia*"):
        return (
            "the driver's library is not registered: write "
            '{"file_format_version": "1.0.0", "ICD": {"library_path": "libEGL_nvidia.so.0"}} '
            "to /usr/share/glvnd/egl_vendor.d/10_nvidia.json"
        )
    return "unset __EGL_VENDOR_LIBRARY_FILENAMES and EGL_DEVICE_ID if set, and see whether nvidia-smi lists the GPU"


def _try_in_a_process(name: str) -> dict[str, str]:
    """What :func:`_try` says of a backend: its properties, or an ``error``."""
    root = str(Path(__file__).parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    try:
        process = subprocess.run(
            [sys.executable, "-m", "render.doctor", name],
            capture_output=True, text=True, timeout=_TIMEOUT, env=os.environ | {"PYTHONPATH": path}, check=False,
            cwd=root,  # Python looks for modules where it is started first
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": f"it did not answer in {_TIMEOUT} seconds"}
    if process.returncode < 0:
        return {"error": f"{process.stderr}\nit crashed ({signal.Signals(-process.returncode).name})"}
    try:
        outcome = json.loads(process.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": process.stderr}
    if "error" in outcome:  # what drivers print tells more than the error they return
        outcome["error"] = f"{process.stderr}\n{outcome['error']}"
    return outcome


def _try(name: str) -> dict[str, str]:
    """Render a triangle here and now. Raises whatever goes wrong."""
    import numpy as np

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

    from render.egl import describe_device

    strings = {"vendor": GL.GL_VENDOR, "renderer": GL.GL_RENDERER, "version": GL.GL_VERSION}
    return {key: GL.glGetString(value).decode() for key, value in strings.items()} | {"device": describe_device()}


if __name__ == "__main__":
    try:
        print(json.dumps(_try(sys.argv[1])))
    except BaseException as problem:  # whatever it is, it is the answer
        print(json.dumps({"error": describe(problem.__cause__ or problem)}))
