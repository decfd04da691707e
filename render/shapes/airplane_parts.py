"""What an aeroplane consists of, and how each part is drawn.

Lengths are in units of the fuselage's length; the fuselage runs along z from -0.5 (nose) to +0.5, and a "share" is a
number in 0..1 along it, or along a half span. Parts off the plane of symmetry are described once, on the right, and
mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable

import numpy as np

from render.shapes import paint
from render.shapes.paint import Color, Paint
from render.shapes.primitives import (
    MIRROR,
    Builder,
    Surface,
    box,
    ellipsoid,
    fan,
    grid,
    join,
    loft,
    pairs,
    revolve,
    superellipse,
    sweep,
    tube,
    wheel,
)

KEYPOINTS = (
    "nose",
    "tail_end",
    "fin_top",
    "cockpit_top",
    "belly",
    "center_engine",
    "nose_wheel",
    "tail_wheel",
    *pairs(
        "wing_tip",
        "wing_root_front",
        "wing_root_rear",
        "tailplane_tip",
        "twin_fin_top",
        "inner_engine",
        "outer_engine",
        "main_wheel",
        "lower_wing_tip",
        "canard_tip",
        "exhaust",
    ),
)


@dataclass
class Fuselage:
    """A body of superelliptic sections. ``nose`` and ``tail`` are the shares of the length that narrow."""

    width: float
    height: float
    nose: float = 0.15
    nose_sharpness: float = 0.5  # exponent of the nose's outline: 0.3 blunt, 0.5 an ellipse, 1 pointed
    nose_start: float = 0.0  # size of the foremost section relative to the middle; above 0 for propellers and intakes
    nose_droop: float = 0.2  # how far the tip lies below the axis, in half heights
    tail: float = 0.35
    tail_fullness: float = 1.5  # how late the tail narrows
    tail_slimness: float = 1.0  # above 1 the body becomes a pod on a boom
    tail_end: float = 0.1  # size of the last section relative to the middle
    tail_rise: float = 0.8  # 1 keeps the upper line straight, 0 the axis, -1 the lower line
    roundness: float = 2.0  # exponent of the sections: 2 round, 4 boxy
    hump: tuple[float, float, float] | None = None  # cabin roof: from, to (shares), height

    def half_sizes(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Half width, half height and height of the axis at shares ``t`` of the length."""
        nose = np.maximum(1 - np.clip(1 - t / self.nose, 0, 1) ** 2, 1e-4) ** self.nose_sharpness
        nose = self.nose_start + (1 - self.nose_start) * nose
        s = np.clip((t - 1 + self.tail) / self.tail, 0, 1)
        tail = self.tail_end + (1 - self.tail_end) * (1 - s**self.tail_fullness) ** self.tail_slimness
        axis = self.height / 2 * (self.tail_rise * (1 - tail) - self.nose_droop * (1 - nose))
        return self.width / 2 * nose * tail, self.height / 2 * nose * tail, axis

    def points(self, t: np.ndarray, degrees: np.ndarray, lift: float = 0.0) -> np.ndarray:
        """Skin points (..., 3); ``degrees`` around the section: 0 right, 90 top, 180 left. ``lift`` goes outwards."""
        t, angle = np.broadcast_arrays(t, np.radians(degrees))
        half_width, half_height, axis = self.half_sizes(t)
        c, s = np.cos(angle), np.sin(angle)
        x = (half_width + lift) * np.sign(c) * np.abs(c) ** (2 / self.roundness)
        y = axis + (half_height + lift) * np.sign(s) * np.abs(s) ** (2 / self.roundness)
        if self.hump:
            start, end, height = self.hump
            u = np.clip((t - start) / (end - start), 0, 1)
            y = y + height * np.sin(np.pi * u**0.7) ** 0.7 * np.clip(s, 0, 1) ** 0.6
        return np.stack([x, y, t - 0.5], axis=-1)

    def point(self, t: float, degrees: float) -> np.ndarray:
        return self.points(np.array(t), np.array(degrees))

    def top(self, t: float) -> float:
        return self.point(t, 90.0)[1]

    def bottom(self, t: float) -> float:
        return self.point(t, -90.0)[1]

    def axis(self, t: float) -> float:
        return float(self.half_sizes(np.array(t))[2])

    def half_width(self, t: float) -> float:
        return float(self.half_sizes(np.array(t))[0])

    def patch(self, t0: float, t1: float, a0: float, a1: float, n: tuple[int, int] = (6, 6)) -> Surface:
        """A piece of the skin, a little outside it: windows, stripes."""
        t, a = np.meshgrid(np.linspace(t0, t1, n[0]), np.linspace(a0, a1, n[1]), indexing="ij")
        return grid(self.points(t, a, lift=0.0018))

    def disc(self, t: float, degrees: float, radius: float, lift: float = 0.002) -> Surface:
        """A round piece of the skin: an emblem."""
        around = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        arc = np.degrees(radius / max(float(self.half_sizes(np.array(t))[1]), radius))
        return fan(self.points(t + radius * np.cos(around), degrees + arc * np.sin(around), lift))

    def surface(self) -> Surface:
        nose = self.nose * (1 - np.cos(np.linspace(0, np.pi / 2, 12)))
        t = np.unique(np.concatenate([nose, np.linspace(self.nose, 1, 28)]))
        angle = (np.arange(24) + 0.5) * 15.0
        return loft(self.points(t[:, None], angle[None]))


