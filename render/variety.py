"""Domain randomisation: pairs that differ in more than their cameras. `docs/variety.md` shows every option.

Each option has random numbers of its own, a function of (seed, model id, pair index, option): switching one on or off
changes neither the cameras nor what the others draw.
"""

from __future__ import annotations

import colorsys
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.errors import UserError
from data.images import to_8_bits
from data.manifest import file_sha256
from render.mesh import Mesh, unit_box
from render.shading import Light

BACKGROUNDS = ("solid", "gradient", "noise")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")  # files of a folder of pictures
MAX_COLORS = 8  # that a recoloured or jittered object is divided into
SHADES = 8  # waves of brightness that a mottled object's shades sum up
WAVES = 4  # that a warp sums up
WAVELENGTH = (2.5, 6.0)  # of them, object units
STEEPEST = 0.9  # bound on a warp's change of displacement per distance, at strength 1; below 1 nothing folds over

Draws = Callable[[str], np.random.Generator]  # the generator of a pair for an option's name


@dataclass(frozen=True)
class Variety:
    """What varies from pair to pair; everything is off by default.

    A pair is one object in one state: colours, shape and light are the same in both of its views. Backgrounds,
    brightness and contrast belong to an image and differ between them.
    """

    recolor: float = 0.0  # share of pairs whose parts get random colours instead of their own
    color_jitter: float = 0.0  # how much the other pairs' colours change in hue, saturation and brightness, 0 to 1
    mottle: float = 0.0  # share of pairs whose colours get shades, grain and patches, as textures have
    stretch: float = 0.0  # width, height and length change by factors of up to 1 + this, each by itself
    warp: float = 0.0  # how much the shape is bent, smoothly and alike left and right, 0 to 1
    asymmetric: bool = False  # --warp may differ between left and right
    sun_spread_degrees: float = 0.0  # the sun's direction turns by up to this; 90 is anywhere above
    light_tint: float = 0.0  # how much the lights are coloured, 0 to 1
    ambient: tuple[float, float] = (1.0, 1.0)  # low,high: factor on --sky and --ground; the sun makes up for it
    backgrounds: tuple[str, ...] | None = None  # kinds to draw from, joined by commas: solid, gradient, noise
    background_images: Path | None = None  # a folder of pictures, one more kind of background
    brightness: float = 0.0  # images get brighter or darker by factors of up to 1 + this
    contrast: float = 0.0  # images get harder or softer by factors of up to 1 + this

    @property
    def of_objects(self) -> bool:
        """Whether pairs differ in the object or its light."""
        return any(
            (self.recolor, self.color_jitter, self.mottle, self.deforms, self.sun_spread_degrees, self.light_tint)
        ) or self.ambient != (1.0, 1.0)

    @property
    def of_images(self) -> bool:
        """Whether images are changed after they were rendered."""
        return bool(self.backgrounds or self.background_images or self.brightness or self.contrast)

    @property
    def deforms(self) -> bool:
        """Whether pairs differ in the object's shape."""
        return self.stretch > 0 or self.warp > 0


def check_variety(variety: Variety) -> None:
    """Raise :class:`UserError` for the first option that makes no sense."""
    for name, high in (
        ("recolor", 1), ("color_jitter", 1), ("mottle", 1), ("stretch", 1), ("warp", 1),
        ("sun_spread_degrees", 180), ("light_tint", 1), ("brightness", 2), ("contrast", 2),
    ):  # fmt: skip
        value = getattr(variety, name)
        if not 0 <= value <= high:  # true of NaN too
            raise UserError(f"{name.replace('_', '-')}: {value}: choose 0 to {high}")
    if len(variety.ambient) != 2 or not 0 <= variety.ambient[0] <= variety.ambient[1] <= 1.5:
        raise UserError(f"ambient: {variety.ambient}: choose 0 to 1.5, the lower end first")
    if variety.asymmetric and not variety.warp:
        raise UserError("asymmetric: changes --warp, which is off: give --warp too")
    for kind in variety.backgrounds or ():
        if kind not in BACKGROUNDS:
            raise UserError(
                f"backgrounds: {kind!r} is unknown: choose among {', '.join(BACKGROUNDS)}; pictures come with "
                "--background-images FOLDER"
            )
    if variety.background_images:
        for path in tqdm(_pictures(Path(variety.background_images)), desc="pictures", disable=None, leave=False):
            _open_picture(path, 1)


