"""Shared memory and messages between a capture process and the daemon."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dualkd.daemon.cameras import ring


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = ring.pair()
    with ours, theirs:
        yield ours, theirs


def alive(captured: int) -> ring.Alive:
    return ring.Alive(captured=captured, dropped=0)


def test_a_picture_too_big_for_its_slot_gets_new_memory(ends: tuple[socket.socket, socket.socket]) -> None:
    """Small, then big, then small again in one slot: three pictures, two pieces of memory, all read back."""
    ours, theirs = ends
    writer, reader = ring.SlotWriter(theirs, 1), ring.SlotReader(ours)
    slot = writer.free.popleft()
    for count, shape in enumerate(((4, 6, 3), (40, 60, 3), (2, 2, 3))):
        picture = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
        writer.view(slot, shape)[...] = picture
        ring.send(theirs, alive(count))
        assert reader.receive() == alive(count)
        assert reader.receive() is None
        seen = reader.view(slot, shape)
        np.testing.assert_array_equal(seen, picture)
        assert not seen.flags.writeable


def test_what_no_child_sends_is_refused_and_nothing_is_unpickled(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """An unknown tag, the other side's message, too much, memory without a descriptor or of a wrong size."""
    ours, theirs = ends
    reader = ring.SlotReader(ours)
    fds = len(list(Path("/proc/self/fd").iterdir()))
    theirs.send(b"\x91\xa3Run")
    ring.send(theirs, ring.Stop())
    theirs.send(bytes(ring.MAX_MESSAGE_BYTES + 1))
    theirs.send(b"\x93\xa7NewSlot\x00\x10")
    with Path(__file__).open("rb") as file:
        socket.send_fds(theirs, [b"\x93\xa7NewSlot\x00\xce\x7f\xff\xff\xff"], [file.fileno()])
        socket.send_fds(theirs, [b"nonsense"], [file.fileno()])
    for _ in range(6):
        with pytest.raises((ValueError, LookupError)):
            reader.receive()
    assert reader.receive() is None
    assert len(list(Path("/proc/self/fd").iterdir())) == fds


def test_the_last_words_of_the_dead_are_heard(ends: tuple[socket.socket, socket.socket]) -> None:
    """Although something that was said to it stays unread for ever."""
    ours, theirs = ends
    reader = ring.SlotReader(ours)
    ring.send(ours, ring.Release(slot=0))
    ring.send(theirs, alive(1))
    ring.send(theirs, alive(2))
    theirs.close()
    assert [reader.receive(), reader.receive()] == [alive(1), alive(2)]
    with pytest.raises(EOFError):
        reader.receive()
    with pytest.raises(OSError, match=os.strerror(32)):
        ring.send(ours, ring.Go())


def test_a_child_that_listens_no_more_blocks_nobody(ends: tuple[socket.socket, socket.socket]) -> None:
    """The daemon's end tells so at once."""
    ours, _ = ends

    def say_much() -> None:
        for _ in range(100_000):
            ring.send(ours, ring.Go())

    with pytest.raises(BlockingIOError):
        say_much()
