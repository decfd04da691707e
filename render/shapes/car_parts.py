"""What a car consists of, and how each part is drawn.

Lengths are in units of the car's length: z = -0.5 is the front bumper, +0.5 the rear one, and the ground is y = 0.
Parts off the plane of symmetry are described once, on the right, and mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from render.shapes import paint
from render.shapes.paint import Color, Paint
from render.shapes.primitives import (
    MIRROR,
    Builder,
    Surface,
    box,
    cylinder,
    ellipsoid,
    fan,
    grid,
    hermite,
    join,
    loft,
    pairs,
    revolve,
    superellipse,
    sweep,
    tube,
)

KEYPOINTS = (
    "hood_front",
    "tail_center",
    "roof_center",
    *pairs(
        "front_wheel",
        "rear_wheel",
        "roof_front",
        "roof_rear",
        "windscreen_base",
        "front_bumper",
        "rear_bumper",
        "headlamp",
        "taillamp",
        "mirror",
        "rear_wing",
    ),
)


@dataclass
class Body:
    """Everything below the windows: superelliptic sections along the car, cut out above the wheels."""

    width: float
    clearance: float
    profile: list[tuple[float, float]]  # (z, height of the upper side), front to rear
    upper: float = 4.0  # exponent of the upper half of the sections
    lower: float = 8.0
    waist: float = 0.55  # where the body is widest, share of its height
    nose_round: float = 0.06
    tail_round: float = 0.05
    nose_taper: float = 0.1  # narrowing over the front third
    tail_taper: float = 0.06
    nose_rake: float = 0.3  # how much of the height at the very front is rounded away
    angular: bool = False  # straight between the points of the profile

    def top(self, z: np.ndarray) -> np.ndarray:
        knots, heights = zip(*self.profile)
        z = np.asarray(z, float)
        return np.interp(z, knots, heights) if self.angular else hermite(knots, heights, z)

    def half_width(self, z: np.ndarray) -> np.ndarray:
        front, rear = np.clip((-0.17 - z) / 0.33, 0, 1), np.clip((z - 0.2) / 0.3, 0, 1)
        return self.width / 2 * (1 - self.nose_taper * front**2) * (1 - self.tail_taper * rear**2)

    def points(self, z: np.ndarray, degrees: np.ndarray, lift: float = 0.0) -> np.ndarray:
        """Skin points (..., 3); ``degrees`` around the section: 0 right, 90 top, 180 left."""
        z, angle = np.broadcast_arrays(np.asarray(z, float), np.radians(degrees))
        nose = np.clip((-0.5 + self.nose_round - z) / self.nose_round, 0, 1)
        tail = np.clip((z - 0.5 + self.tail_round) / self.tail_round, 0, 1)
        ends = np.sqrt(1 - 0.99 * np.maximum(nose, tail) ** 2)
        top, bottom = self.top(z), np.full_like(z, self.clearance)
        height = top - bottom
        squeeze = self.nose_rake * (1 - ends)
        top, bottom = top - 0.7 * squeeze * height, bottom + 0.3 * squeeze * height
        waist = bottom + self.waist * (top - bottom)
        half_width = self.half_width(z) - np.maximum(self.nose_round * (nose > 0), self.tail_round * (tail > 0)) * (
            1 - ends
        )
        c, s = np.cos(angle), np.sin(angle)
        exponent = np.where(s > 0, self.upper, self.lower)
        x = (half_width + lift) * np.sign(c) * np.abs(c) ** (2 / exponent)
        reach = np.where(s > 0, top - waist, waist - bottom) + lift
        y = waist + reach * np.sign(s) * np.abs(s) ** (2 / exponent)
        return np.stack([x, y, z], axis=-1)

    def patch(self, z: tuple[float, float], degrees: tuple[float, float], n: tuple[int, int] = (10, 4)) -> Surface:
        """A piece of the skin, a little outside it."""
        zs, angles = np.meshgrid(np.linspace(*z, n[0]), np.linspace(*degrees, n[1]), indexing="ij")
        return grid(self.points(zs, angles, lift=0.002))

    def side(self, z: float, share: float) -> np.ndarray:
        """Skin point on the right, at a share of the height there."""
        y = self.clearance + share * (float(self.top(z)) - self.clearance)
        ring = self.points(np.full(91, z), np.linspace(-90, 90, 91))
        return np.array([np.interp(y, ring[:, 1], ring[:, 0]), y, z])


@dataclass
class Wheels:
    radius: float
    width: float
    axles: tuple[float, float]
    arch: float = 1.15  # radius of the cut-out over the wheel's
    flare: float = 0.0  # thickness of a lip around the cut-out
    spokes: int = 0
    rear_scale: float = 1.0
    offset: float = 0.0  # how far they stand out of the body, share of their width

    @property
    def arch_top(self) -> float:
        """Height of the front wheels' cut-outs."""
        return self.radius * (1 + self.arch)


@dataclass
class Cabin:
    """The glasshouse: rings from the belt to the roof."""

    front: float  # z of the windscreen's base
    rear: float  # z of the rear window's base
    height: float  # of the roof above the ground
    front_lean: float  # how far back the windscreen's top lies
    rear_lean: float  # how far forward the rear window's top lies
    width: float = 0.93  # at the belt, relative to the body
    tumblehome: float = 0.14  # narrowing towards the roof
    boxiness: float = 4.0  # exponent of the side view: 2 a dome, 8 a box
    corner: float = 0.05  # radius of the plan's corners
    panes: int = 2  # side windows
    blind_rear: float = 0.0  # share of the side without windows, at the rear (vans)
    crown: float = 0.012
    pillar: float = 0.012  # half width


