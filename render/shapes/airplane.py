"""Parametric aeroplanes: from gliders and biplanes to airliners and jet fighters.

A model is a `Airplane`, sampled by one of the functions in `KINDS`; sometimes parts of two kinds are mixed. Lengths
are in units of the fuselage's length, which runs along z from -0.5 (nose) to +0.5.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from render.mesh import Mesh
from render.shapes import paint
from render.shapes.primitives import (
    Builder, Paint, Surface, box, cylinder, ellipsoid, extrude, grid, join, loft, pairs, revolve, superellipse, sweep, tube,
)  # fmt: skip

KEYPOINTS = (
    "nose", "tail_end", "fin_top", "cockpit_top", "belly", "nose_wheel",
    *pairs(
        "wing_tip", "wing_root_front", "wing_root_rear", "tailplane_tip", "twin_fin_top", "engine_inner", "engine_outer",
        "main_wheel", "lower_wing_tip", "canard_tip",
    ),
)  # fmt: skip


@dataclass
class Fuselage:
    """A body of superelliptic sections. ``nose`` and ``tail`` are the shares of the length that narrow."""

    width: float
    height: float
    nose: float = 0.15
    nose_sharpness: float = 0.5  # exponent of the nose's outline: 0.3 blunt, 0.5 an ellipse, 1 and more pointed
    nose_droop: float = 0.2  # how far the tip lies below the axis, in half heights
    tail: float = 0.35
    tail_fullness: float = 1.5  # how late the tail narrows
    tail_slimness: float = 1.0  # above 1 the body becomes a pod on a boom
    tail_end: float = 0.1  # size of the end, relative to the middle
    tail_rise: float = 0.8  # 1 keeps the upper line straight, 0 the axis, -1 the lower line
    roundness: float = 2.0  # exponent of the sections
    hump: tuple[float, float, float] | None = None  # cabin roof: from, to (share of the length), height

    def half_sizes(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Half width, half height and height of the axis at shares ``t`` of the length."""
        nose = 1 - np.clip(1 - t / self.nose, 0, 1) ** 2
        nose = np.maximum(nose, 1e-4) ** self.nose_sharpness
        s = np.clip((t - 1 + self.tail) / self.tail, 0, 1)
        tail = self.tail_end + (1 - self.tail_end) * (1 - s**self.tail_fullness) ** self.tail_slimness
        axis = self.height / 2 * (self.tail_rise * (1 - tail) - self.nose_droop * (1 - nose))
        return self.width / 2 * nose * tail, self.height / 2 * nose * tail, axis

    def points(self, t: np.ndarray, degrees: np.ndarray, lift: float = 0.0) -> np.ndarray:
        """Surface points; ``degrees`` around the section: 0 right, 90 top, 180 left. ``lift`` moves them outwards."""
        t, angle = np.broadcast_arrays(t, np.radians(degrees))
        half_width, half_height, axis = self.half_sizes(t)
        c, s = np.cos(angle), np.sin(angle)
        x = (half_width + lift) * np.sign(c) * np.abs(c) ** (2 / self.roundness)
        y = axis + (half_height + lift) * np.sign(s) * np.abs(s) ** (2 / self.roundness)
        if self.hump:
            start, end, height = self.hump
            u = np.clip((t - start) / (end - start), 0, 1)
            bump = np.sin(np.pi * u**0.7) ** 0.7
            y = y + height * bump * np.clip(s, 0, 1) ** 0.6
        return np.stack([x, y, t - 0.5], axis=-1)

    def top(self, t: float) -> float:
        return self.points(np.array(t), np.array(90.0))[1]

    def bottom(self, t: float) -> float:
        return self.points(np.array(t), np.array(-90.0))[1]

    def patch(self, t0: float, t1: float, a0: float, a1: float, n: int = 6, lift: float = 0.0015) -> Surface:
        """A piece of the skin, a little outside it: windows, stripes."""
        t, a = np.meshgrid(np.linspace(t0, t1, n), np.linspace(a0, a1, n), indexing="ij")
        return grid(self.points(t, a, lift))

    def surface(self) -> Surface:
        nose = self.nose * (1 - np.cos(np.linspace(0, np.pi / 2, 12)))
        t = np.unique(np.concatenate([nose, np.linspace(self.nose, 1, 26)]))
        angle = (np.arange(24) + 0.5) * 15.0
        return loft(self.points(t[:, None], angle[None]))


