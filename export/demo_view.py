"""The demo's camera: what it sees of the belt in each frame.

Knows: the belt, the rails, the lamp's drift, the sensor, and where each slot of a line is in which frame.
Knows nothing of which parts ought to come, of truth or of files, and takes the look of a part from
demo_parts. The belt, the rails and the camera are always the same; a line's seed decides the drift of the
light, the noise and the belt's wander.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np
import numpy.typing as npt
from dualkd.export.demo_parts import Part, posed_relief
from dualkd.export.demo_relief import CANVAS_PX2, Floats, lit, shadow, spread

Image = npt.NDArray[np.uint8]

WIDTH_PX, HEIGHT_PX = 448, 336
# From one slot's centre to the next: a little more than the view, so that two parts can be half seen.
PITCH_PX = 462
# Not whole, so that the parts are seen at every place in the view.
FRAMES_PER_PART = 5.6

_BELT_SLOTS = 5  # the belt is an endless loop this many slots long
_WANDER_PX2 = 6  # how far the belt shakes up or down at most
_RAIL_PX = 13
_EXPOSURE_PX2 = 5  # what the belt moves while the shutter is open
# A film starts with its first part this far right of the middle and ends with its last as far left.
_LEAD_PX = 60
# A part's canvas is as high as the view and in the middle of its slot.
_PART_LEFT_PX2 = PITCH_PX - CANVAS_PX2 // 2


@dataclass(frozen=True)
class Line:
    """A run of the line: parts in the order in which they come; the seed of light, noise and belt wander."""

    parts: tuple[Part, ...]
    seed: int
    frames_per_part: float = FRAMES_PER_PART

    @property
    def frame_count(self) -> int:
        return math.floor(((len(self.parts) - 1) * PITCH_PX + 2 * _LEAD_PX) / self._step_px) + 1

    @property
    def _step_px(self) -> float:
        return PITCH_PX / self.frames_per_part

    def part_x_px(self, slot: int, frame: int) -> float:
        """Where the slot's centre is in the frame, in pixels from the left; it moves to the left."""
        return WIDTH_PX / 2 + _LEAD_PX + slot * PITCH_PX - frame * self._step_px

    @cached_property
    def wander_px2(self) -> npt.NDArray[np.int64]:
        """How far the belt has shaken up in each frame."""
        return np.random.default_rng([self.seed, 1]).integers(-_WANDER_PX2, _WANDER_PX2 + 1, self.frame_count)


