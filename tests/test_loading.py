"""Meshes of the user's own: layouts, formats, colours, and everything that can be wrong with a file."""

import io
import json
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from data.errors import UserError
from render import loading, painting
from render.loading import load_mesh
from render.sources import MeshError, discover

CUBE = trimesh.creation.box((1, 2, 4))
QUAD = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def save_image(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def textured_quad(folder, texture_path="texture.png", pixels=None):
    """A square whose texture has a red, a green, a blue and a white quarter (from the top left, row by row)."""
    if pixels is None:
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[:32, :32], pixels[:32, 32:], pixels[32:, :32], pixels[32:, 32:] = (
            (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255),
        )  # fmt: skip
    save_image(folder / texture_path, pixels)
    write(folder / "quad.mtl", f"newmtl m\nKd 0.1 0.1 0.1\nmap_Kd {texture_path}\n")
    return write(folder / "quad.obj", "mtllib quad.mtl\n" + QUAD + "usemtl m\nf 1/1 2/2 3/3\nf 1/1 3/3 4/4\n")


def color_at(mesh, x, y):
    """Colour of the face whose centre is nearest to (x, y)."""
    centers = mesh.vertices[mesh.faces].mean(1)
    return mesh.colors[np.abs(centers[:, :2] - (x, y)).sum(1).argmin()].mean(0)


class TestDiscover:
    def test_shapenet_layouts_give_the_models_name(self, tmp_path):
        for name in ("b/models/model_normalized.obj", "a/model.obj", "c/model.obj", "c/models/model_normalized.obj"):
            write(tmp_path / name, "v 0 0 0")
        found = discover(tmp_path)
        assert [source.model_id for source in found] == ["a", "b", "c"]
        assert found[2].name == "c/models/model_normalized.obj"

    def test_other_meshes_keep_their_path(self, tmp_path):
        for name in ("z.PLY", "sub/x.stl", "sub/x.glb", "readme.txt", ".hidden/y.obj", "._y.obj"):
            write(tmp_path / name, "v 0 0 0")
        assert [source.model_id for source in discover(tmp_path)] == ["sub/x.glb", "sub/x.stl", "z.PLY"]

    def test_links_in_a_circle_end(self, tmp_path):
        write(tmp_path / "a.obj", "v 0 0 0")
        (tmp_path / "again").symlink_to(tmp_path)
        assert [source.model_id for source in discover(tmp_path)] == ["a.obj"]

    def test_a_single_mesh(self, tmp_path):
        assert [source.model_id for source in discover(write(tmp_path / "a.obj", "v 0 0 0"))] == ["a.obj"]

    @pytest.mark.parametrize("make", [lambda p: p / "absent", lambda p: p, lambda p: write(p / "a.txt", "x")])
    def test_nothing_to_find(self, tmp_path, make):
        with pytest.raises(UserError):
            discover(make(tmp_path))


class TestFormats:
    @pytest.mark.parametrize("suffix", ["obj", "ply", "stl", "off", "glb", "gltf"])
    def test_every_format_loads_in_the_object_frame(self, tmp_path, suffix):
        path = tmp_path / f"box.{suffix}"
        if suffix == "gltf":
            for name, content in CUBE.scene().export(file_type="gltf").items():
                write(tmp_path / name.replace("model", "box"), content)
        else:
            CUBE.export(path)
        mesh = load_mesh(path)
        assert len(mesh.faces) == 12
        np.testing.assert_allclose(mesh.vertices.min(0), [-0.25, -0.5, -1], atol=1e-6)
        np.testing.assert_allclose(mesh.vertices.max(0), [0.25, 0.5, 1], atol=1e-6)

    def test_scenes_are_flattened_with_their_transforms(self, tmp_path):
        scene = trimesh.Scene()
        for x in (0, 9):
            scene.add_geometry(
                trimesh.creation.box((1, 1, 1)), transform=trimesh.transformations.translation_matrix((x, 0, 0))
            )
        scene.export(tmp_path / "two.glb")
        mesh = load_mesh(tmp_path / "two.glb")
        assert len(mesh.faces) == 24
        np.testing.assert_allclose(np.ptp(mesh.vertices, axis=0), [2, 0.2, 0.2], atol=1e-6)

    def test_inconsistent_winding_gives_the_same_shading(self, tmp_path):
        faces = CUBE.faces.copy()
        faces[::2] = faces[::2, ::-1]
        trimesh.Trimesh(CUBE.vertices, faces, process=False).export(tmp_path / "box.ply")
        mesh = load_mesh(tmp_path / "box.ply")
        face_normals = np.cross(*(mesh.vertices[mesh.faces[:, i]] - mesh.vertices[mesh.faces[:, 0]] for i in (1, 2)))
        face_normals /= np.linalg.norm(face_normals, axis=1, keepdims=True)
        np.testing.assert_allclose(mesh.normals, np.repeat(face_normals[:, None], 3, axis=1), atol=1e-6)

    def test_negative_obj_indices_count_back_from_their_line(self, tmp_path):
        first = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf -3 -2 -1\n"
        second = "v 0 0 4\nv 1 0 4\nv 0 1 4\nf -3 -2 -1\n"
        mesh = load_mesh(write(tmp_path / "two.obj", first + second))
        np.testing.assert_allclose(np.sort(mesh.vertices[mesh.faces][..., 2], axis=0), [[-1] * 3, [1] * 3])


class TestColors:
    def test_materials(self, tmp_path):
        write(tmp_path / "m.mtl", "newmtl red\nKd 1 0 0\nnewmtl blue\nKd 0 0 0.5\n")
        text = "mtllib m.mtl\n" + QUAD + "usemtl red\nf 1 2 3\nusemtl blue\nf 1 3 4\n"
        mesh = load_mesh(write(tmp_path / "quad.obj", text))
        assert {tuple(face[0]) for face in mesh.colors.tolist()} == {(255, 0, 0), (0, 0, 128)}

    @pytest.mark.parametrize("kind", ["vertex", "face"])
    def test_vertex_and_face_colors(self, tmp_path, kind):
        colored = CUBE.copy()
        count = len(colored.vertices if kind == "vertex" else colored.faces)
        colors = np.random.default_rng(0).integers(0, 256, (count, 4), np.uint8) | [0, 0, 0, 255]
        setattr(colored.visual, f"{kind}_colors", colors)
        colored.export(tmp_path / "box.ply")
        mesh = load_mesh(tmp_path / "box.ply")
        expected = colors[colored.faces] if kind == "vertex" else np.repeat(colors[:, None], 3, axis=1)
        np.testing.assert_array_equal(mesh.colors, expected[..., :3])

    def test_gltf_factors_are_linear_light(self, tmp_path):
        box = CUBE.copy()
        material = trimesh.visual.material.PBRMaterial(baseColorFactor=[0.5, 0, 0, 1.0])
        box.visual = trimesh.visual.TextureVisuals(material=material)
        box.export(tmp_path / "box.glb")
        np.testing.assert_allclose(load_mesh(tmp_path / "box.glb").colors[0, 0], [188, 0, 0], atol=1)

    def test_a_texture_keeps_its_picture(self, tmp_path):
        mesh = load_mesh(textured_quad(tmp_path))
        for x, y, color in ((-0.5, 0.5, (255, 0, 0)), (0.5, 0.5, (0, 255, 0)), (-0.5, -0.5, (0, 0, 255))):
            np.testing.assert_allclose(color_at(mesh, x, y), color, atol=3)
        assert 1000 < len(mesh.faces) < 2 * loading.MAX_FACES
        area = np.linalg.norm(
            np.cross(*(mesh.vertices[mesh.faces[:, i]] - mesh.vertices[mesh.faces[:, 0]] for i in (1, 2))), axis=1
        )
        assert area.sum() / 2 == pytest.approx(4)

    def test_a_texture_of_one_color_cuts_nothing(self, tmp_path):
        mesh = load_mesh(textured_quad(tmp_path, pixels=np.full((64, 64, 3), 77, np.uint8)))
        assert len(mesh.faces) == 2 and (mesh.colors == 77).all()

    @pytest.mark.parametrize(
        "lines", ["mtllib a.mtl b.mtl\n", "mtllib a.mtl\nmtllib b.mtl\n", "mtllib a.mtl\nmtllib a b.lib\n"]
    )
    def test_several_material_libraries(self, tmp_path, lines):
        write(tmp_path / "a.mtl", "newmtl red\nKd 1 0 0\n")
        for name in ("b.mtl", "a b.lib"):
            write(tmp_path / name, "newmtl blue\nKd 0 0 1\n")
        mesh = load_mesh(write(tmp_path / "quad.obj", lines + QUAD + "usemtl red\nf 1 2 3\nusemtl blue\nf 1 3 4\n"))
        assert {tuple(face[0]) for face in mesh.colors.tolist()} == {(255, 0, 0), (0, 0, 255)}

    def test_faces_without_texture_coordinates_get_the_mean_colour(self, tmp_path):
        path = textured_quad(tmp_path)
        write(path, "mtllib quad.mtl\n" + QUAD + "usemtl m\nf 1 2 3\nf 1 3 4\n")
        np.testing.assert_allclose(load_mesh(path).colors, np.full((2, 3, 3), 127), atol=2)

    def test_gltf_factors_multiply_vertex_colors(self, tmp_path):
        half, material = np.full((3, 3), 0.5, np.float32), {"pbrMetallicRoughness": {"baseColorFactor": [1, 0, 0.5, 1]}}
        path = write(tmp_path / "a.glb", triangle({"COLOR_0": half}, material))
        np.testing.assert_allclose(load_mesh(path).colors[0, 0], [188, 0, 137], atol=1)

    def test_transparent_texels_are_cut_out(self, tmp_path):
        pixels = np.full((64, 64, 4), 255, np.uint8)
        pixels[:, 32:, 3] = 0
        mesh = load_mesh(textured_quad(tmp_path, pixels=pixels))
        centers = mesh.vertices[mesh.faces].mean(1)
        assert np.ptp(centers[:, 0]) < 0.6 * np.ptp(centers[:, 1])

    def test_textures_beside_a_shapenet_model(self, tmp_path):
        path = textured_quad(tmp_path / "id" / "models", "../images/texture0.png")
        path = path.rename(path.with_name("model_normalized.obj"))
        assert len(load_mesh(path, tmp_path).faces) > 1000
        assert len(load_mesh(path).faces) > 1000

    @pytest.mark.parametrize("mode", ["P", "1", "L", "RGBA"])
    def test_pictures_larger_than_is_used_may_be_of_any_mode(self, tmp_path, monkeypatch, mode):
        monkeypatch.setattr(painting, "MAX_TEXTURE_SIDE", 16)
        path = textured_quad(tmp_path)
        Image.open(tmp_path / "texture.png").convert(mode).save(tmp_path / "texture.png")
        mesh = load_mesh(path)
        np.testing.assert_allclose(color_at(mesh, 0.5, -0.5), 255, atol=2)  # the white quarter
        assert color_at(mesh, -0.5, 0.5).min() < 100

    def test_of_two_sides_the_one_with_a_picture_is_seen(self, tmp_path):
        path = textured_quad(tmp_path)
        alone = load_mesh(path)
        back = "newmtl plain\nKd 0.5 0.5 0.5\n"
        write(tmp_path / "quad.mtl", back + (tmp_path / "quad.mtl").read_text())
        text = path.read_text().replace("usemtl m", "usemtl plain\nf 3 2 1\nusemtl m")
        both = load_mesh(write(path, text))
        np.testing.assert_array_equal(both.vertices[both.faces], alone.vertices[alone.faces])
        np.testing.assert_array_equal(both.colors, alone.colors)

    def test_a_decal_leaves_what_it_lies_on(self, tmp_path):
        pixels = np.zeros((64, 64, 4), np.uint8)
        pixels[:20, :20] = 255
        path = textured_quad(tmp_path, pixels=pixels)
        write(tmp_path / "quad.mtl", "newmtl body\nKd 0 0 1\n" + (tmp_path / "quad.mtl").read_text())
        mesh = load_mesh(write(path, path.read_text().replace("usemtl m", "usemtl body\nf 1 2 3\nf 1 3 4\nusemtl m")))
        assert (mesh.colors == (0, 0, 255)).all((1, 2)).sum() == 2 and len(mesh.faces) > 20

    def test_a_picture_is_decoded_once_whatever_lies_on_its_faces(self, tmp_path, monkeypatch):
        calls, mip_maps = [], painting._mip_maps
        monkeypatch.setattr(painting, "_mip_maps", lambda image: calls.append(image) or mip_maps(image))
        square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.0]])
        material = trimesh.visual.material.PBRMaterial(
            baseColorTexture=Image.fromarray(np.eye(8, dtype=np.uint8) * 255)
        )
        scene = trimesh.Scene()
        for place in range(3):
            visual = trimesh.visual.TextureVisuals(square[:, :2], material=material)
            faces = [[0, 1, 2], [0, 2, 3], [2, 1, 0]]
            scene.add_geometry(trimesh.Trimesh(square + [place, 0, 0], faces, visual=visual, process=False))
        faces = np.array([[0, 1, 2], [0, 2, 3], [0, 1, 3]])  # the first two lie on others, the last stays
        plain = trimesh.Trimesh(square, faces, vertex_colors=[[0, 0, 255, 255]] * 4, process=False)
        scene.add_geometry(plain)
        mesh = load_mesh(write(tmp_path / "a.glb", scene.export(file_type="glb")))
        assert len(calls) == 1
        assert (mesh.colors == (0, 0, 255)).all((1, 2)).sum() == 1

    def test_many_textured_parts_share_one_bound(self, tmp_path, monkeypatch):
        monkeypatch.setattr(painting, "MAX_PIECES_OF_ALL", 1000)
        path = textured_quad(tmp_path)
        write(path.with_suffix(".mtl"), "".join(f"newmtl m{i}\nmap_Kd texture.png\n" for i in range(6)))
        parts = "".join(f"usemtl m{i}\nf 1/1 2/2 3/3\nf 1/1 3/3 4/4\n" for i in range(6))
        write(path, "mtllib quad.mtl\n" + QUAD + parts)
        assert 500 < len(load_mesh(path).faces) < 1100

    def test_an_8k_texture_and_a_large_part_stay_bounded(self, tmp_path):
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (64, 64, 3), np.uint8).repeat(128, 0).repeat(128, 1)
        path = textured_quad(tmp_path, "big.jpg", pixels)
        path.write_text(path.read_text() + "f 1/1 2/2 3/3\n" * 200)
        assert 10_000 < len(load_mesh(path).faces) < 500_000


