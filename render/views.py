"""Where the cameras stand: the paper's sampling of view pairs (arXiv 1807.03146, section 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.errors import UserError


@dataclass(frozen=True)
class ViewSettings:
    """How the two cameras of a pair are drawn. Ranges are (low, high); equal ends fix the value."""

    image_size: int = 128  # pixels, height and width
    distance: tuple[float, float] = (30.0, 30.0)  # low,high: the camera's, from the object's centre, object units
    fov_degrees: tuple[float, float] = (5.0, 5.0)  # low,high: full vertical field of view
    elevation_degrees: tuple[float, float] = (0.0, 90.0)  # low,high: above the object's x-z plane
    shift: float = 0.2  # the camera moves by up to this much along each object axis after it was aimed, object units
    roll_degrees: float = 0.0  # the camera turns about its axis by up to this much either way

    @property
    def reach(self) -> float:
        """How far from where the camera is aimed the object's points can lie, object units."""
        return np.sqrt(3) * (1 + self.shift)  # a box of side 2, shifted along each axis


def check_views(views: ViewSettings) -> None:
    """Raise :class:`UserError` for the first setting that makes no sense."""
    reach = np.ceil(1e4 * views.reach) / 1e4  # from within it, a camera could stand in the object
    for name, (low, high), unit in (
        ("image_size", (8, 4096), "pixels"),
        ("shift", (0, 1), "object units"),
        ("roll_degrees", (0, 180), "degrees"),
        ("distance", (reach, 1e4), "object units"),
        ("fov_degrees", (0.01, 150), "degrees"),
        ("elevation_degrees", (-90, 90), "degrees"),
    ):
        value = getattr(views, name)
        ends = value if np.ndim(value) else (value, value)
        if len(ends) != 2 or not low <= ends[0] <= ends[1] <= high:  # true of NaN too
            order = ", the lower end first" if np.ndim(value) else ""
            raise UserError(f"{name.replace('_', '-')}: {value}: choose {low:.6g} to {high:g} {unit}{order}")


def sample_pair(rng: np.random.Generator, settings: ViewSettings) -> tuple[np.ndarray, np.ndarray]:
    """Draw the two independent views of a pair.

    Returns:
        object_to_camera float64 (2, 4, 4) and intrinsics float64 (2, 3, 3), in pixels.
    """
    poses, cameras = zip(*(_sample_view(rng, settings) for _ in range(2)))
    return np.stack(poses), np.stack(cameras)


def _sample_view(rng: np.random.Generator, settings: ViewSettings) -> tuple[np.ndarray, np.ndarray]:
    # Every number is drawn whether an option uses it or not: switching one option leaves the others' draws alone.
    azimuth, height, distance, fov, roll = rng.random(5)
    shift = rng.uniform(-1, 1, 3) * settings.shift
    pose = look_at(
        _between(settings.distance, distance) * _direction(azimuth, height, settings.elevation_degrees),
        roll_degrees=_between((-settings.roll_degrees, settings.roll_degrees), roll),
    )
    # The official data moves the aimed camera without turning it again, so the object leaves the image centre.
    pose[:3, 3] -= pose[:3, :3] @ shift
    return pose, intrinsics(settings.image_size, _between(settings.fov_degrees, fov))


def _between(limits: tuple[float, float], fraction: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * fraction


def _direction(azimuth: float, height: float, elevation_degrees: tuple[float, float]) -> np.ndarray:
    """Unit vector, uniform by area between two elevations, from two uniform numbers in [0, 1)."""
    low, high = np.sin(np.radians(elevation_degrees))
    y = low + (high - low) * height
    radius = np.sqrt(max(0.0, 1 - y * y))
    angle = 2 * np.pi * azimuth
    return np.array([radius * np.cos(angle), y, radius * np.sin(angle)])


def look_at(position: np.ndarray, roll_degrees: float = 0.0) -> np.ndarray:
    """Pose of an upright camera at ``position`` (3,) that looks at the origin.

    Returns:
        object_to_camera float64 (4, 4), OpenCV camera axes (+x right, +y down, +z forward).
    """
    position = np.asarray(position, np.float64)
    x, y, z = -position / np.linalg.norm(position)
    level = np.hypot(x, z)
    # Straight from above the object's front points up in the image, straight from below down.
    right_x, right_z = (-z / level, x / level) if level > 1e-9 else (1.0, 0.0)
    rotation = np.array([[right_x, 0, right_z], [y * right_z, z * right_x - x * right_z, -y * right_x], [x, y, z]])
    roll = np.radians(roll_degrees)
    rotation = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]]) @ rotation
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = -rotation @ position
    return pose


def intrinsics(image_size: int, fov_degrees: float) -> np.ndarray:
    """K float64 (3, 3) of a square image, in pixels: f = (H/2) / tan(fov/2), principal point at the centre."""
    return pinhole(image_size, image_size / 2 / np.tan(np.radians(fov_degrees) / 2))


def pinhole(image_size: int, focal_length: float) -> np.ndarray:
    """The same of a focal length in pixels."""
    half = image_size / 2
    return np.array([[focal_length, 0, half], [0, focal_length, half], [0, 0, 1]])
