"""One capture process as the daemon holds it: started, heard, killed and buried.

Knows processes and the daemon's half of the ring. Does not know when a camera is lost, nor what comes next.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass

from dualkd.daemon.cameras import ring
from dualkd.daemon.cameras.capture import CaptureOrder, OpenSource, capture_main
from dualkd.daemon.parts import Lease
from dualkd.daemon.records import Frame


class CaptureProcess:
    """A capture process and the frames that lie in its memory, which outlive it."""

    def __init__(self, camera: str, order: CaptureOrder, open_: OpenSource) -> None:
        """Start it. Raises OSError when the machine has no process or descriptor left."""
        self._camera = camera
        self._slots = order.slots
        self._held: set[int] = set()  # slots that are ours
        self._connection, theirs = ring.pair()
        self._reader = ring.SlotReader(self._connection)
        self._process = multiprocessing.get_context("spawn").Process(
            target=capture_main, args=(theirs, order, open_), name=f"capture-{camera}", daemon=True
        )
        try:
            self._process.start()
        except OSError:
            self._connection.close()
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def fileno(self) -> int:
        """To wait for what it says."""
        return self._connection.fileno()

    def say(self, message: ring.FromParent) -> None:
        """Say it if it still listens; if it does not, `receive` or the clock tells."""
        try:
            ring.send(self._connection, message)
        except OSError:
            return

    def receive(self) -> ring.FromChild | None:
        """The next message, None when no more has come; raises as ring.SlotReader.receive does."""
        return self._reader.receive()

    def lease(self, message: ring.Captured) -> HeldLease:
        """The frame that it tells of. Raises ValueError or LookupError if there can be no such frame."""
        if not 0 <= message.slot < self._slots or message.slot in self._held:
            raise ValueError(f"a frame in slot {message.slot}, which is not free")
        image = None if message.shape is None else self._reader.view(message.slot, message.shape)
        self._held.add(message.slot)
        frame = Frame(
            camera=self._camera,
            frame_id=message.frame_id,
            captured_utc_ns=message.captured_utc_ns,
            captured_mono_ns=message.captured_mono_ns,
            image=image,
            fault=message.fault,
            source_name=message.source_name,
        )
        return HeldLease(frame, message.slot, self)

    def release(self, slot: int) -> None:
        """Let it use the slot again."""
        self._held.discard(slot)
        self.say(ring.Release(slot=slot))

    def how_it_died(self) -> str:
        """Its exit code or signal, as soon as that is known."""
        self._process.join(0.2)
        code = self._process.exitcode
        if code is None:
            return "it closed its connection"
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """End it whatever it does, and hear no more of it. Pictures on lease stay valid."""
        self._process.kill()
        self._connection.close()

    def buried(self) -> bool:
        """Whether the killed process is gone for good; one that hangs in the kernel is not, for a while."""
        self._process.join(0)
        if self._process.exitcode is None:
            return False
        self._process.close()
        return True


@dataclass(frozen=True, slots=True)
class HeldLease(Lease):
    """A lease that knows whose memory it is, so that none is given back to a later process."""

    process: CaptureProcess


def release(lease: Lease) -> None:
    """Give a frame's memory back to the process that it came from, if it came from one."""
    if isinstance(lease, HeldLease) and lease.slot is not None:
        lease.process.release(lease.slot)
