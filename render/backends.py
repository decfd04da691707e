"""The one interface behind which every renderer stands, and the choice between them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from data.errors import UserError
from render.doctor import examine, explain
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
        """Render n views of one mesh.

        Args:
            object_to_camera: float64 (n, 4, 4). intrinsics: float64 (n, 3, 3), pixels.
            image_size: pixels, height and width.

        Returns:
            rgba uint8 (n, H, W, 4), sRGB premultiplied by coverage, and depth float32 (n, H, W), z-depth at the
            pixel's centre in object units, 0 where the centre sees nothing.
        """
        ...


def open_backend(name: str) -> Backend:
    """Open a backend by its name; ``auto`` takes EGL where it is a real GPU, else Embree.

    Raises:
        UserError: the backend does not work on this machine; says why and what to do.
    """
    return {"egl": _open_egl, "osmesa": _open_osmesa, "embree": _open_embree}[resolve(name)]()


@lru_cache
def resolve(name: str) -> str:
    """The backend that ``name`` stands for on this machine: itself, or what ``auto`` takes."""
    if name not in BACKENDS:
        raise UserError(f"backend: {name!r} is unknown: choose one of {', '.join(BACKENDS)}")
    if name != "auto":
        return name
    has_device = any(Path("/dev").glob("nvidia[0-9]*")) or any(Path("/dev/dri").glob("renderD*"))
    return "egl" if has_device and examine("egl").gpu else "embree"


def _open_embree() -> Backend:
    try:
        from render.embree import EmbreeBackend
    except ImportError as error:
        raise _unusable("embree", error) from None
    return EmbreeBackend()


def _open_egl() -> Backend:
    from render.gl import EglBackend

    try:
        return EglBackend()
    except UserError:
        raise
    except Exception as error:  # pyrender, PyOpenGL and drivers fail in many ways
        raise _unusable("egl", error) from None


def _open_osmesa() -> Backend:
    raise _unusable("osmesa", "OSMesaCreateContextAttribs")


def _unusable(name: str, error: object) -> UserError:
    why, advice = explain(f"{type(error).__name__}: {error}")
    return UserError(f"backend: {name} does not work: {why}: {advice or 'run `keypointnet doctor`'}")