def gltf(accessors, views=(), meshes=None, images=(), **others):
    header = {
        "asset": {"version": "2.0"},
        "accessors": accessors,
        "bufferViews": list(views),
        "images": list(images),
        "meshes": meshes or [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "nodes": [{"mesh": 0}],
        "scenes": [{"nodes": [0]}],
    } | others
    return json.dumps(header).encode()


def glb(header, binary=b""):
    header += b" " * (-len(header) % 4)
    body = struct.pack("<I4s", len(header), b"JSON") + header + struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return b"glTF" + struct.pack("<II", 2, 12 + len(body)) + body


def triangle(attributes=(), material=None, extra=(), node=(), texture=None):
    """GLB of one triangle with further attributes; ``extra`` of its header, ``node`` of its node."""
    arrays = {"POSITION": np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32), **dict(attributes)}
    kinds = {np.dtype(np.float32): 5126, np.dtype(np.uint16): 5123}
    binary = b"".join(array.tobytes().ljust(40, b"\0") for array in arrays.values())
    views = [{"buffer": 0, "byteOffset": 40 * i, "byteLength": array.nbytes} for i, array in enumerate(arrays.values())]
    accessors = [
        {"bufferView": i, "componentType": kinds[array.dtype], "count": 3, "type": f"VEC{array.shape[1]}"}
        for i, array in enumerate(arrays.values())
    ]
    primitive = {"attributes": {name: i for i, name in enumerate(arrays)}}
    header = {"buffers": [{"byteLength": len(binary)}], "nodes": [{"mesh": 0, **dict(node)}]}
    if material is not None:
        primitive["material"], header["materials"] = 0, [material]
    if texture is not None:
        header["textures"] = [texture]
    return glb(gltf(accessors, views, [{"primitives": [primitive]}], **(header | dict(extra))), binary)