@dataclass
class Wing:
    """One side of a lifting surface, from the plane of symmetry outwards."""

    span: float  # half the span
    chord: float
    taper: float = 0.5
    sweep: float = 0.0  # of the leading edge, degrees
    dihedral: float = 0.0
    thickness: float = 0.11
    kink: tuple[float, float] | None = None  # share of the span, and how much longer the root chord is than without
    elliptic: bool = False
    round_tip: float = 0.0  # share of the span over which the tip is rounded
    winglet: float = 0.0  # height, share of the span
    winglet_cant: float = 75.0

    def stations(self) -> np.ndarray:
        """(K, 5): spanwise position, height, leading edge's z behind the root's, chord, thickness."""
        eta = np.linspace(0, 1, 9)
        if self.kink:
            eta = np.sort(np.append(eta, self.kink[0]))
        if self.round_tip:
            eta = np.sort(np.append(eta, 1 - self.round_tip * np.array([0.0, 0.3, 0.55, 0.75, 0.9, 0.97])))
        span = eta * self.span
        if self.elliptic:
            chord = self.chord * np.sqrt(1 - (0.985 * np.sin(eta * np.pi / 2)) ** 2)
            span = self.span * np.sin(eta * np.pi / 2)
            edge = np.tan(np.radians(self.sweep)) * span + 0.3 * (self.chord - chord)
        else:
            chord = self.chord * (1 + (self.taper - 1) * eta)
            edge = np.tan(np.radians(self.sweep)) * span
            if self.kink:
                at, extra = self.kink
                inner = np.clip(1 - eta / at, 0, 1) * extra * self.chord
                chord, edge = chord + inner, edge - inner * (0.3 if extra < 0.5 else 1.0)
        if self.round_tip:
            shrink = np.sqrt(1 - (np.clip((eta - 1 + self.round_tip) / self.round_tip, 0, 1) * 0.98) ** 2)
            edge, chord = edge + 0.4 * chord * (1 - shrink), chord * shrink
        height = np.tan(np.radians(self.dihedral)) * span
        out = np.stack([span, height, edge, chord, self.thickness * chord], axis=1)
        return np.concatenate([out, self._winglet(out[-1])]) if self.winglet else out

    def _winglet(self, tip: np.ndarray) -> np.ndarray:
        length = self.winglet * self.span
        s = np.array([0.15, 0.4, 1.0])
        cant = np.radians(self.winglet_cant) * np.array([0.4, 0.8, 1.0])
        steps = np.diff(np.concatenate([[0], s])) * length
        x, y = tip[0] + np.cumsum(steps * np.cos(cant)), tip[1] + np.cumsum(steps * np.sin(cant))
        chord = tip[3] * (1 - 0.6 * s)
        edge = tip[2] + tip[3] * 0.55 * s
        return np.stack([x, y, edge, chord, 0.08 * chord], axis=1)

    def leading_edge(self, share: float) -> np.ndarray:
        """(5,) station at a share of the half span, interpolated."""
        stations = self.stations()
        return np.array([np.interp(share * self.span, stations[:, 0], column) for column in stations.T])


AIRFOIL_S = 0.5 * (1 - np.cos(np.linspace(0, np.pi, 9)))
AIRFOIL_Y = 5 * (
    0.2969 * np.sqrt(AIRFOIL_S) - 0.126 * AIRFOIL_S - 0.3516 * AIRFOIL_S**2 + 0.2843 * AIRFOIL_S**3 - 0.1036 * AIRFOIL_S**4
)
AIRFOIL = np.concatenate([np.stack([AIRFOIL_S, AIRFOIL_Y], 1), np.stack([AIRFOIL_S, -AIRFOIL_Y], 1)[-2:0:-1]])


