"""Why a rendering backend fails, and what to do about it, from what it said when it failed."""

from __future__ import annotations

import re
import traceback


def describe(error: BaseException) -> str:
    """An exception in one line; one without a message, as of ``assert``, by the line of code it came from."""
    message = " ".join(str(error).split()) or traceback.extract_tb(error.__traceback__)[-1].line
    return f"{type(error).__name__}: {message}"


def explain(said: str) -> tuple[str, str]:
    """Why, and what to do (empty if unknown), one line each; from all that was said, the error itself last."""
    for pattern, why, advice in _CAUSES:
        if found := re.search(pattern, said):
            return found.expand(why), advice
    return said.strip().splitlines()[-1][:300] if said.strip() else "it failed and said nothing", ""


_MESA = "apt-get install libgl1-mesa-dri, or the driver of your GPU"

# The first pattern that is found counts. The second text may quote its groups.
_CAUSES = (
    (
        r"No module named 'pyrender|No module named 'OpenGL",
        "pyrender is not installed",
        "pip install pyrender",
    ),
    (
        r"No module named 'embreex",
        "embreex is not installed",
        "pip install embreex (there is none for aarch64: use egl)",
    ),
    (
        r"No module named '(numba|llvmlite)",
        "numba is not installed",
        "pip install numba",
    ),
    (
        r"OSMesaCreateContextAttribs",
        "not offered: pyrender 0.1.45, the newest, requires PyOpenGL 3.1.0, which is too old for OSMesa (it has no "
        "OSMesaCreateContextAttribs); Mesa dropped OSMesa in version 25.1",
        "use embree, which is faster on a CPU and needs no GL; egl draws by software too",
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
        r"PYOPENGL_PLATFORM is set to (\S+)",
        r"PYOPENGL_PLATFORM is set to \1",
        "unset PYOPENGL_PLATFORM, or set it to egl",
    ),
    (
        r"EGL_DEVICE_ID is set to (\S+)",
        r"EGL_DEVICE_ID is set to \1, which is not the number of a device",
        "unset EGL_DEVICE_ID, or set it to 0, 1, ...",
    ),
    (
        r"Unable to load EGL|libEGL\.so|EGL platform plugin is not available",
        "libEGL is not installed",
        "apt-get install libegl1 libgl1 libgl1-mesa-dri libglu1-mesa",
    ),
    (
        r"Unable to load OpenGL|Library \"GL\" not found|libGL\.so|libOpenGL\.so|has no attribute 'glGetError'",
        "libGL is not installed",
        "apt-get install libgl1 libegl1 libgl1-mesa-dri libglu1-mesa",
    ),
    (
        r'Library "(\w+)" not found',
        r"lib\1 is not installed; pyrender loads it for its window, even where none is opened",
        "apt-get install libglu1-mesa libx11-6",
    ),
    (
        r"No array-type handler for type _ctypes",
        "PyOpenGL 3.1.0, which pyrender requires, does not work with Python 3.12 and later",
        "pip install --no-deps 'PyOpenGL>=3.1.10' (pip says that pyrender wants another; it works with this one)",
    ),
    (
        r"failed to (load|open) (driver|swrast|\S+_dri)|swrast_dri\.so|DRI driver",
        "there is no DRI driver, so EGL has nothing to draw with",
        _MESA,
    ),
    (
        r"Invalid device ID \((\d+)",
        r"Invalid device ID: EGL finds no device of number \1",
        f"unset EGL_DEVICE_ID if it is set; if there is no device at all: {_MESA}",
    ),
    (
        r"EGL_BAD_DISPLAY|err = 12296",
        "EGL does not accept its display (EGL_BAD_DISPLAY)",
        "unset DISPLAY and WAYLAND_DISPLAY; then the driver does not fit the device: " + _MESA,
    ),
    (
        r"eglInitialize|EGL_NOT_INITIALIZED|err = 12289",
        "EGL cannot be initialised (eglInitialize failed)",
        "give your user access to /dev/dri (group render or video), and update the driver or libgl1-mesa-dri",
    ),
    (
        r"multisampling",
        "the driver offers no 4x multisampling",
        "update the driver or libgl1-mesa-dri; unset GALLIUM_DRIVER and LIBGL_ALWAYS_SOFTWARE if they are set",
    ),
    (
        r"EGL_BAD_(CONFIG|MATCH|CONTEXT|ATTRIBUTE)|err = 1229[2-7]|GLSL",
        "the driver offers no OpenGL 4.1 core context",
        "update the driver or libgl1-mesa-dri",
    ),
)
