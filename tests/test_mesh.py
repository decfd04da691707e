"""The mesh as renderers see it: normalisation and shading normals."""

import time

import numpy as np
import pytest
import trimesh

from render.mesh import build_mesh
from render.normals import MAX_SMOOTH_VALENCE, corner_normals

GREY = np.uint8(128)


def build(mesh):
    return build_mesh(mesh.vertices, mesh.faces, np.full((len(mesh.faces), 3), GREY))


def face_normals(mesh):
    corners = mesh.vertices[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def test_is_centred_and_scaled_with_its_keypoints():
    vertices = np.array([[10, 20, 30], [14, 20, 30], [10, 21, 30], [99, 99, 99]])
    mesh = build_mesh(
        vertices, np.array([[0, 1, 2]]), np.zeros((1, 3)), {"tip": np.array([14, 20, 30]), "no": np.full(3, np.nan)}
    )
    np.testing.assert_allclose(mesh.vertices, [[-1, -0.25, 0], [1, -0.25, 0], [-1, 0.25, 0]])
    np.testing.assert_allclose(mesh.semantic_keypoints["tip"], [1, -0.25, 0])
    assert np.isnan(mesh.semantic_keypoints["no"]).all()


def test_a_face_without_area_far_away_does_not_shrink_the_object():
    far = np.array([100.1, 33.3, 7.7])
    line = [far, far + [0.3, 0.1, 0.7], far + np.array([0.3, 0.1, 0.7]) / 3]
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], *line])
    colors = np.array([[1, 1, 1], [1, 1, 1], [2, 2, 2]])
    mesh = build_mesh(vertices, np.array([[3, 3, 3], [3, 4, 5], [0, 1, 2]]), colors)
    np.testing.assert_allclose(mesh.vertices, [[-1, -1, 0], [1, -1, 0], [-1, 1, 0]])
    assert (mesh.colors == 2).all()


def test_two_faces_on_each_other_are_the_sides_of_one():
    square = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0.0]])
    vertices = np.concatenate([square, square])  # the second skin has vertices of its own
    faces = np.array([[0, 1, 2], [0, 2, 3], [6, 5, 4], [5, 6, 4], [4, 6, 7]])
    colors = np.arange(45, dtype=np.uint8).reshape(5, 3, 3)
    mesh = build_mesh(vertices, faces, colors)
    np.testing.assert_array_equal(mesh.faces, faces[:2])
    np.testing.assert_array_equal(mesh.colors, colors[:2])  # the last face is the second, wound alike: not seen
    np.testing.assert_array_equal(mesh.back_colors, [colors[2][::-1], colors[1]])
    assert build_mesh(vertices, faces[[0, 1, 4]], colors[[0, 1, 4]]).back_colors is None


def test_hard_edges_stay_hard():
    mesh = build(trimesh.creation.box((1, 2, 3)))
    np.testing.assert_allclose(mesh.normals, np.repeat(face_normals(mesh)[:, None], 3, axis=1), atol=1e-6)


def test_soft_edges_are_smooth():
    mesh = build(trimesh.creation.icosphere(3))
    np.testing.assert_allclose(mesh.normals, mesh.vertices[mesh.faces], atol=0.02)


def test_winding_does_not_matter():
    sphere = trimesh.creation.icosphere(2)
    mixed = sphere.copy()
    mixed.faces[::3] = mixed.faces[::3, ::-1]
    straight, turned = build(sphere).normals, build(mixed).normals
    turned = turned.copy()
    turned[::3] = -turned[::3, ::-1]
    np.testing.assert_allclose(turned, straight, atol=1e-5)


def test_vertices_are_merged_by_position():
    sphere = trimesh.creation.icosphere(2)
    soup = trimesh.Trimesh(
        sphere.vertices[sphere.faces].reshape(-1, 3), np.arange(3 * len(sphere.faces)).reshape(-1, 3), process=False
    )
    np.testing.assert_allclose(build(soup).normals, build(sphere).normals, atol=1e-5)


def test_faces_without_area_are_dropped():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [2, 0, 0]])
    assert len(build_mesh(vertices, np.array([[0, 1, 2], [0, 1, 3], [1, 1, 2]]), np.zeros((3, 3))).faces) == 1


@pytest.mark.parametrize(
    "vertices, faces, reason",
    [
        ([[0, 0, 0]], np.zeros((0, 3)), "no faces"),
        ([[0, 0, 0], [1, 1, 1], [2, 2, 2]], [[0, 1, 2]], "area"),
        ([[1, 1, 1]] * 3, [[0, 1, 2]], "area"),
        ([[np.nan, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]], "finite"),
    ],
)
def test_impossible_meshes_are_refused(vertices, faces, reason):
    with pytest.raises(ValueError, match=reason):
        build_mesh(np.array(vertices), np.array(faces), np.zeros((len(faces), 3)))


def test_a_huge_fan_is_not_quadratic():
    count = 200_000
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    vertices = np.concatenate([[[0, 1, 0]], np.stack([np.cos(angles), 0 * angles, np.sin(angles)], 1)])
    ring = np.arange(1, count + 1)
    faces = np.stack([np.zeros(count, int), ring, np.roll(ring, -1)], 1)
    start = time.process_time()
    normals = corner_normals(vertices, faces)
    assert time.process_time() - start < 10  # all pairs would take an hour
    assert count > MAX_SMOOTH_VALENCE
    np.testing.assert_allclose(np.linalg.norm(normals, axis=2), 1, atol=1e-5)
