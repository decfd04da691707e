"""Renderers: against each other, and against what geometry says."""

from pathlib import Path

import numpy as np
import pytest
import trimesh

from data.errors import UserError
from render.backends import open_backend, resolve
from render.doctor import examine
from render.mesh import build_mesh
from render.shading import Light, decode_srgb, encode_srgb
from render.shapes import CATEGORIES, generate
from render.sources import discover
from render.views import ViewSettings, intrinsics, look_at, sample_pair

SIZE = 96
REAL_MESHES = Path(__file__).parents[2] / "shared" / "meshes"


@pytest.fixture(scope="module")
def embree():
    return open_backend("embree")


@pytest.fixture(scope="module")
def egl():
    report = examine("egl")
    if not report.works:
        pytest.skip(f"egl: {report.detail}")
    return open_backend("egl")


def grey(mesh, color=200):
    return build_mesh(mesh.vertices, mesh.faces, np.full((len(mesh.faces), 3), color))


def views(count=4, seed=0, **settings):
    pairs = [
        sample_pair(np.random.default_rng([seed, i]), ViewSettings(image_size=SIZE, **settings))
        for i in range(count // 2)
    ]
    return np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs])


def pixel_rays(pose, camera, size):
    """Directions with z = 1 through pixel centres, in the camera frame; (H, W, 3)."""
    v, u = np.mgrid[:size, :size] + 0.5
    return np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(camera).T


class TestEmbree:
    def test_depth_of_a_ball(self, embree):
        ball = grey(trimesh.creation.icosphere(6))
        poses, cameras = views()
        _, depth = embree.render(ball, poses, cameras, SIZE)
        for pose, camera, z in zip(poses, cameras, depth):
            rays, center = pixel_rays(pose, camera, SIZE), pose[:3, 3]
            a, b, c = (rays**2).sum(-1), rays @ center, center @ center - 1
            inside = b * b - a * c
            truth = (b - np.sqrt(np.maximum(inside, 0))) / a
            assert ((z > 0) == (inside > 0)).mean() > 0.998
            both = (z > 0) & (inside > 0.02)
            np.testing.assert_allclose(z[both], truth[both], atol=2e-3)

    def test_coverage_of_an_edge(self, embree):
        # A square whose edges cut pixels: coverage tells its area to a part of a pixel.
        square = grey(trimesh.Trimesh([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], [[0, 1, 2], [0, 2, 3]]))
        for angle in (0, 7, 30, 45):
            pose, camera = look_at(np.array([0, 0, 30.0]), roll_degrees=angle), intrinsics(64, 6.3)
            rgba, _ = embree.render(square, pose[None], camera[None], 64)
            area = rgba[..., 3].sum() / 255
            assert area == pytest.approx((2 * camera[0, 0] / 30) ** 2, rel=0.01)
            partial = (rgba[..., 3] > 0) & (rgba[..., 3] < 255)
            assert partial.any() or angle == 0

    def test_rgb_is_premultiplied(self, embree):
        rgba, _ = embree.render(
            grey(trimesh.creation.icosphere(4), 255), *views(), SIZE, Light((1,) * 3, (1,) * 3, (0,) * 3)
        )
        np.testing.assert_allclose(rgba[..., :3], np.repeat(rgba[..., 3:], 3, -1), atol=1)
        assert len(np.unique(rgba[..., 3])) > 3

    def test_thin_parts_are_followed(self, embree):
        # A rod 0.3 pixels wide, which the central rays of most pixels miss.
        rod = trimesh.creation.box((0.012, 1.9, 0.012)) + trimesh.creation.box((0.3, 0.2, 0.3)).apply_translation(
            (0, -1, 0)
        )
        pose, camera = look_at(np.array([3, 0.2, 30.0]), roll_degrees=1.5), intrinsics(64, 5)
        rgba, _ = embree.render(grey(rod), pose[None], camera[None], 64)
        rows = np.flatnonzero(rgba[0, :, :, 3].any(1))
        assert len(rows) == np.ptp(rows) + 1 >= 44

    def test_object_partly_outside_and_wholly_outside_the_image(self, embree):
        ball = grey(trimesh.creation.icosphere(3))
        pose, camera = look_at(np.array([0, 0, 30.0])), intrinsics(64, 1)
        rgba, depth = embree.render(ball, pose[None], camera[None], 64)
        assert (rgba[..., 3] == 255).all() and (depth > 0).all()
        pose[0, 3] = 50
        rgba, depth = embree.render(ball, pose[None], camera[None], 64)
        assert not rgba.any() and not depth.any()

    def test_camera_within_the_object(self, embree):
        pose, camera = look_at(np.array([0, 0, 0.3])), intrinsics(32, 60)
        rgba, depth = embree.render(grey(trimesh.creation.icosphere(3)), pose[None], camera[None], 32)
        assert (rgba[..., 3] == 255).all() and (depth > 0.5).all()

    def test_views_do_not_depend_on_each_other(self, embree):
        mesh = generate("chair", 0, 0)
        poses, cameras = views(16)
        rgba, depth = embree.render(mesh, poses, cameras, SIZE)
        for i in (0, 7, 15):
            alone = embree.render(mesh, poses[i : i + 1], cameras[i : i + 1], SIZE)
            np.testing.assert_array_equal(alone[0][0], rgba[i])
            np.testing.assert_array_equal(alone[1][0], depth[i])


