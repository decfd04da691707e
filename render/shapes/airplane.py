"""Parametric aeroplanes: gliders, light aircraft, biplanes, airliners, transports, bombers, jet fighters, models.

Each function of `KINDS` samples one kind of `Airplane`; a share of the models mixes two kinds, which makes aeroplanes
that nobody built but that fly in the same space of shapes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from render.mesh import Mesh
from render.shapes import paint
from render.shapes.airplane_parts import KEYPOINTS, Airplane, Engine, Fuselage, Gear, Livery, Tail, Wing, draw, plain
from render.shapes.draws import chance, choice
from render.shapes.primitives import Builder

__all__ = ["KEYPOINTS", "build"]

MIXED_SHARE = 0.15
STUBBY_SHARE = 0.05


def build(rng: np.random.Generator) -> Mesh:
    names, weights = list(KINDS), np.array([weight for _, weight in KINDS.values()], float)
    first, second = rng.choice(names, 2, p=weights / weights.sum())
    plane = KINDS[first][0](rng)
    if rng.random() < MIXED_SHARE:
        plane = mixed(rng, plane, KINDS[second][0](rng))
    if rng.random() < STUBBY_SHARE:
        plane = stubby(rng, plane)
    builder = Builder(KEYPOINTS)
    draw(builder, plane, sample_livery(rng, plane))
    return builder.build(stretch=rng.uniform((0.9, 0.85, 0.93), (1.1, 1.15, 1.07)))


def mixed(rng: np.random.Generator, plane: Airplane, other: Airplane) -> Airplane:
    """``plane`` with the tail, the wing or the section of another kind."""
    if rng.random() < 0.5 and "boom" not in (plane.tail.kind, other.tail.kind) and "none" != other.tail.kind:
        plane = replace(plane, tail=other.tail)
    if rng.random() < 0.6:
        wing = replace(other.wing, chord=0.5 * (plane.wing.chord + other.wing.chord))
        plane = replace(plane, wing=wing, wing_height=other.wing_height if plane.gear is None else plane.wing_height)
    body = replace(plane.fuselage, roundness=other.fuselage.roundness, tail_rise=other.fuselage.tail_rise)
    return replace(plane, fuselage=body)


def stubby(rng: np.random.Generator, plane: Airplane) -> Airplane:
    """Fatter and shorter, like toys and drawings."""
    u = rng.uniform
    fat, body = u(1.2, 1.7), plane.fuselage
    wing = replace(plane.wing, span=plane.wing.span * u(0.7, 1.0), chord=plane.wing.chord * u(1.0, 1.3))
    return replace(plane, fuselage=replace(body, width=fat * body.width, height=fat * body.height), wing=wing)


# Pieces that several kinds share


def _swept_tail(rng: np.random.Generator, kind: str, size: float = 1.0, height: float = 0.2) -> Tail:
    """Tail of a jet."""
    u = rng.uniform
    fin = Wing(
        span=size * u(0.15, 0.21),
        chord=size * u(0.13, 0.2),
        taper=u(0.3, 0.7 if kind == "t" else 0.5),
        sweep=u(28, 48),
        thickness=0.1,
    )
    plane = Wing(
        span=size * u(0.14, 0.21),
        chord=size * u(0.09, 0.13),
        taper=u(0.3, 0.6),
        sweep=u(18, 40),
        dihedral=u(-4, 4) if kind == "t" else u(0, 9),
        thickness=0.09,
    )
    fillet = u(0.08, 0.2) if chance(rng, 0.4) else 0.0
    return Tail(kind, fin, plane, position=u(0.93, 0.99), height=height, fillet=fillet)


def _straight_tail(rng: np.random.Generator, kind: str = "low", size: float = 1.0) -> Tail:
    """Tail of a propeller aeroplane."""
    u = rng.uniform
    round_tip = u(0.2, 0.6) if chance(rng, 0.6) else 0.0
    fin = Wing(size * u(0.13, 0.2), size * u(0.13, 0.22), u(0.35, 0.8), u(5, 42), round_tip=round_tip)
    plane = Wing(size * u(0.16, 0.25), size * u(0.11, 0.17), u(0.5, 1.0), u(0, 16), u(0, 5), round_tip=0.7 * round_tip)
    fillet = u(0.1, 0.2) if chance(rng, 0.3) else 0.0
    return Tail(kind, fin, plane, position=u(0.96, 1.02), height=u(0, 0.6), fillet=fillet)


def _jet_wing(rng: np.random.Generator, span: tuple[float, float] = (0.4, 0.56)) -> Wing:
    u = rng.uniform
    wing = Wing(
        span=u(*span),
        chord=u(0.1, 0.16),
        taper=u(0.25, 0.5),
        sweep=u(18, 38),
        dihedral=u(2, 8),
        thickness=u(0.1, 0.13),
        kink=(u(0.28, 0.42), u(0.2, 0.6), u(0.0, 0.5)),
    )
    if chance(rng, 0.4):
        wing.winglet, wing.winglet_cant = u(0.06, 0.18), u(40, 88)
    return wing


def _straight_wing(rng: np.random.Generator, span: tuple[float, float], aspect: tuple[float, float]) -> Wing:
    """Aspect is of the half wing: half span over root chord."""
    u = rng.uniform
    half = u(*span)
    wing = Wing(half, half / u(*aspect), u(0.4, 1.0), u(-2, 7), u(0, 7), u(0.11, 0.16))
    shape = rng.random()
    if shape < 0.15:
        wing.elliptic = True
    elif shape < 0.6:
        wing.round_tip = u(0.03, 0.2)
    if chance(rng, 0.2):
        wing.kink = (u(0.3, 0.6), u(0.1, 0.3), u(0.2, 0.9))
    if chance(rng, 0.2):
        wing.bend = (u(0.25, 0.6), u(-3, 1))
    return wing


def _fixed_gear(rng: np.random.Generator, kind: str | None = None, track: float = 0.12) -> Gear:
    u = rng.uniform
    kind = kind or choice(rng, "tricycle", "tricycle", "taildragger", "taildragger", "taildragger")
    main = u(0.4, 0.5) if kind == "tricycle" else u(0.22, 0.3)
    return Gear(kind, u(0.024, 0.045), u(0.06, 0.12), track * u(0.8, 1.2), main, spats=chance(rng, 0.35))


def _wing_engines(
    rng: np.random.Generator, shares: list[float], kind: str, radius: float, length: float, low: float
) -> list[Engine]:
    """Equal engines at shares of the half span; ``low`` is their height in radii."""
    u = rng.uniform
    blades, propeller = int(rng.integers(2, 7)), radius * u(2.2, 3.4)
    ahead = u(0.35, 0.7)
    return [Engine(kind, "wing", (share, low, ahead), radius, length, blades, propeller) for share in shares]


# Kinds


def airliner(rng: np.random.Generator) -> Airplane:
    u = rng.uniform
    d = u(0.075, 0.15)
    shares = [u(0.28, 0.38), u(0.55, 0.68)][: 1 if chance(rng, 0.7) else 2]
    radius = d * u(0.2, 0.36) / len(shares) ** 0.3
    plane = Airplane(
        kind="airliner",
        fuselage=Fuselage(
            d,
            d * u(0.95, 1.15),
            nose=u(0.08, 0.17),
            nose_sharpness=u(0.42, 0.62),
            nose_droop=u(0.0, 0.5),
            tail=u(0.28, 0.42),
            tail_fullness=u(1.2, 1.8),
            tail_end=u(0.06, 0.15),
            tail_rise=u(0.5, 1.0),
        ),
        wing=_jet_wing(rng),
        wing_position=u(0.3, 0.4),
        wing_height=u(-1.0, -0.6),
        tail=_swept_tail(rng, "low"),
        engines=_wing_engines(rng, shares, "fan", radius, radius * u(2.6, 3.8), u(-1.6, -0.9)),
        cockpit_at=(u(0.02, 0.03), u(0.038, 0.05)),
        cabin_windows=(int(rng.integers(14, 30)), u(0.1, 0.18), u(0.72, 0.82)) if chance(rng, 0.75) else None,
    )
    if chance(rng, 0.12):
        plane.engines.append(Engine("fan", "fin", (0.86, u(0.6, 1.6), 0), radius, 0.14))
    if chance(rng, 0.4):
        plane.gear = Gear("tricycle", 0.016, u(0.03, 0.06), u(0.06, 0.09), u(0.46, 0.52), on_wing=True, bogie=2)
    return plane


def rear_jet(rng: np.random.Generator) -> Airplane:
    """Engines at the rear, mostly with a T-tail: business jets, short-haul jets."""
    u = rng.uniform
    d = u(0.08, 0.14)
    radius = d * u(0.22, 0.36)
    engine = Engine("fan", "body", (u(0.66, 0.78), u(5, 40), u(0.05, 0.5)), radius, radius * u(3, 5))
    plane = Airplane(
        kind="airliner",
        fuselage=Fuselage(
            d,
            d * u(0.95, 1.15),
            nose=u(0.12, 0.22),
            nose_sharpness=u(0.45, 0.75),
            nose_droop=u(0.1, 0.6),
            tail=u(0.3, 0.42),
            tail_fullness=u(1.3, 2),
            tail_end=u(0.06, 0.15),
            tail_rise=u(0.3, 1.0),
        ),
        wing=_jet_wing(rng, (0.36, 0.55)),
        wing_position=u(0.38, 0.48),
        wing_height=u(-1, -0.7),
        tail=_swept_tail(rng, choice(rng, "t", "t", "t", "cross")),
        engines=[engine],
        cockpit_at=(u(0.03, 0.06), u(0.07, 0.1)),
        cabin_windows=(int(rng.integers(4, 22)), u(0.16, 0.22), u(0.55, 0.66)) if chance(rng, 0.8) else None,
    )
    if chance(rng, 0.25):
        plane.engines.append(Engine("fan", "fin", (0.74, u(0.4, 0.8), 0), radius, 0.22))
    if chance(rng, 0.15):
        plane.tip_load = "tank"
    if chance(rng, 0.3):
        plane.gear = Gear("tricycle", 0.018, u(0.03, 0.05), u(0.05, 0.08), u(0.5, 0.57), on_wing=True, bogie=2)
    return plane


def high_wing_transport(rng: np.random.Generator) -> Airplane:
    """Regional and military transports with the wing on top, propellers or fans."""
    u = rng.uniform
    d = u(0.09, 0.16)
    wing = _straight_wing(rng, (0.45, 0.66), (3.6, 6)) if chance(rng, 0.7) else _jet_wing(rng)
    wing.dihedral = u(-5, 3)
    shares = [u(0.25, 0.34), u(0.5, 0.62)][: 1 if chance(rng, 0.5) else 2]
    fans = chance(rng, 0.35)
    radius = d * (u(0.2, 0.32) if fans else u(0.15, 0.22))
    length = radius * (u(2.6, 3.6) if fans else u(5, 9))
    plane = Airplane(
        kind=choice(rng, "airliner", "military"),
        fuselage=Fuselage(
            d,
            d * u(0.95, 1.2),
            nose=u(0.1, 0.18),
            nose_sharpness=u(0.4, 0.6),
            nose_droop=u(0.2, 0.7),
            tail=u(0.35, 0.5),
            tail_fullness=u(1.1, 1.6),
            tail_end=u(0.05, 0.2),
            tail_rise=u(0.8, 1.1),
            roundness=u(2, 3.5),
        ),
        wing=wing,
        wing_position=u(0.32, 0.42),
        wing_height=1.0,
        tail=_swept_tail(rng, choice(rng, "t", "t", "low", "cross"), u(1.0, 1.3), 0.5),
        engines=_wing_engines(
            rng, shares, "fan" if fans else "prop", radius, length, u(-1.5, -1.0) if fans else u(-0.6, 0.1)
        ),
        cockpit_at=(u(0.02, 0.04), u(0.05, 0.07)),
        sponsons=chance(rng, 0.6),
        cabin_windows=(int(rng.integers(6, 22)), u(0.14, 0.2), u(0.65, 0.78)) if chance(rng, 0.7) else None,
    )
    if chance(rng, 0.3):
        plane.gear = Gear("tricycle", 0.02, u(0.015, 0.03), 0.55 * d, u(0.45, 0.52), bogie=2)
    return plane


def twin_propeller(rng: np.random.Generator) -> Airplane:
    """Low-wing light twins, turboprops and the piston airliners and bombers of old, with two or four engines."""
    u = rng.uniform
    d = u(0.09, 0.16)
    four = chance(rng, 0.25)
    shares = [u(0.24, 0.32), u(0.48, 0.58)] if four else [u(0.24, 0.36)]
    radius = d * u(0.2, 0.3) * (0.8 if four else 1)
    tail = (
        _swept_tail(rng, choice(rng, "low", "t"))
        if chance(rng, 0.3)
        else _straight_tail(rng, choice(rng, "low", "low", "low", "h"))
    )
    plane = Airplane(
        kind=choice(rng, "airliner", "civil", "civil", "military"),
        fuselage=Fuselage(
            d,
            d * u(0.95, 1.25),
            nose=u(0.15, 0.35),
            nose_sharpness=u(0.35, 0.8),
            nose_droop=u(0.1, 0.8),
            tail=u(0.4, 0.6),
            tail_fullness=u(1.2, 1.8),
            tail_end=u(0.05, 0.2),
            tail_rise=u(0.3, 1.0),
            roundness=u(2, 3),
        ),
        wing=_straight_wing(rng, (0.48, 0.72), (3.0, 5.0)),
        wing_position=u(0.28, 0.38),
        wing_height=choice(rng, -0.9, -0.9, -0.8, 0.0),
        tail=tail,
        engines=_wing_engines(rng, shares, "prop", radius, radius * u(4, 8), u(-0.4, 0.4)),
        cockpit_at=(u(0.1, 0.16), u(0.17, 0.22)),
        cockpit=choice(rng, "windscreen", "flush", "windscreen"),
        cabin_windows=(int(rng.integers(3, 10)), u(0.24, 0.3), u(0.45, 0.65)) if chance(rng, 0.7) else None,
        tip_load="tank" if chance(rng, 0.2) else None,
    )
    if chance(rng, 0.5):
        kind = choice(rng, "tricycle", "tricycle", "taildragger")
        main = plane.wing_position + (0.13 if kind == "tricycle" else 0.02)
        plane.gear = Gear(kind, u(0.02, 0.03), u(0.04, 0.07), shares[0] * plane.wing.span, main, on_wing=True)
    return plane


def light(rng: np.random.Generator) -> Airplane:
    """Single-engine touring and bush aeroplanes with a cabin, high or low wing."""
    u = rng.uniform
    d = u(0.12, 0.18)
    high = chance(rng, 0.5)
    cabin = (u(0.16, 0.24), u(0.55, 0.75))
    wing = _straight_wing(rng, (0.5, 0.78), (2.5, 4.5))
    wing_position = u(0.2, 0.3)
    plane = Airplane(
        kind="civil",
        fuselage=Fuselage(
            d,
            d * u(0.85, 1.15),
            nose=u(0.15, 0.3),
            nose_sharpness=u(0.3, 0.6),
            nose_start=u(0.2, 0.45),
            nose_droop=u(-0.2, 0.4),
            tail=u(0.5, 0.68),
            tail_fullness=u(1, 1.6),
            tail_slimness=u(0.9, 1.3),
            tail_end=u(0.08, 0.25),
            tail_rise=u(0.0, 0.9),
            roundness=u(2.2, 4),
            hump=(*cabin, d * u(0.25, 0.5)),
        ),
        wing=wing,
        wing_position=wing_position,
        wing_height=1.0 if high else -0.95,
        tail=_straight_tail(rng, choice(rng, "low", "low", "low", "low", "t", "cross", "v")),
        nose="propeller",
        nose_blades=int(rng.integers(2, 5)),
        nose_propeller=u(0.1, 0.15),
        cockpit="cabin",
        cockpit_at=(cabin[0] + 0.02, u(0.42, 0.55)),
        wing_struts=high and chance(rng, 0.7),
        gear=_fixed_gear(rng) if chance(rng, 0.85) else None,
    )
    if plane.tail.kind == "v":
        plane.tail.plane.dihedral = u(32, 45)
    if high and chance(rng, 0.15):
        plane.gear = Gear("floats", u(0.05, 0.07), u(0.09, 0.13), u(0.13, 0.18), 0.4)
    return plane


def warbird(rng: np.random.Generator) -> Airplane:
    """Piston fighters, trainers and aerobatic aeroplanes: low wing, one engine, bubble canopy."""
    u = rng.uniform
    d = u(0.1, 0.15)
    radial = chance(rng, 0.45)
    wing = _straight_wing(rng, (0.45, 0.62), (2.0, 3.2))
    wing.elliptic = wing.elliptic or chance(rng, 0.25)
    if chance(rng, 0.1):
        wing.bend = (u(0.25, 0.35), u(-14, -8))
    start = u(0.28, 0.4)
    plane = Airplane(
        kind=choice(rng, "military", "military", "sport"),
        fuselage=Fuselage(
            d * u(0.8, 1.0),
            d * u(1.0, 1.3),
            nose=u(0.2, 0.4),
            nose_sharpness=u(0.3, 0.6),
            nose_start=u(0.75, 0.95) if radial else u(0.2, 0.45),
            nose_droop=u(-0.1, 0.4),
            tail=u(0.5, 0.68),
            tail_fullness=u(1.1, 1.7),
            tail_end=u(0.05, 0.2),
            tail_rise=u(0.1, 0.8),
            roundness=u(2, 2.8),
        ),
        wing=wing,
        wing_position=u(0.2, 0.3),
        wing_height=choice(rng, -0.9, -0.9, -0.8, 0.0),
        tail=_straight_tail(rng),
        nose="radial" if radial else "propeller",
        nose_blades=int(rng.integers(2, 6)),
        nose_propeller=u(0.13, 0.19),
        cockpit="bubble",
        cockpit_at=(start, start + u(0.14, 0.32)),
        cockpit_height=d * u(0.15, 0.35),
        gear=_fixed_gear(rng, "taildragger", 0.17) if chance(rng, 0.45) else None,
    )
    if chance(rng, 0.25):
        plane.stores = [(choice(rng, "bomb", "tank"), u(0.25, 0.45))]
    return plane


def biplane(rng: np.random.Generator) -> Airplane:
    u = rng.uniform
    d = u(0.1, 0.15)
    wing = _straight_wing(rng, (0.48, 0.72), (2.6, 4.2))
    wing.taper, wing.kink, wing.elliptic, wing.thickness = u(0.85, 1.0), None, False, 0.08
    start = u(0.3, 0.42)
    radial = chance(rng, 0.5)
    return Airplane(
        kind=choice(rng, "sport", "military", "civil"),
        fuselage=Fuselage(
            d * u(0.85, 1.0),
            d * u(1.0, 1.3),
            nose=u(0.15, 0.3),
            nose_sharpness=u(0.3, 0.5),
            nose_start=u(0.75, 0.95) if radial else u(0.3, 0.6),
            nose_droop=u(0, 0.3),
            tail=u(0.5, 0.68),
            tail_fullness=u(1.0, 1.5),
            tail_end=u(0.06, 0.2),
            tail_rise=u(0.2, 0.9),
            roundness=u(2, 4),
        ),
        wing=wing,
        wing_position=u(0.17, 0.25),
        wing_height=-0.9,
        lower_wing=(d * u(1.1, 1.7), u(-0.02, 0.08)),
        tail=_straight_tail(rng),
        nose="radial" if radial else "propeller",
        nose_blades=2,
        nose_propeller=u(0.13, 0.19),
        cockpit="open",
        cockpit_at=(start, start + u(0.07, 0.18)),
        cockpit_height=d * u(0.15, 0.28),
        gear=_fixed_gear(rng, "taildragger"),
    )


def glider(rng: np.random.Generator) -> Airplane:
    u = rng.uniform
    d = u(0.07, 0.12)
    half = u(0.85, 1.5)
    wing = Wing(half, half / u(9, 15), u(0.25, 0.6), u(0, 3), u(1, 4), 0.14, round_tip=u(0.01, 0.1))
    if chance(rng, 0.35):
        wing.bend, wing.dihedral = (u(0.4, 0.65), u(0, 3)), u(6, 16)
    if chance(rng, 0.4):
        wing.winglet = u(0.03, 0.07)
    kind = choice(rng, "t", "t", "t", "low", "cross", "v")
    fin = Wing(u(0.13, 0.19), u(0.1, 0.16), u(0.5, 0.9), u(3, 20))
    plane = Wing(u(0.14, 0.22), u(0.06, 0.1), u(0.5, 0.9), u(0, 8), u(32, 45) if kind == "v" else 0.0)
    return Airplane(
        kind=choice(rng, "civil", "glider", "sport"),
        fuselage=Fuselage(
            d * u(0.8, 1),
            d * u(1, 1.25),
            nose=u(0.2, 0.35),
            nose_sharpness=u(0.45, 0.8),
            nose_droop=u(0, 0.6),
            tail=u(0.6, 0.75),
            tail_fullness=u(1.0, 1.5),
            tail_slimness=u(1.2, 3.5),
            tail_end=u(0.1, 0.25),
            tail_rise=u(0, 0.7),
        ),
        wing=wing,
        wing_position=u(0.28, 0.38),
        wing_height=u(0.2, 1.0),
        tail=Tail(kind, fin, plane, position=u(0.97, 1.0)),
        cockpit=choice(rng, "flush", "flush", "bubble", "none"),
        cockpit_at=(u(0.05, 0.1), u(0.25, 0.34)),
        cockpit_height=0.15 * d,
        nose="propeller" if chance(rng, 0.2) else "plain",
        nose_blades=2,
        nose_propeller=u(0.06, 0.1),
    )


def fighter(rng: np.random.Generator) -> Airplane:
    """Jet fighters and trainers: swept, trapezoid and delta wings, canards, one or two fins."""
    u = rng.uniform
    d = u(0.075, 0.12)
    delta = chance(rng, 0.4)
    if delta:
        wing = Wing(u(0.27, 0.4), u(0.45, 0.62), u(0.02, 0.15), u(44, 62), u(-3, 3), 0.045)
    else:
        wing = Wing(u(0.28, 0.44), u(0.22, 0.38), u(0.15, 0.5), u(15, 52), u(-6, 3), 0.06)
        if chance(rng, 0.5):
            wing.kink = (u(0.25, 0.42), u(0.4, 1.1), u(0.8, 1.0))
    twin = chance(rng, 0.45)
    kind = "twin" if chance(rng, 0.65 if twin else 0.1) else "low"
    fin = Wing(u(0.15, 0.23), u(0.15, 0.24), u(0.15, 0.5), u(30, 58), thickness=0.06)
    plane = Wing(u(0.15, 0.24), u(0.13, 0.19), u(0.15, 0.5), u(25, 52), u(-8, 2), 0.05)
    tail = Tail(kind, fin, plane, u(0.96, 1.03), u(-0.3, 0.3), spread=d * u(0.4, 0.8), cant=choice(rng, 0.0, u(5, 25)))
    tail.ventral = u(0.2, 0.4) if chance(rng, 0.2) else 0.0
    nose = choice(rng, "probe", "probe", "plain", "intake")
    start = u(0.14, 0.22)
    plane = Airplane(
        kind="military",
        fuselage=Fuselage(
            d * (u(1.2, 1.9) if twin else u(0.9, 1.2)),
            d * u(0.9, 1.2),
            nose=u(0.3, 0.5),
            nose_sharpness=u(0.6, 1.0),
            nose_start=u(0.4, 0.65) if nose == "intake" else 0.0,
            nose_droop=u(0, 0.4),
            tail=u(0.15, 0.4),
            tail_fullness=u(1.2, 2),
            tail_end=u(0.55, 0.9),
            tail_rise=u(-0.3, 0.3),
            roundness=u(2, 3.5),
        ),
        wing=wing,
        wing_position=u(0.34, 0.42) if delta else u(0.4, 0.52),
        wing_height=u(-0.6, 0.8),
        tail=tail,
        nose=nose,
        cockpit="bubble",
        cockpit_at=(start, start + u(0.15, 0.26)),
        cockpit_height=d * u(0.2, 0.4),
        exhausts=2 if twin else 1,
    )
    if nose != "intake":
        intake = choice(rng, "side", "side", "side", "low", "chin") if twin else choice(rng, "side", "side", "chin")
        plane.intakes = (intake, u(0.28, 0.45), d * u(0.5, 0.8))
    if delta and chance(rng, 0.75):
        tail.plane = Wing(0.05, 0.03, 0.5, 40)  # hidden in the body: a tailless delta
        tail.position = min(tail.position, 0.98)
    if chance(rng, 0.5 if delta else 0.12):
        plane.canard = (
            Wing(u(0.1, 0.16), u(0.07, 0.13), u(0.2, 0.5), u(30, 55), u(-5, 10), 0.05),
            u(0.26, 0.34),
            u(0, 0.8),
        )
    if chance(rng, 0.45):
        number = int(rng.integers(1, 4))
        plane.stores = [
            (choice(rng, "missile", "missile", "tank", "bomb"), share) for share in np.linspace(0.4, 0.8, number)
        ]
    if chance(rng, 0.35):
        plane.tip_load = choice(rng, "missile", "missile", "tank")
    if chance(rng, 0.15):
        plane.gear = Gear("tricycle", 0.02, u(0.04, 0.06), u(0.05, 0.09), u(0.55, 0.62))
    return plane


def bomber(rng: np.random.Generator) -> Airplane:
    """Large military jets: slim bodies, long wings with a strake, engine pods."""
    u = rng.uniform
    d = u(0.06, 0.1)
    wing = _jet_wing(rng, (0.42, 0.6))
    wing.winglet, wing.sweep, wing.dihedral = 0.0, u(20, 45), u(-5, 3)
    wing.kink = (u(0.25, 0.4), u(0.5, 1.6), u(0.4, 0.95))
    number = int(rng.integers(1, 4))
    radius = d * u(0.22, 0.36)
    if chance(rng, 0.5):
        shares = list(np.linspace(u(0.16, 0.22), 0.16 + 0.12 * number, number))
        engines = [
            Engine("pod", "wing", (share, u(-1.0, -0.4), 0.0), radius, wing.chord * u(1.2, 2.0)) for share in shares
        ]
    else:
        shares = list(np.linspace(0.3, 0.3 + 0.17 * number, number))
        engines = [Engine("fan", "wing", (share, -1.8, 0.5), radius, 4 * radius) for share in shares]
    return Airplane(
        kind="military",
        fuselage=Fuselage(
            d,
            d * u(0.95, 1.3),
            nose=u(0.15, 0.35),
            nose_sharpness=u(0.5, 0.9),
            nose_droop=u(0, 0.6),
            tail=u(0.25, 0.5),
            tail_end=u(0.05, 0.3),
            tail_rise=u(0.2, 1.0),
            roundness=u(2, 3),
        ),
        wing=wing,
        wing_position=u(0.32, 0.45),
        wing_height=u(-0.6, 1.0),
        engines=engines,
        tail=_swept_tail(rng, choice(rng, "low", "low", "cross")),
        cockpit_at=(u(0.06, 0.09), u(0.1, 0.12)),
        nose=choice(rng, "plain", "probe"),
    )


def attacker(rng: np.random.Generator) -> Airplane:
    """Ground attack: straight wing, engine pods high on the rear body, fins on the tailplane's ends or one fin."""
    u = rng.uniform
    d = u(0.085, 0.12)
    radius = d * u(0.35, 0.5)
    start = u(0.1, 0.15)
    kind = choice(rng, "h", "h", "low", "t")
    tail = _straight_tail(rng, kind)
    tail.position = u(0.95, 1.0)
    plane = Airplane(
        kind="military",
        fuselage=Fuselage(
            d,
            d * u(1.0, 1.3),
            nose=u(0.15, 0.3),
            nose_sharpness=u(0.45, 0.8),
            tail=u(0.3, 0.5),
            tail_end=u(0.1, 0.3),
            tail_rise=u(0.2, 0.8),
            roundness=u(2, 3),
        ),
        wing=_straight_wing(rng, (0.42, 0.58), (2.4, 3.4)),
        wing_position=u(0.34, 0.42),
        wing_height=u(-0.9, 0.2),
        tail=tail,
        engines=[Engine("fan", "body", (u(0.52, 0.62), u(35, 60), u(0.1, 0.5)), radius, radius * u(3.5, 5))],
        cockpit="bubble",
        cockpit_at=(start, start + u(0.12, 0.2)),
        cockpit_height=d * u(0.2, 0.4),
        stores=[
            (choice(rng, "bomb", "missile", "tank"), share) for share in np.linspace(0.25, 0.7, int(rng.integers(1, 4)))
        ],
    )
    return plane


