"""From trimesh's visuals to colours per corner: materials, vertex and face colours, and textures.

Renderers know no textures. A textured face whose picture varies is cut into small ones, about a pixel wide at
128 pixels, that carry the picture in the colours of their corners.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import Material, PBRMaterial

from data.images import to_8_bits
from render.shading import decode_srgb, encode_srgb

DEFAULT_GREY = 180  # sRGB, of what has no colour
SPACING = 0.02  # width of the faces that a textured one is cut into, object units
MAX_PIECES = 300_000  # that the textured faces of one part are cut into together, about
MAX_PIECES_OF_ALL = 1_500_000  # the same of all parts of an object
MAX_TEXTURE_SIDE = 2048  # pixels; a larger picture is reduced, faces carry no more detail than that
_MAX_CUTS = 256  # along an edge
_HALF = 127.5  # of 255
_FLAT = 8  # a face whose colours differ by no more than this (of 255) needs no cutting


@dataclass
class Painted:
    """Triangles with colours: vertices float64 (V, 3), faces int64 (F, 3), colors uint8 (F, 3, 3) sRGB per corner."""

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray


class Textures:
    """Pictures of a scene as mip maps, each decoded once, and how many pieces may still be cut to show them."""

    def __init__(self):
        self.pieces_left = MAX_PIECES_OF_ALL
        self._levels: dict[int, list[np.ndarray]] = {}

    def levels(self, image: Image.Image) -> list[np.ndarray]:
        """uint8 (h, w, 4) arrays, each half as large as the one before, the last of one pixel."""
        if id(image) not in self._levels:
            self._levels[id(image)] = _mip_maps(image)
        return self._levels[id(image)]


def paint(
    vertices: np.ndarray, faces: np.ndarray, visual: ColorVisuals | TextureVisuals, size: float, linear: bool,
    textures: Textures,
) -> Painted:  # fmt: skip
    """Colour triangles the way their visual says.

    Args:
        vertices: (V, 3). faces: (F, 3). size: longest side of the whole object in the same unit.
        linear: colour factors and vertex colours are linear light (glTF), not sRGB.
    """
    blank = np.full(3, 255 if linear else DEFAULT_GREY, np.uint8)  # glTF says what has no colour is white
    if isinstance(visual, ColorVisuals):
        return Painted(vertices, faces, _encoded(_plain_colors(visual, faces, blank), linear))
    material, image = visual.material, _texture_of(visual)
    is_pbr = isinstance(material, PBRMaterial)
    tint = _tint(material, visual, len(vertices)) if is_pbr else None
    if image is not None and (visual.uv is None or len(visual.uv) != len(vertices)):
        mean = textures.levels(image)[-1][0, 0, :3]  # where on the picture its faces lie is not said
        tints = None if tint is None else tint[faces]
        return Painted(vertices, faces, np.broadcast_to(_multiplied(mean, tints), (len(faces), 3, 3)))
    if image is not None:
        return _paint_texture(vertices, faces, visual.uv, image, textures, size, tint, _cutoff(material))
    if tint is not None:
        colors = np.rint(255 * tint[faces]).astype(np.uint8)
    else:
        color = None if is_pbr else material.main_color
        colors = np.broadcast_to(blank if color is None else color[:3], (len(faces), 3, 3))
    return Painted(vertices, faces, _encoded(colors, linear))


def hides_all(visual: ColorVisuals | TextureVisuals) -> bool:
    """Whether a surface shows a picture that lets nothing through."""
    image = _texture_of(visual)
    return image is not None and not (_has_alpha(image) and _cutoff(visual.material) is not None)


def _cutoff(material: Material) -> float | None:
    """Opacity, of 255, from which on what its picture shows is there; None where all is, however transparent."""
    if not isinstance(material, PBRMaterial) or material.alphaMode == "BLEND":
        return _HALF
    if material.alphaMode != "MASK":
        return None
    return _HALF if material.alphaCutoff is None else 255 * material.alphaCutoff


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def _texture_of(visual: ColorVisuals | TextureVisuals) -> Image.Image | None:
    """The picture that gives a surface its colours, if one does."""
    if isinstance(visual, ColorVisuals):
        return None
    material = visual.material
    return material.baseColorTexture if isinstance(material, PBRMaterial) else getattr(material, "image", None)


def _plain_colors(visual: ColorVisuals, faces: np.ndarray, blank: np.ndarray) -> np.ndarray:
    """uint8 (F, 3, 3)."""
    if visual.kind == "vertex":
        return visual.vertex_colors[faces, :3]
    if visual.kind == "face":
        return np.repeat(visual.face_colors[:, None, :3], 3, axis=1)
    return np.broadcast_to(blank, (len(faces), 3, 3))


def _as_bytes(colors: np.ndarray) -> np.ndarray:
    """Colours of any of glTF's types (float in [0, 1], 8 or 16 bits) as uint8."""
    if colors.dtype == np.uint16:
        return (colors >> 8).astype(np.uint8)
    return colors if colors.dtype == np.uint8 else np.rint(np.clip(colors, 0, 1) * 255).astype(np.uint8)


