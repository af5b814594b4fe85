"""A CUDA device through pycuda: the only module that imports it. See device.Device."""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt
from dualkd.daemon.device import POISON, Address, Array, DeviceError, Event, Stream
from dualkd.daemon.engine import EngineError

logger = logging.getLogger(__name__)

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: never waits for the default stream, which others may use
CODES = range(1, 1000)  # CUresult; 999 is CUDA_ERROR_UNKNOWN, the last


class CudaDevice:
    """The first GPU that CUDA shows this process (CUDA_VISIBLE_DEVICES chooses). See Device.

    Each has its own hold on the primary context; CUDA ends the context with the last of them.
    """

    def __init__(self) -> None:
        """Touches no GPU yet."""
        self._cuda: Any = None
        self._context: Any = None
        self._memory: dict[Address, Any] = {}
        self._arrays: list[Array] = []
        self._streams: dict[Stream, Any] = {}
        self._events: list[Any] = []

    def open(self) -> str:
        try:
            import pycuda.driver
        except ImportError as error:
            raise EngineError(
                f"pycuda cannot be imported: {error}; install dualkd[tensorrt] where the CUDA toolkit is "
                "(pycuda is built on the machine itself), and see that nvidia-smi works"
            ) from error
        self._cuda = pycuda.driver
        try:
            with self._told("cuInit"):
                self._cuda.init()
                device = self._cuda.Device(0)
            with self._told("cuDevicePrimaryCtxRetain"):
                self._context = device.retain_primary_context()
                self._context.push()
        except DeviceError as error:
            self._context = None
            raise EngineError(
                f"no NVIDIA GPU can be used here: {error}; see that nvidia-smi shows it and that the service may "
                "open /dev/nvidia*"
            ) from error
        return str(device.name())

    def close(self) -> None:
        if self._context is None:
            return
        try:
            self.drain()
        except DeviceError as error:
            logger.warning("the GPU failed before its memory was freed: %s", error)
        self._events.clear()
        self._streams.clear()
        for array in self._arrays:
            array.base.free()  # type: ignore[union-attr]  # pycuda's allocation
        self._arrays.clear()
        for memory in self._memory.values():
            memory.free()
        self._memory.clear()
        self._context.pop()
        self._context.detach()
        self._context = None

    def allocate(self, size: int) -> Address:
        with self._told("cuMemAlloc"):
            memory = self._cuda.mem_alloc(size)
        address = Address(int(memory))
        self._memory[address] = memory
        return address

    def host_array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        with self._told("cuMemHostAlloc"):
            array: Array = self._cuda.pagelocked_empty(shape, dtype)
        self._arrays.append(array)
        return array

    def stream(self) -> Stream:
        with self._told("cuStreamCreate"):
            stream = self._cuda.Stream(NON_BLOCKING)
        handle = Stream(int(stream.handle))
        self._streams[handle] = stream
        return handle

    def event(self) -> Event:
        with self._told("cuEventCreate"):
            self._events.append(self._cuda.Event())
        return Event(len(self._events) - 1)

    def upload(self, to: Address, array: Array, stream: Stream) -> None:
        with self._told("cuMemcpyHtoDAsync"):
            self._cuda.memcpy_htod_async(to, array, self._streams[stream])

    def download(self, array: Array, source: Address, stream: Stream) -> None:
        with self._told("cuMemcpyDtoHAsync"):
            self._cuda.memcpy_dtoh_async(array, source, self._streams[stream])

    def poison(self, at: Address, count: int, stream: Stream) -> None:
        with self._told("cuMemsetD32Async"):
            self._cuda.memset_d32_async(at, int(POISON), count, self._streams[stream])

    def record(self, event: Event, stream: Stream) -> None:
        with self._told("cuEventRecord"):
            self._events[event].record(self._streams[stream])

    def wait(self, stream: Stream, event: Event) -> None:
        with self._told("cuStreamWaitEvent"):
            self._streams[stream].wait_for_event(self._events[event])

    def finish(self, event: Event) -> None:
        with self._told("cuEventSynchronize"):
            self._events[event].synchronize()

    def elapsed_ms(self, start: Event, end: Event) -> float:
        with self._told("cuEventElapsedTime"):
            return float(self._events[end].time_since(self._events[start]))

    def drain(self) -> None:
        with self._told("cuCtxSynchronize"):
            self._context.synchronize()

    @contextmanager
    def _told(self, call: str) -> Iterator[None]:
        """Turn pycuda's errors into DeviceError with CUDA's code."""
        try:
            yield
        except self._cuda.Error as error:
            words = str(error)
            raise DeviceError(call, _codes().get(words.rpartition("failed: ")[2], words)) from error


@functools.cache
def _codes() -> dict[str, str]:
    """CUDA's names and numbers by its words, which are all that pycuda's errors hold."""
    library = ctypes.CDLL("libcuda.so.1")
    codes = {}
    name, words = ctypes.c_char_p(), ctypes.c_char_p()
    for code in CODES:
        known = library.cuGetErrorString(code, ctypes.byref(words)) == 0
        if known and library.cuGetErrorName(code, ctypes.byref(name)) == 0 and words.value and name.value:
            codes[words.value.decode()] = f"{name.value.decode()} ({code}, {words.value.decode()})"
    return codes
