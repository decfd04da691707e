"""Parametric chairs: dining, office, gaming, arm, cube, tub, shell, folding, garden, rocking chairs, stools.

Each function of `KINDS` samples one kind of `Chair`.
"""

from __future__ import annotations

import numpy as np

from render.mesh import Mesh
from render.shapes import paint
from render.shapes.chair_parts import KEYPOINTS, Arms, Back, Base, Chair, Finish, Seat, draw
from render.shapes.draws import chance, choice
from render.shapes.primitives import Builder

__all__ = ["KEYPOINTS", "build"]


def build(rng: np.random.Generator) -> Mesh:
    samplers, weights = zip(*KINDS)
    chair = samplers[rng.choice(len(samplers), p=np.array(weights) / sum(weights))](rng)
    builder = Builder(KEYPOINTS)
    draw(builder, chair, sample_finish(rng, chair))
    return builder.build(stretch=rng.uniform((0.9, 0.9, 0.92), (1.1, 1.1, 1.08)))


def _seat(rng: np.random.Generator, height: float | None = None, thick: float = 0.3) -> Seat:
    """A plain seat, upholstered with probability ``thick``."""
    u = rng.uniform
    upholstered = chance(rng, thick)
    thickness = u(0.05, 0.12) if upholstered else u(0.015, 0.04)
    return Seat(
        u(0.38, 0.52),
        u(0.36, 0.5),
        height or u(0.4, 0.5),
        thickness,
        kind=choice(rng, "plate", "plate", "plate", "dished"),
        rear_width=u(0.75, 1.02),
        corner=u(0.01, 0.17),
        oval=chance(rng, 0.12),
        crown=u(0.01, 0.05) if upholstered else 0.0,
        cushion=u(0.03, 0.07) if chance(rng, 0.15) else 0.0,
    )


def _back(rng: np.random.Generator, seat: Seat, kind: str) -> Back:
    u = rng.uniform
    bottom = seat.width * seat.rear_width * u(0.8, 1.0)
    height = u(0.28, 0.68)
    return Back(
        height,
        kind,
        width=bottom * u(0.8, 1.15),
        bottom_width=bottom,
        gap=choice(rng, 0.0, u(0.03, 0.4) * height),
        lean=u(0, 20),
        curve=choice(rng, 0.0, u(0.0, 0.08)),
        bow=choice(rng, 0.0, u(0, 0.04)),
        thickness=choice(rng, u(0.012, 0.03), u(0.03, 0.09)),
        corner=choice(rng, 0.05, u(0.05, 0.9)),
        arch=choice(rng, 0.0, 0.0, u(-0.03, 0.08)),
        infill=choice(rng, "ladder", "ladder", "slats", "slats", "splat", "cross", "panel", "panel", "rails"),
        number=int(rng.integers(2, 8)),
        post=u(0.01, 0.024),
        round_posts=chance(rng, 0.4),
        handle=chance(rng, 0.05),
        arm_height=choice(rng, 0.55, 0.55, 0.95),
    )


def _legs(rng: np.random.Generator) -> Base:
    u = rng.uniform
    return Base(
        "legs",
        leg=u(0.01, 0.028),
        round=chance(rng, 0.5),
        taper=choice(rng, 1.0, u(0.4, 1.0)),
        splay=choice(rng, 0.0, u(0, 0.09)),
        splay_rear=u(0, 0.1),
        bend=choice(rng, 0.0, 0.0, 0.0, u(-0.04, 0.05)),
        inset=u(0.015, 0.06),
        stretchers=choice(rng, "none", "none", "box", "h", "rung"),
        stretcher_height=u(0.15, 0.6),
        apron=choice(rng, 0.0, u(0.03, 0.09)),
    )


def _open_arms(
    rng: np.random.Generator, probability: float, kinds: tuple[str, ...] = ("post", "post", "loop", "sweep")
) -> Arms:
    u = rng.uniform
    if not chance(rng, probability):
        return Arms()
    return Arms(choice(rng, *kinds), u(0.15, 0.27), u(0.65, 1.0), u(0.03, 0.07), u(0.018, 0.04), u(0.0, 0.06))


