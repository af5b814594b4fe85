"""The optimisation itself, step by step, with a state that can be saved and taken up again."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

import torch
from dualkd.train.config import OptimConfig, TrainConfig
from dualkd.train.detector import Detector, half_precision
from dualkd.train.images import TrainingImages
from dualkd.train.objective import objective
from tqdm import tqdm

log = logging.getLogger(__name__)


class Loop:
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
        with half_precision(self._device):
            total, parts = objective(self._config, self._detector, tokens, images, ramp)
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self._settings)
        self._optimiser.zero_grad(set_to_none=True)
        self._scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        self._scaler.unscale_(self._optimiser)
        torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.clip)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self.losses = {name: value.item() for name, value in parts.items()}
        self.history.append(self.losses)

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
