"""What a chair consists of, and how each part is drawn.

Lengths are in metres; the floor is y = 0, the sitter's knees point to -z. Parts off the plane of symmetry are
described once, on the right, and mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from render.shapes.paint import Paint
from render.shapes.primitives import (
    MIRROR,
    Builder,
    Surface,
    beam,
    box,
    circle,
    cylinder,
    ellipsoid,
    extrude,
    fillet,
    join,
    pairs,
    rectangle,
    revolve,
    rounded_rectangle,
    sheet,
    spline,
    superellipse,
    sweep,
    tube,
)

KEYPOINTS = (
    "seat_center",
    "back_top_center",
    "base_center",
    *pairs("seat_front", "seat_rear", "back_top", "back_bottom", "front_foot", "rear_foot", "arm_front", "arm_rear"),
)


@dataclass
class Seat:
    width: float  # at the front
    depth: float
    height: float  # of the upper side
    thickness: float
    kind: str = "plate"  # "plate", "dished", "slats", "shell" (one piece with the back)
    rear_width: float = 1.0  # relative to the front
    corner: float = 0.05  # radius, unless oval
    oval: bool = False
    crown: float = 0.0  # bulge of a cushion
    cushion: float = 0.0  # thickness of a loose cushion on top
    slats: int = 6

    @property
    def top(self) -> float:
        return self.height + self.cushion

    def outline(self, margin: float = 0.0) -> np.ndarray:
        """(M, 2) in (x, z)."""
        width, depth = self.width - 2 * margin, self.depth - 2 * margin
        if self.oval:
            points = superellipse(width, depth, 2.0, 28)
        else:
            points = rounded_rectangle(width, depth, max(self.corner - margin, 0.008), 5)
        share = points[:, 1] / depth + 0.5
        return points * np.stack([1 + (self.rear_width - 1) * share, np.ones(len(points))], axis=1)

    def corners(self) -> tuple[np.ndarray, np.ndarray]:
        """Front right and rear right corner of the upper side."""
        outline = self.outline()
        front, rear = outline[np.argmax(outline @ [1, -1])], outline[np.argmax(outline @ [1, 1])]
        return tuple(np.array([p[0], self.height, p[1]]) for p in (front, rear))


@dataclass
class Back:
    height: float  # of its top above the seat
    kind: str = "panel"  # "panel", "double" (two panels), "frame", "spindles", "hoop", "wrap", "none"
    width: float = 0.42  # at the top
    bottom_width: float = 0.4
    gap: float = 0.1  # between seat and lower edge
    lean: float = 8.0  # degrees
    curve: float = 0.0  # how far the sides come forward
    bow: float = 0.0  # bulge of the side view towards the sitter, lumbar support
    thickness: float = 0.03
    corner: float = 0.3  # share of the height over which the upper corners are rounded
    arch: float = 0.0  # rise of the top in its middle
    infill: str = "ladder"  # of a frame: "ladder", "slats", "splat", "cross", "panel", "rails"
    number: int = 4  # of slats, spindles, ladder steps
    post: float = 0.018  # half thickness of posts and rails
    round_posts: bool = False
    head_rest: bool = False
    handle: bool = False
    wings: float = 0.0  # how far the wings of a wing chair come forward
    arm_height: float = 0.55  # of a wrap: the height of its ends, share of the height behind
    pillows: tuple[float, ...] = ()  # loose ones before the back, at shares of its height


@dataclass
class Base:
    kind: str = "legs"  # a key of `_BASES`
    leg: float = 0.02  # half thickness
    round: bool = False
    taper: float = 1.0  # thickness of the foot relative to the top
    splay: float = 0.0  # outwards, metres at the foot
    splay_rear: float = 0.0  # backwards
    bend: float = 0.0  # bulge of curved legs, metres
    inset: float = 0.03
    stretchers: str = "none"  # "none", "box", "h", "rung"
    stretcher_height: float = 0.3  # share of the seat's height
    apron: float = 0.0  # height of the frame below the seat
    spokes: int = 5
    castors: bool = False
    radius: float = 0.3  # of star and foot plate
    rockers: bool = False
    foot_ring: bool = False


@dataclass
class Arms:
    kind: str = "none"  # "none", "post", "tee", "loop", "sweep", "panel", "roll"
    height: float = 0.2  # above the seat
    reach: float = 0.8  # share of the seat's depth, from the rear
    width: float = 0.05
    thickness: float = 0.03
    spread: float = 0.02  # beyond the seat's edge


@dataclass
class Chair:
    seat: Seat
    back: Back
    base: Base
    arms: Arms
    side_curl: float = 0.0  # of a shell: how far its edges come up
    edge_lift: float = 0.0  # of a shell: the height its sides rise to like arms
    foot_rest: float = 0.0  # length of one before the seat


@dataclass
class Finish:
    frame: Paint
    seat: Paint
    back: Paint
    arms: Paint
    accent: Paint
    castor: Paint
    wings: Paint


def back_point(chair: Chair, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Points (..., 3) of the back's middle surface at lateral positions x and heights h above the seat."""
    back, seat = chair.back, chair.seat
    x, h = np.broadcast_arrays(np.asarray(x, float), np.asarray(h, float))
    share = h / back.height
    bow = back.bow * np.sin(np.pi * np.clip(share * 1.3, 0, 1))
    forward = back.curve * (np.abs(x) / (back.width / 2)) ** 2 * np.clip(share * 3, 0, 1)
    z = seat.depth / 2 - 0.6 * back.thickness + h * np.tan(np.radians(back.lean)) - bow - forward
    return np.stack([x, seat.height + h, z], axis=-1)


