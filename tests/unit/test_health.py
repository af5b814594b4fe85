"""What /healthz and /readyz go by."""

from __future__ import annotations

import pytest
from dualkd.daemon.monitoring.health import SILENT_AT_LEAST_S, Health
from headers import camera_status, status_header
from running import wait_until


def test_a_daemon_that_has_not_begun_is_neither_alive_nor_ready() -> None:
    """No status yet: it says so, once."""
    health = Health()
    assert health.not_alive() == health.not_ready() == ["starting: the loop has not begun"]


def test_a_loop_that_falls_silent_is_not_alive_until_it_gives_a_sign() -> None:
    """Some heartbeats without a status or a result, so that long heartbeats allow long silence."""
    health, patient = Health(), Health()
    health.update(status_header({"cam": camera_status()}, heartbeat_s=0.05))
    patient.update(status_header({"cam": camera_status()}, heartbeat_s=3600.0))
    assert health.not_alive() == []
    wait_until(lambda: health.not_alive() != [], "the silence is noticed")
    (reason,) = health.not_alive()
    assert "has not given a sign" in reason
    assert f"{SILENT_AT_LEAST_S:g} s are allowed" in reason
    assert len(health.not_ready()) == 1
    assert patient.not_alive() == patient.not_ready() == []
    health.heard()
    assert health.not_alive() == health.not_ready() == []


@pytest.mark.parametrize("state", ["starting", "draining", "ended"])
def test_a_line_that_does_not_run_is_not_ready(state: str) -> None:
    """Alive, but no parts, please."""
    health = Health()
    health.update(status_header({"cam": camera_status()}, state=state))
    assert health.not_alive() == []
    assert health.not_ready() == [f"the line is {state}"]


def test_every_camera_that_gives_no_frames_is_a_reason() -> None:
    """Lost with why, opening; one that runs, is paused or at the end of its film is as it should be."""
    health = Health()
    cameras = {
        "runs": camera_status(),
        "lost": camera_status(state="lost", reason="no frame for 2 s"),
        "opens": camera_status(state="opening"),
        "paused": camera_status(paused=True),
        "over": camera_status(state="ended"),
    }
    health.update(status_header(cameras))
    assert health.not_alive() == []
    assert health.not_ready() == ["camera lost is lost: no frame for 2 s", "camera opens is opening"]
    health.update(status_header({"lost": camera_status()}))
    assert health.not_ready() == []
