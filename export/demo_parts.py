"""The parts of the demo's production line: what each kind looks like, and what can be wrong with one.

Knows: how to draw a kind as a small relief (colour, height, gloss, silhouette), how one part differs from the
next, how each defect changes a relief, and how a relief looks under the line's lamp. Knows nothing of the
belt, the camera, films or truth files: those are demo_line's.

Everything here is drawn at twice the camera's resolution (demo_line downsamples by area), so lengths are in
pixels of that double-size rendering, named `px2`. Colours are BGR in 0..1.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bgr = tuple[float, float, float]

CANVAS_PX2 = 672  # side of the square in which a part is drawn; its centre is the part's centre
MIDDLE = CANVAS_PX2 / 2


def _unit(x: float, y: float, z: float) -> tuple[float, float, float]:
    length = float(np.hypot(np.hypot(x, y), z))
    return x / length, y / length, z / length


LAMP = _unit(-0.42, -0.55, 0.72)  # towards the lamp: up and left of the camera
HALFWAY = _unit(LAMP[0], LAMP[1], LAMP[2] + 1)  # between the lamp and the camera straight above
SHADOW_SHIFT_PX2 = (9, 12)  # away from the lamp

STEEL: Bgr = (0.66, 0.645, 0.63)
ORANGE: Bgr = (0.13, 0.42, 0.86)
SOLDER_MASK: Bgr = (0.24, 0.40, 0.12)
GOLD: Bgr = (0.36, 0.66, 0.82)
BLACK_RESIN: Bgr = (0.15, 0.145, 0.14)
SILK: Bgr = (0.86, 0.88, 0.87)


@dataclass
class Relief:
    """A part as a lit surface: all fields share height and width, floats.

    bgr: (H, W, 3) colour. height: (H, W) above the belt, in px2. gloss: (H, W), 0 matt to 1 polished.
    alpha: (H, W), 1 on the part and 0 where the belt is seen.
    """

    bgr: Floats = field(default_factory=lambda: np.zeros((CANVAS_PX2, CANVAS_PX2, 3), np.float32))
    height: Floats = field(default_factory=lambda: np.zeros((CANVAS_PX2, CANVAS_PX2), np.float32))
    gloss: Floats = field(default_factory=lambda: np.zeros((CANVAS_PX2, CANVAS_PX2), np.float32))
    alpha: Floats = field(default_factory=lambda: np.zeros((CANVAS_PX2, CANVAS_PX2), np.float32))

    def copy(self) -> Relief:
        return Relief(self.bgr.copy(), self.height.copy(), self.gloss.copy(), self.alpha.copy())

    def body(self, mask: Floats, bgr: Bgr, thickness: float, gloss: float) -> None:
        """Adds material where mask is 1; where bodies overlap, the thicker one shows."""
        self.alpha = np.maximum(self.alpha, mask)
        self.height = np.maximum(self.height, mask * np.float32(thickness))
        self.paint(mask, bgr, gloss=gloss)

    def paint(
        self, mask: Floats, bgr: Bgr | None = None, raised: float = 0.0, gloss: float | None = None
    ) -> None:
        """Recolours, raises (or lowers) and polishes where mask is 1; the silhouette stays."""
        x, y, width, height = cv2.boundingRect((mask > 0).astype(np.uint8))
        area = np.s_[y : y + height, x : x + width]
        mask = mask[area]
        if bgr is not None:
            self.bgr[area] += mask[..., None] * (np.array(bgr, np.float32) - self.bgr[area])
        if gloss is not None:
            self.gloss[area] += mask * (np.float32(gloss) - self.gloss[area])
        self.height[area] += mask * np.float32(raised)

    def cut(self, mask: Floats) -> None:
        """Opens a hole, or removes an edge, where mask is 1."""
        self.alpha *= 1 - mask
        self.height *= 1 - mask


# ------------------------------------------------ shapes: masks in 0..1, x and y from the middle


def _fill(points: npt.NDArray[np.floating]) -> Floats:
    mask = np.zeros((CANVAS_PX2, CANVAS_PX2), np.uint8)
    fixed_point = np.round((points + MIDDLE) * 16).astype(np.int32)
    cv2.fillPoly(mask, [fixed_point], 255, cv2.LINE_AA, 4)
    return np.multiply(mask, 1 / 255, dtype=np.float32)


def _polar(radii: npt.NDArray[np.floating], x: float = 0.0, y: float = 0.0, turn: float = 0.0) -> Floats:
    angles = turn + np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    return _fill(np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1))


def _disc(radius: float, x: float = 0.0, y: float = 0.0) -> Floats:
    return _polar(np.full(96, radius), x, y)


def _ring(radius: float, width: float, x: float = 0.0, y: float = 0.0) -> Floats:
    return _disc(radius + width / 2, x, y) - _disc(radius - width / 2, x, y)


def _box(width: float, height: float, x: float = 0.0, y: float = 0.0, corner: float = 3.0) -> Floats:
    quarter = np.linspace(0, np.pi / 2, 8)
    corners = [
        np.stack(
            [
                x + sx * (width / 2 - corner) + corner * np.cos(start + quarter),
                y + sy * (height / 2 - corner) + corner * np.sin(start + quarter),
            ],
            axis=1,
        )
        for sx, sy, start in ((1, 1, 0.0), (-1, 1, np.pi / 2), (-1, -1, np.pi), (1, -1, 1.5 * np.pi))
    ]
    return _fill(np.concatenate(corners))


def _path(points: list[tuple[float, float]], width: int) -> Floats:
    mask = np.zeros((CANVAS_PX2, CANVAS_PX2), np.uint8)
    fixed_point = np.round((np.array(points) + MIDDLE) * 16).astype(np.int32)
    cv2.polylines(mask, [fixed_point], False, 255, width, cv2.LINE_AA, 4)
    return np.multiply(mask, 1 / 255, dtype=np.float32)


def _text(text: str, x: float, y: float, size: float = 1.0, width: int = 3) -> Floats:
    mask = np.zeros((CANVAS_PX2, CANVAS_PX2), np.uint8)
    at = (round(MIDDLE + x), round(MIDDLE + y))
    cv2.putText(mask, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, 255, width, cv2.LINE_AA)
    return np.multiply(mask, 1 / 255, dtype=np.float32)


def _noise(rng: np.random.Generator, cell: int) -> Floats:
    """Smooth noise of unit deviation over the canvas; cell is the size of its blobs in px2."""
    side = CANVAS_PX2 // cell + 3
    coarse = rng.standard_normal((side, side), np.float32)
    if cell > 1:
        coarse = cv2.resize(coarse, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC)
    fine: Floats = coarse[:CANVAS_PX2, :CANVAS_PX2]
    return np.asarray(fine / fine.std(), np.float32)


def _radius_and_angle() -> tuple[Floats, Floats]:
    y, x = np.mgrid[:CANVAS_PX2, :CANVAS_PX2].astype(np.float32) - np.float32(MIDDLE)
    return np.hypot(x, y), np.arctan2(y, x)


# ---------------------------------------------------------------- kinds


def _flange(holes: int = 6) -> Relief:
    """Turned steel: a hub with a keyed bore, bolt holes on a circle, an engraved number."""
    relief = Relief()
    relief.body(_disc(250), STEEL, thickness=14, gloss=0.55)
    relief.paint(_ring(243, 14), raised=-5)
    relief.paint(_ring(222, 5), (0.42, 0.41, 0.40), raised=-3)
    for turn in np.arange(holes) * 2 * np.pi / holes - np.pi / 2:
        x, y = 176 * np.cos(turn), 176 * np.sin(turn)
        relief.paint(_disc(34, x, y), (0.58, 0.57, 0.56), raised=-6)
        relief.cut(_disc(22, x, y))
    relief.paint(_disc(118), raised=12)
    relief.paint(_ring(84, 4), (0.50, 0.49, 0.48), raised=-3)
    relief.cut(np.maximum(_disc(56), _box(24, 40, 0, -52)))
    relief.paint(_text("F42-6", -46, 104, 1.05), (0.34, 0.33, 0.33), raised=-3)
    return relief


def _connector(mirrored: bool = False) -> Relief:
    """Moulded plastic: two ears with bushings, a socket with ten gold pins, a latch and a coding rib."""
    relief = Relief()
    relief.body(_box(548, 128, 0, 10, 34), ORANGE, thickness=10, gloss=0.16)
    relief.body(_box(392, 344, 0, 0, 24), ORANGE, thickness=20, gloss=0.16)
    for x in (-234.0, 234.0):
        relief.paint(_disc(31, x, 10), STEEL, raised=4, gloss=0.6)
        relief.cut(_disc(19, x, 10))
    relief.paint(_box(324, 150, 0, 34, 14), raised=9)
    relief.paint(_box(292, 118, 0, 34, 8), (0.07, 0.22, 0.47), raised=-16)
    for x in np.linspace(-112, 112, 5):
        for y in (8.0, 60.0):
            relief.paint(_box(22, 22, x, y, 4), GOLD, raised=10, gloss=0.8)
            relief.paint(_box(10, 10, x, y, 2), (0.50, 0.80, 0.93), raised=4)
    relief.paint(_box(118, 62, -104, -116, 10), raised=9)  # latch
    relief.paint(_box(78, 20, -104, -112, 6), (0.08, 0.27, 0.58), raised=-7)
    for y in (-138.0, -114.0, -90.0):
        relief.paint(_box(116, 9, 108, y, 4), raised=6)  # grip
    relief.paint(_box(14, 40, 176, 138, 4), raised=8)  # coding rib
    relief.paint(_text("HV 5x2", -150, 152, 0.95), raised=4)
    if not mirrored:
        return relief
    return Relief(
        *(
            np.ascontiguousarray(plane[:, ::-1])
            for plane in (relief.bgr, relief.height, relief.gloss, relief.alpha)
        )
    )


def _board(swapped: bool = False) -> Relief:
    """A circuit board: a controller with its legs, a capacitor, small parts, traces, gold edge contacts."""
    relief = Relief()
    relief.body(_box(520, 376, 0, 0, 18), SOLDER_MASK, thickness=7, gloss=0.22)
    side = -1 if swapped else 1
    for i in range(9):  # traces from the controller to the contacts and across
        x = -168.0 + 22 * i
        relief.paint(
            _path([(x, 15), (x, 70 + 6 * i), (x + 70, 140), (x + 70, 160)], 4), (0.30, 0.50, 0.17), 0.6
        )
    for i in range(5):
        y = -108.0 + 24 * i
        relief.paint(_path([(-60, y), (10, y), (40, y + 30), (150, y + 30)], 4), (0.30, 0.50, 0.17), 0.6)
    for x, y in ((-230.0, -158.0), (230.0, -158.0), (-230.0, 158.0), (230.0, 158.0)):
        relief.paint(_disc(22, x, y), GOLD, raised=0.8, gloss=0.6)
        relief.cut(_disc(13, x, y))
    for x in np.linspace(-150, 150, 14):
        relief.paint(_box(14, 40, x, 166, 2), GOLD, raised=0.8, gloss=0.6)
    _controller(relief, -104 * side, -62)
    _capacitor(relief, 122 * side, -70)
    for x, y in (
        (40.0, 40.0),
        (84.0, 40.0),
        (128.0, 40.0),
        (172.0, 40.0),
        (40.0, 92.0),
        (84.0, 92.0),
        (172.0, 92.0),
    ):
        relief.paint(_box(16, 36, x, y, 2), (0.70, 0.70, 0.70), raised=5, gloss=0.5)
        relief.paint(_box(16, 20, x, y, 1), (0.28, 0.38, 0.52), raised=1, gloss=0.1)
        relief.paint(_box(28, 48, x, y, 2) - _box(24, 44, x, y, 2), SILK)
    relief.paint(_text("DK-7 REV B", -60, -150, 0.75, 2), SILK)
    relief.paint(_text("IC1", -236, 20, 0.6, 2), SILK)
    return relief


def _controller(relief: Relief, x: float, y: float) -> None:
    for i in np.linspace(-54, 54, 8):
        for side in (-75, 75):
            relief.paint(_box(9, 16, x + i, y + side, 1), (0.72, 0.72, 0.72), raised=3, gloss=0.6)
            relief.paint(_box(16, 9, x + side, y + i, 1), (0.72, 0.72, 0.72), raised=3, gloss=0.6)
    relief.paint(_box(138, 138, x, y, 5), BLACK_RESIN, raised=11, gloss=0.12)
    relief.paint(_disc(8, x - 50, y - 50), (0.10, 0.10, 0.10), raised=-4)
    relief.paint(_text("M4F", x - 34, y + 4, 0.9, 2), (0.55, 0.55, 0.55))
    relief.paint(_text("2231", x - 34, y + 34, 0.7, 2), (0.55, 0.55, 0.55))


def _capacitor(relief: Relief, x: float, y: float) -> None:
    relief.paint(_box(120, 120, x, y, 10), (0.13, 0.13, 0.13), raised=5, gloss=0.1)
    relief.paint(_disc(54, x, y), (0.70, 0.70, 0.69), raised=18, gloss=0.5)
    relief.paint(_disc(54, x, y) * _box(40, 120, x - 44, y, 1), (0.12, 0.10, 0.10), gloss=0.2)
    relief.paint(_text("220", x - 18, y + 8, 0.7, 2), (0.20, 0.18, 0.18))


def _gear(_: int = 0) -> Relief:
    """Foreign: a spoked steel gear, the flange's material in another shape."""
    relief = Relief()
    phase = np.linspace(0, 2 * np.pi, 768, endpoint=False)
    relief.body(_polar(232 + 18 * np.tanh(4 * np.sin(26 * phase))), STEEL, thickness=18, gloss=0.55)
    relief.paint(_ring(196, 5), (0.42, 0.41, 0.40), raised=-3)
    for turn in np.arange(5) * 2 * np.pi / 5:
        relief.cut(
            _polar(56 * (1 + 0.18 * np.cos(2 * (phase - turn))), 124 * np.cos(turn), 124 * np.sin(turn))
        )
    relief.paint(_disc(64), raised=10)
    relief.cut(_disc(28))
    return relief