# Kinds


def dining(rng: np.random.Generator) -> Chair:
    seat = _seat(rng)
    back = _back(rng, seat, choice(rng, "panel", "panel", "frame", "frame", "frame", "spindles", "hoop"))
    return Chair(seat, back, _legs(rng), _open_arms(rng, 0.3))


def modern(rng: np.random.Generator) -> Chair:
    """Panels on metal: sleds, cantilevers, rods, pedestals."""
    u = rng.uniform
    seat = _seat(rng, thick=0.4)
    seat.oval = False
    back = _back(rng, seat, choice(rng, "panel", "panel", "panel", "frame", "wrap", "double"))
    kind = choice(rng, "sled", "sled", "cantilever", "cantilever", "hairpin", "pedestal", "star", "sides", "legs")
    base = _legs(rng)
    base.kind, base.leg, base.round, base.radius, base.spokes = (
        kind,
        u(0.012, 0.022),
        True,
        u(0.2, 0.3),
        int(rng.integers(4, 6)),
    )
    arms = Arms() if back.kind == "wrap" else _open_arms(rng, 0.35, ("loop", "loop", "post", "panel"))
    return Chair(seat, back, base, arms)


def shell(rng: np.random.Generator) -> Chair:
    """Moulded plastic or plywood, with or without arms in one piece."""
    u = rng.uniform
    seat = Seat(u(0.4, 0.54), u(0.38, 0.48), u(0.38, 0.48), 0.03, "shell", rear_width=u(0.9, 1.0), corner=0.1)
    if chance(rng, 0.4):
        seat.cushion = u(0.03, 0.06)
        seat.corner = 0.15
    back = _back(rng, seat, "panel")
    back.height, back.lean, back.bow, back.thickness = u(0.3, 0.65), u(8, 24), u(0, 0.04), u(0.01, 0.025)
    back.corner = u(0.2, 1.0)
    if chance(rng, 0.25):
        back.thickness = u(0.04, 0.08)
    base = _legs(rng)
    base.kind = choice(rng, "legs", "legs", "legs", "hairpin", "pedestal", "star", "sled", "curl")
    base.leg, base.splay, base.splay_rear, base.inset = u(0.01, 0.02), u(0.02, 0.1), u(0.02, 0.1), u(0.06, 0.12)
    base.radius, base.taper, base.apron, base.castors = u(0.2, 0.28), choice(rng, 1.0, 0.6), 0.0, chance(rng, 0.3)
    base.spokes = int(rng.integers(4, 6))
    lift = u(0.12, 0.25) if chance(rng, 0.4) else 0.0
    return Chair(seat, back, base, Arms(), side_curl=u(0.01, 0.09), edge_lift=lift)


def office(rng: np.random.Generator) -> Chair:
    u = rng.uniform
    seat = _seat(rng, u(0.42, 0.56), 0.9)
    seat.oval, seat.cushion, seat.kind = False, 0.0, "plate"
    seat.rear_width, seat.corner = u(0.88, 1.0), u(0.06, 0.18)
    back = _back(rng, seat, choice(rng, "panel", "panel", "panel", "frame"))
    back.height, back.gap, back.corner, back.curve, back.bow = (
        u(0.35, 0.8),
        u(0.0, 0.2),
        u(0.1, 0.8),
        u(0.0, 0.07),
        u(0, 0.04),
    )
    back.number = choice(rng, 3, 3, 4)
    back.head_rest = back.height > 0.5 and chance(rng, 0.3)
    back.infill = "panel"
    base = Base(
        "star", u(0.018, 0.03), spokes=choice(rng, 5, 5, 5, 4, 6), castors=chance(rng, 0.85), radius=u(0.25, 0.35)
    )
    arms = _open_arms(rng, 0.7, ("tee", "tee", "loop"))
    arms.width, arms.spread = u(0.05, 0.09), u(0.02, 0.06)
    return Chair(seat, back, base, arms)