@dataclass
class Cockpit:
    """Where a car without a roof is open."""

    front: float = -0.14
    rear: float = 0.2
    screen: float = 0.11  # height of the windscreen
    lean: float = 0.08  # how far back its top lies
    bend: float = 0.05  # how far back its ends lie
    frame: float = 0.006  # radius of the windscreen's frame
    rows: int = 1  # of seats
    cage: bool = False  # bars from the windscreen to the rear
    canopy: bool = False  # a cloth over the cage


@dataclass
class RacerShape:
    """An open-wheeled racing car. Nose, engine and pods are relative to the usual ones."""

    nose: float  # width
    nose_lift: float  # of its tip
    engine: float  # height of its cover
    pods: float  # width, 0 without
    front_wing: float  # half its span, relative to the width over the wheels, 0 without
    front_chord: float
    rear_wing: float  # half its span, relative to the width over the wheels, 0 without
    rear_chord: float
    wing_height: float
    biplane: bool
    driver: float  # z of the driver's head
    screen: float  # height of a windscreen before it, 0 without
    bare_engine: bool  # without a cover


@dataclass
class KartShape:
    """A frame of tubes on four small wheels."""

    seat: float  # z of its back
    back: float  # height of its back
    lean: float  # how far its top lies behind
    pods: float  # width of the side pods, 0 without
    nose: float  # height of the nose fairing, 0 without
    shield: float  # height of the panel before the steering wheel, 0 without
    engine: int  # side of the engine: -1, 1, or 0 behind the seat
    bumper: bool  # behind


@dataclass
class Car:
    body: Body
    wheels: Wheels
    cabin: Cabin | None  # None of an open car
    cockpit: Cockpit = field(default_factory=Cockpit)  # where there is no cabin
    grille: str = "wide"  # "wide", "upright", "none"
    lamp_shape: str = "oval"  # "oval", "round", "box"
    lamp_size: float = 0.03  # 0 without
    plates: bool = True
    bumper: float = 0.0  # height of separate bumpers
    mirrors: bool = True
    spoiler: str = "none"  # "lip", "wing", "roof"
    roof_load: str = "none"  # "rails", "bar", "box"
    spare_wheel: bool = False
    scoop: bool = False
    sunroof: bool = False
    exhausts: int = 0
    fenders: float = 0.0  # size of separate mudguards: 1 slim, 2 bulky, 0 without
    bed: tuple[float, float] | None = None  # makes a pickup: from, height of the floor
    cargo: str = "none"  # in the bed: "box", "cover", "house"
    house: float = 0.0  # height of the top of a house on the bed
    roll_bar: bool = False
    racer: RacerShape | None = None  # makes a racing car, which has none of the above
    kart: KartShape | None = None  # makes a kart, likewise


@dataclass
class Finish:
    body: Paint
    roof: Paint
    glass: Color
    trim: Paint  # bumpers, flares
    hub: Color
    dark: Color
    lamp: Color
    tail_lamp: Color
    stripes: list[tuple[tuple[float, float], tuple[float, float], Color]] = field(default_factory=list)
    roof_stripe: Color | None = None
    number: Color | None = None  # a disc on the doors
    accent: Color = (200, 30, 30)
    bed: Paint = (60, 60, 60)  # floor of a pickup's bed


def draw(builder: Builder, car: Car, finish: Finish) -> None:
    if car.racer:
        _draw_racer(builder, car, car.racer, finish)
        return
    if car.kart:
        _draw_kart(builder, car, car.kart, finish)
        return
    _draw_body(builder, car, finish)
    _draw_wheels(builder, car, finish)
    if car.cabin:
        _draw_cabin(builder, car, car.cabin, finish)
    else:
        _draw_cockpit(builder, car, finish)
    if car.bed:
        _draw_bed(builder, car, finish)
    _draw_face(builder, car, finish)
    _draw_rear(builder, car, finish)
    _draw_extras(builder, car, finish)


# Body


def body_surface(body: Body, wheels: Wheels) -> Surface:
    arc = np.cos(np.linspace(0, np.pi, 10))
    z = np.concatenate(
        [
            -0.5 + body.nose_round * (1 - np.cos(np.linspace(0, np.pi / 2, 5))),
            0.5 - body.tail_round * (1 - np.cos(np.linspace(0, np.pi / 2, 5))),
            np.linspace(-0.42, 0.42, 13),
            [knot for knot, _ in body.profile],
            *(axle + sign * 1e-4 + wheels.arch * wheels.radius * arc for axle in wheels.axles for sign in (-1, 1)),
        ]
    )
    z = np.unique(np.round(np.clip(z, -0.5, 0.5), 4))
    rings = body.points(z[:, None], ((np.arange(24) + 0.5) * 15)[None])
    cut = arch_height(wheels, z)[:, None]
    rings[..., 1] = np.minimum(np.maximum(rings[..., 1], cut), np.maximum(rings[..., 1], body.top(z)[:, None] - 0.004))
    return loft(rings)


def arch_height(wheels: Wheels, z: np.ndarray) -> np.ndarray:
    """Height that the wheel cut-outs reach at z; 0 beside them."""
    height = np.zeros_like(z)
    for axle, scale in zip(wheels.axles, (1.0, wheels.rear_scale)):
        radius = wheels.arch * wheels.radius * scale
        inside = np.sqrt(np.maximum(radius**2 - (z - axle) ** 2, 0))
        height = np.where(np.abs(z - axle) < radius, wheels.radius * scale + inside, height)
    return height