def variety_settings(variety: Variety) -> dict:
    """The options that are on, as JSON types; of a folder of pictures, what tells it from another."""
    settings = {f.name: getattr(variety, f.name) for f in fields(variety) if getattr(variety, f.name) != f.default}
    if variety.background_images:
        files = _pictures(Path(variety.background_images))
        listing = "\n".join(f"{path.name} {file_sha256(path)}" for path in files)
        digest = hashlib.sha256(os.fsencode(listing)).hexdigest()
        settings["background_images"] = {"files": len(files), "sha256": digest}
    return settings


def vary_object(mesh: Mesh, light: Light, variety: Variety, draws: Draws) -> tuple[Mesh, Light]:
    """The object of one pair, and the light on it. What is off stays the same Python object."""
    colors, _ = mesh.palette
    rng = draws("recolor")
    if rng.random() < variety.recolor:
        mesh = mesh.repainted(recolor(colors, rng))
    elif variety.color_jitter:
        mesh = mesh.repainted(jitter_colors(colors, variety.color_jitter, draws("color_jitter")))
    rng = draws("mottle")
    if rng.random() < variety.mottle:
        mesh = mottle(mesh, rng)
    if variety.deforms:
        mesh = deform(mesh, variety, draws)
    return mesh, vary_light(light, variety, draws)


def vary_images(rgba: np.ndarray, variety: Variety, draws: Draws) -> np.ndarray:
    """The images of one pair: behind the object a background, then brightness and contrast. Alpha stays as it is.

    Args:
        rgba: uint8 (2, H, W, 4), premultiplied.

    Returns:
        The same; with a background, RGB is the object over it instead of over black.
    """
    paint = _painters(variety)
    if paint:
        rng = draws("backgrounds")
        pictures = np.stack([paint[rng.integers(len(paint))](rng, len(view)) for view in rgba])
        behind = pictures * (1 - rgba[..., 3:] / np.float32(255))
        rgba = np.concatenate([(rgba[..., :3] + behind + 0.5).astype(np.uint8), rgba[..., 3:]], -1)
    if variety.brightness or variety.contrast:
        gain = _factors(draws("brightness"), variety.brightness, (2, 1, 1, 1))
        contrast = _factors(draws("contrast"), variety.contrast, (2, 1, 1, 1))
        # Straight colour c becomes (c * gain - 1/2) * contrast + 1/2; without a background c is premultiplied by alpha.
        full = np.float32(255) if paint else rgba[..., 3:].astype(np.float32)
        rgb = rgba[..., :3] * (gain * contrast) + full * (1 - contrast) / 2
        rgba = np.concatenate([(np.clip(rgb, 0, full) + 0.5).astype(np.uint8), rgba[..., 3:]], -1)
    return rgba


# --- colours ---------------------------------------------------------------------------------------------------------


