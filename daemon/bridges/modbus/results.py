"""The daemon's messages as register values. Does not know what a PLC has asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from dualkd.daemon.bridges.modbus.map import AccountRegisters, CameraState, Fault, Verdict
from dualkd.daemon.bridges.modbus.registers import U32_MAX, saturated, ten_thousandths, wrapped
from dualkd.daemon.messages import CameraStatus, ResultHeader

_JOB_NUMBER = re.compile(r"(\d{1,10})(?:-|\Z)")


def account(status: CameraStatus, recipes: Sequence[str]) -> AccountRegisters:
    """The registers of a camera's status; `recipes` are those that have numbers."""
    return AccountRegisters(
        recipe=0 if status.recipe is None else number_of(status.recipe.name, recipes),
        state=camera_state(status),
        captured=wrapped(status.captured),
        passed=wrapped(status.passed),
        failed=wrapped(status.failed),
        invalid=wrapped(status.invalid),
        dropped=wrapped(sum(status.dropped.values())),
    )


def number_of(recipe: str, recipes: Sequence[str]) -> int:
    """A recipe's number; 0 if it has none."""
    return recipes.index(recipe) + 1 if recipe in recipes else 0


def camera_state(status: CameraStatus) -> CameraState:
    if status.paused and status.state == "running":
        return CameraState.PAUSED
    return {
        "opening": CameraState.OPENING,
        "running": CameraState.RUNNING,
        "lost": CameraState.LOST,
        "ended": CameraState.ENDED,
    }[status.state]


def result_values(header: ResultHeader) -> dict[str, Any]:
    """The registers of a verdict."""
    score = header.score if header.smoothed_score is None else header.smoothed_score
    values: dict[str, Any] = {
        "verdict": Verdict[header.verdict],
        "fault": _fault_of(header),
        "doubtful": int(header.doubtful),
        "score_1e4": ten_thousandths(score or 0.0),
        "threshold_1e4": ten_thousandths(header.threshold),
        "score": score or 0.0,
        "threshold": header.threshold,
        "frame_id": wrapped(header.frame_id or 0),
        "job_number": _job_number(header.job_id),
        "regions": len(header.regions),
        "reason": header.reason,
    }
    if header.regions:
        worst = header.regions[0]
        values["region_x_px"], values["region_y_px"] = saturated(worst.x_px), saturated(worst.y_px)
        values["region_width_px"] = saturated(worst.width_px)
        values["region_height_px"] = saturated(worst.height_px)
    return values


def _fault_of(header: ResultHeader) -> Fault:
    if header.verdict != "INVALID":
        return Fault.NONE
    if header.frame_id is None:
        return Fault.CAMERA_LOST if header.job_id is None else Fault.NO_FRAME
    return Fault.NOT_JUDGED


def _job_number(job_id: str | None) -> int:
    """The number that a job's name begins with, whoever triggered it; 0 if it does not."""
    match = _JOB_NUMBER.match(job_id or "")
    number = 0 if match is None else int(match[1])
    return number if number <= U32_MAX else 0
