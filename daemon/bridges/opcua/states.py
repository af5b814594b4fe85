"""The daemon's and its cameras' state in the words of a VisionStateMachine. Knows no OPC UA."""

from __future__ import annotations

from typing import Literal, NamedTuple

from dualkd.daemon.bridges.feed import LineNow

VisionState = Literal["Preoperational", "Halted", "Error", "Operational"]
AutomaticState = Literal["Initialized", "Ready", "SingleExecution", "ContinuousExecution"]


class State(NamedTuple):
    """`automatic` is the substate of Operational, and None in every other state."""

    vision: VisionState
    automatic: AutomaticState | None = None


def state_of(now: LineNow, jobs_wait: bool, judged_a_job: bool) -> State:
    """Return the line's state.

    `jobs_wait`: a job was triggered here and has no verdict yet. `judged_a_job`: the latest verdict was one of
    a job, so that frames are judged when they are asked for.
    """
    if now.status is None:
        return State("Preoperational")
    if now.status.state == "ended":
        return State("Error" if now.status.exit_status else "Halted")
    if now.fault:
        return State("Error")
    if now.status.state == "starting":
        return State("Preoperational")
    if now.status.state == "draining":
        return State("Halted")
    cameras = [camera.status for camera in now.cameras.values()]
    if any(camera is None or camera.state == "lost" for camera in cameras):
        return State("Error")
    if any(
        camera and (camera.state != "running" or camera.paused or not camera.recipe) for camera in cameras
    ):
        return State("Operational", "Initialized")
    if jobs_wait:
        return State("Operational", "SingleExecution")
    if judged_a_job or any(camera.fault for camera in now.cameras.values()):
        return State("Operational", "Ready")
    return State("Operational", "ContinuousExecution")
