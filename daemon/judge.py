"""Frames to verdicts: crop, resize into the batch, run the engine, mask, decide, find the regions.

Knows recipes and the engine protocol. Does not know where frames come from, sockets or accounts. An
engine's error is a verdict too, INVALID with the error as its reason; it never becomes a PASS.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import numpy.typing as npt
from dualkd.daemon.decision import decide
from dualkd.daemon.engine import Engine, EngineError, predict
from dualkd.daemon.frames import FrameError, Image, crop, to_model_size
from dualkd.daemon.mask import masked
from dualkd.daemon.messages import Box, FrameSize
from dualkd.daemon.recipes import Recipe
from dualkd.daemon.records import Frame, Prediction, Region, Verdict
from dualkd.daemon.regions import find_regions


@dataclass(frozen=True, slots=True)
class Judged:
    """A frame's verdict and what it rests on."""

    frame: Frame
    recipe: Recipe
    size: FrameSize | None
    covers: Box | None  # what the model saw of the picture, None where it saw nothing
    prediction: Prediction | None
    verdict: Verdict
    batch: int
    wait_ms: float
    resize_ms: float
    infer_ms: float
    decide_ms: float


@dataclass(slots=True)
class _Place:
    """A frame in the batch of its engine (at `index`), or with a fault."""

    frame: Frame
    recipe: Recipe
    size: FrameSize | None = None
    covers: Box | None = None
    index: int | None = None
    fault: str = ""
    wait_ms: float = 0.0
    resize_ms: float = 0.0


@dataclass(slots=True)
class _Batch:
    """The frames of one turn that go through one engine, and what came of them."""

    engine: Engine
    max_batch: int
    pictures: npt.NDArray[np.uint8]
    count: int = 0
    predictions: list[Prediction] = field(default_factory=list)
    error: str = ""
    errors_in_a_row: int = 0
    infer_ms: float = 0.0


@dataclass(slots=True)
class _Station:
    """A camera's recipe and its latest scores."""

    recipe: Recipe
    scores: deque[float]