def test_the_triangle_itself_is_fine(tmp_path):
    assert len(load_mesh(write(tmp_path / "a.glb", triangle())).faces) == 1
    harmless = {"offset": [0, 0], "scale": [1.0, 1.0]}  # with nothing to move, and no texture that it could move
    use = {"index": 0, "extensions": {"KHR_texture_transform": harmless}}
    assert len(load_mesh(write(tmp_path / "c.glb", triangle({"TEXCOORD_0": WHOLE}, {}))).faces) == 1
    again = triangle(material={"pbrMetallicRoughness": {"baseColorTexture": use}})
    assert len(load_mesh(write(tmp_path / "b.glb", again)).faces) == 1


UV, WHOLE = np.zeros((3, 2), np.float32), np.zeros((3, 2), np.uint16)
BY_TEXTURE = {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}


@pytest.mark.parametrize(
    "content, reason",
    [
        (triangle(extra={"extensionsRequired": ["KHR_mesh_quantization"]}), "requires KHR_mesh_quantization"),
        (triangle({"POSITION": np.zeros((3, 3), np.uint16)}), "POSITION as whole numbers"),
        (triangle({"TEXCOORD_0": WHOLE}, BY_TEXTURE), "TEXCOORD_0 as whole numbers"),
        (triangle({"COLOR_0": np.zeros((3, 4), np.uint16)}), "16-bit colours"),
        (triangle(node={"extensions": {"EXT_mesh_gpu_instancing": {}}}), "instances"),
        (triangle(node={"weights": [0.0, 0.5]}), "morph targets"),
        (triangle({"TEXCOORD_0": UV}, BY_TEXTURE, texture={"extensions": {"KHR_texture_basisu": {}}}), "format"),
        (
            triangle(material={"pbrMetallicRoughness": {"baseColorTexture": {"index": 0, "texCoord": 1}}}),
            "second set of coordinates",
        ),
        (
            triangle(
                material={
                    "pbrMetallicRoughness": {
                        "baseColorTexture": {"index": 0, "extensions": {"KHR_texture_transform": {"offset": [1, 0]}}}
                    }
                }
            ),
            "KHR_texture_transform",
        ),
        (triangle(extra={"images": [{"uri": "data:image/png;base64,AAAA"}]}), "not an image"),
        (
            triangle(
                material={
                    "pbrMetallicRoughness": {
                        "baseColorTexture": {"index": 0, "extensions": {"KHR_texture_transform": {"texCoord": 1}}}
                    }
                }
            ),
            "KHR_texture_transform",
        ),
        (glb(gltf([{"componentType": 5126, "count": 3, "type": "VEC3", "sparse": {}}])), "sparse"),
    ],
)
def test_gltf_that_would_be_misread_is_refused(tmp_path, content, reason):
    with pytest.raises(MeshError, match=reason):
        load_mesh(write(tmp_path / "a.glb", content))


