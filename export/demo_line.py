"""The demo's production line: a belt seen from above by a fixed camera, as films with their truth.

Knows: which part comes in which slot, in which frames and where it is seen, and how films are written.
Knows nothing of models, training or verdicts; the picture is demo_view's and the look of a part
demo_parts'. The line itself (belt, camera, kinds of part) is always the same one; a seed decides which
parts come, how each looks and lies, and how the light drifts. Training images are frames of a film of good
parts on the same line, from the same encoder, so that nothing but the parts tells a training frame from an
inspected one.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from dualkd.export.demo_kinds import FOREIGN_KINDS, KINDS
from dualkd.export.demo_parts import (
    GOOD,
    LOCAL_DEFECTS,
    WHOLE_PART_DEFECTS,
    Part,
    local_defect_mask,
    silhouette,
)
from dualkd.export.demo_relief import CANVAS_PX2, Mask
from dualkd.export.demo_view import FRAMES_PER_PART, HEIGHT_PX, WIDTH_PX, Image, Line, render_frame

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in frame pixels, x1 and y1 excluded

FPS = 10
TRAINING_FRAMES_PER_PART = 2.8  # twice the stride: more different parts in as many images
DEFECTS = (*LOCAL_DEFECTS, *WHOLE_PART_DEFECTS)
BAD_SHARE = 0.4


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
    """A film and its parts, in the order in which they come."""

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
            kind = sorted(FOREIGN_KINDS)[number // len(DEFECTS) % len(FOREIGN_KINDS)]
        parts[slot] = Part(kind, defect, parts[slot].seed)
    return Line(tuple(parts), seed)


def training_line(frames: int, seed: int) -> Line:
    """Good parts for at least that many frames, at a stride that shows many parts in few frames."""
    return good_line(math.ceil(frames / TRAINING_FRAMES_PER_PART) + 1, seed, TRAINING_FRAMES_PER_PART)


# ---------------------------------------------------------------- truth


def truth_of(line: Line) -> Truth:
    """Every slot's truth; boxes come from the drawn silhouettes, not from a table."""
    parts = tuple(_part_truth(line, slot) for slot in range(len(line.parts)))
    return Truth(line.seed, FPS, line.frame_count, WIDTH_PX, HEIGHT_PX, parts)


def _part_truth(line: Line, slot: int) -> PartTruth:
    part = line.parts[slot]
    frames = range(line.frame_count)
    centred = min(frames, key=lambda frame: abs(line.part_x_px(slot, frame) - WIDTH_PX / 2))
    box = _box_in_frame(line, slot, centred, silhouette(part))
    middle = line.part_x_px(slot, centred)
    left, right = box[0] - middle, box[2] - middle  # from the slot's centre
    in_view = [
        frame
        for frame in frames
        if left + line.part_x_px(slot, frame) >= 0 and right + line.part_x_px(slot, frame) <= WIDTH_PX
    ]
    changed = local_defect_mask(part)
    defect_box = _box_in_frame(line, slot, centred, changed) if changed.any() else None
    return PartTruth(slot, part.kind, part.defect, box, defect_box, in_view[0], centred, in_view[-1])


def _box_in_frame(line: Line, slot: int, frame: int, mask_px2: Mask) -> Box:
    rows, columns = np.nonzero(mask_px2.any(axis=1))[0], np.nonzero(mask_px2.any(axis=0))[0]
    x = line.part_x_px(slot, frame) - CANVAS_PX2 / 4
    y = HEIGHT_PX / 2 - CANVAS_PX2 / 4 - float(line.wander_px2[frame]) / 2
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
    _encode(path, _frames(line))
    truth = truth_of(line)
    path.with_name("truth.json").write_text(json.dumps(asdict(truth), indent=1) + "\n", encoding="utf-8")
    return truth


def write_centred_parts(path: Path, film: Path, truth: Truth) -> None:
    """Writes one frame a part, one a second: what a camera sees that a light barrier triggers. Lossless (MKV)."""
    centred = {part.centred_frame for part in truth.parts}
    frames = (frame for number, frame in enumerate(_decode(film)) if number in centred)
    _encode(path, frames, codec="FFV1", fps=1)


def write_training_film(path: Path, seed: int, frames: int = 280) -> None:
    """Writes a film (MP4) of at least that many frames, of good parts only, at every phase of the belt."""
    _encode(path, _frames(training_line(frames, seed)))


def write_training_images(folder: Path, count: int, seed: int) -> list[Path]:
    """Writes count PNG files, frames of a training film in its order, and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with tempfile.TemporaryDirectory() as scratch:
        film = Path(scratch) / "training.mp4"
        write_training_film(film, seed, count)
        for number, frame in enumerate(islice(_decode(film), count)):
            paths.append(folder / f"{number:04d}.png")
            if not cv2.imwrite(str(paths[-1]), frame):
                raise OSError(f"cannot write {paths[-1]}")
    if len(paths) < count:
        raise OSError(
            f"the training film gave back {len(paths)} of {count} frames: check this OpenCV's FFmpeg"
        )
    return paths


def _frames(line: Line) -> Iterator[Image]:
    return (render_frame(line, frame) for frame in range(line.frame_count))


def _encode(path: Path, frames: Iterable[Image], codec: str = "mp4v", fps: int = FPS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (WIDTH_PX, HEIGHT_PX))
    if not writer.isOpened():
        raise OSError(f"cannot write {path}: no {codec} encoder in this OpenCV, or no right to write there")
    try:
        for frame in frames:
            writer.write(frame)
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
