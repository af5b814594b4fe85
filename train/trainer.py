"""From good images to a complete run: the order of things, interruption and resumption.

The networks, the losses, the optimisation and the scores are elsewhere.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import torch
from dualkd.daemon.calibration import describe, fit_calibration
from dualkd.daemon.decision import Calibration
from dualkd.train.benchmarks import open_task
from dualkd.train.checkpoint import (
    Run,
    RunError,
    build_detector,
    load_resume,
    load_students,
    read_run,
    save_run,
    versions,
)
from dualkd.train.config import TrainConfig
from dualkd.train.detector import predict
from dualkd.train.images import TrainingImages, load_frames, split_held_out
from dualkd.train.loop import Loop
from dualkd.train.report import plot_losses

log = logging.getLogger(__name__)

SAVE_EVERY_S = 60.0


class TrainingStopped(Exception):
    """Training was interrupted and its state saved; the message says how to go on."""


def train(config: TrainConfig, *, resume: bool = False) -> Run:
    """Train as configured and write the run to config.run. Ctrl-C saves and raises TrainingStopped.

    Raises DataError, WeightsError, RunError, CalibrationError.
    """
    folder, settings = Path(config.run), config.training
    device = torch.device(settings.device)
    dataset = open_task(config.data).dataset
    training, held_out = dataset.train, dataset.held_out
    if not held_out:
        training, held_out = split_held_out(training, config)
    log.info(
        "%s: %d good images, %d of them held out for calibration",
        dataset.name,
        len(training) + len(held_out),
        len(held_out),
    )
    size = (config.input.height, config.input.width)
    frames, held_frames = load_frames(training, size), load_frames(held_out, size)

    torch.manual_seed(settings.seed)
    data_sha256 = dataset.digest()
    before = _read_interrupted(folder, config, data_sha256) if resume else None
    detector, teacher = build_detector(config, before.teacher if before else None)
    detector.to(device)
    started = time.monotonic() - (before.seconds if before else 0.0)
    images = TrainingImages(frames, detector, settings.cache_mib, device)
    images.fit_prototypes(torch.Generator().manual_seed(settings.seed))
    loop = Loop(config, detector, images, device)
    if resume:
        load_students(folder, detector)
        loop.load_state(load_resume(folder))
        log.info("resuming after step %d", loop.step)

    def save(calibration: Calibration | None) -> Run:
        run = Run(
            schema=1,
            config=config,
            teacher=teacher,
            data_sha256=data_sha256,
            training_images=len(training),
            held_out=[sample.name for sample in held_out],
            steps_done=loop.step,
            complete=calibration is not None,
            losses=loop.losses,
            seconds=round(time.monotonic() - started, 1),
            device=str(device),
            calibration=calibration,
            versions=versions(),
        )
        save_run(folder, run, detector, None if calibration else loop.state())
        plot_losses(loop.history, folder / "loss.png")
        return run

    saved = time.monotonic()
    with interruption() as interrupted:
        for step in loop.steps():
            stopped = interrupted.is_set() and step < settings.steps
            if stopped or time.monotonic() - saved > SAVE_EVERY_S:
                save(None)
                saved = time.monotonic()
            if stopped:
                raise TrainingStopped(f"stopped after step {step} of {settings.steps}; go on with --resume")
    detector.eval()
    images.fit_semantic_metric()
    calibration = fit_calibration(
        predict(detector, held_frames, device), config.calibration.false_reject_rate
    )
    log.info("%s", describe(calibration))
    return save(calibration)


@contextmanager
def interruption() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C sets, so that no step is left half done; a second Ctrl-C interrupts at once."""
    event = threading.Event()

    def note(*_: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def _read_interrupted(folder: Path, config: TrainConfig, data_sha256: str) -> Run:
    """The run to go on with. Raises RunError if it was another configuration's or other images'."""
    run = read_run(folder)
    if msgspec.structs.replace(run.config, run=config.run) != config:
        raise RunError(
            f"{folder} was begun with another configuration; restore it, or train with --overwrite"
        )
    if run.data_sha256 != data_sha256:
        raise RunError(f"{folder} was begun with other images in {config.data.root}; train with --overwrite")
    return run
