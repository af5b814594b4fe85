"""log.csv of a run: a line for each step, which outlives a killed process and is cut back where it resumes.

Knows the columns of a step; does not train.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

LOG_NAME = "log.csv"


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What one step measured."""

    step: int  # from 1
    losses: dict[str, float]  # of each student, and of each kind of pseudo-anomalies
    objective: float  # what was minimised
    learning_rate: float
    gradient_norm: float  # before clipping; inf where float16 overflowed and the step was left out
    images_per_second: float
    held_out: float | None  # the objective on the held-out images, if they were looked at after this step

    def row(self) -> dict[str, str]:
        """The line of log.csv, by column."""
        numbers = {
            **self.losses,
            "objective": self.objective,
            "learning_rate": self.learning_rate,
            "gradient_norm": self.gradient_norm,
            "images_per_second": self.images_per_second,
        }
        held_out = "" if self.held_out is None else f"{self.held_out:.6g}"
        return {
            "step": str(self.step),
            **{name: f"{value:.6g}" for name, value in numbers.items()},
            "held_out": held_out,
        }


class History:
    """The lines of one run's log.csv. A line is written when its step is done."""

    def __init__(self, path: Path, steps_done: int) -> None:
        """Go on after `steps_done` steps: what an earlier process wrote of later ones, or half, is left out."""
        self._path = path
        self._rows = _read(path, steps_done) if steps_done else []
        self._begun = False

    def append(self, record: StepRecord) -> None:
        """Write the line of one step."""
        row = record.row()
        self._rows.append(row)
        if self._begun:
            with self._path.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, list(row)).writerow(row)
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_name(f".{self._path.name}.partial")
        with partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerows(self._rows)
        partial.replace(self._path)
        self._begun = True

    def losses(self) -> list[dict[str, float]]:
        """The losses by name, at each step that is known."""
        others = set(StepRecord(0, {}, 0, 0, 0, 0, None).row())
        return [
            {name: float(value) for name, value in row.items() if name not in others} for row in self._rows
        ]


def _read(path: Path, steps_done: int) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if (row["step"] or "").isdigit() and int(row["step"]) <= steps_done]
