"""Reports: which figures stand in which row, how tables read, how runs are set side by side, what is drawn."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from dualkd.daemon.calibration import fit_calibration
from dualkd.daemon.engine import RawPrediction
from dualkd.train.checkpoint import RUN_NAME, Run
from dualkd.train.compare import Measured, comparison_markdown, fold, ranking_summary
from dualkd.train.config import DataConfig, OptimConfig, TrainConfig
from dualkd.train.datasets import GOOD, DataError, Dataset, Sample, Task
from dualkd.train.figures import make_report
from dualkd.train.metrics import detection_curves
from dualkd.train.report import ScoreGroup, plot_comparison, plot_curves, plot_histograms, plot_scores
from dualkd.train.results import Fusion, Report, Row
from dualkd.train.scoring import Scored, judge
from dualkd.train.tables import report_csv, report_markdown
from dualkd.train.weights import WeightsRecord
from sklearn.metrics import roc_auc_score

SIDE = 8  # of the made maps


def made_run(folder: Path, seed: int = 0, steps: int = 10, both: bool = False) -> Run:
    """A run that was never trained, calibrated on made distances, with its run.json."""
    rng = np.random.default_rng(0)
    good = rng.normal(1.0, 0.1, 40).astype(np.float32)
    maps = np.abs(rng.normal(0.2, 0.02, (40, SIDE, SIDE))).astype(np.float32)
    run = Run(
        schema=1,
        config=TrainConfig(
            run=str(folder), data=DataConfig(root="made"), training=OptimConfig(seed=seed, steps=steps)
        ),
        teacher=WeightsRecord(teacher="made", source="made", sha256="0" * 64),
        data_sha256="0" * 64,
        training_images=40,
        held_out=[],
        steps_done=steps,
        complete=True,
        losses={},
        seconds=0.0,
        device="cpu",
        calibration=fit_calibration(RawPrediction(good, good if both else None, maps), 0.1),
        versions={},
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RUN_NAME).write_bytes(msgspec.json.encode(run))
    return run


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """Ground truth: the upper left quarter."""
    picture = np.zeros((SIDE, SIDE), np.uint8)
    picture[: SIDE // 2, : SIDE // 2] = 255
    assert cv2.imwrite(str(tmp_path / "mask.png"), picture)
    return tmp_path / "mask.png"


def made_samples(
    category: str, kinds: dict[str, int], mask: Path | None, parts: bool = False
) -> list[Sample]:
    """So many samples of each kind; with `parts`, two successive samples are views of one part."""
    return [
        Sample(
            f"{category}/{kind}/{index}",
            Path("nowhere"),
            kind,
            None if kind == GOOD else mask,
            category=category,
            part=f"{kind}{index // 2}" if parts else None,
        )
        for kind, count in kinds.items()
        for index in range(count)
    ]


def made_scores(
    folder: Path, samples: list[Sample], lift: float = 0.15, task: str = "", both: bool = False, seed: int = 0
) -> Scored:
    """Distances and maps that are a little higher where there is a defect."""
    rng = np.random.default_rng(7 + seed)
    bad = np.array([sample.kind != GOOD for sample in samples])
    distance = (rng.normal(1.0, 0.1, len(samples)) + lift * bad).astype(np.float32)
    maps = np.abs(rng.normal(0.2, 0.02, (len(samples), SIDE, SIDE))).astype(np.float32)
    maps[bad, : SIDE // 2, : SIDE // 2] += 0.05
    other = distance + rng.normal(0, 0.1, len(samples)).astype(np.float32) if both else None
    run = made_run(folder, seed=seed, both=both)
    return judge(folder, run, Task(task, Dataset("made", [], samples)), RawPrediction(distance, other, maps))


def row(report: Report, section: str, name: str) -> Row:
    found = [each for each in report.rows if (each.section, each.name) == (section, name)]
    assert len(found) == 1, [(each.section, each.name) for each in report.rows]
    return found[0]


def test_the_mean_is_over_the_classes(tmp_path: Path, mask: Path) -> None:
    """Every class is ranked by itself, and the mean row is the mean of their figures and the sum of their counts."""
    samples = [
        *made_samples("nut", {GOOD: 20, "bent": 15}, mask),
        *made_samples("pill", {GOOD: 10, "crack": 30}, mask),
    ]
    scored = made_scores(tmp_path / "run", samples)
    report, curves = make_report("made", tmp_path, [scored], "category", "max")
    nut, pill, mean = row(report, "class", "nut"), row(report, "class", "pill"), report.total
    assert (mean.section, mean.name, mean.good, mean.defects) == ("mean", "mean of 2", 30, 45)
    bad = scored.anomalous[:35]
    assert nut.figures["auroc"] == pytest.approx(roc_auc_score(bad, scored.hazard[:35]), abs=1e-6)
    assert scored.raw.anomaly_map is not None
    maps = [cv2.resize(each, (256, 256)) for each in scored.raw.anomaly_map[:35]]
    truth = np.zeros((35, 256, 256), bool)
    truth[20:, :128, :128] = True
    pixels = roc_auc_score(truth.ravel(), np.stack(maps).ravel())
    assert nut.figures["pixel_auroc"] == pytest.approx(pixels, abs=1e-6)
    for name, value in mean.figures.items():
        assert value == pytest.approx((nut.figures[name] + pill.figures[name]) / 2)
    failed = scored.score > scored.calibration.threshold
    assert mean.misses == int((~failed & scored.anomalous).sum())
    assert mean.false_rejects == int((failed & ~scored.anomalous).sum())
    assert set(curves.image) == set(curves.pixel) == {"nut", "pill"}


def test_each_student_alone_stands_below_a_run_that_has_two(tmp_path: Path, mask: Path) -> None:
    """The students' rows rank by one distance; a run with one student has no such rows."""
    samples = made_samples("", {GOOD: 20, "bent": 15}, mask)
    scored = made_scores(tmp_path / "run", samples, both=True)
    report, _ = make_report("made", tmp_path, [scored], "category", "max")
    alone = row(report, "student", "semantic alone")
    assert scored.raw.d_semantic is not None
    assert alone.figures == pytest.approx(
        alone.figures | {"auroc": roc_auc_score(scored.anomalous, scored.raw.d_semantic)}
    )
    assert row(report, "student", "local alone").misses is None
    single, _ = make_report("made", tmp_path, [made_scores(tmp_path / "one", samples)], "category", "max")
    assert not single.section("student")


