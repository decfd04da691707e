"""CPU backend: the Embree ray tracer through embreex. No GL, no screen, no root.

One ray per pixel finds what lies at the pixel's centre. Only pixels that need it are refined: those where colour or
coverage changes between neighbours, those that hold a vertex the centre ray missed, and, from there, along thin
parts for as long as they are found.
"""

from __future__ import annotations

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from render.mesh import Mesh
from render.shading import Light, lit_corners

# Rotated grid of sub-samples, as offsets from the pixel's centre in pixels; the centre ray is the fifth sample.
SUBSAMPLES = np.array([[-0.125, -0.375], [0.375, -0.125], [0.125, 0.375], [-0.375, 0.125]])
# Neighbours whose colours differ by more than this (of 255, largest channel) are refined.
EDGE_CONTRAST = 12
# Rays traced at once: enough to hide numpy's call overhead, few enough to stay in the cache.
RAYS_PER_BATCH = 50_000
_MAX_ROUNDS = 64  # of following thin parts
_OBJECT_RADIUS = 1.75  # of the unit box's circumscribed sphere, rounded up


class EmbreeBackend:
    """Renders on the CPU. See :class:`render.backends.Backend` for the interface."""

    name = "embree"

    def render(
        self,
        mesh: Mesh,
        object_to_camera: np.ndarray,
        intrinsics: np.ndarray,
        image_size: int,
        light: Light = Light(),
    ) -> tuple[np.ndarray, np.ndarray]:
        """Render n views of one mesh.

        Args:
            object_to_camera: (n, 4, 4). intrinsics: (n, 3, 3), pixels. image_size: pixels, height and width.

        Returns:
            rgba uint8 (n, H, W, 4), sRGB premultiplied by coverage, and depth float32 (n, H, W), z-depth at the
            pixel's centre in object units, 0 where the centre sees nothing.
        """
        traced = _TracedMesh(mesh, light)
        views = _Views(np.asarray(object_to_camera, np.float64), np.asarray(intrinsics, np.float64))
        rgba = np.zeros((len(views), image_size, image_size, 4), np.uint8)
        depth = np.zeros((len(views), image_size, image_size), np.float32)
        outline = _thin_out(mesh.vertices, views.pixel_footprint())
        corner, size, occupied = _windows(views, outline, image_size)
        per_batch = max(1, RAYS_PER_BATCH // max(1, size[0] * size[1]))
        for start in range(0, len(views), per_batch):
            part = slice(start, start + per_batch)
            _render_windows(traced, views[part], corner[part], size, occupied[part], rgba[part], depth[part])
        return rgba, depth


class _TracedMesh:
    """A mesh's acceleration structure, and its lit colours laid out for one gather per hit."""

    def __init__(self, mesh: Mesh, light: Light):
        self._scene = EmbreeScene()
        # Embree copies the arrays; the object's only use is to add them to the scene.
        TriangleMesh(self._scene, mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32))
        self._faces = len(mesh.faces)
        # Per face and side: colour at corner 0, and its change along the two barycentric coordinates.
        table = np.concatenate(lit_corners(mesh, light))
        table[:, 1:] -= table[:, :1]
        self._table = table.reshape(-1, 9)

    def trace(self, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cast float32 (N, 3) rays.

        Returns:
            indices of the rays that hit, int64 (P,); their ray parameter, float32 (P,); their sRGB colour in
            [0, 255], float32 (P, 3).
        """
        found = self._scene.run(origins, directions, query="INTERSECT", output=True)
        hit = np.flatnonzero(found["primID"] >= 0)
        away = np.einsum("ij,ij->i", found["Ng"][hit], directions[hit]) > 0
        row = found["primID"][hit] + away * self._faces
        table = self._table[row]
        color = table[:, 0:3] + found["u"][hit, None] * table[:, 3:6]
        color += found["v"][hit, None] * table[:, 6:9]
        return hit, found["tfar"][hit], color


class _Views:
    """Rays of n pinhole cameras in the object frame: through pixel (u, v), origin + z * (u U + v V + W) has depth z."""

    def __init__(self, object_to_camera: np.ndarray, intrinsics: np.ndarray):
        self.object_to_camera, self.intrinsics = object_to_camera, intrinsics
        to_object = object_to_camera[:, :3, :3].transpose(0, 2, 1)
        basis = to_object @ np.linalg.inv(intrinsics)
        self.basis = basis.transpose(0, 2, 1)  # rows U, V, W
        self.center = -(to_object @ object_to_camera[:, :3, 3:])[..., 0]
        # Rays start in front of the object, not at the camera: single precision is then spent on the object.
        self.near = np.maximum(object_to_camera[:, 2, 3] - _OBJECT_RADIUS, 0)

    def __len__(self) -> int:
        return len(self.object_to_camera)

    def __getitem__(self, part: slice) -> _Views:
        return _Views(self.object_to_camera[part], self.intrinsics[part])

    def pixel_footprint(self) -> float:
        """Smallest width of a pixel at the object's centre, object units."""
        return float((self.object_to_camera[:, 2, 3] / self.intrinsics[:, 0, 0]).min())

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points (m, 3) to pixels float32 (n, m, 2) and depth float32 (n, m)."""
        projection = self.intrinsics @ self.object_to_camera[:, :3]
        homogeneous = points.astype(np.float32) @ projection[:, :, :3].transpose(0, 2, 1).astype(np.float32)
        homogeneous += projection[:, None, :, 3].astype(np.float32)
        return homogeneous[..., :2] / np.maximum(homogeneous[..., 2:], 1e-6), homogeneous[..., 2]

    def rays(self, view: np.ndarray, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Origins and directions, float32 (N, 3), of rays through pixels (u, v) of the views; all (N,)."""
        basis = self.basis[view]
        direction = u[:, None] * basis[:, 0] + v[:, None] * basis[:, 1] + basis[:, 2]
        return (self.center[view] + self.near[view, None] * direction).astype(np.float32), direction.astype(np.float32)

    def grid_rays(self, corner: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """The same for the pixel centres of a window per view; corner (n, 2) is (row, column). (n * h * w, 3)."""
        v = corner[:, 0, None] + np.arange(size[0]) + 0.5
        u = corner[:, 1, None] + np.arange(size[1]) + 0.5
        along_rows = v[..., None] * self.basis[:, None, 1] + self.basis[:, None, 2]
        along_columns = u[..., None] * self.basis[:, None, 0]
        near = self.near[:, None, None]
        origin_rows = (self.center[:, None] + near * along_rows).astype(np.float32)
        origin_columns = (near * along_columns).astype(np.float32)
        origins = origin_rows[:, :, None] + origin_columns[:, None]
        directions = along_rows.astype(np.float32)[:, :, None] + along_columns.astype(np.float32)[:, None]
        return origins.reshape(-1, 3), directions.reshape(-1, 3)


def _thin_out(vertices: np.ndarray, spacing: float) -> np.ndarray:
    """At most one vertex per cube of side ``spacing``: enough to say which pixels hold a vertex."""
    if len(vertices) < 1000:
        return vertices
    cells = np.floor((vertices + 1.5) / spacing).astype(np.int64)
    side = cells.max() + 1
    key = (cells[:, 0] * side + cells[:, 1]) * side + cells[:, 2]
    return vertices[np.unique(key, return_index=True)[1]]


def _windows(views: _Views, outline: np.ndarray, image_size: int) -> tuple[np.ndarray, tuple[int, int], np.ndarray]:
    """One window size for all views, and per view where it lies so that it holds the whole object.

    Returns:
        corner int64 (n, 2) as (row, column); size (h, w); occupied bool (n, h, w), pixels that hold a vertex.
    """
    pixels, depth = views.project(outline)
    if (depth <= 0).any():  # the camera stands within the object: its projection bounds nothing
        corner, size = np.zeros((len(views), 2), np.int64), (image_size, image_size)
    else:
        margin = 3  # pixels; thinning moved the outline by up to a cube's diagonal
        low = np.clip(np.floor(pixels.min(1)) - margin, 0, image_size)[:, ::-1].astype(np.int64)
        high = np.clip(np.ceil(pixels.max(1)) + margin, 0, image_size)[:, ::-1].astype(np.int64)
        height, width = (int(x) for x in (high - low).max(0))
        size = (height, width)
        corner = np.clip(low, 0, image_size - np.array(size))
    occupied = np.zeros((len(views), *size), bool)
    column = np.floor(pixels[..., 0]).astype(np.int64) - corner[:, None, 1]
    row = np.floor(pixels[..., 1]).astype(np.int64) - corner[:, None, 0]
    inside = (row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1]) & (depth > 0)
    view = np.broadcast_to(np.arange(len(views))[:, None], inside.shape)
    occupied[view[inside], row[inside], column[inside]] = True
    return corner, size, occupied


def _render_windows(
    traced: _TracedMesh,
    views: _Views,
    corner: np.ndarray,
    size: tuple[int, int],
    occupied: np.ndarray,
    rgba: np.ndarray,
    depth: np.ndarray,
) -> None:
    """Render windows of a few views, all of one size, into their places in ``rgba`` and ``depth``."""
    if not size[0] or not size[1]:
        return
    shape = (len(views), *size)
    color = np.zeros((shape[0] * shape[1] * shape[2], 4), np.float32)
    z = np.zeros(len(color), np.float32)
    hit, parameter, hit_color = traced.trace(*views.grid_rays(corner, size))
    color[hit, :3] = hit_color
    color[hit, 3] = 255
    z[hit] = parameter + views.near.astype(np.float32)[hit // (size[0] * size[1])]
    _refine(traced, views, corner, color.reshape(*shape, 4), occupied)
    quantised = (color + 0.5).astype(np.uint8).reshape(*shape, 4)
    z = z.reshape(shape)
    for i, (row, column) in enumerate(corner):
        rgba[i, row : row + size[0], column : column + size[1]] = quantised[i]
        depth[i, row : row + size[0], column : column + size[1]] = z[i]


def _refine(
    traced: _TracedMesh, views: _Views, corner: np.ndarray, color: np.ndarray, occupied: np.ndarray
) -> None:
    """Replace float32 ``color`` (n, h, w, 4) by the mean over sub-samples where one sample does not do, in place."""
    n, h, w, _ = color.shape
    covered = color[..., 3] > 0
    todo = occupied & ~covered
    # One scratch array with a border, so that following a thin part needs no bounds.
    done = np.ones((n, h + 2, w + 2), bool)
    done[:, 1:-1, 1:-1] = covered
    for axis in (1, 2):
        first, second = _shifted(color, axis)
        differs = (np.abs(first - second) > EDGE_CONTRAST).any(-1)
        a, b = _shifted(todo, axis)
        a |= differs
        b |= differs
    flat = color.reshape(-1, 4)
    steps = np.array([-w - 3, -w - 2, -w - 1, -1, 1, w + 1, w + 2, w + 3])
    view, row, column = np.nonzero(todo)
    for _ in range(_MAX_ROUNDS):
        if not len(view):
            return
        done[view, row + 1, column + 1] = True
        index = (view * h + row) * w + column
        before = flat[index, 3]
        flat[index] = _supersample(traced, views, view, corner[view, 0] + row, corner[view, 1] + column, flat[index])
        # A part too thin for the centre ray continues in some neighbour that no ray has been near.
        found = (before == 0) & (flat[index, 3] > 0)
        bordered = ((view * (h + 2) + row + 1) * (w + 2) + column + 1)[found]
        reached = np.unique(bordered[:, None] + steps)
        reached = reached[~done.ravel()[reached]]
        view, rest = np.divmod(reached, (h + 2) * (w + 2))
        row, column = np.divmod(rest, w + 2)
        row, column = row - 1, column - 1


def _shifted(image: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Views of (n, h, w, ...) such that entry i of the second is the next pixel along ``axis`` after the first's."""
    if axis == 1:
        return image[:, :-1], image[:, 1:]
    return image[:, :, :-1], image[:, :, 1:]


def _supersample(
    traced: _TracedMesh, views: _Views, view: np.ndarray, row: np.ndarray, column: np.ndarray, center: np.ndarray
) -> np.ndarray:
    """Mean colour and coverage, float32 (P, 4), of pixels whose centre sample is ``center`` (P, 4)."""
    count = len(SUBSAMPLES)
    u = (column[:, None] + 0.5 + SUBSAMPLES[:, 0]).ravel()
    v = (row[:, None] + 0.5 + SUBSAMPLES[:, 1]).ravel()
    hit, _, hit_color = traced.trace(*views.rays(np.repeat(view, count), u, v))
    samples = np.zeros((len(u), 4), np.float32)
    samples[hit, :3] = hit_color
    samples[hit, 3] = 255
    return (samples.reshape(-1, count, 4).sum(1) + center) / (count + 1)
