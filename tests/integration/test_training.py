"""Training as a person runs it: complete runs, interrupted runs, refused runs."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import yaml
from dualkd.train.__main__ import main
from dualkd.train.checkpoint import read_run
from safetensors.torch import load_file


def test_a_run_says_what_made_it(small_run: Path, small_config: Path) -> None:
    """run.json holds the configuration, the weights' and the data's sums, the held-out parts and versions."""
    run = read_run(small_run)
    assert run.complete
    assert run.steps_done == 12
    assert run.training_images == 20
    assert len(run.held_out) == 20
    assert run.config.name == yaml.safe_load(small_config.read_text())["name"]
    assert len(run.teacher.sha256) == len(run.data_sha256) == 64
    assert set(run.versions) >= {"torch", "timm", "dualkd"}
    assert run.calibration is not None
    assert run.calibration.guaranteed
    assert (small_run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not (small_run / "resume.pt").exists()
    assert all(not name.startswith("teacher") for name in load_file(small_run / "students.safetensors"))


def test_a_run_that_was_stopped_and_resumed_equals_an_unbroken_one(
    small_run: Path, small_config: Path, tmp_path: Path
) -> None:
    """Ctrl-C in a real process saves; --resume ends with the very same weights (on a CPU)."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "dualkd.train", str(small_config), "--set", f"run={run}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "step 3 of 12" in line:
            process.send_signal(signal.SIGINT)
            break
    _, errors = process.communicate(timeout=120)
    if process.returncode == 0:
        pytest.fail("training was over before the signal came; make it longer")
    assert process.returncode == 130, errors
    assert "--resume" in errors
    stopped = msgspec.json.decode((run / "run.json").read_bytes())
    assert 3 <= stopped["steps_done"] < 12
    assert not stopped["complete"]

    assert main([str(small_config), "--set", f"run={run}", "--resume"]) == 0
    resumed, unbroken = load_file(run / "students.safetensors"), load_file(small_run / "students.safetensors")
    assert resumed.keys() == unbroken.keys()
    assert all(resumed[name].equal(unbroken[name]) for name in unbroken)
    assert read_run(run).calibration == read_run(small_run).calibration


def test_a_finished_run_is_not_overwritten_by_accident(
    small_run: Path, small_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor resumed; both say what to do."""
    before = (small_run / "run.json").read_bytes()
    assert main([str(small_config)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([str(small_config), "--resume"]) == 1
    assert "is complete already" in capsys.readouterr().err
    assert (small_run / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("override", "status", "words"),
    [
        ("training.steps=none", 2, "training.steps"),
        ("input.height=100", 2, "multiples of 14"),
        ("local.heads=7", 2, "must divide the teacher's width 384"),
        ("local.blocks=[3]", 2, "local.blocks"),
        ("local.depth=1", 2, "needs 2 blocks or more"),
        ("semantic.side=50", 2, "multiple of 14"),
        ("semantic.heads=5", 2, "multiple of heads"),
        ("training.device=cuda", 2, "torch sees no CUDA GPU"),
        ("data.root=/nowhere", 1, "/nowhere: no such folder"),
        ("teacher.weights=/nowhere.pth", 1, "/nowhere.pth does not exist"),
        ("teacher.name=swin_tiny_patch4_window7_224", 1, "is neither a vision transformer nor"),
        ("local.blocks=[3, 40]", 1, "there is no block 40"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(
    override: str,
    status: int,
    words: str,
    small_config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Wrong settings end with 2, wrong data and weights with 1; neither with a traceback or a run."""
    assert main([str(small_config), "--set", f"run={tmp_path / 'run'}", "--set", override]) == status
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dualkd-train:")]
    assert len(errors) == 1
    assert words in errors[0]
    assert not (tmp_path / "run").exists()


def test_a_broken_image_ends_training_before_it_begins(
    small_config: Path, good_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is named, and no step was spent."""
    data = tmp_path / "data"
    data.mkdir()
    for path in good_images.iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    (data / "017.png").write_bytes((data / "017.png").read_bytes()[:60])
    assert main([str(small_config), "--set", f"run={tmp_path / 'run'}", "--set", f"data.root={data}"]) == 1
    assert "017.png: does not decode" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_check_prints_the_effective_configuration(
    small_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Defaults included, overrides applied, nothing trained."""
    assert main([str(small_config), "--check", "--set", "training.batch=7"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["training"]["batch"] == 7
    assert printed["training"]["clip"] == 0.1
