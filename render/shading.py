"""The light model, shared by every backend: a hemisphere light and one diffuse light, no highlights.

Lighting is computed once per corner and side of a mesh, in linear light, then encoded to sRGB; backends only
interpolate these encoded colours over a face (Gouraud) and average them over a pixel. So they agree by
construction, and a view costs no lighting at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.errors import UserError
from render.mesh import Mesh


@dataclass(frozen=True)
class Light:
    """Lights fixed to the object frame. Radiance factors are linear RGB; a white face lit by all of it stays <= 1."""

    sky: tuple[float, float, float] = (0.62, 0.62, 0.62)  # light from straight above
    ground: tuple[float, float, float] = (0.22, 0.22, 0.22)  # light from straight below
    sun: tuple[float, float, float] = (0.38, 0.38, 0.38)  # diffuse light from one direction
    # Straight from above, as the official data's lamp: shading must not tell an object's front or left side.
    sun_direction: tuple[float, float, float] = (0.0, 1.0, 0.0)  # towards the light of `sun`, object frame


def check_light(light: Light) -> None:
    """Raise :class:`UserError` for the first light that makes no sense."""
    for name in ("sky", "ground", "sun"):
        if not all(0 <= factor <= 100 for factor in getattr(light, name)):  # false of NaN
            raise UserError(
                f"{name}: {getattr(light, name)}: choose red, green and blue from 0 to 100; 1 is full light"
            )
    if not 1e-6 < np.linalg.norm(light.sun_direction) < 1e6:
        raise UserError(f"sun-direction: {light.sun_direction}: give a direction such as 0,1,0")


def lit_corners(mesh: Mesh, light: Light) -> tuple[np.ndarray, np.ndarray]:
    """Colours of both sides of every face under ``light``.

    Returns:
        Two float32 (F, 3, 3), sRGB-encoded in [0, 255], per corner: seen from the side that the face's winding
        normal points to, and from the other.
    """
    front = _LINEAR_OF_SRGB8[mesh.colors]
    back = front if mesh.back_colors is None else _LINEAR_OF_SRGB8[mesh.back_colors]
    up = mesh.normals[..., 1:2]
    sun_direction = np.asarray(light.sun_direction, np.float32)
    towards_sun = mesh.normals @ (sun_direction / np.linalg.norm(sun_direction))[:, None]
    sky, ground, sun = (np.asarray(x, np.float32) for x in (light.sky, light.ground, light.sun))
    sides = []
    for sign, albedo in ((1, front), (-1, back)):
        irradiance = ground + (sky - ground) * (0.5 + 0.5 * sign * up) + sun * np.maximum(sign * towards_sun, 0)
        sides.append(255 * encode_srgb(albedo * irradiance))
    return sides[0], sides[1]


def encode_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] to sRGB in [0, 1] (IEC 61966-2-1), clipped. Same dtype and shape."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** np.float32(1 / 2.4) - np.float32(0.055))


def decode_srgb(encoded: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] to linear light in [0, 1]. Same dtype and shape."""
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


_LINEAR_OF_SRGB8 = decode_srgb(np.arange(256) / 255).astype(np.float32)
