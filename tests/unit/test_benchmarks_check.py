"""What is wrong with pictures and masks is found before training, all of it, and named."""

from __future__ import annotations

from pathlib import Path

import benchmark_files as files
import cv2
import numpy as np
import pytest
from dualkd.train.benchmarks import open_tasks
from dualkd.train.benchmarks.check import check_tasks
from dualkd.train.config import Benchmark, DataConfig, Protocol
from dualkd.train.datasets import DataError, Task

CLASSES = ["cable", "pill"]


def opened(
    root: Path, benchmark: Benchmark, protocol: Protocol = "per-class", **more: list[str]
) -> list[Task]:
    return open_tasks(DataConfig(root=str(root), benchmark=benchmark, protocol=protocol, **more))


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    return files.write_mvtec_ad(tmp_path / "ad", CLASSES)


def test_sound_data_pass(mvtec: Path, tmp_path: Path) -> None:
    """Pictures, masks in folders, archives and films."""
    check_tasks(opened(mvtec, "mvtec-ad", classes=CLASSES))
    loco = files.write_mvtec_loco(tmp_path / "loco", ["pushpins"])
    check_tasks(opened(loco, "mvtec-loco", classes=["pushpins"]))
    check_tasks(opened(files.write_cifar_10(tmp_path / "cifar"), "cifar-10", "many-vs-many"))
    film = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 32))
    writer.write(np.zeros((32, 32, 3), np.uint8))
    writer.release()
    check_tasks(open_tasks(DataConfig(root=str(film), layout="video")))


def test_all_problems_of_all_tasks_come_at_once(mvtec: Path) -> None:
    """A training picture, a test picture, a mask that is none, one of another size and one that is gone."""
    (mvtec / "cable/train/good/001.png").write_bytes(b"")
    (mvtec / "cable/ground_truth/bent/000_mask.png").write_text("not a picture")
    (mvtec / "pill/test/good/000.png").write_bytes((mvtec / "pill/test/good/000.png").read_bytes()[:200])
    files.write_picture(mvtec / "pill/test/bent/001.png")
    files.write_picture(mvtec / "pill/test/bent/002.png")
    files.write_mask(mvtec / "pill/ground_truth/bent/001_mask.png", size=(10, 30))
    with pytest.raises(DataError) as caught:
        check_tasks(opened(mvtec, "mvtec-ad", classes=CLASSES))
    problems = [line.strip().removeprefix(f"{mvtec}/") for line in str(caught.value).splitlines()]
    assert problems == [
        "cable/train/good/001.png: does not decode as an image (0 bytes)",
        "cable/ground_truth/bent/000_mask.png: does not decode as a mask image",
        "pill/ground_truth/bent/001_mask.png: is 30x10, but its picture 001.png is 30x20",
        "pill/ground_truth/bent/002_mask.png: cannot be read: No such file or directory",
        "pill/test/good/000.png: does not decode as an image (200 bytes)",
    ]


def test_only_the_first_problems_are_listed(mvtec: Path) -> None:
    """Twenty, and how many more."""
    for index in range(25):
        (mvtec / f"cable/train/good/{index:03d}.png").write_text("not a picture")
    with pytest.raises(DataError) as caught:
        check_tasks(opened(mvtec, "mvtec-ad", classes=["cable"]))
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1].strip() == "and 5 problems more"


def test_a_split_that_names_files_that_are_not_there(tmp_path: Path) -> None:
    """VisA's table and Real-IAD's lists against their folders."""
    visa = files.write_visa(tmp_path / "visa", ["candle"])
    (visa / "candle/Data/Images/Normal/0001.JPG").unlink()
    (visa / "candle/Data/Masks/Anomaly/000.png").unlink()
    with pytest.raises(
        DataError, match=r"Normal/0001\.JPG: cannot be read: No such file.*\n.*Anomaly/000\.png: cann"
    ):
        check_tasks(opened(visa, "visa", classes=["candle"]))
    real_iad = files.write_real_iad(tmp_path / "iad", ["usb"])
    gone = next((real_iad / "realiad_256/usb/OK/S0001").iterdir())
    gone.unlink()
    with pytest.raises(DataError, match=f"{gone}: cannot be read"):
        check_tasks(opened(real_iad, "real-iad", classes=["usb"]))


def test_a_folder_of_masks_that_do_not_fit_each_other(tmp_path: Path) -> None:
    """MVTec-LOCO's, and one that is empty."""
    root = files.write_mvtec_loco(tmp_path / "loco", ["pushpins"])
    masks = root / "pushpins/ground_truth/logical_anomalies/000"
    files.write_mask(masks / "002.png", size=(20, 31))
    for mask in (root / "pushpins/ground_truth/structural_anomalies/000").iterdir():
        mask.unlink()
    with pytest.raises(DataError, match=r"000: its masks are of different sizes\n.*000: holds no mask"):
        check_tasks(opened(root, "mvtec-loco", classes=["pushpins"]))


def test_archives_whose_pictures_and_labels_differ(tmp_path: Path) -> None:
    """More labels than pictures, pictures of another size, and no pictures at all."""
    root = files.write_cifar_10(tmp_path / "cifar")
    labels = list(range(10))
    files.write_pickle(root / "data_batch_1", {b"data": files.cifar_rows(9, 0), b"labels": labels})
    files.write_pickle(root / "data_batch_2", {b"data": files.cifar_rows(10, 0)[:, :-1], b"labels": labels})
    files.write_pickle(root / "data_batch_3", {b"labels": labels})
    with pytest.raises(DataError) as caught:
        check_tasks(opened(root, "cifar-10", "one-vs-rest"))
    first, second, third = str(caught.value).splitlines()
    assert "data_batch_1: holds 9 pictures, but there are labels for 10" in first
    assert "data_batch_2: holds no pictures of CIFAR" in second
    assert "data_batch_3: holds no pictures of CIFAR" in third
