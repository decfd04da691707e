"""CPU backend: the Embree ray tracer through embreex. No GL, no screen, no root.

One ray per pixel finds what lies at the pixel's centre. Only pixels that need it are refined: those where colour or
coverage changes between neighbours, those that hold a vertex the centre ray missed, and, from there, along thin
parts for as long as they are found.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from render.mesh import Mesh
from render.shading import Light, lit_corners

# Rotated grid of sub-samples, as offsets from the pixel's centre in pixels; the centre ray is the fifth sample.
SUBSAMPLES = np.array([[-0.125, -0.375], [0.375, -0.125], [0.125, 0.375], [-0.375, 0.125]], np.float32)
# Neighbours whose colours differ by more than this (of 255, largest channel) are refined.
EDGE_CONTRAST = 24
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
        pixels, ahead = views.project(outline)
        corner, size = _windows(pixels, ahead, image_size)
        # Views with windows of about one size are rendered together, in the largest of their windows.
        for batch in _batches(size):
            shape = tuple(int(side) for side in size[batch].max(0))
            start = np.minimum(corner[batch], image_size - np.array(shape))
            occupied = _occupied(pixels[batch], ahead[batch], start, shape)
            colors, z = _render_windows(traced, views[batch], start, shape, occupied)
            for view, (row, column), window, window_z in zip(batch, start, colors, z):
                place = view, slice(row, row + shape[0]), slice(column, column + shape[1])
                rgba[place], depth[place] = window, window_z
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
    """Rays of n pinhole cameras in the object frame.

    Through pixel (u, v) go the points origin + z * (u U + v V + W), z being their depth. Rays start in front of the
    object, not at the camera, to spend single precision on the object: at depth ``near``.
    """

    def __init__(self, object_to_camera: np.ndarray, intrinsics: np.ndarray):
        self.object_to_camera, self.intrinsics = object_to_camera, intrinsics
        to_object = object_to_camera[:, :3, :3].transpose(0, 2, 1)
        near = np.maximum(object_to_camera[:, 2, 3] - _OBJECT_RADIUS, 0)
        directions = (to_object @ np.linalg.inv(intrinsics)).transpose(0, 2, 1)  # rows U, V, W
        origins = near[:, None, None] * directions
        origins[:, 2] -= (to_object @ object_to_camera[:, :3, 3:])[..., 0]
        # Rows of both are factors of u, v and 1.
        self._directions, self._origins = directions.astype(np.float32), origins.astype(np.float32)
        self.near = near.astype(np.float32)

    def __len__(self) -> int:
        return len(self.object_to_camera)

    def __getitem__(self, chosen: np.ndarray) -> _Views:
        return _Views(self.object_to_camera[chosen], self.intrinsics[chosen])

    def pixel_footprint(self) -> float:
        """Smallest width of a pixel at the object's centre, object units."""
        return float((self.object_to_camera[:, 2, 3] / self.intrinsics[:, 0, 0]).min())

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points (m, 3) to pixels float32 (n, m, 2) and depth float32 (n, m)."""
        projection = self.intrinsics @ self.object_to_camera[:, :3]
        homogeneous = points.astype(np.float32) @ projection[:, :, :3].transpose(0, 2, 1).astype(np.float32)
        homogeneous += projection[:, None, :, 3].astype(np.float32)
        return homogeneous[..., :2] / np.maximum(homogeneous[..., 2:], 1e-6), homogeneous[..., 2]

    def grid_rays(self, corner: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Origins and directions, float32 (n * h * w, 3), through the pixel centres of a window per view.

        Args:
            corner: (n, 2) first (row, column) of each window. shape: (h, w) of all.
        """
        v = (corner[:, 0, None] + np.arange(shape[0]) + 0.5).astype(np.float32)[..., None]
        u = (corner[:, 1, None] + np.arange(shape[1]) + 0.5).astype(np.float32)[..., None]
        rays = []
        for factors in (self._origins, self._directions):
            along_rows, along_columns = v * factors[:, None, 1] + factors[:, None, 2], u * factors[:, None, 0]
            rays.append((along_rows[:, :, None] + along_columns[:, None]).reshape(-1, 3))
        return rays[0], rays[1]

    def subsample_rays(self, view: np.ndarray, row: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same through the sub-samples of pixels, all (P,); (P * S, 3)."""
        v, u = (row + 0.5).astype(np.float32)[:, None], (column + 0.5).astype(np.float32)[:, None]
        rays = []
        for factors in (self._origins, self._directions):
            centers = u * factors[view, 0] + v * factors[view, 1] + factors[view, 2]
            offsets = np.einsum("sk,nkd->nsd", SUBSAMPLES, factors[:, :2])
            rays.append((centers[:, None] + offsets[view]).reshape(-1, 3))
        return rays[0], rays[1]


def _thin_out(vertices: np.ndarray, spacing: float) -> np.ndarray:
    """At most one vertex per cube of side ``spacing``: enough to say which pixels hold a vertex."""
    if len(vertices) < 1000:
        return vertices
    cells = np.floor((vertices + 1.5) / spacing).astype(np.int64)
    side = cells.max() + 1
    key = (cells[:, 0] * side + cells[:, 1]) * side + cells[:, 2]
    return vertices[np.unique(key, return_index=True)[1]]


def _windows(pixels: np.ndarray, depth: np.ndarray, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where in the image the object lies, from the projections of its outline.

    Returns:
        corner int64 (n, 2), first (row, column), and size int64 (n, 2), (h, w).
    """
    margin = 3  # pixels; thinning moved the outline by up to a cube's diagonal
    low = np.clip(np.floor(pixels.min(1)) - margin, 0, image_size)[:, ::-1].astype(np.int64)
    high = np.clip(np.ceil(pixels.max(1)) + margin, 0, image_size)[:, ::-1].astype(np.int64)
    within = (depth <= 0).any(1)  # the camera stands within the object: its projection bounds nothing
    low[within], high[within] = 0, image_size
    return low, high - low


def _batches(size: np.ndarray) -> Iterator[np.ndarray]:
    """Indices of views, of similar window sizes (n, 2), as many at a time as fit into a batch of rays."""
    order = np.argsort(size[:, 0], kind="stable")
    order = order[size[order].all(1)]  # leaves out views that do not see the object
    start = 0
    while start < len(order):
        area = np.maximum.accumulate(size[order[start:]]).prod(1) * np.arange(1, len(order) - start + 1)
        count = max(1, int(np.searchsorted(area, RAYS_PER_BATCH, "right")))
        yield order[start : start + count]
        start += count


def _occupied(pixels: np.ndarray, depth: np.ndarray, corner: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """bool (n, h, w): pixels of each view's window that hold a point of the outline."""
    occupied = np.zeros((len(pixels), *shape), bool)
    column = np.floor(pixels[..., 0]).astype(np.int64) - corner[:, None, 1]
    row = np.floor(pixels[..., 1]).astype(np.int64) - corner[:, None, 0]
    inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1]) & (depth > 0)
    view, point = np.nonzero(inside)
    occupied[view, row[view, point], column[view, point]] = True
    return occupied


