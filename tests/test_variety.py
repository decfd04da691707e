"""Domain randomisation: what it changes, and what it must leave alone."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from data.assemble import merge
from data.errors import UserError
from data.manifest import load_manifest
from data.shard import read_models
from render.backends import open_backend
from render.config import RenderConfig, check_config, data_settings
from render.mesh import build_mesh
from render.normals import corner_normals
from render.pipeline import pair_rng, render_dataset
from render.shading import Light, lit_corners
from render.shapes import generate
from render.variety import Variety, Warp, deform, jitter_colors, mottle, recolor, vary_images, vary_light, vary_object
from render.views import ViewSettings, sample_pair

SIZE = 32
ALL = Variety(1.0, 0.5, 1.0, 0.3, 0.8, True, 60.0, 0.5, (0.3, 1.2), ("solid", "gradient", "noise"), None, 0.4, 0.4)
DRAWS = [partial(pair_rng, 0, "some-model", i) for i in range(40)]


@pytest.fixture(scope="module")
def car():
    return generate("car", 0, 3)


def config(out, variety=Variety(), **options):
    options = {"category": "car", "models": 3, "pairs_per_model": 3, "splits": (1, 0, 0), "workers": 1} | options
    return RenderConfig(Path(out), views=ViewSettings(SIZE), variety=variety, progress=False, **options)


def rendered(out, variety=Variety(), **options):
    render_dataset(config(out, variety, **options))
    return list(read_models(out / "train-00000.h5"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return rendered(tmp_path_factory.mktemp("plain") / "data")


class TestDatasets:
    def test_off_means_as_before(self, car):
        assert vary_object(car, Light(), Variety(), DRAWS[0]) == (car, Light())
        assert "variety" not in data_settings(config("out"))  # so older datasets can be continued
        assert data_settings(config("out", Variety(warp=0.5)))["variety"] == {"warp": 0.5}

    def test_bytes_depend_on_seed_model_and_pair_alone(self, tmp_path):
        first, second = tmp_path / "1", tmp_path / "2"
        rendered(first, ALL)
        rendered(second, ALL, workers=2)
        assert (first / "train-00000.h5").read_bytes() == (second / "train-00000.h5").read_bytes()
        more = rendered(tmp_path / "more", ALL, pairs_per_model=4)
        for few, many in zip(read_models(first / "train-00000.h5"), more, strict=True):
            np.testing.assert_array_equal(few.rgba, many.rgba[:3])
            assert (many.rgba[2] != many.rgba[3]).any()

    def test_cameras_stay(self, plain, tmp_path):
        for ours, theirs in zip(rendered(tmp_path / "data", ALL), plain, strict=True):
            np.testing.assert_array_equal(ours.object_to_camera, theirs.object_to_camera)
            np.testing.assert_array_equal(ours.intrinsics, theirs.intrinsics)
            assert ours.geometry == theirs.geometry  # the model's, before it is deformed

    def test_only_shape_changes_depth_and_alpha(self, plain, tmp_path):
        looks = rendered(tmp_path / "looks", replace(ALL, stretch=0.0, warp=0.0, asymmetric=False))
        for ours, theirs in zip(looks, plain, strict=True):
            assert (ours.rgba[..., :3] != theirs.rgba[..., :3]).any(axis=(2, 3, 4)).all()
            np.testing.assert_array_equal(ours.depth, theirs.depth)
            # Embree refines pixels by their colours, so a pixel between two may be sampled once or five times.
            difference = ours.rgba[..., 3] != theirs.rgba[..., 3]
            assert difference.mean() < 0.01
            np.testing.assert_array_equal(ours.semantic_keypoints, theirs.semantic_keypoints)
        shapes = rendered(tmp_path / "shapes", Variety(stretch=0.3))
        assert all((ours.depth != theirs.depth).any() for ours, theirs in zip(shapes, plain, strict=True))
        assert all(np.isnan(ours.semantic_keypoints).all() for ours in shapes)

    def test_merged_with_the_plain_rendering_nothing_is_lost(self, tmp_path):
        folders = [tmp_path / "plain", tmp_path / "varied"]
        for folder, variety in zip(folders, (Variety(), Variety(recolor=1.0))):
            render_dataset(config(folder, variety))
        manifest = merge(tmp_path / "both", [*folders, folders[1]])
        assert sum(shard.pairs for shard in manifest.shards) == 18

    def test_other_variety_is_refused(self, tmp_path):
        render_dataset(config(tmp_path / "data", Variety(recolor=0.5), models=1))
        for other in (Variety(), Variety(recolor=0.6)):
            with pytest.raises(UserError, match=r"other settings \(variety\)"):
                render_dataset(config(tmp_path / "data", other, models=1))

    def test_a_backend_takes_no_pair_for_another(self, car):
        """One that has rendered other looks and shapes of the mesh renders as a new one does."""
        pose, camera = sample_pair(np.random.default_rng(5), ViewSettings(SIZE))
        used = open_backend("embree")
        for variety in (Variety(recolor=1.0), Variety(warp=1.0), Variety(), Variety(recolor=1.0)):
            mesh, light = vary_object(car, Light(), variety, DRAWS[0])
            shown, expected = (b.render(mesh, pose, camera, SIZE, light) for b in (used, open_backend("embree")))
            np.testing.assert_array_equal(shown[0], expected[0])
            np.testing.assert_array_equal(shown[1], expected[1])

    def test_both_views_show_one_shape(self, car):
        views, variety = ViewSettings(96, shift=0.0), Variety(stretch=0.4, warp=1.0)
        pose, camera = sample_pair(np.random.default_rng(5), views)
        shapes = [vary_object(car, Light(), variety, draw)[0] for draw in (DRAWS[0], DRAWS[3])]
        _, depth = open_backend("embree").render(shapes[0], pose, camera, 96)
        _, other = open_backend("embree").render(shapes[1], pose, camera, 96)
        assert hidden_in_front(pose, camera, depth[0], depth[1]) < 0.005
        assert hidden_in_front(pose, camera, depth[0], other[1]) > 0.2


def hidden_in_front(pose, camera, depth_0, depth_1):
    """Share of the points seen in view 0 that view 1 says lie in front of everything it sees."""
    row, column = np.nonzero(depth_0)
    z = depth_0[row, column].astype(np.float64)
    points = z[:, None] * (np.stack([column + 0.5, row + 0.5, np.ones(len(row))], -1) @ np.linalg.inv(camera[0]).T)
    motion = pose[1] @ np.linalg.inv(pose[0])
    moved = points @ motion[:3, :3].T + motion[:3, 3]
    image = moved @ camera[1].T
    u, v = (image[:, :2] / image[:, 2:]).astype(int).T
    # The nearest of 3 x 3 pixels, for a point seen at a grazing angle moves far within one.
    nearest = np.min([np.roll(np.where(depth_1, depth_1, np.inf), (i, j), (0, 1)) for i in STEPS for j in STEPS], 0)
    return np.mean(moved[:, 2] < nearest[v, u] - 0.02)


STEPS = (-1, 0, 1)


def test_an_option_leaves_the_others_draws_alone(car):
    draw = DRAWS[0]
    mesh, light = vary_object(car, Light(), ALL, draw)
    coloured = vary_object(car, Light(), Variety(recolor=1.0, mottle=1.0), draw)[0]
    np.testing.assert_array_equal(mesh.colors, coloured.colors)
    shape = vary_object(car, Light(), Variety(stretch=0.3, warp=0.8, asymmetric=True), draw)[0]
    np.testing.assert_array_equal(mesh.vertices, shape.vertices)
    assert light.sun_direction == vary_light(Light(), Variety(sun_spread_degrees=60.0), draw).sun_direction


@pytest.mark.parametrize("variety", [Variety(recolor=0.5), Variety(mottle=0.5)])
def test_a_share_of_the_pairs(car, variety):
    changed = [(vary_object(car, Light(), variety, draw)[0].colors != car.colors).any() for draw in DRAWS]
    assert 10 < sum(changed) < 30


@pytest.mark.parametrize("change", [recolor, lambda colors, rng: jitter_colors(colors, 1.0, rng)])
def test_new_colours(change):
    palette = np.array([[200, 30, 30], [20, 20, 25], [230, 230, 235]], np.uint8)
    changed = np.stack([change(palette, np.random.default_rng(seed)) for seed in range(30)])
    assert changed.dtype == np.uint8 and changed.shape == (30, 3, 3)
    assert all(len(np.unique(changed[:, i], axis=0)) > 15 for i in range(3))


def test_dark_parts_often_stay_dark():
    palette = np.array([[200, 30, 30], [20, 20, 25], [230, 230, 235]], np.uint8)
    luma = np.stack([recolor(palette, np.random.default_rng(seed)) for seed in range(100)]) @ [0.299, 0.587, 0.114]
    assert 0.5 < (luma[:, 1] <= luma.min(1) + 1).mean() < 0.95


def test_shades_of_a_picture_stay_in_order():
    ramp = np.repeat(np.arange(100, 160, dtype=np.uint8)[:, None], 3, 1)
    changed = np.stack([recolor(ramp, np.random.default_rng(seed)) for seed in range(20)]).astype(int)
    jumps = (np.abs(np.diff(changed, axis=1)).max(-1) > 3).sum(1)
    assert jumps.max() <= 7 and jumps.max() >= 3  # between the parts, which are at most 8
    assert max(len(np.unique(colors, axis=0)) for colors in changed) > 40


class TestMottle:
    def test_shades_are_soft_and_patches_alike_on_both_sides(self):
        fine = trimesh.creation.icosphere(subdivisions=4)
        mesh = build_mesh(fine.vertices, fine.faces, np.full((len(fine.faces), 3), 128))
        faces = mesh.vertices[mesh.faces].mean(1)
        mirrored = np.linalg.norm(faces[:, None] * [-1, 1, 1] - faces, axis=2).argmin(1)
        patched = 0
        for seed in range(20):
            colors = mottle(mesh, np.random.default_rng(seed)).colors.astype(int)
            tinted = np.ptp(colors, axis=2).max(1) > 2  # shades and grain are grey on a grey object
            np.testing.assert_array_equal(tinted, tinted[mirrored])
            assert tinted.mean() < 0.6
            assert np.abs(colors[~tinted].mean() - 128) < 10 and colors[~tinted].std() < 40
            patched += tinted.any()
        assert 4 < patched < 12

    def test_backs_too(self):
        square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
        faces = np.array([[0, 1, 2], [0, 2, 3], [2, 1, 0], [3, 2, 0]])
        mesh = build_mesh(square, faces, np.repeat([[90, 90, 90], [160, 160, 160]], 2, axis=0))
        changed = mottle(mesh, np.random.default_rng(1))
        assert (changed.colors != mesh.colors).any() and (changed.back_colors != mesh.back_colors).any()
        assert changed.vertices is mesh.vertices and changed.normals is mesh.normals


def test_a_mesh_knows_its_palette(car):
    colors, index = car.palette
    np.testing.assert_array_equal(colors[index], [car.colors])
    assert len(np.unique(colors, axis=0)) == len(colors)


class TestShape:
    def test_nothing_folds_over(self):
        points = np.random.default_rng(0).uniform(-1, 1, (500, 3))
        step = 1e-6
        largest = 0
        for seed in range(30):
            warp = Warp(1.0, seed % 2 == 0, np.random.default_rng(seed))
            columns = [(warp(points + step * axis) - warp(points - step * axis)) / (2 * step) for axis in np.eye(3)]
            jacobian = warp.jacobian(points)
            np.testing.assert_allclose(jacobian, np.stack(columns, -1), atol=1e-6)
            assert np.linalg.norm(jacobian, 2, axis=(1, 2)).max() < 0.9 + 1e-6
            assert np.linalg.det(np.eye(3) + jacobian).min() > 0
            largest = max(largest, np.abs(warp(points)).max())
        assert 0.2 < largest < 0.7  # visible, not grotesque

    def test_symmetry(self):
        points = np.random.default_rng(0).uniform(-1, 1, (50, 3))
        mirror = np.array([-1, 1, 1])
        symmetric, asymmetric = (Warp(1.0, kind, np.random.default_rng(0)) for kind in (True, False))
        np.testing.assert_allclose(symmetric(mirror * points), mirror * symmetric(points), atol=1e-12)
        assert np.abs(asymmetric(mirror * points) - mirror * asymmetric(points)).max() > 0.05

    def test_the_object_frame_stays(self, car):
        for draw in DRAWS[:10]:
            mesh = deform(car, Variety(stretch=0.5, warp=1.0), draw)
            low, high = mesh.vertices.min(0), mesh.vertices.max(0)
            np.testing.assert_allclose(low, -high, atol=1e-12)
            assert np.max(high) == pytest.approx(1)
            assert set(mesh.semantic_keypoints) == set(car.semantic_keypoints)
            np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=-1), 1, atol=1e-5)
            # The axes still mean right, up and back: each coordinate goes along with the old one.
            for axis in range(3):
                assert np.corrcoef(mesh.vertices[:, axis], car.vertices[:, axis])[0, 1] > 0.9

    def test_normals_go_along(self):
        ball = trimesh.creation.icosphere(5)
        mesh = build_mesh(ball.vertices, ball.faces, np.zeros((len(ball.faces), 3)))
        for draw in DRAWS[:5]:
            changed = deform(mesh, Variety(stretch=0.5, warp=1.0), draw)
            np.testing.assert_allclose(changed.normals, corner_normals(changed.vertices, changed.faces), atol=0.03)
            assert np.abs(changed.normals - mesh.normals).max() > 0.1

    def test_keypoints_go_along(self, car):
        """A keypoint that is put on a vertex stays on it."""
        pinned = replace(car, semantic_keypoints={"here": car.vertices[17]})
        mesh = deform(pinned, Variety(stretch=0.5, warp=1.0), DRAWS[0])
        np.testing.assert_allclose(mesh.semantic_keypoints["here"], mesh.vertices[17], atol=1e-12)

    def test_stretch_alone_is_a_change_of_proportions(self, car):
        mesh = deform(car, Variety(stretch=0.4), DRAWS[0])
        ratio = np.ptp(mesh.vertices, axis=0) / np.ptp(car.vertices, axis=0)
        np.testing.assert_allclose(mesh.vertices, car.vertices * ratio, atol=1e-9)
        assert 1.05 < ratio.max() / ratio.min() < 1.4**2


class TestLight:
    def test_sun(self):
        directions = [vary_light(Light(), Variety(sun_spread_degrees=90.0), draw).sun_direction for draw in DRAWS]
        heights = np.array(directions)[:, 1]
        np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
        assert heights.min() >= 0 and heights.min() < 0.2 and heights.max() > 0.8
        aside = Light(sun_direction=(1.0, 0.0, 0.0))
        near = [vary_light(aside, Variety(sun_spread_degrees=10.0), draw).sun_direction[0] for draw in DRAWS]
        assert min(near) >= np.cos(np.radians(10)) - 1e-12

    def test_white_is_not_overexposed(self, car):
        white = replace(car, colors=np.full_like(car.colors, 255))
        plain = lit_corners(white, Light())[0].max()
        for draw in DRAWS[:10]:
            light = vary_light(Light(), replace(ALL, ambient=(0.0, 1.5)), draw)
            total = np.array(light.sky) + light.sun
            assert total.max() <= 1 + 1e-9
            assert lit_corners(white, light)[0].max() <= plain + 1e-3

    def test_tint_and_ambient(self):
        lights = [vary_light(Light(), Variety(light_tint=0.5, ambient=(0.2, 1.0)), draw) for draw in DRAWS]
        assert len({light.sky for light in lights}) == len({light.sun for light in lights}) == len(DRAWS)
        assert all(np.ptp(light.sun) > 0 for light in lights)


class TestImages:
    @pytest.fixture
    def pair(self, plain):
        return plain[0].rgba[0]

    @pytest.mark.parametrize("kind", ["solid", "gradient", "noise"])
    def test_backgrounds(self, pair, kind):
        changed = vary_images(pair, Variety(backgrounds=(kind,)), DRAWS[0])
        np.testing.assert_array_equal(changed[..., 3], pair[..., 3])
        inside, outside = pair[..., 3] == 255, pair[..., 3] == 0
        np.testing.assert_array_equal(changed[inside], pair[inside])
        painted = [changed[view][outside[view]][:, :3] for view in range(2)]
        assert painted[0].mean() != painted[1].mean()  # each view has its own
        assert (painted[0].std(0).max() < 1) == (kind == "solid")

    def test_brightness_and_contrast_without_a_background(self, pair):
        changed = vary_images(pair, Variety(brightness=0.8, contrast=0.8), DRAWS[1])
        np.testing.assert_array_equal(changed[..., 3], pair[..., 3])
        assert (changed[..., :3] <= changed[..., 3:]).all()  # still premultiplied
        assert (changed != pair).any(axis=(1, 2, 3)).all()

    def test_contrast_by_hand(self):
        pair = np.full((2, 1, 1, 4), 255, np.uint8)
        pair[..., :3] = 200
        variety = Variety(brightness=0.5, contrast=0.5)
        gain, contrast = (np.exp(np.log(1.5) * DRAWS[2](name).uniform(-1, 1, 2)) for name in ("brightness", "contrast"))
        expected = np.clip((200 * gain - 127.5) * contrast + 127.5, 0, 255)
        np.testing.assert_allclose(vary_images(pair, variety, DRAWS[2])[:, 0, 0, 0], expected, atol=0.51)

    def test_pictures(self, pair, tmp_path):
        Image.new("RGB", (50, 80), (10, 200, 30)).save(tmp_path / "green.png")
        variety = Variety(background_images=tmp_path)
        changed = vary_images(pair, variety, DRAWS[0])
        assert (changed[pair[..., 3] == 0] == (10, 200, 30, 0)).all()
        Image.fromarray(np.full((50, 80), 20000, np.uint16)).save(tmp_path / "green.png")  # 16-bit grey
        changed = vary_images(pair, variety, DRAWS[0])
        np.testing.assert_allclose(changed[pair[..., 3] == 0][:, :3], 20000 / 257, atol=1)

    def test_a_damaged_picture_is_named(self, tmp_path):
        (tmp_path / "pictures").mkdir()
        (tmp_path / "pictures" / "bad.jpg").write_bytes(b"\xff\xd8\xff nothing")
        variety = Variety(background_images=tmp_path / "pictures")
        with pytest.raises(UserError, match="bad.jpg"):
            render_dataset(config(tmp_path / "data", variety))
        assert not (tmp_path / "data").exists()  # found before any work, so that mending it is still allowed
        (tmp_path / "pictures" / "bad.jpg").unlink()
        Image.new("RGB", (8, 8), "red").save(tmp_path / "pictures" / "good.png")
        check_config(config(tmp_path / "data", variety))

    @pytest.mark.parametrize("file", ["picture.bmp", os.fsdecode(b"caf\xe9.bmp")])
    def test_other_pictures_are_other_settings(self, tmp_path, file):
        for name, color in (("a", "red"), ("b", "blue")):  # of one name and one size
            (tmp_path / name).mkdir()
            Image.new("RGB", (8, 8), color).save(tmp_path / name / file, "BMP")
        first, second = (
            data_settings(config("out", Variety(background_images=tmp_path / name)))["variety"] for name in "ab"
        )
        assert first != second and str(tmp_path) not in str(first)


@pytest.mark.parametrize(
    "options",
    [
        {"recolor": 1.5}, {"recolor": float("nan")}, {"color_jitter": -0.1}, {"mottle": 2.0}, {"warp": 2.0},
        {"stretch": 9.0}, {"sun_spread_degrees": 200.0}, {"light_tint": 3.0}, {"ambient": (1.0, 0.5)},
        {"ambient": (-1.0, 1.0)},
        {"backgrounds": ("plaid",)}, {"background_images": Path("nowhere")},
        {"background_images": Path(__file__).parent},
        {"brightness": -1.0}, {"contrast": float("inf")}, {"asymmetric": True},
    ],
)  # fmt: skip
def test_bad_options(options, tmp_path):
    with pytest.raises(UserError) as error:
        check_config(config(tmp_path / "out", Variety(**options)))
    assert next(iter(options)).replace("_", "-") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options", [{"sky": (1.0, float("nan"), 1.0)}, {"sun": (-1.0, 0.0, 0.0)}, {"sun_direction": (0.0, 0.0, 0.0)}]
)
def test_bad_lights(options, tmp_path):
    with pytest.raises(UserError, match=next(iter(options)).replace("_", "-")):
        check_config(config(tmp_path / "out", light=Light(**options)))


def test_manifest_says_what_varied(tmp_path):
    render_dataset(config(tmp_path / "data", Variety(recolor=0.5, warp=0.5), models=1))
    assert load_manifest(tmp_path / "data").settings["variety"] == {"recolor": 0.5, "warp": 0.5}
