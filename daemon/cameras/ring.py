"""What a capture process and the daemon say to each other, and the shared memory that pictures travel in.

Shared memory is anonymous (memfd): it has no name, so nothing is left behind even when both sides are
killed, and there is nothing to sweep at a start. The capture process makes a slot's memory and passes its
descriptor with the message that tells of it; a picture too big for its slot gets a new one. Messages are
msgpack of the structs below, a packet each on a socket pair: a message is there whole or not at all,
whenever its sender was killed, and nothing is pickled. Does not know sources, cameras or verdicts.
"""

from __future__ import annotations

import array
import fcntl
import math
import mmap
import os
import socket
from collections import deque
from multiprocessing.connection import wait
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
from dualkd.daemon.cameras.pictures import Mark

Image = npt.NDArray[np.uint8]

MAX_MESSAGE_BYTES = 1 << 16

Slot = Annotated[int, msgspec.Meta(ge=0, lt=64)]
Side = Annotated[int, msgspec.Meta(ge=1, le=65_536)]
Shape = Annotated[tuple[Side, ...], msgspec.Meta(max_length=3)]


class Ready(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """Child: the source is open."""

    live: bool
    mark: Mark
    description: str


class Failed(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """Child: the source cannot be opened."""

    message: str


class NewSlot(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """Child: this slot has new memory. Its file descriptor travels with the message."""

    slot: Slot
    size_bytes: Annotated[int, msgspec.Meta(ge=1, le=1 << 34)]


class Captured(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """Child: a picture lies in a slot; the slot is the parent's until it releases it."""

    slot: Slot
    shape: Shape | None  # None: the picture does not decode, `fault` says why
    frame_id: int
    captured_utc_ns: int
    captured_mono_ns: int
    fault: str
    source_name: str
    mark: Mark  # where the source stands after this picture
    dropped: int  # frames dropped by this child so far, for want of a free slot


class Alive(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """Child: there is no picture to tell of, for want of a free slot or of a new file, but all is well."""

    captured: int  # as `frame_id` counts
    dropped: int


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


FromChild = Ready | Failed | Captured | Alive | Ended
FromParent = Go | Release | Stop

_from_child: msgspec.msgpack.Decoder[FromChild | NewSlot] = msgspec.msgpack.Decoder(FromChild | NewSlot)
_from_parent: msgspec.msgpack.Decoder[FromParent] = msgspec.msgpack.Decoder(FromParent)
_encoder = msgspec.msgpack.Encoder()


def pair() -> tuple[socket.socket, socket.socket]:
    """The daemon's end, which never blocks, and the capture process's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


def send(connection: socket.socket, message: FromChild | FromParent) -> None:
    """Send one message. Raises OSError when the other side is gone, or (to a child) listens no more."""
    connection.send(_encoder.encode(message))


def receive_from_parent(connection: socket.socket, wait_s: float | None) -> FromParent | None:
    """The next message; None if none comes within `wait_s` (None: wait for ever). Raises EOFError."""
    return _from_parent.decode(_receive(connection)[0]) if wait([connection], wait_s) else None


class SlotWriter:
    """The capture process's side: memory to write pictures into, and which slots are free."""

    def __init__(self, connection: socket.socket, slots: int) -> None:
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
            socket.send_fds(self._connection, [_encoder.encode(NewSlot(slot=slot, size_bytes=size))], [fd])
            return mmap.mmap(fd, size)
        finally:
            os.close(fd)


class SlotReader:
    """The daemon's side: what the child says, and read-only views of its pictures."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._maps: dict[int, mmap.mmap] = {}

    def receive(self) -> FromChild | None:
        """The next message; None when no more has come. New memory is mapped on the way.

        Raises EOFError when the child is gone and all that it said is read, ValueError (of msgspec too)
        or LookupError for what no child sends.
        """
        while True:
            try:
                raw, fds = _receive(self._connection)
            except BlockingIOError:
                return None
            try:
                message = _from_child.decode(raw)
                if not isinstance(message, NewSlot):
                    return message
                self._maps[message.slot] = mmap.mmap(fds[0], message.size_bytes, prot=mmap.PROT_READ)
            except RecursionError as error:
                raise ValueError("a message that is nested too deep") from error
            finally:
                for fd in fds:
                    os.close(fd)

    def view(self, slot: int, shape: tuple[int, ...]) -> Image:
        """Return the picture in `slot`: no copy, read-only, valid until the slot is released."""
        return np.frombuffer(self._maps[slot], np.uint8, count=math.prod(shape)).reshape(shape)


def _receive(connection: socket.socket) -> tuple[bytes, array.array[int]]:
    """One packet and the descriptors that came with it. Raises EOFError, BlockingIOError, ValueError."""
    fds: array.array[int] = array.array("i")
    while True:
        try:
            raw, ancillary, flags, _ = connection.recvmsg(
                MAX_MESSAGE_BYTES, socket.CMSG_LEN(fds.itemsize), socket.MSG_CMSG_CLOEXEC
            )
            break
        except ConnectionResetError:
            continue  # told once when it died with something unread; what it had sent can still be read
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if not raw:
        raise EOFError
    if flags & socket.MSG_TRUNC:
        for fd in fds:
            os.close(fd)
        raise ValueError(f"a message of more than {MAX_MESSAGE_BYTES} bytes")
    return raw, fds