def lifting_surface(stations: np.ndarray, root: np.ndarray, upright: bool = False) -> Surface:
    """Symmetric-aerofoil loft through stations; ``upright`` swaps span and height (a fin)."""
    x, y, edge, chord, thickness = stations.T
    direction = np.gradient(stations[:, :2], axis=0)
    direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-12)
    s, h = AIRFOIL.T
    offset = thickness[:, None] * h
    points = np.stack(
        [
            x[:, None] - offset * direction[:, 1:],
            y[:, None] + offset * direction[:, :1],
            edge[:, None] + chord[:, None] * s,
        ],
        axis=-1,
    )
    if upright:
        points = points[..., [1, 0, 2]]
    return loft(points + root)


@dataclass
class Tail:
    kind: str  # "low", "t", "cross", "v", "h" (fins on the tailplane's ends), "twin" (on the body), "none"
    fin: Wing
    plane: Wing
    position: float = 0.98  # where the root chords end, share of the length
    cant: float = 0.0  # of twin fins, degrees outwards
    ventral: bool = False


@dataclass
class Engine:
    kind: str  # "fan", "prop"
    position: np.ndarray  # centre of the front
    radius: float
    length: float
    blades: int = 3
    propeller: float = 0.1  # radius
    pylon_to: np.ndarray | None = None


@dataclass
class Gear:
    kind: str = "none"  # "none", "tricycle", "taildragger", "floats"
    wheel: float = 0.02
    drop: float = 0.05
    track: float = 0.1
    spats: bool = False
    main: float = 0.45
    front: float = 0.12


@dataclass
class Airplane:
    fuselage: Fuselage
    wing: Wing
    wing_position: float  # leading edge of the root, share of the length
    wing_height: float  # -1 low, 1 high
    tail: Tail
    engines: list[Engine] = field(default_factory=list)
    nose_propeller: tuple[int, float] | None = None  # blades, radius
    jet_exhausts: int = 0
    canopy: tuple[float, float, float] | None = None  # from, to, height
    cabin_windows: int = 0
    windscreen: tuple[float, float] | None = None
    gear: Gear = field(default_factory=Gear)


def build(rng: np.random.Generator) -> Mesh:
    kinds = list(KINDS)
    plane = KINDS[kinds[rng.integers(len(kinds))]](rng)
    builder = Builder(KEYPOINTS)
    livery = sample_livery(rng)
    draw(builder, plane, livery, rng)
    return builder.build()


@dataclass
class Livery:
    body: Paint
    wing: Paint
    tail: Paint
    engine: Paint
    trim: Paint
    glass: Paint
    dark: Paint


def sample_livery(rng: np.random.Generator) -> Livery:
    style = rng.random()
    body = paint.white(rng) if style < 0.4 else paint.military(rng) if style < 0.65 else paint.any_color(rng)
    trim = paint.bright(rng)
    wing = body if rng.random() < 0.5 else paint.gray(rng, 120, 220) if rng.random() < 0.6 else paint.any_color(rng)
    tail = body if rng.random() < 0.5 else trim
    engine = paint.pick(rng, (body, wing, trim, paint.gray(rng, 90, 230)))
    return Livery(body, wing, tail, engine, trim, paint.glass(rng), paint.gray(rng, 15, 60))