@dataclass
class Wing:
    """The right half of a lifting surface, or a fin, from the root outwards."""

    span: float  # of the half
    chord: float
    taper: float = 0.5
    sweep: float = 0.0  # of the leading edge, degrees
    dihedral: float = 0.0
    thickness: float = 0.11
    kink: tuple[float, float, float] | None = None  # where (share), growth of the root chord, share of it forwards
    bend: tuple[float, float] | None = None  # where (share), dihedral inside of it
    elliptic: bool = False
    round_tip: float = 0.0  # share of the half span
    winglet: float = 0.0  # length, share of the half span
    winglet_cant: float = 75.0  # degrees from the horizontal, negative downwards

    def stations(self) -> np.ndarray:
        """(K, 5): spanwise position, height, leading edge's distance behind the root's, chord, thickness."""
        eta = np.linspace(0, 1, 13)
        extra = [self.kink[0]] if self.kink else []
        extra += [self.bend[0]] if self.bend else []
        if self.round_tip:
            extra += list(1 - self.round_tip * np.array([1.0, 0.7, 0.45, 0.25, 0.1, 0.03]))
        eta = np.unique(np.concatenate([eta, extra]))
        if self.elliptic:
            eta = np.sin(eta * np.pi / 2)
        span, height, edge, chord = eta * self.span, self._height(eta), *self._edge_and_chord(eta)
        out = np.stack([span, height, edge, chord, self.thickness * chord], axis=1)
        return np.concatenate([out, self._winglet(out[-1])]) if self.winglet else out

    def _height(self, eta: np.ndarray) -> np.ndarray:
        outer = np.tan(np.radians(self.dihedral))
        at, inner = self.bend or (0.0, 0.0)
        inner = np.tan(np.radians(inner))
        return self.span * (np.minimum(eta, at) * inner + np.maximum(eta - at, 0) * outer)

    def _edge_and_chord(self, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        edge = np.tan(np.radians(self.sweep)) * eta * self.span
        if self.elliptic:
            chord = self.chord * np.sqrt(1 - (0.985 * eta) ** 2)
            return edge + 0.3 * (self.chord - chord), chord
        chord = self.chord * (1 + (self.taper - 1) * eta)
        if self.kink:
            at, growth, forward = self.kink
            growth = np.clip(1 - eta / at, 0, 1) * growth * self.chord
            edge, chord = edge - forward * growth, chord + growth
        if self.round_tip:
            outside = np.clip((eta - 1 + self.round_tip) / self.round_tip, 0, 1)
            shrink = np.sqrt(1 - (0.98 * outside) ** 2)
            edge, chord = edge + 0.4 * chord * (1 - shrink), chord * shrink
        return edge, chord

    def _winglet(self, tip: np.ndarray) -> np.ndarray:
        share = np.array([0.15, 0.4, 1.0])
        steps = np.diff(np.concatenate([[0], share])) * self.winglet * self.span
        cant = np.radians(self.winglet_cant) * np.array([0.4, 0.8, 1.0])
        x, y = tip[0] + np.cumsum(steps * np.cos(cant)), tip[1] + np.cumsum(steps * np.sin(cant))
        chord = tip[3] * (1 - 0.6 * share)
        return np.stack([x, y, tip[2] + 0.55 * tip[3] * share, chord, 0.08 * chord], axis=1)

    def at(self, share: float) -> np.ndarray:
        """(5,) as in `stations`, at a share of the half span."""
        stations = self.stations()
        return np.array([np.interp(share * self.span, stations[:, 0], column) for column in stations.T])


_S = 0.5 * (1 - np.cos(np.linspace(0, np.pi, 9)))
_HALF_THICKNESS = 5 * (0.2969 * np.sqrt(_S) - 0.126 * _S - 0.3516 * _S**2 + 0.2843 * _S**3 - 0.1036 * _S**4)
# NACA 4-digit section: (chordwise share, offset for a thickness of 1), once around.
AIRFOIL = np.concatenate(
    [np.stack([_S, _HALF_THICKNESS], axis=1), np.stack([_S, -_HALF_THICKNESS], axis=1)[-2:0:-1]],
)


def lifting_surface(stations: np.ndarray, root: np.ndarray, upright: bool = False) -> Surface:
    """Aerofoil loft through stations; ``upright`` exchanges span and height (a fin)."""
    x, y, edge, chord, thickness = stations.T
    direction = np.gradient(stations[:, :2], axis=0)
    direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-12)
    s, h = AIRFOIL.T
    offset = thickness[:, None] * h
    sideways = x[:, None] - offset * direction[:, 1:]
    upwards = y[:, None] + offset * direction[:, :1]
    points = np.stack([sideways, upwards, edge[:, None] + chord[:, None] * s], axis=-1)
    return loft((points[..., [1, 0, 2]] if upright else points) + root)


@dataclass
class Tail:
    """``kind``: "low", "cross", "t", "v", "twin" (fins on the body),
    "h" (fins on the tailplane's ends), "boom", "none"."""

    kind: str
    fin: Wing
    plane: Wing
    position: float = 0.98  # where the root chords end, share of the length; beyond 1 on booms
    height: float = 0.0  # of the tailplane's root above the axis, half heights of the body
    spread: float = 0.0  # lateral distance of twin fins or booms
    cant: float = 0.0  # of twin fins outwards, degrees
    ventral: float = 0.0  # size of the ventral fin relative to the fin
    fillet: float = 0.0  # length of the dorsal fillet


