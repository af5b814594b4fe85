"""From good images to a complete run: the order of things, interruption and resumption.

The networks, the losses, the optimisation and the scores are elsewhere.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import torch
from dualkd.daemon.calibration import describe, fit_calibration
from dualkd.train.benchmarks import open_task
from dualkd.train.checkpoint import (
    SCHEMA,
    Run,
    RunError,
    StoppedEarly,
    build_detector,
    discard,
    load_resume,
    read_run,
    save_complete,
    save_interrupted,
    versions,
)
from dualkd.train.config import OptimConfig, TrainConfig
from dualkd.train.detector import predict
from dualkd.train.distributed import Ranks
from dualkd.train.history import LOG_NAME, History
from dualkd.train.images import EncodedImages, open_frames, split_dataset
from dualkd.train.loop import Loop, micro_batches_fit
from dualkd.train.pseudo import PseudoAnomalies
from dualkd.train.report import plot_losses

log = logging.getLogger(__name__)

ALONE = Ranks()


class TrainingStopped(Exception):
    """Training was interrupted and its state saved; the message says how to go on."""


def train(config: TrainConfig, *, resume: bool = False, ranks: Ranks = ALONE) -> Run:
    """Train as configured and write the run to config.run. Ctrl-C saves and raises TrainingStopped.

    Several `ranks`, joined before, each call this and get the same run; only the first one writes.
    Raises ConfigError, DataError, WeightsError, RunError, CalibrationError, RankError.
    """
    folder, settings = Path(config.run), config.training
    micro_batches_fit(config, ranks)
    device = ranks.device(settings.device)
    dataset = open_task(config.data).dataset
    training, held_out = split_dataset(dataset, config)
    log.info(
        "%s: %d good images, %d of them held out for calibration",
        dataset.name,
        len(training) + len(held_out),
        len(held_out),
    )
    size = (config.input.height, config.input.width)
    frames, held_frames = open_frames([training, held_out], size, settings.images_mib)

    torch.manual_seed(settings.seed)
    data_sha256 = dataset.digest()
    before = _read_interrupted(folder, config, data_sha256) if resume else None
    detector, teacher = build_detector(config, before.teacher if before else None)
    detector.to(device)
    started = time.monotonic() - (before.seconds if before else 0.0)
    images = EncodedImages(frames, detector, device, settings.used_precision, settings.cache_mib)
    held_out_images: EncodedImages | None = None
    left_mib = settings.cache_mib - images.cached_mib
    if settings.check_every:
        held_out_images = EncodedImages(held_frames, detector, device, settings.used_precision, left_mib)
        left_mib -= held_out_images.cached_mib
    pseudo = PseudoAnomalies(config, frames, detector, device, left_mib)
    loop = Loop(config, detector, images, pseudo, held_out_images, device, ranks)
    if resume:
        loop.load_state(load_resume(folder))
        log.info("resuming after step %d", loop.step)
    else:
        images.fit_beginnings(torch.Generator().manual_seed(settings.seed))
        if ranks.first:
            discard(folder)
    ranks.copy_from_first(detector.student_state().values())
    history = History(folder / LOG_NAME, loop.step)
    begun = Run(
        schema=SCHEMA,
        config=config,
        teacher=teacher,
        data_sha256=data_sha256,
        training_images=len(training),
        held_out=[sample.name for sample in held_out],
        steps_done=0,
        complete=False,
        losses={},
        seconds=0.0,
        device=str(device),
        precision=settings.used_precision,
        processes=ranks.size,
        calibration=None,
        versions=versions(),
    )

    def save() -> None:
        save_interrupted(folder, _up_to_date(begun, loop, time.monotonic() - started), loop.state())
        plot_losses(history.losses(), folder / "loss.png")

    _run_steps(loop, settings, device, ranks, history, save)
    if loop.early_stopping.best_weights is not None:
        detector.load_student_state(loop.early_stopping.best_weights)
    detector.eval()
    images.fit_semantic_metric()
    calibration = fit_calibration(
        predict(detector, held_frames, device), config.calibration.false_reject_rate
    )
    log.info("%s", describe(calibration))
    run = _up_to_date(begun, loop, time.monotonic() - started)
    run = msgspec.structs.replace(run, complete=True, calibration=calibration)
    if ranks.first:
        save_complete(folder, run, detector)
        plot_losses(history.losses(), folder / "loss.png")
    return run


def _run_steps(
    loop: Loop,
    settings: OptimConfig,
    device: torch.device,
    ranks: Ranks,
    history: History,
    save: Callable[[], None],
) -> None:
    """Run the remaining steps; the first rank logs each and saves now and then. Raises TrainingStopped."""
    saved = time.monotonic()
    with interruption() as interrupted:
        for record in loop.steps():
            if ranks.first:
                history.append(record)
            stopped = ranks.any(interrupted.is_set(), device) and record.step < settings.steps
            if ranks.first and (stopped or time.monotonic() - saved >= settings.save_every_s):
                save()
                saved = time.monotonic()
            if stopped:
                # torchrun ends the first rank, which saves, as soon as another one is gone
                ranks.meet(device)
                raise TrainingStopped(
                    f"stopped after step {record.step} of {settings.steps}; go on with --resume"
                )


def _up_to_date(begun: Run, loop: Loop, seconds: float) -> Run:
    """What run.json says of a run that got as far as `loop`."""
    reason = loop.early_stopping.reason if loop.step < begun.config.training.steps else None
    return msgspec.structs.replace(
        begun,
        steps_done=loop.step,
        losses=loop.losses,
        stopped_early=StoppedEarly(step=loop.step, reason=reason) if reason else None,
        best_step=loop.early_stopping.best_step,
        seconds=round(seconds, 1),
    )


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
    if run.schema != SCHEMA:
        raise RunError(f"{folder} was begun by an older dualkd; train with --overwrite")
    if msgspec.structs.replace(run.config, run=config.run) != config:
        raise RunError(
            f"{folder} was begun with another configuration; restore it, or train with --overwrite"
        )
    if run.data_sha256 != data_sha256:
        raise RunError(f"{folder} was begun with other images in {config.data.root}; train with --overwrite")
    return run