def gaming(rng: np.random.Generator) -> Chair:
    """Racing seats on castors: high winged backs, pillows at neck and loins."""
    u = rng.uniform
    chair = office(rng)
    seat, back = chair.seat, chair.back
    seat.thickness, seat.crown, seat.rear_width = u(0.08, 0.13), u(0.0, 0.04), u(0.85, 1.0)
    back.kind, back.height, back.gap, back.lean = "panel", u(0.65, 0.9), u(0.0, 0.06), u(4, 18)
    back.width, back.bottom_width = seat.width * u(0.7, 1.05), seat.width * u(0.75, 1.0)
    back.thickness, back.curve, back.corner = u(0.06, 0.12), u(0.0, 0.06), u(0.1, 0.5)
    back.wings, back.head_rest = u(0.04, 0.12), False
    back.pillows = choice(rng, (), (0.3,), (0.88,), (0.3, 0.88))
    chair.arms = _open_arms(rng, 0.9, ("tee", "tee", "tee", "loop"))
    chair.arms.width, chair.arms.spread = u(0.06, 0.1), u(0.02, 0.07)
    return chair


def cube(rng: np.random.Generator) -> Chair:
    """Upholstered arm chairs whose arms are as high as the back, or nearly."""
    u = rng.uniform
    seat = Seat(
        u(0.45, 0.65),
        u(0.48, 0.7),
        u(0.32, 0.45),
        u(0.1, 0.22),
        corner=u(0.01, 0.06),
        crown=u(0.0, 0.03),
        cushion=choice(rng, 0.0, u(0.05, 0.12)),
    )
    thickness = u(0.08, 0.2)
    height = seat.cushion + u(0.22, 0.4)
    back = Back(
        height,
        "panel",
        width=seat.width * u(0.98, 1.05),
        bottom_width=seat.width,
        gap=0.0,
        lean=u(0, 8),
        thickness=thickness,
        corner=choice(rng, 0.05, u(0.05, 0.3)),
        pillows=(0.6,) if chance(rng, 0.2) else (),
    )
    width = thickness * u(0.7, 1.2)
    arms = Arms(choice(rng, "panel", "panel", "roll"), height * u(0.75, 1.02), u(0.9, 1.02), width, 0.04, width / 2)
    base = Base(
        "block", u(0.015, 0.03), round=chance(rng, 0.5), taper=u(0.5, 1.0), inset=choice(rng, 0.01, u(0.02, 0.2))
    )
    if chance(rng, 0.3):
        base = _legs(rng)
        base.kind, base.stretchers = choice(rng, "legs", "legs", "sled", "sides"), "none"
    return Chair(seat, back, base, arms)


def club(rng: np.random.Generator) -> Chair:
    """Upholstered arm chairs: block bodies, thick cushions, rolled or square arms, sometimes wings."""
    u = rng.uniform
    seat = Seat(
        u(0.5, 0.75),
        u(0.5, 0.75),
        u(0.32, 0.45),
        u(0.1, 0.2),
        corner=u(0.01, 0.08),
        crown=u(0.0, 0.05),
        rear_width=u(0.9, 1.0),
    )
    back = Back(
        u(0.3, 0.75),
        "panel",
        width=seat.width * u(0.85, 1.2),
        bottom_width=seat.width * u(0.95, 1.1),
        gap=0.0,
        lean=u(3, 22),
        curve=u(0, 0.05),
        bow=u(0, 0.03),
        thickness=u(0.08, 0.22),
        corner=choice(rng, 0.05, u(0.05, 0.6)),
        arch=choice(rng, 0.0, u(0, 0.08)),
        wings=u(0.1, 0.22) if chance(rng, 0.25) else 0.0,
    )
    back.head_rest = chance(rng, 0.06)
    base = Base(
        "block", u(0.015, 0.03), round=chance(rng, 0.5), taper=u(0.5, 1.0), inset=choice(rng, 0.01, u(0.02, 0.2))
    )
    if chance(rng, 0.15):
        base = Base(choice(rng, "star", "pedestal"), 0.025, radius=u(0.28, 0.36), spokes=choice(rng, 4, 5))
    arms = Arms(
        choice(rng, "panel", "panel", "roll", "roll"), u(0.08, 0.28), u(0.8, 1.02), u(0.07, 0.2), 0.05, u(0.01, 0.08)
    )
    if chance(rng, 0.12):
        arms = Arms()
    return Chair(seat, back, base, arms, foot_rest=u(0.15, 0.4) if chance(rng, 0.08) else 0.0)


