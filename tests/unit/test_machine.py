"""Which machine this is, asked of a driver library; a process of its own asks each, for a library loads once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest
from dualkd.daemon.bundle import Machine

ASK = """
import msgspec
from dualkd.daemon.engine import EngineError
from dualkd.daemon.machine import this_machine
try:
    print(msgspec.json.encode(this_machine()).decode())
except EngineError as error:
    print(error)
"""


def ask(library_folder: Path, **environment: str) -> str:
    """What this_machine says in a process that finds the driver in `library_folder` first."""
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env={**os.environ, "LD_LIBRARY_PATH": str(library_folder), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a driver library that this test compiles."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for the test's CUDA driver")
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).parents[1] / "fake_cuda.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libcuda.so.1", source], check=True)
    return folder


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
def test_a_machine_is_its_gpu_its_driver_and_its_tensorrt(driver: Path) -> None:
    """As the driver and the installed runtime tell."""
    machine = msgspec.json.decode(ask(driver, DUALKD_FAKE_GPU="Orin"), type=Machine)
    assert (machine.gpu_name, machine.compute_capability) == ("Orin", "8.7")
    assert "CUDA 13.2" in machine.driver_version
    assert machine.runtime in ("tensorrt", "tensorrt_rtx")
    assert machine.tensorrt_version[0].isdigit()


def test_a_driver_without_a_gpu_is_told_with_cudas_code(driver: Path) -> None:
    """And where to look."""
    said = ask(driver)
    assert "cuInit failed with CUDA error 100" in said
    assert "nvidia-smi" in said


def test_a_machine_without_tensorrt_is_told_what_to_install(driver: Path, tmp_path: Path) -> None:
    """Both names are tried; each gives its reason."""
    for name in ("tensorrt", "tensorrt_rtx"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('libnvinfer.so.10 is not here')")
    said = ask(driver, DUALKD_FAKE_GPU="Orin", PYTHONPATH=str(tmp_path))
    assert "tensorrt: libnvinfer.so.10 is not here; tensorrt_rtx: libnvinfer.so.10 is not here" in said
    assert "--system-site-packages" in said
