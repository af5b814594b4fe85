"""MVTec-AD and MVTec-LOCO, and data of one's own in the layout of MVTec-AD, a folder for each class.

Knows their folders. MVTec-LOCO keeps good pictures apart for validation, which become the held-out ones, and lays
the several masks of a picture into a folder of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dualkd.train.benchmarks.folders import list_samples
from dualkd.train.benchmarks.protocols import Industrial
from dualkd.train.datasets import GOOD, DataError, Dataset, Sample

AD_CLASSES = [
    "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw",
    "tile", "toothbrush", "transistor", "wood", "zipper",
]  # fmt: skip
LOCO_CLASSES = ["breakfast_box", "juice_bottle", "pushpins", "screw_bag", "splicing_connectors"]
LOCO_KINDS = [GOOD, "logical_anomalies", "structural_anomalies"]


def _open_ad_class(root: Path, name: str) -> Dataset:
    """One class of MVTec-AD; every defect has a mask."""
    return _open_class(root, name, _kinds(root / name), _ad_mask)


def _open_like_class(root: Path, name: str) -> Dataset:
    """One class in the layout of MVTec-AD; a defect may be without a mask."""

    def mask_if_there(folder: Path, kind: str, stem: str) -> Path | None:
        mask = _ad_mask(folder, kind, stem)
        return mask if mask.is_file() else None

    return _open_class(root, name, _kinds(root / name), mask_if_there)


def _open_loco_class(root: Path, name: str) -> Dataset:
    """One class of MVTec-LOCO; every anomaly has a folder of masks."""
    dataset = _open_class(root, name, LOCO_KINDS, lambda folder, kind, stem: folder / kind / stem)
    return replace(dataset, held_out=list_samples(root, f"{name}/validation/{GOOD}", GOOD, name))


def _open_class(
    root: Path, name: str, kinds: list[str], mask_of: Callable[[Path, str, str], Path | None]
) -> Dataset:
    """`mask_of` gives the mask of (folder ground_truth, kind, stem of the picture's name)."""

    def test_samples(kind: str) -> list[Sample]:
        samples = list_samples(root, f"{name}/test/{kind}", kind, name)
        if kind == GOOD:
            return samples
        masks = root / name / "ground_truth"
        return [replace(sample, mask=mask_of(masks, kind, sample.path.stem)) for sample in samples]

    train = list_samples(root, f"{name}/train/{GOOD}", GOOD, name)
    return Dataset(name, train, [sample for kind in kinds for sample in test_samples(kind)])


def _ad_mask(folder: Path, kind: str, stem: str) -> Path:
    return folder / kind / f"{stem}_mask.png"


def _kinds(folder: Path) -> list[str]:
    for needed in (folder, folder / "test"):
        if not needed.is_dir():
            raise DataError(f"{needed}: no such folder")
    return sorted(entry.name for entry in (folder / "test").iterdir() if entry.is_dir())


def _classes_below(root: Path) -> list[str]:
    return sorted(path.parent.name for path in root.glob("*/train"))


MVTEC_AD = Industrial(
    title="MVTec-AD",
    origin="MVTec's site, under research, data sets, MVTec AD",
    layout="<class>/train/good, <class>/test/<kind>, <class>/ground_truth/<kind>/<name>_mask.png",
    marks=[f"{name}/train" for name in AD_CLASSES],
    classes=lambda _: AD_CLASSES,
    open_class=_open_ad_class,
)
MVTEC_LOCO = Industrial(
    title="MVTec-LOCO",
    origin="MVTec's site, under research, data sets, MVTec LOCO AD",
    layout="<class>/train/good, <class>/validation/good, <class>/test/{good, logical_anomalies, "
    "structural_anomalies}, <class>/ground_truth/<kind>/<name>/000.png and on",
    marks=[f"{name}/train" for name in LOCO_CLASSES],
    classes=lambda _: LOCO_CLASSES,
    open_class=_open_loco_class,
)
MVTEC_LIKE = Industrial(
    title="the layout of MVTec-AD",
    origin=None,
    layout="<class>/train/good, <class>/test/<kind>, and where there are masks "
    "<class>/ground_truth/<kind>/<name>_mask.png",
    marks=["*/train/good"],
    classes=_classes_below,
    open_class=_open_like_class,
)
