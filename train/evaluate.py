"""The command dualkd-eval: a trained run against images of known kind.

Scores with the trained modules and decides with the daemon's own decision. Writes metrics.json, a table,
the scores as a plot, and a sheet of the images worth looking at.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import torch
from dualkd.daemon.calibration import describe
from dualkd.daemon.decision import Calibration, noisy_or_hazard
from dualkd.daemon.engine import RawPrediction
from dualkd.train.checkpoint import Run, RunError, load_detector
from dualkd.train.datasets import GOOD, DataError, Sample, open_test_set, read_mask, read_samples
from dualkd.train.detector import predict
from dualkd.train.images import load_frames
from dualkd.train.metrics import aupro, detection_metrics
from dualkd.train.report import Tile, plot_scores, write_sheet
from dualkd.train.weights import WeightsError

PIXEL_METRIC_SIDE = 256  # pixel metrics compare map and mask at this size
SHEET_TILES = 12


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores and metrics of one test set. `score` is P; ranking uses its unsaturated form `hazard`."""

    samples: list[Sample]
    raw: RawPrediction
    hazard: npt.NDArray[np.float64]  # (n,)
    score: npt.NDArray[np.float64]  # (n,)
    metrics: dict[str, dict[str, float]]  # row name -> metric -> value
    misses: int  # defects that passed
    false_rejects: int  # good parts that failed


def evaluate(raw: RawPrediction, samples: list[Sample], calibration: Calibration) -> Evaluation:
    """Compute all metrics. Rows: `all`, each student alone, and each kind of defect against the good parts."""
    truth = np.array([sample.kind != GOOD for sample in samples])
    hazard = noisy_or_hazard(calibration, raw.d_local, raw.d_semantic)
    score = -np.expm1(-hazard)
    metrics = {"all": detection_metrics(truth, hazard)}
    if raw.anomaly_map is not None and any(sample.mask for sample in samples):
        metrics["all"] |= _pixel_metrics(raw.anomaly_map, samples)
    for name, distance in (("local alone", raw.d_local), ("semantic alone", raw.d_semantic)):
        if distance is not None:
            metrics[name] = detection_metrics(truth, distance)
    for kind in sorted({sample.kind for sample in samples} - {GOOD}):
        rows = np.array([sample.kind in (GOOD, kind) for sample in samples])
        metrics[kind] = detection_metrics(truth[rows], hazard[rows])
    failed = score > calibration.threshold
    return Evaluation(
        samples, raw, hazard, score, metrics, int((truth & ~failed).sum()), int((~truth & failed).sum())
    )


