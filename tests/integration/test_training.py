"""Training as a person runs it: complete runs, interrupted runs, refused runs."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
import yaml
from dualkd.train.__main__ import main
from dualkd.train.checkpoint import read_run
from safetensors.torch import load_file

# Two images are soon learned by heart.
STOPS_EARLY = ["--set", "data.hold_out=0.95"]
for setting in ("check_every=4", "patience=1", "steps=100"):
    STOPS_EARLY += ["--set", f"training.{setting}"]


def start_training(config: Path, run: Path, *arguments: str, ranks: int = 1) -> subprocess.Popen[str]:
    """Training in processes of its own, as the command line starts one and torchrun several."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"]
    command = [sys.executable, "-m", *(torchrun if ranks > 1 else []), "dualkd.train", str(config)]
    command += ["--set", f"run={run}", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def training(*settings: str) -> list[str]:
    """Arguments that set keys below training."""
    return [part for setting in settings for part in ("--set", f"training.{setting}")]


def wait_for_step(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    pytest.fail(f"training ended before it said {words!r}")


def same_weights(one: Path, other: Path) -> bool:
    first, second = load_file(one / "students.safetensors"), load_file(other / "students.safetensors")
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


def read_log(run: Path, columns: Sequence[str]) -> list[tuple[str, ...]]:
    with (run / "log.csv").open(newline="") as file:
        return [tuple(row[column] for column in columns) for row in csv.DictReader(file)]


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
    process = start_training(small_config, run)
    wait_for_step(process, "step 3 of 12")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    if process.returncode == 0:
        pytest.fail("training was over before the signal came; make it longer")
    assert process.returncode == 130, errors
    assert "--resume" in errors
    stopped = msgspec.json.decode((run / "run.json").read_bytes())
    assert 3 <= stopped["steps_done"] < 12
    assert not stopped["complete"]

    assert main([str(small_config), "--set", f"run={run}", "--resume"]) == 0
    assert same_weights(run, small_run)
    assert read_run(run).calibration == read_run(small_run).calibration


@pytest.fixture(scope="module")
def checked_run(small_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run that early stopping ends."""
    run = tmp_path_factory.mktemp("checked") / "run"
    process = start_training(small_config, run, *STOPS_EARLY)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "stopped early after step" in output
    return run


def test_early_stopping_keeps_the_weights_of_the_best_check(checked_run: Path) -> None:
    """run.json says where training stopped and why; log.csv has the checks that led to it."""
    run = read_run(checked_run)
    assert run.complete
    assert run.stopped_early is not None
    assert run.stopped_early.step == run.steps_done < 100
    assert f"after step {run.best_step}" in run.stopped_early.reason
    checks = {int(step): float(value) for step, value in read_log(checked_run, ("step", "held_out")) if value}
    assert list(checks) == list(range(4, run.steps_done + 1, 4))
    assert min(checks, key=lambda step: checks[step]) == run.best_step == run.steps_done - 4


def test_a_killed_run_goes_on_as_if_it_had_not_been(
    checked_run: Path, small_config: Path, tmp_path: Path
) -> None:
    """After SIGKILL, early stopping included: the same weights and the same log, without what was never saved."""
    run = tmp_path / "run"
    settings = [*STOPS_EARLY, *training("save_every_s=0")]
    process = start_training(small_config, run, *settings)
    wait_for_step(process, "step 10 of 100")
    process.kill()
    process.communicate(timeout=120)
    with (run / "log.csv").open("a") as file:
        file.write("98,0.5,0.5,1,0.1,1,1,\n99,0.")  # logged after the last state was saved, the last one half
    assert main([str(small_config), "--set", f"run={run}", *settings, "--resume"]) == 0
    assert same_weights(run, checked_run)
    resumed, unbroken = read_run(run), read_run(checked_run)
    assert resumed.stopped_early == unbroken.stopped_early
    assert resumed.best_step == unbroken.best_step
    columns = ("step", "local", "semantic", "objective", "learning_rate", "gradient_norm", "held_out")
    assert read_log(run, columns) == read_log(checked_run, columns)
    assert not (run / "resume.pt").exists()


def test_two_processes_train_what_one_does_in_two_micro_batches(
    small_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout, hard mining, pseudo-anomalies and checks included: the same weights up to rounding, one set of files."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as torchrun sets it
    for name, ranks in (("one", 1), ("two", 2)):
        settings = training("check_every=6", *(["accumulate=2"] if ranks == 1 else []))
        for setting in ("frames=3", "batch=2", "jitter=0.5"):
            settings += ["--set", f"pseudo.{setting}"]
        process = start_training(small_config, tmp_path / name, *settings, ranks=ranks)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert output.count("next: dualkd-export") == errors.count("step 12 of 12") == 1
        assert read_run(tmp_path / name).processes == ranks
    ours, theirs = (load_file(tmp_path / name / "students.safetensors") for name in ("one", "two"))
    for name, weights in ours.items():
        assert weights.allclose(theirs[name], rtol=1e-4, atol=1e-5), name
    columns = ("step", "local", "semantic", "spoilt frames", "spoilt tokens", "held_out")
    assert read_log(tmp_path / "one", columns) == read_log(tmp_path / "two", columns)


def test_an_interrupt_of_one_process_saves_for_all(small_config: Path, tmp_path: Path) -> None:
    """Ctrl-C that reaches only the second of them: both stop after the same step, and torchrun goes on from there."""
    run, settings = tmp_path / "run", training("steps=100", "save_every_s=1000")
    process = start_training(small_config, run, *settings, ranks=2)
    wait_for_step(process, "step 10 of 100")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert 10 <= read_run(run).steps_done < 100
    resumed = start_training(small_config, run, *settings, "--resume", ranks=2)
    _, errors = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, errors
    assert "resuming after step" in errors
    assert read_log(run, ["step"]) == [(str(step),) for step in range(1, 101)]


def test_a_process_whose_partner_is_killed_ends_by_itself(
    small_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without torchrun to end it: it does not wait for ever, and says what happened."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", str(port)), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    processes = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        processes.append(start_training(small_config, tmp_path / "run", *training("steps=5000")))
    first, second = processes
    wait_for_step(first, "the teacher encodes")
    second.kill()
    second.communicate(timeout=120)
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 1, errors
    assert "dualkd-train: another process of this training ended" in errors


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


def test_a_run_that_is_replaced_is_gone_before_the_first_step(small_config: Path, tmp_path: Path) -> None:
    """A new one killed before its first save leaves no run at all, instead of the old run.json beside its log.csv."""
    run = tmp_path / "run"
    assert main([str(small_config), "--set", f"run={run}", *training("steps=2")]) == 0
    longer = training("steps=100", "save_every_s=600")
    process = start_training(small_config, run, "--overwrite", *longer)
    wait_for_step(process, "step 10 of 100")
    process.kill()
    process.communicate(timeout=120)
    assert {path.name for path in run.iterdir()} == {"log.csv", "loss.png"}
    assert len(read_log(run, ["step"])) >= 9


@pytest.mark.parametrize(
    ("override", "status", "words"),
    [
        ("training.steps=none", 2, "training.steps"),
        ("training.accumulate=5", 2, "must not be more than batch (4)"),
        ("training.precision=float16", 2, "is for device cuda"),
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


def test_an_objective_that_is_no_number_ends_training(
    small_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what to change, at the step where it happens, before weights that are no numbers are saved."""
    overflow = [
        "--set",
        f"run={tmp_path / 'run'}",
        "--set",
        "objective.local=1e39",
        *training("save_every_s=0"),
    ]
    assert main([str(small_config), *overflow]) == 1
    assert "the objective of step 1 is inf" in capsys.readouterr().err
    assert not (tmp_path / "run/run.json").exists()


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