def _lever(_: int = 0) -> Relief:
    """Foreign: a moulded lever with two bushings, the connector's material in another shape."""
    relief = Relief()
    relief.body(_polar(np.full(96, 104.0), -160, 60), ORANGE, thickness=14, gloss=0.16)
    relief.body(_polar(np.full(96, 76.0), 186, -104), ORANGE, thickness=14, gloss=0.16)
    web = np.array([(-200.0, -30.0), (150.0, -172.0), (222.0, -40.0), (-118.0, 152.0)])
    relief.body(_fill(web), ORANGE, thickness=9, gloss=0.16)
    for x, y, radius in ((-160.0, 60.0, 56.0), (186.0, -104.0, 40.0)):
        relief.paint(_disc(radius, x, y), STEEL, raised=6, gloss=0.6)
        relief.cut(_disc(radius - 18, x, y))
    for shift in (-22.0, 22.0):
        relief.paint(_path([(-80, 28 + shift), (120, -74 + shift)], 10), raised=7)
    return relief


def _turned(relief: Relief, rng: np.random.Generator) -> None:
    """Lathe marks: fine rings, and the two opposite bright sectors that turned metal shows."""
    radius, angle = _radius_and_angle()
    cuts = rng.standard_normal(CANVAS_PX2)
    rings = np.convolve(cuts, np.ones(2) / 2, "same") + 0.6 * np.convolve(cuts, np.ones(9) / 3, "same")
    tone = 0.035 * np.interp(radius, np.arange(CANVAS_PX2), rings)
    tone += 0.12 * np.cos(2 * (angle - 0.75 - 0.15 * rng.standard_normal()))
    relief.bgr *= (1 + tone)[..., None].astype(np.float32)
    _grained(relief, rng, fine=0.025, coarse=0.025)


