"""bench.png: where the milliseconds of a frame go, one bar a batch size.

Drawn with OpenCV, because the base install has no plotting library.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from dualkd.daemon.bench.report import BatchFigures, Report

WIDTH, TOP, ROW, LEFT, RIGHT = 1000, 130, 64, 120, 130  # pixels
BAR = 36
INK = (60, 60, 60)
PARTS = {  # BGR
    "floor": (110, 80, 30),
    "engine": (215, 160, 90),
    "daemon": (90, 160, 245),
}

Canvas = npt.NDArray[np.uint8]


def draw(report: Report, path: Path) -> None:
    """Write the plot. Raises OSError."""
    canvas = np.full((TOP + ROW * len(report.batches) + 20, WIDTH, 3), 255, np.uint8)
    title = f"{report.bundle}, {report.engine}: median ms a frame, whisker p95"
    _write(canvas, title, (20, 36), 0.6)
    if report.roof is not None:
        _write(canvas, f"floor: {report.roof.of}", (20, 58), 0.45)
    for index, (name, colour) in enumerate(PARTS.items()):
        x = LEFT + 150 * index
        cv2.rectangle(canvas, (x, 80), (x + 18, 98), colour, cv2.FILLED)
        _write(canvas, name, (x + 26, 95), 0.5)
    longest = max(max(_ends(figures)[-1], _late(figures)) for figures in report.batches)
    scale = (WIDTH - LEFT - RIGHT) / longest
    for row, figures in enumerate(report.batches):
        _bar(canvas, figures, TOP + ROW * row, scale)
    encoded, png = cv2.imencode(".png", canvas)
    if not encoded:
        raise OSError(f"{path}: this OpenCV cannot write PNG")
    path.write_bytes(png.tobytes())


def _bar(canvas: Canvas, figures: BatchFigures, y: int, scale: float) -> None:
    _write(canvas, f"batch {figures.batch}", (20, y + 24), 0.5)
    begin = LEFT
    for end_ms, colour in zip(_ends(figures), PARTS.values(), strict=True):
        end = LEFT + round(end_ms * scale)
        if end > begin:
            cv2.rectangle(canvas, (begin, y), (end - 1, y + BAR), colour, cv2.FILLED)
            begin = end
    late = max(begin, LEFT + round(_late(figures) * scale))
    if late > begin:
        cv2.line(canvas, (begin, y + BAR // 2), (late, y + BAR // 2), INK, 1, cv2.LINE_AA)
        cv2.line(canvas, (late, y + 10), (late, y + BAR - 10), INK, 1, cv2.LINE_AA)
    _write(canvas, f"{_ends(figures)[-1]:.3g} ms", (late + 10, y + 24), 0.5)


def _ends(figures: BatchFigures) -> tuple[float, float, float]:
    """Where floor, engine and path end, in milliseconds a frame."""
    floor = 0.0 if figures.floor is None else figures.floor.ms
    return (
        floor / figures.batch,
        figures.engine_ms.p50 / figures.batch,
        figures.path_ms.p50 / figures.batch,
    )


def _late(figures: BatchFigures) -> float:
    spread = figures.path_ms
    return (spread.p50 if spread.p95 is None else spread.p95) / figures.batch


def _write(canvas: Canvas, text: str, at: tuple[int, int], size: float) -> None:
    cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, INK, 1, cv2.LINE_AA)
