"""What mesh files are looked through for before trimesh reads them, format by format.

Sizes are bounded before memory is asked for. What a format allows and trimesh would misread without a word is put in
terms that it reads, or refused.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Container

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
_PLY_COORDINATES = ("s", "t", "u", "v", "texture_u", "texture_v")  # of a texture
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
    views, unseen = header.get("bufferViews", []), _unseen_images(header)
    for number, image in enumerate(header.get("images", [])):
        uri = image.get("uri", "")
        if number in unseen:
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


def prepare_ply(content: bytes) -> bytes:
    """A PLY file in terms that trimesh reads; refuses a header that declares more elements than the file has bytes."""
    end = content.find(b"end_header")
    header, body = content[: max(end, 0)], content[max(end, 0) :]
    lines = header.decode("ascii", "replace").replace("\ufffd", "?").split("\n")
    words = [line.split() for line in lines]
    for line in words:
        if len(line) == 3 and line[0] == "element" and int(line[2]) > len(content):
            raise MeshError(f"declares {int(line[2])} elements in a file of {len(content)} bytes")
    pictures = sum(line[:1] == ["comment"] and line[1:2] and line[1].lower() == "texturefile" for line in words)
    if pictures > 1:
        raise MeshError("has several textures, which is not supported in PLY: save it as OBJ or GLB")
    names = {line[-1] for line in words if line[:1] == ["property"]}
    new = {} if "red" in names else {f"diffuse_{color}": color for color in ("red", "green", "blue")}
    if not pictures:  # trimesh would take the coordinates for a texture, and leave colours out
        new |= {name: f"_{name}" for name in _PLY_COORDINATES}
    for number, line in enumerate(words):
        if line[:1] == ["property"] and line[-1] in new:
            lines[number] = " ".join([*line[:-1], new[line[-1]]])
    return "\n".join(lines).encode() + body


def check_off(content: bytes) -> None:
    """Refuse colours, which trimesh leaves out."""
    lines = [words for line in content.split(b"\n") if (words := line.partition(b"#")[0].split())]
    magic = re.fullmatch(rb"(C?)OFF(\d*)", lines[0][0]) if lines else None
    if magic is None:
        return  # trimesh says what is wrong
    colored, number = magic.groups()
    counts = [number] if number else lines[0][1:]  # some files have no blank, others no end of line between
    if not counts:
        counts = lines.pop(1)
    faces = lines[1 + int(counts[0]) :][:1]
    if colored or any(len(face) > 1 + int(face[0]) for face in faces):
        raise MeshError("has colours, which are not read from OFF: save it as PLY, OBJ or GLB")


def prepare_stl(content: bytes) -> bytes:
    """An STL file without what some exporters write behind the last face of a binary one."""
    if len(content) < 84 or content.lstrip().startswith(b"solid"):
        return content
    return content[: 84 + 50 * struct.unpack_from("<I", content, 80)[0]]


def prepare_obj(content: bytes, assets: Assets) -> bytes:
    """An OBJ file in terms that trimesh reads."""
    content = _plain_obj(content)
    _check_materials(content)
    libraries = list(dict.fromkeys(_arguments_of(b"mtllib", content)))
    used = set(_arguments_of(b"usemtl", content))
    assets.expect_libraries(libraries, lambda library: plain_library(library, used))
    if _has_odd_index(content):
        content = _absolute_indices(content)
    if not libraries:  # without materials texture coordinates say nothing, and trimesh leaves colours out for them
        return re.sub(rb"/[^ \n]*", b"", content)
    return _with_all_coordinates(content)


def plain_library(content: bytes, used: Container[str]) -> bytes:
    """Of a material library of an OBJ file, what gives the ``used`` materials their colours, in trimesh's terms."""
    kept, wanted = [], False
    for line in _plain_text(content).decode().splitlines():
        key, _, value = line.strip().partition(" ")
        key, value = key.lower(), value.strip()
        if key == "newmtl":
            wanted = " ".join(value.split()) in used
            kept += [f"newmtl {value}"] * wanted
        elif wanted and key == "kd":
            kept.append("kd " + " ".join(map(str, _color_of(value))))
        elif wanted and key == "map_kd":
            kept.append(f"map_kd {_without_options(value)}")
    return "\n".join(kept).encode()


def _color_of(text: str) -> list[float]:
    """Of the numbers of a Kd line; one alone stands for all three."""
    try:
        numbers = [float(word) for word in text.partition("#")[0].split()]
        red, green, blue = numbers * 3 if len(numbers) == 1 else numbers[:3]
    except ValueError:
        raise MeshError(f"has a material with Kd {text[:50]!r}, which are not three numbers") from None
    return [red, green, blue]


