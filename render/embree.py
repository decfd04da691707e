"""CPU backend: the Embree ray tracer. No GL, no screen, no root.

One ray per pixel finds what lies at the pixel's centre. Only pixels that need it are refined: those where colour or
coverage changes between neighbours, those that hold a vertex the centre ray missed, and, from there, along thin
parts for as long as they are found.

Compiled code (numba) casts the rays in packets of 16 and shades them at once. A view depends on its own arguments
alone: neither on the views rendered with it, nor on those before.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from render.compiled import compile_once, compiled
from render.embree_api import (
    DIRECTION,
    FAR,
    GEOMETRY,
    MISS,
    NORMAL,
    ORIGIN,
    PACKET,
    PRIMITIVE,
    Scene,
    U,
    V,
    intersect16,
    new_packet,
)  # fmt: skip
from render.mesh import Mesh
from render.shading import Light, lit_corners

# Rotated grid of sub-samples, as (u, v) offsets from the pixel's centre; the centre ray is the fifth sample.
SUBSAMPLES = np.array([[-0.125, -0.375], [0.375, -0.125], [0.125, 0.375], [-0.375, 0.125]], np.float32)
# Neighbours whose colours differ by more than this (of 255, largest channel) are refined.
EDGE_CONTRAST = 24
_TILE = 4  # pixels: a packet is a tile of 4 x 4 centres, or the sub-samples of four pixels
_MARGIN = 3  # pixels around the outline; thinning moved it by up to a cube's diagonal
_OBJECT_RADIUS = 1.75  # of the unit box's circumscribed sphere, rounded up
_DENSE = 10_000  # vertices; a mesh of fewer is its own outline
_QUEUED, _COVERED = 1, 2  # states of a pixel: it is refined or will be; its centre ray hit


class EmbreeBackend:
    """Renders on the CPU. See :class:`render.backends.Backend` for the interface."""

    name = "embree"

    def __init__(self):
        self._packet = new_packet()
        self._shape: _Shape | None = None
        triangle = Mesh(np.eye(3), np.array([[0, 1, 2]]), np.zeros((1, 3, 3), np.uint8), np.ones((1, 3, 3), np.float32))
        compile_once(_render_view, lambda: self.render(triangle, np.eye(4)[None], np.eye(3)[None], 1))

    def render(
        self,
        mesh: Mesh,
        object_to_camera: np.ndarray,
        intrinsics: np.ndarray,
        image_size: int,
        light: Light = Light(),
    ) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`render.backends.Backend.render`."""
        shape = self._shape_of(mesh)
        colors = _color_table(mesh, light)
        cameras = _cameras(np.asarray(object_to_camera, np.float64), np.asarray(intrinsics, np.float64))
        rgba = np.zeros((len(cameras), image_size, image_size, 4), np.uint8)
        depth = np.zeros(rgba.shape[:3], np.float32)
        state = np.zeros((image_size + 2, image_size + 2), np.uint8)
        queue = np.empty((image_size**2, 2), np.int32)
        for camera, view_rgba, view_depth in zip(cameras, rgba, depth):
            outline = shape.outlines.at(camera.footprint)
            _render_view(
                shape.scene.address, self._packet, colors, camera, outline, view_rgba, view_depth, state, queue
            )
        return rgba, depth

    def _shape_of(self, mesh: Mesh) -> _Shape:
        """Prepared for a mesh; that of the last call, if only colours or light differ."""
        if self._shape is None or not self._shape.is_of(mesh):
            self._shape = None  # its memory goes before more is taken
            self._shape = _Shape(mesh)
        return self._shape


class _Shape:
    """What a mesh's vertices and faces alone decide."""

    def __init__(self, mesh: Mesh):
        self._vertices, self._faces = mesh.vertices, mesh.faces
        self.scene = Scene(mesh.vertices, mesh.faces)
        self.outlines = _Outlines(mesh.vertices)

    def is_of(self, mesh: Mesh) -> bool:
        return self._vertices is mesh.vertices and self._faces is mesh.faces