def test_data_files_of_any_name(tmp_path):
    write(tmp_path / "vertices.dat", np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32).tobytes())
    views = [{"buffer": 0, "byteLength": 36}]
    accessors = [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}]
    header = gltf(accessors, views, buffers=[{"byteLength": 36, "uri": "vertices.dat"}])
    assert len(load_mesh(write(tmp_path / "a.gltf", header)).faces) == 1


@pytest.mark.parametrize("first", range(4))
def test_concave_faces_keep_their_shape(tmp_path, first):
    outline = [1, 2, 3, 4]
    corners = " ".join(f"{i}/1" for i in outline[first:] + outline[:first])
    text = "v 0 0 0\nv 2 1 0\nv 0 2 0\nv 1 1 0\nv 3 0 0\nv 3 1 0\nv 4 1 0\nv 4 0 0\nvt 0 0\n"
    mesh = load_mesh(write(tmp_path / "a.obj", f"{text}f {corners}\nf 5/1 8/1 7/1 6/1\n"))
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    assert len(mesh.faces) == 4
    assert np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2 == pytest.approx((1 + 1) / 2**2)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
        "v 0 0 0\rv 1 0 0\rv 0 1 0\rf 1 2 3\r",
        "  v 0 0 0\n\tv 1 0 0\n  v 0 1 0\n  f 1 2 3\n",
        "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3 # the only one\n",
        "v 0 0 0 # a\nv 1 0 0#b\nv 0 1 0\nvt 0 0 # c\nvn 0 0 1 # up\nf 1/1/1 2/1/1 3/1/1\n",
        "v 0 0 \\\n0\nv 1 0 0\nv 0 1 0\nf 1 2\\\n  3\n",
        "v 0 0 0\r\nv 1 0 0\r\nv 0 1 0\r\nf 1 \\\r\n2 3\r\n",
    ],
)
def test_obj_files_as_the_format_allows_them(tmp_path, text):
    mesh = load_mesh(write(tmp_path / "a.obj", text))
    np.testing.assert_allclose(mesh.vertices[mesh.faces], [[[-1, -1, 0], [1, -1, 0], [-1, 1, 0]]])


def test_concave_faces_beside_faces_of_two_corners(tmp_path):
    text = "v 0 0 0\nv 2 1 0\nv 0 2 0\nv 1 1 0\nf 2 3 4 1\nf 1 2\nf 2 3\n"
    assert area(load_mesh(write(tmp_path / "a.obj", text))) == pytest.approx(1)


def test_colours_of_corners_beside_materials_that_are_not_used(tmp_path):
    write(tmp_path / "red.mtl", RED_MATERIAL)
    corners = QUAD.replace(" 0\nv ", " 0 0 0 1\nv ").replace("0 1 0\nvt", "0 1 0 0 0 1\nvt")
    mesh = load_mesh(write(tmp_path / "a.obj", "mtllib red.mtl\n" + corners + "f 1/1 2/2 3/3 4/4\n"))
    assert (mesh.colors == (0, 0, 255)).all()


def test_a_material_without_a_colour_is_grey(tmp_path):
    write(tmp_path / "red.mtl", "newmtl red\nKs 1 0 0\n")
    assert (load_mesh(write(tmp_path / "a.obj", RED_QUAD)).colors == painting.DEFAULT_GREY).all()


RED_MATERIAL = "newmtl red\nKd 1 0 0\n"
RED_QUAD = "mtllib red.mtl\n" + QUAD + "usemtl red\nf 1 2 3 4\n"


@pytest.mark.parametrize(
    "library, text",
    [
        (RED_MATERIAL + "Ks 0.5\nNs\nillum 2\n", RED_QUAD),
        ("newmtl red\nKd 1 0 0 # not so dark\n", RED_QUAD),
        ("\ufeff" + RED_MATERIAL, RED_QUAD),
        ("\tnewmtl\tred\r\n\tKD\t1\t0\t0\r\n", RED_QUAD),
        (RED_MATERIAL + "newmtl unused\nmap_Kd missing.png\nKd spectral a.rfl\n", RED_QUAD),
        (RED_MATERIAL, RED_QUAD.replace(" ", "\t")),
        (
            ("# größer\n" + RED_MATERIAL.replace("red", "Tür")).encode("latin-1"),
            RED_QUAD.replace("usemtl red", "usemtl Tür").encode("latin-1"),
        ),
        ("", QUAD.replace(" 0\nv", " 0 1 0 0\nv").replace("0 1 0\nvt", "0 1 0 1 0 0\nvt") + "f 1/1/ 2/2/ 3/3/ 4/4/\n"),
    ],
)  # fmt: skip
def test_colours_of_obj_files_as_the_format_allows_them(tmp_path, library, text):
    write(tmp_path / "red.mtl", library)
    mesh = load_mesh(write(tmp_path / "a.obj", text))
    assert len(mesh.faces) == 2 and (mesh.colors == (255, 0, 0)).all()


def test_one_number_stands_for_three(tmp_path):
    write(tmp_path / "red.mtl", "newmtl red\nKd 0.2\n")
    assert (load_mesh(write(tmp_path / "a.obj", RED_QUAD)).colors == 51).all()


@pytest.mark.parametrize(
    "library, reason",
    [
        ("newmtl red\nKd 1 0\n", "Kd '1 0', which are not three numbers"),
        ("newmtl red\nKd spectral a.rfl\n", "not three numbers"),
        ("newmtl red\nmap_Kd -s 2 2 2 a.png\n", "a texture that is moved or scaled .-s."),
        ("newmtl red\nmap_Kd -o 0 0.5 a.png\n", "a texture that is moved or scaled .-o."),
        ("newmtl red\nmap_Kd -o x a.png\n", "a texture that is moved or scaled .-o."),
        ("newmtl red\nmap_Kd -clamp on\n", "map_Kd names no picture"),
        ("newmtl red\nmap_Kd -s 1\n", "map_Kd names no picture"),
    ],
)
def test_materials_that_would_be_misread_are_refused(tmp_path, library, reason):
    write(tmp_path / "red.mtl", library)
    with pytest.raises(MeshError, match=reason):
        load_mesh(write(tmp_path / "a.obj", RED_QUAD))