def _draw_body(builder: Builder, car: Car, finish: Finish) -> None:
    body, wheels = car.body, car.wheels

    def colors(points: np.ndarray) -> np.ndarray:
        inside = (points[:, 1] < arch_height(wheels, points[:, 2]) + 1e-3) & (np.abs(points[:, 0]) < 0.46 * body.width)
        return np.where(inside[:, None], finish.dark, paint.evaluate(finish.body, points))

    builder.add(body_surface(body, wheels), colors)
    for axle, scale in zip(wheels.axles, (1.0, wheels.rear_scale)):  # what stands between the wheels of an axle
        length, height = 2.1 * wheels.arch * wheels.radius * scale, wheels.radius * scale * (1 + 0.8 * wheels.arch)
        width = 2 * (float(body.half_width(np.array(axle))) - wheels.width - 0.01)
        builder.add(
            box([width, height - body.clearance, length], [0, (height + body.clearance) / 2, axle]), finish.dark
        )
    for z, degrees, color in finish.stripes:
        patch = body.patch(z, degrees, (14, 3))
        builder.add_pair(patch, color)
    if finish.number is not None:
        middle = body.side(0.0, 0.6)
        angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
        disc = np.stack(
            [np.full(20, middle[0] + 0.004), middle[1] + 0.05 * np.cos(angle), 0.05 * np.sin(angle)], axis=1
        )
        builder.add_pair(fan(disc), finish.number)
    if wheels.flare:
        for axle, scale in zip(wheels.axles, (1.0, wheels.rear_scale)):
            angle = np.radians(np.linspace(-8, 188, 17))
            radius = wheels.arch * wheels.radius * scale
            x = body.half_width(np.array(axle)) - 0.004
            path = np.stack(
                [np.full(17, x), wheels.radius * scale + radius * np.sin(angle), axle - radius * np.cos(angle)], axis=1
            )
            builder.add_pair(tube(path, wheels.flare, 6), finish.trim)
    if car.fenders:
        _draw_fenders(builder, car, finish)


def _draw_fenders(builder: Builder, car: Car, finish: Finish) -> None:
    """Mudguards that stand off the body, and the running boards between them."""
    body, wheels = car.body, car.wheels
    for axle in wheels.axles:
        angle = np.radians(np.linspace(-5, 195, 15))
        reach = 1.2 * wheels.radius * (1 + 0.25 * car.fenders * np.clip(-np.cos(angle), 0, 1) * (angle > np.pi / 2))
        across = np.linspace(-1, 1, 7)
        dome = np.cos(across * np.pi / 2.6)
        x = 0.5 * body.width - 0.1 * wheels.width + 0.75 * car.fenders * wheels.width * across
        y = wheels.radius + (reach * np.sin(angle))[:, None] * dome
        z = axle - (reach * np.cos(angle))[:, None] * (0.6 + 0.4 * dome)
        builder.add_pair(grid(np.stack([np.broadcast_to(x, y.shape), y, z], axis=-1)), finish.trim)
    length = wheels.axles[1] - wheels.axles[0] - 2 * wheels.radius
    center = [0.5 * body.width + 0.01, body.clearance + 0.02, sum(wheels.axles) / 2]
    builder.add_pair(box([0.07, 0.015, length], center), finish.trim)


def _draw_wheels(builder: Builder, car: Car, finish: Finish) -> None:
    wheels = car.wheels
    for name, axle, scale in zip(("front_wheel", "rear_wheel"), wheels.axles, (1.0, wheels.rear_scale)):
        radius = wheels.radius * scale
        stand_out = wheels.offset + (0.25 if car.fenders else 0.0)
        outside = float(car.body.half_width(np.array(axle))) + stand_out * wheels.width
        center = np.array([outside - wheels.width / 2 - 0.002, radius, axle])
        for surface, color in wheel_parts(radius, wheels.width, wheels.spokes, finish):
            builder.add_pair(surface.moved(center), color)
        builder.mark_pair(name, center + [wheels.width / 2, 0, 0])


def wheel_parts(radius: float, width: float, spokes: int, finish: Finish) -> list[tuple[Surface, Paint]]:
    """Tyre and hub of a right wheel about the origin."""
    h = width / 2
    tire = [(0.62, -h), (0.92, -h), (1.0, -0.6 * h), (1.0, 0.6 * h), (0.92, h), (0.64, h)]
    hub = [(0.65, 0.8 * h), (0.6, 0.95 * h), (0.25, 0.75 * h), (0.16, 0.95 * h), (1e-3, 1.0 * h)]

    def hub_color(points: np.ndarray) -> np.ndarray:
        angle = np.arctan2(points[:, 2], points[:, 1]) / (2 * np.pi) * spokes
        distance = np.linalg.norm(points[:, 1:], axis=1) / radius
        gap = (spokes > 0) & (angle % 1 < 0.5) & (distance > 0.25) & (distance < 0.55)
        return np.where(gap[:, None], finish.dark, finish.hub)

    return [
        (revolve([(a * radius, b) for a, b in tire], 20, "x"), paint.RUBBER),
        (revolve([(a * radius, b) for a, b in hub], 4 * spokes if spokes else 16, "x"), hub_color),
    ]


# Glasshouse


