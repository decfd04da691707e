"""Parametric cars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from render.mesh import Mesh
from render.shapes import paint
from render.shapes.primitives import Builder, Surface, box, ellipsoid, join, loft, pairs, revolve, rounded_rectangle, superellipse

KEYPOINTS = (
    "hood_front",
    *pairs("front_wheel", "rear_wheel", "roof_front", "roof_rear", "front_bumper", "rear_bumper", "headlamp", "taillamp", "mirror"),
)  # fmt: skip


@dataclass
class Car:
    """Lengths in units of the car's length; z = -0.5 is the front bumper. Heights above the ground."""

    width: float
    height: float
    belt: float
    hood: float
    clearance: float
    wheel: float
    axles: tuple[float, float]
    windscreen: tuple[float, float]
    rear_window: tuple[float, float]
    deck: float


def sample(rng: np.random.Generator) -> Car:
    u = rng.uniform
    height = u(0.26, 0.45)
    belt = height * u(0.55, 0.65)
    start = u(-0.28, -0.12)
    rear = u(0.15, 0.48)
    wheel = u(0.065, 0.085)
    return Car(
        u(0.36, 0.46), height, belt, belt * u(0.8, 0.98), u(0.03, 0.06), wheel, (u(-0.34, -0.28), u(0.26, 0.32)),
        (start, start + u(0.05, 0.15)), (rear, rear - u(0.03, 0.12)), belt * u(0.9, 1.0),
    )  # fmt: skip


def build(rng: np.random.Generator) -> Mesh:
    car = sample(rng)
    b = Builder(KEYPOINTS)
    body_paint, glass = paint.any_color(rng), paint.glass(rng)
    b.add(lower_body(car), body_paint)
    b.add(greenhouse(car), glass_between(car, body_paint, glass))
    for name, z in zip(("front_wheel", "rear_wheel"), car.axles):
        center = np.array([car.width / 2 - 0.03, car.wheel, z])
        tire, hub = wheel(car.wheel, 0.05)
        b.add_pair(tire.moved(center), paint.RUBBER)
        b.add_pair(hub.moved(center), paint.CHROME)
        b.mark_pair(name, center + [0.025, 0, 0])
    lamp = np.array([0.36 * car.width, car.hood * 0.75, -0.485])
    b.add_pair(ellipsoid([0.05, 0.02, 0.02], lamp), (235, 235, 220))
    b.mark_pair("headlamp", lamp)
    lamp = np.array([0.4 * car.width, car.deck * 0.8, 0.485])
    b.add_pair(ellipsoid([0.04, 0.025, 0.02], lamp), (170, 20, 20))
    b.mark_pair("taillamp", lamp)
    b.mark_pair("roof_front", [0.36 * car.width, car.height, car.windscreen[1]])
    b.mark_pair("roof_rear", [0.36 * car.width, car.height, car.rear_window[1]])
    b.mark_pair("front_bumper", [0.4 * car.width, car.clearance + 0.06, -0.49])
    b.mark_pair("rear_bumper", [0.4 * car.width, car.clearance + 0.06, 0.49])
    b.mark("hood_front", [0, car.hood * 0.9, -0.48])
    mirror = np.array([0.5 * car.width + 0.02, car.belt + 0.02, car.windscreen[0] + 0.05])
    b.add_pair(ellipsoid([0.025, 0.018, 0.012], mirror), body_paint)
    b.mark_pair("mirror", mirror)
    return b.build()


def lower_body(car: Car) -> Surface:
    z = np.linspace(-0.5, 0.5, 48)
    end = np.minimum(0.5 - z, z + 0.5)
    plan = np.sqrt(np.clip(1 - (1 - np.minimum(end / 0.06, 1)) ** 2, 0.35, 1)) 
    top = np.interp(z, [-0.5, -0.46, car.windscreen[0], car.rear_window[0], 0.47, 0.5], [car.hood * 0.8, car.hood * 0.92, car.belt, car.belt, car.deck, car.deck * 0.9])
    bottom = np.full_like(z, car.clearance)
    for axle in car.axles:
        r = car.wheel * 1.12
        bottom = np.maximum(bottom, car.wheel + np.sqrt(np.maximum(r**2 - (z - axle) ** 2, 0)) - 1.0 * (np.abs(z - axle) >= r))
    rings = [np.insert(superellipse(car.width * p, h - l, 5, 24) + [0, (h + l) / 2], 2, at, axis=1) for p, h, l, at in zip(plan, top, bottom, z)]
    return loft(np.array(rings))


def greenhouse(car: Car) -> Surface:
    rings = []
    for s in np.append(np.linspace(0, 0.9, 8), [0.95, 0.98, 1.0]):
        shrink = 1 - 0.12 * max(0, (s - 0.9) / 0.1) ** 2
        front = car.windscreen[0] + s * (car.windscreen[1] - car.windscreen[0])
        rear = car.rear_window[0] + s * (car.rear_window[1] - car.rear_window[0])
        width = car.width * (0.94 - 0.16 * s) * shrink
        outline = rounded_rectangle(width, (rear - front) * shrink, 0.05, 5)
        y = car.belt - 0.01 + s * (car.height - car.belt + 0.01)
        rings.append(np.stack([outline[:, 0], np.full(len(outline), y), outline[:, 1] + (front + rear) / 2], 1))
    return loft(np.array(rings))


def glass_between(car: Car, body: np.ndarray, glass: np.ndarray):
    low, high = car.belt + 0.05 * (car.height - car.belt), car.belt + 0.85 * (car.height - car.belt)

    def colors(points: np.ndarray) -> np.ndarray:
        inside = (points[:, 1] > low) & (points[:, 1] < high)
        return np.where(inside[:, None], glass, body)

    return colors


def wheel(radius: float, width: float) -> tuple[Surface, Surface]:
    h = width / 2
    tire = revolve([(0.6 * radius, -h), (0.92 * radius, -h), (radius, -0.6 * h), (radius, 0.6 * h), (0.92 * radius, h), (0.6 * radius, h)], 24, "x")
    hub = revolve([(1e-4, 0.9 * h), (0.3 * radius, 1.03 * h), (0.62 * radius, 1.02 * h), (0.62 * radius, 0)], 24, "x")
    return tire, hub