@dataclass
class Engine:
    """``mount``: "wing" at (share of the half span, height in radii, how much of the length lies ahead of the leading
    edge), "body" at (share of the length, degrees around the body, gap in radii),
    "fin" at (share, height in radii, 0)."""

    kind: str  # "fan", "prop", "pusher", "pod"
    mount: str
    at: tuple[float, float, float]
    radius: float
    length: float
    blades: int = 0
    propeller: float = 0.0  # radius


@dataclass
class Gear:
    kind: str  # "tricycle", "taildragger", "floats"
    wheel: float
    drop: float  # below the belly
    track: float
    main: float  # share of the length
    spats: bool = False
    on_wing: bool = False
    bogie: int = 1  # wheels per leg, side by side


@dataclass
class Airplane:
    kind: str
    fuselage: Fuselage
    wing: Wing
    wing_position: float  # leading edge of the root, share of the length
    wing_height: float  # -1 low, 0 middle, 1 high
    tail: Tail
    engines: list[Engine] = field(default_factory=list)
    nose: str = "plain"  # "plain", "propeller", "radial", "intake", "probe"
    nose_blades: int = 0
    nose_propeller: float = 0.0  # radius
    lower_wing: tuple[float, float] | None = None  # biplane: gap, stagger
    canard: tuple[Wing, float, float] | None = None  # position (share), height (-1..1)
    cockpit: str = "windscreen"  # "windscreen", "bubble", "flush", "cabin", "open", "none"
    cockpit_at: tuple[float, float] = (0.03, 0.06)  # shares of the length
    cockpit_height: float = 0.03
    cabin_windows: tuple[int, float, float] | None = None  # number, from, to
    intakes: tuple[str, float, float] | None = None  # "side", "chin" or "low"; from (share), size
    exhausts: int = 0
    tip_load: str | None = None  # "tank" or "missile" on the wing tips
    stores: list[tuple[str, float]] = field(default_factory=list)  # "tank", "missile" or "bomb", share of the half span
    wing_struts: bool = False
    sponsons: bool = False
    gear: Gear | None = None


def plain(base: np.ndarray, span: np.ndarray, chord: np.ndarray) -> np.ndarray:
    return base


@dataclass
class Livery:
    """Paints of the parts; ``wing_pattern`` maps (colours (n, 3), share of the span, share of the chord) to colours."""

    body: Paint
    wing: Paint
    fin: Paint
    tail: Paint
    engine: Paint
    trim: Color
    spinner: Color
    store: Color
    glass: Color
    canopy: Paint
    dark: Color
    metal: Color
    emblem: tuple[Color, Color, Color] | None = None  # a roundel, from the outside
    stripes: list[tuple[float, float, float, float, Color]] = field(default_factory=list)  # from, to, angles
    wing_pattern: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] = plain


def draw(builder: Builder, plane: Airplane, livery: Livery) -> None:
    body = plane.fuselage
    builder.add(body.surface(), livery.body)
    builder.mark("nose", [0, body.axis(0), -0.5])
    builder.mark("tail_end", [0, body.axis(1), 0.5])
    middle = plane.wing_position + plane.wing.chord / 2
    builder.mark("belly", [0, body.bottom(middle), middle - 0.5])
    _draw_markings(builder, plane, livery)
    _draw_wings(builder, plane, livery)
    _draw_tail(builder, plane, livery)
    _draw_cockpit(builder, plane, livery)
    _draw_nose(builder, plane, livery)
    _draw_engines(builder, plane, livery)
    _draw_intakes(builder, plane, livery)
    _draw_exhausts(builder, plane, livery)
    _draw_stores(builder, plane, livery)
    if plane.gear:
        _draw_gear(builder, plane, plane.gear, livery)


# Wings and tail


def wing_root(plane: Airplane) -> np.ndarray:
    """Leading edge of the wing in the plane of symmetry."""
    body = plane.fuselage
    middle = plane.wing_position + plane.wing.chord / 2
    low, high = body.bottom(middle), body.top(middle)
    margin = 0.5 * plane.wing.thickness * plane.wing.chord
    y = low + margin + (high - low - 2 * margin) * (plane.wing_height + 1) / 2
    return np.array([0.0, y, plane.wing_position - 0.5])


def _patterned(wing: Wing, root: np.ndarray, livery: Livery, base: Paint, upright: bool = False) -> Paint:
    """The livery's wing pattern over a base paint, in shares of the span and of the chord."""
    stations = wing.stations()

    def colors(points: np.ndarray) -> np.ndarray:
        local = points - root
        span = np.abs(local[:, 1 if upright else 0])
        edge, chord = np.interp(span, stations[:, 0], stations[:, 2]), np.interp(span, stations[:, 0], stations[:, 3])
        return livery.wing_pattern(paint.evaluate(base, points), span / wing.span, (local[:, 2] - edge) / chord)

    return colors


def _tip(stations: np.ndarray) -> np.ndarray:
    """Middle of the tip's chord, (3,)."""
    return stations[-1, :3] + [0, 0, stations[-1, 3] / 2]