def supersonic_airliner(rng: np.random.Generator) -> Airplane:
    """Slender body on an ogival delta."""
    u = rng.uniform
    d = u(0.045, 0.065)
    wing = Wing(u(0.2, 0.3), u(0.3, 0.4), 0.05, u(48, 60), u(-4, 0), 0.04, kink=(u(0.35, 0.55), u(0.4, 0.7), 1.0))
    radius = u(0.013, 0.018)
    return Airplane(
        kind="airliner",
        fuselage=Fuselage(
            d,
            d * u(1, 1.15),
            nose=u(0.25, 0.35),
            nose_sharpness=u(0.8, 1.1),
            nose_droop=u(0, 0.5),
            tail=0.35,
            tail_end=0.05,
            tail_rise=u(0.2, 0.7),
        ),
        wing=wing,
        wing_position=u(0.5, 0.56),
        wing_height=-0.9,
        tail=Tail("low", Wing(u(0.1, 0.14), u(0.2, 0.28), u(0.15, 0.35), u(50, 62), thickness=0.05), Wing(0.02, 0.02)),
        engines=[Engine("pod", "wing", (share, -1.3, -1.3), radius, u(0.14, 0.2)) for share in (0.3, 0.45)],
        cockpit_at=(0.1, 0.13),
        cabin_windows=(26, 0.22, 0.75),
        nose=choice(rng, "plain", "probe"),
    )


