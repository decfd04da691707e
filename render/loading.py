"""Meshes of the user's own: turning a file of any of many kinds into a :class:`Mesh`.

Mesh files are not trusted. Sizes are bounded before memory is asked for, files that a mesh refers to must lie in the
folder that was given, nothing is written and nothing is fetched, and whatever is wrong becomes a :class:`MeshError`.
"""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path

import numpy as np
import trimesh

from render.assets import MAX_FILE_BYTES, Assets, own_folder
from render.coincidence import Coincidence
from render.formats import MAX_FACES, prepare_gltf, prepare_off, prepare_stl
from render.mesh import Mesh, build_mesh
from render.painting import Painted, Textures, hides_all, paint
from render.ply import prepare_ply
from render.polygons import check_corners
from render.sources import MeshError
from render.wavefront import cut_concave, prepare_obj

MAX_COORDINATE = 1e9
_Placed = tuple[trimesh.Trimesh, np.ndarray]  # a mesh of a scene, and its transform (4, 4)

logging.getLogger("trimesh").addHandler(logging.NullHandler())  # what it has to say becomes a MeshError


def load_mesh(path: Path, root: Path | None = None, semantic_keypoints: dict[str, np.ndarray] | None = None) -> Mesh:
    """Read a mesh with its materials and textures, its axes taken as those of the object frame.

    Args:
        path: an obj, ply, stl, off, glb or gltf file.
        root: the folder that files it refers to must lie in; its own (of a ShapeNetCore model, the model's) if None.
        semantic_keypoints: name -> (3,) in the coordinates of the file; they become the mesh's, in the object frame.

    Raises:
        MeshError: it cannot be used.
    """
    path = Path(path)
    assets = Assets(path, root or own_folder(path))
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            parts = _read_parts(path, assets)
            assets.raise_problem()
            return _join(parts, semantic_keypoints)
    except MeshError:
        raise
    except MemoryError:
        raise MeshError("needs more memory than there is") from None
    except Exception as error:  # parsers meet bad files with whatever exception their bugs make
        assets.raise_problem()
        text = str(error).strip().partition("\n")[0][:200]
        advice = ": triangulate it, or save it as OBJ or GLB" * (path.suffix.lower() == ".ply")  # see troubleshooting
        raise MeshError(f"cannot be read ({type(error).__name__}{': ' * bool(text)}{text}){advice}") from None


def _read_parts(path: Path, assets: Assets) -> list[Painted]:
    """The meshes of a file's scene in one coordinate system, painted."""
    try:
        content = _read(path)
    except FileNotFoundError:
        raise MeshError("the file is missing") from None
    except OSError as error:
        raise MeshError(f"cannot be read ({error.strerror})") from None
    kind = path.suffix.lower()[1:]
    if kind in ("glb", "gltf"):
        content = prepare_gltf(content, assets)
    elif kind == "ply":
        content = prepare_ply(content)
    elif kind == "obj":
        content = prepare_obj(content, assets)
    elif kind == "stl":
        content = prepare_stl(content)
    elif kind == "off":
        content = prepare_off(content)
    meshes = _meshes_of(content, kind, assets)
    faces = sum(len(geometry.faces) for geometry, _ in meshes)
    if not meshes:
        raise MeshError("has no faces")
    if faces > MAX_FACES:
        raise MeshError(f"has {faces} faces, more than {MAX_FACES}")
    if kind == "obj" and faces != content.count(b"\nf"):  # some have more than three corners, or fewer
        cut = cut_concave(content)
        meshes = meshes if cut is content else _meshes_of(cut, kind, assets)
        del cut
    del content
    linear = kind in ("glb", "gltf")  # glTF gives factors and vertex colours in linear light
    low, high = _bounds(meshes)
    size, textures = float((high - low).max()), Textures()
    if size > 0:
        meshes = _without_backs_of_pictures(meshes, (low + high) / 2, 2 / size)
    return [_paint_part(geometry, transform, size, linear, textures) for geometry, transform in meshes]