def draw(builder: Builder, chair: Chair, finish: Finish) -> None:
    _draw_seat(builder, chair, finish)
    if chair.back.kind != "none":
        _draw_back(builder, chair, finish)
    _BASES[chair.base.kind](builder, chair, finish)
    if chair.foot_rest:
        _draw_foot_rest(builder, chair, finish)
    _draw_arms(builder, chair, finish)


# Seat


def _draw_foot_rest(builder: Builder, chair: Chair, finish: Finish) -> None:
    """A board that hangs from the front of the seat."""
    seat = chair.seat
    board = box([0.9 * seat.width, chair.foot_rest, 0.05], [0, -chair.foot_rest / 2, 0], 0.015).turned("x", 50)
    builder.add(board.moved([0, seat.height - 0.4 * seat.thickness, -seat.depth / 2]), finish.seat)


def _draw_seat(builder: Builder, chair: Chair, finish: Finish) -> None:
    seat = chair.seat
    builder.mark("seat_center", [0, seat.height + {"plate": seat.crown, "dished": -0.02}.get(seat.kind, 0.0), 0])
    front, rear = seat.corners()
    builder.mark_pair("seat_front", front)
    builder.mark_pair("seat_rear", rear)
    bottom = seat.height - seat.thickness
    if seat.kind == "plate":
        builder.add(extrude(seat.outline(), bottom, seat.height, 0.4 * seat.thickness, seat.crown), finish.seat)
    elif seat.kind == "dished":
        v, u = np.meshgrid(np.linspace(0, 1, 14), np.linspace(-1, 1, 12), indexing="ij")
        width = seat.width / 2 * (1 + (seat.rear_width - 1) * v) * (1 - (2 * v - 1) ** 8 * 0.12)
        y = seat.height - 0.04 * np.clip(0.25 - v, 0, 1) ** 2 * 16 + 0.02 * u**2 - 0.02 * np.sin(np.pi * v)
        builder.add(sheet(np.stack([u * width, y, (v - 0.5) * seat.depth], axis=-1), seat.thickness), finish.seat)
    elif seat.kind == "slats":
        _draw_slatted_seat(builder, seat, finish)
    elif seat.kind == "shell":
        _draw_shell(builder, chair, finish)
    if seat.cushion:
        cushion = extrude(seat.outline(0.015), seat.height, seat.top - 0.01, 0.4 * seat.cushion, 0.25 * seat.cushion)
        builder.add(cushion, finish.accent)
        builder.mark("seat_center", [0, seat.top - 0.01 + 0.25 * seat.cushion, 0])


def _draw_slatted_seat(builder: Builder, seat: Seat, finish: Finish) -> None:
    edges = np.linspace(-0.5, 0.5, seat.slats + 1) * seat.depth
    for start, end in zip(edges[:-1], edges[1:]):
        share = (start + end) / 2 / seat.depth + 0.5
        width = seat.width * (1 + (seat.rear_width - 1) * share)
        middle = [0, seat.height - seat.thickness / 2, (start + end) / 2]
        builder.add(box([width, seat.thickness, 0.75 * (end - start)], middle), finish.seat)
    rail = box(
        [0.03, 0.03, seat.depth], [0.42 * seat.width * min(1, seat.rear_width), seat.height - seat.thickness - 0.01, 0]
    )
    builder.add_pair(rail, finish.frame)


def _draw_shell(builder: Builder, chair: Chair, finish: Finish) -> None:
    """Seat and back in one moulded sheet: a side-view curve, widened and curled up at the edges."""
    seat, back = chair.seat, chair.back
    top = back_point(chair, 0.0, back.height)
    half = seat.depth / 2
    profile = spline(
        [
            [seat.height - 0.03, -half],
            [seat.height, -half + 0.05],
            [seat.height - 0.015, 0.1 * half],
            [seat.height + 0.03, half * 0.8],
            back_point(chair, 0.0, 0.35 * back.height)[1:],
            top[1:],
        ],
        26,
    )
    v = np.linspace(0, 1, len(profile))
    end = 1 - 0.75 * back.corner * np.clip((v - 0.75) / 0.25, 0, 1) ** 3 - 0.15 * np.clip((0.12 - v) / 0.12, 0, 1) ** 2
    half_width = np.interp(v, [0, 0.5, 1], [seat.width, max(seat.width, back.width) * 1.02, back.width]) / 2 * end
    u = np.linspace(-1, 1, 15)
    curl = chair.side_curl * np.sin(np.pi * np.clip(v * 1.05, 0, 1)) ** 0.7
    lift = chair.edge_lift * np.exp(-(((v - 0.45) / 0.24) ** 2))
    x = half_width[:, None] * u
    slope = np.gradient(profile, axis=0)
    normal = np.stack([slope[:, 1], -slope[:, 0]], axis=1) / np.linalg.norm(slope, axis=1, keepdims=True)
    bulge = (np.abs(u) ** 2.5)[None, :, None] * curl[:, None, None] * normal[:, None]
    points = np.concatenate([x[..., None], profile[:, None] + bulge], axis=-1)
    points[..., 1] += lift[:, None] * np.abs(u) ** 3
    builder.add(sheet(points, max(back.thickness, 0.012)), finish.seat)
    builder.mark("seat_center", points[10, 7])
    builder.mark_pair("seat_front", points[1, -1])
    builder.mark_pair("seat_rear", points[13, -1])
    builder.mark("back_top_center", points[-1, 7])
    builder.mark_pair("back_top", points[-1, -1])