def _encoded(colors: np.ndarray, linear: bool) -> np.ndarray:
    """uint8 colours as sRGB."""
    return _SRGB_OF_LINEAR8[colors] if linear else np.ascontiguousarray(colors)


_SRGB_OF_LINEAR8 = np.rint(255 * encode_srgb(np.arange(256) / 255)).astype(np.uint8)


def _tint(material: PBRMaterial, visual: TextureVisuals, count: int) -> np.ndarray | None:
    """Linear colour (count, 3) in [0, 1] that glTF gives a surface's vertices, times its picture; None for white."""
    factor, colors = material.baseColorFactor, visual.vertex_attributes.get("color")
    if colors is None and (factor is None or (factor[:3] == 255).all()):
        return None
    tint = np.ones((count, 3)) if colors is None else _as_bytes(colors)[:, :3] / 255
    return tint if factor is None else tint * (factor[:3] / 255)


def _multiplied(srgb: np.ndarray, tint: np.ndarray | None) -> np.ndarray:
    """sRGB colours (*, 3) in [0, 255] times linear ones, as uint8."""
    if tint is not None:
        srgb = encode_srgb(decode_srgb(srgb / 255) * tint) * 255
    return np.rint(srgb).astype(np.uint8)


# --- textures --------------------------------------------------------------------------------------------------------


def _mip_maps(image: Image.Image) -> list[np.ndarray]:
    image.draft("RGB", (MAX_TEXTURE_SIDE, MAX_TEXTURE_SIDE))  # a large JPEG is decoded at a fraction of its size
    image = to_8_bits(image)
    image = image.convert("RGBA" if _has_alpha(image) else "RGB")  # palettes cannot be reduced
    while max(image.size) > MAX_TEXTURE_SIDE:
        image = image.reduce(2)
    image = image.convert("RGBA")
    levels = [np.asarray(image)]
    while max(image.size) > 1:
        image = image.reduce((2 if image.width > 1 else 1, 2 if image.height > 1 else 1))
        levels.append(np.asarray(image))
    return levels


