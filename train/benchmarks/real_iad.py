"""Real-IAD: thirty products, each part seen by five cameras, with one JSON file a product.

Knows these files. Of the picture folders the one with the largest pictures is read. A view of a defective part in
which the defect does not show is labelled as good, by the authors.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import msgspec
from dualkd.train.benchmarks.protocols import Industrial
from dualkd.train.datasets import GOOD, DataError, Dataset, Sample

CLASSES = [
    "audiojack", "bottle_cap", "button_battery", "end_cap", "eraser", "fire_hood", "mint", "mounts", "pcb",
    "phone_battery", "plastic_nut", "plastic_plug", "porcelain_doll", "regulator", "rolled_strip_base",
    "sim_card_set", "switch", "tape", "terminalblock", "toothbrush", "toy", "toy_brick", "transistor1", "u_block",
    "usb", "usb_adaptor", "vcpill", "wooden_beads", "woodstick", "zipper",
]  # fmt: skip
PICTURE_FOLDERS = ["realiad_1024", "realiad_512", "realiad_256"]


class _Meta(msgspec.Struct, frozen=True):
    normal_class: str
    prefix: str


class _Entry(msgspec.Struct, frozen=True):
    anomaly_class: str
    image_path: str
    mask_path: str | None = None


class _Split(msgspec.Struct, frozen=True):
    meta: _Meta
    train: list[_Entry]
    test: list[_Entry]


def _open_class(root: Path, name: str) -> Dataset:
    pictures = next((root / folder for folder in PICTURE_FOLDERS if (root / folder).is_dir()), None)
    if pictures is None:
        raise DataError(f"{root}: has none of the folders {', '.join(PICTURE_FOLDERS)}")
    path, split = _read_split(root, name)
    if any(entry.anomaly_class != split.meta.normal_class for entry in split.train):
        raise DataError(f"{path}: has anomalies among its training pictures; the official split has none")

    def sample(entry: _Entry) -> Sample:
        image = PurePosixPath(split.meta.prefix, entry.image_path)
        mask = None
        if entry.anomaly_class != split.meta.normal_class:
            if not entry.mask_path:
                raise DataError(f"{path}: gives no mask of {entry.image_path}")
            mask = pictures / split.meta.prefix / entry.mask_path
        return Sample(
            name=str(image),
            path=pictures / image,
            kind=GOOD if mask is None else entry.anomaly_class,
            mask=mask,
            category=name,
            part=str(image.parent),
        )

    return Dataset(name, [sample(entry) for entry in split.train], [sample(entry) for entry in split.test])


def _read_split(root: Path, name: str) -> tuple[Path, _Split]:
    """The official archive holds its folder of JSON files inside another of the same name; either will do."""
    inner, outer = (
        root / folder / f"{name}.json" for folder in ("realiad_jsons/realiad_jsons", "realiad_jsons")
    )
    path = inner if inner.is_file() else outer
    try:
        return path, msgspec.json.decode(path.read_bytes(), type=_Split)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise DataError(f"{path}: is not a split of Real-IAD: {error}") from error


REAL_IAD = Industrial(
    title="Real-IAD",
    origin="the Real-IAD page of its authors, who ask for an application",
    layout=f"realiad_jsons/<class>.json and one of {', '.join(PICTURE_FOLDERS)}, each with <class>/{{OK, NG}}",
    marks=["realiad_jsons", *PICTURE_FOLDERS],
    classes=lambda _: CLASSES,
    open_class=_open_class,
)