def cabin_rings(body: Body, cabin: Cabin, belt: float) -> tuple[np.ndarray, list[tuple[int, int]], tuple[int, int]]:
    """Rings (S, M, 3) from the belt upwards; the columns where panes begin and end; the rows likewise.

    The columns start in the middle of the windscreen and run over the right side to the rear.
    """
    corner_angle = np.linspace(0, np.pi / 2, 5)
    phi = np.concatenate([[0, 0.04, 0.09], np.linspace(0.2, 1.0, 8)]) * np.pi / 2
    rise, inset = np.sin(phi) ** (2 / cabin.boxiness), 1 - np.cos(phi) ** (2 / cabin.boxiness)
    inset = np.minimum(inset, 0.999)
    half_width = body.width / 2 * cabin.width
    rings = []
    for h, i in zip(rise, inset):
        front = cabin.front + cabin.front_lean * h
        rear = cabin.rear - cabin.rear_lean * h
        depth = 0.5 * (rear - front) * (0.25 if cabin.boxiness > 3 else 0.45) * i
        front, rear = front + depth, rear - depth
        width = half_width * (1 - cabin.tumblehome * h) * (1 - (0.22 if cabin.boxiness > 3 else 0.35) * i)
        radius = min(cabin.corner, 0.45 * width, 0.45 * (rear - front))
        rings.append(_half_plan(width, front, rear, radius, corner_angle, cabin, belt + h * (cabin.height - belt)))
    return np.array(rings), *_pane_columns(cabin, len(corner_angle))


def _half_plan(
    width: float, front: float, rear: float, radius: float, angle: np.ndarray, cabin: Cabin, y: float
) -> np.ndarray:
    """Right half of a ring: windscreen's middle, corner, side with its pillars, corner, rear window's middle."""
    bow = 0.25 * radius
    x0 = width - radius
    ahead = np.stack([x0 * np.linspace(0, 1, 4)[:-1], front - bow * (1 - np.linspace(0, 1, 4)[:-1] ** 2)], axis=1)
    first = np.stack([x0 + radius * np.sin(angle), front + radius * (1 - np.cos(angle))], axis=1)
    last = np.stack([x0 + radius * np.cos(angle), rear - radius * (1 - np.sin(angle))], axis=1)
    shares = side_shares(cabin)
    side = np.stack([np.full(len(shares), width), front + radius + shares * (rear - front - 2 * radius)], axis=1)
    behind = np.stack([x0 * np.linspace(1, 0, 4)[1:], rear + 0.5 * bow * (1 - np.linspace(1, 0, 4)[1:] ** 2)], axis=1)
    plan = np.concatenate([ahead, first, side, last, behind])
    return np.insert(plan, 1, y, axis=1)


def side_shares(cabin: Cabin) -> np.ndarray:
    """Where pillars begin and end along the side, as shares of the straight part."""
    end = 1 - cabin.blind_rear
    borders = np.linspace(0, end, cabin.panes + 1)[1:] if cabin.blind_rear else np.linspace(0, 1, cabin.panes + 1)[1:-1]
    half = cabin.pillar / max(cabin.rear - cabin.front, 1e-6)
    return np.sort(np.concatenate([borders - half, borders + half]))


