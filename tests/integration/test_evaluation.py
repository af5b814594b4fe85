"""dualkd-eval: trained runs against images of known kind, and against each other."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from dualkd.train.checkpoint import RUN_NAME, read_run
from dualkd.train.evaluate import main
from sklearn.metrics import roc_auc_score

PICTURES = ("curves.png", "histograms.png", "scores.png", "sheet.png")


def write_test_set(root: Path, seed: int, kinds: tuple[str, ...] = ("blot",)) -> None:
    """Good rings like those trained on, and rings with a bright blot, in test/ and ground_truth/."""
    rng = np.random.default_rng(seed)
    for kind in ("good", *kinds):
        for folder in (f"test/{kind}", *([f"ground_truth/{kind}"] if kind != "good" else [])):
            (root / folder).mkdir(parents=True)
        for index in range(8):
            image = rng.normal(60, 4, (84, 84, 3))
            cv2.circle(image, (42 + rng.integers(-6, 7, 2)).tolist(), 22, (150, 160, 170), 7)
            mask = np.zeros((84, 84), np.uint8)
            if kind != "good":
                place = rng.integers(20, 64, 2).tolist()
                cv2.circle(image, place, 12, (20, 20, 250), -1)
                cv2.circle(mask, place, 12, 255, -1)
                cv2.imwrite(str(root / f"ground_truth/{kind}/{index}_mask.png"), mask)
            cv2.imwrite(str(root / f"test/{kind}/{index}.png"), np.clip(image, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def test_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("eval") / "rings_test"
    write_test_set(root, 1)
    return root


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    """Two classes in the layout of MVTec-AD."""
    for seed, name in enumerate(("nut", "ring")):
        write_test_set(tmp_path / "parts" / name, seed, ("blot", "dent"))
        good = tmp_path / "parts" / name / "train/good"
        shutil.copytree(tmp_path / "parts" / name / "test/good", good)
    return tmp_path / "parts"


def copy_of(run: Path, folder: Path, **changes: dict[str, object]) -> Path:
    """The same run in another folder, with keys of its configuration's sections changed in run.json."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("eval"))
    document = json.loads((folder / RUN_NAME).read_text())
    for section, values in changes.items():
        document["config"][section] |= values
    (folder / RUN_NAME).write_text(json.dumps(document))
    return folder