def _meshes_of(content: bytes, kind: str, assets: Assets) -> list[_Placed]:
    """The meshes of a file's scene."""
    scene = trimesh.load_scene(io.BytesIO(content), file_type=kind, resolver=assets, process=False)
    placed = ((scene.geometry[name], transform) for transform, name in map(scene.graph.get, scene.graph.nodes_geometry))
    return [(mesh, transform) for mesh, transform in placed if isinstance(mesh, trimesh.Trimesh) and len(mesh.faces)]


def _read(path: Path) -> bytes:
    if path.exists() and not path.is_file():  # a pipe would be waited for, a device never ends
        raise MeshError("is not a file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise MeshError(f"is larger than {MAX_FILE_BYTES >> 30} GiB")
    content = path.read_bytes()
    if not content.strip():
        raise MeshError("the file is empty")
    return content


def _bounds(meshes: list[_Placed]) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the scene's bounding box, in its own units; refuses coordinates and indices out of range."""
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for geometry, transform in meshes:
        faces, vertices = np.asarray(geometry.faces), np.asarray(geometry.vertices)
        check_corners(faces, len(vertices))
        used = np.zeros(len(vertices), bool)
        used[faces] = True
        corners = trimesh.transform_points(vertices[used], transform)
        if not np.isfinite(corners).all():
            raise MeshError("has coordinates that are not finite")
        if np.abs(corners).max() > MAX_COORDINATE:
            raise MeshError(f"has coordinates beyond {MAX_COORDINATE:.0e}")
        low, high = np.minimum(low, corners.min(0)), np.maximum(high, corners.max(0))
    return low, high


def _without_backs_of_pictures(meshes: list[_Placed], center: np.ndarray, scale: float) -> list[_Placed]:
    """Of faces that lie on each other and of which one has a texture that hides all, that one alone.

    ``build_mesh`` joins the two sides of a surface, but not once textured faces are cut into pieces.
    """
    textured = [hides_all(geometry.visual) for geometry, _ in meshes]
    if not any(textured):
        return meshes
    order = sorted(range(len(meshes)), key=lambda i: not textured[i])  # so that a textured face is first of its group
    parts = [meshes[i] for i in order]
    vertices = [(trimesh.transform_points(geometry.vertices, placed) - center) * scale for geometry, placed in parts]
    offsets = np.cumsum([0] + [len(points) for points in vertices])
    faces = np.concatenate([geometry.faces + offset for (geometry, _), offset in zip(parts, offsets)])
    shows = np.repeat([textured[i] for i in order], [len(geometry.faces) for geometry, _ in parts])
    groups = Coincidence(np.concatenate(vertices), faces)
    first = groups.first[groups.group]
    keep = (first == np.arange(len(faces))) | ~shows[first]
    if keep.all():
        return meshes
    ends = np.cumsum([len(geometry.faces) for geometry, _ in parts])
    kept = dict(zip(order, np.split(keep, ends[:-1]), strict=True))
    return [_with_faces(placed, kept[i]) for i, placed in enumerate(meshes) if kept[i].any()]


def _with_faces(placed: _Placed, keep: np.ndarray) -> _Placed:
    geometry, transform = placed
    if keep.all():
        return placed
    visual = geometry.visual  # a new mesh, for this one may stand in the scene more than once; pictures are shared
    if isinstance(visual, trimesh.visual.ColorVisuals):
        visual = visual.copy()
        visual.update_faces(keep)
    return trimesh.Trimesh(geometry.vertices, geometry.faces[keep], visual=visual, process=False), transform


def _paint_part(
    geometry: trimesh.Trimesh, transform: np.ndarray, size: float, linear: bool, textures: Textures
) -> Painted:
    vertices = trimesh.transform_points(np.asarray(geometry.vertices, np.float64), transform)
    return paint(vertices, np.asarray(geometry.faces, np.int64), geometry.visual, size, linear, textures)


def _join(parts: list[Painted], semantic_keypoints: dict[str, np.ndarray] | None) -> Mesh:
    offsets = np.cumsum([0] + [len(part.vertices) for part in parts])
    try:
        return build_mesh(
            np.concatenate([part.vertices for part in parts]),
            np.concatenate([part.faces + offset for part, offset in zip(parts, offsets)]),
            np.concatenate([part.colors for part in parts]),
            semantic_keypoints,
        )
    except ValueError as error:
        raise MeshError(str(error)) from None
