"""GPU backend: OpenGL through pyrender, without a screen (EGL).

Both sides of a face are drawn as triangles of their own, one of which GL always culls, in colours lit beforehand by
:mod:`render.shading`; pyrender's flat shader passes them on. A first pass with 4x multisampling gives colour and
coverage. Its depth would be that of one of the four samples, so a second, without multisampling, gives the depth at
the pixel's centre.
"""

from __future__ import annotations

import os
import sys

import numpy as np

from data.errors import UserError
from render.mesh import Mesh
from render.shading import Light, lit_corners

_OPENCV_OF_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
_OBJECT_RADIUS = 1.75  # of the unit box's circumscribed sphere, rounded up
_NEAREST = 0.01  # object units


class EglBackend:
    """Renders on the GPU. See :class:`render.backends.Backend` for the interface."""

    name = "egl"

    def __init__(self):
        self._pyrender = import_pyrender()
        self._renderer = self._pyrender.OffscreenRenderer(1, 1)

    def render(
        self,
        mesh: Mesh,
        object_to_camera: np.ndarray,
        intrinsics: np.ndarray,
        image_size: int,
        light: Light = Light(),
    ) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`render.backends.Backend.render`."""
        flags = self._pyrender.RenderFlags
        scene = self._pyrender.Scene(bg_color=np.zeros(4))
        node = scene.add(self._gl_mesh(mesh, light))
        self._renderer.viewport_width = self._renderer.viewport_height = image_size
        rgba = np.empty((len(object_to_camera), image_size, image_size, 4), np.uint8)
        depth = np.empty(rgba.shape[:3], np.float32)
        for i, (pose, camera) in enumerate(zip(object_to_camera, intrinsics, strict=True)):
            view = scene.add(self._camera(pose, camera), pose=np.linalg.inv(pose) @ _OPENCV_OF_OPENGL)
            rgba[i] = self._renderer.render(scene, flags.FLAT | flags.RGBA)[0]
            depth[i] = self._renderer.render(scene, flags.SEG, {node: 1})[1]
            scene.remove_node(view)
        return rgba, depth

    def _camera(self, pose: np.ndarray, intrinsics: np.ndarray):
        near = max(_NEAREST, pose[2, 3] - _OBJECT_RADIUS)
        far = max(2 * _NEAREST, pose[2, 3] + _OBJECT_RADIUS)
        (fx, _, cx), (_, fy, cy) = intrinsics[:2]
        return self._pyrender.IntrinsicsCamera(fx, fy, cx, cy, znear=near, zfar=far)

    def _gl_mesh(self, mesh: Mesh, light: Light):
        corners = mesh.vertices[mesh.faces].astype(np.float32)
        front, back = lit_corners(mesh, light)
        material = self._pyrender.MetallicRoughnessMaterial(baseColorFactor=np.ones(4), doubleSided=False)
        sides = ((corners, front), (corners[:, ::-1], back[:, ::-1]))
        return self._pyrender.Mesh(
            [
                self._pyrender.Primitive(
                    positions=positions.reshape(-1, 3),
                    color_0=np.pad(colors.reshape(-1, 3) / 255, ((0, 0), (0, 1)), constant_values=1),
                    material=material,
                )
                for positions, colors in sides
            ]
        )


def import_pyrender():
    """pyrender, set up for EGL; it reads the environment once, when it is first imported."""
    wanted = os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
    if wanted != "egl":
        raise UserError(f"backend: PYOPENGL_PLATFORM is set to {wanted!r}: unset it, or set it to egl")
    loaded = sys.modules.get("OpenGL.platform")
    if loaded is not None and type(loaded.PLATFORM).__name__ != "EGLPlatform":
        raise UserError(
            "backend: PyOpenGL was imported before PYOPENGL_PLATFORM was set to egl: set it in the shell, before Python "
            "starts"
        )
    try:
        import pyrender
    except ImportError as error:
        raise UserError(f"backend: pyrender cannot be imported ({error}): run `keypointnet doctor`") from None
    return pyrender
