"""Which figures are computed of which images: classes, kinds of defects, students, parts, and their means.

Knows what is counted together; how a metric is computed is in metrics.py, how a table looks in tables.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
from dualkd.daemon.bundle import file_sha256
from dualkd.train.checkpoint import RUN_NAME
from dualkd.train.datasets import GOOD, Sample, read_mask
from dualkd.train.metrics import Curves, PixelHistogram, detection_curves, detection_metrics
from dualkd.train.results import Fusion, Grouping, Report, Row, ScoredRun, Section
from dualkd.train.scoring import Bools, Hazards, Scored, fuse_parts, probability
from tqdm import tqdm

PIXEL_SIDE_PX = 256  # pixel figures compare map and mask at this size
ALL = "all"  # the class of images that name none


@dataclass(frozen=True, slots=True)
class ClassCurves:
    """The curves of every class that has them, by its name."""

    image: dict[str, Curves]
    pixel: dict[str, Curves]


@dataclass(frozen=True, slots=True)
class Group:
    """Images of one scored run that are counted together."""

    name: str
    scored: Scored
    indices: npt.NDArray[np.intp]

    @property
    def samples(self) -> list[Sample]:
        """Its images."""
        return [self.scored.samples[index] for index in self.indices]

    @property
    def anomalous(self) -> Bools:
        """The truth, (n,)."""
        return self.scored.anomalous[self.indices]

    @property
    def hazard(self) -> Hazards:
        """Their hazards, (n,)."""
        return self.scored.hazard[self.indices]

    def of_kinds(self, kinds: set[str]) -> Group:
        """Its images of these kinds alone."""
        chosen = [index for index in self.indices if self.scored.samples[index].kind in kinds]
        return Group(self.name, self.scored, np.array(chosen, np.intp))


def make_report(
    data: str,
    root: Path,
    scored: Sequence[Scored],
    grouping: Grouping,
    fusion: Fusion,
) -> tuple[Report, ClassCurves]:
    """Compute all figures, class by class, of runs scored on the tasks of one data set. Raises DataError.

    data, root: what the images are called and the folder they lie in; grouping: whether a class is a category
    of the samples, or a task (where the good parts of one task are the anomalies of another).
    """
    groups = [group for one in scored for group in group_images(one, grouping)]
    kinds = _shared_kinds(groups) if len(groups) == 1 or grouping == "category" else []
    classes: list[Row] = []
    curves = ClassCurves({}, {})
    by_kind: dict[str, list[Row]] = {}
    for group in tqdm(groups, desc="figures", unit="class", disable=None):
        histograms = _pixel_histograms(group)
        pixels = _merged(histograms, set(histograms))
        classes.append(_class_row("class", group.name, group, pixels))
        if image_curves := detection_curves(group.anomalous, group.hazard):
            curves.image[group.name] = image_curves
        if pixels and (pixel_curves := detection_curves(*pixels.weighted())):
            curves.pixel[group.name] = pixel_curves
        by_kind[group.name] = _kind_rows(group, kinds, histograms)
    parts = [row for group in groups for row in _part_rows(group, fusion)]
    rows = [
        *classes,
        *([_mean("mean", f"mean of {len(classes)}", classes)] if len(classes) > 1 else []),
        *(_student_rows(groups) if len(scored) == 1 else []),
        *_kind_section(by_kind),
        *parts,
        *([_mean("part mean", f"mean of {len(parts)}", parts)] if len(parts) > 1 else []),
    ]
    return (
        Report(
            data=data,
            root=str(root.resolve()),
            pixel_side_px=PIXEL_SIDE_PX,
            grouping=grouping,
            fusion=fusion,
            runs=[_scored_run(one) for one in scored],
            rows=rows,
        ),
        curves,
    )


def group_images(scored: Scored, grouping: Grouping) -> list[Group]:
    """The classes that a run's images fall into: one a category, in their order, or all as the run's task."""
    if grouping == "task":
        return [Group(scored.task or ALL, scored, np.arange(len(scored.samples)))]
    members: dict[str, list[int]] = {}
    for index, sample in enumerate(scored.samples):
        members.setdefault(sample.category, []).append(index)
    return [Group(name or ALL, scored, np.array(indices)) for name, indices in members.items()]


def _shared_kinds(groups: Sequence[Group]) -> list[str]:
    """The kinds of defects that every class has, if they tell more than the classes do."""
    kinds = set.intersection(*({sample.kind for sample in group.samples} for group in groups)) - {GOOD}
    return sorted(kinds) if len(groups) == 1 or len(kinds) > 1 else []


def _pixel_histograms(group: Group) -> dict[str, PixelHistogram]:
    """A histogram a kind, of good images and of defects that have a mask; empty if no defect has one."""
    maps, samples = group.scored.raw.anomaly_map, group.samples
    if maps is None or not any(sample.mask for sample in samples):
        return {}
    low, high = float(maps[group.indices].min()), float(maps[group.indices].max())
    side = (PIXEL_SIDE_PX, PIXEL_SIDE_PX)
    histograms: dict[str, PixelHistogram] = {}
    for index, sample in zip(group.indices, samples, strict=True):
        if sample.kind == GOOD or sample.mask:
            large = np.asarray(cv2.resize(maps[index], side, interpolation=cv2.INTER_LINEAR))
            histogram = histograms.setdefault(sample.kind, PixelHistogram(low, high))
            histogram.add(read_mask(sample, side), large)
    return histograms


def _merged(histograms: dict[str, PixelHistogram], kinds: set[str]) -> PixelHistogram | None:
    """The histogram of all images of these kinds; None where no defect among them has a mask."""
    chosen = [histogram for kind, histogram in histograms.items() if kind in kinds]
    if not (kinds - {GOOD}) & set(histograms):
        return None
    merged = PixelHistogram(chosen[0].low, chosen[0].high)
    for histogram in chosen:
        merged.merge(histogram)
    return merged


def _class_row(section: Section, name: str, group: Group, pixels: PixelHistogram | None) -> Row:
    figures = detection_metrics(group.anomalous, group.hazard)
    if pixels is not None:
        figures |= {f"pixel_{key}": value for key, value in detection_metrics(*pixels.weighted()).items()}
        figures |= {"aupro": pixels.aupro()}
        region_threshold = group.scored.calibration.region_threshold
        at_threshold = {} if region_threshold is None else pixels.above(region_threshold)
        figures |= {f"pixel_{key}": value for key, value in (at_threshold | pixels.coco_ad()).items()}
    masked = sum(sample.mask is not None for sample in group.samples)
    return _row(section, name, group.anomalous, group.scored.failed[group.indices], figures, masked)


def _row(
    section: Section,
    name: str,
    anomalous: Bools,
    failed: Bools | None,
    figures: dict[str, float],
    masked: int = 0,
) -> Row:
    good, defects = int((~anomalous).sum()), int(anomalous.sum())
    misses = false_rejects = None
    if failed is not None:
        misses, false_rejects = int((anomalous & ~failed).sum()), int((failed & ~anomalous).sum())
        rates = (("miss_rate", misses, defects), ("false_reject_rate", false_rejects, good))
        figures = figures | {name: count / of for name, count, of in rates if of}
    return Row(
        section=section,
        name=name,
        good=good,
        defects=defects,
        masked=masked,
        misses=misses,
        false_rejects=false_rejects,
        figures={key: value for key, value in figures.items() if math.isfinite(value)},
    )


def _mean(section: Section, name: str, rows: Sequence[Row]) -> Row:
    """Each figure's mean over the rows that have it; counts are summed."""
    keys = dict.fromkeys(key for row in rows for key in row.figures)
    values = {key: [row.figures[key] for row in rows if key in row.figures] for key in keys}
    return Row(
        section=section,
        name=name,
        good=sum(row.good for row in rows),
        defects=sum(row.defects for row in rows),
        masked=sum(row.masked for row in rows),
        misses=_total([row.misses for row in rows]),
        false_rejects=_total([row.false_rejects for row in rows]),
        figures={key: float(np.mean(column)) for key, column in values.items()},
    )


