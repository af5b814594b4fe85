"""What dualkd-bench asks of a GPU to learn what it does at most, on one that notices what must not be."""

from __future__ import annotations

import shutil
import subprocess
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from dualkd.daemon.bench.ceilings import CeilingError
from dualkd.daemon.bench.cublas import Cublas
from dualkd.daemon.bench.gpu import COPY_BYTES, REPEATS, SIDE, gpu_sampler
from dualkd.daemon.bundle import Precision
from dualkd.daemon.device import Address, DeviceError, Stream
from dualkd.daemon.engine import EngineError
from fake_device import FakeGpu

STEP_S = 1e-3  # of the fake GPU's clock, a piece of work


@pytest.fixture(params=[False, True], ids=["late", "eager"])
def gpu(request: pytest.FixtureRequest) -> FakeGpu:
    return FakeGpu(eager=request.param)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_products_and_copies_are_timed_by_the_gpus_clock(gpu: FakeGpu, precision: Precision) -> None:
    """Each warmed up by one that does not count; named after the GPU; nothing is allocated between samples."""
    with gpu_sampler(gpu, precision) as sampler:
        held = gpu.held
        samples = [sampler.sample() for _ in range(2)]
        assert gpu.held == held
    assert sampler.of == f"Fake Orin, products of {precision} matrices by cuBLAS, copies in its own memory"
    steps = (REPEATS + 1) / REPEATS  # the last record is a piece of work too
    for sample in samples:
        assert sample.flop_s == pytest.approx(2 * SIDE**3 / (STEP_S * steps))
        assert sample.bytes_s == pytest.approx(2 * COPY_BYTES / (STEP_S * steps))
    asked = [(name, len(list(run))) for name, run in groupby(gpu.calls[gpu.calls.index("multiply") :])]
    timed = [("record", 1), ("finish", 1), ("elapsed_ms", 1)]
    one_sample = [
        *(("multiply", 1), ("record", 1), ("multiply", REPEATS), *timed),
        *(("copy", 1), ("record", 1), ("copy", REPEATS), *timed),
    ]
    assert asked == [*one_sample * 2, ("close", 1)]
    assert gpu.held == (0, 0, 0, 0)


@pytest.mark.parametrize("call", ["multiply", "copy", "finish"])
def test_a_gpu_that_cannot_be_measured_says_why(gpu: FakeGpu, call: str) -> None:
    """With CUDA's code, and it is given back."""
    gpu.fail[call] = "CUDA_ERROR_UNKNOWN (999, unknown error)"
    with (
        pytest.raises(CeilingError, match=rf"{call}: CUDA_ERROR_UNKNOWN \(999"),
        gpu_sampler(gpu, "fp16") as sampler,
    ):
        sampler.sample()
    assert gpu.held == (0, 0, 0, 0)


def test_a_gpu_without_room_for_it_says_how_much_is_needed() -> None:
    """Before anything is measured."""
    gpu = FakeGpu(memory=COPY_BYTES)
    with pytest.raises(CeilingError, match=r"OUT_OF_MEMORY.*needs 512 MiB"), gpu_sampler(gpu, "fp16"):
        pass
    assert gpu.held == (0, 0, 0, 0)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cuBLAS that this test compiles, in the host's memory."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for the test's cuBLAS")
    path = tmp_path_factory.mktemp("cublas") / "libcublas.so"
    source = Path(__file__).parents[1] / "fake_cublas.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", path, source], check=True)
    return str(path)


def test_cublas_is_asked_for_a_product(library: str) -> None:
    """Of the matrices whose addresses it is given; it reads them column by column."""
    left, right = np.random.default_rng(0).random((2, 5, 5), np.float32)
    product = np.zeros_like(left)
    addresses = [Address(each.ctypes.data) for each in (product, left, right)]
    cublas = Cublas(library)
    cublas.multiply(*addresses, 5, np.float32, Stream(0))  # type: ignore[misc]
    np.testing.assert_allclose(product.T, left.T @ right.T, rtol=1e-6)
    with pytest.raises(DeviceError, match="cublasGemmEx: cuBLAS status 14"):
        cublas.multiply(*addresses, 5, np.float32, Stream(14))  # type: ignore[misc]
    with pytest.raises(DeviceError, match="cuBLAS status 7"):
        cublas.multiply(*addresses, 5, np.float16, Stream(0))  # type: ignore[misc]
    cublas.close()


def test_a_machine_without_cublas_says_where_it_comes_from() -> None:
    """And the loader's own words."""
    with pytest.raises(EngineError, match=r"libnone\.so.*comes with the CUDA toolkit"):
        Cublas("libnone.so")
