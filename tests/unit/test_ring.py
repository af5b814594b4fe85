"""Shared memory between a capture process and the daemon."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection

import msgspec
import numpy as np
import pytest
from dualkd.daemon import ring


def receive_slot(reader: ring.SlotReader, connection: Connection) -> None:
    message = ring.receive_from_child(connection)
    assert isinstance(message, ring.NewSlot)
    reader.accept(message)


def test_a_picture_too_big_for_its_slot_gets_new_memory() -> None:
    """Small, then big, then small again in one slot: three pictures, two pieces of memory, all read back."""
    ours, theirs = multiprocessing.Pipe(duplex=True)
    writer, reader = ring.SlotWriter(theirs, 1), ring.SlotReader(ours)
    slot = writer.free.popleft()
    for shape, is_new in (((4, 6, 3), True), ((40, 60, 3), True), ((2, 2, 3), False)):
        picture = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
        writer.view(slot, shape)[...] = picture
        assert ours.poll() is is_new
        if is_new:
            receive_slot(reader, ours)
        seen = reader.view(slot, shape)
        np.testing.assert_array_equal(seen, picture)
        assert not seen.flags.writeable
    ours.close()
    theirs.close()


def test_what_no_child_sends_is_refused_and_nothing_is_unpickled() -> None:
    """A pickle, an unknown tag, the other side's message: none of them is taken for a message."""
    ours, theirs = multiprocessing.Pipe(duplex=True)
    theirs.send({"a": "pickle"})
    theirs.send_bytes(b"\x91\xa3Run")
    ring.send(theirs, ring.Stop())
    for _ in range(3):
        with pytest.raises(msgspec.MsgspecError):
            ring.receive_from_child(ours)
    ours.close()
    theirs.close()
