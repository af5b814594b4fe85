"""The register map: every value with its address and its meaning, and the numbers that stand for states.

BRIDGES.md shows these as tables, and a test compares them. Where a value lies and what it means never changes
within a MAP_VERSION; a value that is added takes a place that was reserved.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from dualkd.daemon.bridges.modbus.registers import bit, register

MAP_VERSION = 1


class Meant(IntEnum):
    """A number with a meaning."""

    meaning: str

    def __new__(cls, number: int, meaning: str) -> Meant:
        member = int.__new__(cls, number)
        member._value_ = number
        member.meaning = meaning
        return member


class Verdict(Meant):
    NONE = 0, "none yet"
    PASS = 1, "PASS"
    FAIL = 2, "FAIL"
    INVALID = 3, "INVALID: not judged, or what was judged says nothing of now; `fault` says why"


class Fault(Meant):
    """Why a verdict is neither PASS nor FAIL."""

    NONE = 0, "none: the verdict is PASS or FAIL, and holds"
    DAEMON_GONE = 1, "there is no connection to the daemon, or it is silent"
    DAEMON_ENDED = 2, "the daemon has ended"
    CAMERA_UNKNOWN = 10, "the daemon has no camera of this name"
    CAMERA_LOST = 11, "the camera is lost"
    CAMERA_OPENING = 12, "the camera is being opened"
    CAMERA_ENDED = 13, "the camera's source has ended"
    CAMERA_PAUSED = 14, "the camera is paused"
    NO_VERDICT = 15, "no verdict since the daemon or the camera came back (verdict 0)"
    LATE = 16, "no verdict for twice the expected period"
    NOT_JUDGED = 20, "this frame could not be judged"
    NO_FRAME = 21, "no frame came for the trigger"
    JOB_WAITS = 22, "the job's verdict has not come yet (verdict 0)"
    JOB_REFUSED = 23, "the trigger was refused, or the daemon did not answer it"
    JOB_TIMEOUT = 24, "the job's verdict did not come within `modbus.job_timeout_s`"


class DaemonState(Meant):
    UNKNOWN = 0, "not known: it is gone, or was never heard"
    STARTING = 1, "starting"
    RUNNING = 2, "running"
    DRAINING = 3, "draining: it is told to end"
    ENDED = 4, "ended"


class CameraState(Meant):
    UNKNOWN = 0, "not known"
    OPENING = 1, "opening"
    RUNNING = 2, "running"
    LOST = 3, "lost"
    ENDED = 4, "ended"
    PAUSED = 5, "paused"


class JobState(Meant):
    IDLE = 0, "no job, or the last is acknowledged"
    ASKED = 1, "triggered; the daemon has not answered yet"
    ACCEPTED = 2, "the daemon has taken the job; its verdict is on the way"
    READY = 3, "the job's result stands in the registers, to be read and acknowledged"
    ERROR = 4, "the job was refused; `job_error` says why"


class Answer(Meant):
    NONE = 0, "nothing asked"
    WAITS = 1, "under way: the recipe is loaded and tried"
    DONE = 2, "done"
    REFUSED = 3, "refused; the camera is judged as before"


@dataclass(frozen=True, slots=True)
class LineRegisters:
    """Input registers 0 to 99."""

    map_version: int = register(0, "u16", "version of this map", MAP_VERSION)
    heartbeat: int = register(
        1, "u16", "counts five times a second while the daemon lives; then it stands still"
    )
    daemon_state: int = register(2, "u16", "state of the daemon", DaemonState.UNKNOWN)
    fault: int = register(3, "u16", "why the daemon cannot be believed to live: 0, 1 or 2", Fault.DAEMON_GONE)
    cameras: int = register(4, "u16", "cameras in this map")
    recipes: int = register(5, "u16", "recipes that can be chosen: 1 to this")
    warnings: int = register(6, "u16", "things that somebody should look at (dualkd-ctl status says them)")
    uptime_s: int = register(8, "u32", "seconds since the daemon started")
    recipe_asked: int = register(10, "u16", "the recipe last asked for every camera")
    recipe_answer: int = register(11, "u16", "what became of it", Answer.NONE)
    reason: str = register(40, "text", "why the daemon cannot be believed to live", "")
    answer: str = register(70, "text", "why a recipe was refused", "")


@dataclass(frozen=True, slots=True)
class ResultRegisters:
    """What the newest verdict says; in a camera's block. All of it changes at once."""

    sequence: int = register(
        0, "u16", "another number for each new result, 1 to 65535 and 1 again; 0: none yet"
    )
    verdict: int = register(1, "u16", "verdict", Verdict.INVALID)
    doubtful: int = register(2, "u16", "1: a PASS above the recipe's warn threshold")
    fault: int = register(3, "u16", "why the verdict is neither PASS nor FAIL", Fault.DAEMON_GONE)
    score_1e4: int = register(
        4, "u16", "score x 10000 (where the recipe smooths, the smoothed one); 0 if INVALID"
    )
    threshold_1e4: int = register(5, "u16", "threshold x 10000: a score above it is a FAIL")
    score: float = register(6, "f32", "score", 0.0)
    threshold: float = register(8, "f32", "threshold", 0.0)
    age_ms: int = register(10, "u16", "milliseconds since the verdict came; 65535 and more: 65535", 65535)
    latency_ms: int = register(11, "u16", "milliseconds from the frame's capture to these registers")
    frame_id: int = register(14, "u32", "number of the frame; 0 if none came")
    job_number: int = register(16, "u32", "number of the job that asked for it; 0 if none did")
    regions: int = register(28, "u16", "anomalous places")
    region_x_px: int = register(29, "u16", "the worst of them: left")
    region_y_px: int = register(30, "u16", "top")
    region_width_px: int = register(31, "u16", "width")
    region_height_px: int = register(32, "u16", "height, all in pixels of the camera's picture")
    reason: str = register(40, "text", "why the verdict is INVALID", "")


