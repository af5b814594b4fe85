"""The kinds of part of the demo's line, as drawings.

Knows: what each kind looks like, the foreign kinds that training never shows, the wrongly built twin of
each kind, and the texture that makes two parts of a kind differ. Knows nothing of damage, pose, belts or
films. Lengths are in px2, as in demo_relief.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from dualkd.export.demo_relief import (
    CANVAS_PX2,
    Bgr,
    Floats,
    Relief,
    box,
    disc,
    fill,
    noise,
    path,
    polar,
    polar_grid,
    ring,
    text,
)

STEEL: Bgr = (0.66, 0.645, 0.63)
ORANGE: Bgr = (0.13, 0.42, 0.86)
SOLDER_MASK: Bgr = (0.24, 0.40, 0.12)
COPPER_UNDER_MASK: Bgr = (0.30, 0.50, 0.17)
GOLD: Bgr = (0.36, 0.66, 0.82)
BLACK_RESIN: Bgr = (0.15, 0.145, 0.14)
TIN: Bgr = (0.72, 0.72, 0.72)
SILK: Bgr = (0.86, 0.88, 0.87)


def _flange(face_down: bool = False) -> Relief:
    """Turned steel: a hub with a keyed bore, bolt holes on a circle, an engraved number; its underside is plain."""
    relief = Relief()
    relief.body(disc(250), STEEL, thickness=14, gloss=0.55)
    relief.paint(ring(243, 14), raised=-5)
    if not face_down:
        relief.paint(ring(222, 5), (0.42, 0.41, 0.40), raised=-3)
    for turn in np.arange(6) * 2 * np.pi / 6 - np.pi / 2:
        x, y = 176 * np.cos(turn), 176 * np.sin(turn)
        relief.paint(disc(34, x, y), (0.58, 0.57, 0.56), raised=-6)
        relief.cut(disc(22, x, y))
    if not face_down:
        relief.paint(disc(118), raised=12)
        relief.paint(ring(84, 4), (0.50, 0.49, 0.48), raised=-3)
    relief.cut(np.maximum(disc(56), box(24, 40, 0, -52)))
    if not face_down:
        relief.paint(text("F42-6", -46, 104, 1.05), (0.34, 0.33, 0.33), raised=-3)
    return relief


def _connector(mirrored: bool = False) -> Relief:
    """Moulded plastic: two ears with bushings, a socket with ten gold pins, a latch and a coding rib."""
    relief = Relief()
    relief.body(box(548, 128, 0, 10, 34), ORANGE, thickness=10, gloss=0.16)
    relief.body(box(392, 344, 0, 0, 24), ORANGE, thickness=20, gloss=0.16)
    for x in (-234.0, 234.0):
        relief.paint(disc(31, x, 10), STEEL, raised=4, gloss=0.6)
        relief.cut(disc(19, x, 10))
    relief.paint(box(324, 150, 0, 34, 14), raised=9)
    relief.paint(box(292, 118, 0, 34, 8), (0.07, 0.22, 0.47), raised=-16)
    for x in np.linspace(-112, 112, 5):
        for y in (8.0, 60.0):
            relief.paint(box(22, 22, x, y, 4), GOLD, raised=10, gloss=0.8)
            relief.paint(box(10, 10, x, y, 2), (0.50, 0.80, 0.93), raised=4)
    relief.paint(box(118, 62, -104, -116, 10), raised=9)  # latch
    relief.paint(box(78, 20, -104, -112, 6), (0.08, 0.27, 0.58), raised=-7)
    for y in (-138.0, -114.0, -90.0):
        relief.paint(box(116, 9, 108, y, 4), raised=6)  # grip
    relief.paint(box(14, 40, 176, 138, 4), raised=8)  # coding rib
    relief.paint(text("HV 5x2", -150, 152, 0.95), raised=4)
    if not mirrored:
        return relief
    planes = (relief.bgr, relief.height, relief.gloss, relief.alpha)
    return Relief(*(np.ascontiguousarray(plane[:, ::-1]) for plane in planes))


def _board(swapped: bool = False) -> Relief:
    """A circuit board: a controller with its legs, a capacitor, small parts, traces, gold edge contacts."""
    relief = Relief()
    relief.body(box(520, 376, 0, 0, 18), SOLDER_MASK, thickness=7, gloss=0.22)
    side = -1 if swapped else 1
    for i in range(9):  # traces from the controller to the contacts and across
        x = -168.0 + 22 * i
        trace = [(x, 15.0), (x, 70.0 + 6 * i), (x + 70, 140.0), (x + 70, 160.0)]
        relief.paint(path(trace, 4), COPPER_UNDER_MASK, 0.6)
    for i in range(5):
        y = -108.0 + 24 * i
        trace = [(-60.0, y), (10.0, y), (40.0, y + 30), (150.0, y + 30)]
        relief.paint(path(trace, 4), COPPER_UNDER_MASK, 0.6)
    for x, y in ((-230.0, -158.0), (230.0, -158.0), (-230.0, 158.0), (230.0, 158.0)):
        relief.paint(disc(22, x, y), GOLD, raised=0.8, gloss=0.6)
        relief.cut(disc(13, x, y))
    for x in np.linspace(-150, 150, 14):
        relief.paint(box(14, 40, x, 166, 2), GOLD, raised=0.8, gloss=0.6)
    _controller(relief, -104 * side, -62)
    _capacitor(relief, 122 * side, -70)
    upper_row, lower_row = ((40.0, 84.0, 128.0, 172.0), 40.0), ((40.0, 84.0, 172.0), 92.0)
    for x, y in ((x, y) for row, y in (upper_row, lower_row) for x in row):
        relief.paint(box(16, 36, x, y, 2), (0.70, 0.70, 0.70), raised=5, gloss=0.5)
        relief.paint(box(16, 20, x, y, 1), (0.28, 0.38, 0.52), raised=1, gloss=0.1)
        relief.paint(box(28, 48, x, y, 2) - box(24, 44, x, y, 2), SILK)
    relief.paint(text("DK-7 REV B", -60, -150, 0.75, 2), SILK)
    relief.paint(text("IC1", -236, 20, 0.6, 2), SILK)
    return relief


def _controller(relief: Relief, x: float, y: float) -> None:
    for i in np.linspace(-54, 54, 8):
        for side in (-75, 75):
            relief.paint(box(9, 16, x + i, y + side, 1), TIN, raised=3, gloss=0.6)
            relief.paint(box(16, 9, x + side, y + i, 1), TIN, raised=3, gloss=0.6)
    relief.paint(box(138, 138, x, y, 5), BLACK_RESIN, raised=11, gloss=0.12)
    relief.paint(disc(8, x - 50, y - 50), (0.10, 0.10, 0.10), raised=-4)
    relief.paint(text("M4F", x - 34, y + 4, 0.9, 2), (0.55, 0.55, 0.55))
    relief.paint(text("2231", x - 34, y + 34, 0.7, 2), (0.55, 0.55, 0.55))


def _capacitor(relief: Relief, x: float, y: float) -> None:
    relief.paint(box(120, 120, x, y, 10), (0.13, 0.13, 0.13), raised=5, gloss=0.1)
    relief.paint(disc(54, x, y), (0.70, 0.70, 0.69), raised=18, gloss=0.5)
    relief.paint(disc(54, x, y) * box(40, 120, x - 44, y, 1), (0.12, 0.10, 0.10), gloss=0.2)
    relief.paint(text("220", x - 18, y + 8, 0.7, 2), (0.20, 0.18, 0.18))


def _gear() -> Relief:
    """Foreign: a spoked steel gear, the flange's material in another shape."""
    relief = Relief()
    phase = np.linspace(0, 2 * np.pi, 768, endpoint=False)
    relief.body(polar(232 + 18 * np.tanh(4 * np.sin(26 * phase))), STEEL, thickness=18, gloss=0.55)
    relief.paint(ring(196, 5), (0.42, 0.41, 0.40), raised=-3)
    for turn in np.arange(5) * 2 * np.pi / 5:
        window = 56 * (1 + 0.18 * np.cos(2 * (phase - turn)))
        relief.cut(polar(window, 124 * np.cos(turn), 124 * np.sin(turn)))
    relief.paint(disc(64), raised=10)
    relief.cut(disc(28))
    return relief