def recolor(palette: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """New colours for the parts of an object; a part is what has similar colours.

    Half of the time dark parts stay the darker ones, as glass and tyres are. Shades within a part fade or stay.

    Args:
        palette: uint8 (U, 3), the object's distinct colours.

    Returns:
        uint8 (U, 3), what becomes of each.
    """
    part = _parts(palette, rng)
    count = part.max() + 1
    paints = np.stack([_paint(rng) for _ in range(count)])
    means = np.stack([palette[part == number].mean(0) for number in range(count)])
    if rng.random() < 0.5:
        order = np.argsort(means @ _LUMA, kind="stable")
        paints[order] = paints[np.argsort(paints @ _LUMA, kind="stable")]
    return _as_bytes(paints[part] + rng.random() * (palette - means[part]))


def jitter_colors(palette: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Change hue, saturation and brightness a little, of the object as a whole and of its parts.

    Args:
        palette: uint8 (U, 3), the object's distinct colours. strength: 0 to 1.

    Returns:
        uint8 (U, 3), what becomes of each.
    """
    part = _parts(palette, rng)
    changed = np.empty(palette.shape)
    common = rng.normal(size=3)
    for number in range(part.max() + 1):
        turn, saturation, gain = strength * (common + rng.normal(size=3)) / 3
        tint = 40 * strength * rng.uniform(-1, 1, 3)
        mixing = np.exp(gain) * _hue_and_saturation(2 * turn, np.exp(2 * saturation))
        changed[part == number] = palette[part == number] @ mixing.T + tint
    return _as_bytes(changed)


def mottle(mesh: Mesh, rng: np.random.Generator) -> Mesh:
    """Colours that change over the surface, as those of textures do: soft shades, grain from face to face, and, half of
    the time, up to six patches of other colours, alike left and right."""
    waves = rng.uniform(2, 20, (SHADES, 1)) * rng.normal(size=(SHADES, 3))
    shade = rng.uniform(0, 50) * np.sin(mesh.vertices @ waves.T + rng.uniform(0, 2 * np.pi, SHADES)).mean(-1)
    shade = shade[mesh.faces] + rng.normal(0, rng.uniform(0, 20), (len(mesh.faces), 1))
    centers = mesh.vertices[mesh.faces].mean(1)
    centers[:, 0] = np.abs(centers[:, 0])
    patches = []
    for _ in range(rng.integers(0, 7) if rng.random() < 0.5 else 0):
        inside = (np.abs(centers - centers[rng.integers(len(centers))]) < rng.uniform(0.04, 0.18, 3)).all(1)
        patches.append((inside, _paint(rng)))

    def painted(colors: np.ndarray) -> np.ndarray:
        colors = colors + shade[..., None]
        for inside, paint in patches:
            colors[inside] = paint
        return _as_bytes(colors)

    back = None if mesh.back_colors is None else painted(mesh.back_colors)
    return replace(mesh, colors=painted(mesh.colors), back_colors=back)


_LUMA = np.array([0.299, 0.587, 0.114])
_YIQ_OF_RGB = np.array([_LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def _hue_and_saturation(turn: float, saturation: float) -> np.ndarray:
    """Matrix (3, 3) that turns the hue of RGB by an angle in radians and scales its saturation."""
    sine, cosine = saturation * np.sin(turn), saturation * np.cos(turn)
    return np.linalg.inv(_YIQ_OF_RGB) @ [[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]] @ _YIQ_OF_RGB


def _parts(palette: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Divide an object into 1 to ``MAX_COLORS`` parts: each colour goes with the nearest of some that are drawn.

    Returns:
        int64 (U,), the part of each colour, counted from 0.
    """
    count = min(rng.integers(1, MAX_COLORS + 1), len(palette))
    centers = palette[rng.choice(len(palette), count, replace=False)]
    return np.square(palette[:, None].astype(np.int64) - centers).sum(-1).argmin(1)


def _paint(rng: np.random.Generator) -> np.ndarray:
    """A colour (3,) that things have, sRGB in [0, 255]: a grey from black to white, or a paint."""
    if rng.random() < 0.4:
        return 255 * np.clip(rng.uniform(0.03, 1) + rng.uniform(-0.03, 0.03, 3), 0, 1)
    return 255 * np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.2, 1), rng.uniform(0.2, 1)))


def _as_bytes(colors: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(colors, 0, 255)).astype(np.uint8)


# --- shape -----------------------------------------------------------------------------------------------------------


def deform(mesh: Mesh, variety: Variety, draws: Draws) -> Mesh:
    """Stretch and warp a mesh, its normals and its semantic keypoints; the object frame's axes keep their meaning."""
    stretch = np.diag(_factors(draws("stretch"), variety.stretch, 3))
    warp = Warp(variety.warp, not variety.asymmetric, draws("warp"))
    grid = np.linspace(mesh.vertices.min(0), mesh.vertices.max(0), 5)
    box = np.stack(np.meshgrid(*grid.T), -1).reshape(-1, 3)
    linear = stretch @ _rotation_between(box + warp(box), box)

    def moved(points: np.ndarray) -> np.ndarray:
        return (points + warp(points)) @ linear.T

    vertices = moved(mesh.vertices)
    center, scale = unit_box(vertices)
    # A surface's normal goes with the cofactors of the map's Jacobian.
    cofactors = _cofactors(linear @ (np.eye(3) + warp.jacobian(mesh.vertices)))
    normals = np.einsum("fcij,fcj->fci", cofactors.astype(np.float32)[mesh.faces], mesh.normals)
    keypoints = {name: (moved(point) - center) * scale for name, point in mesh.semantic_keypoints.items()}
    return replace(mesh, vertices=(vertices - center) * scale, normals=_unit(normals), semantic_keypoints=keypoints)