def render_frame(line: Line, frame: int) -> Image:
    """What the camera sees, uint8 BGR (HEIGHT_PX, WIDTH_PX, 3); the same line and frame, the same bytes."""
    # The view's left edge, from the left end of slot 0.
    left_px2 = PITCH_PX - round(2 * line.part_x_px(0, frame))
    columns = []
    position, missing = left_px2, 2 * WIDTH_PX
    while missing:
        slot, start = divmod(position, 2 * PITCH_PX)
        part = line.parts[slot] if 0 <= slot < len(line.parts) else None
        piece = _slot(part, slot % _BELT_SLOTS)[:, start : start + missing]
        columns.append(piece)
        position, missing = position + piece.shape[1], missing - piece.shape[1]
    top = _WANDER_PX2 + int(line.wander_px2[frame])
    sharp = np.concatenate(columns, axis=1)[top : top + 2 * HEIGHT_PX]
    moved = cv2.blur(sharp, (_EXPOSURE_PX2, 1))
    picture = cv2.resize(moved, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    rails, cover = _rails()
    picture += cover * (rails - picture)
    return _sensor(picture * _light(line.seed, frame), np.random.default_rng([line.seed, 3, frame]))


@lru_cache(maxsize=8)
def _slot(part: Part | None, belt_slot: int) -> Image:
    """One slot at double size, uint8 BGR (2 * HEIGHT_PX + 2 * _WANDER_PX2, 2 * PITCH_PX, 3)."""
    belt = _belt()[:, belt_slot * 2 * PITCH_PX : (belt_slot + 1) * 2 * PITCH_PX]
    if part is None or part.defect == "missing":
        return belt
    picture: Image = belt.copy()
    place = picture[_WANDER_PX2 : _WANDER_PX2 + CANVAS_PX2, _PART_LEFT_PX2 : _PART_LEFT_PX2 + CANVAS_PX2]
    relief = posed_relief(part)
    ground = place * spread(1 - shadow(relief))
    place[:] = np.clip(ground + spread(relief.alpha) * (255 * lit(relief) - ground), 0, 255)
    return picture


@lru_cache(maxsize=1)
def _belt() -> Image:
    """The whole loop: dark woven PVC, streaked along its run, scuffed here and there. Its ends meet."""
    rng = np.random.default_rng(20)
    height, width = 2 * HEIGHT_PX + 2 * _WANDER_PX2, 2 * PITCH_PX * _BELT_SLOTS
    y, x = np.mgrid[:height, :width].astype(np.float32)
    across = 2 * np.pi / 11
    along = 2 * np.pi * round(width / 11) / width
    weave = np.sin(x * along + y * across) * np.sin(x * along - y * across)
    tone = 1 + 0.075 * weave
    tone += 0.05 * _looped_noise(rng, height, width, 2, 2)
    tone += 0.05 * _looped_noise(rng, height, width, 154, 100)
    tone += 0.035 * _looped_noise(rng, height, width, 308, 4)
    for _ in range(3 * _BELT_SLOTS):  # scuffs along the run
        start = rng.integers((0, 60), (width - 220, height - 60))
        end = start + rng.integers((60, -10), (200, 10))
        scuff = np.zeros((height, width), np.uint8)
        cv2.line(scuff, start.tolist(), end.tolist(), 255, int(rng.integers(2, 6)), cv2.LINE_AA)
        tone += rng.uniform(0.03, 0.09) * cv2.GaussianBlur(scuff, (0, 0), 2.0) / 255
    colour = np.array((84, 80, 68), np.float32)
    return np.asarray(np.clip(tone[..., None] * colour, 0, 255), np.uint8)


def _looped_noise(rng: np.random.Generator, height: int, width: int, along: int, across: int) -> Floats:
    """Smooth noise of unit deviation in blobs of along x across px2; its ends meet if along divides width."""
    cells = rng.standard_normal((height // across + 3, width // along), np.float32)
    looped = np.concatenate([cells[:, -2:], cells, cells[:, :2]], axis=1)
    smooth = cv2.resize(looped, None, fx=along, fy=across, interpolation=cv2.INTER_CUBIC)
    smooth = smooth[:height, 2 * along : 2 * along + width]
    return np.asarray(smooth / smooth.std(), np.float32)


@lru_cache(maxsize=1)
def _rails() -> tuple[Floats, Floats]:
    """The fixed aluminium guides above and below: colour (H, W, 3) in 0..255, and their cover (H, 1, 1)."""
    rng = np.random.default_rng(21)
    brushed = cv2.blur(rng.standard_normal((HEIGHT_PX, WIDTH_PX), np.float32), (61, 1))
    profile = np.zeros(HEIGHT_PX, np.float32)
    cover = np.zeros((HEIGHT_PX, 1, 1), np.float32)
    rail = np.array([0.9, 0.8, 0.86, 0.88, 0.88, 0.87, 0.87, 0.86, 0.85, 0.84, 0.8, 1.0, 0.55], np.float32)
    profile[:_RAIL_PX], profile[-_RAIL_PX:] = rail, rail[::-1]
    cover[:_RAIL_PX], cover[-_RAIL_PX:] = 1, 1
    # Their shadow on the belt is black that covers partly.
    fall = np.linspace(0.55, 0, 8, dtype=np.float32)[:, None, None]
    cover[_RAIL_PX : _RAIL_PX + 8], cover[-_RAIL_PX - 4 : -_RAIL_PX] = fall, fall[::-2]
    tone = profile[:, None] * (1 + 0.25 * brushed)
    return np.asarray(tone[..., None] * np.array((172, 168, 164), np.float32)), cover


def _light(seed: int, frame: int) -> Floats:
    """The lamp at this moment, a factor (HEIGHT_PX, WIDTH_PX, 3): slow drift, some flicker, a vignette."""
    rng = np.random.default_rng([seed, 4])

    def drift() -> float:
        """-1..1, two slow waves whose periods and phases belong to the seed."""
        periods, phases = rng.uniform((35, 110), (80, 260)), rng.uniform(0, 2 * np.pi, 2)
        return float(np.sin(2 * np.pi * frame / periods + phases).mean())

    flicker = np.random.default_rng([seed, 5, frame]).normal(0, 0.008)
    brightness = 1 + 0.14 * drift() + flicker
    warmth = 0.05 * drift()
    tilt_x, tilt_y = 0.09 * drift(), 0.09 * drift()
    x = np.linspace(-1, 1, WIDTH_PX, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, HEIGHT_PX, dtype=np.float32)[:, None]
    field = brightness * (1 + tilt_x * x + tilt_y * y - 0.08 * (x**2 + y**2))
    return np.asarray(cv2.merge((field * (1 - warmth), field, field * (1 + warmth))), np.float32)


def _sensor(picture: Floats, rng: np.random.Generator) -> Image:
    """Shot and read noise, then 8 bits."""
    deviation = np.sqrt(1.2 + 0.022 * np.maximum(picture, 0))
    noisy = picture + deviation * rng.standard_normal(picture.shape, np.float32)
    return np.asarray(np.clip(np.rint(noisy), 0, 255), np.uint8)
