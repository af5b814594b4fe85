"""What an engine is: a batch of frames in, distances and anomaly maps out.

The daemon sees only this protocol; engine_onnx.py (and, on NVIDIA GPUs, engine_tensorrt.py) implement it.
"""

from __future__ import annotations

from collections.abc import Sequence
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


class Engine(Protocol):
    """A loaded model. A context manager; closing frees the device."""

    @property
    def description(self) -> str:
        """One line for the log: runtime, device, precision."""
        ...

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the frames it takes, in pixels."""
        ...

    def infer(self, frames: npt.NDArray[np.uint8]) -> RawPrediction:
        """Run BGR uint8 frames (B, H, W, 3), B from 1 to the bundle's max_batch. Raises EngineError."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def predict(engine: Engine, pictures: npt.NDArray[np.uint8]) -> list[Prediction]:
    """Run BGR uint8 frames (B, H, W, 3): one Prediction each. Raises EngineError if they are not B."""
    raw = engine.infer(pictures)
    for name, value in raw._asdict().items():
        if value is not None and len(value) != len(pictures):
            raise EngineError(f"the engine gave {len(value)} values of {name} for {len(pictures)} frames")
    if all(value is None for value in raw):
        raise EngineError("the engine gave no output")
    return raw.split()
