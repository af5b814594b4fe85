"""Small files in the official formats of the benchmarks, written for tests. Each writer returns the root.

Sizes and numbers are tiny; names of files, folders, columns and keys are the official ones. Counts are of pictures a
class: two to train, one good and one anomalous to test, unless said otherwise.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt

HEIGHT, WIDTH = 20, 30


def write_picture(path: Path, seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    """A noise picture, (height, width, 3)."""
    return _write(path, np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def write_mask(
    path: Path, value: int = 255, column: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> Path:
    """A mask (height, width) of zeros with `value` in three columns from `column`."""
    mask = np.zeros(size, np.uint8)
    mask[:, column : column + 3] = value
    return _write(path, mask)


def write_mvtec_class(folder: Path, train: int = 2, kind: str = "bent") -> None:
    """One class of MVTec-AD with one kind of defect."""
    for index in range(train):
        write_picture(folder / f"train/good/{index:03d}.png", index)
    write_picture(folder / "test/good/000.png", 2)
    write_picture(folder / f"test/{kind}/000.png", 3)
    write_mask(folder / f"ground_truth/{kind}/000_mask.png")


def write_mvtec_ad(root: Path, classes: Sequence[str], train: int = 2) -> Path:
    """MVTec-AD, with so many pictures a class to train."""
    for name in classes:
        write_mvtec_class(root / name, train)
    return root


def write_mvtec_loco(root: Path, classes: Sequence[str]) -> Path:
    """MVTec-LOCO: two pictures to validate on, and two masks for each anomaly, in grey values of their own."""
    for name in classes:
        folder = root / name
        for index in range(2):
            write_picture(folder / f"train/good/{index:03d}.png", index)
            write_picture(folder / f"validation/good/{index:03d}.png", 2 + index)
        write_picture(folder / "test/good/000.png", 4)
        for kind in ("logical_anomalies", "structural_anomalies"):
            write_picture(folder / f"test/{kind}/000.png", 5)
            for index in range(2):
                write_mask(folder / f"ground_truth/{kind}/000/{index:03d}.png", 255 - index, 10 * index)
    return root


def write_visa(root: Path, classes: Sequence[str]) -> Path:
    """VisA: masks hold 1, the smallest of its values."""
    rows = ["object,split,label,image,mask"]
    for name in classes:
        for index, split in enumerate(("train", "train", "test")):
            image = f"{name}/Data/Images/Normal/{index:04d}.JPG"
            write_picture(root / image, index)
            rows.append(f"{name},{split},normal,{image},")
        image, mask = f"{name}/Data/Images/Anomaly/000.JPG", f"{name}/Data/Masks/Anomaly/000.png"
        write_picture(root / image, 3)
        write_mask(root / mask, value=1)
        rows.append(f"{name},test,anomaly,{image},{mask}")
    (root / "split_csv").mkdir(parents=True)
    (root / "split_csv/1cls.csv").write_text("\n".join(rows) + "\n")
    return root


def write_real_iad(root: Path, classes: Sequence[str], folder: str = "realiad_256") -> Path:
    """Real-IAD: one part to train, a good one and a defective one to test, five views each.

    In the last view of the defective part the defect does not show, so it is labelled as good.
    """
    for name in classes:

        def entries(part: str, label: str, name: str = name) -> list[dict[str, str | None]]:
            found = []
            for view in range(1, 6):
                stem = f"{part}/{name}_{part[-4:]}_{label}_C{view}_20230920"
                write_picture(root / folder / name / f"{stem}.jpg", view)
                anomalous = label != "OK" and view != 5
                if anomalous:
                    write_mask(root / folder / name / f"{stem}.png")
                found.append(
                    {
                        "category": name,
                        "anomaly_class": label[-2:] if anomalous else "OK",
                        "image_path": f"{stem}.jpg",
                        "mask_path": f"{stem}.png" if anomalous else None,
                    }
                )
            return found

        split = {
            "meta": {"pre_transform": False, "normal_class": "OK", "prefix": f"{name}/"},
            "train": entries("OK/S0001", "OK"),
            "test": [*entries("OK/S0002", "OK"), *entries("NG/BX/S0003", "NG_BX")],
        }
        path = root / f"realiad_jsons/realiad_jsons/{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(split))
    return root


def write_cifar_10(root: Path, each: int = 2) -> Path:
    """CIFAR-10: `each` pictures a class in each of the five training files and in the test file."""
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    root.mkdir(parents=True)
    write_pickle(root / "batches.meta", {b"label_names": [name.encode() for name in names.split()]})
    for seed, file in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        labels = list(range(10)) * each
        write_pickle(root / file, {b"data": cifar_rows(len(labels), seed), b"labels": labels})
    return root


def write_cifar_100(root: Path, each: int = 1) -> Path:
    """CIFAR-100: class k of the hundred belongs to the superclass k % 20."""
    root.mkdir(parents=True)
    write_pickle(
        root / "meta",
        {
            b"fine_label_names": [f"fine_{index:02d}".encode() for index in range(100)],
            b"coarse_label_names": [f"coarse_{index:02d}".encode() for index in range(20)],
        },
    )
    for seed, file in enumerate(("train", "test")):
        fine = list(range(100)) * each
        tree = {
            b"data": cifar_rows(len(fine), seed),
            b"fine_labels": fine,
            b"coarse_labels": [label % 20 for label in fine],
        }
        write_pickle(root / file, tree)
    return root


def cifar_rows(count: int, seed: int) -> npt.NDArray[np.uint8]:
    """Noise as CIFAR keeps pictures: uint8 (count, 3072), the red plane first."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def write_fashion_mnist(root: Path, each: int = 2, zipped: bool = True) -> Path:
    """Fashion-MNIST: `each` pictures a class in both splits."""
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split in ("train", "t10k"):
        labels = np.tile(np.arange(10, dtype=np.uint8), each)
        pictures = rng.integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
        for what, array in (("images-idx3", pictures), ("labels-idx1", labels)):
            content = (
                bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
            )
            path = root / f"{split}-{what}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(content) if zipped else content)
    return root


def write_view(root: Path) -> Path:
    """The Intel scene images."""
    for name in ("buildings", "forest", "glacier", "mountain", "sea", "street"):
        for index in range(2):
            write_picture(root / f"seg_train/seg_train/{name}/{index}.jpg", index)
        write_picture(root / f"seg_test/seg_test/{name}/2.jpg", 2)
    return root


def write_pickle(path: Path, tree: dict[bytes, Any]) -> None:
    """Write `tree` as Python 2 and numpy 1 did, whose pickles the official files are."""
    buffer = io.BytesIO()
    _Python2Pickler(buffer, protocol=2).dump(tree)
    path.write_bytes(buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))


class _Python2Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Writes bytes and texts as Python 2's str."""

    dispatch: ClassVar[dict[type, Callable[..., None]]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_str(self, value: bytes | str) -> None:
        content = value.encode("ascii") if isinstance(value, str) else value
        self.write(b"T" + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_str


def _write(path: Path, picture: npt.NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), picture):
        raise OSError(f"{path}: could not be written")
    return path