class TestLight:
    def test_srgb_round_trip(self):
        values = np.arange(256) / 255
        np.testing.assert_allclose(encode_srgb(decode_srgb(values)), values, atol=1e-6)
        assert encode_srgb(np.array(0.5)) == pytest.approx(0.7354, abs=1e-3)

    def test_shade_by_hand(self, embree):
        box = grey(trimesh.creation.box((2, 2, 2)), 255)
        light = Light(sky=(0.6,) * 3, ground=(0.2,) * 3, sun=(0.3,) * 3, sun_direction=(0, 1, 0))
        for position, linear in (((0, 30, 0), 0.9), ((0, 0, 30), 0.4), ((0, -30, 0), 0.2)):
            pose, camera = look_at(np.array(position, float)), intrinsics(32, 3)
            rgba, _ = embree.render(box, pose[None], camera[None], 32, light)
            assert rgba[0, 16, 16, 0] == pytest.approx(255 * encode_srgb(np.array(linear)), abs=1)

    def test_both_sides_are_lit_towards_the_viewer(self, embree):
        roof = trimesh.Trimesh([[-1, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]], [[0, 1, 2], [0, 3, 2]], process=False)
        above, below = (look_at(np.array([0.0, y, 0.1])) for y in (30, -30))
        rgba, _ = embree.render(grey(roof), np.stack([above, below]), np.stack([intrinsics(32, 3)] * 2), 32)
        assert np.ptp(rgba[0, 4:28, 4:28, 0]) <= 1 and np.ptp(rgba[1, 4:28, 4:28, 0]) <= 1  # whatever the winding
        assert rgba[0, 16, 16, 0] > rgba[1, 16, 16, 0] + 50


def assert_agree(first, second):
    """Stated tolerances between backends, over all views of a mesh."""
    (rgba_1, z_1), (rgba_2, z_2) = first, second
    covered = (z_1 > 0) | (z_2 > 0)
    assert ((z_1 > 0) != (z_2 > 0)).sum() <= 0.002 * covered.sum()  # mask at the pixels' centres
    both = (z_1 > 0) & (z_2 > 0)
    assert (np.abs(z_1 - z_2)[both] > 0.002).mean() < 0.002  # depth, object units, save where two surfaces meet
    alpha_1, alpha_2 = rgba_1[..., 3].astype(int), rgba_2[..., 3].astype(int)
    edge = ((alpha_1 > 0) & (alpha_1 < 255)) | ((alpha_2 > 0) & (alpha_2 < 255))
    coverage = (alpha_1 - alpha_2)[edge] / 255
    assert np.abs(coverage).mean() < 0.2 and abs(coverage.mean()) < 0.02  # edges: five samples against other four
    inside = (alpha_1 == 255) & (alpha_2 == 255)
    difference = np.abs(rgba_1[..., :3].astype(int) - rgba_2[..., :3])[inside]
    assert np.median(difference) <= 4 and difference.mean() < 8  # of 255; pixels at edges between colours make the mean


class TestAgreement:
    @pytest.mark.parametrize("category", CATEGORIES)
    def test_built_in(self, embree, egl, category):
        mesh = generate(category, 3, 1)
        assert_agree(embree.render(mesh, *views(), SIZE), egl.render(mesh, *views(), SIZE))

    @pytest.mark.skipif(not REAL_MESHES.is_dir(), reason="no real meshes here")
    @pytest.mark.parametrize("synset", ["02691156", "02958343", "03001627"])
    def test_real(self, embree, egl, synset):
        from render.loading import load_mesh

        for source in discover(REAL_MESHES / synset)[::40]:
            mesh = load_mesh(source.path)
            assert_agree(embree.render(mesh, *views(), SIZE), egl.render(mesh, *views(), SIZE))

    def test_options(self, embree, egl):
        options = {"distance": (3, 5), "fov_degrees": (40, 50), "roll_degrees": 90, "elevation_degrees": (-90, 90)}
        mesh = generate("car", 0, 0)
        assert_agree(embree.render(mesh, *views(**options), SIZE), egl.render(mesh, *views(**options), SIZE))


def test_unknown_backend():
    with pytest.raises(UserError, match="choose one of"):
        open_backend("magic")


def test_osmesa_says_why_not():
    with pytest.raises(UserError, match="PyOpenGL 3.1.0.*use embree"):
        open_backend("osmesa")


def test_auto_takes_egl_only_on_a_gpu():
    assert resolve("auto") == ("egl" if examine("egl").gpu else "embree")
