"""ONNX Runtime behind the engine protocol: on the CPU, or on an NVIDIA GPU where that is asked for.

ONNX Runtime itself turns to the CPU when it cannot have the GPU, wholly or node by node. Here that is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from dualkd.daemon.bundle import Bundle, Precision
from dualkd.daemon.engine import Answer, EngineError, Provider, RawPrediction, check_frames

logger = logging.getLogger(__name__)

PROVIDERS: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
RECORD_PLACES = "session.record_ep_graph_assignment_info"
# What follows from a tensor's shape, a few integers, ONNX Runtime computes on the CPU on purpose.
SHAPE_ARITHMETIC = frozenset({"Shape", "Gather", "Slice", "Squeeze", "Unsqueeze", "Concat"})


class OnnxEngine:
    """Runs a bundle's ONNX graph. See Engine; the cores have nothing to do beside it, so `begin` computes."""

    beside = False

    def __init__(
        self,
        graph: Path,
        *,
        input_size: tuple[int, int],
        max_batch: int,
        precision: Precision,
        provider: Provider = "cpu",
        threads: int = 0,
    ) -> None:
        """`threads` 0 lets ONNX Runtime take one a core. Raises EngineError."""
        wanted = PROVIDERS[provider]
        if wanted not in ort.get_available_providers():
            raise EngineError(
                f"engine.provider: {provider}: this ONNX Runtime ({ort.__version__}) has no {wanted}. Install "
                "onnxruntime-gpu in place of onnxruntime (pip uninstall both first; never both side by side), "
                "or set engine.provider: cpu"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if provider != "cpu":
            options.add_session_config_entry(RECORD_PLACES, "1")
            if hasattr(ort, "preload_dlls"):  # from 1.21 on
                ort.preload_dlls()  # CUDA and cuDNN, if pip installed them
        try:
            self._session = ort.InferenceSession(
                str(graph),
                options,
                providers=[(wanted, _settings(provider, precision, input_size, max_batch))],
                enable_fallback=0,
            )
        except Exception as error:  # ORT's exceptions share no base class
            raise EngineError(
                f"{graph}: ONNX Runtime {ort.__version__} does not load it with {wanted}: {error}"
            ) from error
        if self._session.get_providers()[0] != wanted:
            raise EngineError(
                f"engine.provider: {provider}: {wanted} did not start, ONNX Runtime's lines above say why (often: "
                "CUDA, cuDNN or TensorRT is missing, or another version than this onnxruntime-gpu is made for); "
                "put that right, or set engine.provider: cpu"
            )
        if provider != "cpu":
            self._check_places(provider)
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._room = np.zeros((max_batch, *input_size, 3), np.uint8)
        self.input_size = input_size
        self.description = f"ONNX Runtime {ort.__version__}, {provider.upper()}, {precision}"

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        *,
        precision: Precision = "fp32",
        provider: Provider = "cpu",
        threads: int = 0,
    ) -> OnnxEngine:
        """The engine of a bundle's graph. Raises EngineError, BundleError."""
        size = (bundle.manifest.input.height, bundle.manifest.input.width)
        return cls(
            bundle.graph(precision),
            input_size=size,
            max_batch=bundle.manifest.max_batch,
            precision=precision,
            provider=provider,
            threads=threads,
        )

    def room(self) -> npt.NDArray[np.uint8]:
        return self._room

    def begin(self, frames: npt.NDArray[np.uint8]) -> Answer:
        prediction = self.infer(frames)
        return lambda: prediction

    def infer(self, frames: npt.NDArray[np.uint8]) -> RawPrediction:
        check_frames(frames, self._room.shape)
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

    def _check_places(self, provider: Provider) -> None:
        """Raise EngineError if nodes other than shape arithmetic were left to another provider."""
        if not hasattr(self._session, "get_provider_graph_assignment_info"):
            logger.warning(
                "ONNX Runtime %s cannot tell which nodes run on the CPU; a newer one can", ort.__version__
            )
            return
        elsewhere = misplaced(self._session.get_provider_graph_assignment_info(), PROVIDERS[provider])
        if elsewhere:
            raise EngineError(
                f"engine.provider: {provider}: ONNX Runtime {ort.__version__} would run {len(elsewhere)} nodes of the "
                f"graph elsewhere ({', '.join(elsewhere[:4])}); use another version of it, or engine.kind: tensorrt"
            )


def misplaced(subgraphs: Iterable[Any], provider: str) -> list[str]:
    """The nodes that another provider than `provider` runs, but for shape arithmetic: operator and name."""
    return [
        f"{node.op_type} {node.name}".strip()
        for subgraph in subgraphs
        if subgraph.ep_name != provider
        for node in subgraph.get_nodes()
        if node.op_type not in SHAPE_ARITHMETIC
    ]


def _settings(
    provider: Provider, precision: Precision, input_size: tuple[int, int], max_batch: int
) -> dict[str, str]:
    """The provider's options, by ONNX Runtime's names."""
    if provider == "cuda":
        return {"use_tf32": "0"} if precision == "fp32" else {}  # FP32 means FP32
    if provider == "tensorrt":
        shape = f"{input_size[0]}x{input_size[1]}x3"
        return {  # one engine for every batch, else it builds another at each size that it has not seen
            "trt_profile_min_shapes": f"frame:1x{shape}",
            "trt_profile_opt_shapes": f"frame:{max_batch}x{shape}",
            "trt_profile_max_shapes": f"frame:{max_batch}x{shape}",
        }
    return {}
