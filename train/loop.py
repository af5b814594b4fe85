"""The optimisation itself, step by step, with a state that can be saved and taken up again.

Knows the optimiser, the precision, the ranks and how a step's batch is cut among them. Does not know what a
step minimises (objective.py), where images come from (images.py), or files.

A step's batch is cut into ranks x accumulate micro-batches, one after the other on each rank. All that is
random in a step is drawn anew from the seed, the step and the number of the micro-batch, so nothing random
needs saving, and two ranks do just what one rank with twice as many micro-batches does. Whatever the objective
takes over a batch, as hard mining does its limit, it takes over a micro-batch.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import torch
from dualkd.configs.loader import ConfigError
from dualkd.train.checkpoint import RunError
from dualkd.train.config import OptimConfig, TrainConfig
from dualkd.train.detector import ENCODE_BATCH, Detector, autocast
from dualkd.train.distributed import Ranks
from dualkd.train.early_stopping import EarlyStopping
from dualkd.train.history import StepRecord
from dualkd.train.images import EncodedImages
from dualkd.train.objective import objective
from dualkd.train.pseudo import PseudoAnomalies
from dualkd.train.teacher import TeacherTokens
from torch import Tensor
from tqdm import tqdm

log = logging.getLogger(__name__)

DRAW_IMAGES, TRAIN = range(2)  # what a random seed is for

Batches = Iterator[tuple[TeacherTokens, Tensor]]


class Loop:
    """The optimiser and its state. Everything that a resumed run needs is in state()."""

    def __init__(
        self,
        config: TrainConfig,
        detector: Detector,
        images: EncodedImages,
        pseudo: PseudoAnomalies,
        held_out: EncodedImages | None,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        """`held_out`: the images to check on every training.check_every steps; None for no checks."""
        self._config, self._detector, self._device, self._ranks = config, detector, device, ranks
        self._images, self._pseudo, self._held_out = images, pseudo, held_out
        self._settings = config.training
        self._parameters = [p for p in detector.parameters() if p.requires_grad]
        self._optimiser = torch.optim.AdamW(
            self._parameters, lr=self._settings.learning_rate, weight_decay=self._settings.weight_decay
        )
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._settings.used_precision == "float16")
        self.early_stopping = EarlyStopping(self._settings.patience)
        self.step = 0
        self.losses: dict[str, float] = {}

    def steps(self) -> Iterator[StepRecord]:
        """Run the remaining steps, yielding after each, until the last or until the early stop.

        Raises DataError, RankError, and RunError if the objective is no number.
        """
        total = self._settings.steps
        with (
            closing(self._images.batches(self._schedule())) as batches,
            tqdm(total=total, initial=self.step, desc="train", unit="step", disable=None) as bar,
        ):
            while self.step < total and self.early_stopping.reason is None:
                record = self._run_step(batches)
                losses = {name: f"{value:.4f}" for name, value in self.losses.items()}
                bar.set_postfix(losses, refresh=False)
                bar.update()
                # without a terminal progress goes to the log
                if bar.disable and self.step % max(1, total // 10) == 0:
                    log.info("step %d of %d: %s", self.step, total, ", ".join(map(" ".join, losses.items())))
                yield record

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "losses": self.losses,
            "students": self._detector.student_state(),
            "optimiser": self._optimiser.state_dict(),
            "scaler": self._scaler.state_dict(),
            "early_stopping": self.early_stopping.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.step, self.losses = state["step"], state["losses"]
        self._detector.load_student_state(state["students"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._scaler.load_state_dict(state["scaler"])
        self.early_stopping.load_state(state["early_stopping"])

    def _schedule(self) -> Iterator[Tensor]:
        """The indices of each micro-batch of this rank, in the order of training."""
        settings = self._settings
        for step in range(self.step, settings.steps):
            generator = torch.Generator().manual_seed(random_seed(settings.seed, DRAW_IMAGES, step, 0))
            indices = torch.randint(len(self._images), (settings.batch,), generator=generator)
            micro_batches = indices.tensor_split(self._ranks.size * settings.accumulate)
            yield from (micro_batches[number] for number in self._micro_batches())

    def _micro_batches(self) -> range:
        """The numbers of this rank's micro-batches in a step."""
        each = self._settings.accumulate
        return range(self._ranks.rank * each, (self._ranks.rank + 1) * each)

    def _run_step(self, batches: Batches) -> StepRecord:
        settings, started = self._settings, time.monotonic()
        rate = learning_rate(self.step, settings)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        names, losses = self._compute_gradients(batches)
        self._ranks.sum_gradients(self._parameters)
        self._ranks.sum(losses)
        self._scaler.unscale_(self._optimiser)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, settings.clip)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        minimised, *parts, gradient_norm = torch.cat([losses, norm[None]]).tolist()
        if not math.isfinite(minimised):
            raise RunError(
                f"{self._config.run}: the objective of step {self.step + 1} is {minimised}, so nothing is learned any "
                "more; lower training.learning_rate or training.clip, or set training.precision to float32"
            )
        speed = settings.batch / (time.monotonic() - started)
        self.step += 1
        self.losses = dict(zip(names, parts, strict=True))
        return StepRecord(
            self.step, self.losses, minimised, rate, gradient_norm, speed, self._check_held_out()
        )

    def _compute_gradients(self, batches: Batches) -> tuple[list[str], Tensor]:
        """Add up the gradients of this rank's micro-batches, each by its share of the step's batch.

        Return the names of the losses, and this rank's part of the objective and of them, (1 + losses,).
        """
        settings = self._settings
        ramp = min(1.0, self.step / max(1, settings.steps // 10))
        self._detector.train()
        self._optimiser.zero_grad(set_to_none=True)
        names: list[str] = []
        losses = torch.zeros(1, device=self._device)
        for number in self._micro_batches():
            tokens, images = next(batches)
            share = len(images) / settings.batch
            torch.manual_seed(random_seed(settings.seed, TRAIN, self.step, number))
            with autocast(self._device, settings.used_precision):
                spoilt = self._pseudo.draw(tokens, images)
                total, parts = objective(self._config, self._detector, tokens, images, ramp, spoilt)
            self._scaler.scale(total * share).backward()  # type: ignore[no-untyped-call]
            names = list(parts)
            losses = losses + share * torch.stack([total.detach(), *parts.values()]).float()
        return names, losses

    def _check_held_out(self) -> float | None:
        """The objective on the held-out images, evaluated and without hard mining, if they are due now."""
        if self._held_out is None:
            return None
        if self.step % self._settings.check_every and self.step < self._settings.steps:
            return None
        self._detector.eval()
        chunks = torch.split(torch.arange(len(self._held_out)), ENCODE_BATCH)
        total = torch.zeros((), device=self._device)
        for tokens, images in self._held_out.batches(chunks[self._ranks.rank :: self._ranks.size]):
            with torch.no_grad(), autocast(self._device, self._settings.used_precision):
                value, _ = objective(self._config, self._detector, tokens, images, ramp=0.0)
            total += value.float() * len(images)
        mean = self._ranks.sum(total).item() / len(self._held_out)
        self.early_stopping.note(self.step, mean, self._detector.student_state())
        return mean


def micro_batches_fit(config: TrainConfig, ranks: Ranks) -> None:
    """Raise ConfigError if a step's batch is too small to be cut into so many micro-batches.

    Each holds an image or more; two where frames take each other's global tokens (pseudo.jitter), since an
    image by itself would be its own pseudo-anomaly.
    """
    settings = config.training
    swaps = config.pseudo.jitter > 0 and config.students != "local"
    least = ranks.size * settings.accumulate * (2 if swaps else 1)
    if settings.batch < least:
        raise ConfigError(
            [
                f"training.batch: got {settings.batch}, must be {least} or more for {ranks.size} processes "
                f"with training.accumulate {settings.accumulate}"
                + ", two images each for pseudo.jitter"
                * swaps
            ]
        )


def random_seed(seed: int, purpose: int, step: int, number: int) -> int:
    """A seed of 32 bits, as good as independent for each combination."""
    return int(np.random.SeedSequence((seed, purpose, step, number)).generate_state(1)[0])


def learning_rate(step: int, settings: OptimConfig) -> float:
    """Linear warm-up, then a cosine from learning_rate to final_learning_rate at the last step."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    high, low = settings.learning_rate, settings.final_learning_rate
    return low + (high - low) * (1 + math.cos(math.pi * progress)) / 2
