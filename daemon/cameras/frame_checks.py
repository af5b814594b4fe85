"""What one picture and the time say of a camera's health: black, frozen, of another size.

Looks at every n-th pixel only, so that it costs far less than decoding the picture did. Runs inside a
capture process; knows neither sources nor what becomes of a fault.
"""

from __future__ import annotations

import zlib

import numpy as np
from dualkd.daemon.config import HealthConfig
from dualkd.daemon.frames import Image

SAMPLES_A_SIDE = 128
BRIGHT_SHARE = 0.01  # a picture is black when no more of it than this is bright


class FrameChecks:
    """The checks of one source's pictures, in the order in which they come."""

    def __init__(self, config: HealthConfig, live: bool, one_size: bool) -> None:
        """`live`: pictures can be black or frozen. `one_size`: the first one's size is that of all."""
        self._config = config
        self._live = live
        self._one_size = one_size
        self._size = config.size
        self._checksum = -1
        self._since_ns = 0  # the checksum has been the same

    def check(self, image: Image, mono_ns: int) -> str:
        """Return what is wrong with the picture, uint8 (height, width, ...), of that time; "" if nothing."""
        height, width = image.shape[:2]
        if self._size is None and self._one_size:
            self._size = (width, height)
        if self._size is not None and self._size != (width, height):
            expected = f"{self._size[0]} x {self._size[1]}"
            return f"the picture has {width} x {height} pixels instead of {expected} (health.size)"
        if not self._live:
            return ""
        sample = np.ascontiguousarray(image[:: -(-height // SAMPLES_A_SIDE), :: -(-width // SAMPLES_A_SIDE)])
        frozen = self._frozen(sample, mono_ns)  # first: it has to see the black ones too
        return self._black(sample) or frozen

    def _black(self, sample: Image) -> str:
        limit = self._config.black_below
        if limit is None:
            return ""
        if np.count_nonzero(sample >= limit) > BRIGHT_SHARE * sample.size:
            return ""
        return f"the picture is black: 99 % of it is darker than {limit:g} (health.black_below)"

    def _frozen(self, sample: Image, mono_ns: int) -> str:
        limit_s = self._config.frozen_after_s
        if limit_s is None:
            return ""
        checksum = zlib.crc32(sample.data)
        if checksum != self._checksum:
            self._checksum, self._since_ns = checksum, mono_ns
        age_s = (mono_ns - self._since_ns) / 1e9
        if age_s < limit_s:
            return ""
        return f"the picture is frozen: the same for {age_s:.1f} s (health.frozen_after_s)"
