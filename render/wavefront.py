"""Wavefront OBJ files and their material libraries, in terms that trimesh reads.

What the format allows and trimesh would misread, most of it without a word, is rewritten, or refused. Regular
expressions over whole files take longer than parsing them: plain searches say first whether they are needed.
"""

from __future__ import annotations

import re
from collections.abc import Container

import numpy as np

from render.assets import Assets
from render.painting import DEFAULT_GREY
from render.polygons import is_fan, triangulate
from render.sources import MeshError

MAX_MATERIALS = 4096  # trimesh takes time that grows with the square of their number
_GREY = "kd" + f" {DEFAULT_GREY / 255}" * 3  # of a material that says nothing else; trimesh's own is darker


def prepare_obj(content: bytes, assets: Assets) -> bytes:
    """An OBJ file in terms that trimesh reads."""
    content = _plain_obj(content)
    libraries = list(dict.fromkeys(_arguments_of(b"mtllib", content)))
    used = {" ".join(name.split()) for name in _arguments_of(b"usemtl", content)}
    if len(used) > MAX_MATERIALS:
        raise MeshError(f"has {len(used)} materials, more than {MAX_MATERIALS}")
    assets.expect_libraries(libraries, lambda library: _plain_library(library, used))
    if _has_odd_index(content):
        content = _absolute_indices(content)
    if not (libraries and used):  # texture coordinates say nothing then, and trimesh leaves colours out for them
        return re.sub(rb"(\nmtllib [^\n]*)|/[^ \n]*", rb"\1", b"\n" + content)
    return _with_all_coordinates(content)


def _plain_library(content: bytes, used: Container[str]) -> bytes:
    """Of a material library of an OBJ file, what gives the ``used`` materials their colours, in trimesh's terms."""
    kept, wanted = [], False
    for line in _plain_text(content).decode().splitlines():
        key, _, value = line.strip().partition(" ")
        key, value = key.lower(), value.strip()
        if key == "newmtl":
            wanted = " ".join(value.split()) in used
            kept += [f"newmtl {value}", _GREY] * wanted
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
    while text.startswith("-"):
        option, _, text = text.partition(" ")
        stays = {"-s": 1.0, "-o": 0.0}.get(option)
        for number in range(_MOST_ARGUMENTS.get(option, 1)):
            argument, _, rest = text.lstrip().partition(" ")
            if number and not _NUMBER.fullmatch(argument):
                break
            if stays is not None and not (_NUMBER.fullmatch(argument) and float(argument) == stays):
                raise MeshError(f"has a texture that is moved or scaled ({option}), which is not supported: bake it")
            text = rest.lstrip()
    if not text:
        raise MeshError("has a material whose map_Kd names no picture")
    return text


_MOST_ARGUMENTS = {"-s": 3, "-o": 3, "-t": 3, "-mm": 2}  # of the options of map_Kd that may have several
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


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
    are indented, remarks behind numbers, and what :func:`_plain_text` replaces."""
    content = _plain_text(content)
    if b"#" in content:
        content = re.sub(rb"^ *#[^\n]*", b"", content, flags=re.MULTILINE)
    content = content.replace(b"\\\n", b" ")
    if content[:1] == b" " or b"\n " in content:
        content = re.sub(rb"^ +", b"", content, flags=re.MULTILINE)
    if content.count(b"#") > content.count(b"\n#") + content.startswith(b"#"):
        content = re.sub(rb"^((?:f|v|vt|vn) [^\n#]*)#[^\n]*", rb"\1", content, flags=re.MULTILINE)
    return content


def _arguments_of(keyword: bytes, content: bytes) -> list[str]:
    """What stands behind a keyword in its lines; in plain bytes, for a regular expression would take longer."""
    rests = (b"\n" + content).split(b"\n" + keyword + b" ")[1:]
    names = (rest.partition(b"\n")[0].strip() for rest in rests)
    return [name.decode() for name in names if name]


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
