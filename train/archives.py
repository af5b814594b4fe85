"""Pictures packed into one file, with their labels: CIFAR's Python pickles and the idx files of the MNIST family.

Knows the two formats. Does not know classes, splits or protocols.
"""

from __future__ import annotations

import gzip
import math
import pickle
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

ArchiveFormat = Literal["cifar", "idx"]

CIFAR_SIDE_PX = 32


class ArchiveError(Exception):
    """A file that is not the archive it should be: which one, and what is wrong with it."""


@lru_cache(maxsize=8)
def read_pictures(path: Path, archive: ArchiveFormat) -> npt.NDArray[np.uint8]:
    """All pictures of one file, BGR uint8 (N, height, width, 3); grey ones with three equal channels.

    The last few files are kept, since pictures may be asked for one by one, so nothing may be written into the
    array. Raises ArchiveError.
    """
    if archive == "idx":
        grey = read_idx(path, dimensions=3)
        return np.broadcast_to(grey[..., None], (*grey.shape, 3))
    data = read_cifar(path).get(b"data")
    if (
        not isinstance(data, np.ndarray)
        or data.dtype != np.uint8
        or data.shape[1:] != (3 * CIFAR_SIDE_PX**2,)
    ):
        raise ArchiveError(
            f"{path}: holds no pictures of CIFAR (b'data', uint8, {3 * CIFAR_SIDE_PX**2} a row)"
        )
    planes = data.reshape(-1, 3, CIFAR_SIDE_PX, CIFAR_SIDE_PX)  # red, green, blue
    return planes[:, ::-1].transpose(0, 2, 3, 1)


def read_cifar(path: Path) -> dict[Any, Any]:
    """The dictionary of one file of CIFAR's "python version"; its keys are bytes. Raises ArchiveError.

    Only arrays of numbers and Python's own containers are built: a pickle that names anything else, and could
    run code by that, is refused before it does.
    """
    try:
        with path.open("rb") as file:
            tree = _ArrayUnpickler(file, encoding="bytes").load()
    except OSError as error:
        raise ArchiveError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # bytes that are no pickle raise nearly anything
        raise ArchiveError(f"{path}: is not a file of CIFAR's python version: {error}") from error
    if not isinstance(tree, dict):
        raise ArchiveError(f"{path}: is not a file of CIFAR's python version: it holds no dictionary")
    return tree


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """The uint8 array of an idx file, gzipped or not, with so many dimensions. Raises ArchiveError.

    The format is Yann LeCun's: 0, 0, type (8: uint8), number of dimensions, each as a big-endian uint32, then
    the values.
    """
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ArchiveError(f"{path}: cannot be read: {error}") from error
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes([0, 0, 8, dimensions]):
        raise ArchiveError(f"{path}: is not an idx file of uint8 with {dimensions} dimensions")
    shape = tuple(np.frombuffer(content, ">u4", dimensions, offset=4).tolist())
    if len(content) - header != math.prod(shape):
        raise ArchiveError(f"{path}: says it holds {shape} values, but has {len(content) - header} of them")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _dtype(code: bytes | str, *_: object) -> np.dtype[Any]:
    """np.dtype without the flags (align, copy) that old pickles write as integers."""
    return np.dtype(code.decode() if isinstance(code, bytes) else code)


class _ArrayUnpickler(pickle.Unpickler):
    """Admits what numpy's arrays are pickled as, under numpy 1 and 2, and nothing else."""

    _RECONSTRUCT = np.empty(0).__reduce__()[0]
    _ADMITTED = {  # noqa: RUF012 (a constant)
        ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
        ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): _dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which no official file does; get the official one"
            ) from None