def test_kinds_that_all_classes_share_are_also_shown_apart(tmp_path: Path, mask: Path) -> None:
    """Logical and structural anomalies, each against the good images, their means, and the mean of both."""
    kinds = {GOOD: 12, "logical": 8, "structural": 10}
    samples = [*made_samples("bag", kinds, mask), *made_samples("box", kinds | {"own": 3}, mask)]
    scored = made_scores(tmp_path / "run", samples)
    report, _ = make_report("made", tmp_path, [scored], "category", "max")
    first = np.array([s.category == "bag" and s.kind in (GOOD, "logical") for s in samples])
    logical = row(report, "kind", "bag: logical")
    expected = roc_auc_score(scored.anomalous[first], scored.hazard[first])
    assert logical.figures["auroc"] == pytest.approx(expected, abs=1e-6)
    assert 0 < logical.figures["aupro"] <= 1
    assert {r.name for r in report.section("kind")} == {
        f"{c}: {k}" for c in ("bag", "box") for k in ("logical", "structural")
    }
    by_kind = [
        row(report, "kind mean", f"mean: {kind}").figures["auroc"] for kind in ("logical", "structural")
    ]
    both = row(report, "kind mean", "mean of kinds")
    assert both.figures["auroc"] == pytest.approx(np.mean(by_kind))
    assert (both.good, both.defects) == (24, 36)


def test_a_protocol_of_tasks_has_a_row_a_task(tmp_path: Path) -> None:
    """One-vs-rest: what is good in one task is an anomaly in another, so classes would be mixed up."""
    runs = [
        made_scores(
            tmp_path / good,
            [
                Sample(f"{name}{index}", Path("nowhere"), GOOD if name == good else name)
                for name in ("cat", "dog", "ship")
                for index in range(6)
            ],
            task=good,
        )
        for good in ("cat", "dog")
    ]
    report, curves = make_report("animals", tmp_path, runs, "task", "max")
    assert [each.name for each in report.section("class")] == ["cat", "dog"]
    assert not report.section("kind")
    assert "aupro" not in report.total.figures
    assert not curves.pixel


