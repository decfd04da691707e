"""What mesh files are looked through for before trimesh reads them, by format; OBJ and PLY have modules of their own.

Sizes are bounded before memory is asked for. What a format allows and trimesh would misread without a word is put in
terms that it reads, or refused.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from itertools import chain

import numpy as np

from render.assets import Assets
from render.polygons import triangulate_all
from render.sources import MeshError

MAX_FACES = 5_000_000
MAX_DEPTH = 256  # of nodes in one another, glTF: trimesh takes time that grows with its square
# Extensions of glTF that a file may require: they change neither shape nor base colour, or trimesh knows them.
_HARMLESS = re.compile("KHR_materials_|KHR_lights_|KHR_xmp|KHR_texture_transform|EXT_texture_webp")
_FLOAT, _UINT16 = 5126, 5123  # componentType of glTF
_FAN = 6  # mode of a primitive
_JSON = 0x4E4F534A  # chunkType of GLB
_USED = ("POSITION", "TEXCOORD_0", "COLOR_0", "indices")  # of a primitive
_STAYS = {"offset": [0, 0], "rotation": 0, "scale": [1, 1], "texCoord": 0}  # of KHR_texture_transform


def prepare_gltf(content: bytes, assets: Assets) -> bytes:
    """A glTF file in terms that trimesh reads; refuses a header that asks for much more memory than its file can fill,
    and what trimesh would read wrongly; checks embedded images."""
    start, end = 0, len(content)
    if content[:4] == b"glTF":
        start, end = 20, 20 + struct.unpack_from("<I", content, 12)[0]
    header = json.loads(content[start:end])
    changed = _use_diffuse_colors(header.get("materials", [])) | _leave_cameras_out(header.get("nodes", []))
    _check_gltf(header, content[end + 8 :], assets)
    if not changed:
        return content
    text = json.dumps(header).encode()
    if start == 0:
        return text
    text += b" " * (-len(text) % 4)
    size = start + len(text) + len(content) - end
    return struct.pack("<4s4I", b"glTF", 2, size, len(text), _JSON) + text + content[end:]


def _use_diffuse_colors(materials: list[dict]) -> bool:
    """Take the diffuse colours of materials of KHR_materials_pbrSpecularGlossiness for base colours; trimesh would mix
    its own from them and the reflections. Gives whether there were any."""
    changed = False
    for material in materials:
        own = material.get("extensions", {}).pop("KHR_materials_pbrSpecularGlossiness", None)
        if own is not None:
            names = {"diffuseFactor": "baseColorFactor", "diffuseTexture": "baseColorTexture"}
            material["pbrMetallicRoughness"] = {names[name]: own[name] for name in names if name in own}
            changed = True
    return changed


def _leave_cameras_out(nodes: list[dict]) -> bool:
    """Take cameras from their nodes, for trimesh would leave out what else such a node holds. Gives whether there were
    any."""
    return any([node.pop("camera", None) is not None for node in nodes])


def _check_gltf(header: dict, binary: bytes, assets: Assets) -> None:
    for extension in header.get("extensionsRequired", []):
        if not _HARMLESS.match(extension):
            raise MeshError(f"requires {extension}, which is not supported: save it without")
    _refuse_misread(header)
    _check_depth(header.get("nodes", []))
    components = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
    numbers = sum(accessor["count"] * components[accessor["type"]] for accessor in header.get("accessors", []))
    if numbers > 16 * MAX_FACES:
        raise MeshError(f"declares {numbers} numbers, more than {16 * MAX_FACES}")
    views, unseen = header.get("bufferViews", []), _unseen_images(header)
    seen = {image.get("uri") for number, image in enumerate(header.get("images", [])) if number not in unseen}
    for number, image in enumerate(header.get("images", [])):
        uri = image.get("uri", "")
        if number in unseen:
            if uri not in seen:
                assets.expect_unseen(uri)
        elif "bufferView" in image and binary:
            view = views[image["bufferView"]]
            start = view.get("byteOffset", 0)
            assets.check_image(binary[start : start + view["byteLength"]], str(number))
        elif uri.startswith("data:"):
            assets.check_image(base64.b64decode(uri.partition(",")[2]), str(number))
    for buffer in header.get("buffers", []):
        assets.expect_data(buffer.get("uri", ""))


def _unseen_images(header: dict) -> set[int]:
    """Numbers of images that textures have for something else than colour, as normal maps, or in other formats too."""
    materials = [material.get("pbrMetallicRoughness", {}) for material in header.get("materials", [])]
    shown = {material["baseColorTexture"].get("index") for material in materials if "baseColorTexture" in material}
    seen, used = set(), set()
    for number, texture in enumerate(header.get("textures", [])):
        extensions = texture.get("extensions", {})
        readable = {source.get("source") for source in (texture, extensions.get("EXT_texture_webp", {}))}
        used |= readable | {extension.get("source") for extension in extensions.values()}
        seen |= readable if number in shown else set()
    return used - seen - {None}


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
    if any(any(part.get("weights", [])) for part in header.get("nodes", []) + header.get("meshes", [])):
        refuse("morph targets that are not at rest")
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


def prepare_off(content: bytes) -> bytes:
    """An OFF file of triangles, for trimesh makes a fan of any face, and does not read some mixtures; refuses colours,
    which it leaves out."""
    lines = [words for line in content.splitlines() if (words := line.partition(b"#")[0].split())]
    magic = re.fullmatch(rb"(ST)?(C)?(N)?(4)?OFF(\d*)", lines[0][0] if lines else b"")
    if magic is None:
        return content  # trimesh says what is wrong
    pictured, colored, normals, projective, number = magic.groups()
    if projective:
        raise MeshError("has four coordinates a vertex (4OFF), which is not supported: save it with three")
    width = 3 + 3 * bool(normals) + 2 * bool(pictured)  # numbers of a vertex
    counts = [number, *lines[0][1:]] if number else lines[0][1:]  # some files have no blank, others no line end between
    if not counts:
        counts = lines.pop(1)
    end = 1 + int(counts[0])
    corners, faces = lines[1:end], lines[end : end + int(counts[1])]
    whole = len(faces) == int(counts[1]) and all(len(face) == 1 + int(face[0]) for face in faces)
    longer = [face for face in faces if len(face) > 1 + int(face[0])]
    if colored or longer or whole and any(len(corner) > width for corner in corners):
        raise MeshError("has colours, which are not read from OFF: save it as PLY, OBJ or GLB")
    if not whole:
        _refuse_cut_short(list(chain(*lines[1:])), width * int(counts[0]), int(counts[1]))
    if not whole or width == 3 and all(face[0] == b"3" for face in faces):
        return content
    vertices = np.array([words[:3] for words in corners], np.float64)
    polygons: dict[int, list[list[bytes]]] = {}
    for face in faces:
        polygons.setdefault(len(face) - 1, []).append(face[1:])
    indices = [np.array(rows, np.int64).reshape(len(rows), number) for number, rows in polygons.items()]
    triangles, _ = triangulate_all(vertices, [(np.arange(len(index)), index) for index in indices])
    rows = [b" ".join(words[:3]) for words in corners] + [b"3 %d %d %d" % tuple(triangle) for triangle in triangles]
    return b"OFF\n%d %d 0\n" % (len(vertices), len(triangles)) + b"\n".join(rows) + b"\n"


def _refuse_cut_short(words: list[bytes], place: int, faces: int) -> None:
    """Refuse an OFF file that ends before its last face, which trimesh takes as it is; faces begin at a place."""
    for number in range(faces):
        if place >= len(words) or (place := place + 1 + int(words[place])) > len(words):
            raise MeshError(f"is cut short: it declares {faces} faces and holds {number}")


def prepare_stl(content: bytes) -> bytes:
    """An STL file without what some exporters write behind the last face of a binary one; refuses one cut short."""
    if len(content) < 84 or content[83]:  # text has no zero byte, and a number of faces above 2^24 is none of ours
        begun, ended = (len(re.findall(rb"(?im)^\s*" + word, content)) for word in (rb"solid\b", rb"endsolid\b"))
        if begun > ended:
            raise MeshError(f"is cut short: {begun} solids begin, {ended} end")
        return content
    faces = struct.unpack_from("<I", content, 80)[0]
    end = 84 + 50 * faces
    if end > len(content):
        raise MeshError(f"is cut short: it declares {faces} faces and holds {(len(content) - 84) // 50}")
    return content[:end]
