"""CIFAR-10 and CIFAR-100 in their "python version". Knows its files and the names of their keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualkd.train.archives import ArchiveError, read_cifar
from dualkd.train.benchmarks.protocols import Labelled, Semantic
from dualkd.train.datasets import DataError, Sample

ORIGIN = "the CIFAR page of the University of Toronto, the python version"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """Which files there are, and under which keys they keep names and labels."""

    meta: str
    train: list[str]
    test: str
    names_key: bytes
    labels_key: bytes
    class_count: int

    def open(self, root: Path) -> Labelled:
        """Read names and labels, no pictures. Raises DataError with all problems."""
        problems: list[str] = []
        try:
            names = [bytes(name).decode() for name in _read_list(root / self.meta, self.names_key)]
            if len(set(names)) != self.class_count:
                problems.append(
                    f"{root / self.meta}: names {len(set(names))} classes, not {self.class_count}"
                )
        except (DataError, TypeError, UnicodeDecodeError) as error:
            problems.append(str(error))

        def samples(file: str) -> list[Sample]:
            try:
                labels = _read_list(root / file, self.labels_key)
            except DataError as error:
                problems.append(str(error))
                return []
            wrong = [label for label in labels if label not in range(self.class_count)]
            if wrong:
                problems.append(f"{root / file}: label {wrong[0]!r} is none of 0 to {self.class_count - 1}")
            if problems:
                return []
            return [
                Sample(f"{file}#{row}", root / file, names[label], container="cifar", index=row)
                for row, label in enumerate(labels)
            ]

        train = [sample for file in self.train for sample in samples(file)]
        test = samples(self.test)
        if problems:
            raise DataError.of(problems)
        return Labelled(names, train, test)


def _read_list(path: Path, key: bytes) -> list[Any]:
    try:
        values = read_cifar(path).get(key)
    except ArchiveError as error:
        raise DataError(str(error)) from error
    if not isinstance(values, list):
        raise DataError(f"{path}: has no list {key.decode()}")
    return values


def _cifar_100(names_key: bytes, labels_key: bytes, class_count: int) -> Semantic:
    return Semantic(
        title="CIFAR-100",
        origin=ORIGIN,
        layout="meta, train, test",
        marks=["meta"],
        open=_Files(
            meta="meta",
            train=["train"],
            test="test",
            names_key=names_key,
            labels_key=labels_key,
            class_count=class_count,
        ).open,
    )


CIFAR_10 = Semantic(
    title="CIFAR-10",
    origin=ORIGIN,
    layout="batches.meta, data_batch_1 to data_batch_5, test_batch",
    marks=["batches.meta", "data_batch_*"],
    open=_Files(
        meta="batches.meta",
        train=[f"data_batch_{number}" for number in range(1, 6)],
        test="test_batch",
        names_key=b"label_names",
        labels_key=b"labels",
        class_count=10,
    ).open,
)
CIFAR_100 = _cifar_100(b"fine_label_names", b"fine_labels", 100)
CIFAR_100_COARSE = _cifar_100(b"coarse_label_names", b"coarse_labels", 20)
