"""dualkd-eval: a trained run against images of known kind."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from dualkd.train.checkpoint import read_run
from dualkd.train.evaluate import main
from sklearn.metrics import roc_auc_score


@pytest.fixture(scope="module")
def test_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good rings like those trained on, and rings with a bright blot, in test/ and ground_truth/."""
    root = tmp_path_factory.mktemp("eval") / "rings_test"
    for folder in ("test/good", "test/blot", "ground_truth/blot"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(1)
    for index in range(8):
        for kind in ("good", "blot"):
            image = rng.normal(60, 4, (84, 84, 3))
            cv2.circle(image, (42 + rng.integers(-6, 7, 2)).tolist(), 22, (150, 160, 170), 7)
            mask = np.zeros((84, 84), np.uint8)
            if kind == "blot":
                place = rng.integers(20, 64, 2).tolist()
                cv2.circle(image, place, 12, (20, 20, 250), -1)
                cv2.circle(mask, place, 12, 255, -1)
                cv2.imwrite(str(root / f"ground_truth/blot/{index}_mask.png"), mask)
            cv2.imwrite(str(root / f"test/{kind}/{index}.png"), np.clip(image, 0, 255).astype(np.uint8))
    return root


def test_the_report_holds_metrics_verdicts_and_pictures(
    small_run: Path, test_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Metrics follow from the listed scores, counts from the threshold; table and pictures are there."""
    assert main([str(small_run), "--data", str(test_set), "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "metrics.json").read_text())
    parts = report["parts"]
    assert len(parts) == 16
    truth = [part["kind"] != "good" for part in parts]
    hazards = [part["hazard"] for part in parts]
    assert report["metrics"]["all"]["auroc"] == pytest.approx(roc_auc_score(truth, hazards), abs=1e-6)
    failed = [part["score"] > report["threshold"] for part in parts]
    assert report["misses"] == sum(bad and not fail for bad, fail in zip(truth, failed, strict=True))
    assert report["false_rejects"] == sum(fail and not bad for bad, fail in zip(truth, failed, strict=True))
    assert set(report["metrics"]) == {"all", "local alone", "semantic alone", "blot"}
    assert 0 <= report["metrics"]["all"]["aupro"] <= 1
    assert report["teacher"]["sha256"] == read_run(small_run).teacher.sha256
    table = (tmp_path / "table.md").read_text()
    assert f"{100 * report['metrics']['all']['auroc']:.2f}" in table
    assert table.strip() in capsys.readouterr().out
    for name in ("sheet.png", "scores.png"):
        picture = cv2.imread(str(tmp_path / name))
        assert picture is not None
        assert picture.std() > 10


def test_what_cannot_be_evaluated_is_said(
    small_run: Path, test_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No test folder, one level off, or no run."""
    assert main([str(small_run), "--data", str(tmp_path)]) == 1
    assert "has no folder test" in capsys.readouterr().err
    assert main([str(small_run), "--data", str(test_set.parent)]) == 1
    assert f"did you mean {test_set}?" in capsys.readouterr().err
    assert main([str(tmp_path), "--data", str(test_set)]) == 1
    assert "is not a run" in capsys.readouterr().err
