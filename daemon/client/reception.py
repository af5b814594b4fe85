"""Bytes to typed messages: gaps are counted for each topic, last values kept, what came before left out.

Knows the wire. Does not know sockets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from dualkd.daemon.messages import (
    Message,
    MessageError,
    PreviewHeader,
    ResultHeader,
    StatusHeader,
    decode_multipart,
    decode_scores,
)

MAX_TOPICS = 4096  # of one daemon: two a camera, and the status


@dataclass(frozen=True, slots=True)
class Result:
    """One verdict. `anomaly_map` is (h, w) float32 on the model's grid, None where none was sent."""

    topic: str
    header: ResultHeader
    anomaly_map: npt.NDArray[np.float32] | None
    lost: int  # messages of this topic missing just before this one


@dataclass(frozen=True, slots=True)
class Status:
    """The daemon's state."""

    topic: str
    header: StatusHeader
    lost: int


@dataclass(frozen=True, slots=True)
class Preview:
    """A picture to look at, with its verdict (`header.result`) and its map."""

    topic: str
    header: PreviewHeader
    jpeg: bytes
    anomaly_map: npt.NDArray[np.float32] | None
    lost: int


Received = Result | Status | Preview


class Reception:
    """What one subscriber has received so far."""

    def __init__(self, newest_only: bool) -> None:
        """`newest_only`: gaps are meant (CONFLATE) and not counted."""
        self.status: StatusHeader | None = None
        self.last: dict[str, Result] = {}  # by camera
        self.lost = 0
        self._newest_only = newest_only
        self._next_seq: dict[str, tuple[str, int]] = {}

    def take(self, parts: Sequence[bytes]) -> Received | None:
        """Return the message, or None for a retained one that was received before. Raises MessageError."""
        message = decode_scores(parts[0]) if len(parts) == 1 else decode_multipart(parts)
        lost = self._count_lost(message)
        if lost is None:
            return None
        header = message.header
        if isinstance(header, StatusHeader):
            self.status = header
            return Status(message.topic, header, lost)
        if isinstance(header, PreviewHeader):
            return Preview(message.topic, header, message.jpeg or b"", message.anomaly_map, lost)
        result = Result(message.topic, header, message.anomaly_map, lost)
        self.last[header.camera] = result
        return result

    def _count_lost(self, message: Message) -> int | None:
        """Return how many messages of the topic are missing before this one, None if it came before."""
        header = message.header
        retained = not isinstance(header, PreviewHeader) and header.retained
        if message.topic not in self._next_seq and len(self._next_seq) >= MAX_TOPICS:
            raise MessageError(f"{message.topic}: more than {MAX_TOPICS} topics come from here")
        boot_id, number = self._next_seq.get(message.topic, (header.boot_id, None))
        expected: int | None = number
        if boot_id != header.boot_id:  # the daemon was started again
            expected = None if retained else 0
        if retained and expected is not None and header.seq < expected:
            return None
        self._next_seq[message.topic] = (header.boot_id, header.seq + 1)
        if expected is None or self._newest_only:
            return 0
        lost = max(0, header.seq - expected)
        self.lost += lost
        return lost