# Back


def _draw_back(builder: Builder, chair: Chair, finish: Finish) -> None:
    back = chair.back
    if chair.seat.kind != "shell":
        builder.mark("back_top_center", back_point(chair, 0.0, back.height + back.arch))
        builder.mark_pair("back_top", back_point(chair, back.width / 2, back.height))
        builder.mark_pair("back_bottom", back_point(chair, back.bottom_width / 2, back.gap))
        _BACKS[back.kind](builder, chair, finish)
    if back.head_rest:
        top = back_point(chair, 0.0, back.height)
        builder.add(box([0.5 * back.width, 0.14, 0.07], top + [0, 0.12, -0.01], 0.03), finish.back)
        builder.add_pair(cylinder(top + [0.08, -0.05, 0], top + [0.08, 0.1, 0], 0.008, 6), finish.frame)
    for share in back.pillows:
        middle = back_point(chair, 0.0, share * back.height) - [0, 0, 0.5 * back.thickness + 0.03]
        pillow = ellipsoid([0.36 * back.width, 0.07, 0.05], n=14, exponent=3)
        builder.add(pillow.turned("x", back.lean).moved(middle), finish.accent)
    if back.wings:
        h = np.linspace(0.25, 0.97, 8) * back.height
        inner = back_point(chair, np.full(8, back.width / 2), h)
        depth = back.wings * np.sin(np.linspace(0.45, 0.85, 8) * np.pi)
        points = np.stack([inner + s * depth[:, None] * [0.15, 0, -1] for s in np.linspace(0, 1, 5)])
        builder.add_pair(sheet(points, 0.05), finish.wings)


def back_panel(chair: Chair, low: float, high: float, width: float, bottom_width: float, thickness: float) -> Surface:
    """A piece of the back between two heights, with rounded corners."""
    back = chair.back
    v = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 15)) / 2 + 0.5
    u = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 13))
    radius = np.clip(back.corner, 0.02, 0.95)
    rounding = np.sqrt(1 - np.clip((v - 1 + radius) / radius, 0, 1) ** 2 * 0.999) ** 0.8
    lower = np.sqrt(1 - np.clip((0.08 - v) / 0.08, 0, 1) ** 2 * 0.3)
    half = (bottom_width + (width - bottom_width) * v) / 2
    x = half[:, None] * u * (1 - (1 - rounding * lower) * 0.5 * min(1.0, 2 * radius))[:, None]
    h = low + (high - low) * v[:, None] + back.arch * v[:, None] ** 3 * (1 - u**2)
    padding = np.sqrt(np.clip(1 - (2 * v - 1) ** 6, 0.02, 1))[:, None] * np.sqrt(np.clip(1 - u**6, 0.02, 1))
    return sheet(back_point(chair, x, h), thickness * padding)


def _bar(chair: Chair, half_width: float, height: float, thickness: float, tall: float, arch: float = 0.0) -> Surface:
    """Horizontal rail that follows the back's curve."""
    x = np.linspace(-half_width, half_width, 9)
    path = back_point(chair, x, height + arch * (1 - (x / half_width) ** 2))
    return sweep(path, rectangle(thickness, tall))


def _half_width(back: Back, h: float) -> float:
    return (back.bottom_width + (back.width - back.bottom_width) * h / back.height) / 2


def _post_path(chair: Chair, inset: float = 0.0) -> np.ndarray:
    h = np.linspace(-0.5 * chair.seat.thickness, chair.back.height, 8)
    x = np.array([_half_width(chair.back, value) for value in h]) - inset
    return back_point(chair, x, h)


def _draw_posts(builder: Builder, chair: Chair, finish: Finish) -> None:
    back = chair.back
    section = circle(back.post) if back.round_posts else rectangle(1.8 * back.post, 2.2 * back.post)
    builder.add_pair(sweep(_post_path(chair, back.post), section, up=(0, 0, 1)), finish.frame)


def _draw_panel_back(builder: Builder, chair: Chair, finish: Finish) -> None:
    back = chair.back
    builder.add(back_panel(chair, back.gap, back.height, back.width, back.bottom_width, back.thickness), finish.back)
    if back.gap > 0.02:
        h = np.linspace(-0.5 * chair.seat.thickness, back.gap + 0.3 * (back.height - back.gap), 6)
        x = 0.0 if back.number % 2 else 0.35 * back.bottom_width
        path = back_point(chair, np.full(6, x), h) + [0, 0, 0.5 * back.thickness]
        support = sweep(path, rectangle(2.2 * back.post * (2 if x == 0 else 1), 1.4 * back.post), up=(0, 0, 1))
        (builder.add if x == 0 else builder.add_pair)(support, finish.frame)
    if back.handle:
        top = back_point(chair, np.linspace(-0.1, 0.1, 7), back.height - 0.05)
        builder.add(tube(top + [0, 0, 0.5 * back.thickness], 0.012, 6), finish.accent)


