"""Turns of the daemon's own judge over batches of pictures: how long each part of a frame's way takes.

Knows the way from a picture in memory to an encoded message. Does not know cameras and sockets, nor what the
times are compared with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from dualkd.daemon.bench.ceilings import Ceilings, DeviceClock, Sample
from dualkd.daemon.engine import EngineError
from dualkd.daemon.frames import read_image
from dualkd.daemon.judge import Judge
from dualkd.daemon.messages import encode_results, result_topic
from dualkd.daemon.recipes import Recipe
from dualkd.daemon.records import Frame
from dualkd.daemon.report import result_message

CAMERA = "bench"
PICTURE = (1920, 1080)  # width and height of the camera's pictures, in pixels
ROUNDS = 40  # at most; fewer where a turn is longer than its slice of a round
WARM_UP = 0.1  # of the time that is measured


class Turn(NamedTuple):
    """How long one batch took, in milliseconds."""

    engine: float
    device: float | None  # of it, by the device's own clock
    path: float  # pictures in memory to messages encoded, the engine between
    resize: float  # of one frame; so are the next two
    decide: float
    message: float


class Bench:
    """Judges the bundle's own good part again and again, as a camera of PICTURE would show it."""

    def __init__(self, recipe: Recipe, largest: int) -> None:
        self._engine = recipe.engine
        self._judge = Judge(largest)
        self._judge.use({CAMERA: recipe})
        part = read_image(recipe.bundle.path / recipe.bundle.manifest.self_test.file)
        self._picture = np.asarray(cv2.resize(part, PICTURE), np.uint8)

    def turn(self, batch: int) -> Turn:
        """Judge one batch. Raises EngineError."""
        began_ns = time.monotonic_ns()
        judged = list(self._judge.judge([Frame(CAMERA, 0, 0, began_ns, self._picture)] * batch))
        judged += self._judge.judge([])  # of an engine that computes beside the host
        judged_ns = time.monotonic_ns()
        for each in judged:
            header, map_bytes = result_message(
                each, line=CAMERA, boot_id="", seq=0, dropped={}, with_map=True
            )
            encode_results(result_topic(CAMERA, CAMERA), header, map_bytes)
        ended_ns = time.monotonic_ns()
        if judged[0].verdict.outcome == "INVALID":
            raise EngineError(judged[0].verdict.reason)
        return Turn(
            engine=judged[0].infer_ms,
            device=self._engine.device_ms if isinstance(self._engine, DeviceClock) else None,
            path=(ended_ns - began_ns) / 1e6,
            resize=float(np.median([each.resize_ms for each in judged])),
            decide=float(np.median([each.decide_ms for each in judged])),
            message=(ended_ns - judged_ns) / 1e6 / batch,
        )


def measure(
    bench: Bench,
    batches: Sequence[int],
    seconds: float,
    sample: Sample | None,
    tell: Callable[[str], None],
) -> tuple[dict[int, list[Turn]], list[Ceilings]]:
    """Warm up, then measure for `seconds`: round by round a sample of the ceilings and a slice of each batch size.

    So weather that comes and goes falls on all of them alike. The last round is finished. `tell` hears how
    far it is. Raises EngineError, CeilingError.
    """
    for batch in batches:
        tell(f"warming up, batch {batch}")
        _slice(bench, batch, WARM_UP * seconds / len(batches))
    turns: dict[int, list[Turn]] = {batch: [] for batch in batches}
    ceilings: list[Ceilings] = []
    began, spent = time.monotonic(), 0.0
    while not turns[batches[0]] or spent < seconds:
        if sample is not None:
            ceilings.append(sample())
        for batch in batches:
            tell(f"{spent:.0f} of {seconds:.0f} s, batch {batch}")
            turns[batch] += _slice(bench, batch, seconds / ROUNDS / len(batches))
        spent = time.monotonic() - began
    return turns, ceilings


def _slice(bench: Bench, batch: int, seconds: float) -> list[Turn]:
    """Turns of one batch size for so long, one at least."""
    began = time.monotonic()
    turns = [bench.turn(batch)]
    while time.monotonic() - began < seconds:
        turns.append(bench.turn(batch))
    return turns