def draw(builder: Builder, plane: Airplane, livery: Livery, rng: np.random.Generator) -> None:
    body = plane.fuselage
    builder.add(body.surface(), livery.body)
    builder.mark("nose", body.points(np.array(0.0), np.array(0.0)) * [0, 1, 1])
    builder.mark("tail_end", body.points(np.array(1.0), np.array(0.0)) * [0, 1, 1])
    draw_wing(builder, plane, livery)
    draw_tail(builder, plane, livery)
    draw_cockpit(builder, plane, livery)
    for number, engine in enumerate(sorted(plane.engines, key=lambda e: e.position[0])):
        draw_engine(builder, engine, livery)
        builder.mark_pair("engine_inner" if number == 0 else "engine_outer", engine.position + [0, 0, engine.length / 2])
    if plane.nose_propeller:
        blades, radius = plane.nose_propeller
        _, half_height, axis = body.half_sizes(np.array(0.01))
        builder.add(propeller(np.array([0, axis, -0.5]), blades, radius, 0.4 * radius * 0.5), livery.dark)
    draw_gear(builder, plane, livery)


def wing_root(plane: Airplane) -> np.ndarray:
    body = plane.fuselage
    t = plane.wing_position + plane.wing.chord / 2
    low, high = body.bottom(t), body.top(t)
    margin = 0.06 * body.height
    y = (low + margin) + (high - low - 2 * margin) * (plane.wing_height + 1) / 2
    return np.array([0.0, y, plane.wing_position - 0.5])


def draw_wing(builder: Builder, plane: Airplane, livery: Livery) -> None:
    root, wing = wing_root(plane), plane.wing
    builder.add_pair(lifting_surface(wing.stations(), root), livery.wing)
    tip = wing.leading_edge(1.0)
    builder.mark_pair("wing_tip", root + [tip[0], tip[1], tip[2] + tip[3] / 2])
    side = wing.leading_edge(min(0.9, plane.fuselage.width / 2 / wing.span))
    builder.mark_pair("wing_root_front", root + side[:3])
    builder.mark_pair("wing_root_rear", root + side[:3] + [0, 0, side[3]])


def draw_tail(builder: Builder, plane: Airplane, livery: Livery) -> None:
    tail, body = plane.tail, plane.fuselage
    _, half_height, axis = body.half_sizes(np.array(tail.position))
    fin_root = np.array([0, axis, tail.position - 0.5 - tail.fin.chord])
    plane_root = np.array([0, axis, tail.position - 0.5 - tail.plane.chord])
    fin_tip = tail.fin.stations()[-1]
    if tail.kind in ("low", "t", "cross"):
        builder.add(lifting_surface(tail.fin.stations(), fin_root, upright=True), livery.tail)
        builder.mark("fin_top", fin_root + [0, fin_tip[0], fin_tip[2] + fin_tip[3] / 2])
    if tail.kind in ("t", "cross"):
        at = tail.fin.leading_edge(0.97 if tail.kind == "t" else 0.4)
        plane_root = fin_root + [0, at[0], at[2] + 0.1 * at[3]]
    builder.add_pair(lifting_surface(tail.plane.stations(), plane_root), livery.tail)
    tip = tail.plane.stations()[-1]
    builder.mark_pair("tailplane_tip", plane_root + [tip[0], tip[1], tip[2] + tip[3] / 2])


def draw_cockpit(builder: Builder, plane: Airplane, livery: Livery) -> None:
    body = plane.fuselage
    if plane.canopy:
        start, end, height = plane.canopy
        middle = (start + end) / 2
        center = np.array([0, body.top(middle) - 0.2 * height, middle - 0.5])
        builder.add(ellipsoid([0.36 * body.width, 1.2 * height, (end - start) / 2], center), livery.glass)
        builder.mark("cockpit_top", center + [0, 1.2 * height, 0])
    if plane.windscreen:
        start, end = plane.windscreen
        builder.add(body.patch(start, end, 35, 145, 10), livery.glass)
        builder.mark("cockpit_top", body.points(np.array(end), np.array(90.0)))
    if plane.cabin_windows:
        edges = np.linspace(0.17, 0.8, plane.cabin_windows + 1)
        width = 0.5 * (edges[1] - edges[0])
        windows = join([body.patch(t, t + width, 12, 26, 2, 0.002) for t in edges[:-1]])
        builder.add_pair(windows, livery.dark)


