"""VisA: pictures of twelve products, and the official split in split_csv/1cls.csv. Knows its columns."""

from __future__ import annotations

import csv
from pathlib import Path

from dualkd.train.benchmarks.protocols import Industrial
from dualkd.train.datasets import GOOD, DataError, Dataset, Sample

CLASSES = [
    "candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1", "macaroni2", "pcb1", "pcb2", "pcb3",
    "pcb4", "pipe_fryum",
]  # fmt: skip
SPLIT = "split_csv/1cls.csv"
COLUMNS = ["object", "split", "label", "image", "mask"]
KINDS = {"normal": GOOD, "anomaly": "anomaly"}  # label in the file -> kind


def _open_class(root: Path, name: str) -> Dataset:
    path = root / SPLIT
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not rows or any(column not in rows[0] for column in COLUMNS):
        raise DataError(f"{path}: has not the columns {','.join(COLUMNS)}")
    dataset = Dataset(name, [], [])
    for line, row in enumerate(rows, start=2):
        if row["object"] != name:
            continue
        if (row["split"], row["label"]) not in {("train", "normal"), ("test", "normal"), ("test", "anomaly")}:
            raise DataError(
                f"{path}:{line}: split {row['split']!r} with label {row['label']!r} is not VisA's"
            )
        kind = KINDS[row["label"]]
        mask = root / row["mask"] if kind != GOOD else None
        sample = Sample(row["image"], root / row["image"], kind, mask, category=name)
        (dataset.train if row["split"] == "train" else dataset.test).append(sample)
    return dataset


VISA = Industrial(
    title="VisA",
    origin="Amazon's repository spot-diff (VisA_20220922.tar)",
    layout=f"{SPLIT} and <class>/Data/Images/{{Normal, Anomaly}}, <class>/Data/Masks/Anomaly",
    marks=[SPLIT, *(f"{name}/Data" for name in CLASSES)],
    classes=lambda _: CLASSES,
    open_class=_open_class,
)
