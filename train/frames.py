"""Images at model size that need not be in memory.

Knows samples and how they are decoded; knows no network and not what the frames are for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from dualkd.daemon.frames import Image, to_model_size
from dualkd.train.datasets import Sample, read_samples
from torch import Tensor
from tqdm import tqdm

DECODERS = min(8, os.cpu_count() or 1)  # threads; decoding lets go of the interpreter lock
CHECKED_TOGETHER = 64


class Frames(Protocol):
    """Frames uint8 BGR (M, H, W, 3) on the CPU, wherever they are kept: what a tensor of them can do."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: slice | Tensor, /) -> Tensor: ...


class DecodedFrames:
    """Frames that several threads decode whenever they are asked for. Raises DataError, FrameError."""

    def __init__(self, samples: Sequence[Sample], size: tuple[int, int]) -> None:
        """Decode every image once, so that a broken one is found before training begins."""
        self._samples, self._size = samples, size
        self._pool = ThreadPoolExecutor(DECODERS, "decode")
        with tqdm(total=len(samples), desc="images", unit="image", disable=None) as bar:
            for start in range(0, len(samples), CHECKED_TOGETHER):
                bar.update(len(self[start : start + CHECKED_TOGETHER]))

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: slice | Tensor, /) -> Tensor:
        places = range(len(self))[index] if isinstance(index, slice) else index.tolist()
        images = self._pool.map(self._decode, [self._samples[place] for place in places])
        return torch.from_numpy(np.stack(list(images)))

    def _decode(self, sample: Sample) -> Image:
        (image,) = read_samples([sample])
        return to_model_size(image, *self._size)