def test_what_has_no_value_is_an_empty_cell_and_a_footnote(tmp_path: Path, mask: Path) -> None:
    """No defects, no masks or too few of them: nothing is invented, and the mean is over what there is."""
    samples = [
        *made_samples("whole", {GOOD: 9}, mask),
        *made_samples("bare", {GOOD: 9, "bent": 9}, None),
        *made_samples("full", {GOOD: 9, "bent": 9}, mask),
        *made_samples("half", {GOOD: 9, "bent": 4}, mask),
        *made_samples("half", {"bent": 2}, None),
    ]
    report, curves = make_report(
        "made", tmp_path, [made_scores(tmp_path / "run", samples)], "category", "max"
    )
    auroc = [row(report, "class", name).figures["auroc"] for name in ("bare", "full", "half")]
    assert report.total.figures["auroc"] == pytest.approx(np.mean(auroc))
    assert "auroc" not in row(report, "class", "whole").figures
    aupro = [row(report, "class", name).figures["aupro"] for name in ("full", "half")]
    assert report.total.figures["aupro"] == pytest.approx(np.mean(aupro))
    assert set(curves.image) == {"bare", "full", "half"}
    text = report_markdown(report)
    lines = text.splitlines()
    whole = next(line for line in lines if line.startswith("| whole"))
    assert [cell.strip() for cell in whole.split("|")[2:9]] == [""] * 7
    assert "whole [1]" in whole
    assert "[1] no defects among the test images" in text
    assert "bare [2]" in text
    assert "[2] no masks, so no pixel figures" in text
    assert "half [3]" in text
    assert "[3] pixel figures leave out 2 of 6 defects" in text
    assert "**mean of 4** [4]" in text
    assert "nan" not in text.lower()


def test_the_tables_say_the_figures_once_and_in_per_cent(tmp_path: Path, mask: Path) -> None:
    """Markdown has as many cells in each line as in its head; CSV has every figure in full."""
    samples = [s for c in ("nut", "pill") for s in made_samples(c, {GOOD: 8, "bent": 8}, mask, parts=True)]
    report, _ = make_report("made", tmp_path, [made_scores(tmp_path / "run", samples)], "category", "max")
    text = report_markdown(report)
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 3  # ranking, at the threshold, by part
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
        assert len({len(line) for line in table.splitlines()}) == 1
    nut = row(report, "class", "nut")
    assert f"{100 * nut.figures['pixel_f1_max']:.2f}" in tables[0]
    assert f"{nut.misses} of 8" in tables[1]
    assert f"{100 * nut.figures['pixel_iou']:.2f}" in tables[1]
    assert "256 x 256" in text
    assert "gt > 0.5" in text
    read = {(r["section"], r["name"]): r for r in csv.DictReader(io.StringIO(report_csv(report)))}
    assert len(read) == len(report.rows)
    for name in ("auroc", "aupro", "pixel_f1", "pixel_mf1", "pixel_macc", "pixel_miou"):
        assert float(read["class", "nut"][name]) == nut.figures[name]


@pytest.mark.parametrize("fusion", ["max", "noisy-or"])
def test_views_of_a_part_are_judged_together(tmp_path: Path, fusion: Fusion) -> None:
    """max: a part fails where one of its views fails; noisy-or: the views' hazards add up."""
    samples = made_samples("nut", {GOOD: 20, "bent": 20}, None, parts=True)
    # a defect that shows in one of two views: the other view is good, the part is not
    for hidden in (*range(20, 30, 2), *range(31, 40, 2)):
        samples[hidden] = replace(samples[hidden], kind=GOOD)
    scored = made_scores(tmp_path / "run", samples)
    report, _ = make_report("made", tmp_path, [scored], "category", fusion)
    part = row(report, "part", "nut")
    assert (part.good, part.defects) == (10, 10)
    views = scored.hazard.reshape(20, 2)
    hazard = views.max(axis=1) if fusion == "max" else views.sum(axis=1)
    truth = np.arange(20) >= 10
    assert part.figures["auroc"] == pytest.approx(roc_auc_score(truth, hazard), abs=1e-6)
    failed = -np.expm1(-hazard) > scored.calibration.threshold
    assert part.misses == int((truth & ~failed).sum())
    assert part.false_rejects == int((~truth & failed).sum())
    if fusion == "max":
        assert (failed == scored.failed.reshape(20, 2).any(axis=1)).all()


