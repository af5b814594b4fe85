"""What a capture process and the daemon say to each other, and the shared memory that pictures travel in.

Shared memory is anonymous (memfd): it has no name, so nothing is left behind even when both sides are
killed. The capture process makes a slot's memory and passes its descriptor once over the socket pair; a
picture too big for its slot gets a new one. Messages are msgpack of the structs below: nothing is pickled.
Does not know sources, cameras or verdicts.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
from collections import deque
from multiprocessing import reduction
from multiprocessing.connection import Connection

import msgspec
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]


class Ready(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """Child: the source is open."""

    live: bool
    fps: float  # 0: unknown
    description: str


class Failed(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """Child: the source cannot be opened."""

    message: str


class NewSlot(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """Child: this slot has new memory. The file descriptor follows on the same socket."""

    slot: int
    size_bytes: int


class Captured(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """Child: a picture lies in a slot; the slot is the parent's until it releases it."""

    slot: int
    shape: tuple[int, ...] | None  # None: the picture does not decode, `fault` says why
    frame_id: int
    captured_utc_ns: int
    captured_mono_ns: int
    fault: str
    source_name: str
    dropped: int  # frames dropped by the child so far, for want of a free slot


class Ended(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """Child: no more frames. `fault` says why where that is not the natural end."""

    captured: int
    dropped: int
    fault: str


class Go(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """Parent: begin to capture."""


class Release(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """Parent: the slot is free again."""

    slot: int


class Stop(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """Parent: end after the frame in hand."""


FromChild = Ready | Failed | NewSlot | Captured | Ended
FromParent = Go | Release | Stop

_from_child: msgspec.msgpack.Decoder[FromChild] = msgspec.msgpack.Decoder(FromChild)
_from_parent: msgspec.msgpack.Decoder[FromParent] = msgspec.msgpack.Decoder(FromParent)
_encoder = msgspec.msgpack.Encoder()


def send(connection: Connection, message: FromChild | FromParent) -> None:
    """Send one message. Raises OSError when the other side is gone."""
    connection.send_bytes(_encoder.encode(message))


def receive_from_child(connection: Connection) -> FromChild:
    """Raises EOFError or OSError when the child is gone, msgspec.MsgspecError for what no child sends."""
    return _from_child.decode(connection.recv_bytes(1 << 16))


def receive_from_parent(connection: Connection) -> FromParent:
    """Raises EOFError or OSError when the parent is gone."""
    return _from_parent.decode(connection.recv_bytes(1 << 16))


class SlotWriter:
    """The capture process's side: memory to write pictures into, and which slots are free."""

    def __init__(self, connection: Connection, slots: int) -> None:
        self.free: deque[int] = deque(range(slots))
        self._connection = connection
        self._maps: dict[int, mmap.mmap] = {}

    def view(self, slot: int, shape: tuple[int, ...]) -> Image:
        """Return the slot's memory as a uint8 array of this shape, with new memory if it is too small."""
        size = math.prod(shape)
        if slot not in self._maps or len(self._maps[slot]) < size:
            self._maps[slot] = self._new_memory(slot, size)
        return np.frombuffer(self._maps[slot], np.uint8, count=size).reshape(shape)

    def _new_memory(self, slot: int, size: int) -> mmap.mmap:
        fd = os.memfd_create("dualkd-frame", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            # Sealed: a size that cannot change is one that the reader cannot be tripped by.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            send(self._connection, NewSlot(slot=slot, size_bytes=size))
            reduction.send_handle(self._connection, fd, os.getppid())
            return mmap.mmap(fd, size)
        finally:
            os.close(fd)


class SlotReader:
    """The daemon's side: read-only views of the pictures."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._maps: dict[int, mmap.mmap] = {}

    def accept(self, message: NewSlot) -> None:
        """Take the descriptor that follows `message` and map it."""
        fd = reduction.recv_handle(self._connection)
        try:
            self._maps[message.slot] = mmap.mmap(fd, message.size_bytes, prot=mmap.PROT_READ)
        finally:
            os.close(fd)

    def view(self, slot: int, shape: tuple[int, ...]) -> Image:
        """Return the picture in `slot`: no copy, read-only, valid until the slot is released."""
        return np.frombuffer(self._maps[slot], np.uint8, count=math.prod(shape)).reshape(shape)