def _pane_columns(cabin: Cabin, corner: int) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Column ranges of the panes (windscreen, sides, rear window), and the rows between belt and roof."""
    sides = len(side_shares(cabin))
    start = 3 + corner - 2
    panes = [(0, 3 + 1)]
    edges = [start + 1] + list(range(start + 2, start + 2 + sides)) + [start + 2 + sides]
    panes += [(a, b) for a, b in zip(edges[::2], edges[1::2])]
    if cabin.blind_rear:
        panes.pop()
    total = 3 + 2 * corner + sides + 3
    panes.append((total - 3 - 2, total - 1))
    return panes, (1, 8)


def _draw_cabin(builder: Builder, car: Car, cabin: Cabin, finish: Finish) -> None:
    body = car.body
    belt = float(min(body.top(cabin.front), body.top(cabin.rear), body.top((cabin.front + cabin.rear) / 2))) - 0.012
    rings, panes, (low, high) = cabin_rings(body, cabin, belt)
    glass = np.zeros((rings.shape[0] - 1, rings.shape[1] - 1), bool)
    for start, end in panes:
        glass[low:high, start:end] = True
    if cabin.blind_rear > 0.3:
        glass[:, panes[-1][0] :] = False
    rows = np.arange(glass.shape[0])[:, None] >= high
    surface = grid(rings)
    kind = np.repeat((glass * 1 + (rows & ~glass) * 2).ravel(), 2)
    colors = np.where((kind == 1)[:, None], finish.glass, paint.evaluate(finish.body, surface.cells))
    colors = np.where((kind == 2)[:, None], paint.evaluate(finish.roof, surface.cells), colors)
    builder.add_pair(surface, lambda _: colors)
    top = rings[-1]
    roof = np.stack([top * [s, 1, 1] + [0, cabin.crown * (1 - s**2), 0] for s in np.linspace(1, 0, 6)])
    builder.add_pair(grid(roof), finish.roof)
    front, rear = top[np.argmin(top[:, 2] - 0.3 * top[:, 0])], top[np.argmax(top[:, 2] + 0.3 * top[:, 0])]
    builder.mark_pair("roof_front", front)
    builder.mark_pair("roof_rear", rear)
    middle = (top[0] + top[-1]) / 2
    builder.mark("roof_center", [0, cabin.height + cabin.crown, middle[2]])
    base = rings[0]
    builder.mark_pair("windscreen_base", base[np.argmin(base[:, 2] - 0.5 * base[:, 0])])
    if finish.roof_stripe is not None:
        stripe = roof[-2] * [0.6, 1, 1] + [0, 0.003, 0]
        builder.add(grid(np.stack([stripe * MIRROR, stripe])), finish.roof_stripe)
    if car.sunroof:
        builder.add(
            box([0.5 * top[:, 0].max(), 0.006, 0.1], [0, cabin.height + cabin.crown, top[0, 2] + 0.08]), finish.glass
        )


# Front, rear, extras


def _draw_face(builder: Builder, car: Car, finish: Finish) -> None:
    body = car.body
    z = -0.5 + 0.35 * body.nose_round
    lamp = body.side(z, 0.66) * [0.86, 1, 1]
    size = car.lamp_size
    shapes = {
        "round": lambda: ellipsoid([size, size, 0.6 * size], lamp + [0, 0, 0.004]),
        "oval": lambda: ellipsoid([1.4 * size, 0.75 * size, 1.3 * size], lamp + [0, 0, 0.01], 2.4),
        "box": lambda: box([2.4 * size, 1.3 * size, 1.6 * size], lamp + [0, 0, 0.35 * size]),
    }
    if size:
        builder.add_pair(shapes[car.lamp_shape](), finish.lamp)
        builder.mark_pair("headlamp", lamp)
    height = float(body.top(-0.49)) - body.clearance
    if car.grille != "none":
        wide, tall = (0.55, 0.22) if car.grille == "wide" else (0.24, 0.45)
        center = [0, body.clearance + (0.55 if car.grille == "wide" else 0.5) * height, -0.5 + 0.02]
        builder.add(box([wide * body.width, tall * height, 0.048], center, 0.006), finish.dark)
        builder.add(
            box([0.8 * body.width * 0.7, 0.14 * height, 0.046], [0, body.clearance + 0.2 * height, -0.478]), finish.dark
        )
    if car.plates:
        builder.add(box([0.12, 0.028, 0.01], [0, body.clearance + 0.36 * height, -0.5]), (225, 225, 215))
    hood = body.points(np.array(-0.5 + 0.5 * body.nose_round), np.array(90.0))
    builder.mark("hood_front", hood)
    _draw_bumper(builder, car, finish, -1)


def _draw_bumper(builder: Builder, car: Car, finish: Finish, end: int) -> None:
    body = car.body
    y = body.clearance + 0.06 + car.bumper / 2
    z = end * 0.495
    corner = np.array([0.46 * body.width * (1 - (body.nose_taper if end < 0 else body.tail_taper)), y, z - end * 0.025])
    if car.bumper:
        half = corner[0] + 0.01
        x = half * np.sin(np.linspace(-np.pi / 2, np.pi / 2, 11))
        plan = z + end * (0.012 - 0.05 * np.abs(x / half) ** 6)
        path = np.stack([x, np.full(11, y), plan], axis=1)
        builder.add(sweep(path, superellipse(0.03, car.bumper, 4, 10)), finish.trim)
    builder.mark_pair("front_bumper" if end < 0 else "rear_bumper", corner)


def _draw_rear(builder: Builder, car: Car, finish: Finish) -> None:
    body = car.body
    z = 0.5 - 0.3 * body.tail_round
    height = float(body.top(0.49)) - body.clearance
    lamp = body.side(z, 0.72) * [0.88, 1, 1]
    size = car.lamp_size
    shape = [0.9 * size, 1.3 * size, size] if car.cabin and car.cabin.rear > 0.42 else [1.6 * size, 0.8 * size, size]
    if size:
        builder.add_pair(box(2 * np.array(shape), lamp + [0, 0, -0.5 * size], 0.3 * size), finish.tail_lamp)
        builder.mark_pair("taillamp", lamp)
    builder.mark("tail_center", [0, body.clearance + 0.6 * height, 0.5])
    if car.plates:
        builder.add(box([0.12, 0.028, 0.012], [0, body.clearance + 0.45 * height, 0.497]), (225, 225, 215))
    for x in (0.28, 0.2)[: car.exhausts]:
        pipe = [x * body.width, body.clearance + 0.015, 0.45]
        builder.add_pair(cylinder(pipe, np.array(pipe) + [0, 0, 0.06], 0.012, 10), paint.CHROME)
    if car.spare_wheel:
        radius = 0.95 * car.wheels.radius
        for surface, color in wheel_parts(radius, car.wheels.width, car.wheels.spokes, finish):
            builder.add(
                surface.turned("y", -90).moved(
                    [0, body.clearance + 0.75 * height + 0.02, 0.5 + 0.5 * car.wheels.width]
                ),
                color,
            )
    _draw_bumper(builder, car, finish, 1)


def _draw_extras(builder: Builder, car: Car, finish: Finish) -> None:
    body, cabin = car.body, car.cabin
    if car.mirrors and cabin:
        base = body.side(cabin.front + 0.3 * max(cabin.front_lean, 0.05), 0.96)
        center = base * [1, 0, 1] + [0.012, float(body.top(base[2])) + 0.018, 0]
        builder.add_pair(ellipsoid([0.026, 0.017, 0.013], center, 2.6, 12), finish.body)
        builder.mark_pair("mirror", center)
    if car.scoop:
        z = -0.33
        builder.add(ellipsoid([0.16 * body.width, 0.022, 0.07], [0, float(body.top(z)), z], 3), finish.body)
        builder.add(box([0.22 * body.width, 0.014, 0.01], [0, float(body.top(z)) + 0.008, z - 0.066]), finish.dark)
    if car.spoiler != "none":
        _draw_spoiler(builder, car, finish)
    if cabin and car.roof_load != "none":
        _draw_roof_load(builder, car, cabin, finish)


def _draw_spoiler(builder: Builder, car: Car, finish: Finish) -> None:
    body, cabin = car.body, car.cabin
    if car.spoiler == "roof" and cabin:
        z, y = cabin.rear - cabin.rear_lean + 0.01, cabin.height + 0.004
    else:
        z = 0.47
        y = float(body.top(0.46)) + (0.09 if car.spoiler == "wing" else 0.012)
    half = 0.46 * body.width if car.spoiler != "roof" else 0.36 * body.width
    builder.add(sweep([[-half, y, z], [half, y, z]], superellipse(0.075, 0.013, 2.5, 12)), finish.trim)
    if car.spoiler == "wing":
        builder.add_pair(box([0.012, 0.1, 0.03], [0.7 * half, y - 0.05, z]), finish.dark)
        builder.add_pair(box([0.006, 0.04, 0.09], [half, y, z]), finish.trim)
    builder.mark_pair("rear_wing", [half, y, z])


def _draw_roof_load(builder: Builder, car: Car, cabin: Cabin, finish: Finish) -> None:
    y, middle = cabin.height + cabin.crown, (cabin.front + cabin.front_lean + cabin.rear - cabin.rear_lean) / 2
    half_length = 0.36 * (cabin.rear - cabin.rear_lean - cabin.front - cabin.front_lean)
    half_width = 0.32 * car.body.width * cabin.width
    if car.roof_load in ("rails", "box"):
        path = [
            [half_width, y - 0.02, middle - half_length],
            [half_width, y + 0.012, middle - 0.8 * half_length],
            [half_width, y + 0.012, middle + 0.8 * half_length],
            [half_width, y - 0.02, middle + half_length],
        ]
        builder.add_pair(tube(path, 0.006, 6), finish.dark)
    if car.roof_load == "box":
        builder.add(box([1.3 * half_width, 0.06, 1.5 * half_length], [0, y + 0.045, middle], 0.02), finish.dark)
    elif car.roof_load == "bar":
        at = middle - 0.4 * half_length
        builder.add(box([1.7 * half_width, 0.02, 0.035], [0, y + 0.01, at]), finish.dark)
        builder.add_pair(box([0.6 * half_width, 0.025, 0.035], [0.5 * half_width, y + 0.03, at], 0.006), finish.accent)


# Pickups, open cars, racers


def _draw_bed(builder: Builder, car: Car, finish: Finish) -> None:
    start, floor = car.bed
    body = car.body
    x = float(body.half_width(np.array(0.3)))
    top = float(body.top(start - 0.06))
    height = top - floor + 0.02
    builder.add_pair(_bed_side(body, car.wheels, start, top), finish.body)
    builder.add(box([2 * x - 0.02, height, 0.03], [0, floor + height / 2 - 0.02, 0.478], 0.008), finish.body)
    builder.add(box([2 * x - 0.06, height, 0.02], [0, floor + height / 2 - 0.02, start + 0.005]), finish.body)
    builder.add(box([2 * x - 0.06, 0.004, 0.46 - start], [0, floor + 0.004, (start + 0.48) / 2]), finish.bed)
    if car.cargo == "cover":
        builder.add(box([2 * x - 0.03, 0.012, 0.48 - start], [0, top, (start + 0.49) / 2]), finish.dark)
    elif car.cargo == "house":
        size = [2 * x + 0.01, car.house - floor, 0.49 - start]
        builder.add(box(size, [0, (car.house + floor) / 2, (start + 0.49) / 2], 0.008), finish.roof)
    elif car.cargo == "box":
        builder.add(box([1.6 * x, 0.9 * height, 0.1], [0, floor + 0.45 * height, start + 0.08], 0.006), finish.accent)
    if car.roll_bar:
        y = top + 0.11
        path = [[x - 0.04, floor, start + 0.04], [x - 0.05, y, start + 0.05], [0, y + 0.005, start + 0.05]]
        builder.add_pair(tube(path, 0.01, 6), finish.trim)


def _bed_side(body: Body, wheels: Wheels, start: float, top: float) -> Surface:
    """Wall of a bed down to the sill, cut out above the wheel."""
    z = np.linspace(start - 0.01, 0.49, 25)
    outside = body.half_width(z) + 0.002
    low = np.maximum(body.clearance + 0.25 * (top - body.clearance), arch_height(wheels, z))
    corners = ((outside, low), (outside, top), (outside - 0.035, top), (outside - 0.035, low))
    return loft(np.stack([np.stack(np.broadcast_arrays(x, y, z), axis=-1) for x, y in corners], axis=1))


def _draw_cockpit(builder: Builder, car: Car, finish: Finish) -> None:
    """Open car: dark well, seats, windscreen, bars."""
    body, cockpit = car.body, car.cockpit
    front, rear = cockpit.front, cockpit.rear
    floor, half = float(body.top((front + rear) / 2)), 0.38 * body.width
    belt = float(body.top(front - 0.01))
    builder.add(body.patch((front + 0.02, rear), (55, 125), (8, 10)), finish.dark)
    for row in range(cockpit.rows):
        seat, at = max(floor, belt - 0.05), rear - 0.1 - 0.15 * row
        middle = [0.5 * half, (seat + floor) / 2 + 0.012, at - 0.06]
        cushion = box([0.32 * body.width, seat - floor + 0.03, 0.1], middle)
        rest = box([0.32 * body.width, 0.11, 0.03], [0.5 * half, seat + 0.05, at], 0.012)
        builder.add_pair(join([cushion, rest]), finish.accent)
    s = np.linspace(-1, 1, 9)
    low = np.stack([s * 0.44 * body.width, np.full(9, belt - 0.005), front + cockpit.bend * s**2], axis=1)
    high = low * [0.9, 1, 1] + [0, cockpit.screen, cockpit.lean]
    builder.add(grid(np.stack([low, high])), finish.glass)
    builder.add(tube(np.concatenate([low[:1], high, low[-1:]]), cockpit.frame, 6), finish.trim)
    builder.mark_pair("windscreen_base", low[-1])
    mirror = low[-1] + [0.02, 0.02, 0.03]
    if car.mirrors:
        builder.add_pair(ellipsoid([0.024, 0.016, 0.012], mirror, n=10), finish.body)
        builder.mark_pair("mirror", mirror)
    hoop = np.array([half, float(body.top(rear)), rear]), np.array([0.9 * half, belt + cockpit.screen + 0.03, rear])
    if car.roll_bar and not car.bed:
        builder.add(tube([hoop[0] * MIRROR, hoop[1] * MIRROR, hoop[1], hoop[0]], 0.01, 6), finish.trim)
    if cockpit.cage:
        builder.add_pair(tube([high[-1], hoop[1], hoop[1] * [1, 0, 1] + [0, belt - 0.02, 0.2]], 0.009, 6), finish.trim)
    if cockpit.canopy:
        edge = np.stack([high[-1], hoop[1]]) + [0, 0.008, 0]
        builder.add(grid(np.stack([edge * MIRROR, edge * [0, 1, 1] + [0, 0.02, 0], edge])), finish.roof)


def _draw_racer(builder: Builder, car: Car, shape: RacerShape, finish: Finish) -> None:
    """Open-wheeled: slim nose, side pods, wings, wheels on rods."""
    at, width, low, high = _racer_hull(car.body, shape)
    rings = [
        np.insert(superellipse(w, top - bottom, 3, 20) + [0, (bottom + top) / 2], 2, z, axis=1)
        for w, bottom, top, z in zip(width, low, high, at)
    ]
    builder.add(loft(np.array(rings)), finish.body)
    builder.mark("hood_front", [0, (low[0] + high[0]) / 2, at[0]])
    builder.mark("tail_center", [0, (low[-1] + high[-1]) / 2, at[-1]])
    if shape.pods:
        _draw_racer_pods(builder, car, shape, finish)
    _draw_racer_driver(builder, shape, float(np.interp(shape.driver, at, high)) + 0.005, finish)
    _draw_racer_engine(builder, shape, finish)
    _draw_racer_wings(builder, car, shape, finish)
    _draw_wheels(builder, car, finish)
    _draw_racer_rods(builder, car, finish)


def _racer_hull(body: Body, shape: RacerShape) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of 24 sections, front to rear: z, width, lower and upper side."""
    z = np.array([-0.5, -0.44, -0.3, -0.12, 0.0, 0.12, 0.3, 0.46])
    width = np.array([0.06, 0.1, 0.13, 0.17, 0.2, 0.2, 0.14, 0.08]) * body.width / 0.4
    width[:3] *= shape.nose
    height = np.array([0.03, 0.05, 0.08, 0.11, 0.11, 0.15, 0.13, 0.08])
    height[5:7] *= shape.engine
    low = np.array([0.06, 0.05, 0.04, 0.03, 0.03, 0.03, 0.03, 0.05])
    low[:3] += shape.nose_lift * np.array([1.0, 0.8, 0.4])
    at = np.linspace(-0.5, 0.46, 24)
    width, height, low = (hermite(z, values, at) for values in (width, height, low))
    return at, width, low, low + height


