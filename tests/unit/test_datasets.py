"""Data sets on disk: what is found, and what is said when it is not."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from dualkd.train.datasets import DataError, Sample, open_dataset, read_mask, read_samples


def write_image(path: Path, level: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((20, 30, 3), level, np.uint8))


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    root = tmp_path / "screw"
    for index in range(3):
        write_image(root / f"train/good/{index}.png", 10 * index)
    write_image(root / "test/good/0.png")
    write_image(root / "test/bent/0.png")
    write_image(root / "test/bent/1.png")
    write_image(root / "ground_truth/bent/0_mask.png", 255)
    return root


def test_mvtec_layout_gives_kinds_and_masks(mvtec: Path) -> None:
    """Good parts to train on; defects by folder, with a mask where there is one."""
    dataset = open_dataset(mvtec, "mvtec")
    assert [sample.name for sample in dataset.train] == ["good/0.png", "good/1.png", "good/2.png"]
    assert [(sample.kind, sample.mask is not None) for sample in dataset.test] == [
        ("bent", True),
        ("bent", False),
        ("good", False),
    ]


def test_a_folder_one_level_off_is_named(mvtec: Path) -> None:
    """The most common mistake gets the right path."""
    with pytest.raises(DataError, match=r"did you mean .*screw"):
        open_dataset(mvtec.parent, "mvtec")


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    """No image, or no folder: each says which path."""
    with pytest.raises(DataError, match="holds no image"):
        open_dataset(tmp_path, "folder")
    with pytest.raises(DataError, match="no such folder"):
        open_dataset(tmp_path / "nowhere", "folder")


def test_an_image_that_does_not_decode_is_named(mvtec: Path) -> None:
    """A text file with the ending of an image."""
    (mvtec / "train/good/1.png").write_text("not an image")
    dataset = open_dataset(mvtec, "mvtec")
    with pytest.raises(DataError, match=r"1\.png: does not decode"):
        list(read_samples(dataset.train))


def test_a_mask_is_positive_above_a_half_after_resizing(tmp_path: Path) -> None:
    """The mask rule that moves pixel metrics: half a cell is not enough, more than half is."""
    mask = np.zeros((4, 8), np.uint8)
    mask[:, :3] = 255
    cv2.imwrite(str(tmp_path / "0_mask.png"), mask)
    sample = Sample("x", tmp_path / "0.png", "bent", tmp_path / "0_mask.png")
    assert read_mask(sample, (2, 4)).tolist() == [[True, False, False, False]] * 2
    assert read_mask(sample, (1, 1)).tolist() == [[False]]


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 32))
    for index in range(12):
        writer.write(np.full((32, 32, 3), 20 * index, np.uint8))
    writer.release()
    return path


def test_frames_of_a_film_are_training_data(film: Path) -> None:
    """data.start and data.stop choose frames, and each is the frame it says."""
    dataset = open_dataset(film, "video", 3, 9)
    levels = [int(image.mean()) for image in read_samples(dataset.train)]
    assert [sample.index for sample in dataset.train] == [3, 4, 5, 6, 7, 8]
    np.testing.assert_allclose(levels, [60, 80, 100, 120, 140, 160], atol=3)


def test_a_range_outside_the_film_is_refused(film: Path, tmp_path: Path) -> None:
    """And so is a film that is none."""
    with pytest.raises(DataError, match="do not fit a film of 12 frames"):
        open_dataset(film, "video", 0, 13)
    with pytest.raises(DataError, match="no such file"):
        open_dataset(tmp_path / "gone.mp4", "video")
    (tmp_path / "text.mp4").write_text("no film")
    with pytest.raises(DataError, match="cannot be opened as a video"):
        open_dataset(tmp_path / "text.mp4", "video")


def test_the_digest_follows_the_contents(mvtec: Path) -> None:
    """One changed pixel is another data set."""
    before = open_dataset(mvtec, "mvtec").digest()
    assert open_dataset(mvtec, "mvtec").digest() == before
    write_image(mvtec / "train/good/2.png", 21)
    assert open_dataset(mvtec, "mvtec").digest() != before
