"""The demo's production line: a belt seen from above by a fixed camera, as films with their truth.

Knows: the belt, the lamp's drift, the camera, which part lies in which slot and in which frame it is seen.
Knows nothing of models, training or verdicts, and takes the look of a part from demo_parts. The line itself
(belt, rails, camera, kinds of part) is always the same one; a seed decides which parts come, how each looks
and lies, and how the light drifts. Training images are frames of a film of good parts on the same line, from
the same encoder, so that nothing but the parts tells a training frame from an inspected one.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from dualkd.export.demo_parts import (
    CANVAS_PX2,
    FOREIGN_KINDS,
    GOOD,
    KINDS,
    LOCAL_DEFECTS,
    WHOLE_PART_DEFECTS,
    Floats,
    Part,
    lit,
    posed_relief,
    shadow,
)

Image = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in frame pixels, x1 and y1 excluded

WIDTH_PX, HEIGHT_PX = 448, 336
PITCH_PX = (
    462  # from one slot's centre to the next: a little more than the view, so two parts can be half seen
)
FPS = 10
FRAMES_PER_PART = 5.6  # not whole, so that the parts come to rest at every place in the view
TRAINING_FRAMES_PER_PART = 2.8  # twice the stride: more different parts in as many images
DEFECTS = (*LOCAL_DEFECTS, *WHOLE_PART_DEFECTS)
BAD_SHARE = 0.4

_BELT_SLOTS = 5  # the belt is an endless loop this many slots long
_WANDER_PX2 = 6  # how far the belt shakes up or down at most
_RAIL_PX = 13
_LEAD_PX = (
    60  # the film starts with the first part this far right of the middle, and ends with the last as far left
)
_PART_LEFT_PX2 = (
    PITCH_PX - CANVAS_PX2 // 2
)  # a part's canvas is as high as the view, in the middle of its slot
_EXPOSURE_PX2 = 5  # what the belt moves while the shutter is open


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
    def _wander_px2(self) -> npt.NDArray[np.int64]:
        return np.random.default_rng([self.seed, 1]).integers(-_WANDER_PX2, _WANDER_PX2 + 1, self.frame_count)


@dataclass(frozen=True)
class PartTruth:
    """What is true of one part of a film. Frames count from 0.

    box: the part (or the empty place) in frame centred_frame, as the unharmed part would lie there.
    defect_box: what a local defect changed in that frame; None for good and whole-part defects.
    first_frame, last_frame: where the box is wholly in view. centred_frame: where it is nearest the middle.
    """

    id: int
    kind: str
    defect: str
    box: Box
    defect_box: Box | None
    first_frame: int
    centred_frame: int
    last_frame: int


@dataclass(frozen=True)
class Truth:
    seed: int
    fps: int
    frame_count: int
    width_px: int
    height_px: int
    parts: tuple[PartTruth, ...]


def good_line(part_count: int, seed: int, frames_per_part: float = FRAMES_PER_PART) -> Line:
    """Good parts only, kinds mixed at random."""
    rng = np.random.default_rng([seed, 0])
    kinds = rng.choice(sorted(KINDS), part_count)
    parts = tuple(Part(str(kind), GOOD, int(rng.integers(2**31))) for kind in kinds)
    return Line(parts, seed, frames_per_part)


def mixed_line(part_count: int, seed: int) -> Line:
    """A good line in which BAD_SHARE of the slots, drawn at random, have defects, evenly many of each."""
    rng = np.random.default_rng([seed, 2])
    good = good_line(part_count, seed)
    bad_count = round(BAD_SHARE * part_count)
    slots = rng.permutation(part_count)[:bad_count]
    parts = list(good.parts)
    for number, slot in enumerate(slots):
        defect = DEFECTS[number % len(DEFECTS)]
        kind = parts[slot].kind
        if defect == "wrong_kind":
            kind = str(rng.choice(sorted(FOREIGN_KINDS)))
        parts[slot] = Part(kind, defect, parts[slot].seed)
    return Line(tuple(parts), seed)


# ---------------------------------------------------------------- picture


def render_frame(line: Line, frame: int) -> Image:
    """What the camera sees, uint8 BGR (HEIGHT_PX, WIDTH_PX, 3); the same line and frame, the same bytes."""
    left_px2 = (
        round(2 * ((WIDTH_PX / 2) - line.part_x_px(0, frame))) + PITCH_PX - WIDTH_PX
    )  # from slot 0's left end
    columns = []
    position, missing = left_px2, 2 * WIDTH_PX
    while missing:
        slot, start = divmod(position, 2 * PITCH_PX)
        piece = _slot(line.parts[slot] if 0 <= slot < len(line.parts) else None, slot % _BELT_SLOTS)
        piece = piece[:, start : start + missing]
        columns.append(piece)
        position, missing = position + piece.shape[1], missing - piece.shape[1]
    top = _WANDER_PX2 + int(line._wander_px2[frame])
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
    ground = place * (1 - shadow(relief))[..., None]
    place[:] = np.clip(ground + relief.alpha[..., None] * (255 * lit(relief) - ground), 0, 255)
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
    tone += 0.05 * _looped_noise(rng, height, width, 1.0, 1.0)
    tone += 0.05 * _looped_noise(rng, height, width, 90.0, 60.0)
    tone += 0.035 * _looped_noise(rng, height, width, 160.0, 2.0)
    for _ in range(3 * _BELT_SLOTS):  # scuffs along the run
        start = rng.uniform((0, 60), (width - 220, height - 60))
        end = start + rng.uniform((60, -10), (200, 10))
        scuff = np.zeros((height, width), np.uint8)
        cv2.line(
            scuff,
            start.astype(int).tolist(),
            end.astype(int).tolist(),
            255,
            int(rng.integers(2, 6)),
            cv2.LINE_AA,
        )
        tone += rng.uniform(0.03, 0.09) * cv2.GaussianBlur(scuff, (0, 0), 2.0) / 255
    colour = np.array((84, 80, 68), np.float32)
    return np.asarray(np.clip(tone[..., None] * colour, 0, 255), np.uint8)


def _looped_noise(rng: np.random.Generator, height: int, width: int, along: float, across: float) -> Floats:
    """Smooth noise of unit deviation whose left and right ends meet."""
    field = rng.standard_normal((height, width), np.float32)
    pad = int(4 * along)
    wrapped = np.concatenate([field[:, -pad:], field, field[:, :pad]], axis=1)
    smooth = cv2.GaussianBlur(wrapped, (0, 0), sigmaX=along, sigmaY=across)[:, pad:-pad]
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
    fall = np.linspace(0.55, 0, 8, dtype=np.float32)[
        :, None, None
    ]  # their shadow on the belt: black, partly covering
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
    x = np.linspace(-1, 1, WIDTH_PX, dtype=np.float32)[None, :, None]
    y = np.linspace(-1, 1, HEIGHT_PX, dtype=np.float32)[:, None, None]
    field = brightness * (1 + tilt_x * x + tilt_y * y - 0.08 * (x**2 + y**2))
    return np.asarray(field * np.array((1 - warmth, 1, 1 + warmth), np.float32), np.float32)


def _sensor(picture: Floats, rng: np.random.Generator) -> Image:
    """Shot and read noise, then 8 bits."""
    deviation = np.sqrt(1.2 + 0.022 * np.maximum(picture, 0))
    noisy = picture + deviation * rng.standard_normal(picture.shape, np.float32)
    return np.asarray(np.clip(np.rint(noisy), 0, 255), np.uint8)


# ---------------------------------------------------------------- truth


def truth_of(line: Line) -> Truth:
    """Every slot's truth; boxes come from the drawn silhouettes, not from a table."""
    parts = tuple(_part_truth(line, slot) for slot in range(len(line.parts)))
    return Truth(line.seed, FPS, line.frame_count, WIDTH_PX, HEIGHT_PX, parts)