def _render_windows(
    traced: _TracedMesh, views: _Views, corner: np.ndarray, shape: tuple[int, int], occupied: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Render a window of each view: uint8 (n, h, w, 4) and depth float32 (n, h, w)."""
    pixels = len(views) * shape[0] * shape[1]
    rgba, z = np.zeros((pixels, 4), np.uint8), np.zeros(pixels, np.float32)
    hit, parameter, color = traced.trace(*views.grid_rays(corner, shape))
    rgba[hit, :3] = color + 0.5
    rgba[hit, 3] = 255
    z[hit] = parameter + views.near[hit // (shape[0] * shape[1])]
    rgba = rgba.reshape(len(views), *shape, 4)
    _refine(traced, views, corner, rgba, occupied)
    return rgba, z.reshape(rgba.shape[:3])


def _refine(traced: _TracedMesh, views: _Views, corner: np.ndarray, rgba: np.ndarray, occupied: np.ndarray) -> None:
    """Replace pixels of ``rgba`` (n, h, w, 4) by the mean over sub-samples where one sample does not do, in place."""
    n, h, w, _ = rgba.shape
    covered = rgba[..., 3] > 0
    todo = (occupied & ~covered) | _at_edges(rgba)
    # A border around each window, so that following a thin part needs no bounds.
    done = np.ones((n, h + 2, w + 2), bool)
    done[:, 1:-1, 1:-1] = covered
    steps = np.array([-w - 3, -w - 2, -w - 1, -1, 1, w + 1, w + 2, w + 3])
    flat = rgba.reshape(-1, 4)
    view, row, column = np.nonzero(todo)
    for _ in range(_MAX_ROUNDS):
        if not len(view):
            return
        done[view, row + 1, column + 1] = True
        index = (view * h + row) * w + column
        center = flat[index]
        mean = _supersample(traced, views, view, corner[view, 0] + row, corner[view, 1] + column, center)
        flat[index] = mean
        # A part too thin for the centre ray continues in some neighbour that no ray has been near.
        found = (center[:, 3] == 0) & (mean[:, 3] > 0)
        bordered = ((view * (h + 2) + row + 1) * (w + 2) + column + 1)[found]
        reached = (bordered[:, None] + steps).ravel()
        reached = np.unique(reached[~done.ravel()[reached]])
        view, rest = np.divmod(reached, (h + 2) * (w + 2))
        row, column = np.divmod(rest, w + 2)
        row, column = row - 1, column - 1


def _at_edges(rgba: np.ndarray) -> np.ndarray:
    """bool (n, h, w): pixels that differ from the next one in some direction, and that one."""
    edges = np.zeros(rgba.shape[:3], bool)
    for before, after in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:, :, :-1], np.s_[:, :, 1:])):
        difference = np.maximum(rgba[before], rgba[after]) - np.minimum(rgba[before], rgba[after]) > EDGE_CONTRAST
        differs = difference.view(np.uint32)[..., 0] > 0  # four truth values at once
        edges[before] |= differs
        edges[after] |= differs
    return edges


def _supersample(
    traced: _TracedMesh, views: _Views, view: np.ndarray, row: np.ndarray, column: np.ndarray, center: np.ndarray
) -> np.ndarray:
    """Mean colour and coverage, uint8 (P, 4), of pixels whose centre sample is ``center`` (P, 4)."""
    count = len(SUBSAMPLES)
    hit, _, color = traced.trace(*views.subsample_rays(view, row, column))
    samples = np.zeros((len(view) * count, 4), np.float32)
    samples[hit, :3] = color
    samples[hit, 3] = 255
    samples = samples.reshape(-1, count * 4)
    total = center + samples[:, :4]
    for start in range(4, count * 4, 4):
        total += samples[:, start : start + 4]
    return (total / (count + 1) + 0.5).astype(np.uint8)
