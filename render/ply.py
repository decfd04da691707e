"""PLY files in terms that trimesh reads."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from render.polygons import triangulate_all
from render.sources import MeshError

_COORDINATES = ("s", "t", "u", "v", "texture_u", "texture_v")  # of a texture
_COLORS = tuple(f"{before}{color}" for before in ("", "diffuse_") for color in ("red", "green", "blue"))
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}
_KINDS = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}


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
    for line in words:
        if line[:1] == ["property"] and line[-1] in _COLORS and _KINDS.get(line[1], "u1") not in ("u1", "f4", "f8"):
            raise MeshError(f"has colours of type {line[1]}, which are not read from PLY: save them as uchar")
    names = {line[-1] for line in words if line[:1] == ["property"]}
    new = {} if "red" in names else {f"diffuse_{color}": color for color in ("red", "green", "blue")}
    if not pictures:  # trimesh would take the coordinates for a texture, and leave colours out
        new |= {name: f"_{name}" for name in _COORDINATES}
    for number, line in enumerate(words):
        if line[:1] == ["property"] and line[-1] in new:
            lines[number] = " ".join([*line[:-1], new[line[-1]]])
    return _triangulated(lines, body)


@dataclass
class _Element:
    """What a header says of one kind of things: how many, the number of its line, its properties' words."""

    name: str
    count: int
    line: int
    properties: list[list[str]] = field(default_factory=list)

    def scalars(self, order: str) -> np.dtype:
        return np.dtype([(words[-1], order + _KINDS[words[1]]) for words in self.properties if words[1] != "list"])

    def fits(self, row: list[bytes]) -> bool:
        """Whether a row of text holds all properties."""
        place = 0
        for words in self.properties:
            if place >= len(row):
                return False
            place += 1 + (int(float(row[place])) if words[1] == "list" else 0)
        return place <= len(row)


def _triangulated(lines: list[str], body: bytes) -> bytes:
    """A file whose faces are triangles if it is binary: trimesh reads faces of several numbers of corners from text
    alone, and makes a fan of any face.

    Args:
        lines: of the header. body: from its last line on.
    """
    elements: list[_Element] = []
    order = None
    for number, words in enumerate(line.split() for line in lines):
        if words[:1] == ["format"]:
            order = _ORDERS.get(words[1])
        elif words[:1] == ["element"]:
            elements.append(_Element(words[1], int(words[2]), number))
        elif words[:1] == ["property"]:
            elements[-1].properties.append(words)
    data = body[body.find(b"\n") + 1 :]
    cut = None
    if order is None:
        _refuse_cut_short(elements, data)
    else:
        cut = _cut_faces(elements, order, data)
    if cut is not None:
        line, count, data = cut
        lines = [*lines[:line], f"element face {count}", *lines[line + 1 :]]
        body = b"end_header\n" + data
    return "\n".join(lines).encode() + body


def _refuse_cut_short(elements: list[_Element], text: bytes) -> None:
    """Refuse a text that ends before the end of its last row, which trimesh takes as it is."""
    rows = [row for row in text.split(b"\n") if row.strip()]
    filled = [element for element in elements if element.count and element.properties]
    declared = sum(element.count for element in filled)
    if len(rows) < declared or declared and not filled[-1].fits(rows[declared - 1].split()):
        raise MeshError(
            f"is cut short, or not in rows: it declares {declared}, its text ends in row {min(len(rows), declared)}"
        )


def _cut_faces(elements: list[_Element], order: str, data: bytes) -> tuple[int, int, bytes] | None:
    """Line of the header that tells the number of faces, the new number, and data with triangles alone; None where all
    are, or for trimesh to say what is wrong."""
    offset, vertices = 0, None
    for element in elements:
        lists = [words for words in element.properties if words[1] == "list"]
        if element.name == "face":
            break
        if lists:
            return None
        scalars = element.scalars(order)
        if element.name == "vertex" and len(data) >= offset + element.count * scalars.itemsize:
            rows = np.frombuffer(data, scalars, element.count, offset)
            vertices = np.stack([rows[name] for name in "xyz"], axis=1).astype(np.float64)
        offset += element.count * scalars.itemsize
    else:
        return None
    if vertices is None or len(lists) != 1 or lists[0] is not element.properties[0]:  # two: coordinates of corners
        return None
    counts, corners = (np.dtype(order + _KINDS[word]) for word in lists[0][2:4])
    others = element.scalars(order).itemsize
    found = _find_faces(data, offset, element.count, counts, corners.itemsize, others)
    if found is None:
        return None
    starts, numbers, end = found
    if (numbers == 3).all():
        return None
    octets = np.frombuffer(data, np.uint8)
    polygons, rest = {}, np.empty((len(starts), others), np.uint8)
    for number in np.unique(numbers):
        faces = np.flatnonzero(numbers == number)
        size = number * corners.itemsize
        rows = octets[starts[faces, None] + np.arange(size + others)]
        indices = np.ascontiguousarray(rows[:, :size]).view(corners).astype(np.int64)
        polygons[number], rest[faces] = (faces, indices), rows[:, size:]
    triangles, source = triangulate_all(vertices, polygons.values())
    records = np.empty(len(triangles), [("count", counts), ("corners", corners, 3), ("rest", np.uint8, others)])
    records["count"], records["corners"], records["rest"] = 3, triangles, rest[source]
    return element.line, len(triangles), data[:offset] + records.tobytes() + data[end:]


def _find_faces(
    data: bytes, offset: int, count: int, counts: np.dtype, corner: int, others: int
) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Where the corners of each face begin, int64 (F,), how many there are, int64 (F,), and where the faces end.

    Args:
        count: F. counts: type of the number of corners. corner, others: bytes of a corner, and of what follows them.
    """
    width, order = counts.itemsize, "big" if counts.str[0] == ">" else "little"
    number = int.from_bytes(data[offset : offset + width], order)
    stride = width + number * corner + others
    if offset + count * stride <= len(data):  # if all have as many as the first, as a rule
        rows = np.frombuffer(data, np.uint8, count * stride, offset).reshape(count, stride)
        if (rows[:, :width] == rows[:1, :width]).all():
            return offset + width + np.arange(count) * stride, np.full(count, number), offset + count * stride
    starts, numbers = np.empty(count, np.int64), np.empty(count, np.int64)
    for face in range(count):
        starts[face] = offset + width
        numbers[face] = number = int.from_bytes(data[offset : offset + width], order)
        offset += width + number * corner + others
        if offset > len(data):
            return None
    return starts, numbers, offset