def flying_wing(rng: np.random.Generator) -> Airplane:
    u = rng.uniform
    d = u(0.14, 0.24)
    return Airplane(
        kind=choice(rng, "military", "sport"),
        fuselage=Fuselage(
            d * u(1, 2),
            d * u(0.7, 1),
            nose=0.4,
            nose_sharpness=u(0.5, 0.9),
            tail=0.6,
            tail_fullness=1.3,
            tail_end=0.05,
            tail_rise=0.0,
        ),
        wing=Wing(
            u(0.9, 1.4),
            u(0.4, 0.6),
            u(0.2, 0.5),
            u(20, 38),
            u(0, 4),
            0.1,
            kink=(0.3, u(0.2, 0.6), 0.5),
            winglet=u(0, 0.15),
        ),
        wing_position=u(0.15, 0.3),
        wing_height=0.0,
        tail=Tail("none", Wing(0.1, 0.1), Wing(0.1, 0.1)),
        cockpit=choice(rng, "bubble", "flush", "none"),
        cockpit_at=(0.15, u(0.35, 0.5)),
        cockpit_height=d * u(0.05, 0.2),
    )


def canard_pusher(rng: np.random.Generator) -> Airplane:
    """Home-built canards: small wing at the nose, propeller behind or in front."""
    u = rng.uniform
    d = u(0.13, 0.2)
    wing = Wing(
        u(0.6, 0.95),
        u(0.2, 0.3),
        u(0.35, 0.6),
        u(5, 28),
        u(-3, 3),
        0.11,
        winglet=u(0.12, 0.25),
        winglet_cant=choice(rng, 85.0, -80.0),
    )
    pusher = chance(rng, 0.7)
    plane = Airplane(
        kind=choice(rng, "civil", "sport"),
        fuselage=Fuselage(
            d,
            d * u(0.9, 1.1),
            nose=u(0.35, 0.5),
            nose_sharpness=u(0.5, 0.8),
            nose_start=0.0 if pusher else 0.3,
            tail=u(0.3, 0.5),
            tail_fullness=1.6,
            tail_end=u(0.3, 0.5),
            tail_rise=u(0, 0.4),
            roundness=u(2, 2.6),
        ),
        wing=wing,
        wing_position=u(0.55, 0.65),
        wing_height=u(-0.4, 0.6),
        tail=Tail("low" if not pusher else "none", Wing(0.15, 0.14, 0.6, 30), Wing(0.05, 0.05)),
        canard=(Wing(u(0.25, 0.6), u(0.07, 0.1), u(0.7, 1), u(0, 6), u(-8, 4), 0.12), u(0.1, 0.16), u(-0.6, 0.3)),
        cockpit=choice(rng, "bubble", "flush"),
        cockpit_at=(u(0.25, 0.32), u(0.55, 0.65)),
        cockpit_height=d * u(0.1, 0.25),
        nose="plain" if pusher else "propeller",
        nose_blades=2,
        nose_propeller=0.14,
        gear=_fixed_gear(rng, "tricycle") if chance(rng, 0.6) else None,
    )
    if pusher:
        radius = 0.9 * plane.fuselage.half_width(0.97)
        plane.engines = [Engine("pusher", "fin", (0.9, -0.8, 0), radius, 0.12, int(rng.integers(2, 4)), u(0.12, 0.17))]
    return plane


