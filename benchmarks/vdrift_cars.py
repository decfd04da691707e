"""Cars of the racing game VDrift as meshes in ShapeNet's layout: 47 that no training saw.

    git clone https://github.com/vtereshkov/vdrift-data-short
    python benchmarks/vdrift_cars.py vdrift-data-short/data vdrift
    python cli.py render elsewhere --meshes vdrift --pairs-per-model 40 --splits 0,0,1 --seed 5
    python cli.py eval car elsewhere

A car is its body, interior, glass and rims (JOE files: +x right, +y front, +z up) and tyres of the size
that its .car file says.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import click
import numpy as np
import trimesh
from PIL import Image

PAINTS = [
    (190, 190, 195), (235, 235, 235), (25, 25, 28), (170, 20, 20), (30, 50, 120),
    (20, 70, 40), (220, 180, 30), (110, 115, 120), (90, 20, 25), (120, 150, 190),
]  # fmt: skip
GLASS, METAL, RUBBER = (35, 40, 45), (60, 60, 60), (15, 15, 15)


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(data: Path, out: Path) -> None:
    """Convert the cars of DATA, the game's folder of that name, to OUT/<car>/models/model_normalized.obj."""
    cars = [car for car in sorted((data / "cars").glob("*/*.car")) if car.stem == car.parent.name]  # no variants
    if not cars:
        raise click.ClickException(f"{data}: no cars/X/X.car in it: give the folder `data` of VDrift's data")
    for car in cars:
        write_obj(out / car.stem / "models", parts_of(car, data / "carparts"))
    click.echo(f"{out}: {len(cars)} cars")


def read_joe(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (V, 3), texture coordinates (T, 2), and faces (F, 2, 3): indices into both."""
    content = path.read_bytes()
    n_faces = int.from_bytes(content[8:12], "little")
    faces = np.frombuffer(content, "<u2", 9 * n_faces, 16).reshape(n_faces, 3, 3)  # of vertices, normals, coordinates
    start = 16 + faces.nbytes
    n_vertices, n_coordinates, n_normals = np.frombuffer(content, "<i4", 3, start)
    values = np.frombuffer(content, "<f4", offset=start + 12)
    vertices, coordinates = values[: 3 * n_vertices], values[3 * (n_vertices + n_normals) :][: 2 * n_coordinates]
    return vertices.reshape(-1, 3).copy(), coordinates.reshape(-1, 2), faces[:, [0, 2]].astype(int)


def read_settings(path: Path) -> dict[str, dict[str, str]]:
    """The sections of a .car file."""
    sections: dict[str, dict[str, str]] = {"": {}}
    section = sections[""]
    for line in path.read_text(errors="replace").splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif "=" in line:
            key, value = line.split("=", 1)
            section[key.strip()] = value.strip()
    return sections


def numbers(text: str) -> np.ndarray:
    return np.array([float(number) for number in text.split(",")])


def parts_of(car: Path, common: Path) -> list[tuple]:
    """(vertices, coordinates, faces, texture or None, color below it) of each part, in the game's frame."""

    def find(names: str) -> Path | None:
        name = names.split(",")[0].strip()
        return next((folder / name for folder in (car.parent, common) if (folder / name).exists()), None)

    settings = read_settings(car)
    paint = PAINTS[int(hashlib.sha1(car.stem.encode()).hexdigest(), 16) % len(PAINTS)]
    parts = []
    for name, texture, color in (
        ("body", "body00.png", paint),
        ("interior", "interior.png", METAL),
        ("glass", "glass.png", GLASS),
    ):
        section = settings.get(name, {})
        if mesh := find(section.get("mesh", f"{name}.joe")):
            vertices, coordinates, faces = read_joe(mesh)
            at = vertices + numbers(section.get("position", "0,0,0"))
            parts.append((at, coordinates, faces, find(section.get("texture", texture)), color))
    for name in ("fl", "fr", "rl", "rr"):
        section = settings.get(f"wheel.{name}", {})
        if "position" not in section:
            continue
        position = numbers(section["position"])
        width, aspect, rim = numbers(settings.get(f"wheel.{name}.tire", {}).get("size", "200,50,16"))  # mm, %, inch
        rim_radius, width = rim * 0.0254 / 2, width / 1000
        vertices, faces = tire(rim_radius, rim_radius + width * aspect / 100, width)
        parts.append((vertices + position, np.zeros((1, 2)), faces, None, RUBBER))
        if mesh := find(section.get("mesh", "oem_wheel.joe")):
            vertices, coordinates, faces = read_joe(mesh)
            vertices *= 1.02 * rim_radius / np.abs(vertices[:, 1:]).max()
            if name.endswith("r"):
                vertices[:, 0] *= -1
                faces = faces[..., ::-1]
            texture = find(section.get("texture", "oem_wheel.png"))
            parts.append((vertices + position, coordinates, faces, texture, METAL))
    return parts


def tire(rim_radius: float, radius: float, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) and faces (F, 2, 3) of a tyre about the x axis."""
    inside = rim_radius / radius
    profile = np.array([(inside, -0.5), (0.93, -0.5), (1, -0.35), (1, 0.35), (0.93, 0.5), (inside, 0.5)])
    mesh = trimesh.creation.revolve(profile * [radius, width], sections=32)
    return mesh.vertices[:, [2, 0, 1]], np.stack([mesh.faces, np.zeros_like(mesh.faces)], axis=1)


def write_obj(folder: Path, parts: list[tuple]) -> None:
    """Turned to +x right, +y up, -z front. A texture's alpha says where the paint shows, or how clear the glass is."""
    folder.mkdir(parents=True, exist_ok=True)
    lines, materials = ["mtllib model_normalized.mtl"], []
    n_vertices = n_coordinates = 1
    for number, (vertices, coordinates, faces, texture, color) in enumerate(parts):
        materials.append(f"newmtl m{number}")
        if texture:
            image = Image.open(texture).convert("RGBA")
            below = Image.new("RGBA", image.size, (*color, 255))
            Image.alpha_composite(below, image).convert("RGB").save(folder / f"m{number}.png")
            materials += ["Kd 1 1 1", f"map_Kd m{number}.png"]
        else:
            materials.append("Kd " + " ".join(f"{channel / 255:.2f}" for channel in color))
        lines.append(f"usemtl m{number}")
        lines += [f"v {x:.5f} {z:.5f} {-y:.5f}" for x, y, z in vertices]
        lines += [f"vt {u:.5f} {1 - v:.5f}" for u, v in coordinates]
        for corners, at in faces + [[n_vertices], [n_coordinates]]:
            lines.append("f " + " ".join(f"{a}/{b}" for a, b in zip(corners, at)))
        n_vertices, n_coordinates = n_vertices + len(vertices), n_coordinates + len(coordinates)
    (folder / "model_normalized.obj").write_text("\n".join(lines) + "\n")
    (folder / "model_normalized.mtl").write_text("\n".join(materials) + "\n")


if __name__ == "__main__":
    main()
