"""ONNX Runtime behind the engine protocol."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from dualkd.daemon.bundle import Bundle, Precision
from dualkd.daemon.engine import EngineError, RawPrediction


class OnnxEngine:
    """Runs a bundle's ONNX graph on the CPU. See Engine."""

    def __init__(
        self,
        graph: Path,
        *,
        input_size: tuple[int, int],
        max_batch: int,
        precision: Precision,
        threads: int = 0,
    ) -> None:
        """`threads` 0 lets ONNX Runtime take one a core. Raises EngineError."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ORT's exceptions share no base class
            raise EngineError(f"{graph}: ONNX Runtime {ort.__version__} does not load it: {error}") from error
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._max_batch = max_batch
        self.input_size = input_size
        self.description = f"ONNX Runtime {ort.__version__}, CPU, {precision}"

    @classmethod
    def of(cls, bundle: Bundle, *, precision: Precision = "fp32", threads: int = 0) -> OnnxEngine:
        """The engine of a bundle's graph. Raises EngineError, BundleError."""
        size = (bundle.manifest.input.height, bundle.manifest.input.width)
        return cls(
            bundle.graph(precision),
            input_size=size,
            max_batch=bundle.manifest.max_batch,
            precision=precision,
            threads=threads,
        )

    def infer(self, frames: npt.NDArray[np.uint8]) -> RawPrediction:
        expected = (*self.input_size, 3)
        if (
            frames.dtype != np.uint8
            or frames.shape[1:] != expected
            or not 1 <= len(frames) <= self._max_batch
        ):
            raise EngineError(
                f"the engine takes uint8 (1..{self._max_batch}, {expected[0]}, {expected[1]}, 3), "
                f"got {frames.dtype} {frames.shape}"
            )
        try:
            values = self._session.run(self._outputs, {"frame": frames})
        except Exception as error:  # see above
            raise EngineError(f"ONNX Runtime failed: {error}") from error
        found = dict(zip(self._outputs, values, strict=True))
        return RawPrediction(found.get("d_local"), found.get("d_semantic"), found.get("anomaly_map"))

    def close(self) -> None:
        """Nothing to free before the session itself is collected."""

    def __enter__(self) -> OnnxEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
