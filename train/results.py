"""What an evaluation found, as it is kept in metrics.json. Plain records; computes and draws nothing."""

from __future__ import annotations

from typing import Literal

import msgspec
from dualkd.daemon.decision import Calibration
from dualkd.train.weights import WeightsRecord

Grouping = Literal["category", "task"]
Fusion = Literal["max", "noisy-or"]
Section = Literal["class", "mean", "student", "kind", "kind mean", "part", "part mean"]


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Figures of some images, or of parts. A figure without a value is left out; a share of 1 is 1.0."""

    section: Section
    name: str
    good: int
    defects: int
    masked: int  # defects that have a mask; pixel figures are over these and the good images
    misses: int | None  # defects that pass at the calibrated threshold; None for a student, which has none
    false_rejects: int | None  # good ones that fail
    figures: dict[str, float]


class ScoredRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The run that scored one task."""

    folder: str
    run_sha256: str  # of its run.json
    task: str
    teacher: WeightsRecord
    calibration: Calibration


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """metrics.json."""

    schema: Literal[1] = 1
    data: str
    root: str  # absolute, of the folder that the images lie in
    pixel_side_px: int  # map and mask are compared at this size
    grouping: Grouping
    fusion: Fusion
    runs: list[ScoredRun]
    rows: list[Row]

    @property
    def total(self) -> Row:
        """The mean over the classes, or the only class."""
        return next((row for row in self.rows if row.section == "mean"), self.rows[0])

    def section(self, section: Section) -> list[Row]:
        """The rows of one section, in order."""
        return [row for row in self.rows if row.section == section]
