"""What an engine is: a batch of frames in, distances and anomaly maps out.

The daemon sees only this protocol; engine_onnx.py (and, on NVIDIA GPUs, engine_tensorrt.py) implement it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from dualkd.daemon.records import Prediction

Provider = Literal["cpu", "cuda", "tensorrt"]  # what ONNX Runtime runs a graph with


class EngineError(Exception):
    """The engine cannot be built, loaded or run: what, which value, what to do."""


class RawPrediction(NamedTuple):
    """An engine's output for a batch of B frames. Arrays are the caller's to keep.

    A student that the bundle leaves out has None here; the anomaly map comes from the local student.
    """

    d_local: npt.NDArray[np.float32] | None  # (B,)
    d_semantic: npt.NDArray[np.float32] | None  # (B,)
    anomaly_map: npt.NDArray[np.float32] | None  # (B, h, w)

    @classmethod
    def join(cls, parts: Sequence[RawPrediction]) -> RawPrediction:
        """Return several batches as one."""
        columns = ([array for array in column if array is not None] for column in zip(*parts, strict=True))
        return cls(*(np.concatenate(column) if column else None for column in columns))

    def split(self) -> list[Prediction]:
        """Return one Prediction a frame."""
        batch = next(len(array) for array in self if array is not None)
        return [
            Prediction(
                d_local=None if self.d_local is None else float(self.d_local[index]),
                d_semantic=None if self.d_semantic is None else float(self.d_semantic[index]),
                anomaly_map=None if self.anomaly_map is None else self.anomaly_map[index],
            )
            for index in range(batch)
        ]


Answer = Callable[[], RawPrediction]
"""Waits for a batch under way, and gives its prediction or raises its EngineError, again at every call."""


class Engine(Protocol):
    """A loaded model, for one thread at a time. A context manager; closing frees the device.

    A batch is brought to it in two steps, so that the caller can do something else while a device computes:

        pictures = engine.room()                  # write up to max_batch frames there
        answer = engine.begin(pictures[:count])
        prediction = answer()
    """

    @property
    def description(self) -> str:
        """One line for the log: runtime, device, precision."""
        ...

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the frames it takes, in pixels."""
        ...

    @property
    def beside(self) -> bool:
        """Whether it computes beside the caller: `begin` returns before the work is done."""
        ...

    def room(self) -> npt.NDArray[np.uint8]:
        """Memory (max_batch, H, W, 3) for the next batch's frames, from where they reach the device soonest.

        The caller's until `begin`, and gone with the engine. Raises EngineError.
        """
        ...

    def begin(self, frames: npt.NDArray[np.uint8]) -> Answer:
        """Begin to run BGR uint8 frames (B, H, W, 3), B from 1 to the bundle's max_batch. Raises EngineError.

        Any memory will do, but only `room` spares a copy. Answers may be asked for in any order.
        """
        ...

    def infer(self, frames: npt.NDArray[np.uint8]) -> RawPrediction:
        """Begin, and wait for the answer. Raises EngineError."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def predict(engine: Engine, pictures: npt.NDArray[np.uint8]) -> list[Prediction]:
    """Run BGR uint8 frames (B, H, W, 3): one Prediction each. Raises EngineError if they are not B."""
    return predictions(engine.infer(pictures), len(pictures))


def predictions(raw: RawPrediction, count: int) -> list[Prediction]:
    """What an engine said of `count` frames, one each. Raises EngineError if it is not of so many."""
    for name, value in raw._asdict().items():
        if value is not None and len(value) != count:
            raise EngineError(f"the engine gave {len(value)} values of {name} for {count} frames")
    if all(value is None for value in raw):
        raise EngineError("the engine gave no output")
    return raw.split()


def check_frames(frames: npt.NDArray[np.uint8], room: tuple[int, ...]) -> None:
    """Raise EngineError unless an engine whose room has this shape can run the frames."""
    if frames.dtype != np.uint8 or frames.shape[1:] != room[1:] or not 1 <= len(frames) <= room[0]:
        most, height, width, _ = room
        raise EngineError(
            f"the engine takes uint8 (1..{most}, {height}, {width}, 3), got {frames.dtype} {frames.shape}"
        )