def _moulded(relief: Relief, rng: np.random.Generator) -> None:
    """Spark-eroded mould texture and flow marks."""
    relief.height += np.float32(0.07) * _noise(rng, 2)
    _grained(relief, rng, fine=0.015, coarse=0.022)


def _laminated(relief: Relief, rng: np.random.Generator) -> None:
    """The glass weave under the solder mask."""
    y, x = np.mgrid[:CANVAS_PX2, :CANVAS_PX2].astype(np.float32)
    relief.bgr *= (1 + 0.02 * np.sin(x / 2.3) * np.sin(y / 2.3))[..., None].astype(np.float32)
    _grained(relief, rng, fine=0.025, coarse=0.025)


def _grained(relief: Relief, rng: np.random.Generator, fine: float, coarse: float) -> None:
    tone = 1 + fine * _noise(rng, 2) + coarse * _noise(rng, 80)
    relief.bgr *= tone[..., None] * np.clip(rng.normal(1, 0.012, 3), 0.97, 1.03).astype(np.float32)
    relief.bgr *= np.float32(np.clip(rng.normal(1, 0.045), 0.9, 1.1))


@dataclass(frozen=True)
class Kind:
    """nominal: the drawing, the same for every part. vary: what differs from one good part to the next."""

    nominal: Callable[[], Relief]
    vary: Callable[[Relief, np.random.Generator], None]


