"""A report as text: Markdown for people, CSV for programs. Knows headings, per cent and footnotes; computes nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np
from dualkd.train.metrics import AUPRO_MAX_FPR
from dualkd.train.results import Report, Row
from dualkd.train.scoring import Scored

RANKING = {
    "auroc": "AUROC",
    "ap": "AP",
    "f1_max": "F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1_max": "pixel F1-max",
    "aupro": "AUPRO",
}
RATES = {"miss_rate": "defects passed", "false_reject_rate": "good failed"}
AT_THRESHOLD = {
    "pixel_f1": "pixel F1",
    "pixel_iou": "pixel IoU",
    "pixel_precision": "pixel precision",
    "pixel_recall": "pixel recall",
}
COCO_AD = ("pixel_mf1", "pixel_macc", "pixel_miou")
HEADINGS = RANKING | RATES | AT_THRESHOLD  # of the figures in tables for people
PART_SECTIONS = ("part", "part mean")
FUSION_RULES = {"max": "as suspect as its most suspect view", "noisy-or": "the Noisy-OR of its views"}


def percent(value: float | None) -> str:
    """A share in per cent with two digits; empty where there is none."""
    return "" if value is None else f"{100 * value:.2f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table padded to be read as plain text too; the first column to the left, others to the right."""
    widths = [max(3, *map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(
        "| " + " | ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |"
        for line in (head, rule, *rows)
    )


def report_markdown(report: Report) -> str:
    """The ranking, the figures at the calibrated threshold, those of parts, the caption and the footnotes."""
    images = [row for row in report.rows if row.section not in PART_SECTIONS]
    judged = [row for row in images if row.misses is not None]
    parts = [row for row in report.rows if row.section in PART_SECTIONS]
    notes = _Notes(report)
    side, ranking, pixels = report.pixel_side_px, _present(RANKING, images), _present(AT_THRESHOLD, judged)
    blocks = [
        markdown(
            [report.data, *ranking.values()], [[notes.name(row), *_figures(row, ranking)] for row in images]
        ),
        "At the calibrated threshold:",
        markdown(
            ["", *RATES.values(), *pixels.values()],
            [[notes.name(row), *_counts(row), *_figures(row, pixels)] for row in judged],
        ),
    ]
    if parts:
        columns = _present(RANKING, parts)
        blocks += [
            f"By part, {FUSION_RULES[report.fusion]}:",
            markdown(
                ["", *columns.values(), *RATES.values()],
                [[notes.name(row), *_figures(row, columns), *_counts(row)] for row in parts],
            ),
        ]
    caption = "Figures in per cent."
    if "aupro" in ranking:
        caption += (
            f" Pixel figures at {side} x {side}, ground truth where the mask exceeds 0.5 after resizing "
            f"(gt > 0.5); AUPRO up to a false-positive rate of {AUPRO_MAX_FPR}."
        )
    return "\n\n".join([*blocks, "\n".join([caption, *notes.lines()])]) + "\n"


def report_csv(report: Report) -> str:
    """Every row with its counts and all of its figures, COCO-AD's included, as shares of 1."""
    names = [*RANKING, *RATES, *AT_THRESHOLD, *COCO_AD]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    counts = ["good", "defects", "masked", "misses", "false_rejects"]
    writer.writerow(["section", "name", *counts, *names])
    for row in report.rows:
        cells = [getattr(row, name) for name in ("section", "name", *counts)]
        writer.writerow(cells + [row.figures.get(name) for name in names])
    return text.getvalue()


def scores_csv(scored: Sequence[Scored]) -> str:
    """Every image with its truth, score, hazard and verdict."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "category", "name", "part", "kind", "score", "hazard", "verdict"])
    for one in scored:
        verdicts = np.where(one.failed, "FAIL", "PASS")
        for sample, score, hazard, verdict in zip(one.samples, one.score, one.hazard, verdicts, strict=True):
            writer.writerow(
                [one.task, sample.category, sample.name, sample.part, sample.kind, score, hazard, verdict]
            )
    return text.getvalue()


class _Notes:
    """The footnotes of a report, each numbered once, in the order in which the rows name them."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._has_pixels = any("aupro" in row.figures for row in report.rows)
        self._texts: list[str] = []

    def name(self, row: Row) -> str:
        """The row's name with the number of its footnote."""
        name = f"**{row.name}**" if "mean" in row.section else row.name
        text = self._text(row)
        if not text:
            return name
        if text not in self._texts:
            self._texts.append(text)
        return f"{name} [{self._texts.index(text) + 1}]"

    def lines(self) -> list[str]:
        """The footnotes as text."""
        return [f"[{number}] {text}." for number, text in enumerate(self._texts, 1)]

    def _text(self, row: Row) -> str:
        if row.section == "mean":
            whole = all(row.figures.keys() == each.figures.keys() for each in self._report.section("class"))
            return "" if whole else "each figure's mean over the rows that have it"
        if row.section not in ("class", "kind", "part"):
            return ""
        if not row.defects or not row.good:
            return (
                f"no {'good ones' if row.defects else 'defects'} among the test images, so nothing to compare"
            )
        if row.section == "part" or not self._has_pixels or row.masked == row.defects:
            return ""
        if not row.masked:
            return "no masks, so no pixel figures"
        return (
            f"pixel figures leave out {row.defects - row.masked} of {row.defects} defects, which have no mask"
        )


def _present(headings: dict[str, str], rows: Sequence[Row]) -> dict[str, str]:
    return {key: heading for key, heading in headings.items() if any(key in row.figures for row in rows)}


def _figures(row: Row, keys: dict[str, str]) -> list[str]:
    return [percent(row.figures.get(key)) for key in keys]


def _counts(row: Row) -> list[str]:
    return [f"{row.misses} of {row.defects}", f"{row.false_rejects} of {row.good}"]