def _draw_racer_pods(builder: Builder, car: Car, shape: RacerShape, finish: Finish) -> None:
    pod = superellipse(1, 1, 4, 16)
    pods = [
        np.insert(pod * [shape.pods * w, h] + [0.13 * car.body.width / 0.4, 0.03 + h / 2], 2, z, axis=1)
        for z, w, h in ((-0.06, 0.1, 0.09), (0.0, 0.13, 0.1), (0.15, 0.12, 0.09), (0.32, 0.03, 0.05))
    ]
    builder.add_pair(loft(np.array(pods)), finish.body)
    builder.add_pair(fan(pods[0] - [0, 0, 0.002]), finish.dark)


def _draw_racer_driver(builder: Builder, shape: RacerShape, y: float, finish: Finish) -> None:
    """The opening of the cockpit, whose edge is at height ``y``, a helmet, a windscreen."""
    driver = shape.driver
    builder.add(ellipsoid([0.045, 0.02, 0.07], [0, y, driver - 0.02]), finish.dark)
    builder.add(ellipsoid([0.026, 0.032, 0.034], [0, y + 0.03, driver]), finish.accent)
    if shape.screen:
        s = np.linspace(-1, 1, 7)
        base = np.stack([0.05 * s, np.full(7, y - 0.01), driver - 0.1 + 0.05 * s**2], axis=1)
        builder.add(grid(np.stack([base, base * [0.9, 1, 1] + [0, shape.screen, 0.03]])), finish.glass)


