"""Training on a benchmark: a run for each of its models, in turn, and none if any data are bad."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import benchmark_files as files
import pytest
import yaml
from dualkd.train.__main__ import main
from dualkd.train.checkpoint import RUN_NAME, read_run


@pytest.fixture
def config(small_config: Path, tmp_path: Path) -> Path:
    """The small configuration without its data, with even fewer steps, writing to `runs` beside it."""
    tree = yaml.safe_load(small_config.read_text())
    tree |= {"run": str(tmp_path / "runs"), "data": {"root": str(tmp_path / "data"), "hold_out": 0.4}}
    tree["input"] = {"height": 56, "width": 56}
    tree["training"] |= {"steps": 3}
    path = tmp_path / "benchmark.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def arguments(config: Path, *more: str) -> list[str]:
    cifar = ["--benchmark", "cifar-10", "--protocol", "one-vs-rest", "--classes", "cat,ship"]
    return [str(config), *cifar, *more]


def test_each_class_of_a_benchmark_becomes_a_run_of_its_own(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Two of ten classes: two runs that know their task; --resume does only what is left, and sees other data."""
    root = files.write_cifar_10(tmp_path / "data")
    assert main(arguments(config)) == 0
    for number, name in enumerate(("cat", "ship"), start=1):
        run = read_run(tmp_path / "runs" / name)
        assert run.complete
        assert (run.config.data.task, run.config.data.protocol) == (name, "one-vs-rest")
        assert (run.training_images, len(run.held_out)) == (6, 4)
        assert f"task {number} of 2: {name}" in caplog.text
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["cat", "ship"]

    before = (tmp_path / "runs/ship" / RUN_NAME).read_bytes()
    assert main(arguments(config)) == 1
    assert "runs/cat already holds a run" in capsys.readouterr().err
    (tmp_path / "runs/cat" / RUN_NAME).unlink()
    assert main(arguments(config, "--resume")) == 0
    assert read_run(tmp_path / "runs/cat").complete
    assert (tmp_path / "runs/ship" / RUN_NAME).read_bytes() == before
    assert "task 2 of 2: ship (complete already)" in caplog.text

    assert main(arguments(config, "--resume")) == 1
    assert "is complete already" in capsys.readouterr().err
    assert main(arguments(config, "--resume", "--set", "training.steps=4")) == 1
    assert "runs/cat was trained with another configuration" in capsys.readouterr().err
    labels = list(range(10)) * 2
    files.write_pickle(root / "data_batch_5", {b"data": files.cifar_rows(20, seed=99), b"labels": labels})
    assert main(arguments(config, "--resume")) == 1
    assert "runs/cat was trained on other images" in capsys.readouterr().err


def test_one_model_for_all_classes_is_an_ordinary_run(config: Path, tmp_path: Path) -> None:
    """In the run folder itself; MVTec-LOCO's own validation pictures are what it calibrates on."""
    files.write_mvtec_loco(tmp_path / "data", ["pushpins", "screw_bag"])
    loco = ["--benchmark", "mvtec-loco", "--protocol", "one-model", "--classes", "pushpins,screw_bag"]
    assert main([str(config), *loco]) == 0
    run = read_run(tmp_path / "runs")
    assert run.complete
    assert run.training_images == 4
    assert run.held_out == [
        f"{name}/validation/good/{index:03d}.png" for name in ("pushpins", "screw_bag") for index in (0, 1)
    ]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda pill: (pill / "train/good/001.png").write_bytes(b"\x89PNG"), "train/good/001.png: does not decode"),
        (lambda pill: (pill / "ground_truth/bent/000_mask.png").write_bytes(b""), "000_mask.png: does not decode"),
        (
            lambda pill: files.write_mask(pill / "ground_truth/bent/000_mask.png", size=(10, 30)),
            "ground_truth/bent/000_mask.png: is 30x10, but its picture 000.png is 30x20",
        ),
        (lambda pill: [path.unlink() for path in (pill / "train/good").iterdir()], "train/good: holds no picture"),
        (lambda pill: pill.rename(pill.parent / "cable/pill"), ": no such folder"),
    ],
    ids=["broken picture", "broken mask", "mask of another size", "empty class", "class one level off"],
)  # fmt: skip
def test_bad_data_of_the_last_task_are_named_before_any_training(
    spoil: Callable[[Path], object],
    words: str,
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All tasks are checked before the first, so that nothing ends a long run half way."""
    root = files.write_mvtec_ad(tmp_path / "data", ["cable", "pill"], train=10)
    spoil(root / "pill")
    mvtec = ["--benchmark", "mvtec-ad", "--protocol", "per-class", "--classes", "cable,pill"]
    assert main([str(config), *mvtec]) == 1
    errors = capsys.readouterr().err
    assert f"{root}/pill" in errors
    assert words in errors
    assert not (tmp_path / "runs").exists()


def test_too_few_images_of_the_last_task_and_no_training_begins(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that could not be calibrated in the end is not begun, nor those before it."""
    root = files.write_mvtec_ad(tmp_path / "data", ["cable"], train=10)
    files.write_mvtec_ad(root, ["pill"])
    mvtec = ["--benchmark", "mvtec-ad", "--protocol", "per-class", "--classes", "cable,pill"]
    assert main([str(config), *mvtec]) == 1
    assert "mvtec-ad-pill: 1 good images to calibrate on, but it takes 4" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_stops_all_tasks_and_resume_goes_on(config: Path, tmp_path: Path) -> None:
    """In a real process: the task that was interrupted is saved, the next one is not begun."""
    files.write_cifar_10(tmp_path / "data")
    more = ["--set", "training.steps=40"]
    command = [sys.executable, "-m", "dualkd.train", *arguments(config, *more)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if " of 40" in line:
            process.send_signal(signal.SIGINT)
            break
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert not read_run(tmp_path / "runs/cat").complete
    assert not (tmp_path / "runs/ship").exists()
    assert main(arguments(config, *more, "--resume")) == 0
    assert [read_run(tmp_path / "runs" / name).steps_done for name in ("cat", "ship")] == [40, 40]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--protocol", "per-class"], "cifar-10 has one-vs-rest and many-vs-many"),
        (["--set", "data.layout=mvtec"], "leave out data.layout"),
        (["--protocol", "many-vs-many"], "many-vs-many splits all classes"),
    ],
)
def test_a_protocol_that_a_benchmark_does_not_have_is_a_configuration_error(
    more: list[str], words: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any file is looked for; later options win."""
    assert main(arguments(config, *more)) == 2
    assert words in capsys.readouterr().err