def tub(rng: np.random.Generator) -> Chair:
    """Round backs that run into the arms."""
    u = rng.uniform
    seat = Seat(
        u(0.44, 0.65),
        u(0.44, 0.6),
        u(0.36, 0.48),
        u(0.03, 0.14),
        oval=chance(rng, 0.6),
        corner=u(0.1, 0.2),
        crown=u(0, 0.03),
        cushion=choice(rng, 0.0, u(0.03, 0.07)),
    )
    back = _back(rng, seat, "wrap")
    back.height, back.lean, back.infill, back.thickness = (
        u(0.22, 0.5),
        u(0, 18),
        choice(rng, "panel", "panel", "spindles"),
        u(0.015, 0.1),
    )
    if chance(rng, 0.5):
        back.arm_height = u(0.05, 1.0)
    base = _legs(rng)
    if chance(rng, 0.5):
        base.kind, base.radius = choice(rng, "block", "star", "pedestal"), u(0.22, 0.3)
        base.spokes = choice(rng, 4, 5)
    return Chair(seat, back, base, Arms())


def folding(rng: np.random.Generator) -> Chair:
    u = rng.uniform
    seat = _seat(rng, thick=0.2)
    seat.kind, seat.slats, seat.oval, seat.rear_width = (
        choice(rng, "plate", "slats", "plate"),
        int(rng.integers(4, 10)),
        False,
        u(0.9, 1.0),
    )
    back = _back(rng, seat, choice(rng, "frame", "frame", "panel"))
    back.bottom_width = back.width = seat.width + 0.01
    back.curve, back.gap = u(0, 0.04), u(0.15, 0.6) * back.height
    base = Base("fold", u(0.01, 0.02), round=chance(rng, 0.6), splay_rear=u(0, 0.1))
    if chance(rng, 0.25):
        base.kind, base.bend = "curule", u(-0.05, 0.02)
    return Chair(seat, back, base, _open_arms(rng, 0.15, ("post",)))


def garden(rng: np.random.Generator) -> Chair:
    """Slatted wood, broad arms; also rocking chairs."""
    u = rng.uniform
    seat = Seat(
        u(0.46, 0.6),
        u(0.44, 0.56),
        u(0.36, 0.45),
        u(0.018, 0.03),
        "slats",
        rear_width=u(0.85, 1.0),
        slats=int(rng.integers(5, 11)),
    )
    back = _back(rng, seat, choice(rng, "frame", "frame", "spindles"))
    back.infill, back.number, back.lean, back.height = (
        choice(rng, "slats", "ladder"),
        int(rng.integers(3, 9)),
        u(5, 25),
        u(0.45, 0.75),
    )
    base = _legs(rng)
    base.bend, base.splay, base.rockers = 0.0, u(0, 0.03), chance(rng, 0.35)
    arms = _open_arms(rng, 0.85, ("post",))
    arms.width = u(0.05, 0.11)
    return Chair(seat, back, base, arms)


def rocking(rng: np.random.Generator) -> Chair:
    chair = dining(rng)
    chair.base.rockers, chair.base.bend = True, 0.0
    return chair


