"""Frames to verdicts: crop, resize into the batch, run the engine, mask, decide, find the regions.

Knows recipes and the engine protocol. Does not know where frames come from, sockets or accounts. An
engine's error is a verdict too, INVALID with the error as its reason; it never becomes a PASS.

Where the engine computes beside the host, frames are resized while those before them are computed: their
verdicts are due one turn later, or as soon as a turn brings no frames.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import numpy.typing as npt
from dualkd.daemon.decision import decide
from dualkd.daemon.engine import Answer, Engine, EngineError, RawPrediction, predictions
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
class _Model:
    """An engine in use."""

    engine: Engine
    max_batch: int
    filling: _Batch | None = None  # has room for more frames
    error: str = ""  # of the latest batch
    errors_in_a_row: int = 0


@dataclass(slots=True)
class _Batch:
    """Frames that go through an engine together, and what comes of them."""

    pictures: npt.NDArray[np.uint8]  # the engine's own room
    count: int = 0
    answer: Answer | None = None  # from when it is begun until it is collected
    predictions: list[Prediction] = field(default_factory=list)
    error: str = ""
    infer_ms: float = 0.0


@dataclass(slots=True)
class _Station:
    """A camera's recipe and its latest scores."""

    recipe: Recipe
    scores: deque[float]


@dataclass(slots=True)
class _Place:
    """A frame in a batch of its engine (at `index`), or with a fault."""

    frame: Frame
    station: _Station  # a change of recipe brings another
    model: _Model
    size: FrameSize | None = None
    covers: Box | None = None
    batch: _Batch | None = None
    index: int = 0
    fault: str = ""
    wait_ms: float = 0.0
    resize_ms: float = 0.0