def twin_boom(rng: np.random.Generator) -> Airplane:
    u = rng.uniform
    d = u(0.14, 0.22)
    wing = _straight_wing(rng, (0.75, 1.1), (3.2, 4.8))
    wing.dihedral = u(0, 3)
    spread = u(0.24, 0.32) * wing.span
    high = chance(rng, 0.6)
    plane_wing = Wing(spread * u(1.0, 1.25), u(0.1, 0.14), 1.0)
    plane = Airplane(
        kind=choice(rng, "civil", "military", "sport"),
        fuselage=Fuselage(
            d,
            d * u(1.0, 1.3),
            nose=u(0.25, 0.4),
            nose_sharpness=u(0.4, 0.6),
            tail=u(0.3, 0.5),
            tail_fullness=1.6,
            tail_end=u(0.2, 0.5),
            tail_rise=u(0.2, 0.8),
            roundness=u(2, 3),
        ),
        wing=wing,
        wing_position=u(0.35, 0.45),
        wing_height=0.9 if high else u(-0.3, 0.3),
        tail=Tail(
            "boom",
            Wing(u(0.2, 0.28), u(0.14, 0.2), 0.6, u(10, 35)),
            plane_wing,
            u(1.25, 1.5),
            u(0, 0.9),
            spread,
            ventral=choice(rng, 0, 0.5),
        ),
        cockpit=choice(rng, "windscreen", "flush", "bubble"),
        cockpit_at=(u(0.12, 0.2), u(0.3, 0.4)),
        cockpit_height=0.2 * d,
        gear=_fixed_gear(rng, "tricycle") if chance(rng, 0.5) else None,
    )
    if chance(rng, 0.5):
        radius = 0.8 * plane.fuselage.half_width(0.97)
        plane.engines = [Engine("pusher", "fin", (0.92, -1.2, 0), radius, 0.1, 3, u(0.12, 0.18))]
        plane.nose, plane.nose_blades, plane.nose_propeller = "propeller", 2, u(0.12, 0.18)
        plane.fuselage.nose_start = 0.25
    else:
        share = spread / wing.span
        plane.engines = [Engine("prop", "wing", (share, 0.0, 0.6), 0.3 * d, 0.35, 3, u(0.14, 0.2))]
    return plane