def measured(folder: Path, lift: float, seed: int = 0, steps: int = 10, defects: int = 12) -> Measured:
    samples = made_samples("", {GOOD: 12, "bent": defects}, None)
    scored = made_scores(folder, samples, lift, seed=seed)
    config = msgspec.structs.replace(
        scored.run.config, training=OptimConfig(seed=seed, steps=steps), run=str(folder), name=folder.name
    )
    return Measured(folder, [config], make_report("made", folder, [scored], "category", "max")[0])


def test_seeds_of_one_configuration_are_one_column(tmp_path: Path) -> None:
    """Mean and standard deviation over seeds, the difference to the first column, and what was varied."""
    runs = [
        measured(tmp_path / "short", 0.1),
        *(measured(tmp_path / f"long-{seed}", 0.2, seed, steps=20) for seed in (0, 1, 2)),
    ]
    columns = fold(runs)
    assert [column.name for column in columns] == ["short", "long-0 (3 seeds)"]
    text = comparison_markdown(columns)
    varied, figures = (block.splitlines() for block in text.split("\n\n")[:2])
    assert [line.split("|")[1].strip() for line in varied[2:]] == ["runs", "training.seed", "training.steps"]
    assert [cell.strip() for cell in varied[-1].split("|")[1:4]] == ["training.steps", "10", "20"]
    assert [cell.strip() for cell in varied[3].split("|")[1:4]] == ["training.seed", "0", "0, 1, 2"]
    short, *long = (100 * run.report.total.figures["auroc"] for run in runs)
    auroc = next(line for line in figures if line.startswith("| AUROC"))
    mean, deviation = np.mean(long), np.std(long, ddof=1)
    assert [cell.strip() for cell in auroc.split("|")[2:4]] == [
        f"{short:.2f}",
        f"{mean:.2f} ± {deviation:.2f} ({mean - short:+.2f})",
    ]
    assert ranking_summary(columns)["short"]["AUROC"] == pytest.approx([short / 100])


def test_the_same_seed_twice_is_not_taken_for_two_seeds(tmp_path: Path) -> None:
    """A run beside a copy of itself stays two columns: there is no spread to speak of."""
    columns = fold([measured(tmp_path / "a", 0.1), measured(tmp_path / "b", 0.1)])
    assert [column.name for column in columns] == ["a", "b"]
    assert "(+0.00)" in comparison_markdown(columns)


def test_runs_measured_on_different_images_are_not_compared(tmp_path: Path) -> None:
    """A difference between figures of different test sets means nothing."""
    with pytest.raises(DataError, match=r"made \(12 good, 12 defects\).*made \(12 good, 13 defects\)"):
        fold([measured(tmp_path / "a", 0.1), measured(tmp_path / "b", 0.1, defects=13)])


def test_pictures_are_drawn_of_one_class_and_of_many(tmp_path: Path) -> None:
    """Every picture decodes and shows something; classes without good images or without defects are no obstacle."""
    rng = np.random.default_rng(0)
    truth = np.arange(40) >= 20
    curves = {name: detection_curves(truth, rng.normal(size=40) + truth) for name in "abcdef"}
    known = {name: each for name, each in curves.items() if each is not None}
    empty = np.empty(0)
    groups = [ScoreGroup(name, rng.lognormal(-2, 1, 20), rng.lognormal(1, 1, 20), 0.5) for name in "abcdef"]
    groups += [
        ScoreGroup("no defects", np.zeros(3), empty, 0.5),
        ScoreGroup("none good", empty, np.ones(3), 0.5),
    ]
    plot_curves("many", known, known, tmp_path / "curves.png")
    plot_curves("one", {"a": known["a"]}, {}, tmp_path / "curve.png")
    plot_histograms("many", groups, tmp_path / "histograms.png")
    plot_histograms("one", groups[-1:], tmp_path / "histogram.png")
    plot_scores("many", groups, tmp_path / "scores.png")
    plot_comparison("made", {"a": {"AUROC": [0.9, 0.95], "AP": []}, "b": {"AUROC": [0.8], "AP": [0.7]}},
                    tmp_path / "compare.png")  # fmt: skip
    for path in tmp_path.glob("*.png"):
        picture = cv2.imread(str(path))
        assert picture is not None
        assert picture.std() > 5
