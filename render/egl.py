"""An OpenGL context without a screen: pyrender's EGL platform."""

from __future__ import annotations

import os
import sys


def open_context():
    """A context of its own, current in this thread, on the device that EGL_DEVICE_ID numbers (0 if unset).

    Returns:
        pyrender's ``EGLPlatform``.

    Raises:
        Exception: whatever the environment, pyrender, PyOpenGL or the driver do; :mod:`render.failures` explains it.
    """
    _choose_platform()
    from pyrender.platforms import egl

    platform = egl.EGLPlatform(1, 1, egl.get_device_by_index(device_number()))
    platform.init_context()
    return platform


def device_number() -> int:
    """Which of EGL's devices draws."""
    number = os.environ.get("EGL_DEVICE_ID", "0")
    if not number.isdecimal():
        raise RuntimeError(f"EGL_DEVICE_ID is set to {number!r}")
    return int(number)


def describe_device() -> str:
    """The device that draws, by its number and, where it has one, its file."""
    from pyrender.platforms import egl

    devices, number = egl.query_devices(), device_number()
    file = devices[number].name
    return f"{number} of {len(devices)}{f' ({file})' if file else ''}"


def _choose_platform() -> None:
    """PyOpenGL reads the environment once, when it is first imported."""
    wanted = os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
    if wanted != "egl":
        raise RuntimeError(f"PYOPENGL_PLATFORM is set to {wanted!r}")
    loaded = sys.modules.get("OpenGL.platform")
    if loaded is not None and type(loaded.PLATFORM).__name__ != "EGLPlatform":
        raise RuntimeError("PyOpenGL was imported before PYOPENGL_PLATFORM was set to egl")