def draw_engine(builder: Builder, engine: Engine, livery: Livery) -> None:
    r, length = engine.radius, engine.length
    if engine.kind == "fan":
        inner = revolve([(1e-4, 0.2 * length), (0.85 * r, 0.2 * length), (0.88 * r, 0.02 * length)], axis="z")
        cowl = revolve([(0.88 * r, 0.02 * length), (0.94 * r, 0), (r, 0.15 * length), (r, 0.45 * length), (0.7 * r, 0.95 * length), (0.6 * r, 0.95 * length)], axis="z")  # fmt: skip
        core = revolve([(0.5 * r, 0.9 * length), (0.4 * r, length), (0.05 * r, 1.25 * length)], axis="z")
        builder.add_pair(inner.moved(engine.position), livery.dark)
        builder.add_pair(cowl.moved(engine.position), livery.engine)
        builder.add_pair(core.moved(engine.position), livery.dark)
    else:
        s = np.array([0, 0.05, 0.2, 0.45, 0.7, 0.9, 1.0])
        radius = r * np.array([0.6, 0.85, 1.0, 1.0, 0.75, 0.35, 0.05])
        builder.add_pair(revolve(np.stack([radius, s * length], 1), axis="z").moved(engine.position), livery.engine)
        builder.add_pair(propeller(engine.position, engine.blades, engine.propeller, 0.4 * r), livery.dark)
    if engine.pylon_to is not None:
        start = engine.position + [0, 0, 0.5 * length]
        builder.add_pair(sweep([start, engine.pylon_to], superellipse(0.25 * r, 0.6 * length, 2, 10), up=(0, 0, 1)), livery.engine)


def propeller(center: np.ndarray, blades: int, radius: float, spinner: float) -> Surface:
    parts = [revolve([(spinner * np.sqrt(1 - s**2) + 1e-5, -1.6 * spinner * s) for s in np.linspace(0, 1, 6)], 12, "z")]
    blade = ellipsoid([0.09 * radius, 0.5 * radius, 0.012 * radius], n=8).turned("y", 30).moved([0, 0.5 * radius, 0])
    parts += [blade.turned("z", 360 * k / blades).moved([0, 0, -0.4 * spinner]) for k in range(blades)]
    return join(parts).moved(center)


def wheel(center: np.ndarray, radius: float, width: float) -> Surface:
    return revolve([(1e-4, -width / 2), (0.8 * radius, -width / 2), (radius, -width / 4), (radius, width / 4), (0.8 * radius, width / 2), (1e-4, width / 2)], 14, "x").moved(center)  # fmt: skip


def draw_gear(builder: Builder, plane: Airplane, livery: Livery) -> None:
    gear, body = plane.gear, plane.fuselage
    if gear.kind == "none":
        return
    y = body.bottom(gear.main) - gear.drop
    main = np.array([gear.track, y, gear.main - 0.5])
    builder.add_pair(tube([[0.3 * body.width, body.bottom(gear.main) + 0.2 * body.height, gear.main - 0.5], main], 0.2 * gear.wheel + 0.002, 6), livery.body)  # fmt: skip
    builder.add_pair(wheel(main, gear.wheel, 0.5 * gear.wheel), paint.RUBBER)
    builder.mark_pair("main_wheel", main)
    at = gear.front if gear.kind == "tricycle" else 0.92
    size = gear.wheel if gear.kind == "tricycle" else 0.5 * gear.wheel
    front_y = y if gear.kind == "tricycle" else body.bottom(at) - size
    front = np.array([0, front_y, at - 0.5])
    builder.add(tube([[0, body.bottom(at) + 0.1 * body.height, at - 0.5], front], 0.2 * size + 0.002, 6), livery.body)
    builder.add(wheel(front, size, 0.5 * size), paint.RUBBER)
    builder.mark("nose_wheel", front)


