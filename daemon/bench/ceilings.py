"""What a machine can do at most: multiply-adds of large matrices, and bytes to and from memory.

Knows how to measure the cores; gpu.py measures a GPU.

The cores are measured with NumPy's BLAS, each sample in a process of its own: a BLAS reads its number of threads
from the environment when it is loaded, and lets them spin for a while after their work.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

SIDE = 1536  # of the matrices: 7 GFLOP a product
COPY_BYTES = 128 << 20  # of each of two arrays: well beyond the caches of a line PC or a Jetson
ATTEMPTS = 4  # the first pays for pages and threads; the best counts
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class CeilingError(Exception):
    """The ceilings cannot be measured: why, and what to do."""


class Ceilings(NamedTuple):
    """One sample of what a machine can do at most."""

    flop_s: float  # FLOP a second in matrix products, a multiply-add being 2
    bytes_s: float  # bytes a second read and written


Sample = Callable[[], Ceilings]  # raises CeilingError, EngineError, DeviceError


class Sampler(NamedTuple):
    """How the ceilings of what an engine runs on are measured."""

    of: str  # what is measured, and with what
    sample: Sample


def core_sampler(threads: int) -> Sampler:
    """For an engine on so many cores."""
    return Sampler(
        f"{threads} {'core' if threads == 1 else 'cores'}, float32 products by NumPy, copies in memory",
        functools.partial(sample_cores, threads),
    )


@runtime_checkable
class DeviceClock(Protocol):
    """What an engine offers besides Engine if its device has a clock."""

    device_ms: float  # how long the device computed for the latest infer, without copies


def sample_cores(threads: int) -> Ceilings:
    """Take one sample of `threads` cores, in float32. Raises CeilingError."""
    sample = subprocess.run(
        [sys.executable, "-m", "dualkd.daemon.bench.ceilings", str(threads)],
        env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))},
        capture_output=True,
        text=True,
        check=False,
    )
    if sample.returncode:
        last = sample.stderr.strip().splitlines()[-1:] or ["no word why"]
        raise CeilingError(
            f"the process that measures the cores ended with status {sample.returncode} ({last[0]}); it needs "
            f"{2 * COPY_BYTES >> 20} MiB of memory: free some and run again"
        )
    return Ceilings(*map(float, sample.stdout.split()))


def _measure(threads: int) -> Ceilings:
    left, right = np.random.default_rng(0).random((2, SIDE, SIDE), np.float32)
    product = np.empty_like(left)
    product_s = _best(lambda: np.matmul(left, right, out=product))
    target, source = np.ones((2, COPY_BYTES), np.uint8)
    parts = [np.array_split(array, threads) for array in (target, source)]
    with ThreadPoolExecutor(threads) as pool:
        copy_s = _best(lambda: list(pool.map(np.copyto, *parts)))
    return Ceilings(2 * SIDE**3 / product_s, 2 * COPY_BYTES / copy_s)


def _best(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(ATTEMPTS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


if __name__ == "__main__":
    print(*_measure(int(sys.argv[1])))