def _lever() -> Relief:
    """Foreign: a moulded lever with two bushings, the connector's material in another shape."""
    relief = Relief()
    relief.body(polar(np.full(96, 104.0), -160, 60), ORANGE, thickness=14, gloss=0.16)
    relief.body(polar(np.full(96, 76.0), 186, -104), ORANGE, thickness=14, gloss=0.16)
    web = np.array([(-200.0, -30.0), (150.0, -172.0), (222.0, -40.0), (-118.0, 152.0)])
    relief.body(fill(web), ORANGE, thickness=9, gloss=0.16)
    for x, y, radius in ((-160.0, 60.0, 56.0), (186.0, -104.0, 40.0)):
        relief.paint(disc(radius, x, y), STEEL, raised=6, gloss=0.6)
        relief.cut(disc(radius - 18, x, y))
    for shift in (-22.0, 22.0):
        relief.paint(path([(-80, 28 + shift), (120, -74 + shift)], 10), raised=7)
    return relief


def _turned(rng: np.random.Generator) -> Floats:
    """Lathe marks: fine rings, and the two opposite bright sectors that turned metal shows."""
    radius, angle = polar_grid()
    cuts = rng.standard_normal(CANVAS_PX2)
    rings = np.convolve(cuts, np.ones(2) / 2, "same") + 0.6 * np.convolve(cuts, np.ones(9) / 3, "same")
    sectors = np.cos(2 * (angle - np.float32(0.75 + 0.15 * rng.standard_normal())))
    grooves = np.asarray(0.035 * rings, np.float32)[radius]
    return np.asarray(1 + grooves + 0.12 * sectors + 0.02 * noise(rng, 2), np.float32)


def _moulded(rng: np.random.Generator) -> Floats:
    """The texture that spark erosion leaves in a mould."""
    return 1 + 0.025 * noise(rng, 2)


def _laminated(rng: np.random.Generator) -> Floats:
    """The glass weave under the solder mask."""
    threads = np.sin(np.arange(CANVAS_PX2, dtype=np.float32) / np.float32(2.3))
    return 1 + 0.02 * np.outer(threads, threads) + 0.025 * noise(rng, 2)


@dataclass(frozen=True)
class Kind:
    """nominal: the drawing, the same for every part. texture: brightness (H, W) about 1, new for each."""

    nominal: Callable[[], Relief]
    texture: Callable[[np.random.Generator], Floats]


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
# The right material and features, but lying face down, mirrored, or with two components swapped.
MISBUILT_KINDS: dict[str, Kind] = {
    "flange": Kind(lambda: _flange(face_down=True), _turned),
    "connector": Kind(lambda: _connector(mirrored=True), _moulded),
    "board": Kind(lambda: _board(swapped=True), _laminated),
}
