"""Views around a mesh: for an animated turntable, and to see an object from all sides."""

from __future__ import annotations

import numpy as np

from data.errors import UserError
from render.backends import open_backend
from render.doctor import resolve
from render.mesh import Mesh
from render.views import look_at, pinhole


def turntable(
    mesh: Mesh, frames: int, distance: float, focal_length: float, image_size: int, elevation_degrees: float = 25.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Render views evenly around the vertical axis, beginning at the front.

    Args:
        distance: of the camera, object units. focal_length: in image heights. image_size: pixels, height and width.

    Returns:
        rgba uint8 (n, H, W, 4) premultiplied, object_to_camera float64 (n, 4, 4), intrinsics float64 (n, 3, 3).

    Raises:
        UserError: an elevation beyond straight above or below.
    """
    if not -90 <= elevation_degrees <= 90:
        raise UserError(f"elevation {elevation_degrees}: give -90 to 90 degrees")
    elevation = np.radians(np.clip(elevation_degrees, -89.9, 89.9))  # at the poles a camera has no azimuth
    azimuths = 2 * np.pi * np.arange(frames) / frames
    positions = np.stack(
        [
            np.sin(azimuths) * np.cos(elevation),
            np.full(frames, np.sin(elevation)),
            -np.cos(azimuths) * np.cos(elevation),
        ],
        axis=-1,
    )
    poses = np.stack([look_at(distance * position) for position in positions])
    intrinsics = np.tile(pinhole(image_size, focal_length * image_size), (frames, 1, 1))
    rgba, _ = open_backend(resolve("auto")).render(mesh, poses, intrinsics, image_size)
    return rgba, poses, intrinsics