def _draw_wings(builder: Builder, plane: Airplane, livery: Livery) -> None:
    root, wing = wing_root(plane), plane.wing
    builder.add_pair(lifting_surface(wing.stations(), root), _patterned(wing, root, livery, livery.wing))
    builder.mark_pair("wing_tip", root + _tip(wing.stations()))
    side = wing.at(min(0.9, plane.fuselage.width / 2 / wing.span))
    builder.mark_pair("wing_root_front", root + side[:3])
    builder.mark_pair("wing_root_rear", root + side[:3] + [0, 0, side[3]])
    if livery.emblem:
        for color, size in zip(livery.emblem, (0.26, 0.17, 0.09)):
            builder.add_pair(_wing_disc(wing, root, 0.72, size), color)
    if plane.lower_wing:
        _draw_biplane(builder, plane, livery)
    elif plane.wing_struts:
        at = wing.at(0.5)
        ends = root + at[:3] + [[0, 0, 0.2 * at[3]], [0, 0, 0.6 * at[3]]]
        foot = np.array(
            [
                0.9 * plane.fuselage.half_width(plane.wing_position + 0.05),
                0.9 * plane.fuselage.bottom(plane.wing_position + 0.05),
                root[2] + 0.3 * wing.chord,
            ]
        )
        builder.add_pair(join([_strut(foot, end, 0.018 * wing.chord) for end in ends]), livery.wing)
    if plane.canard:
        canard, position, height = plane.canard
        body = plane.fuselage
        at = np.array(
            [0, body.axis(position) + height * 0.8 * (body.top(position) - body.axis(position)), position - 0.5]
        )
        builder.add_pair(lifting_surface(canard.stations(), at), _patterned(canard, at, livery, livery.tail))
        builder.mark_pair("canard_tip", at + _tip(canard.stations()))


def _wing_disc(wing: Wing, root: np.ndarray, share: float, size: float) -> Surface:
    """A round emblem on the upper side; ``size`` is its radius over the chord there."""
    x, _, edge, chord, _ = wing.at(share)
    around = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    radius = size * chord
    xs, zs = x + radius * np.cos(around), edge + 0.45 * chord + radius * np.sin(around)
    stations = wing.stations()
    height, edge, chord, thickness = (np.interp(xs, stations[:, 0], stations[:, k]) for k in (1, 2, 3, 4))
    upper = thickness * np.interp((zs - edge) / chord, _S, _HALF_THICKNESS)
    lift = 0.002 + 0.004 * (0.26 - size)
    return fan(np.stack([xs, height + upper + lift, zs], axis=1) + root)


def _strut(start: np.ndarray, end: np.ndarray, size: float) -> Surface:
    return sweep([start, end], superellipse(size, 2.5 * size, 2, 6), up=(0, 0, 1))


def _draw_biplane(builder: Builder, plane: Airplane, livery: Livery) -> None:
    """A second wing above the one on the body, and the struts between them."""
    root, wing, body = wing_root(plane), plane.wing, plane.fuselage
    gap, stagger = plane.lower_wing
    upper_root = root + [0, gap, 0]
    lift = np.array([0, gap, 0])
    builder.add_pair(
        lifting_surface(wing.stations(), upper_root - [0, 0, stagger]),
        _patterned(wing, upper_root, livery, livery.wing),
    )
    builder.mark_pair("lower_wing_tip", root + _tip(wing.stations()))
    builder.mark_pair("wing_tip", upper_root - [0, 0, stagger] + _tip(wing.stations()))
    for share in (0.7, 0.4)[: 1 if wing.span < 0.5 else 2]:
        at = wing.at(share)
        for chordwise in (0.2, 0.7):
            foot = root + at[:3] + [0, 0, chordwise * at[3]]
            builder.add_pair(_strut(foot, foot + lift - [0, 0, stagger], 0.02 * wing.chord), livery.trim)
    foot = np.array(
        [0.6 * body.half_width(plane.wing_position), body.axis(plane.wing_position), root[2] + 0.3 * wing.chord]
    )
    head = upper_root + [1.2 * foot[0], 0, 0.3 * wing.chord - stagger]
    builder.add_pair(_strut(foot, head, 0.02 * wing.chord), livery.trim)


