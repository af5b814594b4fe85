"""The training loop: good images in, a complete run out.

Knows optimisation, progress, interruption and resumption. The networks, the losses and the scores are
elsewhere.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dualkd.daemon.calibration import describe, fit_calibration
from dualkd.daemon.decision import Calibration
from dualkd.daemon.engine import RawPrediction
from dualkd.daemon.frames import Image, to_model_size
from dualkd.train.checkpoint import (
    RESUME_NAME,
    Run,
    build_detector,
    load_students,
    read_run,
    save_run,
    versions,
)
from dualkd.train.config import OptimConfig, TrainConfig
from dualkd.train.datasets import DataError, Sample, open_dataset, read_samples
from dualkd.train.detector import Detector, infer
from dualkd.train.losses import local_loss, noisy_or_loss, semantic_loss
from dualkd.train.model import TeacherTokens
from dualkd.train.report import plot_losses
from torch import Tensor
from tqdm import tqdm

log = logging.getLogger(__name__)

ENCODE_BATCH = 8
SAVE_EVERY_S = 60.0


class TrainingStopped(Exception):
    """Training was interrupted and its state saved; the message says how to go on."""


class TrainingImages:
    """The training images at model size, with the teacher's tokens kept where they fit in memory.

    Nothing random comes before the teacher, so its tokens are the same at every step.
    """

    def __init__(self, frames: Tensor, detector: Detector, cache_mib: int, device: torch.device) -> None:
        """frames: uint8 (M, H, W, 3) on the CPU."""
        self._frames, self._detector, self._device = frames, detector, device
        self._tokens: TeacherTokens | None = None
        mib = len(frames) * sum(tokens[0].numel() for tokens in self._encode(frames[:1])) * 2 / 2**20
        if mib > cache_mib:
            log.info(
                "teacher tokens would take %d MiB (cache_mib: %d): encoding anew at each step", mib, cache_mib
            )
            return
        parts = [
            [tokens.half().cpu() for tokens in self._encode(frames[start : start + ENCODE_BATCH])]
            for start in tqdm(range(0, len(frames), ENCODE_BATCH), desc="teacher", unit="batch", disable=None)
        ]
        self._tokens = TeacherTokens(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def __len__(self) -> int:
        return len(self._frames)

    def batch(self, indices: Tensor) -> tuple[TeacherTokens, Tensor]:
        """Teacher tokens and normalised images (B, 3, H, W) of these images, on the device."""
        frames = self._frames[indices].to(self._device)
        images = self._detector.normalise(frames)
        if self._tokens is None:
            return self._encode(self._frames[indices]), images
        return TeacherTokens(*(tokens[indices].to(self._device).float() for tokens in self._tokens)), images

    def fit_prototypes(self, generator: torch.Generator) -> None:
        """Set the local student's prototypes, if it has any, from a sample of the teacher's tokens."""
        local = self._detector.local
        if local is None or local.prototypes is None:
            return
        each = -(-local.prototypes.tokens_needed // len(self))  # tokens an image
        sample = []
        for tokens, _ in self._in_order():
            for one in tokens.patch_tokens.transpose(1, 2).cpu():  # (N, G, D)
                sample.append(one[torch.randperm(len(one), generator=generator)[:each]])
        local.prototypes.cpu().fit(torch.cat(sample), generator)
        local.prototypes.to(self._device)

    def fit_semantic_metric(self) -> None:
        """Measure the trained semantic student's usual error, for d_semantic."""
        detector = self._detector
        if detector.semantic is None or detector.semantic_metric is None:
            return
        teacher, student = [], []
        with torch.inference_mode():
            for tokens, images in self._in_order():
                teacher.append(tokens.class_tokens.cpu())
                student.append(detector.semantic(detector.resize(images)).cpu())
        detector.semantic_metric.cpu().fit(torch.cat(teacher), torch.cat(student))
        detector.semantic_metric.to(self._device)

    def _in_order(self) -> Iterator[tuple[TeacherTokens, Tensor]]:
        for start in range(0, len(self), ENCODE_BATCH):
            yield self.batch(torch.arange(start, min(start + ENCODE_BATCH, len(self))))

    def _encode(self, frames: Tensor) -> TeacherTokens:
        with torch.inference_mode(), half_precision(self._device):
            tokens = self._detector.teacher(self._detector.normalise(frames.to(self._device)))
        return TeacherTokens(*(part.float().clone() for part in tokens))


def train(config: TrainConfig, *, resume: bool = False) -> Run:
    """Train as configured and write the run to config.run. Ctrl-C saves and raises TrainingStopped.

    Raises DataError, WeightsError, RunError, CalibrationError.
    """
    folder, settings = Path(config.run), config.training
    device = torch.device(settings.device)
    dataset = open_dataset(config.data.root, config.data.layout, config.data.start, config.data.stop)
    training, held_out = split_held_out(dataset.train, config)
    log.info(
        "%s: %d good images, %d of them held out for calibration",
        dataset.name,
        len(dataset.train),
        len(held_out),
    )
    size = (config.input.height, config.input.width)
    frames, held_frames = load_frames(training, size), load_frames(held_out, size)

    torch.manual_seed(settings.seed)
    before = read_run(folder) if resume else None
    detector, teacher = build_detector(config, before.teacher if before else None)
    detector.to(device)
    data_sha256 = dataset.digest()
    started = time.monotonic() - (before.seconds if before else 0.0)
    images = TrainingImages(frames, detector, settings.cache_mib, device)
    images.fit_prototypes(torch.Generator().manual_seed(settings.seed))
    loop = _Loop(config, detector, images, device)
    if resume:
        load_students(folder, detector)
        loop.load_state(torch.load(folder / RESUME_NAME, weights_only=True))
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


