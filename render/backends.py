"""The one interface behind which every renderer stands."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from data.errors import UserError
from render.failures import describe, explain
from render.mesh import Mesh
from render.shading import Light

BACKENDS = ("auto", "egl", "osmesa", "embree")


class Backend(Protocol):
    """Renders views of a mesh. Masks, depth and colours of two backends agree (tests/test_backends.py says how far)."""

    name: str

    def render(
        self,
        mesh: Mesh,
        object_to_camera: np.ndarray,
        intrinsics: np.ndarray,
        image_size: int,
        light: Light = Light(),
    ) -> tuple[np.ndarray, np.ndarray]:
        """Render n views of one mesh. What a view looks like does not depend on the others.

        Args:
            object_to_camera: float64 (n, 4, 4). intrinsics: float64 (n, 3, 3), pixels.
            image_size: pixels, height and width.

        Returns:
            rgba uint8 (n, H, W, 4), sRGB premultiplied by coverage, and depth float32 (n, H, W), z-depth at the
            pixel's centre in object units, 0 where the centre sees nothing.
        """
        ...


def open_backend(name: str) -> Backend:
    """Open a backend by its name, one of ``BACKENDS`` but ``auto`` (see :func:`render.doctor.resolve`).

    Raises:
        UserError: the backend does not work on this machine; says why and what to do.
    """
    openers = {"egl": _open_egl, "osmesa": _open_osmesa, "embree": _open_embree}
    try:
        return openers[name]()
    except Exception as error:  # pyrender, PyOpenGL and drivers fail in many ways
        why, advice = explain(describe(error))
        raise unusable(name, why, advice) from error


def unusable(name: str, why: str, advice: str) -> UserError:
    """The error that says that a backend does not work here."""
    return UserError(f"backend: {name} does not work: {why}: {advice or 'run `keypointnet doctor`'}")


def _open_embree() -> Backend:
    from render.embree import EmbreeBackend

    return EmbreeBackend()


def _open_egl() -> Backend:
    from render.egl import open_context

    context = open_context()
    from render.gl import GlBackend  # imports OpenGL, which open_context has set up

    return GlBackend("egl", context)


def _open_osmesa() -> Backend:
    raise NotImplementedError("OSMesaCreateContextAttribs")
