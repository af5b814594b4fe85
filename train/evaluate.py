"""The command dualkd-eval: trained runs against images of known kind, and runs against each other.

Has runs scored and writes the report: metrics.json, tables and pictures. Which runs are measured on what is
in runsets.py, which figures are computed in figures.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import msgspec
import torch
from dualkd.daemon.bundle import file_sha256
from dualkd.daemon.calibration import describe
from dualkd.train.checkpoint import RUN_NAME, RunError
from dualkd.train.commands import say
from dualkd.train.compare import Measured, comparison_markdown, fold, ranking_summary
from dualkd.train.config import Benchmark, Protocol
from dualkd.train.datasets import GOOD, DataError, read_mask, read_samples
from dualkd.train.figures import ClassCurves, Group, group_images, make_report
from dualkd.train.report import (
    ScoreGroup,
    Tile,
    plot_comparison,
    plot_curves,
    plot_histograms,
    plot_scores,
    write_sheet,
)
from dualkd.train.results import Fusion, Report
from dualkd.train.runsets import RunSet, find_runs, pair_with_tasks
from dualkd.train.scoring import Scored, score_run
from dualkd.train.tables import report_csv, report_markdown, scores_csv
from dualkd.train.weights import WeightsError
from tqdm import tqdm

SHEET_TILES = 12
REPORT_NAME = "metrics.json"


def evaluate(runs: RunSet, fusion: Fusion, device: torch.device, folder: Path) -> tuple[Report, list[Scored]]:
    """Score the runs on their tasks and write the report into `folder`. Raises DataError, RunError, WeightsError."""
    pairs = pair_with_tasks(runs)
    tasks = tqdm(pairs.items(), desc=runs.name, unit="task", disable=None if len(pairs) > 1 else True)
    scored = [score_run(path, task, device) for path, task in tasks]
    report, curves = make_report(runs.name, Path(runs.data.root), scored, runs.grouping, fusion)
    write_report(report, curves, scored, folder)
    return report, scored


def read_report(runs: RunSet, fusion: Fusion) -> Report | None:
    """The report that lies with the runs, if it is of these runs and images; None if it must be made."""
    try:
        report = msgspec.json.decode((runs.folder / REPORT_NAME).read_bytes(), type=Report)
    except (OSError, msgspec.MsgspecError):
        return None
    now = sorted(file_sha256(folder / RUN_NAME) for folder in runs.runs)
    same_runs = now == sorted(run.run_sha256 for run in report.runs)
    same_images = report.root == str(Path(runs.data.root).resolve())
    return report if same_runs and same_images and report.fusion == fusion else None


def write_report(report: Report, curves: ClassCurves, scored: Sequence[Scored], folder: Path) -> None:
    """Write table.md, table.csv, scores.csv, the four pictures, and last metrics.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(report_markdown(report), encoding="utf-8")
    (folder / "table.csv").write_text(report_csv(report), encoding="utf-8")
    (folder / "scores.csv").write_text(scores_csv(scored), encoding="utf-8")
    if curves.image:
        plot_curves(report.data, curves.image, curves.pixel, folder / "curves.png")
    groups = [group for one in scored for group in group_images(one, report.grouping)]
    classes = [_score_group(group.name, group) for group in groups]
    plot_histograms(report.data, classes, folder / "histograms.png")
    plot_scores(report.data, classes if len(groups) > 1 else _by_kind(groups[0]), folder / "scores.png")
    write_sheet(_sheet_sections(scored), folder / "sheet.png")
    (folder / REPORT_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))


def _score_group(name: str, group: Group) -> ScoreGroup:
    bad, hazard = group.anomalous, group.hazard
    return ScoreGroup(name, hazard[~bad], hazard[bad], group.scored.calibration.threshold)


def _by_kind(group: Group) -> list[ScoreGroup]:
    kinds = sorted({sample.kind for sample in group.samples}, key=lambda kind: (kind != GOOD, kind))
    return [_score_group(kind, group.of_kinds({kind})) for kind in kinds]


def _sheet_sections(scored: Sequence[Scored]) -> list[tuple[str, list[Tile]]]:
    places = [(one, index) for one in scored for index in range(len(one.samples))]
    places.sort(key=lambda place: float(place[0].hazard[place[1]]))
    bad = [place for place in places if place[0].samples[place[1]].kind != GOOD]
    good = [place for place in places if place[0].samples[place[1]].kind == GOOD]
    return [
        (title, _tiles(chosen))
        for title, chosen in (
            ("Defects with the lowest scores (worst misses)", bad[:SHEET_TILES]),
            ("Good parts with the highest scores (worst false alarms)", good[::-1][:SHEET_TILES]),
            ("Defects with the highest scores (best hits)", bad[::-1][:SHEET_TILES]),
        )
        if chosen
    ]