def test_a_texture_with_options_beside_its_library(tmp_path):
    path = textured_quad(tmp_path / "library", "my texture.png")
    plain = load_mesh(path)
    write(tmp_path / "library/quad.mtl", "newmtl m\nmap_Kd -clamp  on -s  1 1.  1.0 -o 0 -bm  1 my texture.png\n")
    moved = load_mesh(write(tmp_path / "a.obj", path.read_text().replace("mtllib ", "mtllib library/")), tmp_path)
    np.testing.assert_array_equal(moved.colors, plain.colors)


@pytest.mark.parametrize("bare", ["f 2 5 3", "f 2//1 5//1 3//1", "f -4 -1 -3"])
def test_one_face_without_texture_coordinates_leaves_the_others_their_picture(tmp_path, bare):
    path = textured_quad(tmp_path)
    whole = load_mesh(path)
    mesh = load_mesh(write(path, path.read_text().replace("vt 0 0", "v 1 0.5 0.1\nvn 0 0 1\nvt 0 0", 1) + bare))
    assert len(mesh.faces) == len(whole.faces) + 1
    np.testing.assert_allclose(mesh.colors[(np.ptp(mesh.vertices[mesh.faces][..., 2], axis=1) > 0)], 127, atol=2)
    np.testing.assert_allclose(color_at(mesh, -0.5, 0.5), (255, 0, 0), atol=5)


def ply(properties, rows, comment="", faces=("property list uchar int vertex_indices", "3 0 1 2")):
    head = "".join(f"property {name}\n" for name in properties)
    lines = "".join(f"{row}\n" for row in rows)
    return (
        f"ply\nformat ascii 1.0\n{comment}element vertex {len(rows)}\n{head}element face 1\n{faces[0]}\nend_header\n"
        f"{lines}{faces[1]}\n"
    )


XYZ = ["float x", "float y", "float z"]
RED_CORNERS = ["0 0 0 0 0 255 0 0", "1 0 0 1 0 255 0 0", "0 1 0 0 1 255 0 0"]


def test_ply_colours_beside_texture_coordinates(tmp_path):
    names = [*XYZ, "float s", "float t", "uchar red", "uchar green", "uchar blue"]
    assert (load_mesh(write(tmp_path / "a.ply", ply(names, RED_CORNERS))).colors == (255, 0, 0)).all()


def test_ply_colours_by_another_name(tmp_path):
    names = [*XYZ, "float a", "float b", "uchar diffuse_red", "uchar diffuse_green", "uchar diffuse_blue"]
    text = ply(names, RED_CORNERS, "comment größer\n").encode("latin-1")
    assert (load_mesh(write(tmp_path / "a.ply", text)).colors == (255, 0, 0)).all()


OUTLINE = [(1, 2), (0, 2), (0, 0), (2, 0), (2, 1), (1, 1)]  # an L, of which a fan from the first corner is wrong
PRISM = [range(5, -1, -1), range(6, 12), *((i, (i + 1) % 6, (i + 1) % 6 + 6, i + 6) for i in range(6))]


def area(mesh):
    a, b, c = mesh.vertices[mesh.faces].transpose(1, 0, 2)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2


BINARY_PLY = """ply
format binary_{}_endian 1.0
element vertex 12
property float x
property float y
property float z
element face 8
property list uchar int vertex_indices
property uchar red
property uchar green
property uchar blue
element edge 1
property int vertex1
property int vertex2
end_header
"""


@pytest.mark.parametrize("order, name", [("<", "little"), (">", "big")])
def test_binary_ply_with_faces_of_any_number_of_corners(order, name, tmp_path):
    points = np.array([(x, y, z) for z in (0, 1) for x, y in OUTLINE], order + "f4")

    def content(faces):
        rows = (
            bytes([len(face)]) + np.array(face, order + "i4").tobytes() + bytes([10 * number, 0, 0])
            for number, face in enumerate(faces)
        )
        edge = np.array([0, 1], order + "i4").tobytes()
        return BINARY_PLY.format(name).encode() + points.tobytes() + b"".join(rows) + edge

    mesh = load_mesh(write(tmp_path / "l.ply", content(PRISM)))
    assert len(mesh.faces) == 20 and area(mesh) == pytest.approx(14)
    assert sorted(mesh.colors[:, 0, 0].tolist()) == [0] * 4 + [10] * 4 + sorted([20, 30, 40, 50, 60, 70] * 2)
    with pytest.raises(MeshError, match="vertex indices outside 0 to 11"):
        load_mesh(write(tmp_path / "broken.ply", content([*PRISM[:-1], (5, 0, 6, 12)])))
    with pytest.raises(MeshError, match="cannot be read"):
        load_mesh(write(tmp_path / "short.ply", content(PRISM)[:-9]))


def test_off_with_faces_of_any_number_of_corners(tmp_path):
    corners = "\n".join(f"{x} {y} {z}" for z in (0, 1) for x, y in OUTLINE)
    faces = "\n".join(" ".join(map(str, [len(face), *face])) for face in PRISM)
    mesh = load_mesh(write(tmp_path / "l.off", f"OFF\n12 8 0\n{corners}\n# sides\n{faces}\n"))
    assert len(mesh.faces) == 20 and area(mesh) == pytest.approx(14)
    with pytest.raises(MeshError, match="vertex indices outside 0 to 11"):
        load_mesh(write(tmp_path / "broken.off", f"OFF\n12 8 0\n{corners}\n{faces[:-1]}99\n"))
    for cut in (faces.rpartition("\n")[0], faces.rpartition(" ")[0]):  # a face, or a corner of one, is missing
        with pytest.raises(MeshError, match="cut short: it declares 8 faces and holds 7"):
            load_mesh(write(tmp_path / "short.off", f"OFF\n12 8 0\n{corners}\n{cut}\n"))


def test_ply_colours_of_whole_numbers_beyond_bytes_are_refused(tmp_path):
    colors = ["ushort red", "ushort green", "ushort blue"]
    rows = [f"{xyz} 32768 0 0" for xyz in ("0 0 0", "1 0 0", "0 1 0")]
    with pytest.raises(MeshError, match="colours of type ushort, which are not read from PLY"):
        load_mesh(write(tmp_path / "a.ply", ply([*XYZ, *colors], rows)))


def test_remarks_in_obj_mean_nothing(tmp_path):
    (tmp_path / "a.mtl").write_text("newmtl red\nKd 1 0 0\nnewmtl blue\nKd 0 0 1\n")
    text = "# from C:\\cars\\\n#mtllib gone.mtl\n # the mtllib is next\nmtllib a.mtl\n# usemtl blue\n"
    text += "v 0 0 0\n  # v 9 9 9\nv 1 0 0\nv 0 1 0\nv 0 0 1\nusemtl red\nf 1 2 3\n# usemtl blue\nf 1 2 4\n"
    mesh = load_mesh(write(tmp_path / "a.obj", text))
    assert (mesh.colors == (255, 0, 0)).all()
    assert len(mesh.vertices) == 4 and area(mesh) == pytest.approx(4)  # two halves of squares of side 2