def _paint_texture(
    vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, image: Image.Image, textures: Textures, size: float,
    tint: np.ndarray | None, cutoff: float | None,
) -> Painted:  # fmt: skip
    levels = textures.levels(image)
    corners, corner_uv = vertices[faces], uv[faces]
    bare = ~np.isfinite(corner_uv).all((1, 2))
    corner_uv[bare] = 0
    texels = corner_uv * np.array(levels[0].shape[1::-1])
    texel_edge = _longest_edge(texels)
    cuts = _cuts(_longest_edge(corners) * (2 / size), texel_edge, min(MAX_PIECES, textures.pieces_left))
    textures.pieces_left -= int((cuts[cuts > 1] ** 2).sum())
    level = np.log2(np.maximum(texel_edge / cuts, 1)).astype(np.int64).clip(0, len(levels) - 1)
    level[bare] = len(levels) - 1  # where on the picture they lie is not said: its mean
    points, triangles, colors = [], [], []
    count = 0

    def add(corners: np.ndarray, lattice: tuple[np.ndarray, np.ndarray], lattice_colors: np.ndarray) -> None:
        nonlocal count
        weights, pieces = lattice
        points.append(np.einsum("kc,fcd->fkd", weights, corners).reshape(-1, 3))
        index = pieces + (count + len(weights) * np.arange(len(corners)))[:, None, None]
        triangles.append(index.reshape(-1, 3))
        colors.append(lattice_colors[:, pieces].reshape(-1, 3, 4))
        count += len(points[-1])

    for n in np.unique(cuts):
        group = np.flatnonzero(cuts == n)
        weights, pieces = _lattice(n)
        sampled = _sample(levels, level[group], np.einsum("kc,fcd->fkd", weights, corner_uv[group]))
        if tint is not None:
            tints = np.einsum("kc,fcd->fkd", weights, tint[faces[group]])
            sampled[..., :3] = _multiplied(sampled[..., :3], tints)
        varied = np.ptp(sampled, axis=1).max(1) > _FLAT
        add(corners[group[varied]], (weights, pieces), sampled[varied])
        add(corners[group[~varied]], _lattice(1), sampled[~varied][:, [0, n, -1]])
    vertices, faces, rgba = np.concatenate(points), np.concatenate(triangles), np.concatenate(colors)
    if cutoff is not None:
        solid = rgba[..., 3].mean(1) >= cutoff
        faces, rgba = faces[solid], rgba[solid]
    return Painted(vertices, faces, np.rint(rgba[..., :3]).astype(np.uint8))


def _longest_edge(corners: np.ndarray) -> np.ndarray:
    """(F, 3, d) to (F,)."""
    return np.linalg.norm(np.roll(corners, 1, axis=1) - corners, axis=2).max(1)


def _cuts(edge: np.ndarray, texel_edge: np.ndarray, limit: int) -> np.ndarray:
    """Into how many parts the edges of each face are cut, int64 (F,): never finer than the picture.

    Args:
        limit: of the pieces in all.
    """
    spacing = SPACING
    while True:
        cuts = np.ceil(np.minimum(edge / spacing, texel_edge)).clip(1, _MAX_CUTS)
        if (cuts[cuts > 1] ** 2).sum() <= limit:
            return cuts.astype(np.int64)
        spacing *= 1.25


def _lattice(n: int) -> tuple[np.ndarray, np.ndarray]:
    """A triangle cut into n * n: barycentric weights (K, 3) of its points, and the pieces' corners (n * n, 3).

    The corners of the triangle are points 0, n and K - 1.
    """
    i, j = np.array([(i, j) for i in range(n + 1) for j in range(n + 1 - i)]).T
    weights = np.stack([n - i - j, j, i], axis=1) / n
    index = np.full((n + 2, n + 2), -1)
    index[i, j] = np.arange(len(i))
    upright = np.stack([index[i, j], index[i, j + 1], index[i + 1, j]], axis=1)[i + j < n]
    inverted = np.stack([index[i, j + 1], index[i + 1, j + 1], index[i + 1, j]], axis=1)[i + j < n - 1]
    return weights, np.concatenate([upright, inverted])


def _sample(levels: list[np.ndarray], level: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Colours float32 (F, K, 4) at uv (F, K, 2), each face from its level; bilinear, the picture repeats."""
    colors = np.empty((*uv.shape[:2], 4), np.float32)
    for number in np.unique(level):
        picture = levels[number]
        chosen = level == number
        height, width = picture.shape[:2]
        x = (uv[chosen, :, 0] % 1.0) * width - 0.5
        y = ((1 - uv[chosen, :, 1]) % 1.0) * height - 0.5  # trimesh gives v upwards
        column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
        right, down = (x - column)[..., None].astype(np.float32), (y - row)[..., None].astype(np.float32)
        columns, rows = (column % width, (column + 1) % width), (row % height, (row + 1) % height)
        top = picture[rows[0], columns[0]] * (1 - right) + picture[rows[0], columns[1]] * right
        bottom = picture[rows[1], columns[0]] * (1 - right) + picture[rows[1], columns[1]] * right
        colors[chosen] = top * (1 - down) + bottom * down
    return colors