class Judge:
    """Judges every camera's frames by its recipe. Frames with the same bundle share batches."""

    def __init__(self, size: int | None) -> None:
        """`size` None takes the bundles' own max_batch."""
        self._size = size
        self._stations: dict[str, _Station] = {}
        self._batches: dict[str, _Batch] = {}  # by the bundle's sha256

    @property
    def limit(self) -> int:
        """How many frames one turn may bring."""
        return max((len(batch.pictures) for batch in self._batches.values()), default=1)

    def broken_engine(self, errors_in_a_row: int) -> str | None:
        """The last error of an engine that failed so many batches in a row, whatever others did meanwhile."""
        batches = self._batches.values()
        return next((each.error for each in batches if each.errors_in_a_row >= errors_in_a_row), None)

    @property
    def recipes(self) -> dict[str, Recipe]:
        """Of every camera."""
        return {camera: station.recipe for camera, station in self._stations.items()}

    def use(self, recipes: dict[str, Recipe]) -> None:
        """Judge these cameras by these recipes from the next frame on."""
        if not recipes:
            return
        for camera, recipe in recipes.items():
            self._stations[camera] = _Station(recipe, deque(maxlen=recipe.config.smoothing - 1))
        in_use = {station.recipe.bundle.sha256: station.recipe for station in self._stations.values()}
        limit = max(self._size or recipe.bundle.manifest.max_batch for recipe in in_use.values())
        kept = self._batches if limit == self.limit else {}
        self._batches = {
            sha256: kept.get(sha256)
            or _Batch(
                engine=recipe.engine,
                max_batch=min(limit, recipe.bundle.manifest.max_batch),
                pictures=np.zeros((limit, *recipe.engine.input_size, 3), np.uint8),
            )
            for sha256, recipe in in_use.items()
        }

    def judge(self, frames: Sequence[Frame]) -> list[Judged]:
        """Return the verdict of up to `limit` frames, in order. What the engine cannot do makes INVALID."""
        taken_ns = time.monotonic_ns()
        for batch in self._batches.values():
            batch.count, batch.predictions = 0, []
        places = [self._place(frame, taken_ns) for frame in frames]
        for batch in self._batches.values():
            if batch.count:
                self._infer(batch)
        return [self._decide(place) for place in places]

    def _place(self, frame: Frame, taken_ns: int) -> _Place:
        """Bring a frame's picture into its engine's batch."""
        began_ns = time.monotonic_ns()
        recipe = self._stations[frame.camera].recipe
        place = _Place(frame, recipe, fault=frame.fault, wait_ms=(taken_ns - frame.captured_mono_ns) / 1e6)
        if frame.image is None:
            place.fault = frame.fault or "the frame has no picture"
        else:
            height, width = frame.image.shape[:2]
            place.size = FrameSize(width_px=width, height_px=height)
        if frame.image is not None and not place.fault:
            batch = self._batches[recipe.bundle.sha256]
            try:
                place.covers = self._show(frame.image, recipe, batch)
                place.index = batch.count
                batch.count += 1
            except FrameError as error:
                place.fault = str(error)
        place.resize_ms = (time.monotonic_ns() - began_ns) / 1e6
        return place

    def _show(self, image: Image, recipe: Recipe, batch: _Batch) -> Box:
        """Write what the recipe looks at into the batch; return which part of the picture that is."""
        height, width = image.shape[:2]
        region = recipe.config.region
        if recipe.mask_size is not None and recipe.mask_size != (height, width):
            raise FrameError(
                f"the picture is {width} x {height}, the mask of recipe {recipe.name} was drawn for "
                f"{recipe.mask_size[1]} x {recipe.mask_size[0]}"
            )
        seen = image if region is None else crop(image, region)
        to_model_size(seen, *batch.engine.input_size, out=batch.pictures[batch.count])
        if region is None:
            return Box(x_px=0, y_px=0, width_px=width, height_px=height)
        return Box(**msgspec.structs.asdict(region))

    def _infer(self, batch: _Batch) -> None:
        began_ns = time.monotonic_ns()
        try:
            for start in range(0, batch.count, batch.max_batch):
                pictures = batch.pictures[start : min(start + batch.max_batch, batch.count)]
                batch.predictions += predict(batch.engine, pictures)
            batch.error, batch.errors_in_a_row = "", 0
        except EngineError as failure:
            batch.error = str(failure)
            batch.errors_in_a_row += 1
        batch.infer_ms = (time.monotonic_ns() - began_ns) / 1e6

    def _decide(self, place: _Place) -> Judged:
        began_ns = time.monotonic_ns()
        station, recipe = self._stations[place.frame.camera], place.recipe
        batch = self._batches[recipe.bundle.sha256]
        prediction = None
        fault = place.fault or batch.error
        if place.index is None or fault:
            verdict = Verdict("INVALID", fault, recipe.fail, recipe.config.warn)
            if place.frame.frame_id is None:  # what came before the gap says nothing of what comes after
                station.scores.clear()
        else:
            prediction = batch.predictions[place.index]
            if recipe.grid is not None and recipe.bundle.manifest.top_count is not None:
                prediction = masked(prediction, recipe.grid, recipe.bundle.manifest.top_count)
            calibration = recipe.bundle.manifest.calibration
            verdict = decide(prediction, calibration, recipe.fail, recipe.config.warn, tuple(station.scores))
            if verdict.score is not None:
                station.scores.append(verdict.score)
            if verdict.outcome == "FAIL":
                verdict = replace(verdict, regions=_regions(prediction, recipe, place.covers))
        return Judged(
            frame=place.frame,
            recipe=recipe,
            size=place.size,
            covers=place.covers,
            prediction=prediction,
            verdict=verdict,
            batch=0 if place.index is None else batch.count,
            wait_ms=place.wait_ms,
            resize_ms=place.resize_ms,
            infer_ms=0.0 if place.index is None else batch.infer_ms,
            decide_ms=(time.monotonic_ns() - began_ns) / 1e6,
        )


def _regions(prediction: Prediction, recipe: Recipe, covers: Box | None) -> list[Region]:
    """The places above the region threshold, in pixels of the camera's whole picture."""
    above = recipe.bundle.manifest.calibration.region_threshold
    if prediction.anomaly_map is None or above is None or covers is None:
        return []
    found = find_regions(prediction.anomaly_map, above, covers.width_px, covers.height_px)
    return [replace(box, x_px=box.x_px + covers.x_px, y_px=box.y_px + covers.y_px) for box in found]
