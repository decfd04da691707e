"""The one interface behind which every renderer stands, and the choice between them."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from data.errors import UserError
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


def resolve(name: str) -> str:
    """The backend that ``name`` stands for on this machine: itself, or what ``auto`` takes."""
    if name not in BACKENDS:
        raise UserError(f"backend: {name!r} is unknown: choose one of {', '.join(BACKENDS)}")
    return name if name != "auto" else "embree"


def _open_embree() -> Backend:
    from render.embree import EmbreeBackend

    return EmbreeBackend()


def _open_egl() -> Backend:
    raise UserError("backend: egl is not built yet")


def _open_osmesa() -> Backend:
    raise UserError(
        "backend: osmesa is not offered: pyrender 0.1.45 pins PyOpenGL 3.1.0, whose OSMesa platform cannot create "
        "the context that pyrender asks for: use --backend embree, which needs no GL at all"
    )