def _total(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _student_rows(groups: Sequence[Group]) -> list[Row]:
    """What each of two students ranks alone, as the mean over the classes."""
    raw = groups[0].scored.raw
    if raw.d_local is None or raw.d_semantic is None:
        return []
    rows = []
    for name, distance in (("local alone", raw.d_local), ("semantic alone", raw.d_semantic)):
        each = [
            _row(
                "student",
                name,
                group.anomalous,
                None,
                detection_metrics(group.anomalous, distance[group.indices]),
            )
            for group in groups
        ]
        rows.append(_mean("student", name, each))
    return rows


def _kind_rows(group: Group, kinds: Sequence[str], histograms: dict[str, PixelHistogram]) -> list[Row]:
    """Each kind of defect against the good images of its class."""
    return [
        _class_row("kind", kind, group.of_kinds({GOOD, kind}), _merged(histograms, {GOOD, kind}))
        for kind in kinds
    ]


def _kind_section(by_class: dict[str, list[Row]]) -> list[Row]:
    """The rows of all classes by kind, each kind's mean over several classes, and the mean of several kinds."""
    rows = [row for of_class in by_class.values() for row in of_class]
    each_kind, means = rows, []
    if len(by_class) > 1:
        columns = zip(*by_class.values(), strict=True)
        each_kind = means = [_mean("kind mean", f"mean: {column[0].name}", column) for column in columns]
        rows = [
            msgspec.structs.replace(row, name=f"{name}: {row.name}")
            for name, of_class in by_class.items()
            for row in of_class
        ]
    if len(each_kind) > 1:
        mean, first = _mean("kind mean", "mean of kinds", each_kind), each_kind[0]
        # the good images are the same ones for every kind
        mean = msgspec.structs.replace(mean, good=first.good, false_rejects=first.false_rejects)
        means = [*means, mean]
    return [*rows, *means]


def _part_rows(group: Group, fusion: Fusion) -> list[Row]:
    fused = fuse_parts(group.samples, group.hazard, fusion)
    if fused is None:
        return []
    anomalous, hazard = fused
    failed = probability(hazard) > group.scored.calibration.threshold
    return [_row("part", group.name, anomalous, failed, detection_metrics(anomalous, hazard))]


def _scored_run(scored: Scored) -> ScoredRun:
    return ScoredRun(
        folder=str(scored.folder),
        run_sha256=file_sha256(scored.folder / RUN_NAME),
        task=scored.task,
        teacher=scored.run.teacher,
        calibration=scored.calibration,
    )
