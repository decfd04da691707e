"""Renderers: against each other, and against what geometry says."""

import importlib.metadata
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import trimesh

from data.errors import UserError
from render import doctor
from render.backends import open_backend
from render.compiled import compile_once, compiled
from render.config import RenderConfig
from render.doctor import BackendReport, examine, resolve
from render.loading import load_mesh
from render.mesh import build_mesh
from render.pipeline import render_dataset
from render.shading import Light, decode_srgb, encode_srgb
from render.shapes import CATEGORIES, generate
from render.sources import discover
from render.views import ViewSettings, intrinsics, look_at, sample_pair
from tests.plain_tracer import render_plainly

SIZE = 96
REAL_MESH = Path(__file__).parent / "meshes" / "chair.obj"
MORE_REAL_MESHES = Path(__file__).parents[2] / "shared" / "meshes"


@pytest.fixture(scope="module")
def embree():
    return open_backend("embree")


@pytest.fixture(scope="module")
def egl():
    report = examine("egl")
    if not report.works:
        pytest.skip(f"egl: {report.detail}")
    return open_backend("egl")


@pytest.fixture(scope="module", params=["embree", "egl"])
def backend(request):
    """Each of the backends in turn."""
    return request.getfixturevalue(request.param)


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


class TestImages:
    def test_depth_of_a_ball(self, backend):
        ball = grey(trimesh.creation.icosphere(6))
        poses, cameras = views()
        _, depth = backend.render(ball, poses, cameras, SIZE)
        for pose, camera, z in zip(poses, cameras, depth):
            rays, center = pixel_rays(pose, camera, SIZE), pose[:3, 3]
            a, b, c = (rays**2).sum(-1), rays @ center, center @ center - 1
            inside = b * b - a * c
            truth = (b - np.sqrt(np.maximum(inside, 0))) / a
            assert ((z > 0) == (inside > 0)).mean() > 0.998
            both = (z > 0) & (inside > 0.02)
            np.testing.assert_allclose(z[both], truth[both], atol=2e-3)

    def test_coverage_of_an_edge(self, backend):
        # A square whose edges cut pixels: coverage tells its area to a part of a pixel.
        square = grey(trimesh.Trimesh([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], [[0, 1, 2], [0, 2, 3]]))
        for angle in (0, 7, 30, 45):
            pose, camera = look_at(np.array([0, 0, 30.0]), roll_degrees=angle), intrinsics(64, 6.3)
            rgba, _ = backend.render(square, pose[None], camera[None], 64)
            area, side = rgba[..., 3].sum() / 255, 2 * camera[0, 0] / 30
            assert area == pytest.approx(side**2, abs=side / 2)  # four or five samples: 1/8 pixel along each edge
            partial = (rgba[..., 3] > 0) & (rgba[..., 3] < 255)
            assert partial.any() or angle == 0

    def test_rgb_is_premultiplied(self, backend):
        rgba, _ = backend.render(
            grey(trimesh.creation.icosphere(4), 255), *views(), SIZE, Light((1,) * 3, (1,) * 3, (0,) * 3)
        )
        missing = rgba[..., 3:].astype(int) - rgba[..., :3]
        assert (missing >= 0).all()
        assert (missing > 1).mean() < 0.0005  # slivers, where Mesa's software interpolates badly
        assert len(np.unique(rgba[..., 3])) > 3

    def test_embree_follows_thin_parts(self, embree):
        # A rod 0.3 pixels wide, which the central rays of most pixels miss.
        rod = trimesh.creation.box((0.012, 1.9, 0.012)) + trimesh.creation.box((0.3, 0.2, 0.3)).apply_translation(
            (0, -1, 0)
        )
        pose, camera = look_at(np.array([3, 0.2, 30.0]), roll_degrees=1.5), intrinsics(64, 5)
        rgba, _ = embree.render(grey(rod), pose[None], camera[None], 64)
        rows = np.flatnonzero(rgba[0, :, :, 3].any(1))
        assert len(rows) == np.ptp(rows) + 1 >= 44

    def test_object_partly_outside_and_wholly_outside_the_image(self, backend):
        ball = grey(trimesh.creation.icosphere(3))
        pose, camera = look_at(np.array([0, 0, 30.0])), intrinsics(64, 1)
        rgba, depth = backend.render(ball, pose[None], camera[None], 64)
        assert (rgba[..., 3] == 255).all() and (depth > 0).all()
        pose[0, 3] = 50
        rgba, depth = backend.render(ball, pose[None], camera[None], 64)
        assert not rgba.any() and not depth.any()

    def test_camera_within_the_object(self, backend):
        pose, camera = look_at(np.array([0, 0, 0.3])), intrinsics(32, 60)
        rgba, depth = backend.render(grey(trimesh.creation.icosphere(3)), pose[None], camera[None], 32)
        assert (rgba[..., 3] == 255).all() and (depth > 0.5).all()

    @pytest.mark.parametrize(
        "mesh", [generate("chair", 0, 0), grey(trimesh.creation.icosphere(5))], ids=["few", "dense"]
    )
    def test_views_do_not_depend_on_each_other(self, backend, mesh):
        poses, cameras = views(8, distance=(4, 40), fov_degrees=(5, 30))
        rgba, depth = backend.render(mesh, poses, cameras, SIZE)
        for i in (0, 3, 7):
            alone = backend.render(mesh, poses[i : i + 1], cameras[i : i + 1], SIZE)
            np.testing.assert_array_equal(alone[0][0], rgba[i])
            np.testing.assert_array_equal(alone[1][0], depth[i])

    @pytest.mark.parametrize("category", CATEGORIES)
    def test_agrees_with_the_plain_tracer(self, embree, category):
        self.compare_with_the_plain_tracer(embree, generate(category, 3, 1))

    def test_agrees_with_the_plain_tracer_on_a_real_mesh(self, embree):
        self.compare_with_the_plain_tracer(embree, load_mesh(REAL_MESH))

    def compare_with_the_plain_tracer(self, embree, mesh):
        poses, cameras = views(2)
        rgba, depth = embree.render(mesh, poses, cameras, SIZE)
        for view in range(2):
            plain, plain_depth = render_plainly(mesh, poses[view], cameras[view], SIZE)
            covered = (plain[..., 3] > 0).sum()
            # Rays that meet an edge, or two coplanar faces, may fall on either side.
            assert (rgba[view] != plain).any(-1).sum() <= 0.005 * covered
            assert (np.abs(depth[view] - plain_depth) > 1e-4).sum() <= 0.001 * covered

    def test_compiles_where_nothing_can_be_kept(self, monkeypatch):
        monkeypatch.setattr("numba.core.caching.CompileResultCacheImpl._locator_classes", [])
        assert compiled(lambda x: x + 1)(1) == 2

    @pytest.mark.parametrize("kept", ["*.nbi", "*.nbc"])
    @pytest.mark.parametrize("damage", [lambda content: b"", lambda content: bytes(len(content))])
    def test_compiles_anew_where_what_was_kept_is_damaged(self, kept, damage, tmp_path):
        module = tmp_path / "numbers.py"
        module.write_text("def double(x):\n    return 2 * x\n")

        def cache_hits():
            space = {"__name__": "numbers"}
            exec(compile(module.read_text(), module, "exec"), space)
            double = compiled(space["double"])
            compile_once(double, lambda: double(1.0))
            assert double(2.0) == 4.0
            return sum(double.stats.cache_hits.values())

        assert (cache_hits(), cache_hits()) == (0, 1)
        (path,) = (tmp_path / "__pycache__").glob(kept)
        path.write_bytes(damage(path.read_bytes()))
        assert (cache_hits(), cache_hits()) == (0, 1)