def test_ply_with_several_textures_is_refused(tmp_path):
    comment = "comment TextureFile a.png\ncomment TextureFile b.png\n"
    with pytest.raises(MeshError, match="several textures"):
        load_mesh(write(tmp_path / "a.ply", ply(XYZ, ["0 0 0", "1 0 0", "0 1 0"], comment)))


@pytest.mark.parametrize(
    "text",
    [
        "COFF\n3 1 0\n0 0 0 255 0 0 255\n1 0 0 255 0 0 255\n0 1 0 255 0 0 255\n3 0 1 2\n",
        "OFF 3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2 255 0 0\n",
        "OFF3 1 0\n# a face\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2 1.0 0 0\n",
        "OFF\n3 1 0\n0 0 0 255 255 255\n1 0 0 255 255 255\n0 1 0 255 255 255\n3 0 1 2\n",
    ],
)
def test_off_colours_are_refused(tmp_path, text):
    with pytest.raises(MeshError, match="colours, which are not read from OFF"):
        load_mesh(write(tmp_path / "a.off", text))
    plain = re.sub(" 255( 0 0 255| 255 255| 0 0)| 1.0 0 0", "", text).replace("COFF", "OFF")
    assert (load_mesh(write(tmp_path / "a.off", plain)).colors == painting.DEFAULT_GREY).all()


@pytest.mark.parametrize("prefix, more", [("N", " 0 0 1"), ("ST", " 0.5 0.5"), ("STN", " 0 0 1 0.5 0.5")])
def test_off_with_normals_or_coordinates_of_a_texture(tmp_path, prefix, more):
    corners = "\n".join(f"{x} {y} {z}{more}" for z in (0, 1) for x, y in OUTLINE)
    faces = "\n".join(" ".join(map(str, [len(face), *face])) for face in PRISM)
    text = f"{prefix}OFF\n12 8 0\n{corners}\n{faces}\n"
    mesh = load_mesh(write(tmp_path / "l.off", text))
    assert len(mesh.faces) == 20 and area(mesh) == pytest.approx(14)
    with pytest.raises(MeshError, match="colours, which are not read from OFF"):
        load_mesh(write(tmp_path / "l.off", text.replace("NOFF", "CNOFF") if "N" in prefix else f"STC{text[2:]}"))
    with pytest.raises(MeshError, match="four coordinates"):
        load_mesh(write(tmp_path / "l.off", "4" + text.removeprefix(prefix)))


def test_stl_as_text_however_it_begins(tmp_path):
    text = CUBE.export(file_type="stl_ascii").lower()
    for head in ("", "\ufeff"):
        assert len(load_mesh(write(tmp_path / "a.stl", head + text)).faces) == 12
    second = text.replace("solid", "solid b", 1).replace("2.0", "3.0")
    assert len(load_mesh(write(tmp_path / "a.stl", f"{text}\n{second}")).faces) == 24
    with pytest.raises(MeshError, match="cut short: 2 solids begin, 1 end"):
        load_mesh(write(tmp_path / "a.stl", f"{text}\n{second[: second.rindex('endfacet')]}endfacet"))


def test_ply_elements_without_properties_and_counts_as_floats(tmp_path):
    text = ply(XYZ, ["0 0 0", "1 0 0", "0 1 0"], faces=("property list float int vertex_indices", "3.0 0 1 2"))
    text = text.replace("end_header", "element edge 2\nend_header")
    assert len(load_mesh(write(tmp_path / "a.ply", text)).faces) == 1


@pytest.mark.parametrize("head", [b"by trimesh", b"solid box"])
def test_bytes_behind_the_last_face_of_an_stl_file(tmp_path, head):
    content = head.ljust(80) + CUBE.export(file_type="stl")[80:]
    assert len(load_mesh(write(tmp_path / "a.stl", content + b"\n")).faces) == 12


def test_files_of_faces_that_end_too_soon_are_refused(tmp_path):
    rows = ["0 0 0", "1 0 0", "0 1 0"]
    for cut in ("element face 2", "element face 1\nelement edge 1\nproperty list uchar int v\nproperty int w"):
        text = ply(XYZ, rows).replace("element face 1", cut.partition("\n")[0])
        if "edge" in cut:
            text = text.replace("end_header", cut.partition("\n")[2] + "\nend_header") + "2 0 1\n"
        with pytest.raises(MeshError, match="cut short, or not in rows: it declares 5, its text ends in row [45]"):
            load_mesh(write(tmp_path / "a.ply", text))
    with pytest.raises(MeshError, match="cut short: it declares 12 faces and holds 11"):
        load_mesh(write(tmp_path / "a.stl", CUBE.export(file_type="stl")[:-1]))


def test_gltf_without_a_colour_is_white(tmp_path):
    for material in (None, {}, {"pbrMetallicRoughness": {"metallicFactor": 0}}):
        assert (load_mesh(write(tmp_path / "a.glb", triangle(material=material))).colors == 255).all()


def test_meshes_beside_a_camera_of_gltf_and_below_one_stay(tmp_path):
    nodes = [{"mesh": 0, "camera": 0, "children": [1]}, {"mesh": 0, "translation": [0, 0, 1]}, {"camera": 0}]
    cameras = [{"type": "perspective", "perspective": {"yfov": 0.5, "znear": 0.1}}]
    content = triangle(extra={"nodes": nodes, "cameras": cameras, "scenes": [{"nodes": [0, 2]}]})
    assert len(load_mesh(write(tmp_path / "a.glb", content)).faces) == 2