def flying_model(rng: np.random.Generator) -> Airplane:
    """Radio-controlled models: stick bodies, big plain wings with much dihedral, loud colours."""
    u = rng.uniform
    d = u(0.05, 0.11)
    half = u(0.55, 1.0)
    wing = Wing(half, half / u(2.5, 7), u(0.5, 1.0), u(0, 8), u(0, 10), 0.1, round_tip=choice(rng, 0.0, u(0.05, 0.3)))
    if chance(rng, 0.4):
        wing.bend, wing.dihedral = (u(0.4, 0.7), u(0, 4)), u(8, 22)
    kind = choice(rng, "low", "low", "t", "v", "cross")
    tail = _straight_tail(rng, kind, u(0.9, 1.2))
    if kind == "v":
        tail.plane.dihedral = u(32, 48)
    high = chance(rng, 0.6)
    return Airplane(
        kind="sport",
        fuselage=Fuselage(
            d,
            d * u(1.0, 1.6),
            nose=u(0.1, 0.3),
            nose_sharpness=u(0.3, 0.7),
            nose_start=u(0.2, 0.6),
            tail=u(0.5, 0.7),
            tail_slimness=u(0.8, 3),
            tail_end=u(0.1, 0.4),
            tail_rise=u(-0.2, 1.0),
            roundness=u(2, 5),
        ),
        wing=wing,
        wing_position=u(0.2, 0.32),
        wing_height=1.0 if high else u(-0.9, 0.2),
        tail=tail,
        cockpit=choice(rng, "none", "bubble", "flush"),
        cockpit_at=(u(0.18, 0.25), u(0.4, 0.5)),
        cockpit_height=d * u(0.2, 0.4),
        nose=choice(rng, "plain", "propeller", "propeller"),
        nose_blades=2,
        nose_propeller=u(0.08, 0.13),
        gear=_fixed_gear(rng) if chance(rng, 0.5) else None,
    )


