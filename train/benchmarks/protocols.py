"""What a benchmark is, and how its protocols make models of its classes.

Two sorts. Industrial sets have products, each with good and defective parts: one model for all products together
(no class label is used in training) or one for each. Semantic sets have pictures of classes: some classes are good,
the others are the anomalies. Knows no file.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dualkd.train.config import DataConfig
from dualkd.train.datasets import GOOD, DataError, Dataset, Sample, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What can be said of a benchmark's files without reading them."""

    title: str  # as its authors call it
    origin: str | None  # where its authors offer it; None for data of one's own
    layout: str  # below the root
    marks: Sequence[str]  # glob patterns, one of which fits below every root

    @property
    def advice(self) -> str:
        """What to do where files are missing."""
        origin = f"; the official files come from {self.origin}" if self.origin else ""
        return f"{self.title}: {self.layout}{origin}"

    def is_root(self, folder: Path) -> bool:
        """Whether `folder` holds the benchmark, or a part of it."""
        return any(any(folder.glob(mark)) for mark in self.marks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Industrial(Files):
    """A benchmark of products. `open_class(root, name)` may raise DataError; categories are the class names."""

    classes: Callable[[Path], list[str]]  # of the benchmark at this root
    open_class: Callable[[Path, str], Dataset]


@dataclass(frozen=True, slots=True)
class Labelled:
    """The pictures of a semantic benchmark in its official split; the kind of each is the name of its class."""

    classes: list[str]
    train: list[Sample]
    test: list[Sample]


@dataclass(frozen=True, slots=True, kw_only=True)
class Semantic(Files):
    """A benchmark of classes. `open(root)` may raise DataError."""

    open: Callable[[Path], Labelled]


def industrial_tasks(benchmark: Industrial, data: DataConfig) -> list[Task]:
    """`one-model`: all classes in one data set. `per-class`: a task for each, named after it. Raises DataError."""
    root = Path(data.root)
    classes = _choose(data.classes, benchmark.classes(root), "data.classes")
    one_model = data.protocol == "one-model"
    names = _choose([data.task] if data.task else [], ["one-model"] if one_model else classes, "data.task")
    datasets, problems = [], []
    for name in classes if one_model else names:
        try:
            dataset = benchmark.open_class(root, name)
        except DataError as error:
            problems.append(str(error))
            continue
        datasets.append(dataset)
        problems += [f"{root}: class {name} has no {what}" for what in _lacking(dataset)]
    if problems:
        raise DataError.of(problems, benchmark.advice)
    if not one_model:
        return [
            Task(name, replace(dataset, name=f"{data.benchmark}-{name}"))
            for name, dataset in zip(names, datasets, strict=True)
        ]
    together = Dataset(
        str(data.benchmark),
        train=[sample for dataset in datasets for sample in dataset.train],
        test=[sample for dataset in datasets for sample in dataset.test],
        held_out=[sample for dataset in datasets for sample in dataset.held_out],
    )
    return [Task(names[0], together)]


def semantic_tasks(benchmark: Semantic, data: DataConfig) -> list[Task]:
    """The tasks, each with the good classes' training pictures and the whole official test set. Raises DataError.

    `one-vs-rest`: each class is good once. `many-vs-many`: the first half of the classes, the second half, every
    other class from the first and from the second are good. Of CIFAR-10 these are the splits {01234}, {56789},
    {02468} and {13579} of You et al., "A Unified Model for Multi-class Anomaly Detection" (UniAD, NeurIPS 2022);
    for the other sets they are our own reading.
    """
    try:
        pictures = benchmark.open(Path(data.root))
    except DataError as error:
        raise DataError.of([str(error)], benchmark.advice) from error
    classes = pictures.classes
    if data.protocol == "one-vs-rest":
        good = {name: [name] for name in _choose(data.classes, classes, "data.classes")}
    else:
        half = len(classes) // 2
        good = {
            "first-half": classes[:half],
            "second-half": classes[half:],
            "even": classes[::2],
            "odd": classes[1::2],
        }
    names = _choose([data.task] if data.task else [], good, "data.task")
    problems = [
        f"{data.root}: class {name} has no {what} picture"
        for what, samples in (("training", pictures.train), ("test", pictures.test))
        for name in _missing(classes, samples)
    ]
    if problems:
        raise DataError.of(problems, benchmark.advice)
    train_as_good = [replace(sample, kind=GOOD) for sample in pictures.train]  # shared by all tasks
    test_as_good = [replace(sample, kind=GOOD) for sample in pictures.test]

    def task(name: str) -> Task:
        train = [
            as_good
            for sample, as_good in zip(pictures.train, train_as_good, strict=True)
            if sample.kind in good[name]
        ]
        test = [
            as_good if sample.kind in good[name] else sample
            for sample, as_good in zip(pictures.test, test_as_good, strict=True)
        ]
        return Task(name, Dataset(f"{data.benchmark}-{name}", train, test))

    return [task(name) for name in names]


def _choose(wanted: Sequence[str], known: Collection[str], key: str) -> list[str]:
    """The `known` names that are `wanted`, in the order of `known`; all of them where none is."""
    for name in wanted:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            meant = f"did you mean {close[0]!r}? " if close else ""
            raise DataError(f"{key}: there is no {name!r}; {meant}there are: {', '.join(known)}")
    return [name for name in known if not wanted or name in wanted]


def _lacking(dataset: Dataset) -> list[str]:
    kinds = {sample.kind for sample in dataset.test}
    has = {
        "training picture": bool(dataset.train),
        "good test picture": GOOD in kinds,
        "anomalous test picture": bool(kinds - {GOOD}),
    }
    return [what for what, there in has.items() if not there]


def _missing(classes: list[str], samples: list[Sample]) -> list[str]:
    there = {sample.kind for sample in samples}
    return [name for name in classes if name not in there]
