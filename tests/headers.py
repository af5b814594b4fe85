"""Headers of the wire with usual contents, for tests that care for a field or two."""

from __future__ import annotations

from typing import Any

import msgspec
from dualkd.daemon.messages import BundleRef, CameraStatus, RecipeRef, ResultHeader, StageTimes, StatusHeader

BUNDLE = BundleRef(name="bundle", sha256="0" * 64)


def result_header(**changes: Any) -> ResultHeader:
    """A PASS of camera "cam" at a threshold of 0.5."""
    usual = ResultHeader(
        boot_id="0",
        line="line",
        camera="cam",
        seq=0,
        frame_id=0,
        job_id=None,
        source_name="",
        captured_utc_ns=0,
        captured_mono_ns=0,
        verdict="PASS",
        reason="",
        doubtful=False,
        score=0.1,
        smoothed_score=None,
        threshold=0.5,
        warn_threshold=None,
        d_local=None,
        d_semantic=None,
        p_local=None,
        p_semantic=None,
        regions=[],
        region_threshold=None,
        frame=None,
        batch=1,
        stage_ms=StageTimes(wait=1, resize=1, infer=1, decide=1, total=4),
        dropped={},
        recipe="default",
        bundle=BUNDLE,
        map=None,
    )
    return msgspec.structs.replace(usual, **changes)


def camera_status(**changes: Any) -> CameraStatus:
    """A camera that runs and has captured nothing yet."""
    usual = CameraStatus(
        state="running",
        reason="",
        paused=False,
        restarts=0,
        age_s=None,
        recipe=RecipeRef(name="default", bundle=BUNDLE, fail=0.5, warn=None),
        captured=0,
        passed=0,
        failed=0,
        invalid=0,
        absent=0,
        dropped={},
    )
    return msgspec.structs.replace(usual, **changes)


def status_header(cameras: dict[str, CameraStatus], **changes: Any) -> StatusHeader:
    """A line that runs."""
    usual = StatusHeader(
        boot_id="0",
        line="line",
        seq=0,
        utc_ns=0,
        state="running",
        reason="",
        exit_status=None,
        uptime_s=1.0,
        heartbeat_s=1.0,
        warnings=[],
        cameras=cameras,
    )
    return msgspec.structs.replace(usual, **changes)