def _part_truth(line: Line, slot: int) -> PartTruth:
    part = line.parts[slot]
    outline = part.unharmed() if part.defect in LOCAL_DEFECTS or part.defect == "missing" else part
    silhouette = posed_relief(outline).alpha > 0.5
    changed = None
    if part.defect in LOCAL_DEFECTS:
        belt_slot = slot % _BELT_SLOTS
        difference = cv2.absdiff(_slot(part, belt_slot), _slot(outline, belt_slot)).max(axis=2) > 8
        changed = difference[
            _WANDER_PX2 : _WANDER_PX2 + CANVAS_PX2, _PART_LEFT_PX2 : _PART_LEFT_PX2 + CANVAS_PX2
        ]
    frames = range(line.frame_count)
    centred = min(frames, key=lambda frame: abs(line.part_x_px(slot, frame) - WIDTH_PX / 2))
    box = _box_in_frame(line, slot, centred, silhouette)
    in_view = [
        frame
        for frame in frames
        if box[0] + line.part_x_px(slot, frame) - line.part_x_px(slot, centred) >= 0
        and box[2] + line.part_x_px(slot, frame) - line.part_x_px(slot, centred) <= WIDTH_PX
    ]
    defect_box = None if changed is None else _box_in_frame(line, slot, centred, changed)
    return PartTruth(slot, part.kind, part.defect, box, defect_box, in_view[0], centred, in_view[-1])


