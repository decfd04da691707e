"""What mesh files are looked through for before trimesh reads them, format by format.

Sizes are bounded before memory is asked for. What a format allows and trimesh would misread without a word is put in
terms that it reads, or refused.
"""

from __future__ import annotations

import base64
import json
import re
import struct

import numpy as np

from render.assets import Assets
from render.polygons import is_fan, triangulate
from render.sources import MeshError

MAX_FACES = 5_000_000
# trimesh takes time that grows with the square of these.
MAX_MATERIALS = 4096  # of an OBJ file
MAX_DEPTH = 256  # of nodes in one another, glTF
# Extensions of glTF that a file may require: they change neither shape nor base colour, or trimesh knows them.
_HARMLESS = re.compile(
    "KHR_materials_(?!pbrSpecularGlossiness)|KHR_lights_|KHR_xmp|KHR_texture_transform|EXT_texture_webp"
)
_FLOAT, _UINT16 = 5126, 5123  # componentType of glTF
_FAN = 6  # mode of a primitive
_USED = ("POSITION", "TEXCOORD_0", "COLOR_0", "indices")  # of a primitive
_STAYS = {"offset": [0, 0], "rotation": 0, "scale": [1, 1], "texCoord": 0}  # of KHR_texture_transform


def check_gltf(content: bytes, assets: Assets) -> None:
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
    """Refuse what is known of legal glTF that trimesh takes for something else, without a word."""

    def refuse(what: str) -> None:
        raise MeshError(f"has {what}, which is not supported: save it without")

    accessors = dict(enumerate(header.get("accessors", [])))
    textures = dict(enumerate(header.get("textures", [])))
    materials = dict(enumerate(header.get("materials", [])))
    shown = {}
    if any("EXT_mesh_gpu_instancing" in node.get("extensions", {}) for node in header.get("nodes", [])):
        refuse("instances (EXT_mesh_gpu_instancing)")
    for mesh in header.get("meshes", []):
        for primitive in mesh.get("primitives", []):
            attributes = {**primitive.get("attributes", {}), "indices": primitive.get("indices")}
            used = {name: accessors.get(attributes.get(name), {}) for name in _USED}
            if any("sparse" in accessor for accessor in used.values()):
                refuse("sparse accessors")
            material = shown[primitive.get("material")] = materials.get(primitive.get("material"), {})
            textured = "baseColorTexture" in material.get("pbrMetallicRoughness", {})
            for name in ("POSITION", "TEXCOORD_0") if textured else ("POSITION",):
                if used[name].get("componentType", _FLOAT) != _FLOAT:
                    refuse(f"{name} as whole numbers")
            if primitive.get("mode") == _FAN:
                refuse("triangle fans")
            if used["COLOR_0"].get("componentType") == _UINT16 and "material" not in primitive:
                refuse("16-bit colours without a material")
    for material in shown.values():
        if "diffuseTexture" in material.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness", {}):
            refuse("a texture of KHR_materials_pbrSpecularGlossiness")
        use = material.get("pbrMetallicRoughness", {}).get("baseColorTexture")
        if use is None:
            continue
        if use.get("texCoord", 0):
            refuse("a texture that uses a second set of coordinates")
        transform = use.get("extensions", {}).get("KHR_texture_transform", {})
        if any(transform.get(name, same) != same for name, same in _STAYS.items()):
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


def check_ply(content: bytes) -> None:
    """Refuse a header that declares more elements than the file has bytes."""
    header = content[: content.find(b"end_header")]
    for line in header.splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == b"element" and int(words[2]) > len(content):
            raise MeshError(f"declares {int(words[2])} elements in a file of {len(content)} bytes")


def prepare_obj(content: bytes, assets: Assets) -> bytes:
    """An OBJ file in terms that trimesh reads."""
    content = _plain_obj(content)
    _check_materials(content)
    assets.expect_libraries(_libraries_of(content))
    return _absolute_indices(content) if _has_odd_index(content) else content


def _plain_obj(content: bytes) -> bytes:
    """An OBJ file without what its format allows and trimesh stumbles over: a byte order mark, the line ends of old
    systems, lines that go on in the next, lines that are indented, remarks behind faces."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    if b"\r" in content and b"\n" not in content:
        content = content.replace(b"\r", b"\n")
    for mark in (b"\\\n", b"\\\r\n"):
        content = content.replace(mark, b" ")
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


def cut_concave(content: bytes) -> bytes:
    """An OBJ file with its concave faces cut into triangles where a fan, which trimesh makes of any, would be wrong."""
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
        for place in np.flatnonzero(~is_fan(points)):
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
