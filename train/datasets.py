"""Where images come from: a folder, the MVTec layout, or the frames of a video.

Knows file layouts and which images are good. Does not resize, split or train.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from dualkd.daemon.bundle import file_sha256
from dualkd.daemon.frames import FrameError, Image, list_images, read_image

GOOD = "good"
Layout = Literal["folder", "mvtec", "video"]


class DataError(Exception):
    """Images or masks that are missing, unreadable or laid out otherwise than said: which path, what to do."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image. `kind` is "good" or the name of a defect; `mask` is the defect's ground truth, if any.

    `category` is the product's class in a benchmark; `part` names the physical part where several views show one.
    """

    name: str
    path: Path
    kind: str
    mask: Path | None = None
    frame: int | None = None  # index in the video, for layout video
    category: str = ""
    part: str | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One model that a benchmark's protocol asks for."""

    name: str
    dataset: Dataset


@dataclass(frozen=True, slots=True)
class Dataset:
    """Good images to learn from, and images of known kind to measure on (may be empty)."""

    name: str
    train: list[Sample]
    test: list[Sample]

    def digest(self) -> str:
        """The sha256 over the names and contents of the training images."""
        digest = hashlib.sha256()
        sums: dict[Path, str] = {}
        for sample in self.train:
            if sample.path not in sums:
                sums[sample.path] = file_sha256(sample.path)
            digest.update(f"{sample.name}\n{sample.frame}\n{sums[sample.path]}\n".encode())
        return digest.hexdigest()


def open_dataset(root: str | Path, layout: Layout, start: int = 0, stop: int | None = None) -> Dataset:
    """Open a data set. `start`, `stop`: the range of frames for layout video. Raises DataError.

    folder: images directly in `root`, all good.
    mvtec: root/train/good, root/test/<kind>, root/ground_truth/<kind>/<name>_mask.png.
    video: the frames of the film `root`, all good.
    """
    root = Path(root)
    if layout == "video":
        return Dataset(root.stem, _video_samples(root, start, stop), [])
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; set data.root")
    if layout == "folder":
        return Dataset(root.resolve().name, _folder_samples(root, GOOD), [])
    return _open_mvtec(root)


def open_test_set(root: Path) -> Dataset:
    """Open root/test/<kind> with masks root/ground_truth/<kind>/<name>_mask.png; no training. Raises DataError."""
    if not (root / "test").is_dir():
        hint = _hint(root, "test") if root.is_dir() else ""
        raise DataError(f"{root}: has no folder test with good and <defect> folders in it{hint}")
    test: list[Sample] = []
    for folder in sorted(entry for entry in (root / "test").iterdir() if entry.is_dir()):
        for sample in _folder_samples(folder, folder.name):
            mask = root / "ground_truth" / folder.name / f"{sample.path.stem}_mask.png"
            found = mask if folder.name != GOOD and mask.is_file() else None
            test.append(Sample(sample.name, sample.path, folder.name, found))
    if not test:
        raise DataError(f"{root}: its folder test is empty")
    return Dataset(root.resolve().name, [], test)


def read_samples(samples: Sequence[Sample]) -> Iterator[Image]:
    """Yield each sample's image, BGR uint8 (height, width, 3). Raises DataError naming what does not decode."""
    film: tuple[Path, cv2.VideoCapture, int] | None = None
    for sample in samples:
        if sample.frame is None:
            try:
                yield read_image(sample.path)
            except FrameError as error:
                raise DataError(str(error)) from error
            continue
        if film is None or film[0] != sample.path or sample.frame < film[2]:
            film = (sample.path, cv2.VideoCapture(str(sample.path)), 0)
        path, capture, position = film
        while position < sample.frame:
            capture.grab()
            position += 1
        decoded, image = capture.read()
        if not decoded:
            raise DataError(
                f"{path}: frame {sample.frame} does not decode; shorten data.stop or repair the film"
            )
        film = (path, capture, position + 1)
        yield np.asarray(image, np.uint8)


def read_mask(sample: Sample, shape: tuple[int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """The ground truth of a test sample resized to `shape` (height, width): True where gt > 0.5 after resizing.

    Good samples have an empty mask. Raises DataError if a defect's mask is unreadable.
    """
    if sample.mask is None:
        return np.zeros(shape, bool)
    mask = cv2.imdecode(np.frombuffer(sample.mask.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise DataError(f"{sample.mask}: does not decode as a mask image")
    binary = (mask > 127).astype(np.float32)
    return np.asarray(cv2.resize(binary, shape[::-1], interpolation=cv2.INTER_AREA) > 0.5)


def _folder_samples(folder: Path, kind: str) -> list[Sample]:
    images = list_images(folder)
    if not images:
        raise DataError(f"{folder}: holds no image (known endings: png, jpg, jpeg, bmp, tif, tiff, webp)")
    return [Sample(name=f"{folder.name}/{path.name}", path=path, kind=kind) for path in images]


def _open_mvtec(root: Path) -> Dataset:
    train = root / "train" / GOOD
    if not train.is_dir():
        raise DataError(
            f"{root}: has no train/good, so it is not laid out like MVTec-AD{_hint(root, 'train')}"
        )
    test = open_test_set(root).test if (root / "test").is_dir() else []
    return Dataset(root.resolve().name, _folder_samples(train, GOOD), test)


def _hint(root: Path, folder: str) -> str:
    """Name a folder below `root` that has what was sought, for whoever is one level off."""
    inside = sorted(entry for entry in root.iterdir() if (entry / folder).is_dir())
    return f"; did you mean {inside[0]}?" if inside else ""


def _video_samples(path: Path, start: int, stop: int | None) -> list[Sample]:
    capture = cv2.VideoCapture(str(path))
    if not path.is_file() or not capture.isOpened():
        raise DataError(f"{path}: {'cannot be opened as a video' if path.is_file() else 'no such file'}")
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    last = count if stop is None else stop
    if not start < last <= count:
        raise DataError(
            f"{path}: data.start={start} and data.stop={stop} do not fit a film of {count} frames"
        )
    return [Sample(f"{path.name}#{index}", path, GOOD, frame=index) for index in range(start, last)]