class _Camera(NamedTuple):
    """Rays of a pinhole camera in the object frame; all arrays float32.

    Through pixel (u, v) go the points origin + t * direction, t = depth - near, both (u, v, 1) @ (3, 3). Rays start
    in front of the object, not at the camera, to spend single precision on the object.
    """

    origin: np.ndarray  # (3, 3)
    direction: np.ndarray  # (3, 3)
    near: np.float32
    projection: np.ndarray  # (3, 4), object frame to homogeneous pixels
    footprint: float  # width of a pixel at the object's centre, object units


def _cameras(object_to_camera: np.ndarray, intrinsics: np.ndarray) -> list[_Camera]:
    """Args: (n, 4, 4), (n, 3, 3)."""
    to_object = object_to_camera[:, :3, :3].transpose(0, 2, 1)
    near = np.maximum(object_to_camera[:, 2, 3] - _OBJECT_RADIUS, 0)
    direction = (to_object @ np.linalg.inv(intrinsics)).transpose(0, 2, 1)
    origin = near[:, None, None] * direction
    origin[:, 2] -= (to_object @ object_to_camera[:, :3, 3:])[..., 0]
    projection = intrinsics @ object_to_camera[:, :3]
    footprint = object_to_camera[:, 2, 3] / intrinsics[:, 0, 0]
    arrays = [np.ascontiguousarray(a, np.float32) for a in (origin, direction, near, projection)]
    return [_Camera(*arguments) for arguments in zip(*arrays, footprint.tolist())]


def _color_table(mesh: Mesh, light: Light) -> np.ndarray:
    """float32 (2F, 9), all faces from the front, then from behind: colour at corner 0, its change along both edges."""
    table = np.concatenate(lit_corners(mesh, light))
    table[:, 1:] -= table[:, :1]
    return table.reshape(-1, 9)


class _Outlines:
    """A mesh's vertices, thinned out: enough to say which pixels hold one."""

    def __init__(self, vertices: np.ndarray):
        self._vertices = vertices
        self._thinned: dict[float, np.ndarray] = {}

    def at(self, footprint: float) -> np.ndarray:
        """float32 (m, 3): of a dense mesh at most one vertex per cube of a pixel's width, rounded down to 2^-k."""
        dense = len(self._vertices) > _DENSE
        spacing = 2.0 ** np.floor(np.log2(footprint)) if dense and footprint > 0 else 0.0
        if spacing not in self._thinned:
            vertices = _thin_out(self._vertices, spacing) if spacing else self._vertices
            self._thinned[spacing] = vertices.astype(np.float32)
        return self._thinned[spacing]


def _thin_out(vertices: np.ndarray, spacing: float) -> np.ndarray:
    cells = np.floor((vertices - vertices.min(0)) / spacing).astype(np.int64)
    side = int(cells.max()) + 1
    key = (cells[:, 0] * side + cells[:, 1]) * side + cells[:, 2]
    return vertices[np.unique(key, return_index=True)[1]]


# --- compiled --------------------------------------------------------------------------------------------------------


@njit
def _aim(packet, lane, camera, u, v):
    """Put the ray through pixel (u, v) on a lane."""
    u, v = np.float32(u), np.float32(v)
    for rows, line in ((ORIGIN, camera.origin), (DIRECTION, camera.direction)):
        for axis in range(3):
            packet.numbers[rows + axis, lane] = v * line[1, axis] + line[2, axis] + u * line[0, axis]
    packet.numbers[FAR, lane] = np.inf
    packet.words[GEOMETRY, lane] = MISS
    packet.active[lane] = -1


@njit
def _idle(packet, lane):
    packet.words[GEOMETRY, lane] = MISS
    packet.active[lane] = 0


@njit
def _cast(packet, scene):
    intersect16(packet.active.ctypes.data, scene, packet.numbers.ctypes.data, packet.query.ctypes.data)