class _Loop:
    """The optimiser and its state. Everything that a resumed run needs is in state()."""

    def __init__(
        self, config: TrainConfig, detector: Detector, images: TrainingImages, device: torch.device
    ) -> None:
        self._config, self._detector, self._images, self._device = config, detector, images, device
        self._settings = config.training
        parameters = [p for p in detector.parameters() if p.requires_grad]
        self._optimiser = torch.optim.AdamW(
            parameters, lr=self._settings.learning_rate, weight_decay=self._settings.weight_decay
        )
        self._parameters = parameters
        self._scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
        self._order = torch.Generator().manual_seed(self._settings.seed)
        self.step = 0
        self.losses: dict[str, float] = {}
        self.history: list[dict[str, float]] = []

    def steps(self) -> Iterator[int]:
        """Run the remaining steps, yielding after each."""
        total = self._settings.steps
        with tqdm(total=total, initial=self.step, desc="train", unit="step", disable=None) as bar:
            self._detector.train()
            while self.step < total:
                self._run_step()
                self.step += 1
                bar.set_postfix({name: f"{value:.4f}" for name, value in self.losses.items()}, refresh=False)
                bar.update()
                if (
                    bar.disable and self.step % max(1, total // 10) == 0
                ):  # no terminal: progress goes to the log
                    log.info("step %d of %d: %s", self.step, total, self.losses)
                yield self.step

    def _run_step(self) -> None:
        indices = torch.randint(len(self._images), (self._settings.batch,), generator=self._order)
        tokens, images = self._images.batch(indices)
        ramp = min(1.0, self.step / max(1, self._settings.steps // 10))
        weighted, losses = [], {}
        with half_precision(self._device):
            if self._detector.local is not None:
                rebuilt = self._detector.local(tokens.patch_tokens)
                loss = local_loss(tokens.patch_tokens, rebuilt, ramp * self._config.local.hard_mining)
                weighted.append(self._config.objective.local * loss)
                losses["local"] = loss.mean().item()
            if self._detector.semantic is not None:
                classes = self._detector.semantic(self._detector.resize(images))
                loss = semantic_loss(tokens.class_tokens, classes)
                weighted.append(self._config.objective.semantic * loss)
                losses["semantic"] = loss.mean().item()
            total = noisy_or_loss(weighted)
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self._settings)
        self._optimiser.zero_grad(set_to_none=True)
        self._scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        self._scaler.unscale_(self._optimiser)
        torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.clip)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self.losses = losses
        self.history.append(losses)

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "optimiser": self._optimiser.state_dict(),
            "scaler": self._scaler.state_dict(),
            "order": self._order.get_state(),
            "random": torch.get_rng_state(),
            "history": self.history,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.step, self.history = state["step"], state["history"]
        self._optimiser.load_state_dict(state["optimiser"])
        self._scaler.load_state_dict(state["scaler"])
        self._order.set_state(state["order"])
        torch.set_rng_state(state["random"])


def learning_rate(step: int, settings: OptimConfig) -> float:
    """Linear warm-up, then a cosine from learning_rate to final_learning_rate at the last step."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    high, low = settings.learning_rate, settings.final_learning_rate
    return low + (high - low) * (1 + math.cos(math.pi * progress)) / 2


def split_held_out(samples: list[Sample], config: TrainConfig) -> tuple[list[Sample], list[Sample]]:
    """Split good samples into those to train on and those to calibrate on.

    Images are drawn at random by the seed. Of a video the last frames are held out instead, since a
    frame between two training frames is hardly unseen.
    """
    count = max(1, round(config.data.hold_out * len(samples)))
    if len(samples) - count < 1:
        raise DataError(
            f"{config.data.root}: {len(samples)} good images are too few to train and calibrate on"
        )
    if config.data.layout == "video":
        return samples[:-count], samples[-count:]
    drawn = set(np.random.default_rng(config.training.seed).permutation(len(samples))[:count].tolist())
    return [s for i, s in enumerate(samples) if i not in drawn], [
        s for i, s in enumerate(samples) if i in drawn
    ]


def load_frames(samples: list[Sample], size: tuple[int, int]) -> Tensor:
    """Read samples at model size, as the daemon would see them: uint8 BGR (M, H, W, 3)."""
    images: list[Image] = []
    for image in tqdm(read_samples(samples), total=len(samples), desc="images", unit="image", disable=None):
        images.append(to_model_size(image, *size))
    return torch.from_numpy(np.stack(images))


def predict(detector: Detector, frames: Tensor, device: torch.device) -> RawPrediction:
    """Score frames uint8 (M, H, W, 3) with the trained detector, in the engine's own form."""
    parts = [
        infer(detector, frames[start : start + ENCODE_BATCH].to(device))
        for start in tqdm(range(0, len(frames), ENCODE_BATCH), desc="score", unit="batch", disable=None)
    ]
    names = ("d_local", "d_semantic", "anomaly_map")
    return RawPrediction(
        *(torch.cat([part[name] for part in parts]).numpy() if name in parts[0] else None for name in names)
    )


def half_precision(device: torch.device) -> AbstractContextManager[None]:
    """Automatic mixed precision on a GPU, nothing on a CPU."""
    return torch.autocast("cuda", torch.float16) if device.type == "cuda" else nullcontext()
