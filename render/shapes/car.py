"""Parametric cars: saloons, hatchbacks, estates, off-roaders, vans, pickups, lorries, coupes, cars of before 1950, open
cars, buggies, racing cars, karts.

Each function of `KINDS` samples one kind of `Car`; a share of them has the proportions of toys, and a share is as plain
as simple CAD.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from render.mesh import Mesh
from render.shapes import paint
from render.shapes.car_parts import KEYPOINTS, Body, Cabin, Car, Cockpit, Finish, KartShape, RacerShape, Wheels, draw
from render.shapes.draws import chance, choice
from render.shapes.primitives import Builder

__all__ = ["KEYPOINTS", "build"]

TOY_SHARE = 0.1
BARE_SHARE = 0.2


def build(rng: np.random.Generator) -> Mesh:
    samplers, weights = zip(*KINDS)
    car = samplers[rng.choice(len(samplers), p=np.array(weights) / sum(weights))](rng)
    if rng.random() < TOY_SHARE and not (car.racer or car.kart):
        car = toy(rng, car)
    bare_one = rng.random() < BARE_SHARE
    if bare_one:
        car = bare(rng, car)
    builder = Builder(KEYPOINTS)
    finish = sample_finish(rng, car)
    draw(builder, car, bare_finish(rng, finish) if bare_one else finish)
    return builder.build(stretch=rng.uniform((0.92, 0.9, 0.95), (1.08, 1.1, 1.05)))


def toy(rng: np.random.Generator, car: Car) -> Car:
    """Higher and wider on larger wheels, with few details, as toys and drawings are."""
    u = rng.uniform
    tall, wide = u(1.1, 1.55), u(1.05, 1.45)
    body, wheels = car.body, car.wheels
    body.profile = [(z, tall * height) for z, height in body.profile]
    body.width, body.clearance = wide * body.width, u(0.8, 1.4) * body.clearance
    wheels.radius, wheels.width = u(0.95, tall) * wheels.radius, u(1.0, 1.5) * wide * wheels.width
    wheels.axles = tuple(u(0.85, 1.0) * axle for axle in wheels.axles)
    if car.cabin:
        car.cabin.height *= tall
    car.cockpit.screen *= tall
    car.bed, car.house = car.bed and (car.bed[0], tall * car.bed[1]), tall * car.house
    car.lamp_size, car.bumper = u(1.0, 1.8) * car.lamp_size, u(1.0, tall) * car.bumper
    car.mirrors, car.exhausts, car.grille = chance(rng, 0.3), 0, choice(rng, car.grille, "none")
    return car


def bare(rng: np.random.Generator, car: Car) -> Car:
    """As simple CAD and low-poly meshes are: without most details that tell front from rear, half with sharp edges."""
    u = rng.uniform
    body = car.body
    car.plates, car.grille, car.exhausts, car.mirrors, car.scoop = False, "none", 0, chance(rng, 0.4), False
    if chance(rng, 0.5):
        car.lamp_size = 0.0
    if chance(rng, 0.5):
        body.angular, body.upper, body.lower = True, u(6, 24), u(8, 24)
        body.nose_round, body.tail_round, body.nose_rake = u(0.004, 0.02), u(0.004, 0.02), u(0.0, 0.1)
        body.nose_taper, body.tail_taper = u(0.0, 0.1), u(0.0, 0.1)
        if car.cabin:
            car.cabin.boxiness, car.cabin.corner, car.cabin.crown = u(10, 30), u(0.005, 0.02), 0.0
    return car


def _wheels(rng: np.random.Generator, radius: float) -> Wheels:
    u = rng.uniform
    return Wheels(
        radius * u(0.93, 1.08),
        u(0.04, 0.06),
        (-0.31 + u(-0.02, 0.02), 0.29 + u(-0.025, 0.025)),
        u(1.08, 1.2),
        flare=u(0.006, 0.013) if chance(rng, 0.25) else 0.0,
        spokes=choice(rng, 0, 0, 5, 5, 6, 7),
    )


def _details(rng: np.random.Generator, car: Car) -> Car:
    u = rng.uniform
    car.grille = choice(rng, "wide", "wide", "upright", "none")
    car.lamp_shape = choice(rng, "oval", "oval", "box", "round")
    car.lamp_size = u(0.02, 0.036)
    car.bumper = u(0.03, 0.06) if chance(rng, 0.4) else 0.0
    car.mirrors = chance(rng, 0.85)
    car.sunroof = chance(rng, 0.12)
    car.exhausts = int(rng.integers(0, 3))
    return car


def _closed(
    rng: np.random.Generator,
    *,
    height: float,
    width: float,
    wheel: float,
    belt: float,
    hood: float,
    deck: float,
    screen: tuple[float, float],
    window: tuple[float, float],
    boxiness: float,
    clearance: float = 0.045,
    **cabin,
) -> Car:
    """A car with a roof.

    ``belt``, ``hood`` and ``deck`` are heights relative to the roof (belt) and to the belt (the others); ``screen`` and
    ``window`` are the base of the windscreen or rear window, and how far its upper edge is set in.
    """
    u = rng.uniform
    wheels = _wheels(rng, wheel)
    over_wheels = wheels.arch_top + 0.025
    belt = max(belt * height, over_wheels)
    hood, deck = max(hood, over_wheels / belt), max(deck, over_wheels / belt)
    front, rear = screen[0], window[0]
    profile = [
        (-0.5, belt * hood * u(0.82, 0.92)),
        (min(-0.4, 0.5 * front - 0.25), belt * hood),
        (front, belt * u(0.96, 1.0)),
        (0.0, belt),
    ]
    if rear < 0.4:
        profile += [(rear, belt * u(0.98, 1.02)), (0.44, belt * deck), (0.5, belt * deck * u(0.93, 0.99))]
    else:
        profile += [(0.3, belt * u(0.99, 1.03)), (0.5, belt * u(0.97, 1.0))]
    body = Body(
        width,
        clearance,
        profile,
        upper=u(3, 6),
        lower=u(5, 9),
        waist=u(0.45, 0.65),
        nose_round=u(0.03, 0.12),
        tail_round=u(0.025, 0.08),
        nose_taper=u(0.02, 0.2),
        tail_taper=u(0.0, 0.12),
        nose_rake=u(0.1, 0.6),
    )
    if chance(rng, 0.2):
        body.angular, body.upper, body.lower, body.nose_rake = True, u(6, 20), u(8, 24), u(0.0, 0.4)
    settings = dict(
        width=u(0.88, 0.96),
        tumblehome=u(0.06, 0.2),
        corner=u(0.03, 0.08),
        panes=choice(rng, 2, 2, 3),
        crown=u(0.004, 0.02),
        pillar=u(0.008, 0.016),
    )
    settings.update(cabin)
    roof = Cabin(front, rear, height, screen[1], window[1], boxiness=boxiness, **settings)
    return _details(rng, Car(body, wheels, roof))


def saloon(rng: np.random.Generator) -> Car:
    """One in four with a boot as long as the bonnet."""
    u = rng.uniform
    long_boot = chance(rng, 0.25)
    return _closed(
        rng,
        height=u(0.28, 0.34),
        width=u(0.36, 0.42),
        wheel=u(0.066, 0.076),
        belt=u(0.62, 0.7),
        hood=u(0.84, 0.96),
        deck=u(0.92, 1.06),
        screen=(u(-0.2, -0.08) if long_boot else u(-0.22, -0.14), u(0.06, 0.17)),
        window=(u(0.18, 0.27) if long_boot else u(0.26, 0.38), u(0.06, 0.17)),
        boxiness=u(3.1, 7),
    )


def hatchback(rng: np.random.Generator) -> Car:
    u = rng.uniform
    car = _closed(
        rng,
        height=u(0.34, 0.44),
        width=u(0.4, 0.48),
        wheel=u(0.075, 0.09),
        belt=u(0.58, 0.68),
        hood=u(0.8, 0.95),
        deck=1.0,
        screen=(u(-0.28, -0.16), u(0.1, 0.18)),
        window=(u(0.42, 0.48), u(0.05, 0.16)),
        boxiness=u(3.1, 7),
    )
    car.spoiler = "roof" if chance(rng, 0.25) else "none"
    return car


def estate(rng: np.random.Generator) -> Car:
    u = rng.uniform
    car = _closed(
        rng,
        height=u(0.29, 0.35),
        width=u(0.36, 0.42),
        wheel=u(0.066, 0.078),
        belt=u(0.6, 0.68),
        hood=u(0.84, 0.96),
        deck=1.0,
        screen=(u(-0.22, -0.15), u(0.1, 0.16)),
        window=(u(0.455, 0.485), u(0.03, 0.09)),
        boxiness=u(4, 9),
        panes=3,
    )
    car.roof_load = "rails" if chance(rng, 0.4) else "none"
    return car


def off_roader(rng: np.random.Generator) -> Car:
    u = rng.uniform
    car = _closed(
        rng,
        height=u(0.37, 0.47),
        width=u(0.4, 0.48),
        wheel=u(0.085, 0.105),
        belt=u(0.6, 0.68),
        hood=u(0.88, 1.0),
        deck=1.0,
        screen=(u(-0.22, -0.14), u(0.03, 0.14)),
        window=(u(0.455, 0.49), u(0.01, 0.08)),
        boxiness=u(4, 12),
        clearance=u(0.07, 0.1),
        panes=choice(rng, 2, 3, 3),
        tumblehome=u(0.02, 0.15),
    )
    car.body.upper, car.body.nose_rake = u(4, 10), u(0.05, 0.4)
    car.spare_wheel, car.roof_load = chance(rng, 0.35), choice(rng, "none", "none", "rails", "box")
    car.wheels.flare = u(0.008, 0.018) if chance(rng, 0.5) else 0.0
    return car


def van(rng: np.random.Generator) -> Car:
    """People carriers, minibuses, delivery vans."""
    u = rng.uniform
    blind = choice(rng, 0.0, 0.0, u(0.45, 0.7))
    car = _closed(
        rng,
        height=u(0.4, 0.52),
        width=u(0.36, 0.44),
        wheel=u(0.065, 0.08),
        belt=u(0.5, 0.62),
        hood=u(0.75, 1.0),
        deck=1.0,
        screen=(u(-0.42, -0.28), u(0.05, 0.17)),
        window=(u(0.475, 0.492), u(0.0, 0.05)),
        boxiness=u(5, 14),
        clearance=u(0.04, 0.06),
        panes=choice(rng, 1, 2) if blind else choice(rng, 3, 4, 5),
        blind_rear=blind,
        tumblehome=u(0.02, 0.14),
    )
    car.wheels.axles = (u(-0.36, -0.29), u(0.25, 0.33))
    car.body.nose_taper, car.body.tail_taper = u(0.02, 0.12), u(0, 0.03)
    car.roof_load = choice(rng, "none", "none", "none", "rails", "bar")
    return car


def cab_over(rng: np.random.Generator) -> Car:
    """Vans and minibuses whose driver sits over the front axle: no bonnet, the face as steep as the rear or rounder."""
    u = rng.uniform
    car = van(rng)
    cabin, body = car.cabin, car.body
    cabin.front, cabin.front_lean, cabin.boxiness = u(-0.492, -0.45), u(0.0, 0.09), u(3.1, 14)
    cabin.width, cabin.corner, cabin.crown = u(0.9, 0.98), u(0.03, 0.12), u(0.004, 0.03)
    belt = body.profile[2][1]
    body.profile = [(-0.5, belt * u(0.85, 1.0)), (-0.42, belt), (0.3, belt), (0.5, belt * u(0.97, 1.0))]
    body.nose_round, body.tail_round, body.nose_rake = u(0.02, 0.1), u(0.02, 0.08), u(0.0, 0.5)
    car.wheels.axles = (u(-0.36, -0.26), u(0.22, 0.33))
    car.lamp_shape, car.grille = choice(rng, "round", "round", "oval", "box"), choice(rng, "none", "none", "wide")
    return car


def coupe(rng: np.random.Generator) -> Car:
    """Sports cars, mid- or front-engined, some with wings: low, wide, raked."""
    u = rng.uniform
    wedge = chance(rng, 0.3)  # the windscreen in one line with a short bonnet
    car = _closed(
        rng,
        height=u(0.21, 0.27) if wedge else u(0.23, 0.29),
        width=u(0.39, 0.46),
        wheel=u(0.068, 0.08),
        belt=u(0.62, 0.72),
        hood=u(0.6, 0.85) if wedge else u(0.68, 0.92),
        deck=u(0.85, 1.15),
        screen=(u(-0.42, -0.28), u(0.19, 0.28)) if wedge else (u(-0.28, -0.04), u(0.14, 0.22)),
        window=(u(0.26, 0.46), u(0.14, 0.26)),
        boxiness=u(3.1, 5),
        clearance=u(0.025, 0.045),
        panes=choice(rng, 1, 2),
        tumblehome=u(0.14, 0.26),
    )
    car.body.nose_round, car.body.upper = u(0.06, 0.16), u(2.6, 4.5)
    car.spoiler = choice(rng, "none", "lip", "wing", "wing")
    car.scoop = chance(rng, 0.2)
    car.wheels.rear_scale = choice(rng, 1.0, u(1.0, 1.1))
    return car


def beetle(rng: np.random.Generator) -> Car:
    """Round small cars: domes over short bodies, some with separate wings over the wheels."""
    u = rng.uniform
    car = _closed(
        rng,
        height=u(0.36, 0.47),
        width=u(0.4, 0.47),
        wheel=u(0.075, 0.095),
        belt=u(0.52, 0.64),
        hood=u(0.75, 0.95),
        deck=u(0.7, 0.92),
        screen=(u(-0.24, -0.12), u(0.02, 0.1)),
        window=(u(0.32, 0.46), u(0.02, 0.1)),
        boxiness=u(2.1, 3.2),
        panes=choice(rng, 1, 2),
    )
    car.body.nose_round, car.body.tail_round, car.body.upper = u(0.1, 0.22), u(0.1, 0.2), u(2.2, 3.5)
    car.body.nose_rake, car.body.nose_taper = u(0.4, 0.8), u(0.1, 0.35)
    car.lamp_shape, car.fenders = choice(rng, "round", "round", "oval"), choice(rng, 0.0, 0.0, u(1.0, 1.5))
    if car.fenders:
        car.body.width *= 0.86
    return car


def vintage(rng: np.random.Generator) -> Car:
    """Between the wars: narrow body, upright cabin and radiator, mudguards, running boards, some with free wheels."""
    u = rng.uniform
    car = _closed(
        rng,
        height=u(0.34, 0.44),
        width=u(0.26, 0.32),
        wheel=u(0.08, 0.1),
        belt=u(0.6, 0.7),
        hood=u(0.9, 1.0),
        deck=u(0.7, 1.0),
        screen=(u(-0.12, -0.02), u(0.0, 0.05)),
        window=(u(0.3, 0.44), u(0.0, 0.08)),
        boxiness=u(3, 10),
        panes=choice(rng, 2, 3),
        clearance=0.07,
        tumblehome=u(0.0, 0.1),
        corner=u(0.02, 0.05),
    )
    car.fenders, car.lamp_shape, car.grille, car.bumper = 1.0, "round", "upright", choice(rng, 0.0, 0.025)
    if chance(rng, 0.2):
        car.fenders, car.wheels.offset = 0.0, u(0.5, 1.1)
    car.body.nose_taper, car.body.nose_rake, car.body.nose_round = u(0.2, 0.5), u(0.0, 0.2), u(0.01, 0.04)
    car.spare_wheel = chance(rng, 0.4)
    return car


def streamliner(rng: np.random.Generator) -> Car:
    """The 1930s and 40s: long bonnet, low cabin and falling tail between bulky mudguards."""
    u = rng.uniform
    car = _closed(
        rng,
        height=u(0.31, 0.4),
        width=u(0.27, 0.34),
        wheel=u(0.075, 0.092),
        belt=u(0.64, 0.76),
        hood=u(0.9, 1.02),
        deck=u(0.6, 0.9),
        screen=(u(-0.15, -0.03), u(0.02, 0.1)),
        window=(u(0.2, 0.34), u(0.03, 0.2)),
        boxiness=u(2.3, 4),
        panes=choice(rng, 1, 2),
        clearance=u(0.05, 0.07),
        tumblehome=u(0.08, 0.2),
    )
    body = car.body
    body.upper, body.waist, body.nose_rake = u(2.2, 3.4), u(0.35, 0.55), u(0.1, 0.5)
    body.nose_taper, body.tail_taper = u(0.25, 0.55), u(0.2, 0.6)
    body.nose_round, body.tail_round = u(0.02, 0.1), u(0.08, 0.22)
    car.fenders, car.lamp_shape = u(1.2, 2.2), choice(rng, "round", "round", "oval")
    car.grille, car.bumper = choice(rng, "upright", "upright", "wide"), choice(rng, 0.0, 0.03, 0.04)
    car.sunroof = False
    return car


def micro(rng: np.random.Generator) -> Car:
    """Very short town cars."""
    u = rng.uniform
    return _closed(
        rng,
        height=u(0.5, 0.64),
        width=u(0.52, 0.62),
        wheel=u(0.1, 0.12),
        belt=u(0.54, 0.62),
        hood=u(0.85, 1.0),
        deck=1.0,
        screen=(u(-0.38, -0.28), u(0.14, 0.24)),
        window=(u(0.44, 0.48), u(0.04, 0.14)),
        boxiness=u(3.1, 6),
        panes=choice(rng, 1, 2),
        clearance=0.06,
        corner=u(0.05, 0.1),
    )


def pickup(rng: np.random.Generator) -> Car:
    """One in six without a roof."""
    u = rng.uniform
    roofless = chance(rng, 1 / 6)
    cab = u(0.08, 0.2) if roofless else u(-0.02, 0.2)
    car = _closed(
        rng,
        height=u(0.31, 0.4),
        width=u(0.34, 0.41),
        wheel=u(0.072, 0.09),
        belt=u(0.6, 0.68),
        hood=u(0.9, 1.0),
        deck=1.0,
        screen=(u(-0.24, -0.16), u(0.06, 0.14)),
        window=(cab, u(0.0, 0.04)),
        boxiness=u(4, 10),
        clearance=u(0.055, 0.09),
        panes=1 if cab < 0.08 else 2,
        tumblehome=u(0.05, 0.16),
    )
    _add_bed(rng, car, cab)
    car.roll_bar, car.cargo = chance(rng, 0.2), choice(rng, "none", "none", "none", "none", "box", "cover")
    if roofless:
        car.cabin, car.cockpit = None, Cockpit(rear=cab + 0.01)
    return car


def _add_bed(rng: np.random.Generator, car: Car, cab: float) -> None:
    """Behind the cab, which ends at z = ``cab``."""
    belt = car.body.profile[3][1]
    start, floor = cab + 0.03, max(2.1 * car.wheels.radius, 0.62 * belt)
    car.body.profile = [knot for knot in car.body.profile[:3] if knot[0] < cab - 0.05]
    car.body.profile += [(cab - 0.04, belt), (cab - 0.01, belt), (start, floor), (start + 0.03, floor), (0.5, floor)]
    car.bed, car.spoiler = (start, floor), "none"
    car.body.tail_round, car.body.upper = 0.02, rng.uniform(6, 10)


def lorry(rng: np.random.Generator) -> Car:
    """Small lorries and ambulances: a short cab before a house or a bed."""
    u = rng.uniform
    cab = u(-0.16, 0.0)
    car = _closed(
        rng,
        height=u(0.33, 0.46),
        width=u(0.3, 0.4),
        wheel=u(0.06, 0.08),
        belt=u(0.5, 0.64),
        hood=u(0.8, 1.0),
        deck=1.0,
        screen=(u(-0.46, -0.32), u(0.02, 0.12)),
        window=(cab, u(0.0, 0.03)),
        boxiness=u(4, 12),
        clearance=u(0.05, 0.08),
        panes=1,
        tumblehome=u(0.02, 0.14),
    )
    _add_bed(rng, car, cab)
    car.wheels.axles = (u(-0.36, -0.29), u(0.22, 0.33))
    car.house = car.cabin.height * u(0.9, 1.35)
    car.cargo = choice(rng, "house", "house", "house", "box", "none")
    car.roof_load = choice(rng, "none", "none", "bar")
    return car


def roadster(rng: np.random.Generator) -> Car:
    """No roof."""
    u = rng.uniform
    car = _without_roof(rng)
    body = car.body
    belt = body.profile[3][1]
    front, rear = car.cockpit.front, car.cockpit.rear = u(-0.2, -0.06), u(0.14, 0.24)
    body.profile = body.profile[:2] + [(front - 0.02, belt), (0.0, belt), (rear, belt)]
    body.profile += [(0.48, belt * u(0.9, 1.0)), (0.5, 0.9 * belt)]
    return car


def _without_roof(rng: np.random.Generator) -> Car:
    car = coupe(rng) if chance(rng, 0.6) else saloon(rng)
    car.cabin, car.roll_bar, car.spoiler = None, chance(rng, 0.3), choice(rng, "none", "lip")
    return car


def open_classic(rng: np.random.Generator) -> Car:
    """Before 1970, without a roof: a long bonnet, the seats right before the rear axle, a low windscreen or none, round
    lamps; half of them narrow between free wheels or mudguards, some with a pointed tail."""
    u = rng.uniform
    car = _without_roof(rng)
    body = car.body
    front = u(-0.06, 0.08)
    rear = front + u(0.17, 0.25)
    car.cockpit = Cockpit(front, rear, screen=u(0.03, 0.11), lean=u(0.0, 0.06), bend=u(0.0, 0.05))
    car.wheels.radius *= u(1.0, 1.2)
    over_wheels = car.wheels.arch_top + 0.01
    belt = max(body.profile[3][1], 1.02 * over_wheels)
    hood, deck = max(belt * u(0.7, 0.95), over_wheels), max(belt * u(0.7, 0.95), over_wheels)
    body.profile = [(-0.5, 0.8 * hood), (-0.42, hood), (front, belt), (rear, belt), (0.42, deck), (0.5, 0.8 * deck)]
    body.nose_round, body.tail_round = u(0.04, 0.14), u(0.05, 0.2)
    body.nose_taper, body.tail_taper = u(0.1, 0.4), u(0.05, 0.5)
    body.angular, body.upper, body.nose_rake = False, u(2.2, 5), u(0.1, 0.5)
    car.lamp_shape, car.grille = choice(rng, "round", "round", "oval"), choice(rng, "wide", "upright")
    car.mirrors, car.bumper, car.spoiler = chance(rng, 0.4), choice(rng, 0.0, 0.0, 0.025), "none"
    if chance(rng, 0.5):
        body.width *= u(0.55, 0.8)
        body.nose_taper, body.nose_round = u(0.2, 0.6), u(0.01, 0.06)
        body.tail_taper = choice(rng, body.tail_taper, u(0.5, 0.9))
        car.fenders, car.grille = choice(rng, 0.0, u(0.8, 1.6)), choice(rng, "upright", "upright", "wide")
        car.wheels.axles = (u(-0.42, -0.29), u(0.27, 0.36))
        car.wheels.offset, car.spare_wheel = u(0.5, 1.2), chance(rng, 0.3)
    return car


def jeep(rng: np.random.Generator) -> Car:
    """Open off-roaders, half of them angular and without doors, some of these with a bed."""
    u = rng.uniform
    car = off_roader(rng)
    body, doors = car.body, chance(rng, 0.5)
    car.cabin, car.roll_bar, car.spare_wheel = None, chance(rng, 0.6), chance(rng, 0.4)
    belt = body.profile[3][1] * u(0.85, 1.0)
    front, rear = u(-0.18, -0.08), u(0.1, 0.24)
    car.cockpit = Cockpit(
        front,
        rear,
        screen=u(0.08, 0.15),
        lean=u(0.0, 0.06),
        bend=u(0.0, 0.03),
        frame=u(0.005, 0.011),
        rows=choice(rng, 1, 1, 2),
        cage=chance(rng, 0.3),
    )
    car.cockpit.canopy = car.cockpit.cage and chance(rng, 0.5)
    car.fenders, car.lamp_shape = choice(rng, 0.0, 0.0, 1.0), choice(rng, "round", "round", "box")
    car.grille, car.mirrors = choice(rng, "upright", "wide"), chance(rng, 0.4)
    body.profile = [(-0.5, belt * u(0.85, 0.97)), (front, belt)]
    if doors:
        body.profile += [(0.0, belt), (0.5, belt)]
        return car
    if chance(rng, 0.4):  # a narrow bonnet between mudguards
        body.nose_taper, car.fenders = u(0.25, 0.5), u(0.8, 1.3)
    sill = body.clearance + u(0.2, 0.5) * (belt - body.clearance)
    body.profile += [(front + 0.02, sill), (rear - 0.05, sill), (rear - 0.04, belt), (rear, belt), (0.5, belt)]
    body.angular, body.upper, body.lower, body.nose_rake = True, u(8, 24), u(8, 24), u(0.0, 0.2)
    if chance(rng, 0.6):
        start, floor = rear + 0.03, max(2.1 * car.wheels.radius, 0.75 * belt)
        body.profile[-1:] = [(start, floor), (0.5, floor)]
        car.bed, car.spare_wheel = (start, floor), False
    return car


def buggy(rng: np.random.Generator) -> Car:
    """Off-road racers: a wedge between wheels that stand free, most with a wing, the open ones with a cage."""
    u = rng.uniform
    car = choice(rng, coupe, coupe, beetle, roadster)(rng)
    body, wheels = car.body, car.wheels
    body.width *= u(0.68, 0.85)
    body.clearance, body.nose_taper = u(0.06, 0.1), u(0.1, 0.4)
    wedge = u(0.7, 1.0)
    body.profile = [(z, height * (wedge if z < -0.3 else 1.0)) for z, height in body.profile]
    wheels.radius *= u(1.05, 1.3)
    wheels.offset, wheels.arch, wheels.flare = u(0.4, 1.1), u(1.02, 1.1), 0.0
    wheels.width, wheels.rear_scale = u(0.05, 0.075), u(1.0, 1.15)
    car.fenders, car.spoiler = 0.0, choice(rng, "none", "wing", "wing")
    car.cockpit.cage = chance(rng, 0.7)
    car.roll_bar = car.roll_bar or car.cockpit.cage
    return car


def _between_wheels(width: float) -> Body:
    """As wide as a racing car or kart over its wheels, which stand in its sides; not drawn itself."""
    return Body(width, 0.03, [(-0.5, 0.1), (0.5, 0.1)], nose_taper=0.0, tail_taper=0.0)


def racer(rng: np.random.Generator) -> Car:
    """Open-wheeled: of these days with pods and wings, or of others without."""
    u = rng.uniform
    body = _between_wheels(u(0.34, 0.46))
    front_wing, rear_wing = choice(
        rng, *[(u(0.3, 0.5), u(0.26, 0.42))] * 5, (0.0, 0.0), (0.0, 0.0), (0.0, u(0.26, 0.42))
    )
    old = not front_wing
    return Car(
        body,
        Wheels(
            u(0.06, 0.075),
            u(0.04, 0.07) if old else u(0.06, 0.085),
            (u(-0.36, -0.28), u(0.28, 0.38)),
            spokes=choice(rng, 0, 5),
            rear_scale=u(1.0, 1.25),
        ),
        None,
        racer=RacerShape(
            nose=u(0.6, 1.4),
            nose_lift=choice(rng, 0.0, u(0.0, 0.05)),
            engine=u(0.7, 1.4),
            pods=choice(rng, 0.0, 0.0, u(0.5, 1.2)) if old else choice(rng, *[u(0.7, 1.3)] * 4, 0.0),
            front_wing=front_wing,
            front_chord=u(0.05, 0.12),
            rear_wing=rear_wing,
            rear_chord=u(0.05, 0.11),
            wing_height=u(0.15, 0.27),
            biplane=chance(rng, 0.6),
            driver=u(-0.06, 0.1),
            screen=u(0.02, 0.05) if chance(rng, 0.7 if old else 0.2) else 0.0,
            bare_engine=chance(rng, 0.5 if old else 0.1),
        ),
    )


def kart(rng: np.random.Generator) -> Car:
    u = rng.uniform
    return Car(
        _between_wheels(u(0.62, 0.76)),
        Wheels(u(0.07, 0.085), u(0.07, 0.11), (u(-0.34, -0.26), u(0.24, 0.32)), rear_scale=u(1.0, 1.15)),
        None,
        kart=KartShape(
            seat=u(0.1, 0.2),
            back=u(0.18, 0.3),
            lean=u(0.03, 0.1),
            pods=choice(rng, 0.0, u(0.1, 0.16), u(0.1, 0.16)),
            nose=choice(rng, 0.0, u(0.07, 0.12), u(0.07, 0.12)),
            shield=choice(rng, 0.0, u(0.12, 0.22)),
            engine=choice(rng, -1, 1, 1, 0),
            bumper=chance(rng, 0.6),
        ),
    )


def touring_racer(rng: np.random.Generator) -> Car:
    """Tuned road cars: wings, flares, scoops."""
    car = choice(rng, saloon, hatchback, coupe)(rng)
    car.spoiler, car.scoop = choice(rng, "wing", "wing", "roof", "lip"), chance(rng, 0.4)
    car.wheels.flare = rng.uniform(0.008, 0.014)
    car.body.clearance = 0.03
    return car


KINDS = (
    (saloon, 14),
    (hatchback, 14),
    (estate, 7),
    (off_roader, 12),
    (van, 10),
    (cab_over, 4),
    (coupe, 12),
    (beetle, 7),
    (micro, 5),
    (vintage, 3),
    (streamliner, 4),
    (pickup, 10),
    (lorry, 4),
    (roadster, 5),
    (open_classic, 4),
    (jeep, 6),
    (buggy, 4),
    (racer, 5),
    (kart, 2),
    (touring_racer, 8),
)


# Finishes


def bare_finish(rng: np.random.Generator, finish: Finish) -> Finish:
    """With windows of any colour or that of the body, lamps that do not tell the ends apart, no stripes."""
    base = paint.any_color(rng) if callable(finish.body) else finish.body
    glass = choice(rng, finish.glass, paint.any_color(rng), base, base)
    lamp = choice(rng, base, finish.lamp, paint.gray(rng))
    bare = replace(finish, body=base, roof=base, glass=glass, lamp=lamp, tail_lamp=lamp, stripes=[], roof_stripe=None)
    return replace(bare, trim=base, hub=base) if chance(rng, 0.5) else bare


def sample_finish(rng: np.random.Generator, car: Car) -> Finish:
    u = rng.uniform
    base = choice(rng, paint.any_color, paint.gray, paint.gray, paint.bright, paint.muted, paint.white)(rng)
    other = paint.any_color(rng)
    body, roof = base, base
    style = rng.random()
    belt = car.body.profile[1][1]
    if style < 0.1:
        roof = choice(rng, other, paint.gray(rng, 12, 60))
    elif style < 0.2:
        body = paint.split(base, other, [0, -1, 0], -belt * u(0.3, 0.6))
    elif style < 0.27:
        body = roof = paint.camouflage(rng, [base, other, paint.any_color(rng)], u(0.15, 0.4))
    elif style < 0.32:
        body = roof = paint.split(base, other, [0, u(-1, 1), choice(rng, -1, 1)], u(0.0, 0.3))
    stripes = []
    if chance(rng, 0.12):  # over the bonnet
        stripes.append(((-0.45, -0.2), (u(74, 80), u(83, 90)), other))
    if chance(rng, 0.15):  # along the side
        low = u(-15, 15)
        stripes.append(((u(-0.45, -0.2), u(0.2, 0.45)), (low, low + u(5, 20)), other))
    if 0.32 < style < 0.36:  # without materials
        return Finish(base, base, base, base, base, base, base, base)
    sporty = car.spoiler == "wing" or car.racer is not None
    # Lamps are not always told from the rest by their colour.
    lamp = choice(rng, *[(232, 232, 222)] * 5, (240, 200, 110), (90, 95, 100), base)
    tail_lamp = choice(rng, *[(165, 22, 22)] * 5, (220, 110, 40), (50, 20, 20), base)
    return Finish(
        body,
        roof,
        paint.glass(rng),
        choice(rng, base, base, paint.gray(rng, 25, 70), paint.metal(rng)),
        paint.metal(rng),
        paint.gray(rng, 12, 45),
        paint.jitter(rng, lamp, 12),
        paint.jitter(rng, tail_lamp, 12),
        stripes,
        roof_stripe=other if stripes and chance(rng, 0.4) else None,
        number=paint.white(rng) if chance(rng, 0.35 if sporty else 0.03) else None,
        accent=paint.bright(rng),
        bed=choice(rng, paint.gray(rng, 12, 45), paint.gray(rng, 50, 170), paint.wood(rng), base),
    )