def _draw_racer_engine(builder: Builder, shape: RacerShape, finish: Finish) -> None:
    driver = shape.driver
    if not shape.bare_engine:
        builder.add(ellipsoid([0.03, 0.05 * shape.engine, 0.1], [0, 0.17, driver + 0.13]), finish.body)
        return
    builder.add(box([0.1, 0.08 * shape.engine, 0.13], [0, 0.16, driver + 0.16], 0.01), paint.CHROME)
    pipe = [[0.05, 0.15, driver + 0.12], [0.1, 0.14, driver + 0.2], [0.06, 0.12, 0.4], [0.06, 0.12, 0.5]]
    builder.add_pair(tube(pipe, 0.01, 6), paint.CHROME)


def _draw_racer_rods(builder: Builder, car: Car, finish: Finish) -> None:
    """What holds the wheels."""
    wheels = car.wheels
    for axle, scale in zip(wheels.axles, (1.0, wheels.rear_scale)):
        hub = np.array([car.body.width / 2 - wheels.width, wheels.radius * scale, axle])
        rods = [tube([hub, [0.04, height, axle + dz]], 0.005, 5) for height in (0.06, 0.1) for dz in (-0.07, 0.05)]
        builder.add_pair(join(rods), finish.dark)


def _draw_racer_wings(builder: Builder, car: Car, shape: RacerShape, finish: Finish) -> None:
    if shape.front_wing:
        half, chord = shape.front_wing * car.body.width, shape.front_chord
        builder.add(box([2 * half, 0.01, chord], [0, 0.045, -0.505 + chord / 2]), finish.trim)
        builder.add_pair(box([0.006, 0.05, 1.2 * chord], [half, 0.055, -0.505 + chord / 2]), finish.trim)
        builder.mark_pair("front_bumper", [half, 0.05, -0.47])
    if shape.rear_wing:
        half, y, chord = shape.rear_wing * car.body.width, shape.wing_height, shape.rear_chord
        planes = [box([2 * half, 0.012, chord], [0, y, 0.44])]
        if shape.biplane:
            planes.append(box([2 * half, 0.01, 0.6 * chord], [0, y - 0.04, 0.45]))
        builder.add(join(planes), finish.trim)
        builder.add_pair(box([0.008, 0.1, 1.4 * chord], [half, y - 0.03, 0.44]), finish.trim)
        builder.add_pair(box([0.008, 0.12, 0.04], [0.06, y - 0.06, 0.43]), finish.dark)
        builder.mark_pair("rear_wing", [half, y, 0.44])


