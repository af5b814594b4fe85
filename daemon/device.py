"""What an engine asks of a GPU: memory at fixed addresses, streams and events. See device_cuda.py for the real one.

Knows neither TensorRT nor pycuda. Whatever a device hands out is its own, and is freed when it closes.
"""

from __future__ import annotations

from typing import Any, NewType, Protocol

import numpy as np
import numpy.typing as npt

Address = NewType("Address", int)  # in the GPU's memory
Stream = NewType("Stream", int)  # CUDA's own handle
Event = NewType("Event", int)
Array = npt.NDArray[Any]

POISON = np.uint32(0xFFFFFFFF)  # as float32 a NaN, and none that a GPU computes (0x7fffffff)


class DeviceError(Exception):
    """A CUDA call failed: which, and CUDA's code."""

    def __init__(self, call: str, code: str) -> None:
        super().__init__(f"{call}: {code}")
        self.code = code

    @property
    def out_of_memory(self) -> bool:
        """Whether there was not enough memory, on the GPU or page-locked."""
        return "CUDA_ERROR_OUT_OF_MEMORY" in self.code


class Device(Protocol):
    """One GPU. Every call comes from the thread that opened it; all but open and close raise DeviceError.

    Calls that take a stream return before the work is done: their arrays and addresses stay untouched until
    an event recorded after them is finished.
    """

    def open(self) -> str:
        """Make the GPU's primary context this thread's; return the GPU's name. Raises EngineError."""
        ...

    def close(self) -> None:
        """Free all that was handed out and give the context back. What fails in this is logged."""
        ...

    def allocate(self, size: int) -> Address:
        """Memory on the GPU, in bytes."""
        ...

    def host_array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """A page-locked array. It dies with the device: copy what is to outlive it."""
        ...

    def stream(self) -> Stream: ...

    def event(self) -> Event: ...

    def upload(self, to: Address, array: Array, stream: Stream) -> None:
        """Copy a page-locked array to the GPU."""
        ...

    def download(self, array: Array, source: Address, stream: Stream) -> None:
        """Copy from the GPU to a page-locked array."""
        ...

    def poison(self, at: Address, count: int, stream: Stream) -> None:
        """Fill `count` float32 with POISON."""
        ...

    def record(self, event: Event, stream: Stream) -> None: ...

    def wait(self, stream: Stream, event: Event) -> None:
        """Let what follows in `stream` begin after `event`, as recorded last."""
        ...

    def finish(self, event: Event) -> None:
        """Wait here until `event`, as recorded last, has come; raise what has failed until then."""
        ...

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """The GPU's own time between two events that have come."""
        ...

    def drain(self) -> None:
        """Wait until the GPU has done all that it was given in this context."""
        ...
