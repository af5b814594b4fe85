"""A TensorRT plan ready to run: deserialised, its tensors checked, its execution context made.

Knows TensorRT's Python interface, by names that 10.3 to 11.x and TensorRT for RTX share. Allocates and copies
nothing. For the thread that has made the GPU's context its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from dualkd.daemon.device import Address, Stream
from dualkd.daemon.engine import EngineError, RawPrediction
from dualkd.daemon.tensorrt_log import tensorrt_log

FRAME = "frame"
REBUILD = "build it again on this machine: dualkd-export BUNDLE --fp16 (or --fp32)"

# What TensorRT's words on a plan that it does not take come down to; the first that fits.
CAUSES = (
    (
        ("out of memory", "OutOfMemory", "could not be allocated"),
        "the GPU has too little free memory: see what else uses it (nvidia-smi), or export with a smaller --max-batch",
    ),
    (("incompatible device",), f"it was built on another kind of GPU; {REBUILD}"),
    (
        ("not compatible with this version", "Version tag does not match"),
        f"it was built by another version of TensorRT; {REBUILD}",
    ),
    (
        ("Serialization assertion", "bufferSize", "empty memory buffer"),
        f"the file is truncated or damaged; {REBUILD}",
    ),
    (
        ("driver version is insufficient",),
        "the NVIDIA driver is older than this TensorRT needs, or there is none; update the driver",
    ),
)


class Plan:
    """One plan. `load` it, then `bind` and `enqueue`; `close` it whether it loaded or not."""

    def __init__(self, path: Path) -> None:
        self.input_size = (0, 0)  # height and width of a frame
        self.max_batch = 0
        self.outputs: dict[str, tuple[int, ...]] = {}  # shape of one frame's part, of RawPrediction's fields
        self._path = path
        self._tensorrt: Any = None
        self._log: Any = None
        # Never in a local variable: an error keeps those alive, and with them what must go before the context.
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._batch = 0

    def load(self, tensorrt: ModuleType) -> None:
        """Raises EngineError."""
        self._tensorrt, self._log = tensorrt, tensorrt_log(tensorrt)
        self._log.reasons()  # those of others are not ours
        try:
            self._runtime = self._tensorrt.Runtime(self._log)
            self._engine = self._runtime.deserialize_cuda_engine(self._path.read_bytes())
        except OSError as error:
            raise EngineError(f"{self._path}: cannot be read: {error.strerror}") from error
        except TypeError as error:  # how its bindings say that a factory gave nothing
            raise EngineError(f"TensorRT cannot start: {self._log.reasons()}") from error
        if self._engine is None:
            raise self._refused("does not load it")
        self._read_tensors()
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise self._refused("cannot prepare it")

    def bind(self, addresses: Mapping[str, Address]) -> None:
        """Let the next runs read and write here. Raises EngineError."""
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise self._failed(f"set_tensor_address of {name}")

    def enqueue(self, batch: int, stream: Stream) -> None:
        """Begin a run of `batch` frames after what is in `stream`. Raises EngineError."""
        if batch != self._batch:
            if not self._context.set_input_shape(FRAME, (batch, *self.input_size, 3)):
                raise self._failed(f"set_input_shape for {batch} frames")
            self._batch = batch
        if not self._context.execute_async_v3(stream):
            raise self._failed("execute_async_v3")

    def close(self) -> None:
        """Free what TensorRT holds, in the order in which it depends on each other."""
        self._context = None
        self._engine = None
        self._runtime = None

    def _read_tensors(self) -> None:
        """Take the shapes; raise EngineError unless they are those that dualkd-export writes."""
        trt = self._tensorrt
        dtypes = {trt.DataType.UINT8: "uint8", trt.DataType.FLOAT: "float32"}
        found = {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            is_input = self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            dtype, shape = self._engine.get_tensor_dtype(name), tuple(self._engine.get_tensor_shape(name))
            found[name] = ("in" if is_input else "out", dtypes.get(dtype, str(dtype)), shape)
        kind, dtype, frame = found.pop(FRAME, ("", "", ()))
        known = all(
            name in RawPrediction._fields
            and (kind, dtype) == ("out", "float32")
            and min(shape[1:], default=1) > 0
            for name, (kind, dtype, shape) in found.items()
        )
        if (kind, dtype) != ("in", "uint8") or len(frame) != 4 or frame[3] != 3 or not found or not known:
            raise EngineError(
                f"{self._path}: its tensors {found | {FRAME: (kind, dtype, frame)}} are not those of a plan that "
                f"dualkd-export built; {REBUILD}"
            )
        self.input_size = (frame[1], frame[2])
        self.max_batch = frame[0] if frame[0] > 0 else self._engine.get_tensor_profile_shape(FRAME, 0)[2][0]
        self.outputs = {name: shape[1:] for name, (_, _, shape) in found.items()}

    def _refused(self, what: str) -> EngineError:
        said = self._log.reasons()
        advice = next((advice for words, advice in CAUSES if any(word in said for word in words)), REBUILD)
        version = self._tensorrt.__version__
        return EngineError(f"{self._path}: TensorRT {version} {what}: {advice}. It says: {said}")

    def _failed(self, call: str) -> EngineError:
        return EngineError(f"TensorRT refused a batch: {call} failed: {self._log.reasons()}")