KINDS: dict[str, Kind] = {
    "flange": Kind(_flange, _turned),
    "connector": Kind(_connector, _moulded),
    "board": Kind(_board, _laminated),
}
# Never seen in training.
FOREIGN_KINDS: dict[str, Kind] = {
    "gear": Kind(_gear, _turned),
    "lever": Kind(_lever, _moulded),
}
# The right material and features in the wrong arrangement: each spot looks plausible, the whole is wrong.
MISBUILT_KINDS: dict[str, Kind] = {
    "flange": Kind(lambda: _flange(holes=5), _turned),
    "connector": Kind(lambda: _connector(mirrored=True), _moulded),
    "board": Kind(lambda: _board(swapped=True), _laminated),
}


# ---------------------------------------------------------------- local defects


def _point_on(relief: Relief, rng: np.random.Generator, margin: int) -> tuple[float, float]:
    """A point (x, y from the middle) on the part, at least margin px2 inside its outline."""
    inside = cv2.erode(
        (relief.alpha > 0.9).astype(np.uint8), np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)
    )
    rows, columns = np.nonzero(inside)
    pick = rng.integers(len(rows))
    return float(columns[pick] - MIDDLE), float(rows[pick] - MIDDLE)


def _scratch(relief: Relief, rng: np.random.Generator) -> None:
    """One to three nearly parallel grooves that catch the light, broken where the tool skipped."""
    x, y = _point_on(relief, rng, 24)
    heading, bend = rng.uniform(0, np.pi), rng.uniform(-0.5, 0.5)
    length, depth, whitening = rng.uniform(110, 260), rng.uniform(1.2, 2.4), rng.uniform(0.3, 0.6)
    skips = np.clip(1.2 + 0.7 * _noise(rng, 28), 0.15, 1)
    for groove in range(rng.integers(1, 4)):
        along = np.linspace(-0.5, 0.5, 16) * length * (1 - 0.25 * groove)
        turn = heading + bend * along / length
        shift = groove * rng.uniform(9, 16)
        path_x = x + along * np.cos(turn) - shift * np.sin(heading)
        path_y = y + along * np.sin(turn) + shift * np.cos(heading)
        mask = _path(list(zip(path_x, path_y, strict=True)), int(rng.integers(2, 5))) * skips * relief.alpha
        relief.height -= np.float32(depth) * mask
        relief.bgr += mask[..., None] * np.float32(whitening) * (np.float32(0.85) - relief.bgr)