def lounge(rng: np.random.Generator) -> Chair:
    """Low, leaning back, on sleds or thin legs."""
    u = rng.uniform
    seat = Seat(u(0.5, 0.65), u(0.5, 0.62), u(0.3, 0.4), u(0.04, 0.14), corner=u(0.01, 0.1), crown=u(0, 0.03))
    back = _back(rng, seat, choice(rng, "panel", "panel", "frame", "double"))
    back.width = back.bottom_width = seat.width * u(0.9, 1.0)
    back.gap, back.height, back.lean, back.thickness = 0.0, u(0.4, 0.7), u(15, 35), u(0.02, 0.12)
    base = _legs(rng)
    base.kind, base.apron = choice(rng, "legs", "legs", "sled", "cantilever", "star"), 0.0
    base.splay, base.splay_rear = u(0, 0.1), u(0, 0.12)
    return Chair(seat, back, base, _open_arms(rng, 0.75, ("post", "loop", "sweep", "panel")))


def bar_stool(rng: np.random.Generator) -> Chair:
    u = rng.uniform
    seat = _seat(rng, u(0.6, 0.85), 0.4)
    seat.width *= 0.88
    seat.depth *= 0.88
    back = _back(rng, seat, choice(rng, "panel", "panel", "frame", "spindles", "wrap"))
    back.height = u(0.12, 0.45)
    base = _legs(rng)
    base.stretchers, base.stretcher_height, base.splay, base.splay_rear = (
        choice(rng, "box", "box", "rung", "none"),
        u(0.2, 0.4),
        u(0, 0.08),
        u(0, 0.08),
    )
    base.foot_ring = chance(rng, 0.35)
    if chance(rng, 0.4):
        base.kind, base.radius, base.foot_ring = (
            choice(rng, "pedestal", "pedestal", "star", "sled"),
            u(0.19, 0.26),
            True,
        )
    return Chair(seat, back, base, Arms())


def stool(rng: np.random.Generator) -> Chair:
    chair = bar_stool(rng) if chance(rng, 0.5) else dining(rng)
    chair.back, chair.arms, chair.base.kind = Back(0.3, "none"), Arms(), choice(rng, chair.base.kind, "legs")
    chair.seat.oval = chance(rng, 0.4)
    return chair


def floor_chair(rng: np.random.Generator) -> Chair:
    u = rng.uniform
    chair = shell(rng) if chance(rng, 0.4) else dining(rng)
    chair.seat.height, chair.seat.thickness, chair.base, chair.arms = u(0.05, 0.1), u(0.03, 0.05), Base("none"), Arms()
    return chair


KINDS = (
    (dining, 26),
    (modern, 14),
    (shell, 12),
    (office, 12),
    (gaming, 4),
    (club, 13),
    (cube, 4),
    (tub, 9),
    (folding, 5),
    (garden, 5),
    (rocking, 2),
    (lounge, 6),
    (bar_stool, 7),
    (stool, 2),
    (floor_chair, 1),
)


# Finishes


def sample_finish(rng: np.random.Generator, chair: Chair) -> Finish:
    frame = choice(rng, paint.wood, paint.wood, paint.metal, paint.metal, paint.gray, paint.any_color)(rng)
    cover = choice(rng, paint.any_color, paint.any_color, paint.muted, paint.gray, paint.wood)(rng)
    style = rng.random()
    if style < 0.2:
        cover = frame
    back = cover if chance(rng, 0.75) else choice(rng, frame, paint.any_color(rng))
    arms = (
        choice(rng, frame, frame, cover)
        if chair.arms.kind not in ("panel", "roll")
        else choice(rng, cover, back, back, frame)
    )
    accent = choice(rng, paint.any_color(rng), cover, frame, paint.gray(rng))
    if 0.2 < style < 0.3:
        frame, cover, back, arms = (paint.any_color(rng) for _ in range(4))
    pattern = cover
    if chance(rng, 0.08):
        width = rng.uniform(0.2, 0.6)
        pattern = paint.bands(
            cover, paint.any_color(rng), int(rng.integers(0, 3)), -width, width, int(rng.integers(3, 8))
        )
    castor = paint.gray(rng, 15, 60)
    wings = choice(rng, back, back, accent)
    if 0.3 < style < 0.36:  # without materials
        return Finish(*(cover,) * 7)
    return Finish(frame, pattern, pattern if back is cover else back, arms, accent, castor, wings)
