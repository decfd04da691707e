"""Meshes of the user's own: turning a file of any of many kinds into a :class:`Mesh`.

Mesh files are not trusted. Sizes are bounded before memory is asked for, files that a mesh refers to must lie in the
folder that was given, nothing is written and nothing is fetched, and whatever is wrong becomes a :class:`MeshError`.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import struct
import warnings
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import trimesh
from PIL import Image, UnidentifiedImageError
from trimesh.resolvers import Resolver

from render.mesh import Mesh, build_mesh
from render.painting import Painted, Textures, paint
from render.polygons import is_convex, triangulate
from render.sources import LAYOUTS, MeshError

MAX_FILE_BYTES = 2 << 30
MAX_FACES = 5_000_000
MAX_TEXTURE_PIXELS = 16384 * 8192
MAX_COORDINATE = 1e9
# trimesh takes time that grows with the square of these.
MAX_MATERIALS = 4096  # of an OBJ file
MAX_DEPTH = 256  # of nodes in one another, glTF
# Extensions of glTF that a file may require: they change neither shape nor base colour, or trimesh knows them.
_HARMLESS = re.compile("KHR_materials_(?!pbrSpecularGlossiness)|KHR_lights_|KHR_xmp|EXT_texture_webp")
_FLOAT, _UINT16 = 5126, 5123  # componentType of glTF

logging.getLogger("trimesh").addHandler(logging.NullHandler())  # what it has to say becomes a MeshError


def load_mesh(
    path: Path, root: Path | None = None, semantic_keypoints: dict[str, np.ndarray] | None = None
) -> Mesh:
    """Read a mesh with its materials and textures, its axes taken as those of the object frame.

    Args:
        path: an obj, ply, stl, off, glb or gltf file.
        root: the folder that files it refers to must lie in; its own (of a ShapeNetCore model, the model's) if None.
        semantic_keypoints: name -> (3,) in the coordinates of the file; they become the mesh's, in the object frame.

    Raises:
        MeshError: it cannot be used.
    """
    path = Path(path)
    assets = _Assets(path, root or _own_folder(path))
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
        raise MeshError(f"cannot be read ({type(error).__name__}{': ' * bool(text)}{text})") from None


def _in_any_letters(folder: Path, name: str) -> Path:
    """``folder / name``, each part as it is spelled on the disk if only capitals and small letters differ."""
    path = folder
    for part in Path(name).parts:
        spelled = sorted(p.name for p in path.glob("*") if p.name.lower() == part.lower()) if path.is_dir() else []
        path = path / (part if part in spelled or not spelled else spelled[0])
    return path


def _own_folder(path: Path) -> Path:
    return path.parent.parent if path.match(LAYOUTS[0]) else path.parent


class _Assets(Resolver):
    """Gives trimesh the files a mesh refers to, if they lie within ``root``; remembers what it could not give."""

    def __init__(self, path: Path, root: Path):
        # A mesh that a link in the folder leads to may refer to files beside it.
        real = path.resolve()
        self._folders = [path.parent, real.parent]
        self._roots = [root.resolve()]
        self._no_images: set[str] = set()
        self._libraries: list[str] = []
        if not real.is_relative_to(self._roots[0]):
            self._roots.append(_own_folder(real))
        self._problem: str | None = None

    def expect_data(self, name: str) -> None:
        """A file of this name, whatever its suffix, is no image."""
        self._no_images.add(name)

    def expect_libraries(self, names: list[str]) -> None:
        """The material libraries of an OBJ file; who asks for the first gets all of them, for trimesh reads one."""
        self._libraries = names
        self._no_images.update(names)

    def get(self, name: str) -> bytes:
        if name in self._libraries[:1]:
            return b"\n".join(map(self._library, self._libraries))
        return self._get(name)

    def _library(self, name: str) -> bytes:
        """One named in an OBJ file, or several that one line names."""
        several = name.split()
        if len(several) == 1 or self._find(name).is_file():
            return self._get(name)
        self._no_images.update(several)
        return b"\n".join(map(self._get, several))

    def _find(self, name: str) -> Path:
        for folder in self._folders:
            path = (folder / name.replace("\\", "/")).resolve()
            if not path.exists():
                path = (folder / unquote(name)).resolve()  # glTF refers by URI
            if not path.exists():  # from a system that does not tell capitals from small letters
                path = _in_any_letters(folder, name.replace("\\", "/")).resolve()
            if path.exists():
                break
        return path

    def _get(self, name: str) -> bytes:
        is_image = name not in self._no_images and Path(name).suffix.lower() not in (".mtl", ".bin")
        # Some exporters write options before a texture's name, quote it, or use back slashes.
        name = name.split()[-1] if name.lstrip().startswith("-") else name.strip().strip('"')
        shown = repr(name if len(name) <= 100 else name[:100] + "…")
        try:
            path = self._find(name)
            is_file = path.is_file()
        except (OSError, ValueError):  # too long, or holds a zero byte
            self._fail(f"refers to {shown}, which is no name of a file")
        if not any(path.is_relative_to(root) for root in self._roots):
            self._fail(f"refers to {shown}, outside the folder that was given")
        if not is_file:
            self._fail(f"refers to {shown}, which is missing")
        if path.stat().st_size > MAX_FILE_BYTES:
            self._fail(f"refers to {shown}, which is larger than {MAX_FILE_BYTES >> 30} GiB")
        try:
            content = path.read_bytes()
        except OSError as error:
            self._fail(f"refers to {shown}, which cannot be read ({error.strerror})")
        if is_image:
            self.check_image(content, shown)
        return content

    def check_image(self, content: bytes, name: str) -> None:
        """Note a problem if an image cannot be decoded or would take too much memory; only its header is read."""
        try:
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
        except Image.DecompressionBombError:
            width = height = MAX_TEXTURE_PIXELS
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
            self._fail(f"texture {name} is not an image that can be read")
        if width * height > MAX_TEXTURE_PIXELS:
            self._fail(f"texture {name} has more than {MAX_TEXTURE_PIXELS >> 20} million pixels")

    def _fail(self, problem: str) -> None:
        # trimesh swallows exceptions of its resolver: the first problem is kept and raised after loading.
        self._problem = self._problem or problem
        raise FileNotFoundError(problem)

    def raise_problem(self) -> None:
        if self._problem:
            raise MeshError(self._problem)

    def keys(self) -> list[str]:
        return []

    def namespaced(self, namespace: str) -> _Assets:
        raise NotImplementedError

    def write(self, name: str, data: bytes) -> None:
        raise PermissionError("mesh files are only read")


def _read_parts(path: Path, assets: _Assets) -> list[Painted]:
    """The meshes of a file's scene in one coordinate system, painted."""
    try:
        content = _read(path)
    except FileNotFoundError:
        raise MeshError("the file is missing") from None
    except OSError as error:
        raise MeshError(f"cannot be read ({error.strerror})") from None
    kind = path.suffix.lower()[1:]
    if kind in ("glb", "gltf"):
        _check_gltf(content, assets)
    elif kind == "ply":
        _check_ply(content)
    elif kind == "obj":
        content = _plain_obj(content)
        _check_materials(content)
        assets.expect_libraries(_libraries_of(content))
        if _has_odd_index(content):
            content = _absolute_indices(content)
    meshes = _meshes_of(content, kind, assets)
    faces = sum(len(geometry.faces) for geometry, _ in meshes)
    if kind == "obj" and faces > content.count(b"\nf"):  # some have more than three corners
        cut = _cut_concave(content)
        meshes = meshes if cut is content else _meshes_of(cut, kind, assets)
    if not meshes:
        raise MeshError("has no faces")
    if faces > MAX_FACES:
        raise MeshError(f"has {faces} faces, more than {MAX_FACES}")
    linear = kind in ("glb", "gltf")  # glTF gives factors and vertex colours in linear light
    size = _longest_side(meshes)
    textures = Textures()
    return [_paint_part(geometry, transform, size, linear, textures) for geometry, transform in meshes]


def _meshes_of(content: bytes, kind: str, assets: _Assets) -> list[tuple[trimesh.Trimesh, np.ndarray]]:
    """The meshes of a file's scene, each with its transform (4, 4)."""
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


def _check_gltf(content: bytes, assets: _Assets) -> None:
    """Refuse a header that asks for much more memory than its file can fill, and what trimesh would read wrongly;
    check embedded images."""
    binary = b""
    if content[:4] == b"glTF":
        length = struct.unpack_from("<I", content, 12)[0]
        header, binary = content[20 : 20 + length], content[28 + length :]
    else:
        header = content
    header = json.loads(header)
    for extension in header.get("extensionsRequired", []):
        if not _HARMLESS.match(extension):
            raise MeshError(f"requires {extension}, which is not supported: save it without")
    _refuse_misread(header)
    _check_depth(header.get("nodes", []))
    components = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
    numbers = sum(accessor["count"] * components[accessor["type"]] for accessor in header.get("accessors", []))
    if numbers > 16 * MAX_FACES:
        raise MeshError(f"declares {numbers} numbers, more than {16 * MAX_FACES}")
    views = header.get("bufferViews", [])
    for number, image in enumerate(header.get("images", [])):
        uri = image.get("uri", "")
        if "bufferView" in image and binary:
            view = views[image["bufferView"]]
            start = view.get("byteOffset", 0)
            assets.check_image(binary[start : start + view["byteLength"]], str(number))
        elif uri.startswith("data:"):
            assets.check_image(base64.b64decode(uri.partition(",")[2]), str(number))
    for buffer in header.get("buffers", []):
        assets.expect_data(buffer.get("uri", ""))


def _refuse_misread(header: dict) -> None:
    """Refuse legal glTF that trimesh takes for something else, without a word."""

    def refuse(what: str) -> None:
        raise MeshError(f"has {what}, which is not supported: save it without")

    accessors = dict(enumerate(header.get("accessors", [])))
    textures = dict(enumerate(header.get("textures", [])))
    if any("sparse" in accessor for accessor in accessors.values()):
        refuse("sparse accessors")
    if any("EXT_mesh_gpu_instancing" in node.get("extensions", {}) for node in header.get("nodes", [])):
        refuse("instances (EXT_mesh_gpu_instancing)")
    for mesh in header.get("meshes", []):
        for primitive in mesh.get("primitives", []):
            attributes = primitive.get("attributes", {})
            kinds = {name: accessors.get(index, {}).get("componentType") for name, index in attributes.items()}
            for name in ("POSITION", "TEXCOORD_0"):
                if kinds.get(name) not in (None, _FLOAT):
                    refuse(f"{name} as whole numbers")
            if kinds.get("COLOR_0") == _UINT16 and "material" not in primitive:
                refuse("16-bit colours without a material")
    for material in header.get("materials", []):
        if "diffuseTexture" in material.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness", {}):
            refuse("a texture of KHR_materials_pbrSpecularGlossiness")
        use = material.get("pbrMetallicRoughness", {}).get("baseColorTexture")
        if use is None:
            continue
        if use.get("texCoord", 0):
            refuse("a texture that uses a second set of coordinates")
        if "KHR_texture_transform" in use.get("extensions", {}):
            refuse("a texture that is moved (KHR_texture_transform)")
        texture = textures.get(use.get("index"), {"source": None})  # trimesh says what is wrong with it
        if "source" not in texture and "EXT_texture_webp" not in texture.get("extensions", {}):
            refuse("a texture in a format of an extension")


def _check_depth(nodes: list[dict]) -> None:
    children = [set(node.get("children", ())) for node in nodes]
    level = set(range(len(nodes))).difference(*children)
    for _ in range(MAX_DEPTH):
        level = set().union(*(children[node] for node in level))
        if not level:
            return
    raise MeshError(f"has nodes more than {MAX_DEPTH} deep in one another")


def _check_ply(content: bytes) -> None:
    """Refuse a header that declares more elements than the file has bytes."""
    header = content[: content.find(b"end_header")]
    for line in header.splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == b"element" and int(words[2]) > len(content):
            raise MeshError(f"declares {int(words[2])} elements in a file of {len(content)} bytes")


def _plain_obj(content: bytes) -> bytes:
    """An OBJ file without what its format allows and trimesh stumbles over: a byte order mark, the line ends of old
    systems, lines that are indented, remarks behind faces."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    if b"\r" in content and b"\n" not in content:
        content = content.replace(b"\r", b"\n")
    if content[:1] in b" \t" or b"\n " in content or b"\n\t" in content:
        content = re.sub(rb"^[ \t]+", b"", content, flags=re.MULTILINE)
    if content.count(b"#") > content.count(b"\n#") + content.startswith(b"#"):
        content = re.sub(rb"^(f[ \t][^\n#]*)#[^\n]*", rb"\1", content, flags=re.MULTILINE)
    return content


def _libraries_of(content: bytes) -> list[str]:
    """Names of material files, as its lines have them."""
    rests = (b"\n" + content).split(b"\nmtllib")[1:]  # a regular expression would take longer
    names = (rest.partition(b"\n")[0].strip() for rest in rests if rest[:1] in b" \t")
    return list(dict.fromkeys(name.decode("utf-8", "replace") for name in names if name))


def _check_materials(content: bytes) -> None:
    if content.count(b"usemtl") > MAX_MATERIALS:
        count = len(set(re.findall(rb"^usemtl[ \t]+(.*)", content, re.MULTILINE)))
        if count > MAX_MATERIALS:
            raise MeshError(f"has {count} materials, more than {MAX_MATERIALS}")


# A face of an OBJ file with an index that is 0 or negative.
_ODD_INDEX = re.compile(rb"^f[^\n]*?[ \t/](-|0+(?!\d))", re.MULTILINE)


def _has_odd_index(content: bytes) -> bool:
    faces = content[max(0, content.find(b"\nf")) :]
    # Most files can be told to be in order without a regular expression, which takes longer than parsing them.
    return any(sign in faces for sign in (b"-", b" 0", b"/0", b"\t0")) and _ODD_INDEX.search(faces) is not None


def _cut_concave(content: bytes) -> bytes:
    """An OBJ file whose concave faces are cut into triangles: trimesh makes a fan of every face."""
    lines = content.split(b"\n")
    vertices = np.array([line.split()[1:4] for line in lines if line[:2] in (b"v ", b"v\t")], np.float64)
    polygons: dict[int, list[tuple[int, list[bytes]]]] = {}  # by the number of corners: line, corners
    for number, line in enumerate(lines):
        if line[:1] == b"f" and len(corners := line.split()[1:]) > 3:
            polygons.setdefault(len(corners), []).append((number, corners))
    changed = False
    for faces in polygons.values():
        index = np.array([[int(corner.partition(b"/")[0]) - 1 for corner in corners] for _, corners in faces])
        points = vertices[index]
        for place in np.flatnonzero(~is_convex(points)):
            number, corners = faces[place]
            triangles = triangulate(points[place])
            lines[number] = b"\n".join(b"f " + b" ".join(corners[i] for i in triangle) for triangle in triangles)
            changed = True
    return b"\n".join(lines) if changed else content


def _absolute_indices(content: bytes) -> bytes:
    """Make the negative indices of an OBJ file absolute; they count back from their line, for trimesh from the end."""
    counts = {b"v": 0, b"vt": 0, b"vn": 0}
    kinds = tuple(counts)
    lines = content.splitlines()
    for number, line in enumerate(lines):
        words = line.split()
        if words and words[0] in counts:
            counts[words[0]] += 1
        elif words and words[0] == b"f":
            corners = [[int(index) if index else None for index in word.split(b"/")] for word in words[1:]]
            if any(index == 0 for corner in corners for index in corner):
                raise MeshError("has faces with vertex index 0 (they count from 1)")
            absolute = [
                [None if i is None else i if i > 0 else i + counts[kind] + 1 for i, kind in zip(corner, kinds)]
                for corner in corners
            ]
            if any(i is not None and i < 1 for corner in absolute for i in corner):
                raise MeshError("has faces with vertex indices that count back beyond the first vertex")
            words = ("/".join("" if i is None else str(i) for i in corner) for corner in absolute)
            lines[number] = b"f " + " ".join(words).encode()
    return b"\n".join(lines)


def _longest_side(meshes: list[tuple[trimesh.Trimesh, np.ndarray]]) -> float:
    """Longest side of the scene's bounding box, in its own units; refuses coordinates and indices out of range."""
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for geometry, transform in meshes:
        faces, vertices = np.asarray(geometry.faces), np.asarray(geometry.vertices)
        if faces.min() < 0 or faces.max() >= len(vertices):
            raise MeshError(f"has faces with vertex indices outside 0 to {len(vertices) - 1}")
        used = np.zeros(len(vertices), bool)
        used[faces] = True
        corners = trimesh.transform_points(vertices[used], transform)
        if not np.isfinite(corners).all():
            raise MeshError("has coordinates that are not finite")
        if np.abs(corners).max() > MAX_COORDINATE:
            raise MeshError(f"has coordinates beyond {MAX_COORDINATE:.0e}")
        low, high = np.minimum(low, corners.min(0)), np.maximum(high, corners.max(0))
    return float((high - low).max())


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