class Judge:
    """Judges every camera's frames by its recipe. Frames with the same bundle share batches."""

    def __init__(self, size: int | None) -> None:
        """`size` None takes the bundles' own max_batch."""
        self._size = size
        self._stations: dict[str, _Station] = {}
        self._models: dict[str, _Model] = {}  # by the bundle's sha256
        self._under_way: deque[_Place] = deque()  # frames without a verdict, in order

    @property
    def limit(self) -> int:
        """How many frames one turn may bring."""
        manifests = [station.recipe.bundle.manifest for station in self._stations.values()]
        return max((self._size or manifest.max_batch for manifest in manifests), default=1)

    def broken_engine(self, errors_in_a_row: int) -> str | None:
        """The last error of an engine that failed so many batches in a row, whatever others did meanwhile."""
        models = self._models.values()
        return next((each.error for each in models if each.errors_in_a_row >= errors_in_a_row), None)

    @property
    def recipes(self) -> dict[str, Recipe]:
        """Of every camera."""
        return {camera: station.recipe for camera, station in self._stations.items()}

    def use(self, recipes: dict[str, Recipe]) -> None:
        """Judge these cameras by these recipes from the next frame on.

        Waits for what is under way: afterwards no engine that is out of use is needed any more.
        """
        for place in self._under_way:
            self._collect(place)
        for camera, recipe in recipes.items():
            self._stations[camera] = _Station(recipe, deque(maxlen=recipe.config.smoothing - 1))
        known, self._models = self._models, {}
        for recipe in self.recipes.values():
            sha256 = recipe.bundle.sha256
            model = known.get(sha256)
            if model is None or model.engine is not recipe.engine:
                model = _Model(recipe.engine, max_batch=0)
            model.max_batch = min(self.limit, recipe.bundle.manifest.max_batch)
            self._models[sha256] = model

    def judge(self, frames: Sequence[Frame]) -> Iterator[Judged]:
        """Take up to `limit` frames, and give the verdicts that are due, in the order of their frames.

        All are due, but for these frames if an engine computes beside the host. What the engine cannot do makes
        INVALID.
        """
        taken_ns = time.monotonic_ns()
        for frame in frames:
            place = self._place(frame, taken_ns)
            self._under_way.append(place)
            if place.batch is not None and place.batch.count == place.model.max_batch:
                self._begin(place.model)
        for model in self._models.values():
            self._begin(model)
        stay = len(frames) if any(model.engine.beside for model in self._models.values()) else 0
        while len(self._under_way) > stay:
            place = self._under_way.popleft()
            self._collect(place)
            yield self._decide(place)

    def _place(self, frame: Frame, taken_ns: int) -> _Place:
        """Bring a frame's picture into a batch of its engine."""
        began_ns = time.monotonic_ns()
        station = self._stations[frame.camera]
        recipe = station.recipe
        model = self._models[recipe.bundle.sha256]
        wait_ms = (taken_ns - frame.captured_mono_ns) / 1e6
        place = _Place(frame, station, model, fault=frame.fault, wait_ms=wait_ms)
        if frame.image is None:
            place.fault = frame.fault or "the frame has no picture"
        else:
            height, width = frame.image.shape[:2]
            place.size = FrameSize(width_px=width, height_px=height)
        if frame.image is not None and not place.fault:
            if model.filling is None:
                model.filling = _Batch(model.engine.room())
            batch = model.filling
            try:
                place.covers = self._show(frame.image, recipe, batch.pictures[batch.count])
                place.batch, place.index = batch, batch.count
                batch.count += 1
            except FrameError as error:
                place.fault = str(error)
        place.resize_ms = (time.monotonic_ns() - began_ns) / 1e6
        return place

    def _show(self, image: Image, recipe: Recipe, out: Image) -> Box:
        """Write what the recipe looks at to `out`, at model size; return which part of the picture that is."""
        height, width = image.shape[:2]
        region = recipe.config.region
        if recipe.mask_size is not None and recipe.mask_size != (height, width):
            raise FrameError(
                f"the picture is {width} x {height}, the mask of recipe {recipe.name} was drawn for "
                f"{recipe.mask_size[1]} x {recipe.mask_size[0]}"
            )
        seen = image if region is None else crop(image, region)
        model_height, model_width, _ = out.shape
        to_model_size(seen, model_height, model_width, out=out)
        if region is None:
            return Box(x_px=0, y_px=0, width_px=width, height_px=height)
        return Box(**msgspec.structs.asdict(region))

    def _begin(self, model: _Model) -> None:
        """Give the engine the batch that was filled, if any."""
        batch = model.filling
        if batch is None or not batch.count:
            return
        model.filling = None
        began_ns = time.monotonic_ns()
        try:
            batch.answer = model.engine.begin(batch.pictures[: batch.count])
        except EngineError as failure:
            batch.answer = _failing(failure)
        batch.infer_ms = (time.monotonic_ns() - began_ns) / 1e6

    def _collect(self, place: _Place) -> None:
        """Wait for the engine's answer to the batch of this frame, unless it is there."""
        model, batch = place.model, place.batch
        if batch is None or batch.answer is None:
            return
        began_ns = time.monotonic_ns()
        try:
            batch.predictions = predictions(batch.answer(), batch.count)
            model.error, model.errors_in_a_row = "", 0
        except EngineError as failure:
            model.error = batch.error = str(failure)
            model.errors_in_a_row += 1
        batch.answer = None
        batch.infer_ms += (time.monotonic_ns() - began_ns) / 1e6

    def _decide(self, place: _Place) -> Judged:
        began_ns = time.monotonic_ns()
        station, recipe, batch = place.station, place.station.recipe, place.batch
        prediction = None
        fault = place.fault or ("" if batch is None else batch.error)
        if batch is None or fault:
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
            batch=0 if batch is None else batch.count,
            wait_ms=place.wait_ms,
            resize_ms=place.resize_ms,
            infer_ms=0.0 if batch is None else batch.infer_ms,
            decide_ms=(time.monotonic_ns() - began_ns) / 1e6,
        )


def _failing(error: EngineError) -> Answer:
    """The answer to a batch that could not be begun."""

    def answer() -> RawPrediction:
        raise error

    return answer


def _regions(prediction: Prediction, recipe: Recipe, covers: Box | None) -> list[Region]:
    """The places above the region threshold, in pixels of the camera's whole picture."""
    above = recipe.bundle.manifest.calibration.region_threshold
    if prediction.anomaly_map is None or above is None or covers is None:
        return []
    found = find_regions(prediction.anomaly_map, above, covers.width_px, covers.height_px)
    return [replace(box, x_px=box.x_px + covers.x_px, y_px=box.y_px + covers.y_px) for box in found]