def test_diffuse_colours_of_gltf_are_base_colours(tmp_path):
    def colors(texture, suffix):
        own = {"diffuseFactor": [0, 0.5, 1, 1], "specularFactor": [1, 0, 0], "glossinessFactor": 0.2} | texture
        material = {"extensions": {"KHR_materials_pbrSpecularGlossiness": own}}
        extra = {
            "images": [{"uri": "grey.png"}],
            "textures": [{"source": 0}],
            "extensionsRequired": ["KHR_materials_pbrSpecularGlossiness"],
        }
        content = triangle({"TEXCOORD_0": UV}, material, extra=extra)
        if suffix == ".gltf":
            length = struct.unpack_from("<I", content, 12)[0]
            header = json.loads(content[20 : 20 + length])
            header["buffers"][0]["uri"] = write(tmp_path / "data.bin", content[28 + length :]).name
            content = json.dumps(header)
        return load_mesh(write(tmp_path / f"a{suffix}", content)).colors[0]

    save_image(tmp_path / "grey.png", np.full((2, 2, 3), 188, np.uint8))  # half of all light
    for suffix in (".glb", ".gltf"):
        np.testing.assert_allclose(colors({}, suffix), [[0, 188, 255]] * 3, atol=1)
        np.testing.assert_allclose(colors({"diffuseTexture": {"index": 0}}, suffix), [[0, 137, 188]] * 3, atol=1)


@pytest.mark.parametrize("cutoff, shown", [(None, False), (0.3, True), (0.4, False), (0.0, True)])
def test_alpha_cutoff_of_gltf(tmp_path, cutoff, shown):
    save_image(tmp_path / "veil.png", np.full((2, 2, 4), 100, np.uint8))
    material = BY_TEXTURE | {"alphaMode": "MASK"} | ({} if cutoff is None else {"alphaCutoff": cutoff})
    extra = {"images": [{"uri": "veil.png"}], "textures": [{"source": 0}]}
    path = write(tmp_path / "a.glb", triangle({"TEXCOORD_0": UV}, material, extra=extra))
    if shown:
        assert len(load_mesh(path).faces) == 1
    else:
        with pytest.raises(MeshError, match="no faces"):
            load_mesh(path)


def test_a_picture_starts_no_program(tmp_path, monkeypatch):
    path = textured_quad(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "texture.png", "EPS")
    write(tmp_path / "bin" / "gs", f"#!/bin/sh\ntouch {tmp_path}/started\n").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(MeshError, match="not an image that can be read"):
        load_mesh(path)
    with pytest.raises(OSError, match="Ghostscript"):
        Image.open(tmp_path / "texture.png").load()
    assert not (tmp_path / "started").exists()


def test_gltf_colours_multiply_a_texture(tmp_path):
    save_image(tmp_path / "grey.png", np.full((2, 2, 3), 188, np.uint8))  # half of all light
    extra = {"images": [{"uri": "grey.png"}], "textures": [{"source": 0}]}
    colors = np.array([[1, 0.5, 0]] * 3, np.float32)
    content = triangle({"TEXCOORD_0": UV, "COLOR_0": colors}, BY_TEXTURE, extra=extra)
    np.testing.assert_allclose(load_mesh(write(tmp_path / "a.glb", content)).colors[0], [[188, 137, 0]] * 3, atol=1)


def test_gltf_images_that_give_no_colour_may_be_missing_or_of_another_kind(tmp_path):
    save_image(tmp_path / "red.png", np.full((2, 2, 3), (255, 0, 0), np.uint8))
    write(tmp_path / "red.ktx2", "no image that Pillow knows")
    extra = {
        "images": [{"uri": name} for name in ("red.png", "red.ktx2", "gone.png")],
        "textures": [{"source": 0, "extensions": {"KHR_texture_basisu": {"source": 1}}}, {"source": 2}],
    }
    content = triangle({"TEXCOORD_0": UV}, BY_TEXTURE | {"normalTexture": {"index": 1}}, extra)
    assert (load_mesh(write(tmp_path / "a.glb", content)).colors == (255, 0, 0)).all()
    extra["images"][2]["uri"] = "../gone.png"
    shared = extra | {"images": [{"uri": "gone.png"}, {"uri": "red.ktx2"}, {"uri": "gone.png"}]}
    with pytest.raises(MeshError, match="'gone.png', which is missing"):
        load_mesh(write(tmp_path / "b.glb", triangle({"TEXCOORD_0": UV}, BY_TEXTURE, shared)))
    with pytest.raises(MeshError, match="outside the folder"):
        load_mesh(
            write(tmp_path / "a.glb", triangle({"TEXCOORD_0": UV}, BY_TEXTURE | {"normalTexture": {"index": 1}}, extra))
        )


def test_a_linked_mesh_finds_what_lies_beside_the_real_one(tmp_path):
    path = textured_quad(tmp_path / "real")
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "quad.obj").symlink_to(path)
    assert len(load_mesh(tmp_path / "some" / "quad.obj", tmp_path / "some").faces) > 1000


