"""Parametric chairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from render.mesh import Mesh
from render.shapes import paint
from render.shapes.primitives import Builder, beam, box, extrude, pairs, rounded_rectangle, sheet, tube

KEYPOINTS = (
    "back_top_center",
    *pairs("seat_front", "seat_rear", "back_top", "back_bottom", "front_foot", "rear_foot", "arm_front"),
)  # fmt: skip


@dataclass
class Chair:
    """Lengths in metres. z < 0 is where the knees are."""

    width: float
    depth: float
    seat: float
    thickness: float
    height: float
    recline: float
    leg: float
    splay: float
    arms: bool


def sample(rng: np.random.Generator) -> Chair:
    u = rng.uniform
    return Chair(u(0.38, 0.55), u(0.38, 0.5), u(0.4, 0.5), u(0.02, 0.1), u(0.75, 1.1), u(0, 18), u(0.012, 0.03), u(0, 0.1), rng.random() < 0.35)


def build(rng: np.random.Generator) -> Mesh:
    c = sample(rng)
    b = Builder(KEYPOINTS)
    frame = paint.wood(rng) if rng.random() < 0.5 else paint.metal(rng)
    cover = paint.any_color(rng) if rng.random() < 0.6 else frame
    w, d = c.width / 2, c.depth / 2
    b.add(extrude(rounded_rectangle(c.width, c.depth, rng.uniform(0.01, 0.15)), c.seat - c.thickness, c.seat, 0.4 * c.thickness), cover)
    lean = np.tan(np.radians(c.recline))
    rise = c.height - c.seat
    v, u = np.meshgrid(np.linspace(rng.uniform(0.05, 0.4), 1, 10), np.linspace(-1, 1, 10), indexing="ij")
    points = np.stack([u * w, c.seat + v * rise, d + v * rise * lean - 0.02], -1)
    b.add(sheet(points, 0.03), cover)
    b.mark("back_top_center", [0, c.height, d + rise * lean - 0.02])
    b.mark_pair("back_top", [w, c.height, d + rise * lean - 0.02])
    b.mark_pair("back_bottom", points[0, -1])
    for name, z in (("front", -d + 0.04), ("rear", d - 0.04)):
        top, foot = [w - 0.04, c.seat - 0.01, z], [w - 0.04 + c.splay, 0, z + np.sign(z) * c.splay]
        b.add_pair(tube([top, foot], c.leg), frame)
        b.mark_pair(f"{name}_foot", foot)
        b.mark_pair(f"seat_{name}", [w, c.seat, -d if name == "front" else d])
    b.add_pair(beam([w - 0.03, c.seat, d - 0.02], points[0, -1], 0.03, 0.03), frame)
    if c.arms:
        y = c.seat + 0.2
        b.add_pair(tube([[w, y, d], [w, y, -d + 0.1], [w, c.seat, -d + 0.1]], 0.018), frame)
        b.mark_pair("arm_front", [w, y, -d + 0.1])
    return b.build()
