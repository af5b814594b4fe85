"""Which frames are kept. Knows verdicts, not disks."""

from __future__ import annotations

from collections import Counter

from dualkd.daemon.config import ArchiveConfig
from dualkd.daemon.messages import ResultHeader


class KeepRule:
    """The archive's rule; `keeps` is asked once for every frame, because it counts the PASSes."""

    def __init__(self, config: ArchiveConfig) -> None:
        self._config = config
        self._passes: Counter[str] = Counter()

    def keeps(self, header: ResultHeader) -> bool:
        """Whether this frame is one to keep."""
        if header.verdict == "FAIL":
            return self._config.fail
        if header.verdict == "INVALID":
            return self._config.invalid
        self._passes[header.camera] += 1
        every = self._config.every_nth_pass
        is_nth = every > 0 and self._passes[header.camera] % every == 0
        return is_nth or (self._config.warn and header.doubtful)