def format_table(metrics: dict[str, dict[str, float]]) -> str:
    """The metrics as a Markdown table, in per cent."""
    columns = ["auroc", "ap", "f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro"]
    columns = [column for column in columns if any(column in row for row in metrics.values())]
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name, row in metrics.items():
        cells = [f"{100 * row[column]:.2f}" if column in row else "" for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_report(
    result: Evaluation, calibration: Calibration, folder: Path, facts: dict[str, object]
) -> None:
    """Write metrics.json, table.md, scores.png and sheet.png into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [
        {"name": sample.name, "kind": sample.kind, "score": float(score), "hazard": float(hazard)}
        for sample, score, hazard in zip(result.samples, result.score, result.hazard, strict=True)
    ]
    document = {
        **facts,
        "metrics": result.metrics,
        "misses": result.misses,
        "false_rejects": result.false_rejects,
        "threshold": calibration.threshold,
        "parts": parts,
    }
    (folder / "metrics.json").write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2))
    (folder / "table.md").write_text(format_table(result.metrics) + "\n", encoding="utf-8")
    kinds = [GOOD, *sorted({sample.kind for sample in result.samples} - {GOOD})]
    groups = {kind: result.score[[sample.kind == kind for sample in result.samples]] for kind in kinds}
    plot_scores(groups, calibration.threshold, folder / "scores.png")
    write_sheet(_sheet_sections(result, calibration), folder / "sheet.png")


def _pixel_metrics(maps: npt.NDArray[np.float32], samples: list[Sample]) -> dict[str, float]:
    """Over good images and defects that have a mask; defects without one are left out."""
    side = (PIXEL_METRIC_SIDE, PIXEL_METRIC_SIDE)
    kept = [index for index, sample in enumerate(samples) if sample.kind == GOOD or sample.mask]
    large = [np.asarray(cv2.resize(maps[index], side, interpolation=cv2.INTER_LINEAR)) for index in kept]
    masks = [read_mask(samples[index], side) for index in kept]
    truth, values = np.stack(masks).ravel(), np.stack(large).ravel()
    pixel = detection_metrics(truth, values)
    return {f"pixel_{name}": value for name, value in pixel.items()} | {"aupro": aupro(masks, large)}


def _sheet_sections(result: Evaluation, calibration: Calibration) -> list[tuple[str, list[Tile]]]:
    order = np.argsort(result.hazard)
    bad = [index for index in order if result.samples[index].kind != GOOD]
    good = [index for index in order if result.samples[index].kind == GOOD]
    return [
        (title, _tiles(chosen, result, calibration))
        for title, chosen in (
            ("Defects with the lowest scores (worst misses)", bad[:SHEET_TILES]),
            ("Good parts with the highest scores (worst false alarms)", good[::-1][:SHEET_TILES]),
            ("Defects with the highest scores (best hits)", bad[::-1][:SHEET_TILES]),
        )
        if chosen
    ]


def _tiles(indices: Sequence[int], result: Evaluation, calibration: Calibration) -> list[Tile]:
    samples = [result.samples[index] for index in indices]
    tiles = []
    for index, sample, image in zip(indices, samples, read_samples(samples), strict=True):
        score, failed = result.score[index], result.score[index] > calibration.threshold
        anomaly_map = None
        if result.raw.anomaly_map is not None and calibration.region_threshold:
            anomaly_map = result.raw.anomaly_map[index] / (
                2 * calibration.region_threshold
            )  # threshold in mid scale
        mask = read_mask(sample, (image.shape[0], image.shape[1])) if sample.mask else None
        wrong = failed == (sample.kind == GOOD)
        verdict = "FAIL" if failed else "PASS"
        tiles.append(
            Tile(image, anomaly_map, mask, sample.name, f"{sample.kind}: {verdict} {score:.3f}", bool(wrong))
        )
    return tiles


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 evaluated, 1 run or data cannot be used."""
    parser = argparse.ArgumentParser(
        prog="dualkd-eval", description="Measure a trained run on images of known kind."
    )
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "--data", type=Path, help="folder with test/good and test/<defect> (default: the run's own data.root)"
    )
    parser.add_argument("--out", type=Path, help="folder for the report (default: RUN/eval/NAME)")
    options = parser.parse_args(arguments)
    try:
        detector, run = load_detector(options.run)
        dataset = open_test_set(options.data or Path(run.config.data.root))
        size = (run.config.input.height, run.config.input.width)
        raw = predict(detector, load_frames(dataset.test, size), torch.device("cpu"))
    except (RunError, WeightsError, DataError) as error:
        print(f"dualkd-eval: {error}", file=sys.stderr)
        return 1
    calibration = _calibration(run)
    result = evaluate(raw, dataset.test, calibration)
    folder = options.out or options.run / "eval" / dataset.name
    good = sum(sample.kind == GOOD for sample in dataset.test)
    defects = len(dataset.test) - good
    facts: dict[str, object] = {
        "run": str(options.run),
        "data": dataset.name,
        "teacher": run.teacher,
        "good": good,
        "defects": defects,
        "pixel_metric_side_px": PIXEL_METRIC_SIDE,
    }
    write_report(result, calibration, folder, facts)
    print(f"{dataset.name}: {good} good, {defects} defects; teacher weights: {run.teacher.source}\n")
    print(format_table(result.metrics))
    print(
        f"\n{result.misses} of {defects} defects passed, {result.false_rejects} of {good} good parts failed"
    )
    print(f"{describe(calibration)}\nlook at {folder / 'sheet.png'} and {folder / 'scores.png'}")
    return 0


def _calibration(run: Run) -> Calibration:
    if run.calibration is None:
        raise RunError("the run has no calibration")
    return run.calibration


if __name__ == "__main__":
    sys.exit(main())