def _box_in_frame(line: Line, slot: int, frame: int, mask_px2: npt.NDArray[np.bool_]) -> Box:
    rows, columns = np.nonzero(mask_px2.any(axis=1))[0], np.nonzero(mask_px2.any(axis=0))[0]
    x = line.part_x_px(slot, frame) - CANVAS_PX2 / 4
    y = HEIGHT_PX / 2 - CANVAS_PX2 / 4 - float(line._wander_px2[frame]) / 2
    return (
        math.floor(x + columns[0] / 2),
        math.floor(y + rows[0] / 2),
        math.ceil(x + (columns[-1] + 1) / 2),
        math.ceil(y + (rows[-1] + 1) / 2),
    )


def read_truth(path: Path) -> Truth:
    """Reads the truth.json that write_film wrote."""
    fields = json.loads(path.read_text(encoding="utf-8"))
    parts = fields.pop("parts")
    for part in parts:
        part["box"] = tuple(part["box"])
        part["defect_box"] = part["defect_box"] and tuple(part["defect_box"])
    return Truth(**fields, parts=tuple(PartTruth(**part) for part in parts))


# ---------------------------------------------------------------- films and images


def write_film(path: Path, seed: int, parts: int = 60) -> Truth:
    """Writes the film to inspect (MP4) and truth.json beside it. About BAD_SHARE of the parts are bad."""
    line = mixed_line(parts, seed)
    _encode(path, line)
    truth = truth_of(line)
    path.with_name("truth.json").write_text(json.dumps(asdict(truth), indent=1) + "\n", encoding="utf-8")
    return truth


def write_training_film(path: Path, seed: int, frames: int = 280) -> None:
    """Writes a film (MP4) of at least that many frames, of good parts only, at every phase of the belt."""
    line = good_line(math.ceil(frames / TRAINING_FRAMES_PER_PART) + 1, seed, TRAINING_FRAMES_PER_PART)
    _encode(path, line)


def write_training_images(folder: Path, count: int, seed: int) -> list[Path]:
    """Writes count PNG files, frames of a training film in its order, and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:04d}.png" for number in range(count)]
    with tempfile.TemporaryDirectory() as scratch:
        film = Path(scratch) / "training.mp4"
        write_training_film(film, seed, count)
        for path, frame in zip(paths, _decode(film), strict=False):
            if not cv2.imwrite(str(path), frame):
                raise OSError(f"cannot write {path}")
    return paths


def _encode(path: Path, line: Line) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (WIDTH_PX, HEIGHT_PX))
    if not writer.isOpened():
        raise OSError(
            f"cannot write {path}: this OpenCV has no mp4v encoder, or the folder cannot be written"
        )
    try:
        for frame in range(line.frame_count):
            writer.write(render_frame(line, frame))
    finally:
        writer.release()


def _decode(path: Path) -> Iterator[Image]:
    capture = cv2.VideoCapture(str(path))
    try:
        while True:
            read, frame = capture.read()
            if not read:
                return
            yield frame
    finally:
        capture.release()