class TestLight:
    def test_srgb_round_trip(self):
        values = np.arange(256) / 255
        np.testing.assert_allclose(encode_srgb(decode_srgb(values)), values, atol=1e-6)
        assert encode_srgb(np.array(0.5)) == pytest.approx(0.7354, abs=1e-3)

    def test_shade_by_hand(self, backend):
        box = grey(trimesh.creation.box((2, 2, 2)), 255)
        light = Light(sky=(0.6,) * 3, ground=(0.2,) * 3, sun=(0.3,) * 3, sun_direction=(0, 1, 0))
        for position, linear in (((0, 30, 0), 0.9), ((0, 0, 30), 0.4), ((0, -30, 0), 0.2)):
            pose, camera = look_at(np.array(position, float)), intrinsics(32, 3)
            rgba, _ = backend.render(box, pose[None], camera[None], 32, light)
            assert rgba[0, 16, 16, 0] == pytest.approx(255 * encode_srgb(np.array(linear)), abs=1)

    def test_both_sides_are_lit_towards_the_viewer(self, backend):
        roof = trimesh.Trimesh([[-1, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]], [[0, 1, 2], [0, 3, 2]], process=False)
        above, below = (look_at(np.array([0.0, y, 0.1])) for y in (30, -30))
        rgba, _ = backend.render(grey(roof), np.stack([above, below]), np.stack([intrinsics(32, 3)] * 2), 32)
        assert np.ptp(rgba[0, 4:28, 4:28, 0]) <= 1 and np.ptp(rgba[1, 4:28, 4:28, 0]) <= 1  # whatever the winding
        assert rgba[0, 16, 16, 0] > rgba[1, 16, 16, 0] + 50

    def test_either_side_has_its_colour(self, backend):
        square = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])  # wound to be seen from +z
        faces = [[0, 1, 2], [0, 2, 3], [2, 1, 0], [3, 2, 0]]
        skin = build_mesh(square, np.array(faces), np.array([[250, 0, 0]] * 2 + [[0, 0, 250]] * 2))
        before, behind = (look_at(np.array([0.0, 1.0, z])) for z in (30, -30))
        rgba, _ = backend.render(skin, np.stack([before, behind]), np.stack([intrinsics(32, 3)] * 2), 32)
        inside = rgba[:, 4:28, 4:28, :3]
        assert (inside[0, ..., 0] > 99).all() and (inside[0, ..., 2] == 0).all()
        assert (inside[1, ..., 2] > 99).all() and (inside[1, ..., 0] == 0).all()


