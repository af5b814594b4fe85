"""Fashion-MNIST in its four idx files, gzipped as offered or not. Knows their names and the classes."""

from __future__ import annotations

from pathlib import Path

from dualkd.train.archives import ArchiveError, read_idx
from dualkd.train.benchmarks.protocols import Labelled, Semantic
from dualkd.train.datasets import DataError, Sample

CLASSES = [
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot",
]  # fmt: skip


def _open(root: Path) -> Labelled:
    """Read the labels, no pictures. Raises DataError with all problems."""
    problems: list[str] = []

    def samples(split: str) -> list[Sample]:
        pictures, labels = (_file(root, f"{split}-{what}-ubyte") for what in ("images-idx3", "labels-idx1"))
        if not pictures.is_file():
            problems.append(f"{pictures}: no such file, nor the same with .gz")
        try:
            values = read_idx(labels, dimensions=1).tolist()
        except ArchiveError as error:
            problems.append(str(error))
            return []
        wrong = [label for label in values if label >= len(CLASSES)]
        if wrong:
            problems.append(f"{labels}: label {wrong[0]} is none of 0 to {len(CLASSES) - 1}")
            return []
        return [
            Sample(f"{pictures.name}#{row}", pictures, CLASSES[label], container="idx", index=row)
            for row, label in enumerate(values)
        ]

    labelled = Labelled(CLASSES, samples("train"), samples("t10k"))
    if problems:
        raise DataError.of(problems)
    return labelled


def _file(root: Path, name: str) -> Path:
    zipped = root / f"{name}.gz"
    return zipped if zipped.is_file() else root / name


FASHION_MNIST = Semantic(
    title="Fashion-MNIST",
    origin="Zalando Research's repository fashion-mnist",
    layout="{train, t10k}-images-idx3-ubyte and {train, t10k}-labels-idx1-ubyte, each with .gz or not",
    marks=["train-images-idx3-ubyte*", "train-labels-idx1-ubyte*"],
    open=_open,
)
