"""A run on disk: the students' weights as safetensors, and run.json saying what made them.

A run is a folder. While training goes on it holds resume.pt instead of weights: all that going on exactly
takes, in one file, so that it is of one step whenever the process is killed.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from dualkd.daemon.decision import Calibration
from dualkd.train.config import Precision, TrainConfig
from dualkd.train.detector import Detector
from dualkd.train.weights import StateDict, WeightsError, WeightsRecord, load_weights
from safetensors.torch import load_file, save_file

SCHEMA: Literal[2] = 2  # of run.json; 1 knew no processes, precision and early stopping, and is still read
RUN_NAME = "run.json"
WEIGHTS_NAME = "students.safetensors"
RESUME_NAME = "resume.pt"


class RunError(Exception):
    """A run folder that cannot be used: what is wrong, and what to do."""


class StoppedEarly(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """That training ended before its last step."""

    step: int  # the last that was run
    reason: str


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """run.json."""

    schema: Literal[1, 2]
    config: TrainConfig
    teacher: WeightsRecord
    data_sha256: str
    training_images: int
    held_out: list[str]  # names of the good images kept for calibration
    steps_done: int
    complete: bool
    losses: dict[str, float]  # at the last step
    stopped_early: StoppedEarly | None = None
    best_step: int | None = None  # the step whose weights were kept, where held-out images were checked
    seconds: float  # of training, teacher encoding included
    device: str
    precision: Precision | None = None  # None in schema 1
    processes: int = 1  # that trained together
    calibration: Calibration | None  # None until complete
    versions: dict[str, str]


def versions() -> dict[str, str]:
    """The versions of what a result depends on."""
    return {name: version(name) for name in ("dualkd", "torch", "timm", "numpy", "opencv-python")}


def save_interrupted(folder: Path, run: Run, state: dict[str, Any]) -> None:
    """Write resume.pt and then run.json, each atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / RESUME_NAME, lambda path: torch.save(state, path))
    _write_run(folder, run)


def save_complete(folder: Path, run: Run, detector: Detector) -> None:
    """Write weights first and then run.json, each atomically, so that run.json never promises too much."""
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / WEIGHTS_NAME, lambda path: save_file(detector.student_state(), path))
    _write_run(folder, run)
    (folder / RESUME_NAME).unlink(missing_ok=True)


def discard(folder: Path) -> None:
    """Remove the run in `folder`, if any, run.json first, so that nothing is left that names another run's files."""
    for name in (RUN_NAME, RESUME_NAME, WEIGHTS_NAME):
        (folder / name).unlink(missing_ok=True)


def read_run(folder: Path) -> Run:
    """Read run.json. Raises RunError."""
    path = folder / RUN_NAME
    if not path.is_file():
        raise RunError(f"{folder} is not a run (no {RUN_NAME}); make one with: dualkd-train CONFIG")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Run)
    except msgspec.MsgspecError as error:
        raise RunError(f"{path}: {error}; it was written by another version or is damaged") from error


def load_detector(folder: Path) -> tuple[Detector, Run]:
    """Rebuild the trained detector of a complete run, in evaluation mode on the CPU.

    Raises RunError, or WeightsError if the teacher's weights are not those the run was trained with.
    """
    run = read_run(folder)
    if not run.complete:
        raise RunError(
            f"{folder} stopped after {run.steps_done} steps; finish it with dualkd-train CONFIG --resume"
        )
    detector = build_detector(run.config, run.teacher)[0]
    load_students(folder, detector)
    return detector.eval(), run


def load_students(folder: Path, detector: Detector) -> None:
    """Load the students' weights of a run into `detector`. Raises RunError."""
    path = folder / WEIGHTS_NAME
    try:
        detector.load_student_state(load_file(path))
    except Exception as error:  # a damaged safetensors file raises the Rust library's own class
        raise RunError(f"{path}: cannot be loaded: {error}") from error


def load_resume(folder: Path) -> dict[str, Any]:
    """The state of an interrupted run's optimisation. Raises RunError."""
    path = folder / RESUME_NAME
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and OS errors alike
        raise RunError(f"{path}: cannot be loaded: {error}; train with --overwrite") from error
    return state


def build_detector(
    config: TrainConfig, expected: WeightsRecord | None = None
) -> tuple[Detector, WeightsRecord]:
    """Make a detector with the teacher's weights. `expected`: refuse any other weights. Raises WeightsError."""
    state: StateDict
    state, record = load_weights(config.teacher.name, config.teacher.weights)
    if expected is not None and record.sha256 != expected.sha256:
        raise WeightsError(
            f"the run was trained with teacher weights {expected.sha256[:16]}..., but {record.source!r} now "
            f"gives {record.sha256[:16]}...; point teacher.weights at the same weights"
        )
    detector = Detector(config)
    detector.teacher.load(state)
    return detector, record


def _write_run(folder: Path, run: Run) -> None:
    text = msgspec.json.format(msgspec.json.encode(run), indent=2)
    _replace(folder / RUN_NAME, lambda path: path.write_bytes(text + b"\n"))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name beside it and rename it; what a killed process left there is replaced."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        partial.chmod(0o644)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
