"""An on-screen window on a mesh and points on it, through pyrender's viewer."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import trimesh

from data.errors import UserError
from render.mesh import Mesh
from render.views import look_at

POINT_RADIUS = 0.035  # object units
WINDOW_SIZE = (1024, 768)  # pixels
BACKGROUND = (0.85, 0.87, 0.91)


def view(mesh: Mesh, points: np.ndarray, colors: Sequence[tuple[int, int, int]], title: str) -> None:
    """Open a window and wait until it is closed.

    Args:
        points: (N, 3), object frame. colors: sRGB of each.

    Raises:
        UserError: no screen, or no window can be opened on it.
    """
    check_screen()
    try:
        import pyrender

        if not hasattr(np, "infty"):
            np.infty = np.inf  # pyrender 0.1.45 asks for the name that numpy 2 dropped
        scene = _scene(pyrender, mesh, points, colors)
        pyrender.Viewer(scene, WINDOW_SIZE, use_raymond_lighting=True, window_title=title)
    except Exception as error:  # pyglet, PyOpenGL and drivers fail in many ways
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"view: no window can be opened on {os.environ['DISPLAY']} ({reason}): use `keypointnet spin`, which "
            "writes a GIF or MP4"
        ) from None


def check_screen() -> None:
    """Raise UserError where there is no screen."""
    if not os.environ.get("DISPLAY"):
        raise UserError("view: no screen (DISPLAY is not set): use `keypointnet spin`, which writes a GIF or MP4")


def _scene(pyrender, mesh: Mesh, points: np.ndarray, colors: Sequence[tuple[int, int, int]]):
    scene = pyrender.Scene(bg_color=BACKGROUND, ambient_light=(0.3, 0.3, 0.3))
    # From the front right, +y up; pyrender's camera looks along -z.
    camera_to_object = np.linalg.inv(look_at(np.array([1.7, 1.2, -2.1]))) @ np.diag([1.0, -1.0, -1.0, 1.0])
    scene.add(pyrender.PerspectiveCamera(yfov=np.pi / 4), pose=camera_to_object)
    corners = mesh.vertices[mesh.faces].astype(np.float32)
    back = mesh.colors if mesh.back_colors is None else mesh.back_colors
    # Translucent, because keypoints may lie within the object.
    material = pyrender.MetallicRoughnessMaterial(
        baseColorFactor=(1, 1, 1, 0.5), metallicFactor=0, roughnessFactor=0.9, alphaMode="BLEND"
    )
    # Both sides of a face are triangles of their own: pyrender lights by the normal.
    for order, sign, shown in ((slice(None), 1, mesh.colors), (slice(None, None, -1), -1, back)):
        side = pyrender.Primitive(
            positions=corners[:, order].reshape(-1, 3),
            normals=sign * mesh.normals[:, order].reshape(-1, 3),
            color_0=np.insert(shown[:, order].reshape(-1, 3) / np.float32(255), 3, 1, axis=1),
            material=material,
        )
        scene.add(pyrender.Mesh([side]))
    for point, color in zip(points, colors, strict=True):
        ball = trimesh.creation.icosphere(subdivisions=2, radius=POINT_RADIUS)
        ball.visual.vertex_colors = (*color, 255)
        pose = np.eye(4)
        pose[:3, 3] = point
        scene.add(pyrender.Mesh.from_trimesh(ball), pose=pose)
    return scene