def _chip(relief: Relief, rng: np.random.Generator) -> None:
    """A piece broken out of the edge, with a rough, paler fracture around it."""
    outline = (relief.alpha > 0.5).astype(np.uint8)
    contours, _ = cv2.findContours(outline, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    edge = max(contours, key=len)[:, 0, :]
    x, y = edge[rng.integers(len(edge))] - MIDDLE
    size = rng.uniform(26, 46)
    ragged = size * np.clip(1 + np.cumsum(rng.normal(0, 0.11, 24)) * np.hanning(24), 0.6, 1.5)
    turn = rng.uniform(0, 2 * np.pi)
    fracture = _polar(ragged * 1.3, x, y, turn) * relief.alpha
    relief.height -= fracture * (np.float32(4) + np.float32(1.6) * _noise(rng, 5))
    relief.paint(fracture * np.float32(0.55), (0.62, 0.64, 0.66), gloss=0.05)
    relief.cut(_polar(ragged, x, y, turn))


def _stain(relief: Relief, rng: np.random.Generator) -> None:
    """A dried drop of oil or coolant: a ragged brownish film with a darker rim."""
    x, y = _point_on(relief, rng, 40)
    size = rng.uniform(34, 72)
    wobble = np.convolve(np.tile(rng.normal(0, 1, 40), 3), np.hanning(9) / 4, "same")[40:80]
    shape = _polar(size * np.clip(1 + 0.22 * wobble, 0.5, 1.7), x, y)
    film = cv2.GaussianBlur(shape, (0, 0), 3.0)
    rim = np.clip(4 * film * (1 - cv2.GaussianBlur(shape, (0, 0), 9.0)), 0, 1) * film
    strength = np.float32(rng.uniform(0.28, 0.5)) * relief.alpha
    cover = strength * np.clip(film * (0.8 + 0.2 * _noise(rng, 18)) + 0.6 * rim, 0, 1.6)
    tint = np.array((1.25, 1.0, 0.82), np.float32)  # takes blue away first: brownish
    relief.bgr *= np.clip(1 - cover[..., None] * tint, 0.12, 1)
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


def posed_relief(part: Part) -> Relief:
    """The part with its own look, its defect and its pose. A missing part has alpha 0 everywhere."""
    if part.defect == "missing":
        return Relief()
    relief = _nominal(part.kind, part.defect == "wrong_build").copy()
    (KINDS | FOREIGN_KINDS)[part.kind].vary(relief, _stream(part, "look"))
    if part.defect in LOCAL_DEFECTS:
        LOCAL_DEFECTS[part.defect](relief, _stream(part, part.defect))
    rng = _stream(part, "pose")
    matrix = cv2.getRotationMatrix2D((MIDDLE, MIDDLE), rng.uniform(-7, 7), rng.uniform(0.97, 1.03))
    matrix[:, 2] += rng.uniform(-16, 16, 2)
    size = (CANVAS_PX2, CANVAS_PX2)
    return Relief(
        *(
            cv2.warpAffine(plane, matrix, size)
            for plane in (relief.bgr, relief.height, relief.gloss, relief.alpha)
        )
    )


def lit(relief: Relief) -> Floats:
    """Colour under the lamp: (H, W, 3) BGR, about 0..1. Lambert, Blinn highlight, and darkened recesses."""
    slope_x = cv2.Sobel(relief.height, cv2.CV_32F, 1, 0, scale=0.125)
    slope_y = cv2.Sobel(relief.height, cv2.CV_32F, 0, 1, scale=0.125)
    steep = 1 / np.sqrt(1 + slope_x**2 + slope_y**2)
    diffuse = np.maximum(0, (LAMP[2] - slope_x * LAMP[0] - slope_y * LAMP[1]) * steep) / LAMP[2]
    glint = np.maximum(0, (HALFWAY[2] - slope_x * HALFWAY[0] - slope_y * HALFWAY[1]) * steep)
    sunk = cv2.blur(cv2.blur(relief.height, (25, 25)), (25, 25)) - relief.height
    ambient = 1 - np.clip(0.035 * sunk, 0, 0.45)
    shade = (0.42 + 0.58 * np.minimum(diffuse, 1.5)) * ambient
    highlight = 0.5 * relief.gloss * (glint**18 - HALFWAY[2] ** 18)
    return np.asarray(relief.bgr * shade[..., None] + np.clip(highlight, -0.1, 0.6)[..., None], np.float32)


def shadow(relief: Relief) -> Floats:
    """How much light the part takes from the belt, (H, W) in 0..1: a soft cast shadow and a tight one."""
    shift = np.array([[1, 0, SHADOW_SHIFT_PX2[0]], [0, 1, SHADOW_SHIFT_PX2[1]]], np.float32)
    cast = cv2.warpAffine(relief.alpha, shift, (CANVAS_PX2, CANVAS_PX2))
    cast = cv2.GaussianBlur(cast, (0, 0), 7.0)
    contact = cv2.GaussianBlur(relief.alpha, (0, 0), 3.5)
    return np.asarray(np.clip(0.5 * cast + 0.3 * contact, 0, 0.75), np.float32)
