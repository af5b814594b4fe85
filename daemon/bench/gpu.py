"""What a GPU can do at most: products of large matrices by cuBLAS, and copies in its own memory, by its own clock.

Knows what to ask of a device, and the real one. Does not know the engine beside it, which has its own hold on the GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from dualkd.daemon.bench.ceilings import CeilingError, Ceilings, Sampler
from dualkd.daemon.bench.cublas import Cublas
from dualkd.daemon.bundle import Precision
from dualkd.daemon.device import Address, Device, DeviceError, Stream
from dualkd.daemon.device_cuda import CudaDevice

SIDE = 4096  # of the matrices: 137 GFLOP a product
COPY_BYTES = 256 << 20  # of each of two places: beyond the cache of any GPU
REPEATS = 8  # of each in a sample; one more before them is not timed
NUMBERS: dict[Precision, np.dtype[Any]] = {"fp16": np.dtype(np.float16), "fp32": np.dtype(np.float32)}


class MatrixDevice(Device, Protocol):
    """A device that can be measured. Both calls return before the work is done, and raise DeviceError."""

    def copy(self, to: Address, source: Address, size: int, stream: Stream) -> None:
        """Copy bytes within the GPU's memory."""
        ...

    def multiply(
        self, product: Address, left: Address, right: Address, side: int, dtype: npt.DTypeLike, stream: Stream
    ) -> None:
        """Multiply two square matrices of float16 or float32, adding up in float32."""
        ...


class CublasDevice(CudaDevice):
    """See MatrixDevice."""

    def __init__(self) -> None:
        super().__init__()
        self._cublas: Cublas | None = None

    def close(self) -> None:
        if self._cublas is not None:
            self._cublas.close()
            self._cublas = None
        super().close()

    def copy(self, to: Address, source: Address, size: int, stream: Stream) -> None:
        with self._told("cuMemcpyDtoDAsync"):
            self._cuda.memcpy_dtod_async(to, source, size, self._streams[stream])

    def multiply(
        self, product: Address, left: Address, right: Address, side: int, dtype: npt.DTypeLike, stream: Stream
    ) -> None:
        if self._cublas is None:
            self._cublas = Cublas()
        self._cublas.multiply(product, left, right, side, dtype, stream)


@contextmanager
def gpu_sampler(device: MatrixDevice, precision: Precision) -> Iterator[Sampler]:
    """Hold what it takes to measure the first GPU in this precision. Raises EngineError and CeilingError."""
    gpu = device.open()
    try:
        yield Sampler(
            f"{gpu}, products of {precision} matrices by cuBLAS, copies in its own memory",
            _sample_of(device, NUMBERS[precision]),
        )
    except DeviceError as error:
        raise CeilingError(
            f"the GPU's ceilings cannot be measured: {error}; it needs "
            f"{2 * COPY_BYTES >> 20} MiB beside the engine: see what else uses its memory (nvidia-smi)"
        ) from error
    finally:
        device.close()


def _sample_of(device: MatrixDevice, dtype: np.dtype[Any]) -> Callable[[], Ceilings]:
    """Allocate once; what is given back takes a sample."""
    stream, begun, ended = device.stream(), device.event(), device.event()
    here, there = device.allocate(COPY_BYTES), device.allocate(COPY_BYTES)
    # A GPU multiplies zeros quicker than it does numbers, because they take less power.
    numbers = device.host_array((SIDE, SIDE), dtype)
    numbers[...] = np.random.default_rng(0).random((SIDE, SIDE), np.float32)
    size = numbers.nbytes
    left, right, product = here, Address(here + size), Address(here + 2 * size)
    for matrix in (left, right):
        device.upload(matrix, numbers, stream)

    def seconds(work: Callable[[], None]) -> float:
        """Of one piece of work, by the GPU's own clock."""
        work()
        device.record(begun, stream)
        for _ in range(REPEATS):
            work()
        device.record(ended, stream)
        device.finish(ended)
        return device.elapsed_ms(begun, ended) / 1e3 / REPEATS

    def sample() -> Ceilings:
        product_s = seconds(lambda: device.multiply(product, left, right, SIDE, dtype, stream))
        copy_s = seconds(lambda: device.copy(there, here, COPY_BYTES, stream))
        return Ceilings(2 * SIDE**3 / product_s, 2 * COPY_BYTES / copy_s)

    return sample