def assert_agree(first, second):
    """Stated tolerances between backends, over all views of a mesh."""
    (rgba_1, z_1), (rgba_2, z_2) = first, second
    covered = (z_1 > 0) | (z_2 > 0)
    assert covered.any()
    assert ((z_1 > 0) != (z_2 > 0)).sum() <= 0.001 * covered.sum()  # mask at the pixels' centres
    both = (z_1 > 0) & (z_2 > 0)
    error = np.abs(z_1 - z_2)[both]  # depth, object units
    assert (error > 0.002).mean() < 0.001 and np.median(error) < 1e-5  # save where two surfaces meet
    alpha_1, alpha_2 = rgba_1[..., 3].astype(int), rgba_2[..., 3].astype(int)
    edge = ((alpha_1 > 0) & (alpha_1 < 255)) | ((alpha_2 > 0) & (alpha_2 < 255))
    coverage = (alpha_1 - alpha_2)[edge] / 255
    assert np.abs(coverage).mean() < 0.2 and abs(coverage.mean()) < 0.02  # edges: five samples against other four
    inside = (alpha_1 == 255) & (alpha_2 == 255)
    difference = np.abs(rgba_1[..., :3].astype(int) - rgba_2[..., :3])[inside]
    assert np.median(difference) <= 3 and difference.mean() < 6  # of 255; pixels at edges between colours make the mean


class TestAgreement:
    @pytest.mark.parametrize("category", CATEGORIES)
    def test_built_in(self, embree, egl, category):
        mesh = generate(category, 3, 1)
        assert_agree(embree.render(mesh, *views(), SIZE), egl.render(mesh, *views(), SIZE))

    def test_real(self, embree, egl):
        mesh = load_mesh(REAL_MESH)
        assert_agree(embree.render(mesh, *views(), SIZE), egl.render(mesh, *views(), SIZE))

    @pytest.mark.skipif(not MORE_REAL_MESHES.is_dir(), reason="no collection of real meshes here")
    @pytest.mark.parametrize("synset", ["02691156", "02958343", "03001627"])
    def test_more_real(self, embree, egl, synset):
        for source in discover(MORE_REAL_MESHES / synset)[::40]:
            mesh = load_mesh(source.path)
            assert_agree(embree.render(mesh, *views(), SIZE), egl.render(mesh, *views(), SIZE))

    def test_options(self, embree, egl):
        options = {"distance": (3, 5), "fov_degrees": (40, 50), "roll_degrees": 90, "elevation_degrees": (-90, 90)}
        mesh = generate("car", 0, 0)
        assert_agree(embree.render(mesh, *views(**options), SIZE), egl.render(mesh, *views(**options), SIZE))

    def test_object_cut_by_the_image_and_by_the_camera(self, embree, egl):
        mesh = generate("chair", 0, 2)  # many edges: of a few, all along one line, the mean is chance
        for position, fov in (((0.3, 0.4, 30.0), 2.0), ((0.5, 0.2, -0.4), 70.0)):
            view = look_at(np.array(position))[None], intrinsics(SIZE, fov)[None]
            assert_agree(embree.render(mesh, *view, SIZE), egl.render(mesh, *view, SIZE))