def _without_options(text: str) -> str:
    """The name of the picture of a map_Kd line; refuses options that move the picture."""
    words = text.split(" ")
    while words[0].startswith("-") and len(words) > 1:
        option = words.pop(0)
        stays = {"-s": "1", "-o": "0"}.get(option)
        for number in range(_MOST_ARGUMENTS.get(option, 1)):
            if number and (len(words) == 1 or not _NUMBER.fullmatch(words[0])):
                break
            argument = words.pop(0)
            if stays and float(argument) != float(stays):
                raise MeshError(f"has a texture that is moved or scaled ({option}), which is not supported: bake it")
    return " ".join(words)


_MOST_ARGUMENTS = {"-s": 3, "-o": 3, "-t": 3, "-mm": 2}  # of the options of map_Kd that may have several
_NUMBER = re.compile(r"[-+]?\d*\.?\d+([eE][-+]?\d+)?")


def _plain_text(content: bytes) -> bytes:
    """UTF-8 with our line ends and blanks, no byte order mark. All other encodings are read as Latin-1."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    if not content.isascii():
        try:
            content.decode()
        except UnicodeDecodeError:
            content = content.decode("latin-1").encode()
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return content.replace(b"\t", b" ")


def _plain_obj(content: bytes) -> bytes:
    """An OBJ file without what its format allows and trimesh stumbles over: lines that go on in the next, lines that
    are indented, remarks behind faces, and what :func:`_plain_text` replaces."""
    content = _plain_text(content).replace(b"\\\n", b" ")
    if content[:1] == b" " or b"\n " in content:
        content = re.sub(rb"^ +", b"", content, flags=re.MULTILINE)
    if content.count(b"#") > content.count(b"\n#") + content.startswith(b"#"):
        content = re.sub(rb"^(f [^\n#]*)#[^\n]*", rb"\1", content, flags=re.MULTILINE)
    return content


def _arguments_of(keyword: bytes, content: bytes) -> list[str]:
    """What stands behind a keyword in its lines; in plain bytes, for a regular expression would take longer."""
    rests = (b"\n" + content).split(b"\n" + keyword + b" ")[1:]
    names = (rest.partition(b"\n")[0].strip() for rest in rests)
    return [" ".join(name.decode().split()) if keyword == b"usemtl" else name.decode() for name in names if name]


# A face whose first corner has no texture coordinates.
_BARE_FACE = re.compile(rb"^f +\d+(//\d+)?( |$)", re.MULTILINE)


def _with_all_coordinates(content: bytes) -> bytes:
    """An OBJ file where faces with and without texture coordinates do not mix, which costs trimesh those of all.

    Corners without get coordinates that are not numbers; ``paint`` gives such faces the mean of the picture.
    """
    count = content.count(b"\nvt ") + content.startswith(b"vt ")
    if not count or not _BARE_FACE.search(content):
        return content
    lines = content.split(b"\n")
    for number, line in enumerate(lines):
        if line.startswith(b"f "):
            corners = [corner.split(b"/") for corner in line.split()[1:]]
            filled = (b"/".join([v, vt[0] if vt and vt[0] else b"%d" % (count + 1), *vt[1:]]) for v, *vt in corners)
            lines[number] = b"f " + b" ".join(filled)
    return b"\n".join([*lines, b"vt nan nan"])


def _check_materials(content: bytes) -> None:
    if content.count(b"usemtl") > MAX_MATERIALS:
        count = len(set(re.findall(rb"^usemtl +(.*)", content, re.MULTILINE)))
        if count > MAX_MATERIALS:
            raise MeshError(f"has {count} materials, more than {MAX_MATERIALS}")


# A face of an OBJ file with an index that is 0 or negative.
_ODD_INDEX = re.compile(rb"^f[^\n]*?[ /](-|0+(?!\d))", re.MULTILINE)


def _has_odd_index(content: bytes) -> bool:
    faces = content[max(0, content.find(b"\nf")) :]
    # Most files can be told to be in order without a regular expression, which takes longer than parsing them.
    return any(sign in faces for sign in (b"-", b" 0", b"/0")) and _ODD_INDEX.search(faces) is not None


def cut_concave(content: bytes) -> bytes:
    """An OBJ file with its concave faces cut into triangles where a fan, which trimesh makes of any, would be wrong."""
    lines = content.split(b"\n")
    vertices = np.array([line.split()[1:4] for line in lines if line[:2] == b"v "], np.float64)
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