def test_the_report_holds_metrics_verdicts_and_pictures(
    small_run: Path, test_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Metrics follow from the listed scores, counts from the threshold; tables and pictures are there."""
    assert main([str(small_run), "--data", str(test_set), "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "metrics.json").read_text())
    images = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert len(images) == 16
    truth = [image["kind"] != "good" for image in images]
    rows = {row["name"]: row for row in report["rows"]}
    assert set(rows) == {"all", "local alone", "semantic alone", "blot"}
    total = rows["all"]
    hazards = [float(image["hazard"]) for image in images]
    assert total["figures"]["auroc"] == pytest.approx(roc_auc_score(truth, hazards), abs=1e-6)
    threshold = report["runs"][0]["calibration"]["threshold"]
    failed = [float(image["score"]) > threshold for image in images]
    assert failed == [image["verdict"] == "FAIL" for image in images]
    assert total["misses"] == sum(bad and not fail for bad, fail in zip(truth, failed, strict=True))
    assert total["false_rejects"] == sum(fail and not bad for bad, fail in zip(truth, failed, strict=True))
    assert 0 <= total["figures"]["aupro"] <= 1
    assert 0 <= total["figures"]["pixel_iou"] <= total["figures"]["pixel_f1"] <= 1
    assert report["runs"][0]["teacher"]["sha256"] == read_run(small_run).teacher.sha256
    table, said = (tmp_path / "table.md").read_text(), capsys.readouterr().out
    assert f"{100 * total['figures']['auroc']:.2f}" in table
    assert table.strip() in said
    assert "threshold from 20 good parts: at most 10.00% of further good parts are rejected" in said
    assert (tmp_path / "table.csv").read_text().count("\n") == 1 + len(rows)
    for name in PICTURES:
        picture = cv2.imread(str(tmp_path / name))
        assert picture is not None
        assert picture.std() > 5


def test_the_runs_of_a_benchmark_give_one_table(
    small_run: Path, benchmark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run for each class below one folder: a row each, their mean, and kinds that both have apart."""
    for name in ("nut", "ring"):
        data = {"root": str(benchmark), "benchmark": "mvtec-like", "protocol": "per-class", "task": name}
        copy_of(small_run, tmp_path / "runs" / name, data=data)
    assert main([str(tmp_path / "runs")]) == 0
    folder = tmp_path / "runs/eval/mvtec-like-per-class"
    report = json.loads((folder / "metrics.json").read_text())
    assert [run["task"] for run in report["runs"]] == ["nut", "ring"]
    names = [row["name"] for row in report["rows"] if row["section"] in ("class", "mean")]
    assert names == ["nut", "ring", "mean of 2"]
    assert "nut: dent" in (folder / "table.md").read_text()
    assert "**mean: blot**" in capsys.readouterr().out
    pictures = [cv2.imread(str(folder / name)) for name in PICTURES]
    assert all(picture is not None and picture.std() > 1 for picture in pictures)  # decodes, and is not blank
    assert main([str(tmp_path / "runs"), "--task", "nut"]) == 1
    assert "--task is for one" in capsys.readouterr().err


def test_a_run_is_measured_on_a_benchmark_that_it_was_not_configured_for(
    small_run: Path, benchmark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--benchmark, --protocol and --data win over the run's data section; several tasks need a name."""
    options = [
        str(small_run),
        "--data",
        str(benchmark),
        "--benchmark",
        "mvtec-like",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main([*options, "--protocol", "one-model"]) == 0
    said = capsys.readouterr().out
    assert "mvtec-like-one-model: 16 good, 32 defects" in said
    assert "local alone" in said
    assert main([*options, "--protocol", "per-class"]) == 1
    assert "give --task: nut, ring" in capsys.readouterr().err
    assert main([*options, "--protocol", "per-class", "--task", "ring"]) == 0
    assert "mvtec-like-per-class-ring: 8 good, 16 defects" in capsys.readouterr().out
    assert main([*options, "--protocol", "one-vs-rest"]) == 2
    assert "mvtec-like has one-model and per-class" in capsys.readouterr().err


def test_runs_stand_side_by_side_and_are_measured_once(
    small_run: Path, test_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two seeds are one column; a report that is there is used, unless the run or the images' place has changed."""
    for seed in (0, 1):
        copy_of(small_run, tmp_path / f"seed{seed}", data={"root": str(test_set)}, training={"seed": seed})
    other = copy_of(small_run, tmp_path / "clipped", data={"root": str(test_set)}, training={"clip": 0.5})
    runs = [str(tmp_path / name) for name in ("clipped", "seed0", "seed1")]
    assert main(["--compare", *runs, "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out/compare.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "seed0 (2 seeds)" in text
    assert "training.clip" in text
    assert "± 0.00 (+0.00)" in text
    assert cv2.imread(str(tmp_path / "out/compare.png")) is not None

    reports = [Path(run) / "eval/rings_test/metrics.json" for run in runs]
    before = [path.stat().st_mtime_ns for path in reports]
    with (other / RUN_NAME).open("a") as file:
        file.write("\n")
    assert main(["--compare", *runs, "--out", str(tmp_path / "out")]) == 0
    again = [path.stat().st_mtime_ns for path in reports]
    assert [old != new for old, new in zip(before, again, strict=True)] == [True, False, False]

    namesake = shutil.copytree(test_set, tmp_path / "elsewhere" / test_set.name)
    assert main(["--compare", *runs, "--data", str(namesake), "--out", str(tmp_path / "out")]) == 0
    assert all(str(namesake) in path.read_text() for path in reports)


def test_a_reader_that_leaves_early_is_no_error(small_run: Path, test_set: Path, tmp_path: Path) -> None:
    """dualkd-eval ... | head: no traceback, and the report is whole."""
    arguments = [str(small_run), "--data", str(test_set), "--out", str(tmp_path)]
    command = [sys.executable, "-m", "dualkd.train.evaluate", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait() == 0
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors
    assert json.loads((tmp_path / "metrics.json").read_text())["rows"][0]["name"] == "all"


def test_what_cannot_be_evaluated_is_said(
    small_run: Path, test_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No test folder, one level off, no run, two runs that claim the same images."""
    assert main([str(small_run), "--data", str(tmp_path)]) == 1
    assert "has no folder test" in capsys.readouterr().err
    assert main([str(small_run), "--data", str(test_set.parent)]) == 1
    assert f"did you mean {test_set}?" in capsys.readouterr().err
    assert main([str(tmp_path), "--data", str(test_set)]) == 1
    assert "is not a run" in capsys.readouterr().err
    for name in "ab":
        copy_of(small_run, tmp_path / "runs" / name)
    assert main([str(tmp_path / "runs"), "--data", str(test_set)]) == 1
    assert "are both measured on rings_test" in capsys.readouterr().err


def test_a_command_line_that_cannot_be_meant_is_refused(
    small_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several runs without --compare, and a GPU that is not there: never another device in silence."""
    with pytest.raises(SystemExit, match="2"):
        main([str(small_run), str(small_run)])
    assert "--compare" in capsys.readouterr().err
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="2"):
            main([str(small_run), "--device", "cuda"])
        assert "torch sees no CUDA GPU" in capsys.readouterr().err