def _draw_kart(builder: Builder, car: Car, shape: KartShape, finish: Finish) -> None:
    """Tubes, a floor, a seat before the engine, a steering column, fairings."""
    body, wheels = car.body, car.wheels
    front, rear = wheels.axles
    half, y = 0.5 * body.width - wheels.width, 0.7 * wheels.radius
    inside = 0.55 * half
    frame = [[0, y, front - 0.12], [inside, y, front - 0.1], [inside, y, front], [inside, y, 0.0], [inside, y, rear]]
    builder.add_pair(tube(frame, 0.012, 6), finish.trim)
    builder.mark("hood_front", frame[0])
    builder.mark("tail_center", [0, y, rear])
    builder.mark_pair("front_bumper", frame[1])
    builder.add(
        box([2 * inside, 0.008, shape.seat - front + 0.05], [0, y, (shape.seat + front - 0.05) / 2]), finish.bed
    )
    for axle, scale in zip(wheels.axles, (1.0, wheels.rear_scale)):
        hub = [half, wheels.radius * scale, axle]
        builder.add_pair(tube([hub, [0, wheels.radius * scale, axle]], 0.01, 6), finish.trim)
    _draw_wheels(builder, car, finish)
    _draw_kart_seat(builder, shape, y, finish)
    engine = [0.18 * shape.engine, y + 0.06, shape.seat + 0.02 if shape.engine else shape.seat + 0.14]
    builder.add(box([0.1, 0.11, 0.14], engine, 0.015), finish.hub)
    if shape.nose:
        z = np.linspace(0, 1, 6)
        rings = [
            np.insert(superellipse(1.5 * half * (0.75 + 0.25 * s), h, 4, 16) + [0, 0.02 + h / 2], 2, at, axis=1)
            for s, h, at in zip(z, shape.nose * (0.4 + 0.6 * z), front - 0.19 + 0.13 * z)
        ]
        builder.add(loft(np.array(rings)), finish.body)
    if shape.pods:
        length = rear - front - wheels.radius * (1 + wheels.rear_scale) - 0.05
        pod = box([shape.pods, 0.09, length], [half - 0.3 * shape.pods, y + 0.03, (front + rear) / 2], 0.02)
        builder.add_pair(pod, finish.body)
    if shape.bumper:
        end = rear + 1.3 * wheels.radius * wheels.rear_scale
        bar = [[inside, y, rear], [0.8 * half, y + 0.03, end], [0, y + 0.03, end]]
        builder.add_pair(tube(bar, 0.014, 6), finish.trim)


def _draw_kart_seat(builder: Builder, shape: KartShape, y: float, finish: Finish) -> None:
    """The seat and what is before it: steering wheel, its column, a panel; ``y`` is the floor."""
    x = 0.12 * np.linspace(-1, 1, 7)
    edge = (x / 0.12) ** 4
    rows = [
        np.stack([x, y + 0.02 + shape.back * up + 0.05 * edge, shape.seat + back - 0.04 * edge], axis=1)
        for up, back in ((0.0, -0.16), (0.01, -0.02), (0.5, 0.25 * shape.lean), (1.0, shape.lean))
    ]
    builder.add(grid(np.array(rows)), finish.accent)
    wheel = np.array([0, y + 0.17, shape.seat - 0.24])
    builder.add(tube([[0, y, shape.seat - 0.42], wheel], 0.009, 6), finish.dark)
    rim = revolve([(0.055, -0.008), (0.068, 0.0), (0.055, 0.008), (0.045, 0.0), (0.055, -0.008)], 16, "z")
    builder.add(rim.turned("x", -35).moved(wheel), finish.dark)
    if shape.shield:
        panel = box([0.16, shape.shield, 0.02], [0, y + 0.02 + shape.shield / 2, shape.seat - 0.36], 0.008)
        builder.add(panel, finish.body)