def _draw_tail(builder: Builder, plane: Airplane, livery: Livery) -> None:
    tail, body = plane.tail, plane.fuselage
    if tail.kind == "none":
        return
    end = tail.position - 0.5
    at = min(tail.position, 1.0)
    fin, tailplane = tail.fin.stations(), tail.plane.stations()
    fin_root = np.array([0, body.axis(at), end - tail.fin.chord])
    plane_root = np.array([0, body.axis(at) + tail.height * (body.top(at) - body.axis(at)), end - tail.plane.chord])
    if tail.kind in ("low", "t", "cross"):
        builder.add(
            lifting_surface(fin, fin_root, upright=True), _patterned(tail.fin, fin_root, livery, livery.fin, True)
        )
        builder.mark("fin_top", fin_root + _tip(fin)[[1, 0, 2]])
        if tail.kind != "low":
            joint = tail.fin.at(0.97 if tail.kind == "t" else 0.35)
            plane_root = fin_root + [0, joint[0], joint[2] + 0.15 * joint[3]]
        if tail.fillet:
            triangle = Wing(
                0.35 * tail.fin.span,
                tail.fillet,
                0.05,
                np.degrees(np.arctan2(tail.fillet, 0.35 * tail.fin.span)),
                thickness=0.05,
            )
            at_front = fin_root - [0, 0, 0.8 * tail.fillet] + [0, body.top(at - tail.fin.chord) - fin_root[1] - 0.01, 0]
            builder.add(lifting_surface(triangle.stations(), at_front, upright=True), livery.fin)
    if tail.kind == "boom":
        _draw_booms(builder, plane, livery)
        plane_root = plane_root * [1, 0, 1] + [0, wing_root(plane)[1] + tail.height * tail.fin.span, 0]
        fin_root = np.array([tail.spread, wing_root(plane)[1], fin_root[2]])
    if tail.kind in ("twin", "h", "boom"):
        if tail.kind == "h":
            fin_root = plane_root + [
                0.97 * tail.plane.span,
                tailplane[-1, 1] - 0.3 * tail.fin.span,
                tailplane[-1, 2] + tailplane[-1, 3] - tail.fin.chord,
            ]
        elif tail.kind == "twin":
            fin_root = fin_root + [tail.spread, 0, 0]
        surface = lifting_surface(fin, np.zeros(3), upright=True).turned("z", -tail.cant).moved(fin_root)
        builder.add_pair(surface, _patterned(tail.fin, fin_root, livery, livery.fin, True))
        tip = fin_root + [
            np.sin(np.radians(tail.cant)) * tail.fin.span,
            np.cos(np.radians(tail.cant)) * tail.fin.span,
            _tip(fin)[2],
        ]
        builder.mark_pair("twin_fin_top", tip)
    if tail.ventral:
        ventral = lifting_surface(fin, np.zeros(3), upright=True).scaled([1, -tail.ventral, tail.ventral])
        shift = [0, 0, (1 - tail.ventral) * tail.fin.chord]
        (builder.add if fin_root[0] == 0 else builder.add_pair)(ventral.moved(fin_root + shift), livery.fin)
    builder.add_pair(lifting_surface(tailplane, plane_root), _patterned(tail.plane, plane_root, livery, livery.tail))
    builder.mark_pair("tailplane_tip", plane_root + _tip(tailplane))


def _draw_booms(builder: Builder, plane: Airplane, livery: Livery) -> None:
    tail = plane.tail
    share = tail.spread / plane.wing.span
    start = wing_root(plane) + plane.wing.at(share)[:3]
    end = np.array([tail.spread, wing_root(plane)[1], tail.position - 0.5])
    thickness = 0.35 * plane.fuselage.half_width(0.4) * np.array([0.8, 1.2, 1.2, 0.9, 0.5])
    path = start + np.array([0.0, 0.1, 0.35, 0.7, 1.0])[:, None] * (end - start)
    builder.add_pair(tube(path, thickness, 10), livery.body)


# Body details


def _draw_markings(builder: Builder, plane: Airplane, livery: Livery) -> None:
    body = plane.fuselage
    for start, end, low, high, color in livery.stripes:
        builder.add_pair(body.patch(start, end, low, high, (24, 3)), color)
    if livery.emblem and plane.kind != "airliner":
        for k, (color, size) in enumerate(zip(livery.emblem, (0.3, 0.2, 0.1))):
            builder.add_pair(body.disc(0.68, 10, size * body.height * 0.6, 0.002 + 0.001 * k), color)
    if plane.cabin_windows:
        number, start, end = plane.cabin_windows
        step = (end - start) / number
        windows = [body.patch(start + k * step, start + (k + 0.55) * step, 14, 30, (2, 2)) for k in range(number)]
        builder.add_pair(join(windows), livery.dark)


def _draw_cockpit(builder: Builder, plane: Airplane, livery: Livery) -> None:
    body, (start, end), height = plane.fuselage, plane.cockpit_at, plane.cockpit_height
    middle = (start + end) / 2
    if plane.cockpit == "windscreen":
        panes = [body.patch(start, end, low, high, (5, 4)) for low, high in ((28, 57), (60, 88))]
        builder.add_pair(join(panes), livery.glass)
    elif plane.cockpit == "flush":
        builder.add(body.patch(start, end, 25, 155, (10, 12)), livery.glass)
    elif plane.cockpit == "bubble":
        _draw_bubble(builder, plane, livery)
    elif plane.cockpit == "cabin":
        front = start + 0.3 * (end - start)
        builder.add(body.patch(start, front, 32, 148, (6, 12)), livery.glass)
        panes = np.linspace(front + 0.01, end, 3)
        side = [body.patch(a, b - 0.012, 10, 42, (4, 4)) for a, b in zip(panes[:-1], panes[1:])]
        builder.add_pair(join(side), livery.glass)
    elif plane.cockpit == "open":
        builder.add(body.patch(start, end, 50, 130, (6, 8)), livery.dark)
        screen = ellipsoid([0.3 * body.width, height, 0.2 * height], [0, body.top(start), start - 0.5], n=12)
        builder.add(screen, livery.glass)
        builder.add(
            ellipsoid(
                [0.4 * height, 0.5 * height, 0.45 * height], [0, body.top(middle) + 0.3 * height, middle - 0.5], n=10
            ),
            livery.trim,
        )
    top = body.top(middle) + (height if plane.cockpit == "bubble" else 0)
    builder.mark("cockpit_top", [0, top, middle - 0.5])