def png_bomb():
    """A PNG whose header declares 60000 x 60000 pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[16:24] = struct.pack(">II", 60000, 60000)
    import zlib

    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    return bytes(content)


BAD = {
    "empty.obj": (b"", "empty"),
    "comment.obj": (b"# nothing\n", "faces"),
    "points.obj": (b"v 0 0 0\nv 1 0 0\nv 0 1 0\n", "no faces"),
    "nan.obj": (b"v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "not finite"),
    "inf.obj": (b"v inf 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "not finite"),
    "huge.obj": (b"v 1e300 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "beyond 1e"),
    "index.obj": (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "index"),
    "zero.obj": (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 0 1 2\n", "index"),
    "index.off": (b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n", "ind"),
    "point.obj": (b"v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n", "area"),
    "line.obj": (b"v 0 0 0\nv 1 1 1\nv 2 2 2\nf 1 2 3\n", "area"),
    "page.obj": (b"<!DOCTYPE html>\n<html><body>Not found</body></html>\n", "faces"),
    "random.stl": (bytes(np.random.default_rng(0).integers(0, 256, 5000, np.uint8)), ""),
    "random.ply": (bytes(np.random.default_rng(1).integers(0, 256, 5000, np.uint8)), ""),
    "random.glb": (bytes(np.random.default_rng(2).integers(0, 256, 5000, np.uint8)), ""),
    "random.off": (bytes(np.random.default_rng(3).integers(0, 256, 5000, np.uint8)), ""),
    "cut.stl": (trimesh.creation.box().export(file_type="stl")[:200], ""),
    "bomb.ply": (
        b"ply\nformat binary_little_endian 1.0\nelement vertex 2000000000\nproperty float x\nproperty float y\n"
        b"property float z\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n", "2000000000",
    ),
    "bomb.gltf": (gltf([{"componentType": 5126, "count": 10**10, "type": "VEC3"}]), "declares"),
    "bomb.glb": (glb(gltf([{"componentType": 5126, "count": 10**10, "type": "VEC3"}])), "declares"),
    "image.glb": (
        glb(
            gltf(
                [], [{"buffer": 0, "byteOffset": 0, "byteLength": len(png_bomb())}],
                images=[{"bufferView": 0, "mimeType": "image/png"}],
            ), png_bomb(),
        ), "million pixels",
    ),
    "missing_mtl.obj": (("mtllib no.mtl\n" + QUAD + "f 1 2 3\n").encode(), "missing"),
    "escape.obj": (("mtllib ../../../../../../etc/passwd\n" + QUAD + "f 1 2 3\n").encode(), "outside"),
    "absolute.obj": (("mtllib /etc/passwd\n" + QUAD + "f 1 2 3\n").encode(), "outside"),
    "url.obj": (("mtllib http://example.com/a.mtl\n" + QUAD + "f 1 2 3\n").encode(), "missing"),
    "back.obj": (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf -1 -2 -9\n", "count back"),
    "materials.obj": (QUAD.encode() + b"".join(b"usemtl %d\nf 1 2 3\n" % i for i in range(5000)), "5000 materials"),
    "nested.gltf": (gltf([], nodes=[{"children": [i + 1]} for i in range(999)] + [{}]), "deep"),
    "circle.glb": (glb(gltf([], nodes=[{"mesh": 0, "children": [1]}, {"children": [0]}])), ""),
    "draco.glb": (glb(gltf([], extensionsRequired=["KHR_draco_mesh_compression"])), "requires KHR_draco"),
    "name.gltf": (gltf([], images=[{"uri": "a" * 5000}]), "no name of a file"),
    "device.gltf": (gltf([], images=[{"uri": "/dev/zero"}]), "outside"),
    "escape.gltf": (
        gltf([{"componentType": 5126, "count": 3, "type": "VEC3"}], images=[{"uri": "../../x.png"}]),
        "outside",
    ),
}  # fmt: skip


class TestBadMeshes:
    @pytest.mark.parametrize("name", BAD)
    def test_is_refused_with_a_reason(self, tmp_path, name):
        content, reason = BAD[name]
        path = write(tmp_path / "deep" / "down" / name, content)
        with pytest.raises(MeshError) as error:
            load_mesh(path)
        message = str(error.value)
        assert reason in message and message and "\n" not in message

    def test_missing_file(self, tmp_path):
        with pytest.raises(MeshError, match="missing"):
            load_mesh(tmp_path / "no.obj")

    def test_a_texture_in_other_letters(self, tmp_path):
        (tmp_path / "Textures").mkdir()
        path = textured_quad(tmp_path, "Textures/Wood.PNG")
        for name in ("textures/wood.png", "textures\\wood.png", "./Textures/wood.PNG"):
            (tmp_path / "quad.mtl").write_text(f"newmtl m\nmap_Kd {name}\n")
            assert len(load_mesh(path).faces) > 1000

    def test_missing_texture(self, tmp_path):
        path = textured_quad(tmp_path)
        (tmp_path / "texture.png").unlink()
        with pytest.raises(MeshError, match="'texture.png', which is missing"):
            load_mesh(path)

    @pytest.mark.parametrize("content, reason", [(b"<html>", "not an image"), (png_bomb(), "million pixels")])
    def test_bad_texture(self, tmp_path, content, reason):
        path = textured_quad(tmp_path)
        (tmp_path / "texture.png").write_bytes(content)
        with pytest.raises(MeshError, match=reason):
            load_mesh(path)

    def test_truncated_texture(self, tmp_path):
        rng = np.random.default_rng(0)
        path = textured_quad(tmp_path, pixels=rng.integers(0, 256, (64, 64, 3), np.uint8))
        texture = tmp_path / "texture.png"
        texture.write_bytes(texture.read_bytes()[:2000])
        with pytest.raises(MeshError, match="truncated"):
            load_mesh(path)

    def test_a_link_does_not_lead_out_of_the_folder(self, tmp_path):
        save_image(tmp_path / "secret.png", np.zeros((4, 4, 3), np.uint8))
        path = textured_quad(tmp_path / "meshes")
        (tmp_path / "meshes" / "texture.png").unlink()
        (tmp_path / "meshes" / "texture.png").symlink_to(tmp_path / "secret.png")
        with pytest.raises(MeshError, match="outside"):
            load_mesh(path)

    def test_a_mesh_that_a_link_leads_to_may_use_files_beside_it(self, tmp_path):
        textured_quad(tmp_path / "elsewhere" / "id")
        (tmp_path / "meshes").mkdir()
        (tmp_path / "meshes" / "id").symlink_to(tmp_path / "elsewhere" / "id")
        assert len(load_mesh(tmp_path / "meshes" / "id" / "quad.obj", tmp_path / "meshes").faces) > 1000

    def test_links_into_a_store_whose_names_are_hashes(self, tmp_path):
        """As git-annex and the Hugging Face hub keep files."""
        plain = textured_quad(tmp_path / "plain")
        (tmp_path / "store").mkdir()
        (tmp_path / "meshes").mkdir()
        for number, path in enumerate(sorted(plain.parent.iterdir())):
            kept = path.rename(tmp_path / "store" / f"{number:x}")
            (tmp_path / "meshes" / path.name).symlink_to(kept)
        assert len(load_mesh(tmp_path / "meshes" / plain.name, tmp_path / "meshes").faces) > 1000

    def test_a_link_to_a_mesh_beside_its_own_textures(self, tmp_path):
        path = textured_quad(tmp_path / "meshes")
        kept = path.rename(tmp_path / "quad.obj")
        path.symlink_to(kept)
        assert len(load_mesh(path, tmp_path / "meshes").faces) > 1000

    def test_too_many_faces(self, tmp_path, monkeypatch):
        monkeypatch.setattr(loading, "MAX_FACES", 10)
        CUBE.export(tmp_path / "box.ply")
        with pytest.raises(MeshError, match="12 faces"):
            load_mesh(tmp_path / "box.ply")

    def test_nothing_is_written(self, tmp_path):
        path = textured_quad(tmp_path)
        before = sorted(tmp_path.iterdir())
        load_mesh(path)
        assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    real_scandir = os.scandir

    def scandir(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return real_scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match="locked: cannot be listed .Permission denied.: make it readable"):
        discover(tmp_path)


def test_a_pipe_or_a_device_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.obj")
    (tmp_path / "endless.stl").symlink_to("/dev/zero")
    for source in discover(tmp_path):
        with pytest.raises(MeshError, match="is not a file"):
            load_mesh(source.path)