class TestGl:
    def test_batches_change_no_byte(self, egl, monkeypatch):
        import render.gl

        mesh, many = generate("car", 1, 0), views(10)
        expected = egl.render(mesh, *many, SIZE)
        for layers in (1, 3, 7):
            monkeypatch.setattr(render.gl, "_FRAMEBUFFER_BYTES", layers * render.gl._BYTES_PER_PIXEL * SIZE**2)
            assert max(map(len, render.gl._batches(10, SIZE))) <= layers
            for whole, parts in zip(expected, egl.render(mesh, *many, SIZE)):
                np.testing.assert_array_equal(whole, parts)

    def test_another_size_and_mesh_in_between_change_no_byte(self, egl):
        mesh, many = generate("car", 1, 0), views(4)
        expected = egl.render(mesh, *many, SIZE)
        egl.render(generate("chair", 2, 0), *views(2), 17)
        for before, after in zip(expected, egl.render(mesh, *many, SIZE)):
            np.testing.assert_array_equal(before, after)

    def test_workers_change_no_byte(self, egl, tmp_path):
        def dataset(workers):
            config = RenderConfig(
                tmp_path / str(workers), category="car", models=2, pairs_per_model=2, views=ViewSettings(image_size=16),
                backend="egl", workers=workers, progress=False,
            )  # fmt: skip
            render_dataset(config)
            return {path.name: path.read_bytes() for path in config.out.iterdir()}

        assert dataset(1) == dataset(2)

    def test_a_driver_that_fails_is_named_in_one_line(self, egl, monkeypatch):
        from OpenGL import GL
        from OpenGL.error import GLError

        def glDrawArrays(*_):
            raise GLError(GL.GL_OUT_OF_MEMORY, baseOperation=glDrawArrays, description=b"out of memory")

        monkeypatch.setattr(GL, "glDrawArrays", glDrawArrays)
        with pytest.raises(UserError, match=r"egl: .*failed in glDrawArrays \(out of memory\): run .* again") as caught:
            egl.render(generate("car", 1, 0), *views(2), SIZE)
        assert "\n" not in str(caught.value)

    def test_a_lost_context_is_named_in_one_line(self, egl):
        from OpenGL import EGL

        backend = open_backend("egl")
        EGL.eglDestroyContext(backend._context._egl_display, backend._context._egl_context)
        egl._context.make_current()
        with pytest.raises(UserError, match="egl: the graphics driver failed in .*: run the same command") as caught:
            backend.render(generate("car", 1, 0), *views(2), SIZE)
        assert "\n" not in str(caught.value)

    def test_needs_multisampling(self, egl, monkeypatch):
        import render.gl

        monkeypatch.setattr(render.gl.GL, "glGetIntegerv", lambda limit: 1)
        with pytest.raises(RuntimeError, match="only 1x multisampling"):
            render.gl.GlBackend("egl", egl._context)


def test_unknown_backend():
    with pytest.raises(UserError, match="choose one of"):
        resolve("magic")


def test_osmesa_says_why_not():
    for refuse in (open_backend, resolve):
        with pytest.raises(UserError, match="PyOpenGL 3.1.0.*use embree"):
            refuse("osmesa")


def test_what_is_said_of_osmesa_is_still_so():
    assert "PyOpenGL (==3.1.0)" in importlib.metadata.requires("pyrender")
    if importlib.metadata.version("PyOpenGL") != "3.1.0":
        pytest.skip("a later PyOpenGL is here, for the sake of Python 3.12")
    package = Path(importlib.util.find_spec("OpenGL").submodule_search_locations[0])
    sources = [path.read_text() for folder in ("osmesa", "raw/osmesa") for path in (package / folder).glob("*.py")]
    assert any("OSMesaCreateContext" in text for text in sources)
    assert not any("OSMesaCreateContextAttribs" in text for text in sources)


def test_a_backend_that_does_not_work_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda name: BackendReport(name, False, False, "no libEGL", "install it"))
    with pytest.raises(UserError, match="backend: egl does not work: no libEGL: install it"):
        resolve.__wrapped__("egl")
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="embreex is not installed"):
        resolve.__wrapped__("embree")


@pytest.mark.parametrize("device, gpu, taken", [(0, True, "embree"), (1, False, "embree"), (1, True, "egl")])
def test_auto_takes_egl_only_on_a_gpu(monkeypatch, device, gpu, taken):
    monkeypatch.setattr(doctor, "_gpu_devices", lambda: [Path("/dev/nvidia0")][:device])
    monkeypatch.setattr(doctor, "examine", lambda name: BackendReport(name, True, gpu, ""))
    assert resolve.__wrapped__("auto") == taken
