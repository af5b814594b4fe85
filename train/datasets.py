"""Samples and data sets, how a sample's picture and mask are read, and the plain layouts: folder, MVTec, video.

Knows file layouts and which images are good. Does not know the benchmarks (benchmarks/), and does not resize
pictures, split or train.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from dualkd.daemon.bundle import file_sha256
from dualkd.daemon.frames import FrameError, Image, list_images, read_image
from dualkd.train.archives import ArchiveError, ArchiveFormat, read_pictures
from dualkd.train.config import Layout

GOOD = "good"
PROBLEMS_SHOWN = 20
Container = Literal["video"] | ArchiveFormat


class DataError(Exception):
    """Images or masks that are missing, unreadable or laid out otherwise than said: which path, what to do."""

    @classmethod
    def of(cls, problems: Sequence[str], advice: str = "") -> DataError:
        """One error of several problems: the first of them, how many more there are, and what to do."""
        shown = list(problems[:PROBLEMS_SHOWN])
        if len(problems) > PROBLEMS_SHOWN:
            shown.append(f"and {len(problems) - PROBLEMS_SHOWN} problems more")
        return cls("\n  ".join([*shown, *([advice] if advice else [])]))


@dataclass(frozen=True, slots=True)
class Sample:
    """One image. `kind` is "good" or the name of a defect; `mask` is the defect's ground truth, if any.

    `mask` is a picture, or a folder of pictures that together are the mask. In a film or an archive (`container`)
    the image is the frame or row `index` of the file `path`. `category` is the product's class in a benchmark;
    `part` names the physical part where several views show one.
    """

    name: str
    path: Path
    kind: str
    mask: Path | None = None
    container: Container | None = None
    index: int | None = None
    category: str = ""
    part: str | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One model that a benchmark's protocol asks for."""

    name: str
    dataset: Dataset


@dataclass(frozen=True, slots=True)
class Dataset:
    """Good images to learn from, and images of known kind to measure on (may be empty).

    `held_out` are good images that the data set itself keeps from training, to calibrate on; where there are
    none, some of `train` are held out.
    """

    name: str
    train: list[Sample]
    test: list[Sample]
    held_out: list[Sample] = field(default_factory=list)

    def digest(self) -> str:
        """The sha256 over the names and contents of the good images, those to train and to calibrate on."""
        digest = hashlib.sha256()
        sums: dict[Path, str] = {}
        for sample in (*self.train, *self.held_out):
            if sample.path not in sums:
                sums[sample.path] = file_sha256(sample.path)
            digest.update(f"{sample.name}\n{sample.index}\n{sums[sample.path]}\n".encode())
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
    film: _Film | None = None
    for sample in samples:
        try:
            if sample.container is None or sample.index is None:
                yield read_image(sample.path)
            elif sample.container == "video":
                if film is None or film.path != sample.path:
                    film = _Film(sample.path)
                yield film.read(sample.index)
            else:
                yield np.ascontiguousarray(read_pictures(sample.path, sample.container)[sample.index])
        except (FrameError, ArchiveError) as error:
            raise DataError(str(error)) from error


def read_mask(sample: Sample, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The ground truth of a test sample resized to `shape` (height, width): True where gt > 0.5 after resizing.

    Good samples have an empty mask. Raises DataError if a defect's mask is unreadable.
    """
    if sample.mask is None:
        return np.zeros(shape, bool)
    binary = read_full_mask(sample.mask).astype(np.float32)
    return np.asarray(cv2.resize(binary, shape[::-1], interpolation=cv2.INTER_AREA) > 0.5)


def read_full_mask(path: Path) -> npt.NDArray[np.bool_]:
    """The mask (height, width) in its own size: True where any value is not 0, in any of the pictures of a folder.

    VisA and MVTec-LOCO number their kinds of defect by grey values, which may be small. Raises DataError.
    """
    paths = list_images(path) if path.is_dir() else [path]
    if not paths:
        raise DataError(f"{path}: holds no mask")
    masks = []
    for one in paths:
        try:
            encoded = np.frombuffer(one.read_bytes(), np.uint8)
        except OSError as error:
            raise DataError(f"{one}: cannot be read: {error.strerror}") from error
        mask = cv2.imdecode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH) if encoded.size else None
        if mask is None:
            raise DataError(f"{one}: does not decode as a mask image")
        masks.append(np.any(mask != 0, axis=2))
    if len({mask.shape for mask in masks}) > 1:
        raise DataError(f"{path}: its masks are of different sizes")
    return np.asarray(np.logical_or.reduce(masks))


class _Film:
    """A film whose frames are asked for by index, best in rising order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._capture, self._position = cv2.VideoCapture(str(path)), 0

    def read(self, index: int) -> Image:
        """Frame `index`. Raises DataError if it does not decode."""
        if index < self._position:
            self._capture, self._position = cv2.VideoCapture(str(self.path)), 0
        while self._position < index:
            self._capture.grab()
            self._position += 1
        decoded, image = self._capture.read()
        self._position += 1
        if not decoded:
            raise DataError(
                f"{self.path}: frame {index} does not decode; shorten data.stop or repair the film"
            )
        return np.asarray(image, np.uint8)


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
    return [
        Sample(f"{path.name}#{index}", path, GOOD, container="video", index=index)
        for index in range(start, last)
    ]
