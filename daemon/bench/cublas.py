"""cuBLAS through ctypes: square products, to learn what a GPU's matrix units do at most.

It comes with the CUDA toolkit, which pycuda needs anyway. Knows the library's own names and numbers, and no device.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_float, c_int, c_void_p

import numpy as np
import numpy.typing as npt
from dualkd.daemon.device import Address, DeviceError, Stream
from dualkd.daemon.engine import EngineError

LIBRARIES = ("libcublas.so.13", "libcublas.so.12")  # of CUDA 13 and 12
KINDS = {np.dtype(np.float32): 0, np.dtype(np.float16): 2}  # CUDA_R_32F, CUDA_R_16F
AS_IT_IS = 0  # CUBLAS_OP_N
FLOAT_SUMS = 68  # CUBLAS_COMPUTE_32F, which leaves TF32 alone
BEST = -1  # CUBLAS_GEMM_DEFAULT


class Cublas:
    """A handle of cuBLAS in the calling thread's CUDA context, until it is closed."""

    def __init__(self, library: str | None = None) -> None:
        """`library` None: that of the CUDA toolkit. Raises EngineError, DeviceError."""
        self._library = _load(LIBRARIES if library is None else (library,))
        self._handle = c_void_p()
        self._call("cublasCreate_v2", byref(self._handle))

    def multiply(
        self, product: Address, left: Address, right: Address, side: int, dtype: npt.DTypeLike, stream: Stream
    ) -> None:
        """Give the stream the product of two square matrices. Raises DeviceError."""
        kind, one, nothing = KINDS[np.dtype(dtype)], c_float(1.0), c_float(0.0)
        self._call("cublasSetStream_v2", self._handle, c_void_p(stream))
        self._call(
            "cublasGemmEx",
            self._handle,
            *(AS_IT_IS, AS_IT_IS, side, side, side),
            byref(one),
            *(c_void_p(left), kind, side),
            *(c_void_p(right), kind, side),
            byref(nothing),
            *(c_void_p(product), kind, side),
            *(FLOAT_SUMS, BEST),
        )

    def close(self) -> None:
        self._library.cublasDestroy_v2(self._handle)

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise DeviceError(name, f"cuBLAS status {status}")


def _load(names: tuple[str, ...]) -> ctypes.CDLL:
    reasons = []
    for name in names:
        try:
            library = ctypes.CDLL(name)
        except OSError as error:
            reasons.append(str(error))
            continue
        for function in ("cublasCreate_v2", "cublasDestroy_v2", "cublasSetStream_v2", "cublasGemmEx"):
            getattr(library, function).restype = c_int
        return library
    raise EngineError(
        f"the GPU's matrix rate is measured with cuBLAS, which cannot be loaded ({'; '.join(reasons)}); it comes "
        "with the CUDA toolkit: see that its lib64 is known to ldconfig or in LD_LIBRARY_PATH"
    )