def _cofactors(matrices: np.ndarray) -> np.ndarray:
    """Cofactor matrices of (..., 3, 3): det(A) times the transposed inverse of A."""
    x, y, z = np.moveaxis(matrices, -1, 0)
    return np.stack([np.cross(y, z), np.cross(z, x), np.cross(x, y)], -1)


def _rotation_between(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) that best turns points (N, 3) into others, both about their means (Kabsch)."""
    u, _, vt = np.linalg.svd((target - target.mean(0)).T @ (source - source.mean(0)))
    return u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt


class Warp:
    """A smooth displacement field on the object's box: a sum of a few long waves in random directions.

    Its Lipschitz constant is at most ``STEEPEST * strength`` < 1, so x + warp(x) maps space one to one: nothing folds
    over or turns inside out.

    Args:
        strength: 0 to 1. symmetric: about the object's plane x = 0.
    """

    def __init__(self, strength: float, symmetric: bool, rng: np.random.Generator):
        self.symmetric = symmetric
        number = 2 * np.pi / rng.uniform(*WAVELENGTH, WAVES)
        self._waves = number[:, None] * _unit(rng.normal(size=(WAVES, 3)))
        self._phases = rng.uniform(0, 2 * np.pi, WAVES)
        # Each wave is a share of the steepness: amplitude times wave number.
        steepness = STEEPEST * strength * rng.dirichlet(np.ones(WAVES))
        self._displacements = (steepness / number)[:, None] * _unit(rng.normal(size=(WAVES, 3)))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Displacement (..., 3) of points (..., 3), object units."""
        if not self.symmetric:
            return self._field(points)
        return (self._field(points) + _MIRROR * self._field(_MIRROR * points)) / 2

    def jacobian(self, points: np.ndarray) -> np.ndarray:
        """Its derivatives (..., 3, 3) at points (..., 3): rows are the displacement's, columns the point's axes."""
        if not self.symmetric:
            return self._field_jacobian(points)
        mirrored = _MIRROR[:, None] * self._field_jacobian(_MIRROR * points) * _MIRROR
        return (self._field_jacobian(points) + mirrored) / 2

    def _field(self, points: np.ndarray) -> np.ndarray:
        return np.sin(points @ self._waves.T + self._phases) @ self._displacements

    def _field_jacobian(self, points: np.ndarray) -> np.ndarray:
        products = self._displacements[:, :, None] * self._waves[:, None]  # (WAVES, 3, 3)
        slopes = np.cos(points @ self._waves.T + self._phases)
        return (slopes @ products.reshape(WAVES, 9)).reshape(*slopes.shape[:-1], 3, 3)


_MIRROR = np.array([-1.0, 1.0, 1.0])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


# --- light -----------------------------------------------------------------------------------------------------------


def vary_light(light: Light, variety: Variety, draws: Draws) -> Light:
    """Turn, tint and balance the lights, which stand still in the object frame; a white face still stays <= 1."""
    if variety.sun_spread_degrees:
        direction = _within_cone(light.sun_direction, variety.sun_spread_degrees, draws("sun_spread_degrees"))
        light = replace(light, sun_direction=tuple(direction.tolist()))
    if variety.ambient != (1.0, 1.0):
        factor = draws("ambient").uniform(*variety.ambient)
        sky, ground, sun = (np.array(x) for x in (light.sky, light.ground, light.sun))
        sun = np.maximum(sun + (1 - factor) * sky, 0)
        light = replace(light, sky=_triple(factor * sky), ground=_triple(factor * ground), sun=_triple(sun))
    if variety.light_tint:
        rng = draws("light_tint")
        tints = {name: _tint(variety.light_tint, rng) for name in ("sky", "ground", "sun")}
        light = replace(light, **{name: _triple(tint * getattr(light, name)) for name, tint in tints.items()})
    return light