def _draw_bubble(builder: Builder, plane: Airplane, livery: Livery) -> None:
    """Canopy: half sections that rise out of the body, highest a little ahead of the middle."""
    body, (start, end), height = plane.fuselage, plane.cockpit_at, plane.cockpit_height
    u = np.linspace(0.0, 1.0, 12)
    rise = np.sin(np.pi * u**0.75)
    t = start + (end - start) * u
    angle = np.radians(np.linspace(-20, 200, 14))
    rings = []
    for share, at in zip(rise, t):
        half_width = (0.25 + 0.75 * share**0.5) * 0.72 * body.half_width(at)
        base = body.top(at) - 0.35 * (body.top(at) - body.axis(at))
        y = base + (body.top(at) - base + height * share) * np.sin(angle)
        rings.append(np.stack([half_width * np.cos(angle), y, np.full_like(angle, at - 0.5)], axis=1))
    builder.add(grid(np.array(rings)), livery.canopy)


def _draw_nose(builder: Builder, plane: Airplane, livery: Livery) -> None:
    body = plane.fuselage
    half_width, half_height, axis = (float(v) for v in body.half_sizes(np.array(0.0)))
    tip = np.array([0, axis, -0.5])
    size = max(half_width, half_height)
    if plane.nose == "propeller":
        builder.add(propeller(tip, plane.nose_blades, plane.nose_propeller, 1.0 * size), livery.spinner)
    elif plane.nose == "radial":
        r = 0.55 * body.height
        length = 0.1
        cowl = revolve([(0.8 * r, 0), (0.95 * r, 0.008), (r, 0.03), (r, length), (0.7 * r, 1.3 * length)], axis="z")
        face = revolve([(1e-4, 0.01), (0.82 * r, 0.01)], axis="z")
        builder.add(cowl.moved(tip - [0, 0, 0.02]), livery.engine)
        builder.add(face.moved(tip - [0, 0, 0.033]), livery.dark)
        builder.add(propeller(tip - [0, 0, 0.025], plane.nose_blades, plane.nose_propeller, 0.22 * r), livery.spinner)
        builder.mark("nose", tip - [0, 0, 0.025 + 0.35 * r])
    elif plane.nose == "intake":
        ring = superellipse(2 * half_width, 2 * half_height, body.roundness, 20)
        face = np.insert(0.9 * ring, 2, -0.5 - 0.002, axis=1) + [0, axis, 0]
        builder.add(fan(face), livery.dark)
        builder.add(revolve([(1e-4, -0.05), (0.25 * size, -0.02), (0.5 * size, 0.01)], 12, "z").moved(tip), livery.trim)
    elif plane.nose == "probe":
        builder.add(tube([tip + [0, 0, 0.01], tip - [0, 0, 0.07]], [0.004, 0.0015], 6), livery.dark)


def propeller(center: np.ndarray, blades: int, radius: float, spinner: float) -> Surface:
    """Spinner with blades in front of ``center``."""
    s = np.linspace(0, 1, 6)
    parts = [revolve(np.stack([spinner * np.sqrt(1 - s**2) + 1e-5, -1.5 * spinner * s], axis=1), 14, "z")]
    blade = ellipsoid([0.085 * radius, 0.5 * radius, 0.015 * radius], n=8).turned("y", 30).moved([0, 0.5 * radius, 0])
    parts += [blade.turned("z", 360 * (k + 0.25) / blades).moved([0, 0, -0.4 * spinner]) for k in range(blades)]
    return join(parts).moved(center)


# Engines


def engine_position(plane: Airplane, engine: Engine) -> tuple[np.ndarray, np.ndarray]:
    """Centre of the engine's front, and the point on the airframe that its pylon leads to."""
    body = plane.fuselage
    a, b, c = engine.at
    if engine.mount == "wing":
        x, y, edge, chord, _ = plane.wing.at(a)
        on_wing = wing_root(plane) + [x, y, edge]
        return on_wing + [0, b * engine.radius, -c * engine.length], on_wing + [0, 0, 0.3 * chord]
    if engine.mount == "body":
        skin = body.point(a + 0.5 * engine.length, b)
        outwards = np.array([np.cos(np.radians(b)), np.sin(np.radians(b)), 0])
        return (skin + outwards * engine.radius * (1 + c)) * [1, 1, 0] + [0, 0, a - 0.5], skin - 0.02 * outwards
    height = body.top(min(a + 0.5 * engine.length, 1.0)) + b * engine.radius
    return np.array([0, height, a - 0.5]), np.array([0, body.axis(min(a, 1.0)), a - 0.5 + 0.5 * engine.length])


def _draw_engines(builder: Builder, plane: Airplane, livery: Livery) -> None:
    lateral = []
    for engine in plane.engines:
        position, joint = engine_position(plane, engine)
        middle = position + [0, 0, engine.length / 2]
        if position[0] == 0:
            builder.mark("center_engine", middle)
            add: Callable = builder.add
        else:
            lateral.append(middle)
            add = builder.add_pair
        for surface, color in engine_parts(engine, livery):
            add(surface.moved(position), color)
        if np.linalg.norm((joint - middle)[:2]) > 0.8 * engine.radius:
            section = superellipse(0.25 * engine.radius, 0.6 * engine.length, 2, 10)
            add(sweep([middle, joint], section, up=(0, 0, 1)), livery.engine)
    for name, middle in zip(("inner_engine", "outer_engine"), sorted(lateral, key=lambda point: point[0])):
        builder.mark_pair(name, middle)