def _tiles(places: Sequence[tuple[Scored, int]]) -> list[Tile]:
    tiles = []
    images = read_samples([scored.samples[index] for scored, index in places])
    for (scored, index), image in zip(places, images, strict=True):
        sample, score, failed = scored.samples[index], scored.score[index], bool(scored.failed[index])
        anomaly_map, region_threshold = None, scored.calibration.region_threshold
        if scored.raw.anomaly_map is not None and region_threshold:
            anomaly_map = scored.raw.anomaly_map[index] / (2 * region_threshold)  # threshold in mid scale
        mask = read_mask(sample, (image.shape[0], image.shape[1])) if sample.mask else None
        verdict = f"{sample.kind}: {'FAIL' if failed else 'PASS'} {score:.3f}"
        title = f"{scored.task}: {sample.name}" if scored.task else sample.name
        tiles.append(Tile(image, anomaly_map, mask, title, verdict, failed == (sample.kind == GOOD)))
    return tiles


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 evaluated, 1 a run or the images cannot be used, 2 the command line is wrong."""
    options = _parse(arguments)
    overrides = {
        key: str(value)
        for key in ("root", "benchmark", "protocol", "task")
        if (value := getattr(options, key)) is not None
    }
    try:
        sets = [find_runs(folder, overrides) for folder in options.run]
        if options.compare:
            text = _compare(sets, options)
        else:
            text = "\n\n".join(_evaluate(runs, options, several=len(sets[0]) > 1) for runs in sets[0])
    except msgspec.ValidationError as error:
        print(f"dualkd-eval: {error}", file=sys.stderr)
        return 2
    except (RunError, WeightsError, DataError) as error:
        print(f"dualkd-eval: {error}", file=sys.stderr)
        return 1
    say(text)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dualkd-eval", description="Measure trained runs on images of known kind."
    )
    parser.add_argument("run", type=Path, nargs="+", help="a run, or the folder of a benchmark's runs")
    parser.add_argument("--compare", action="store_true", help="set several runs side by side")
    parser.add_argument(
        "--data",
        dest="root",
        type=Path,
        help="folder with test/good and test/<defect>, or the benchmark's root (default: the run's own data.root)",
    )
    parser.add_argument("--benchmark", choices=get_args(Benchmark), help="in place of the run's own")
    parser.add_argument("--protocol", choices=get_args(Protocol), help="in place of the run's own")
    parser.add_argument("--task", help="the benchmark's task that a single run is measured on")
    parser.add_argument(
        "--fusion",
        choices=get_args(Fusion),
        default="max",
        help="how the views of a part, where a benchmark has them, make its score (default: max)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="never swapped in silence")
    parser.add_argument("--out", type=Path, help="folder for the report (default: RUN/eval/NAME)")
    options = parser.parse_args(arguments)
    if len(options.run) > 1 and not options.compare:
        parser.error("several runs are set side by side with --compare; without it give one")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA GPU here; use --device cpu")
    return options


def _evaluate(runs: RunSet, options: argparse.Namespace, *, several: bool) -> str:
    """Evaluate and return what a person should read."""
    folder = runs.folder
    if options.out is not None:
        folder = options.out / runs.name if several else options.out
    report, scored = evaluate(runs, options.fusion, torch.device(options.device), folder)
    total = report.total
    teachers = ", ".join(sorted({run.teacher.source for run in report.runs}))
    thresholds = [f"{one.task}: " * bool(one.task) + describe(one.calibration) for one in scored]
    return "\n".join(
        [
            f"{runs.name}: {total.good} good, {total.defects} defects; teacher weights: {teachers}\n",
            report_markdown(report),
            f"{total.misses} of {total.defects} defects passed, {total.false_rejects} of {total.good} good parts "
            "failed",
            *thresholds,
            f"look at the pictures in {folder}",
        ]
    )


def _compare(sets: Sequence[Sequence[RunSet]], options: argparse.Namespace) -> str:
    """Compare, with reports made where they are missing, and return what a person should read."""
    measured = []
    for found in sets:
        if len(found) > 1:
            names = ", ".join(runs.name for runs in found)
            raise RunError(
                f"{found[0].home} holds runs for different images ({names}): name one run's folder"
            )
        runs = found[0]
        report = read_report(runs, options.fusion)
        if report is None:
            report, _ = evaluate(runs, options.fusion, torch.device(options.device), runs.folder)
        measured.append(Measured(runs.home, [run.config for run in runs.runs.values()], report))
    columns = fold(measured)
    text = comparison_markdown(columns)
    folder = options.out or measured[0].folder / "eval" / "compare"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "compare.md").write_text(text, encoding="utf-8")
    plot_comparison(measured[0].report.data, ranking_summary(columns), folder / "compare.png")
    return f"{text}\nlook at {folder / 'compare.png'}"


if __name__ == "__main__":
    sys.exit(main())
