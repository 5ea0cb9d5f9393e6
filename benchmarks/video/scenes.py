"""Make a scene: persons who move, turn, cross, leave and return before a moving background.

Each person is one photograph with round corners. Its frames differ by position, size, roll, a
perspective warp in place of a turned head, blur of motion and focus, light and noise. They do not differ by
expression, and what the photograph hides stays hidden, so frames of a person are more alike than in life. A
scene is a function of its seed and portraits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from benchmarks.video.paths import (
    Rng,
    Wave,
    Waypoint,
    crossing_left,
    crossing_right,
    returning,
    standing_beside,
    staying_near,
)
from benchmarks.video.portraits import Box, Pixels, Portrait

Floats = npt.NDArray[np.float64]
Layer = npt.NDArray[np.float32]

SHUTTER: Final = 0.02  # seconds that a frame is exposed
_LEAST_VISIBLE: Final = 0.05  # share of the face; below it a person counts as not in the frame
_CIRCLE: Final = np.stack(
    [np.cos(np.linspace(0, 2 * np.pi, 48)), np.sin(np.linspace(0, 2 * np.pi, 48))], axis=1
)


class Sighting(BaseModel):
    """The truth about a person in a frame. visible : share of the face that the frame shows."""

    person: int
    box: Box
    visible: float


class Frame(BaseModel):
    seconds: float
    faces: list[Sighting]


class Person(BaseModel):
    """The truth about a person of a clip."""

    person: int
    file: str
    age: float
    female: bool


class Truth(BaseModel):
    """The truth about a made clip, as JSON beside it."""

    seed: int
    width: int
    height: int
    persons: list[Person]
    frames: list[Frame]


@dataclass(frozen=True)
class Pose:
    """x, y, size (the photograph's height) and focus (blur) : pixels. roll : radians. yaw : -1 to 1."""

    x: float
    y: float
    size: float
    roll: float
    yaw: float
    light: float
    focus: float


@dataclass(frozen=True)
class Actor:
    """A person with a path and waves of sway, roll, yaw, light and focus."""

    portrait: Portrait
    path: Sequence[Waypoint]
    sway: tuple[Wave, Wave]
    roll: Wave
    yaw: Wave
    light: Wave
    focus: Wave

    def pose(self, seconds: float, width: int, height: int) -> Pose | None:
        """Return where the person is, or None before the first and after the last waypoint."""
        if not self.path[0].seconds <= seconds <= self.path[-1].seconds:
            return None
        after = next(index for index, one in enumerate(self.path) if one.seconds >= seconds)
        end = self.path[after]
        start = self.path[max(0, after - 1)]
        span = max(end.seconds - start.seconds, 1e-6)
        share = min(1.0, max(0.0, (seconds - start.seconds) / span))
        share = share * share * (3 - 2 * share)

        def between(one: float, other: float) -> float:
            return one + share * (other - one)

        x, y = between(start.x, end.x), between(start.y, end.y)
        box = self.portrait.box
        photograph = self.portrait.pixels.shape[0] / max(box[3] - box[1], 1.0)  # heights of the face
        return Pose(
            x=(x + self.sway[0].at(seconds)) * width,
            y=(y + self.sway[1].at(seconds)) * height,
            size=between(start.size, end.size) * height * photograph,
            roll=self.roll.at(seconds),
            yaw=max(-1.0, min(1.0, self.yaw.at(seconds))),
            light=1 + self.light.at(seconds),
            focus=max(0.0, self.focus.at(seconds)),
        )


@dataclass(frozen=True)
class Scene:
    """A clip before it is encoded. Use `make_scene`."""

    seed: int
    width: int
    height: int
    actors: Sequence[Actor]
    light: Wave
    pan: tuple[Wave, Wave]
    noise: float
    _prepared: dict[int, Layer] = field(default_factory=dict, repr=False)

    @property
    def persons(self) -> list[Person]:
        return [
            Person(person=number, file=one.portrait.name, age=one.portrait.age, female=one.portrait.female)
            for number, one in enumerate(self.actors, 1)
        ]

    def frame(self, seconds: float) -> tuple[Pixels, list[Sighting]]:
        """Return a frame as RGB [height, width, 3], and who is in it."""
        canvas = self._behind(seconds)
        shown = np.zeros((self.height, self.width), np.uint8)  # the number of the person at each pixel
        outlines: dict[int, Floats] = {}
        poses = [(actor.pose(seconds, self.width, self.height), n) for n, actor in enumerate(self.actors, 1)]
        for pose, number in sorted(((one, n) for one, n in poses if one), key=lambda pair: pair[0].size):
            outlines[number] = self._paint(canvas, shown, number, pose, seconds)
        canvas *= 1 + self.light.at(seconds)
        rng = np.random.default_rng([self.seed, round(seconds * 1000)])
        grain = rng.normal(0, self.noise, (self.height, self.width, 1)).astype(np.float32)
        pixels = np.clip(canvas + grain, 0, 255).astype(np.uint8)
        sightings = [self._sighting(number, outline, shown) for number, outline in sorted(outlines.items())]
        return pixels, [one for one in sightings if one.visible >= _LEAST_VISIBLE]

    def _behind(self, seconds: float) -> Layer:
        across, down = (1 + wave.at(seconds) for wave in self.pan)
        x, y = round(across * self.width / 4), round(down * self.height / 4)
        return self._texture[y : y + self.height, x : x + self.width].copy()

    @cached_property
    def _texture(self) -> Layer:
        """Return a texture of several scales with some rectangles, larger than the frame."""
        rng = np.random.default_rng([self.seed, 1])
        height, width = self.height * 2, self.width * 2
        texture = np.full((height, width, 3), 110, np.float32)
        for cell, strength in ((160, 45), (40, 20), (10, 12), (3, 8)):
            small = rng.normal(0, strength, (height // cell + 2, width // cell + 2, 3)).astype(np.float32)
            texture += cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
        for _ in range(12):
            x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
            corner = x + int(rng.integers(10, width // 6)), y + int(rng.integers(10, height // 4))
            colour = tuple(float(value) for value in rng.uniform(20, 220, 3))
            cv2.rectangle(texture, (x, y), corner, colour, int(rng.choice([-1, 2, 5])))
        return np.clip(texture, 0, 255)

    def _source(self, number: int) -> Layer:
        """Return the photograph as RGB and opacity [height, width, 4], cut out with round corners."""
        if number not in self._prepared:
            pixels = self.actors[number - 1].portrait.pixels
            height, width = pixels.shape[:2]
            y, x = np.mgrid[0:height, 0:width]
            across, down = np.abs((x + 0.5) / width * 2 - 1), np.abs((y + 0.5) / height * 2 - 1)
            radius = (across**3 + down**3) ** (1 / 3)
            opacity = np.clip((1.0 - radius) / 0.06, 0, 1)[..., None]
            self._prepared[number] = np.concatenate([pixels * opacity, opacity], axis=2).astype(np.float32)
        return self._prepared[number]

    def _paint(self, canvas: Layer, shown: Pixels, number: int, pose: Pose, seconds: float) -> Floats:
        """Draw a person on the canvas. Returns the outline of the face [48, 2] in the frame."""
        actor, source = self.actors[number - 1], self._source(number)
        transform = _homography(source.shape[1], source.shape[0], pose)
        box = actor.portrait.box
        centre = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
        radii = np.array([(box[2] - box[0]) / 2, (box[3] - box[1]) / 2])
        outline = _moved(centre + radii * _CIRCLE, transform)
        corners = _moved(np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * source.shape[1::-1], transform)
        margin = 12
        left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int) - margin, 0)
        right, bottom = np.minimum(
            np.ceil(corners.max(axis=0)).astype(int) + margin, (self.width, self.height)
        )
        if right - left < 2 or bottom - top < 2:
            return outline
        shrunk, factor = source, 1.0
        while pose.size / shrunk.shape[0] < 0.6:  # or the warp would skip pixels
            size = max(1, shrunk.shape[1] // 2), max(1, shrunk.shape[0] // 2)
            shrunk = _float32(cv2.resize(shrunk, size, interpolation=cv2.INTER_AREA))
            factor = source.shape[0] / shrunk.shape[0]
        here = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]]) @ transform @ np.diag([factor, factor, 1])
        size = int(right - left), int(bottom - top)
        warped = _float32(cv2.warpPerspective(shrunk, here, size, flags=cv2.INTER_LINEAR))
        layer = self._blurred(warped, actor, pose, seconds)
        opacity = layer[..., 3:]
        light = pose.light * self._side_light(left, right)
        part = canvas[top:bottom, left:right]
        part *= 1 - opacity
        part += layer[..., :3] * light
        shown[top:bottom, left:right][opacity[..., 0] > 0.5] = number
        return outline

    def _side_light(self, left: int, right: int) -> Layer:
        """Return factors [1, width, 1]: the light comes from one side of the room."""
        share = np.arange(left, right, dtype=np.float32) / self.width
        if self.seed % 2:
            share = 1 - share
        return _float32((0.65 + 0.5 * share)[None, :, None])

    def _blurred(self, layer: Layer, actor: Actor, pose: Pose, seconds: float) -> Layer:
        before = actor.pose(seconds - SHUTTER, self.width, self.height)
        moved = (0.0, 0.0) if before is None else (pose.x - before.x, pose.y - before.y)
        length = math.hypot(*moved)
        if length > 1:
            size = 2 * math.ceil(length / 2) + 1
            kernel = np.zeros((size, size), np.float32)
            middle = size // 2
            for share in np.linspace(-0.5, 0.5, 4 * size):
                kernel[round(middle + share * moved[1]), round(middle + share * moved[0])] = 1
            layer = _float32(cv2.filter2D(layer, -1, kernel / kernel.sum()))
        sigma = pose.focus * pose.size / 100
        return _float32(cv2.GaussianBlur(layer, (0, 0), sigma)) if sigma > 0.3 else layer

    def _sighting(self, number: int, outline: Floats, shown: Pixels) -> Sighting:
        x1, y1 = outline.min(axis=0)
        x2, y2 = outline.max(axis=0)
        mask = np.zeros_like(shown)
        cv2.fillPoly(mask, [np.round(outline).astype(np.int32)], 1)
        area = cv2.contourArea(outline.astype(np.float32))
        seen = np.count_nonzero((mask == 1) & (shown == number))
        box = tuple(round(float(value), 2) for value in (x1, y1, x2, y2))
        return Sighting(person=number, box=box, visible=round(min(1.0, seen / max(area, 1.0)), 3))


def _float32(pixels: npt.ArrayLike) -> Layer:
    return np.asarray(pixels, dtype=np.float32)


def _homography(width: int, height: int, pose: Pose) -> Floats:
    """Return the map from the photograph's pixels to the frame's."""
    half_height = pose.size / 2
    half_width = half_height * width / height * math.cos(pose.yaw * 0.9)
    nearer = 0.14 * math.sin(pose.yaw * 0.9)  # the side that turns to the camera is larger
    quad = np.array(
        [
            [-half_width, -half_height * (1 + nearer)],
            [half_width, -half_height * (1 - nearer)],
            [half_width, half_height * (1 - nearer)],
            [-half_width, half_height * (1 + nearer)],
        ]
    )
    cosine, sine = math.cos(pose.roll), math.sin(pose.roll)
    placed = quad @ np.array([[cosine, sine], [-sine, cosine]]) + [pose.x, pose.y]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    return np.asarray(cv2.getPerspectiveTransform(corners, placed.astype(np.float32)), dtype=np.float64)


def _moved(points: Floats, transform: Floats) -> Floats:
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ transform.T
    return np.asarray(homogeneous[:, :2] / homogeneous[:, 2:])


def make_scene(
    seed: int,
    cast: Sequence[Portrait],
    width: int = 640,
    height: int = 360,
    seconds: float = 10.0,
    *,
    staying: bool = False,
) -> Scene:
    """Return a scene with these persons. The first two cross; the third stays; the fourth returns.

    staying : all persons stay, side by side.
    """
    rng = np.random.default_rng(seed)
    roles = (crossing_right, crossing_left, staying_near, returning)
    paths = [
        standing_beside(number, len(cast), seconds) if staying else roles[number % len(roles)](rng, seconds)
        for number in range(len(cast))
    ]
    return Scene(
        seed=seed,
        width=width,
        height=height,
        actors=[_actor(rng, portrait, path) for portrait, path in zip(cast, paths, strict=True)],
        light=Wave.random(rng, 0.2, 8.0),
        pan=(Wave.random(rng, 0.5, 12.0), Wave.random(rng, 0.3, 12.0)),
        noise=float(rng.uniform(1.0, 5.0)),
    )


def _actor(rng: Rng, portrait: Portrait, path: Sequence[Waypoint]) -> Actor:
    return Actor(
        portrait=portrait,
        path=path,
        sway=(Wave.random(rng, 0.02), Wave.random(rng, 0.02)),
        roll=Wave.random(rng, math.radians(float(rng.uniform(4, 22)))),
        yaw=Wave.random(rng, float(rng.uniform(0.2, 0.9))),
        light=Wave.random(rng, float(rng.uniform(0.05, 0.25))),
        focus=Wave.random(rng, float(rng.uniform(0.2, 1.6)), 8.0),
    )