def engine_parts(engine: Engine, livery: Livery) -> list[tuple[Surface, Paint]]:
    """Painted surfaces with the centre of the front at the origin."""
    r, length = engine.radius, engine.length
    if engine.kind == "fan":
        face = revolve([(1e-4, 0.15 * length), (0.87 * r, 0.15 * length), (0.88 * r, 0.02 * length)], axis="z")
        cone = revolve([(0.3 * r, 0.15 * length), (1e-4, 0.06 * length)], 10, "z")
        lip = revolve([(0.86 * r, 0.04 * length), (0.92 * r, 0), (0.98 * r, 0.06 * length)], axis="z")
        cowl = [(0.98, 0.06), (1.03, 0.25), (1.0, 0.5), (0.85, 0.8), (0.72, 0.9), (0.6, 0.88)]
        core = [(0.6, 0.8), (0.48, 1.05), (0.42, 1.05), (0.3, 1.0), (0.03, 1.3)]
        return [
            (face, livery.dark),
            (cone, livery.metal),
            (lip, livery.metal),
            (revolve([(a * r, b * length) for a, b in cowl], axis="z"), livery.engine),
            (revolve([(a * r, b * length) for a, b in core], axis="z"), livery.metal),
        ]
    if engine.kind == "pod":
        profile = [(0.75, 0.0), (0.9, 0.03), (1.0, 0.2), (1.0, 0.7), (0.85, 1.0), (0.7, 1.0), (0.6, 0.9), (0.01, 0.9)]
        face = revolve([(1e-4, 0.03 * length), (0.76 * r, 0.02 * length)], axis="z")
        return [(revolve([(a * r, b * length) for a, b in profile], axis="z"), livery.engine), (face, livery.dark)]
    s = np.array([0, 0.02, 0.1, 0.25, 0.45, 0.7, 0.9, 1.0])
    radius = r * np.array([0.5, 0.72, 0.9, 1.0, 0.97, 0.72, 0.35, 0.05])
    nacelle = revolve(np.stack([radius, s * length], axis=1), axis="z")
    hub = propeller(np.zeros(3), engine.blades, engine.propeller, 0.45 * r)
    parts = [(nacelle, livery.engine), (hub, livery.spinner)]
    if engine.kind == "pusher":
        return [(surface.scaled([1, 1, -1]).moved([0, 0, length]), color) for surface, color in parts]
    return parts


def _draw_intakes(builder: Builder, plane: Airplane, livery: Livery) -> None:
    if not plane.intakes:
        return
    body = plane.fuselage
    kind, start, size = plane.intakes
    end = 0.97
    t = np.concatenate([[start], start + (end - start) * np.array([0.15, 0.4, 0.7, 0.9, 1.0])])
    outline = superellipse(1, 1, 4, 20)
    rings = []
    for at, growth in zip(t, (0.9, 1.0, 1.05, 1.0, 0.85, 0.7)):
        half_width, half_height, axis = (float(v) for v in body.half_sizes(np.array(at)))
        width, height = size * growth, size * growth * (1.3 if kind == "side" else 0.9)
        x = {"side": half_width + 0.15 * width, "low": 0.55 * max(half_width, width), "chin": 0.0}[kind]
        y = axis + {"side": 0.0, "low": -half_height - 0.15 * height, "chin": -half_height - 0.2 * height}[kind]
        if kind == "chin":
            width, y = 1.5 * width, y + height * 0.8 * (at - start) / (end - start)
        rings.append(np.insert(outline * [width, height], 2, at - 0.5, axis=1) + [x, y, 0])
    rings = np.array(rings)
    rings[0, :, 2] += 0.25 * (rings[0, :, 1] - rings[0, :, 1].max()) * -1.0  # raked lip
    mouth = fan(0.9 * rings[0] + 0.1 * rings[0].mean(0) - [0, 0, 0.001])
    add = builder.add if kind == "chin" else builder.add_pair
    add(loft(rings), livery.body)
    add(mouth, livery.dark)


def _draw_exhausts(builder: Builder, plane: Airplane, livery: Livery) -> None:
    if not plane.exhausts:
        return
    body = plane.fuselage
    half_width, half_height, axis = (float(v) for v in body.half_sizes(np.array(0.99)))
    r = min(0.95 * half_height, half_width if plane.exhausts == 1 else 0.6 * half_width)
    nozzle = [(r, -0.04), (1.02 * r, 0.0), (0.85 * r, 0.05), (0.75 * r, 0.05), (0.7 * r, 0.0), (1e-4, -0.01)]
    surface = revolve(nozzle, 18, "z")
    if plane.exhausts == 1:
        builder.add(surface.moved([0, axis, 0.5]), livery.metal)
    else:
        position = np.array([max(r, plane.tail.spread * 0.8), axis, 0.5])
        builder.add_pair(surface.moved(position), livery.metal)
        builder.mark_pair("exhaust", position + [0, 0, 0.05])


# Loads and gear


