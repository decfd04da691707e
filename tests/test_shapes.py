import numpy as np
import pytest
from scipy.spatial import cKDTree

from data.errors import UserError
from render.shapes import CATEGORIES, generate, keypoint_names
from render.shapes.primitives import (
    Builder,
    box,
    circle,
    ellipsoid,
    extrude,
    fillet,
    hermite,
    loft,
    rectangle,
    revolve,
    rounded_rectangle,
    sheet,
    spline,
    superellipse,
    sweep,
    tube,
)

PER_CATEGORY = 30


@pytest.fixture(scope="module", params=CATEGORIES)
def models(request):
    return request.param, [generate(request.param, 3, index) for index in range(PER_CATEGORY)]


def surface_samples(mesh, count, seed=0):
    """Points spread over the surface by area, (count, 3)."""
    rng = np.random.default_rng(seed)
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces], 1, 0)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    face = rng.choice(len(area), count, p=area / area.sum())
    u, v = rng.random((2, count, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    return a[face] + u * (b - a)[face] + v * (c - a)[face]


def occupancy(mesh, cells=24):
    """Silhouettes from the front, the side and above on a grid: what a viewer can tell apart."""
    points = np.floor((surface_samples(mesh, 6000) + 1) / 2 * cells * 0.999).astype(int)
    images = np.zeros((3, cells, cells), bool)
    for image, (i, j) in zip(images, ((0, 1), (2, 1), (0, 2))):
        image[points[:, i], points[:, j]] = True
    return images.ravel()


def test_categories():
    assert CATEGORIES == ("airplane", "car", "chair")
    for category in CATEGORIES:
        names = keypoint_names(category)
        assert len(names) >= 10 and len(set(names)) == len(names)
    with pytest.raises(UserError, match="boat.*airplane, car, chair"):
        generate("boat", 0, 0)
    with pytest.raises(UserError, match="boat"):
        keypoint_names("boat")


@pytest.mark.parametrize("category", CATEGORIES)
def test_pure_function_of_its_arguments(category):
    first = generate(category, 5, 17)
    np.random.seed(1)  # global state must not matter
    generate(category, 0, 0)
    again = generate(category, 5, 17)
    for name in ("vertices", "faces", "colors", "normals"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    for name, point in first.semantic_keypoints.items():
        np.testing.assert_array_equal(point, again.semantic_keypoints[name])
    for seed, index in ((6, 17), (5, 18)):
        other = generate(category, seed, index)
        assert other.vertices.shape != first.vertices.shape or not np.allclose(other.vertices, first.vertices)


def test_meshes_are_sound(models):
    _, meshes = models
    for mesh in meshes:
        low, high = mesh.vertices.min(0), mesh.vertices.max(0)
        np.testing.assert_allclose((high - low).max(), 2)
        np.testing.assert_allclose(low, -high, atol=1e-9)
        assert 400 <= len(mesh.faces) <= 12_000
        assert np.isfinite(mesh.normals).all() and mesh.colors.dtype == np.uint8
        np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=2), 1, atol=1e-3)
    assert np.median([len(mesh.faces) for mesh in meshes]) <= 8_000


def test_mirror_symmetry(models):
    """Nearly every vertex has a partner across x = 0; a propeller's blades have none."""
    _, meshes = models
    for mesh in meshes:
        distance, _ = cKDTree(mesh.vertices).query(mesh.vertices * [-1, 1, 1])
        assert np.mean(distance < 0.02) > 0.9


def test_keypoints(models):
    category, meshes = models
    names = keypoint_names(category)
    present = np.zeros(len(names))
    for mesh in meshes:
        assert tuple(mesh.semantic_keypoints) == names
        points = np.array([mesh.semantic_keypoints[name] for name in names])
        known = np.isfinite(points).all(1)
        assert (known | np.isnan(points).all(1)).all()
        assert known.sum() >= 6
        present += known
        assert np.abs(points[known]).max() <= 1.03
        distance, _ = cKDTree(surface_samples(mesh, 20_000)).query(points[known])
        assert distance.max() < 0.25
        assert np.median(distance) < 0.05
        for name, point in mesh.semantic_keypoints.items():
            if name.endswith("_right"):
                left = mesh.semantic_keypoints[name.removesuffix("right") + "left"]
                np.testing.assert_allclose(left * [-1, 1, 1], point, atol=5e-3)
                assert np.isnan(point[0]) or point[0] > 0
    assert np.mean(present > 0) > 0.7
    assert (present < PER_CATEGORY).any(), "no part is optional"


def test_front_is_minus_z_and_up_is_plus_y(models):
    category, meshes = models
    front, rear, low, high = {
        "airplane": ("nose", "tail_end", "belly", "cockpit_top"),
        "car": ("hood_front", "tail_center", "front_wheel_left", "roof_center"),
        "chair": ("seat_front_left", "seat_rear_left", "seat_center", "back_top_center"),
    }[category]
    for mesh in meshes:
        at = mesh.semantic_keypoints
        assert at[front][2] < at[rear][2]
        assert not at[low][1] > at[high][1]


def test_no_two_alike(models):
    _, meshes = models
    shapes = np.array([occupancy(mesh) for mesh in meshes], float)
    common = shapes @ shapes.T
    overlap = common / (shapes.sum(1)[:, None] + shapes.sum(1)[None] - common)
    assert np.median(overlap[np.triu_indices(len(meshes), 1)]) < 0.8
    parts = np.array(
        [np.nan_to_num(np.array(list(mesh.semantic_keypoints.values())), nan=9).ravel() for mesh in meshes]
    )
    difference = np.abs(parts[:, None] - parts[None]).max(-1)[np.triu_indices(len(meshes), 1)]
    assert difference.min() > 0.02


def test_colors_vary(models):
    category, _ = models
    meshes = [generate(category, 3, index) for index in range(100)]  # one chair in ten has four colours or more
    counts = [len(np.unique(mesh.colors.reshape(-1, 3), axis=0)) for mesh in meshes]
    assert np.median(counts) >= 2 and np.max(counts) >= 4
    means = np.array([mesh.colors.mean((0, 1)) for mesh in meshes])
    assert (means.std(0) > 25).all()


# Primitives


def test_rotation_and_mirror():
    surface = box([1, 2, 3]).moved([5, 0, 0])
    np.testing.assert_allclose(surface.mirrored().vertices[:, 0].mean(), -5)
    np.testing.assert_allclose(surface.turned("y", 90).vertices.mean(0), [0, 0, -5], atol=1e-12)
    np.testing.assert_allclose(surface.turned("z", 90).cells.mean(0), [0, 5, 0], atol=1e-12)


@pytest.mark.parametrize(
    "surface, volume",
    [
        (box([1, 2, 3]), 6),
        (tube([[0, 0, 0], [0, 0, 2]], 0.5, 64), 0.5 * np.pi),
        (revolve([(0.5, 0), (0.5, 2)], 64, "x"), 0.5 * np.pi),
        (ellipsoid([1, 2, 3], n=64), 8 * np.pi),
        (extrude(superellipse(2, 2, n=64), 0, 1), np.pi),
        (sweep([[0, 0, 0], [3, 0, 0]], rectangle(1, 2)), 6),
        (loft(np.stack([np.insert(circle(1, 64), 2, z, axis=1) for z in (0, 1)])), np.pi),
        (sheet(np.stack(np.meshgrid([0, 1, 2], [0, 1, 2], [0.0]), -1)[:, :, 0], 0.5), 2),
    ],
)
def test_closed_surfaces_enclose_their_volume(surface, volume):
    import trimesh

    mesh = trimesh.Trimesh(surface.vertices, surface.faces)
    mesh.merge_vertices()
    mesh.update_faces(mesh.nondegenerate_faces())
    mesh.fix_normals()
    assert mesh.is_watertight
    assert abs(mesh.volume) == pytest.approx(volume, rel=0.02)


def test_rounded_edges_keep_the_box():
    surface = box([1, 2, 3], bevel=0.2)
    np.testing.assert_allclose(surface.vertices.max(0), [0.5, 1, 1.5], atol=1e-9)
    assert len(rounded_rectangle(1, 1, 0.2, 4)) == 20


def test_curves():
    points = [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    curve = spline(points, 50)
    np.testing.assert_allclose(curve[[0, -1]], [points[0], points[-1]])
    assert np.linalg.norm(curve - points[1], axis=1).min() < 0.05
    bent = fillet(points, 0.2)
    assert np.linalg.norm(bent - points[1], axis=1).min() > 0.05
    np.testing.assert_allclose(hermite([0, 1, 2], [0, 1, 2], np.array([-1, 0.5, 1.7, 3])), [0, 0.5, 1.7, 2])


def test_builder_refuses_unknown_keypoints():
    with pytest.raises(KeyError):
        Builder(["nose"]).mark("tail", [0, 0, 0])
