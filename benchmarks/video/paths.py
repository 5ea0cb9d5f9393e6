"""Paths of persons through a scene: they cross, stay, or leave and return."""

import math
from dataclasses import dataclass

import numpy as np

Rng = np.random.Generator


@dataclass(frozen=True)
class Waypoint:
    """The place of the middle of a head at a time, as shares of the frame's width and height."""

    seconds: float
    x: float
    y: float
    size: float  # height of the face, as a share of the frame's


@dataclass(frozen=True)
class Wave:
    """A sum of two sines with random phases."""

    amplitude: float
    periods: tuple[float, float]
    phases: tuple[float, float]

    @classmethod
    def random(cls, rng: Rng, amplitude: float, slowest: float = 5.0) -> "Wave":
        periods = rng.uniform(slowest / 3, slowest, 2)
        phases = rng.uniform(0, 2 * math.pi, 2)
        return cls(amplitude, (float(periods[0]), float(periods[1])), (float(phases[0]), float(phases[1])))

    def at(self, seconds: float) -> float:
        waves = [
            math.sin(2 * math.pi * seconds / period + phase)
            for period, phase in zip(self.periods, self.phases, strict=True)
        ]
        return self.amplitude * (0.7 * waves[0] + 0.3 * waves[1])


def standing_beside(number: int, persons: int, seconds: float) -> list[Waypoint]:
    x = (number + 0.5) / persons
    return [Waypoint(0.0, x, 0.45, 0.25), Waypoint(seconds, x, 0.55, 0.3)]


def _size(rng: Rng) -> float:
    return float(rng.uniform(0.17, 0.36))


def crossing_right(rng: Rng, seconds: float) -> list[Waypoint]:
    start, end = rng.uniform(0, 0.15) * seconds, rng.uniform(0.8, 1.0) * seconds
    y, size = rng.uniform(0.4, 0.6), _size(rng)
    middle = rng.uniform(0.4, 0.6)
    nearer = float(np.clip(size * rng.uniform(0.8, 1.25), 0.15, 0.38))
    return [
        Waypoint(start, -0.25, y, size),
        Waypoint((start + end) / 2, middle, y + rng.uniform(-0.05, 0.05), nearer),
        Waypoint(end, 1.25, y, size),
    ]


def crossing_left(rng: Rng, seconds: float) -> list[Waypoint]:
    return [Waypoint(one.seconds, 1 - one.x, one.y, one.size) for one in crossing_right(rng, seconds)]


def staying_near(rng: Rng, seconds: float) -> list[Waypoint]:
    x, y, size = rng.uniform(0.25, 0.75), rng.uniform(0.35, 0.65), _size(rng)
    times = np.linspace(0, seconds, 4)
    return [
        Waypoint(
            float(time),
            float(np.clip(x + rng.uniform(-0.12, 0.12), 0.15, 0.85)),
            y + rng.uniform(-0.05, 0.05),
            float(np.clip(size * rng.uniform(0.8, 1.25), 0.15, 0.38)),
        )
        for time in times
    ]


def returning(rng: Rng, seconds: float) -> list[Waypoint]:
    """Enter, leave after a while, and return after three seconds or more, perhaps at the other side."""
    left = bool(rng.integers(2))
    again = left if rng.integers(2) else not left
    y, size = rng.uniform(0.4, 0.6), _size(rng)
    inside = rng.uniform(0.2, 0.35)

    def at(share: float, x: float, on_left: bool) -> Waypoint:
        return Waypoint(share * seconds, x if on_left else 1 - x, y, size)

    return [
        at(0.0, -0.2, left),
        at(0.15, inside, left),
        at(0.27, inside, left),
        at(0.4, -0.25, left),
        at(0.7, -0.25, again),
        at(0.82, inside, again),
        at(1.0, inside + 0.1, again),
    ]
