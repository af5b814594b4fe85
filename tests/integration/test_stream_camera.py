"""A camera on a real HTTP stream, whose server is stopped where it stands and goes on later."""

from __future__ import annotations

from collections.abc import Callable

from dualkd.daemon.cameras.intake import Intake
from dualkd.daemon.config import CameraConfig, HealthConfig
from dualkd.daemon.records import Frame
from running import PATIENCE_S, wait_until
from stream_server import StreamServer

RECOVERY_S = 5.0


def test_a_stream_that_falls_silent_is_lost_and_comes_back() -> None:
    """Its server is SIGSTOPped: no error, no end, new connections accepted. And then it is continued."""
    frames: list[Frame] = []
    health = HealthConfig(stale_after_s=1.0, retry_s=0.2, retry_max_s=2.0)
    with StreamServer() as server:
        intake = Intake([CameraConfig(name="cam", source=server.url, health=health)], open_timeout_s=20.0)

        def run_until(condition: Callable[[], bool], what: str, limit_s: float = PATIENCE_S) -> None:
            def turn() -> bool:
                for lease in intake.take(8, 0.02, 0.0):
                    frames.append(lease.frame)
                    intake.release(lease)
                return condition()

            wait_until(turn, what, limit_s)

        try:
            intake.start()
            intake.go()
            run_until(lambda: len(frames) > 5, "frames")
            server.freeze()
            run_until(lambda: intake.conditions()["cam"].state == "lost", "the loss is told")
            run_until(lambda: intake.conditions()["cam"].restarts == 1, "it is tried again")
            server.thaw()
            run_until(lambda: intake.conditions()["cam"].state == "running", "it is back", RECOVERY_S)
            before = len(frames)
            run_until(lambda: len(frames) > before + 5, "frames")
            intake.stop()
            run_until(intake.ended, "the end")
            captured, dropped = intake.counters()["cam"]
        finally:
            intake.close()
    (absent,) = (frame for frame in frames if frame.frame_id is None)
    assert "no frame for 1 s" in absent.fault
    assert captured == len(frames) - 1 + sum(dropped.values())
    numbers = [frame.frame_id for frame in frames if frame.frame_id is not None]
    assert numbers == sorted(set(numbers))
    assert not any(frame.fault for frame in frames if frame.frame_id is not None)
