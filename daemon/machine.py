"""Which machine this is: its NVIDIA GPU, the driver and the TensorRT in its Python.

Asks the driver itself through ctypes, so that the question costs no CUDA context and needs no package. Does
not know what a plan is, nor how to build or run one.
"""

from __future__ import annotations

import ctypes
import importlib
from pathlib import Path
from types import ModuleType
from typing import get_args

from dualkd.daemon.bundle import Machine, Runtime
from dualkd.daemon.engine import EngineError

LIBRARY = "libcuda.so.1"
KERNEL_MODULE = Path("/sys/module/nvidia/version")  # absent on Jetson, whose driver is part of JetPack
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


def this_machine() -> Machine:
    """The first GPU that CUDA shows this process, and the runtime that load_tensorrt gives.

    Raises EngineError where there is no GPU, no driver or no TensorRT.
    """
    try:
        cuda = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise EngineError(f"no NVIDIA driver on this machine: {error}") from error
    _call(cuda, "cuInit", 0)
    device, version, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    _call(cuda, "cuDeviceGet", ctypes.byref(device), 0)
    _call(cuda, "cuDeviceGetName", name, len(name), device)
    _call(cuda, "cuDriverGetVersion", ctypes.byref(version))
    capability = []
    for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR):
        value = ctypes.c_int()
        _call(cuda, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
        capability.append(str(value.value))
    driver = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    if KERNEL_MODULE.is_file():
        driver = f"{KERNEL_MODULE.read_text().strip()} ({driver})"
    # Only now: some TensorRT libraries crash the process where there is no GPU.
    runtime, module = load_tensorrt()
    return Machine(
        gpu_name=name.value.decode(errors="replace"),
        compute_capability=".".join(capability),
        runtime=runtime,
        tensorrt_version=module.__version__,
        driver_version=driver,
    )


def load_tensorrt() -> tuple[Runtime, ModuleType]:
    """TensorRT, or where it is not installed TensorRT for RTX; their Python interfaces are alike.

    Raises EngineError.
    """
    reasons = []
    for runtime in get_args(Runtime):
        try:
            return runtime, importlib.import_module(runtime)
        except ImportError as error:
            reasons.append(f"{runtime}: {error}")
    raise EngineError(
        f"no TensorRT in this Python ({'; '.join(reasons)}). On a Jetson it comes with JetPack: use an environment "
        "made with --system-site-packages; elsewhere install dualkd[tensorrt], or dualkd[rtx] for TensorRT for RTX"
    )


def _call(cuda: ctypes.CDLL, name: str, *arguments: object) -> None:
    """Raises EngineError with CUDA's code."""
    code = getattr(cuda, name)(*arguments)
    if code:
        raise EngineError(
            f"no NVIDIA GPU can be used here: {name} failed with CUDA error {code}; see that nvidia-smi (on a Jetson: "
            "tegrastats) shows the GPU, and that this user, service or container may open /dev/nvidia*"
        )
