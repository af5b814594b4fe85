"""View: Intel's pictures of six kinds of scenes. Knows its folders, which lie one in another of the same name."""

from __future__ import annotations

from pathlib import Path

from dualkd.train.benchmarks.folders import list_samples
from dualkd.train.benchmarks.protocols import Labelled, Semantic
from dualkd.train.datasets import DataError, Sample

CLASSES = ["buildings", "forest", "glacier", "mountain", "sea", "street"]
TRAIN, TEST = "seg_train/seg_train", "seg_test/seg_test"


def _open(root: Path) -> Labelled:
    problems: list[str] = []

    def samples(split: str) -> list[Sample]:
        found = []
        for name in CLASSES:
            try:
                found += list_samples(root, f"{split}/{name}", name)
            except DataError as error:
                problems.append(str(error))
        return found

    labelled = Labelled(CLASSES, samples(TRAIN), samples(TEST))
    if problems:
        raise DataError.of(problems)
    return labelled


VIEW = Semantic(
    title="View (the Intel scene images)",
    origin="Kaggle, Intel Image Classification",
    layout=f"{TRAIN}/<class> and {TEST}/<class>",
    marks=[TRAIN, TEST],
    open=_open,
)
