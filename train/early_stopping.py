"""When to stop: the best weights so far, by the objective on held-out good images, and how long ago they were.

Knows neither how the objective is measured nor the optimiser. Held-out images are good ones; nothing of a test
set is looked at.
"""

from __future__ import annotations

import math
from typing import Any

from dualkd.train.weights import StateDict


class EarlyStopping:
    """The best check so far. Without any check it never stops, and there is no best."""

    def __init__(self, patience: int) -> None:
        """`patience`: how many checks in a row without improvement end training."""
        self._patience = patience
        self._best_value = math.inf
        self._waited = 0  # checks since the best
        self.best_step: int | None = None
        self.best_weights: StateDict | None = None

    def note(self, step: int, value: float, weights: StateDict) -> None:
        """Take the objective after `step`; `weights` are copied if it is the lowest yet (NaN never is)."""
        if value < self._best_value:
            self._best_value, self._waited, self.best_step = value, 0, step
            self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
        else:
            self._waited += 1

    @property
    def reason(self) -> str | None:
        """Why training is to end now, or None if it is not."""
        if self._waited < self._patience:
            return None
        return (
            f"the objective on the held-out images was lowest, {self._best_value:.4g}, after step "
            f"{self.best_step} and not lower in the {self._waited} checks since"
        )

    def state(self) -> dict[str, Any]:
        """What load_state needs to go on as if never stopped."""
        return {
            "best_value": self._best_value,
            "waited": self._waited,
            "best_step": self.best_step,
            "best_weights": self.best_weights,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take what state gave."""
        self._best_value, self._waited = state["best_value"], state["waited"]
        self.best_step, self.best_weights = state["best_step"], state["best_weights"]