# kind -> (sampler, weight)
KINDS = {
    "airliner": (airliner, 20),
    "rear_jet": (rear_jet, 10),
    "high_wing_transport": (high_wing_transport, 10),
    "twin_propeller": (twin_propeller, 12),
    "light": (light, 15),
    "warbird": (warbird, 12),
    "biplane": (biplane, 5),
    "glider": (glider, 6),
    "fighter": (fighter, 18),
    "attacker": (attacker, 3),
    "bomber": (bomber, 5),
    "supersonic_airliner": (supersonic_airliner, 1.5),
    "flying_wing": (flying_wing, 1.5),
    "canard_pusher": (canard_pusher, 3),
    "twin_boom": (twin_boom, 4),
    "flying_model": (flying_model, 6),
}


# Liveries


def sample_livery(rng: np.random.Generator, plane: Airplane) -> Livery:
    if chance(rng, 0.04):  # without materials
        base = choice(rng, paint.gray, paint.white, paint.any_color)(rng)
        return Livery(*(base,) * 12)
    kind = plane.kind if chance(rng, 0.85) else choice(rng, "airliner", "military", "civil", "sport", "glider")
    return {"airliner": _airline, "military": _military, "civil": _civil, "sport": _sport, "glider": _glider}[kind](
        rng, plane
    )


