"""Small reliefs under a lamp: what the demo's parts are drawn with.

Knows: a relief (colour, height, gloss, silhouette), the shapes to draw one with, and how it looks when lit.
Knows nothing of kinds of part, defects, belts or films.

Everything here is drawn at twice the camera's resolution (demo_view downsamples by area), so lengths are in
pixels of that double-size rendering, named `px2`. Colours are BGR in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Bgr = tuple[float, float, float]

CANVAS_PX2 = 672  # side of the square in which a part is drawn; its centre is the part's centre
MIDDLE = CANVAS_PX2 / 2


def _unit(x: float, y: float, z: float) -> tuple[float, float, float]:
    length = float(np.hypot(np.hypot(x, y), z))
    return x / length, y / length, z / length


LAMP = _unit(-0.42, -0.55, 0.72)  # towards the lamp: up and left of the camera
HALFWAY = _unit(LAMP[0], LAMP[1], LAMP[2] + 1)  # between the lamp and the camera straight above
SHADOW_SHIFT_PX2 = (9, 12)  # away from the lamp


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
            self.bgr[area] += spread(mask) * (np.array(bgr, np.float32) - self.bgr[area])
        if gloss is not None:
            self.gloss[area] += mask * (np.float32(gloss) - self.gloss[area])
        self.height[area] += mask * np.float32(raised)

    def cut(self, mask: Floats) -> None:
        """Opens a hole, or removes an edge, where mask is 1."""
        self.alpha *= 1 - mask
        self.height *= 1 - mask


# ------------------------------------------------ shapes: masks in 0..1, x and y from the middle


def fill(points: npt.NDArray[np.floating]) -> Floats:
    mask = np.zeros((CANVAS_PX2, CANVAS_PX2), np.uint8)
    fixed_point = np.round((points + MIDDLE) * 16).astype(np.int32)
    cv2.fillPoly(mask, [fixed_point], 255, cv2.LINE_AA, 4)
    return np.multiply(mask, 1 / 255, dtype=np.float32)


def polar(radii: npt.NDArray[np.floating], x: float = 0.0, y: float = 0.0, turn: float = 0.0) -> Floats:
    angles = turn + np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    return fill(np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1))


def disc(radius: float, x: float = 0.0, y: float = 0.0) -> Floats:
    return polar(np.full(96, radius), x, y)


def ring(radius: float, width: float, x: float = 0.0, y: float = 0.0) -> Floats:
    return disc(radius + width / 2, x, y) - disc(radius - width / 2, x, y)


def box(width: float, height: float, x: float = 0.0, y: float = 0.0, corner: float = 3.0) -> Floats:
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
    return fill(np.concatenate(corners))


def path(points: list[tuple[float, float]], width: int) -> Floats:
    mask = np.zeros((CANVAS_PX2, CANVAS_PX2), np.uint8)
    fixed_point = np.round((np.array(points) + MIDDLE) * 16).astype(np.int32)
    cv2.polylines(mask, [fixed_point], False, 255, width, cv2.LINE_AA, 4)
    return np.multiply(mask, 1 / 255, dtype=np.float32)


def text(text: str, x: float, y: float, size: float = 1.0, width: int = 3) -> Floats:
    mask = np.zeros((CANVAS_PX2, CANVAS_PX2), np.uint8)
    at = (round(MIDDLE + x), round(MIDDLE + y))
    cv2.putText(mask, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, 255, width, cv2.LINE_AA)
    return np.multiply(mask, 1 / 255, dtype=np.float32)


def noise(rng: np.random.Generator, cell: int) -> Floats:
    """Smooth noise of unit deviation over the canvas; cell is the size of its blobs in px2."""
    side = CANVAS_PX2 // cell + 3
    coarse = rng.standard_normal((side, side), np.float32)
    if cell > 1:
        coarse = cv2.resize(coarse, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC)
    fine: Floats = coarse[:CANVAS_PX2, :CANVAS_PX2]
    return np.asarray(fine / fine.std(), np.float32)


@lru_cache(maxsize=1)
def polar_grid() -> tuple[npt.NDArray[np.intp], Floats]:
    """Each pixel's distance from the middle, in whole px2, and its angle."""
    y, x = np.mgrid[:CANVAS_PX2, :CANVAS_PX2].astype(np.float32) - np.float32(MIDDLE)
    return np.hypot(x, y).astype(np.intp), np.arctan2(y, x)


def spread(plane: Floats) -> Floats:
    """(H, W) -> (H, W, 3), the same plane for each colour (many times faster than numpy's broadcasting)."""
    return np.asarray(cv2.merge((plane, plane, plane)), np.float32)


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
    highlight = 0.5 * relief.gloss * (cv2.pow(glint, 16) - HALFWAY[2] ** 16)
    return np.asarray(relief.bgr * spread(shade) + spread(np.clip(highlight, -0.1, 0.6)), np.float32)


def shadow(relief: Relief) -> Floats:
    """How much light the part takes from the belt, (H, W) in 0..1: a soft cast shadow and a tight one."""
    shift = np.array([[1, 0, SHADOW_SHIFT_PX2[0]], [0, 1, SHADOW_SHIFT_PX2[1]]], np.float32)
    cast = cv2.warpAffine(relief.alpha, shift, (CANVAS_PX2, CANVAS_PX2))
    cast = cv2.blur(cv2.blur(cast, (17, 17)), (17, 17))
    contact = cv2.blur(cv2.blur(relief.alpha, (9, 9)), (9, 9))
    return np.asarray(np.clip(0.5 * cast + 0.3 * contact, 0, 0.75), np.float32)