def _draw_double_back(builder: Builder, chair: Chair, finish: Finish) -> None:
    """Two cushions or shells, one above the other, on a pair of bars."""
    back = chair.back
    border = back.gap + 0.5 * (back.height - back.gap)
    for low, high in ((back.gap, border - 0.01), (border + 0.01, back.height)):
        builder.add(back_panel(chair, low, high, back.width, back.width, back.thickness), finish.back)
    h = np.linspace(-0.5 * chair.seat.thickness, 0.9 * back.height, 7)
    path = back_point(chair, np.full(7, 0.3 * back.bottom_width), h) + [0, 0, 0.6 * back.thickness]
    builder.add_pair(sweep(path, rectangle(2 * back.post, back.post), up=(0, 0, 1)), finish.frame)


def _draw_frame_back(builder: Builder, chair: Chair, finish: Finish) -> None:
    back = chair.back
    _draw_posts(builder, chair, finish)
    rail = 2.5 * back.post
    half = _half_width(back, back.height)
    builder.add(_bar(chair, half, back.height - rail / 2, 1.4 * back.post, rail * 1.3, back.arch), finish.frame)
    low, high = max(back.gap, 0.03), back.height - rail
    inner = _half_width(back, (low + high) / 2) - 2 * back.post
    if back.infill == "ladder":
        for h in np.linspace(low, high, back.number + 1)[:-1]:
            builder.add(
                _bar(chair, _half_width(back, h), h, back.post, 0.4 * (high - low) / back.number, back.arch),
                finish.back,
            )
        return
    builder.add(_bar(chair, _half_width(back, low), low, 1.2 * back.post, rail), finish.frame)
    if back.infill in ("slats", "splat"):
        number = back.number if back.infill == "slats" else 1
        width = 0.55 * inner * 2 / number if back.infill == "slats" else 0.7 * inner
        for x in (np.arange(number) - (number - 1) / 2) * (2 * inner / number):
            path = back_point(chair, np.full(6, x), np.linspace(low, high + rail / 2, 6))
            scale = 1 + 0.35 * np.cos(np.linspace(-np.pi, np.pi, 6)) * (back.infill == "splat")
            builder.add(sweep(path, rectangle(width, 0.8 * back.post), scale, up=(0, 0, 1)), finish.back)
    elif back.infill == "cross":
        x, h = np.linspace(-inner, inner, 8), np.linspace(low, high, 8)
        diagonal = sweep(back_point(chair, x, h), rectangle(back.post, 2 * back.post))
        builder.add_pair(diagonal, finish.back)
    elif back.infill == "panel":
        builder.add(back_panel(chair, low, high, 2 * inner, 2 * inner, max(back.thickness, 0.02)), finish.back)


def _draw_spindle_back(builder: Builder, chair: Chair, finish: Finish) -> None:
    """Windsor: thin rods between seat and a top rail or hoop."""
    back = chair.back
    number = back.number + 3
    for x in np.linspace(-1, 1, number):
        path = back_point(
            chair,
            np.linspace(x * back.bottom_width * 0.42, x * back.width * 0.46, 5),
            np.linspace(0, back.height - 0.02, 5),
        )
        builder.add(tube(path, 0.35 * back.post + 0.003, 5), finish.frame)
    builder.add(_bar(chair, back.width / 2, back.height - 0.02, 1.4 * back.post, 0.07, back.arch), finish.back)


def _draw_hoop_back(builder: Builder, chair: Chair, finish: Finish) -> None:
    """Bent hoop with spindles, a splat or a padded oval inside."""
    back = chair.back
    angle = np.linspace(0, np.pi, 19)
    x = np.cos(angle) * np.interp(np.sin(angle), [0, 0.5, 1], [back.bottom_width, back.width, back.width]) / 2
    h = np.sin(angle) ** 0.7 * back.height
    builder.add(tube(back_point(chair, x, h), back.post, 8), finish.frame)
    builder.mark_pair("back_top", back_point(chair, x[5], h[5]))
    builder.mark("back_top_center", back_point(chair, 0.0, back.height))
    if back.infill == "panel":
        panel = back_panel(
            chair, max(back.gap, 0.05), 0.97 * back.height, 0.9 * back.width, 0.85 * back.bottom_width, back.thickness
        )
        builder.add(panel, finish.back)
        return
    for x in np.linspace(-0.75, 0.75, back.number + 1):
        top = (1 - x**2) ** 0.35 * back.height
        path = back_point(
            chair, np.linspace(x * back.bottom_width * 0.4, x * back.width * 0.5, 4), np.linspace(0, top, 4)
        )
        builder.add(tube(path, 0.35 * back.post + 0.003, 5), finish.frame)