def _livery(rng: np.random.Generator, body, wing, fin, tail, trim, **fields) -> Livery:
    """The paints that do not depend on the style."""
    glass = paint.glass(rng)
    settings = dict(
        engine=choice(rng, body, wing, trim, paint.gray(rng, 90, 230)),
        spinner=choice(rng, trim, paint.gray(rng)),
        store=choice(rng, body if not callable(body) else trim, paint.gray(rng, 60, 230)),
        glass=glass,
        canopy=glass,
        dark=paint.gray(rng, 12, 60),
        metal=paint.gray(rng, 60, 200),
    )
    settings.update(fields)
    if callable(settings["engine"]):
        settings["engine"] = paint.gray(rng, 60, 200)
    return Livery(body=body, wing=wing, fin=fin, tail=tail, trim=trim, **settings)


def _airline(rng: np.random.Generator, plane: Airplane) -> Livery:
    u = rng.uniform
    base = paint.white(rng) if chance(rng, 0.65) else paint.any_color(rng)
    trim, second = paint.bright(rng), paint.any_color(rng)
    half = plane.fuselage.height / 2
    body = base
    if chance(rng, 0.5):  # belly
        body = paint.split(body, choice(rng, trim, second, paint.gray(rng, 110, 200)), [0, -1, 0], half * u(0.1, 0.6))
    if chance(rng, 0.35):  # tail section, its border leaning
        body = paint.split(body, trim, [0, u(-0.2, 1.0), 1], u(0.2, 0.4))
    if chance(rng, 0.08):
        body = paint.split(body, second, [0, 0, -1], u(0.2, 0.42))
    wing = paint.gray(rng, 130, 225) if chance(rng, 0.75) else base
    fin = choice(rng, trim, trim, second, base)
    tail = choice(rng, wing, wing, fin)
    stripes = []
    for _ in range(rng.integers(0, 3)):
        low = u(-25, 25)
        stripes.append((u(0.03, 0.2), u(0.7, 0.97), low, low + u(5, 22), choice(rng, trim, second)))
    return _livery(rng, body, wing, fin, tail, trim, stripes=stripes, wing_pattern=_wing_pattern(rng, trim, 0.3))