@dataclass(frozen=True, slots=True)
class AccountRegisters:
    """What the daemon says of the camera once a second; in a camera's block."""

    recipe: int = register(12, "u16", "number of the recipe that judges; 0: none of those that can be chosen")
    state: int = register(13, "u16", "state of the camera", CameraState.UNKNOWN)
    captured: int = register(18, "u32", "frames captured since the daemon started")
    passed: int = register(20, "u32", "of these PASS")
    failed: int = register(22, "u32", "of these FAIL")
    invalid: int = register(24, "u32", "of these INVALID")
    dropped: int = register(26, "u32", "of these not judged")


@dataclass(frozen=True, slots=True)
class OrderRegisters:
    """What became of what the PLC asked for; in a camera's block."""

    job_state: int = register(33, "u16", "state of the PLC's job", JobState.IDLE)
    job_error: int = register(34, "u16", "why its trigger was refused: a fault's number; 0: it was not")
    recipe_asked: int = register(35, "u16", "the recipe last asked for")
    recipe_answer: int = register(36, "u16", "what became of it", Answer.NONE)
    answer: str = register(70, "text", "why the last trigger or recipe was refused", "")


@dataclass(frozen=True, slots=True)
class LineOrders:
    """Holding registers 0 to 99."""

    recipe: int = register(2, "u16", "a number written here asks for that recipe, for every camera")


@dataclass(frozen=True, slots=True)
class CameraOrders:
    """Holding registers of a camera's block."""

    job_number: int = register(0, "u32", "number of the next job, any; it comes back with the verdict")
    recipe: int = register(2, "u16", "a number written here asks for that recipe, for this camera")


@dataclass(frozen=True, slots=True)
class LineBits:
    """Discrete inputs 0 to 15."""

    alive: bool = bit(0, "the daemon lives")
    cameras_ok: bool = bit(1, "every camera is as it should be")
    warning: bool = bit(2, "somebody should look at something")
    recipe_waits: bool = bit(3, "a recipe change for every camera is under way")
    recipe_done: bool = bit(4, "it is done")
    recipe_refused: bool = bit(5, "it was refused")


@dataclass(frozen=True, slots=True)
class CameraBits:
    """Discrete inputs of a camera."""

    camera_ok: bool = bit(
        0, "daemon and camera are as they should be, though the first verdict may be to come"
    )
    passed: bool = bit(1, "the verdict is PASS")
    failed: bool = bit(2, "the verdict is FAIL")
    invalid: bool = bit(3, "the verdict is INVALID")
    doubtful: bool = bit(4, "the verdict is a doubtful PASS")
    trigger_acknowledged: bool = bit(
        5, "the daemon has taken the PLC's job; off again when it is acknowledged"
    )
    result_ready: bool = bit(6, "the job's result stands in the registers; off again when it is acknowledged")
    trigger_error: bool = bit(7, "the trigger was refused; off again when it is acknowledged")
    recipe_waits: bool = bit(8, "a recipe change for this camera is under way")
    recipe_done: bool = bit(9, "it is done")
    recipe_refused: bool = bit(10, "it was refused")


@dataclass(slots=True)
class CameraCoils:
    """Coils of a camera, as the PLC wrote them; an acknowledgement switches both off."""

    trigger: bool = bit(0, "switched on: asks for a job")
    acknowledge: bool = bit(1, "switched on: the result, or the error, was read; off again at once")