def _within_cone(axis: tuple[float, float, float], degrees: float, rng: np.random.Generator) -> np.ndarray:
    """Unit vector, uniform by area among those at most so far from ``axis``."""
    axis = _unit(np.asarray(axis, np.float64))
    cosine = rng.uniform(np.cos(np.radians(degrees)), 1)
    around = rng.normal(size=3)
    return cosine * axis + np.sqrt(1 - cosine**2) * _unit(around - (around @ axis) * axis)


def _tint(strength: float, rng: np.random.Generator) -> np.ndarray:
    """Factors (3,) of a colour whose largest channel is 1."""
    color = 1 - strength * rng.random(3)
    return color / color.max()


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    return tuple(np.asarray(values).tolist())


# --- images ----------------------------------------------------------------------------------------------------------


def _painters(variety: Variety) -> list[Callable[[np.random.Generator, int], np.ndarray]]:
    """Functions of (rng, size) that paint a background, float32 (size, size, 3) in [0, 255]."""
    kinds = {"solid": _solid, "gradient": _gradient, "noise": _noise}
    painters = [kinds[kind] for kind in variety.backgrounds or ()]
    if variety.background_images:
        files = _pictures(Path(variety.background_images))
        painters.append(lambda rng, size: _crop(files[rng.integers(len(files))], rng, size))
    return painters


def _solid(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.broadcast_to(rng.uniform(0, 255, 3).astype(np.float32), (size, size, 3))


def _gradient(rng: np.random.Generator, size: int) -> np.ndarray:
    """From one colour to another, in a random direction."""
    first, second = rng.uniform(0, 255, (2, 3)).astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    share = 0.5 + 0.5 * (x * np.cos(angle) + y * np.sin(angle)) / (abs(np.cos(angle)) + abs(np.sin(angle)))
    return (first + (second - first) * share[..., None]).astype(np.float32)


def _noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Clouds: smooth noise of several scales, each twice as fine as the one before, in all channels."""
    cells, weight = int(rng.integers(2, 6)), 120.0
    fading = rng.uniform(0.4, 0.9)  # of each scale against the coarser one
    clouds = rng.uniform(40, 215, 3) + weight * rng.uniform(-1, 1, (cells, cells, 3))
    while 2 * cells <= size:
        cells, weight = 2 * cells, weight * fading
        clouds = _enlarge(clouds, cells) + weight * rng.uniform(-1, 1, (cells, cells, 3))
    return np.clip(_enlarge(clouds, size), 0, 255)


def _enlarge(colors: np.ndarray, size: int) -> np.ndarray:
    """(h, w, 3) to float32 (size, size, 3), smoothly."""
    channels = (Image.fromarray(channel) for channel in np.moveaxis(colors, -1, 0).astype(np.float32))
    return np.stack([channel.resize((size, size), Image.Resampling.BICUBIC) for channel in channels], -1)


def _crop(path: Path, rng: np.random.Generator, size: int) -> np.ndarray:
    """A random square of a picture, a third to all of its shorter side."""
    picture = _open_picture(path, 3 * size)
    side = max(1, round(min(picture.size) * rng.uniform(1 / 3, 1)))
    left, top = (int(rng.integers(length - side + 1)) for length in picture.size)
    box = (left, top, left + side, top + side)
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box), np.float32)


def _open_picture(path: Path, least: int) -> Image.Image:
    """A picture in RGB; a large JPEG is decoded at a fraction of its size, of at least ``least`` pixels."""
    try:
        with Image.open(path) as picture:
            picture.draft("RGB", (least, least))
            return to_8_bits(picture).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be used as a background ({error}): mend or remove it") from None


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"background-images: {folder}: is not a folder: give a folder of pictures")
    return _listed_pictures(folder, folder.stat().st_mtime_ns)


@lru_cache
def _listed_pictures(folder: Path, changed: int) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if not files:
        raise UserError(f"background-images: {folder}: holds no pictures ({', '.join(PICTURES)})")
    return files


def _factors(rng: np.random.Generator, spread: float, shape: int | tuple[int, ...]) -> np.ndarray:
    """Factors from 1 / (1 + spread) to 1 + spread, as often below 1 as above."""
    return np.exp(np.log1p(spread) * rng.uniform(-1, 1, shape))