def airliner(rng: np.random.Generator) -> Airplane:
    u = rng.uniform
    d = u(0.08, 0.13)
    wing = Wing(u(0.4, 0.55), u(0.13, 0.2), u(0.2, 0.35), u(20, 38), u(3, 8), 0.11, (u(0.3, 0.4), u(0.2, 0.45)))
    position = u(0.3, 0.4)
    plane = Airplane(
        Fuselage(d, d * u(0.95, 1.1), u(0.1, 0.16), 0.5, u(0, 0.4), u(0.28, 0.4)), wing, position, u(-0.9, -0.5),
        Tail("low", Wing(u(0.15, 0.2), u(0.13, 0.18), u(0.3, 0.45), u(30, 45)), Wing(u(0.15, 0.2), u(0.1, 0.13), 0.4, u(25, 38), u(2, 8)), u(0.92, 0.97)),
        cabin_windows=int(rng.integers(14, 30)), windscreen=(u(0.025, 0.04), u(0.05, 0.06)),
    )  # fmt: skip
    root = wing_root(plane)
    for share in (0.35, 0.6)[: rng.integers(1, 3)]:
        at = root + wing.leading_edge(share)[:3]
        r, length = u(0.025, 0.038), u(0.09, 0.13)
        plane.engines.append(Engine("fan", at + [0, -1.3 * r, -0.6 * length], r, length, pylon_to=at + [0, 0, 0.2 * length]))
    return plane


def light(rng: np.random.Generator) -> Airplane:
    u = rng.uniform
    d = u(0.12, 0.18)
    high = rng.random() < 0.5
    wing = Wing(u(0.55, 0.8), u(0.18, 0.26), u(0.5, 1.0), u(0, 5), u(1, 6), 0.13, round_tip=u(0.03, 0.1))
    return Airplane(
        Fuselage(d, d * u(1.0, 1.3), u(0.12, 0.25), u(0.25, 0.5), 0.1, u(0.5, 0.62), u(1, 1.5), 1, u(0.1, 0.25), u(0.2, 0.9), u(2.2, 3.5), (0.2, u(0.5, 0.7), u(0.02, 0.05))),
        wing, u(0.22, 0.3), 1.0 if high else -0.9,
        Tail("low", Wing(u(0.14, 0.2), u(0.14, 0.2), u(0.4, 0.7), u(10, 40)), Wing(u(0.18, 0.25), u(0.12, 0.16), u(0.5, 0.9), u(0, 12)), 0.99),
        nose_propeller=(int(rng.integers(2, 4)), u(0.1, 0.14)),
        windscreen=(0.25, 0.32),
        gear=Gear(("tricycle", "taildragger")[rng.integers(2)], u(0.025, 0.035), u(0.06, 0.1), u(0.1, 0.16), False, u(0.35, 0.5)),
    )  # fmt: skip


def fighter(rng: np.random.Generator) -> Airplane:
    u = rng.uniform
    d = u(0.08, 0.13)
    wing = Wing(u(0.28, 0.4), u(0.3, 0.5), u(0.05, 0.3), u(35, 58), u(-4, 2), 0.05)
    return Airplane(
        Fuselage(d, d * u(0.8, 1.1), u(0.3, 0.45), u(0.6, 1.0), u(0, 0.4), u(0.2, 0.4), 1.5, 1.0, u(0.6, 0.85), 0, u(2, 4)),
        wing, u(0.4, 0.5), u(-0.3, 0.6),
        Tail("low", Wing(u(0.15, 0.22), u(0.15, 0.22), u(0.2, 0.5), u(35, 55), thickness=0.06), Wing(u(0.16, 0.22), u(0.12, 0.17), u(0.2, 0.5), u(35, 50), thickness=0.05), 0.98),
        canopy=(u(0.18, 0.22), u(0.35, 0.42), u(0.025, 0.04)),
    )  # fmt: skip


KINDS = {"airliner": airliner, "light": light, "fighter": fighter}