@njit
def _hits(packet, lane):
    return packet.words[GEOMETRY, lane] != MISS


@njit
def _color(packet, lane, colors):
    """Colour of a hit, three numbers in [0, 255]."""
    facing = np.float32(0)
    for axis in range(3):
        facing += packet.numbers[NORMAL + axis, lane] * packet.numbers[DIRECTION + axis, lane]
    # A normal along the ray: the face shows its back.
    row = packet.words[PRIMITIVE, lane] + (facing > 0) * (len(colors) // 2)
    u, v = packet.numbers[U, lane], packet.numbers[V, lane]
    return (
        colors[row, 0] + u * colors[row, 3] + v * colors[row, 6],
        colors[row, 1] + u * colors[row, 4] + v * colors[row, 7],
        colors[row, 2] + u * colors[row, 5] + v * colors[row, 8],
    )


@njit
def _project(points, projection, size, pixels):
    """Pixels (column, row) of points into ``pixels``, -1 for those behind; the window around them."""
    left, top, right, bottom = np.float32(np.inf), np.float32(np.inf), np.float32(-np.inf), np.float32(-np.inf)
    behind = False
    p = projection
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        w = p[2, 0] * x + p[2, 1] * y + p[2, 2] * z + p[2, 3]
        if w <= 0:
            behind = True
            pixels[i, 0] = pixels[i, 1] = -1
            continue
        u = (p[0, 0] * x + p[0, 1] * y + p[0, 2] * z + p[0, 3]) / w
        v = (p[1, 0] * x + p[1, 1] * y + p[1, 2] * z + p[1, 3]) / w
        left, right, top, bottom = min(left, u), max(right, u), min(top, v), max(bottom, v)
        inside = u >= 0 and u < size and v >= 0 and v < size
        pixels[i, 0] = np.int32(u) if inside else -1
        pixels[i, 1] = np.int32(v) if inside else -1
    if behind:  # the camera stands within the object: its projection bounds nothing
        return 0, size, 0, size
    return (
        max(0, int(min(max(np.floor(top), -_MARGIN), size + _MARGIN)) - _MARGIN) // _TILE * _TILE,
        min(size, int(min(max(np.ceil(bottom), -_MARGIN), size + _MARGIN)) + _MARGIN),
        max(0, int(min(max(np.floor(left), -_MARGIN), size + _MARGIN)) - _MARGIN) // _TILE * _TILE,
        min(size, int(min(max(np.ceil(right), -_MARGIN), size + _MARGIN)) + _MARGIN),
    )


@compiled
def _render_view(scene, packet, colors, camera, outline, rgba, depth, state, queue):
    """Render one view into rgba uint8 (H, W, 4) and depth float32 (H, W), which are zero.

    Args:
        state: uint8 (H + 2, W + 2), queue: int32 (H * W, 2): memory to work in.
    """
    pixels = np.empty((len(outline), 2), np.int32)
    top, bottom, left, right = _project(outline, camera.projection, len(rgba), pixels)
    state[top : bottom + 2, left : right + 2] = _QUEUED  # a border: nothing is found beyond it
    state[top + 1 : bottom + 1, left + 1 : right + 1] = 0
    _cast_centers(scene, packet, colors, camera, top, bottom, left, right, rgba, depth, state)
    _mark_edges(top, bottom, left, right, rgba, state)
    for i in range(len(pixels)):
        column, row = pixels[i, 0], pixels[i, 1]
        if column >= 0 and state[row + 1, column + 1] == 0:
            state[row + 1, column + 1] = _QUEUED
    count = _collect(top, bottom, left, right, state, queue)
    _refine(scene, packet, colors, camera, rgba, state, queue, count)


@njit
def _cast_centers(scene, packet, colors, camera, top, bottom, left, right, rgba, depth, state):
    for first_row in range(top, bottom, _TILE):
        for first_column in range(left, right, _TILE):
            for lane in range(PACKET):
                row, column = first_row + lane // _TILE, first_column + lane % _TILE
                _aim(packet, lane, camera, column + 0.5, row + 0.5)
                if row >= bottom or column >= right:
                    _idle(packet, lane)
            _cast(packet, scene)
            for lane in range(PACKET):
                if _hits(packet, lane):
                    row, column = first_row + lane // _TILE, first_column + lane % _TILE
                    red, green, blue = _color(packet, lane, colors)
                    rgba[row, column, 0] = np.uint8(red + np.float32(0.5))
                    rgba[row, column, 1] = np.uint8(green + np.float32(0.5))
                    rgba[row, column, 2] = np.uint8(blue + np.float32(0.5))
                    rgba[row, column, 3] = 255
                    depth[row, column] = packet.numbers[FAR, lane] + camera.near
                    state[row + 1, column + 1] = _COVERED


@njit
def _mark_edges(top, bottom, left, right, rgba, state):
    """Mark the pixels that differ from their neighbour on some side."""
    for row in range(top, bottom):
        for column in range(left, right):
            for below, beside in ((0, 1), (1, 0)):
                if row + below < bottom and column + beside < right:
                    worst = 0
                    for channel in range(4):
                        difference = np.int32(rgba[row, column, channel]) - rgba[row + below, column + beside, channel]
                        worst = max(worst, abs(difference))
                    if worst > EDGE_CONTRAST:
                        state[row + 1, column + 1] |= _QUEUED
                        state[row + below + 1, column + beside + 1] |= _QUEUED


@njit
def _collect(top, bottom, left, right, state, queue):
    """Put the marked pixels into the queue, block by block: packets of near rays are faster; returns how many."""
    count = 0
    for first_row in range(top, bottom, 2):
        for first_column in range(left, right, 2):
            for row in range(first_row, min(first_row + 2, bottom)):
                for column in range(first_column, min(first_column + 2, right)):
                    if state[row + 1, column + 1] & _QUEUED:
                        queue[count, 0], queue[count, 1] = row, column
                        count += 1
    return count


@njit
def _refine(scene, packet, colors, camera, rgba, state, queue, count):
    """Replace the queued pixels by the mean over their samples, queueing what they lead to."""
    samples = len(SUBSAMPLES)
    start = 0
    while start < count:
        end = min(start + PACKET // samples, count)
        for lane in range(PACKET):
            _idle(packet, lane)
        for lane in range((end - start) * samples):
            row, column = queue[start + lane // samples, 0], queue[start + lane // samples, 1]
            u, v = column + SUBSAMPLES[lane % samples, 0], row + SUBSAMPLES[lane % samples, 1]
            _aim(packet, lane, camera, u + 0.5, v + 0.5)
        _cast(packet, scene)
        for index in range(start, end):
            row, column = queue[index, 0], queue[index, 1]
            red, green = np.float32(rgba[row, column, 0]), np.float32(rgba[row, column, 1])
            blue, alpha = np.float32(rgba[row, column, 2]), np.float32(rgba[row, column, 3])
            for lane in range((index - start) * samples, (index - start + 1) * samples):
                if _hits(packet, lane):
                    more = _color(packet, lane, colors)
                    red, green, blue, alpha = red + more[0], green + more[1], blue + more[2], alpha + np.float32(255)
            for channel, total in enumerate((red, green, blue, alpha)):
                rgba[row, column, channel] = np.uint8(total / np.float32(samples + 1) + np.float32(0.5))
            if alpha > 0 and not state[row + 1, column + 1] & _COVERED:
                # A part too thin for the centre ray continues in some neighbour that no ray has been near.
                for near_row in range(row - 1, row + 2):
                    for near_column in range(column - 1, column + 2):
                        if state[near_row + 1, near_column + 1] == 0:
                            state[near_row + 1, near_column + 1] = _QUEUED
                            queue[count, 0], queue[count, 1] = near_row, near_column
                            count += 1
        start = end