def _wrap(chair: Chair, degrees: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Half-round path behind the seat: (n, 2) in (x, z), and the angles from the rear, -degrees..degrees."""
    angle = np.radians(np.linspace(-degrees, degrees, n))
    a, b = chair.seat.width / 2 + 0.02, chair.seat.depth / 2 + 0.02
    s, c = np.sin(angle), np.cos(angle)
    return np.stack([a * np.sign(s) * np.abs(s) ** 0.8, b * np.sign(c) * np.abs(c) ** 0.8], axis=1), angle


def _draw_wrap_back(builder: Builder, chair: Chair, finish: Finish) -> None:
    """Low back that runs round the sitter as arm rests: tub and captain's chairs."""
    back, seat = chair.back, chair.seat
    plan, angle = _wrap(chair, 105 if back.number % 2 else 140, 25)
    top = back.height * (
        back.arm_height + (1 - back.arm_height) * (0.5 + 0.5 * np.cos(np.clip(angle * 1.4, -np.pi, np.pi)))
    )
    outwards = 1 + np.tan(np.radians(back.lean)) * 0.5
    bottom = -0.8 * seat.thickness if back.infill == "panel" else 0.75 * back.height
    v = np.linspace(0, 1, 7)[:, None]
    h = bottom + (top[None] - bottom) * v
    spread = 1 + (outwards - 1) * v
    points = np.stack([plan[:, 0] * spread, seat.height + h, plan[:, 1] * spread], axis=-1)
    builder.add(sheet(points, max(back.thickness, 0.02)), finish.back)
    if back.thickness > 0.06:  # a rolled rim
        builder.add(tube(points[-1], 0.75 * back.thickness, 10), finish.back)
    builder.mark_pair("arm_front", points[-1, -1])
    if back.infill != "panel":
        for k in range(2, 23, 4):
            foot = np.array([0.93 * plan[k, 0], seat.height - 0.01, 0.93 * plan[k, 1]])
            builder.add(tube([foot, points[2, k]], 0.35 * back.post + 0.004, 6), finish.frame)
    builder.mark("back_top_center", points[-1, 12])
    builder.mark_pair("back_top", points[-1, 16])
    builder.mark_pair("back_bottom", points[0, 16])


_BACKS = {
    "panel": _draw_panel_back,
    "double": _draw_double_back,
    "frame": _draw_frame_back,
    "spindles": _draw_spindle_back,
    "hoop": _draw_hoop_back,
    "wrap": _draw_wrap_back,
}


# Bases


def leg_joints(chair: Chair) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """name -> (upper end, foot) of the right front and right rear leg."""
    seat, base = chair.seat, chair.base
    sink = seat.thickness * (0.3 if seat.thickness < 0.12 else 0.9)
    y = seat.height - max(sink, {"dished": 0.03, "shell": 0.035}.get(seat.kind, 0.0))
    joints = {}
    for name, corner in zip(("front", "rear"), seat.corners()):
        direction = np.sign(corner[2])
        inset = base.inset + (0.12 * seat.width if seat.oval else 0)
        top = np.array([max(corner[0] - inset, 0.05), y, corner[2] - direction * inset])
        foot = top + [base.splay, 0, direction * (base.splay if name == "front" else base.splay_rear)]
        joints[name] = top, foot * [1, 0, 1]
    return joints


def _draw_legs(builder: Builder, chair: Chair, finish: Finish) -> None:
    base = chair.base
    section = circle(base.leg, 8) if base.round else rectangle(2 * base.leg, 2 * base.leg)
    joints = leg_joints(chair)
    lift = 0.05 if base.rockers else 0.0
    for name, (top, foot) in joints.items():
        foot = foot + [0, lift, 0]
        n = 7 if base.bend else 2
        s = np.linspace(0, 1, n)[:, None]
        outwards = np.array([0.4, 0, np.sign(top[2])])
        path = (
            top
            + s * (foot - top)
            + base.bend * outwards * (np.sin(2 * np.pi * s) if base.round else -np.sin(np.pi * s))
        )
        builder.add_pair(sweep(path, section, np.linspace(1, base.taper, n), up=(0, 0, 1)), finish.frame)
        builder.mark_pair(f"{name}_foot", foot)
    _draw_stretchers(builder, chair, joints, finish)
    if base.apron:
        _draw_apron(builder, chair, joints, finish)
    if base.rockers:
        (_, front), (_, rear) = joints["front"], joints["rear"]
        z = np.linspace(front[2] - 0.1, rear[2] + 0.22, 14)
        y = 0.035 + 0.35 * (z - 0.04) ** 2
        path = np.stack([np.interp(z, [front[2], rear[2]], [front[0], rear[0]]), y, z], axis=1)
        builder.add_pair(sweep(path, rectangle(0.035, 0.04)), finish.frame)


def _draw_stretchers(builder: Builder, chair: Chair, joints: dict, finish: Finish) -> None:
    base = chair.base
    size = 0.55 * base.leg + 0.003

    def at(name: str, share: float) -> np.ndarray:
        top, foot = joints[name]
        return foot + share * (top - foot)

    def bar(a: np.ndarray, b: np.ndarray) -> Surface:
        return tube([a, b], size, 6) if base.round else sweep([a, b], rectangle(1.6 * size, 2.4 * size))

    h = base.stretcher_height
    front, rear = at("front", h), at("rear", h)
    if base.stretchers in ("box", "h"):
        builder.add_pair(bar(front, rear), finish.frame)
    if base.stretchers == "h":
        middle = (front + rear) / 2
        builder.add(bar(middle, middle * MIRROR), finish.frame)
    elif base.stretchers == "box":
        for name in ("front", "rear"):
            end = at(name, min(h + 0.08, 0.9))
            builder.add(bar(end, end * MIRROR), finish.frame)
    elif base.stretchers == "rung":
        builder.add(bar(front, front * MIRROR), finish.frame)
    if base.foot_ring:
        ring = (front + rear) / 2
        radius = 0.5 * (front[0] + rear[0]) * 1.25
        angle = np.linspace(0, 2 * np.pi, 25)
        path = np.stack([radius * np.cos(angle), np.full(25, ring[1]), ring[2] + radius * np.sin(angle)], axis=1)
        builder.add(tube(path, size, 6), finish.accent)


def _draw_apron(builder: Builder, chair: Chair, joints: dict, finish: Finish) -> None:
    front, rear = joints["front"][0], joints["rear"][0]
    y = chair.seat.height - chair.seat.thickness - chair.base.apron / 2
    bar = rectangle(chair.base.leg, chair.base.apron)
    for a, b in ((front, front * MIRROR), (rear, rear * MIRROR)):
        builder.add(sweep([[a[0], y, a[2]], [b[0], y, b[2]]], bar), finish.frame)
    builder.add_pair(sweep([[front[0], y, front[2]], [rear[0], y, rear[2]]], bar), finish.frame)


def _draw_star(builder: Builder, chair: Chair, finish: Finish) -> None:
    seat, base = chair.seat, chair.base
    castor = 0.028 if base.castors else 0.0
    hub = 2 * castor + 0.07
    bottom = seat.height - seat.thickness
    builder.add(cylinder([0, hub - 0.05, 0], [0, bottom, 0], 0.7 * base.leg + 0.008, 12), finish.frame)
    builder.add(cylinder([0, hub - 0.05, 0], [0, 0.55 * bottom + 0.45 * hub, 0], base.leg + 0.01, 12), finish.accent)
    builder.add(box([0.4 * seat.width, 0.04, 0.4 * seat.depth], [0, bottom - 0.01, 0], 0.01), finish.accent)
    for k in range(base.spokes):
        angle = 2 * np.pi * (k + 0.25 * (base.spokes % 2 == 0) * 2) / base.spokes + np.pi / 2
        out = np.array([np.cos(angle), 0, np.sin(angle)])
        # A spoke off the plane of symmetry is drawn with its mirror image, so that the base is exactly symmetric.
        if out[0] < -1e-9:
            continue
        end = base.radius * out + [0, 2 * castor + 0.012, 0]
        spoke = sweep(
            [[0, hub, 0], 0.4 * end + [0, 0.62 * hub, 0], end],
            superellipse(1.5, 1.8, 3, 8),
            np.array([0.022, 0.02, 0.011]),
        )
        parts = [(spoke, finish.frame)]
        if base.castors:
            side = np.cross(out, [0, 1, 0]) * 0.016
            disc = join(
                [
                    cylinder(
                        end * [1, 0, 1] + [0, castor, 0] + s * side,
                        end * [1, 0, 1] + [0, castor, 0] + s * 0.35 * side,
                        castor,
                        12,
                    )
                    for s in (-1, 1)
                ]
            )
            parts.append((disc, finish.castor))
        for surface, color in parts:
            (builder.add_pair if out[0] > 1e-9 else builder.add)(surface, color)
    builder.mark("base_center", [0, hub - 0.05, 0])


def _draw_pedestal(builder: Builder, chair: Chair, finish: Finish) -> None:
    seat, base = chair.seat, chair.base
    top = seat.height - 0.7 * seat.thickness
    r, thin = base.radius, base.leg + 0.005
    if base.taper < 1:  # trumpet
        s = np.linspace(0, 1, 14)
        radius = thin + (r - thin) * (1 - s) ** 5 + (0.1 * r) * s**8
        profile = [(r, 0.0)] + [(a, 0.012 + b * (top - 0.012)) for a, b in zip(radius, s)]
        builder.add(revolve(profile, 24), finish.frame)
    else:
        plate = [(r, 0.0), (r, 0.012), (0.85 * r, 0.025), (1.6 * thin, 0.035), (1.4 * thin, 0.08)]
        builder.add(revolve(plate, 24), finish.frame)
        builder.add(cylinder([0, 0.02, 0], [0, top, 0], thin, 12), finish.frame)
        builder.add(cylinder([0, 0.55 * top, 0], [0, top, 0], 1.35 * thin, 12), finish.accent)
    if base.foot_ring:
        path = fillet(
            [[0, 0.4 * top, 0], [0.13, 0.4 * top, -0.02], [0.13, 0.36 * top, -0.2], [0, 0.36 * top, -0.2]], 0.05
        )
        builder.add_pair(tube(path, 0.01, 6), finish.frame)
    builder.mark("base_center", [0, 0, 0])


def _draw_sled(builder: Builder, chair: Chair, finish: Finish) -> None:
    """A bent tube on each side: down, along the floor, up again."""
    base = chair.base
    joints = leg_joints(chair)
    (front, front_foot), (rear, rear_foot) = joints["front"], joints["rear"]
    r = 0.7 * base.leg
    floor = np.array([0, r, 0])
    builder.add_pair(tube(fillet([front, front_foot + floor, rear_foot + floor, rear], 0.06), r, 8), finish.frame)
    builder.add_pair(tube([front, rear], r, 8), finish.frame)
    for point in (front, rear):
        builder.add(tube([point, point * MIRROR], r, 6), finish.frame)
    builder.mark_pair("front_foot", front_foot)
    builder.mark_pair("rear_foot", rear_foot)


def _draw_cantilever(builder: Builder, chair: Chair, finish: Finish) -> None:
    """A tube that runs from the rear of the seat forwards, down and back along the floor."""
    base, seat = chair.base, chair.seat
    front, rear = seat.corners()
    r = 0.7 * base.leg
    x = min(front[0], rear[0]) - 0.01
    y = seat.height - seat.thickness - r * 0.5
    front_z, rear_z = front[2] - 0.01 + base.splay, rear[2] - 0.02
    path = [[x, y, rear_z], [x, y, front_z], [x, r, front_z - base.splay], [x, r, rear_z]]
    builder.add_pair(tube(fillet(path, 0.09, 6), r, 8), finish.frame)
    builder.add(tube([[x, r, rear_z], [-x, r, rear_z]], r, 8), finish.frame)
    builder.mark_pair("front_foot", path[2] * np.array([1, 0, 1]))
    builder.mark_pair("rear_foot", [x, 0, rear_z])


def _draw_sides(builder: Builder, chair: Chair, finish: Finish) -> None:
    """Solid panels at both sides instead of legs."""
    seat, base = chair.seat, chair.base
    height = seat.height + (chair.arms.height if chair.arms.kind == "panel" else 0)
    x = seat.width / 2
    builder.add_pair(box([1.5 * base.leg, height, 0.98 * seat.depth], [x, height / 2, 0], 0.004), finish.frame)
    builder.add(box([2 * x, 0.1, base.leg], [0, seat.height - seat.thickness - 0.06, 0.3 * seat.depth]), finish.frame)
    builder.mark_pair("front_foot", [x, 0, -0.49 * seat.depth])
    builder.mark_pair("rear_foot", [x, 0, 0.49 * seat.depth])


def _draw_block(builder: Builder, chair: Chair, finish: Finish) -> None:
    """A solid upholstered body on small feet."""
    seat, base = chair.seat, chair.base
    feet = base.inset + 0.01
    top = seat.height - 0.8 * seat.thickness
    outline = seat.outline()
    builder.add(extrude(outline, feet, max(top, feet + 0.03), 0.02), finish.back)
    for name, corner in zip(("front", "rear"), seat.corners()):
        at = corner * [0.86, 0, 0.86]
        shape = cylinder if base.round else lambda a, b, r: beam(a, b, 2 * r, 2 * r, 1 / max(base.taper, 0.5))
        builder.add_pair(shape(at, at + [0, feet + 0.01, 0], base.leg * max(base.taper, 0.5)), finish.frame)
        builder.mark_pair(f"{name}_foot", at)


def _draw_fold(builder: Builder, chair: Chair, finish: Finish) -> None:
    """Crossed legs at each side: folding chairs. The one that starts at the back runs up into its posts."""
    base, seat, back = chair.base, chair.seat, chair.back
    front, rear = seat.corners()
    x = max(front[0], rear[0]) + base.leg
    y = seat.height - 0.5 * seat.thickness
    reach = 0.5 * seat.depth
    section = circle(0.75 * base.leg, 8) if base.round else rectangle(1.2 * base.leg, 2 * base.leg)
    front_foot, rear_foot = np.array([x, 0, -reach - 0.02]), np.array([x - 2 * base.leg, 0, reach + base.splay_rear])
    upper = back_point(chair, 0.0, 0.35 * back.height if back.kind != "none" else 0.0) * [0, 1, 1] + [x, 0, 0]
    builder.add_pair(sweep([front_foot, upper], section, up=(0, 0, 1)), finish.frame)
    builder.add_pair(sweep([rear_foot, [x - 2 * base.leg, y, -0.8 * reach]], section, up=(0, 0, 1)), finish.frame)
    for foot, top, share in ((front_foot, upper, 0.12), (rear_foot, np.array([rear_foot[0], y, -0.8 * reach]), 0.15)):
        at = foot + share * (top - foot)
        builder.add(sweep([at, at * MIRROR], section), finish.frame)
    builder.mark_pair("front_foot", front_foot)
    builder.mark_pair("rear_foot", rear_foot)


def _draw_hairpin(builder: Builder, chair: Chair, finish: Finish) -> None:
    """Thin rods: two from the seat to each foot, braced crosswise."""
    r = 0.35 * chair.base.leg
    joints = leg_joints(chair)
    for name, (top, foot) in joints.items():
        other = top * [0.35, 1, 0.35]
        builder.add_pair(join([tube([top, foot], r, 6), tube([other, foot], r, 6)]), finish.frame)
        builder.mark_pair(f"{name}_foot", foot)
    (front, front_foot), (rear, rear_foot) = joints["front"], joints["rear"]
    a, b = front + 0.45 * (front_foot - front), rear + 0.45 * (rear_foot - rear)
    builder.add_pair(tube([a, b * MIRROR], r, 6), finish.frame)


def _draw_curule(builder: Builder, chair: Chair, finish: Finish) -> None:
    """Legs that cross under the seat, seen from the front: directors' chairs, savonarolas."""
    base = chair.base
    section = circle(base.leg, 8) if base.round else rectangle(1.6 * base.leg, 2 * base.leg)
    for name, (top, foot) in leg_joints(chair).items():
        foot = np.array([1.05 * top[0], 0, top[2]])
        path = spline([top, (top + foot) / 2 * [0, 1, 1] + [0.01, base.bend, 0], foot * [-1, 1, 1]], 9)
        builder.add_pair(sweep(path, section, up=(0, 0, 1)), finish.frame)
        builder.mark_pair(f"{name}_foot", foot)
    (front, _), (rear, _) = leg_joints(chair).values()
    for height in (0.0, front[1]):
        runner = [[1.05 * front[0], height + 0.012, front[2]], [1.05 * rear[0], height + 0.012, rear[2]]]
        builder.add_pair(sweep(runner, rectangle(0.025, 0.025)), finish.frame)


def _draw_curl(builder: Builder, chair: Chair, finish: Finish) -> None:
    """The moulded sheet goes on below the seat: down its front, back along the floor."""
    seat = chair.seat
    half, thickness = 0.5 * seat.depth, max(chair.back.thickness, 0.014)
    floor = 0.5 * thickness
    side = spline(
        [
            [seat.height - 0.03, -half],
            [0.75 * seat.height, -half - 0.02],
            [0.4 * seat.height, -0.25 * half],
            [0.12 * seat.height, 0.1 * half],
            [floor, 0.6 * half],
            [floor, 1.2 * half],
        ],
        18,
    )
    width = 0.5 * seat.width * np.interp(np.linspace(0, 1, 18), [0, 0.5, 1], [0.82, 0.7, 1.0])
    points = np.stack([np.insert(side, 0, u * width, axis=1) for u in np.linspace(-1, 1, 9)], axis=1)
    builder.add(sheet(points, thickness), finish.seat)
    builder.mark_pair("rear_foot", points[-1, -1])
    builder.mark_pair("front_foot", points[13, -1])


def _draw_nothing(builder: Builder, chair: Chair, finish: Finish) -> None:
    pass


_BASES = {
    "legs": _draw_legs,
    "star": _draw_star,
    "pedestal": _draw_pedestal,
    "sled": _draw_sled,
    "cantilever": _draw_cantilever,
    "sides": _draw_sides,
    "block": _draw_block,
    "fold": _draw_fold,
    "hairpin": _draw_hairpin,
    "curule": _draw_curule,
    "curl": _draw_curl,
    "none": _draw_nothing,
}


# Arm rests


def _draw_arms(builder: Builder, chair: Chair, finish: Finish) -> None:
    arms, seat = chair.arms, chair.seat
    if arms.kind == "none":
        return
    front_corner, rear_corner = seat.corners()
    x = max(front_corner[0], rear_corner[0]) + arms.spread
    y = seat.height + arms.height
    rear_z = seat.depth / 2
    front_z = rear_z - arms.reach * seat.depth
    if chair.back.kind != "none":
        rear_z = back_point(chair, x, min(arms.height, 0.9 * chair.back.height))[2]
    rear, front = np.array([x, y, rear_z]), np.array([x, y, front_z])
    if chair.back.kind != "none" and arms.kind in ("post", "loop", "sweep"):  # the arms end at the back, not beside it
        rear[0] = min(x, _half_width(chair.back, arms.height))
    foot = np.array([x - 0.5 * arms.spread, seat.height - 0.5 * seat.thickness, front_z + 0.03])
    r = 0.5 * arms.thickness
    if arms.kind == "post":
        pad = sweep([rear, front - [0, 0, 0.03]], superellipse(arms.width, arms.thickness, 4, 12))
        builder.add_pair(pad, finish.arms)
        builder.add_pair(
            tube([foot, [x, y, front_z + 0.03]], 0.8 * r, 6)
            if chair.base.round
            else beam(foot, [x, y, front_z + 0.03], 1.4 * r, 1.6 * r),
            finish.frame,
        )
    elif arms.kind == "tee":
        middle = np.array([x, y, (front_z + seat.depth / 2) / 2])
        length = 0.6 * seat.depth
        builder.add_pair(box([arms.width, arms.thickness, length], middle, 0.4 * arms.thickness, 0.02), finish.arms)
        front, rear = middle - [0, 0, length / 2], middle + [0, 0, length / 2]
        bottom = seat.height - seat.thickness
        path = fillet([middle, [x, bottom, middle[2]], [0.2 * x, bottom, middle[2]]], 0.05)
        builder.add_pair(sweep(path, rectangle(0.05, 0.018), up=(0, 0, 1)), finish.frame)
    elif arms.kind == "loop":
        path = fillet([rear, front, foot], 0.08, 6)
        builder.add_pair(tube(path, 0.8 * r, 8), finish.frame)
        builder.add_pair(
            box(
                [arms.width * 0.8, 0.6 * arms.thickness, 0.55 * (rear[2] - front[2])],
                (front + rear) / 2 + [0, 0.8 * r, 0],
                0.3 * r,
            ),
            finish.arms,
        )
    elif arms.kind == "sweep":
        path = spline(
            [
                rear + [0, 0.06, 0],
                (rear + front) / 2 + [0.015, 0.01, 0],
                front + [0, -0.02, 0],
                foot + [0, 0.05, -0.01],
                foot,
            ],
            18,
        )
        builder.add_pair(sweep(path, superellipse(0.8 * arms.width, arms.thickness, 2.5, 10)), finish.arms)
    elif arms.kind in ("panel", "roll"):
        depth = rear_z - front_z
        bottom = min(chair.base.inset + 0.02, 0.2) if chair.base.kind == "block" else seat.height - seat.thickness
        center = [x, (bottom + y) / 2, (rear_z + front_z) / 2]
        width = max(arms.width, 0.04)
        builder.add_pair(box([width, y - bottom, depth], center, min(0.45 * width, 0.04)), finish.arms)
        if arms.kind == "roll":
            builder.add_pair(tube([[x + 0.02, y, front_z - 0.01], [x + 0.02, y, rear_z]], 0.7 * width, 14), finish.arms)
    builder.mark_pair("arm_front", front)
    builder.mark_pair("arm_rear", rear)