def _military(rng: np.random.Generator, plane: Airplane) -> Livery:
    u = rng.uniform
    base = paint.military(rng)
    body = wing = base
    if chance(rng, 0.4):
        others = [paint.military(rng) for _ in range(rng.integers(1, 3))]
        body = wing = paint.camouflage(rng, [base, *others], u(0.1, 0.35))
    if chance(rng, 0.4):
        body = paint.split(body, paint.gray(rng, 120, 210), [0, -1, 0], plane.fuselage.height * u(0, 0.3))
    trim = choice(rng, paint.bright, paint.gray)(rng)
    if chance(rng, 0.25):
        body = paint.split(body, choice(rng, trim, paint.gray(rng)), [0, 0, -1], u(0.36, 0.46))
    fin = choice(rng, wing, wing, wing, trim)
    emblem = None
    if chance(rng, 0.35):
        emblem = choice(
            rng,
            ((30, 50, 120), (235, 235, 235), (190, 30, 40)),
            ((235, 235, 235), (190, 30, 40), (190, 30, 40)),
            ((190, 30, 40), (190, 30, 40), (190, 30, 40)),
            ((240, 240, 240), (20, 20, 20), (20, 20, 20)),
            ((30, 50, 120), (240, 240, 240), (240, 240, 240)),
        )
    canopy = paint.glass(rng)
    if chance(rng, 0.3):
        canopy = paint.bands(canopy, paint.military(rng), 2, -0.3, 0.3, int(rng.integers(5, 9)))
    return _livery(
        rng, body, wing, fin, wing, trim, emblem=emblem, canopy=canopy, wing_pattern=_wing_pattern(rng, trim, 0.15)
    )


def _civil(rng: np.random.Generator, plane: Airplane) -> Livery:
    u = rng.uniform
    base = paint.white(rng) if chance(rng, 0.6) else paint.any_color(rng)
    trim, second = paint.bright(rng), paint.any_color(rng)
    body = base
    if chance(rng, 0.35):
        body = paint.split(body, trim, [0, -1, u(-0.2, 0.2)], plane.fuselage.height * u(-0.1, 0.25))
    if chance(rng, 0.2):
        body = paint.split(body, second, [0, 0, -1], u(0.25, 0.4))
    stripes = []
    for _ in range(rng.integers(0, 4)):
        low = u(-40, 20)
        stripes.append((u(0.05, 0.2), u(0.75, 0.98), low, low + u(4, 16), choice(rng, trim, second)))
    wing = choice(rng, base, base, trim, second)
    fin = choice(rng, base, base, trim, second)
    return _livery(
        rng,
        body,
        wing,
        fin,
        choice(rng, wing, fin, base),
        trim,
        stripes=stripes,
        wing_pattern=_wing_pattern(rng, trim, 0.5),
    )


def _sport(rng: np.random.Generator, plane: Airplane) -> Livery:
    base, trim, second = (paint.any_color(rng) for _ in range(3))
    body = base
    if chance(rng, 0.4):
        count = int(rng.integers(1, 5))
        start = rng.uniform(-0.4, 0.2)
        body = paint.bands(body, trim, 2, start, start + rng.uniform(0.1, 0.5), count)
    wing = choice(rng, base, trim, second)
    fin = choice(rng, base, trim, second)
    return _livery(
        rng,
        body,
        wing,
        fin,
        choice(rng, wing, fin),
        trim,
        wing_pattern=_wing_pattern(rng, choice(rng, base, trim, second), 0.7),
    )


def _glider(rng: np.random.Generator, plane: Airplane) -> Livery:
    base = paint.white(rng)
    return _livery(
        rng, base, base, base, base, paint.bright(rng), wing_pattern=_wing_pattern(rng, paint.bright(rng), 0.5)
    )


def _wing_pattern(rng: np.random.Generator, color: np.ndarray, probability: float):
    if not chance(rng, probability):
        return plain
    kind = choice(rng, "tip", "tip", "edge", "rear", "bands", "chequers", "rays")
    border, number = rng.uniform(0.6, 0.93), int(rng.integers(3, 8))

    def pattern(base: np.ndarray, span: np.ndarray, chord: np.ndarray) -> np.ndarray:
        chosen = {
            "tip": span > border,
            "edge": chord < 0.12,
            "rear": chord > 0.7,
            "bands": np.floor(span * number) % 2 == 1,
            "chequers": (np.floor(span * number) + np.floor(chord * 2.5)) % 2 == 1,
            "rays": np.floor((chord - span) * number) % 2 == 1,
        }[kind]
        return np.where(chosen[:, None], color, base)

    return pattern
