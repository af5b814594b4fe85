"""One part of the demo's line: its look, what is wrong with it, how it lies.

Knows: how each local defect changes a part, and how kind, defect and seed make one relief. Knows nothing of
the belt, the camera, films or truth files; the drawings are demo_kinds'. Lengths are in px2, as in
demo_relief.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from dualkd.export.demo_kinds import FOREIGN_KINDS, KINDS, MISBUILT_KINDS
from dualkd.export.demo_relief import CANVAS_PX2, MIDDLE, Floats, Mask, Relief, noise, path, polar, spread


def _point_on(relief: Relief, rng: np.random.Generator, margin: int) -> tuple[float, float]:
    """A point (x, y from the middle) on the part, at least margin px2 inside its outline."""
    solid = (relief.alpha > 0.9).astype(np.uint8)
    inside = cv2.erode(solid, np.ones((2 * margin + 1, 2 * margin + 1), np.uint8))
    rows, columns = np.nonzero(inside)
    pick = rng.integers(len(rows))
    return float(columns[pick] - MIDDLE), float(rows[pick] - MIDDLE)


def _scratch(relief: Relief, rng: np.random.Generator) -> None:
    """Two to four nearly parallel gouges, 2 to 4 pixels wide in the frame, broken where the tool skipped."""
    x, y = _point_on(relief, rng, 24)
    heading, bend = rng.uniform(0, np.pi), rng.uniform(-0.5, 0.5)
    length, depth, whitening = rng.uniform(120, 260), rng.uniform(2.0, 3.5), rng.uniform(0.45, 0.75)
    skips = np.clip(1.2 + 0.7 * noise(rng, 28), 0.15, 1)
    for groove in range(rng.integers(2, 5)):
        along = np.linspace(-0.5, 0.5, 16) * length * (1 - 0.25 * groove)
        turn = heading + bend * along / length
        shift = groove * rng.uniform(9, 16)
        path_x = x + along * np.cos(turn) - shift * np.sin(heading)
        path_y = y + along * np.sin(turn) + shift * np.cos(heading)
        mask = path(list(zip(path_x, path_y, strict=True)), int(rng.integers(4, 9))) * skips * relief.alpha
        relief.height -= np.float32(depth) * mask
        tone = np.where(relief.bgr.mean(axis=2) > 0.5, 0.2, 0.9)  # dark on bright metal, bare on dark plastic
        relief.bgr += spread(mask * np.float32(whitening)) * (spread(tone.astype(np.float32)) - relief.bgr)


def _chip(relief: Relief, rng: np.random.Generator) -> None:
    """A piece broken out of the edge, with a rough, paler fracture around it."""
    outline = (relief.alpha > 0.5).astype(np.uint8)
    contours, _ = cv2.findContours(outline, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    edge = max(contours, key=len)[:, 0, :]
    x, y = edge[rng.integers(len(edge))] - MIDDLE
    size = rng.uniform(26, 46)
    ragged = size * np.clip(1 + np.cumsum(rng.normal(0, 0.11, 24)) * np.hanning(24), 0.6, 1.5)
    turn = rng.uniform(0, 2 * np.pi)
    fracture = polar(ragged * 1.3, x, y, turn) * relief.alpha
    relief.height -= fracture * (np.float32(4) + np.float32(1.6) * noise(rng, 5))
    relief.paint(fracture * np.float32(0.55), (0.62, 0.64, 0.66), gloss=0.05)
    relief.cut(polar(ragged, x, y, turn))


def _stain(relief: Relief, rng: np.random.Generator) -> None:
    """A dried drop of oil, brownish, or of grease, grey: a ragged film with a darker rim."""
    x, y = _point_on(relief, rng, 40)
    size = rng.uniform(34, 72)
    wobble = np.convolve(np.tile(rng.normal(0, 1, 40), 3), np.hanning(9) / 4, "same")[40:80]
    shape = polar(size * np.clip(1 + 0.22 * wobble, 0.5, 1.7), x, y)
    film = cv2.GaussianBlur(shape, (0, 0), 3.0)
    rim = np.clip(4 * film * (1 - cv2.GaussianBlur(shape, (0, 0), 9.0)), 0, 1) * film
    strength = np.float32(rng.uniform(0.28, 0.5)) * relief.alpha
    cover = strength * np.clip(film * (0.8 + 0.2 * noise(rng, 18)) + 0.6 * rim, 0, 1.6)
    blue, green, red = (1.25, 1.0, 0.82) if rng.random() < 0.6 else (1.05, 1.05, 1.05)  # oil or grease
    relief.bgr *= np.clip(1 - cv2.merge((cover * blue, cover * green, cover * red)), 0.12, 1)
    relief.gloss += film * relief.alpha * (np.float32(rng.uniform(0.0, 0.5)) - relief.gloss)


LOCAL_DEFECTS: dict[str, Callable[[Relief, np.random.Generator], None]] = {
    "scratched": _scratch,
    "chipped": _chip,
    "stained": _stain,
}
WHOLE_PART_DEFECTS = ("missing", "wrong_kind", "wrong_build")
GOOD = "good"


# ---------------------------------------------------------------- one part, ready to lay on a belt


@dataclass(frozen=True)
class Part:
    """One slot of the line.

    kind: a key of KINDS (of a missing part, what should have come), or of FOREIGN_KINDS for wrong_kind.
    defect: GOOD, a key of LOCAL_DEFECTS, or one of WHOLE_PART_DEFECTS.
    seed: its look, its pose, and the place and size of its defect.
    """

    kind: str
    defect: str
    seed: int

    def unharmed(self) -> Part:
        """The same part, in the same place, had nothing happened to it."""
        return replace(self, defect=GOOD)


@lru_cache(maxsize=16)
def _nominal(kind: str, misbuilt: bool) -> Relief:
    table = MISBUILT_KINDS if misbuilt else KINDS | FOREIGN_KINDS
    relief = table[kind].nominal()
    relief.height = cv2.GaussianBlur(relief.height, (0, 0), 1.6)  # no edge is perfectly sharp
    return relief


def _stream(part: Part, purpose: str) -> np.random.Generator:
    return np.random.default_rng([part.seed, zlib.crc32(purpose.encode())])


def _posed(part: Part, *planes: Floats) -> list[Floats]:
    """The planes turned, scaled and shifted as the part lies."""
    rng = _stream(part, "pose")
    matrix = cv2.getRotationMatrix2D((MIDDLE, MIDDLE), rng.uniform(-7, 7), rng.uniform(0.97, 1.03))
    matrix[:, 2] += rng.uniform(-16, 16, 2)
    return [cv2.warpAffine(plane, matrix, (CANVAS_PX2, CANVAS_PX2)) for plane in planes]


def posed_relief(part: Part) -> Relief:
    """The part with its own look, its local defect and its pose; of a missing part, what should lie there."""
    relief = _nominal(part.kind, part.defect == "wrong_build").copy()
    rng = _stream(part, "look")
    tone = (KINDS | FOREIGN_KINDS)[part.kind].texture(rng) + 0.024 * noise(rng, 80)
    shade = np.clip(rng.normal(1, 0.045), 0.9, 1.1) * np.clip(rng.normal(1, 0.012, 3), 0.97, 1.03)
    relief.bgr *= cv2.merge([tone * np.float32(colour) for colour in shade])
    if part.defect in LOCAL_DEFECTS:
        LOCAL_DEFECTS[part.defect](relief, _stream(part, part.defect))
    return Relief(*_posed(part, relief.bgr, relief.height, relief.gloss, relief.alpha))


def silhouette(part: Part) -> Mask:
    """Where the part lies on its canvas; for a missing part, where it should lie."""
    (alpha,) = _posed(part, _nominal(part.kind, part.defect == "wrong_build").alpha)
    return alpha > 0.5


def local_defect_mask(part: Part) -> Mask:
    """What the part's local defect changed on its canvas: nothing, if it has none."""
    if part.defect not in LOCAL_DEFECTS:
        return np.zeros((CANVAS_PX2, CANVAS_PX2), np.bool_)
    nominal = _nominal(part.kind, False)
    harmed = nominal.copy()
    LOCAL_DEFECTS[part.defect](harmed, _stream(part, part.defect))
    change = np.abs(harmed.bgr - nominal.bgr).max(axis=2) + np.abs(harmed.alpha - nominal.alpha)
    (mask,) = _posed(part, change)
    return mask > 0.04
