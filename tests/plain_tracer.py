"""What render/embree.py does, written plainly: one view, numpy, embreex's single rays, no window."""

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from render.embree import EDGE_CONTRAST, SUBSAMPLES
from render.shading import Light, lit_corners


def render_plainly(mesh, pose, camera, size, light=Light()):
    """rgba uint8 (H, W, 4) and depth float64 (H, W) of the view with object_to_camera ``pose`` (4, 4)."""
    scene = EmbreeScene()
    TriangleMesh(scene, mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32))
    corners = np.stack(lit_corners(mesh, light))  # (2, F, 3, 3)
    near = max(pose[2, 3] - 1.75, 0)

    def sample(u, v):
        """Colour and coverage (P, 4) in [0, 255] and depth (P,) at pixel coordinates (P,)."""
        directions = np.stack([u, v, np.ones_like(u)], 1) @ np.linalg.inv(camera).T @ pose[:3, :3]
        origins = near * directions - pose[:3, 3] @ pose[:3, :3]
        rays = origins.astype(np.float32), directions.astype(np.float32)
        found = scene.run(*rays, query="INTERSECT", output=True)
        hit = found["primID"] >= 0
        back = ((found["Ng"] * directions).sum(1) > 0).astype(int)
        weights = np.stack([1 - found["u"] - found["v"], found["u"], found["v"]], 1)
        rgb = np.einsum("pc,pcd->pd", weights, corners[back, found["primID"]])
        rgba = np.concatenate([rgb, np.full((len(u), 1), 255)], 1)
        return np.where(hit[:, None], rgba, 0), np.where(hit, found["tfar"] + near, 0)

    row, column = np.mgrid[:size, :size].reshape(2, -1)
    rgba, depth = sample(column + 0.5, row + 0.5)
    rgba = np.floor(rgba + 0.5).reshape(size, size, 4)
    covered = rgba[..., 3] > 0
    to_do, done = _at_edges(rgba) | (_holds_vertex(mesh.vertices, pose, camera, size) & ~covered), covered.copy()
    refined = rgba.copy()
    while to_do.any():
        done |= to_do
        for row, column in np.argwhere(to_do):
            more, _ = sample(column + 0.5 + SUBSAMPLES[:, 0], row + 0.5 + SUBSAMPLES[:, 1])
            refined[row, column] = np.floor((rgba[row, column] + more.sum(0)) / 5 + 0.5)
        to_do = _grown(to_do & ~covered & (refined[..., 3] > 0)) & ~done
    return refined.astype(np.uint8), depth.reshape(size, size)


def _at_edges(rgba):
    edges = np.zeros(rgba.shape[:2], bool)
    for before, after in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        differ = np.abs(rgba[before] - rgba[after]).max(-1) > EDGE_CONTRAST
        edges[before] |= differ
        edges[after] |= differ
    return edges


def _holds_vertex(vertices, pose, camera, size):
    projected = (vertices @ pose[:3, :3].T + pose[:3, 3]) @ camera.T
    column, row = np.floor(projected[:, :2] / projected[:, 2:]).astype(int).T
    inside = (projected[:, 2] > 0) & (row >= 0) & (row < size) & (column >= 0) & (column < size)
    held = np.zeros((size, size), bool)
    held[row[inside], column[inside]] = True
    return held


def _grown(mask):
    """The mask and all eight neighbours of what it holds."""
    padded = np.pad(mask, 1)
    shifts = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)]
    return np.logical_or.reduce([np.roll(padded, shift, (0, 1)) for shift in shifts])[1:-1, 1:-1]