def _store(kind: str, size: float) -> Surface:
    """A load along z, its middle at the origin; ``size`` is its length."""
    slim = {"tank": 0.075, "bomb": 0.09, "missile": 0.03}[kind] * size
    s = np.array([0, 0.03, 0.1, 0.25, 0.65, 0.85, 1.0])
    profile = np.stack([slim * np.array([0.02, 0.4, 0.75, 1, 1, 0.8, 0.25]), (s - 0.5) * size], axis=1)
    parts = [revolve(profile, 12, "z")]
    if kind != "tank":
        for angle in (45, 135, 225, 315):
            parts.append(box([5 * slim, 0.1 * slim, 0.12 * size], [2.0 * slim, 0, 0.43 * size]).turned("z", angle))
    return join(parts)


def _draw_stores(builder: Builder, plane: Airplane, livery: Livery) -> None:
    root, wing = wing_root(plane), plane.wing
    for kind, share in plane.stores:
        x, y, edge, chord, thickness = wing.at(share)
        drop = 0.03 + thickness
        center = root + [x, y - drop, edge + 0.4 * chord]
        size = max(0.16, 0.8 * chord) if kind != "bomb" else 0.12
        builder.add_pair(_store(kind, size).moved(center), livery.store)
        builder.add_pair(box([0.006, drop, 0.4 * size], center + [0, drop / 2, 0]), livery.wing)
    if plane.tip_load:
        tip = root + _tip(wing.stations())
        builder.add_pair(_store(plane.tip_load, 0.22).moved(tip), livery.store)
    if plane.sponsons:
        body = plane.fuselage
        at = plane.wing_position + 0.5 * wing.chord
        center = [0.95 * body.half_width(at), 0.75 * body.bottom(at), at - 0.5]
        builder.add_pair(ellipsoid([0.25 * body.width, 0.22 * body.height, 0.13], center, 2.5), livery.body)


def _draw_gear(builder: Builder, plane: Airplane, gear: Gear, livery: Livery) -> None:
    body = plane.fuselage
    ground = body.bottom(gear.main) - gear.drop
    main = np.array([gear.track, ground, gear.main - 0.5])
    hinge = np.array([0.5 * body.half_width(gear.main), body.bottom(gear.main) + 0.15 * body.height, gear.main - 0.5])
    if gear.on_wing:
        hinge = np.array(
            [gear.track, wing_root(plane)[1] + plane.wing.at(min(1.0, gear.track / plane.wing.span))[1], main[2]]
        )
    leg = 0.12 * gear.wheel + 0.0025
    if gear.kind == "floats":
        _draw_floats(builder, plane, gear, livery)
        return
    builder.add_pair(tube([hinge, main], leg, 6), livery.metal)
    _add_wheels(builder.add_pair, main, gear.wheel, gear, livery)
    builder.mark_pair("main_wheel", main)
    if gear.kind == "tricycle":
        front = np.array([0, ground, -0.5 + max(0.08, 0.5 * (gear.main - 0.25))])
        t = front[2] + 0.5
        builder.add(tube([[0, body.bottom(t) + 0.1 * body.height, front[2]], front], leg, 6), livery.metal)
        _add_wheels(builder.add, front, 0.85 * gear.wheel, gear, livery)
        builder.mark("nose_wheel", front)
    else:
        at = 0.93
        rear = np.array([0, body.bottom(at) - 0.7 * gear.wheel, at - 0.5])
        builder.add(tube([[0, body.bottom(at) + 0.01, at - 0.51], rear], leg, 6), livery.metal)
        builder.add(wheel(rear, 0.45 * gear.wheel, 0.3 * gear.wheel), paint.RUBBER)
        builder.mark("tail_wheel", rear)


def _add_wheels(add: Callable, center: np.ndarray, radius: float, gear: Gear, livery: Livery) -> None:
    if gear.spats:
        shape = [0.55 * radius, 0.9 * radius, 2.0 * radius]
        add(ellipsoid(shape, center + [0, 0.35 * radius, 0.4 * radius], 2.3, 12), livery.trim)
    offsets = (np.arange(gear.bogie) - (gear.bogie - 1) / 2) * 0.9 * radius
    add(join([wheel(center + [offset, 0, 0], radius, 0.5 * radius) for offset in offsets]), paint.RUBBER)


def _draw_floats(builder: Builder, plane: Airplane, gear: Gear, livery: Livery) -> None:
    body = plane.fuselage
    y = body.bottom(gear.main) - gear.drop
    t = np.array([0.06, 0.1, 0.2, 0.45, 0.6, 0.9])
    size = 0.6 * gear.wheel * np.array([0.1, 0.7, 1.2, 1.3, 1.0, 0.2])
    rise = 0.03 * np.array([0.9, 0.6, 0.1, 0.0, 0.2, 0.5])
    outline = superellipse(1.6, 2.0, 2.6, 14)
    rings = [np.insert(s * outline, 2, at - 0.5, axis=1) + [gear.track, y + up, 0] for s, up, at in zip(size, rise, t)]
    builder.add_pair(loft(np.array(rings)), livery.trim)
    for at in (0.25, 0.5):
        foot = np.array([gear.track, y, at - 0.5])
        head = np.array([0.7 * body.half_width(at), body.bottom(at) + 0.1 * body.height, at - 0.5])
        builder.add_pair(join([_strut(foot, head, 0.006), _strut(foot, head * MIRROR, 0.004)]), livery.metal)
    builder.mark_pair("main_wheel", [gear.track, y, gear.main - 0.5])
