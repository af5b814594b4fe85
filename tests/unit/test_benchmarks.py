"""The benchmarks' official files, read; their protocols; and what is said where files are missing or differ."""

from __future__ import annotations

import os
import pickle
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import benchmark_files as files
import msgspec
import numpy as np
import pytest
from dualkd.train.archives import read_pictures
from dualkd.train.benchmarks import BENCHMARKS, open_task, open_tasks
from dualkd.train.benchmarks.mvtec import AD_CLASSES, LOCO_CLASSES
from dualkd.train.benchmarks.protocols import Semantic
from dualkd.train.benchmarks.real_iad import CLASSES as REAL_IAD_CLASSES
from dualkd.train.benchmarks.visa import CLASSES as VISA_CLASSES
from dualkd.train.config import SEMANTIC_BENCHMARKS, Benchmark, DataConfig
from dualkd.train.datasets import GOOD, DataError, Task, read_mask, read_samples

SHARED = Path(__file__).resolve().parents[2].parent / "shared/data"
WRITERS: dict[str, Callable[[Path], Path]] = {
    "mvtec-ad": lambda root: files.write_mvtec_ad(root, AD_CLASSES),
    "mvtec-loco": lambda root: files.write_mvtec_loco(root, LOCO_CLASSES),
    "mvtec-like": lambda root: files.write_mvtec_ad(root, ["bracket", "flange"]),
    "visa": lambda root: files.write_visa(root, VISA_CLASSES),
    "real-iad": lambda root: files.write_real_iad(root, REAL_IAD_CLASSES),
    "cifar-10": files.write_cifar_10,
    "cifar-100": files.write_cifar_100,
    "cifar-100-coarse": files.write_cifar_100,
    "fashion-mnist": files.write_fashion_mnist,
    "view": files.write_view,
}


def settings(root: Path, benchmark: str, protocol: str, **more: object) -> DataConfig:
    """As the loader makes them, its checks included."""
    return msgspec.convert(
        {"root": str(root), "benchmark": benchmark, "protocol": protocol, **more}, DataConfig
    )


def test_the_configuration_names_the_benchmarks_that_there_are() -> None:
    """All of them, and of which sort each is, since that decides its protocols."""
    assert set(get_args(Benchmark)) == BENCHMARKS.keys()
    semantic = {name for name, benchmark in BENCHMARKS.items() if isinstance(benchmark, Semantic)}
    assert semantic == set(SEMANTIC_BENCHMARKS)


def count_kinds(task: Task) -> Counter[str]:
    return Counter(sample.kind for sample in task.dataset.test)


@pytest.mark.parametrize(
    ("benchmark", "classes", "train", "held_out", "test"),
    [
        ("mvtec-ad", 15, 2, 0, 2),
        ("mvtec-loco", 5, 2, 2, 3),
        ("mvtec-like", 2, 2, 0, 2),
        ("visa", 12, 2, 0, 2),
        ("real-iad", 30, 5, 0, 10),
    ],
)
def test_industrial_sets_make_one_model_or_one_a_class(
    benchmark: str, classes: int, train: int, held_out: int, test: int, tmp_path: Path
) -> None:
    """Counts of pictures a class; every test picture names its class; all names differ; the pictures decode."""
    root = WRITERS[benchmark](tmp_path / "data")
    per_class = open_tasks(settings(root, benchmark, "per-class"))
    assert len(per_class) == classes
    for task in per_class:
        sizes = [len(part) for part in (task.dataset.train, task.dataset.held_out, task.dataset.test)]
        assert sizes == [train, held_out, test]
        assert {sample.category for sample in task.dataset.test} == {task.name}
    (together,) = open_tasks(settings(root, benchmark, "one-model"))
    assert together.dataset.train == [sample for task in per_class for sample in task.dataset.train]
    assert together.dataset.test == [sample for task in per_class for sample in task.dataset.test]
    every = [*together.dataset.train, *together.dataset.held_out, *together.dataset.test]
    assert len({sample.name for sample in every}) == len(every) == classes * (train + held_out + test)
    assert {sample.kind for sample in (*together.dataset.train, *together.dataset.held_out)} == {GOOD}
    assert all(image.shape == (20, 30, 3) for image in read_samples(per_class[0].dataset.test))
    for sample in together.dataset.test:
        assert read_mask(sample, (20, 30)).any() == (sample.kind != GOOD)


@pytest.mark.parametrize(
    ("benchmark", "classes", "train_each", "test_each"),
    [
        ("cifar-10", 10, 10, 2),
        ("cifar-100", 100, 1, 1),
        ("cifar-100-coarse", 20, 5, 5),
        ("fashion-mnist", 10, 2, 2),
        ("view", 6, 2, 1),
    ],
)
def test_semantic_sets_test_on_the_whole_official_test_set(
    benchmark: str, classes: int, train_each: int, test_each: int, tmp_path: Path
) -> None:
    """One class, or half of them, is good; every other test picture is anomalous and named after its class."""
    root = WRITERS[benchmark](tmp_path / "data")
    one = open_tasks(settings(root, benchmark, "one-vs-rest"))
    names = [task.name for task in one]
    assert len(set(names)) == classes
    for task in one:
        assert [sample.kind for sample in task.dataset.train] == [GOOD] * train_each
        expected = {GOOD if name == task.name else name: test_each for name in names}
        assert count_kinds(task) == expected
    assert not {sample.name for sample in one[0].dataset.train} & {
        sample.name for sample in one[1].dataset.train
    }

    half = classes // 2
    good = {"first-half": names[:half], "second-half": names[half:], "even": names[::2], "odd": names[1::2]}
    many = open_tasks(settings(root, benchmark, "many-vs-many"))
    assert [task.name for task in many] == list(good)
    for task in many:
        assert len(task.dataset.train) == half * train_each
        anomalous = {name: test_each for name in names if name not in good[task.name]}
        assert count_kinds(task) == {GOOD: half * test_each, **anomalous}


def test_loco_keeps_its_validation_pictures_to_calibrate_on_and_joins_its_masks(tmp_path: Path) -> None:
    """All masks of a picture count, whatever grey value each has; the kinds stay apart."""
    root = files.write_mvtec_loco(tmp_path / "loco", ["pushpins"])
    dataset = open_task(settings(root, "mvtec-loco", "one-model", classes=["pushpins"])).dataset
    assert [sample.name for sample in dataset.held_out] == [
        "pushpins/validation/good/000.png",
        "pushpins/validation/good/001.png",
    ]
    (sample,) = (sample for sample in dataset.test if sample.kind == "logical_anomalies")
    columns = np.flatnonzero(read_mask(sample, (20, 30)).all(axis=0)).tolist()
    assert columns == [0, 1, 2, 10, 11, 12]


def test_held_out_pictures_belong_to_the_digest(tmp_path: Path) -> None:
    """Another calibration is another run."""
    root = files.write_mvtec_loco(tmp_path / "loco", ["pushpins"])
    data = settings(root, "mvtec-loco", "one-model", classes=["pushpins"])
    before = open_task(data).dataset.digest()
    files.write_picture(root / "pushpins/validation/good/000.png", seed=99)
    assert open_task(data).dataset.digest() != before


def test_real_iad_names_the_part_of_each_view(tmp_path: Path) -> None:
    """Five views a part; a view in which the defect does not show is good, though its part is not."""
    root = files.write_real_iad(tmp_path / "iad", ["usb"])
    dataset = open_task(settings(root, "real-iad", "per-class", classes=["usb"])).dataset
    views = Counter(sample.part for sample in dataset.test)
    assert views == {"usb/OK/S0002": 5, "usb/NG/BX/S0003": 5}
    assert Counter(s.kind for s in dataset.test if s.part == "usb/NG/BX/S0003") == {"BX": 4, GOOD: 1}


def test_real_iad_reads_the_largest_pictures_and_either_place_of_the_splits(tmp_path: Path) -> None:
    """realiad_1024 before realiad_256; realiad_jsons with and without a folder of its own name inside."""
    root = files.write_real_iad(tmp_path / "iad", ["usb"])
    files.write_real_iad(root, ["usb"], folder="realiad_1024")
    shutil.move(root / "realiad_jsons/realiad_jsons/usb.json", root / "realiad_jsons/usb.json")
    dataset = open_task(settings(root, "real-iad", "per-class", classes=["usb"])).dataset
    assert dataset.train[0].path.is_relative_to(root / "realiad_1024/usb/OK/S0001")


def test_pictures_of_archives_are_bgr(tmp_path: Path) -> None:
    """CIFAR keeps red first; idx pictures are grey in all three channels; rows and labels stay together."""
    cifar = files.write_cifar_10(tmp_path / "cifar")
    task = open_task(settings(cifar, "cifar-10", "one-vs-rest", task="bird"))
    assert [sample.name for sample in task.dataset.train[:3]] == [
        "data_batch_1#2", "data_batch_1#12", "data_batch_2#2",
    ]  # fmt: skip
    second = list(read_samples(task.dataset.train))[1]
    red_first = files.cifar_rows(20, seed=0)[12].reshape(3, 32, 32)
    np.testing.assert_array_equal(second, red_first[::-1].transpose(1, 2, 0))
    fashion = files.write_fashion_mnist(tmp_path / "fashion")
    picture = next(
        read_samples(open_task(settings(fashion, "fashion-mnist", "one-vs-rest", task="bag")).dataset.test)
    )
    assert (picture.shape, picture.dtype) == ((28, 28, 3), np.uint8)
    assert (picture == picture[..., :1]).all()
    assert picture.std() > 10


def test_idx_files_may_be_unpacked(tmp_path: Path) -> None:
    """The same data set, gzipped as offered or not."""
    zipped, plain = (
        open_task(
            settings(
                files.write_fashion_mnist(tmp_path / str(state), zipped=state), "fashion-mnist", "one-vs-rest",
                task="coat",
            )
        )
        for state in (True, False)
    )  # fmt: skip
    pictures = [list(read_samples(task.dataset.test)) for task in (zipped, plain)]
    np.testing.assert_array_equal(*pictures)
    assert [sample.kind for sample in zipped.dataset.test] == [sample.kind for sample in plain.dataset.test]


class Hostile:
    """What a pickle can do to who loads it with pickle.load."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


def test_a_hostile_pickle_does_nothing(tmp_path: Path) -> None:
    """It is refused with the name of what it asked for, which is not called."""
    root = files.write_cifar_10(tmp_path / "cifar")
    target = tmp_path / "made_by_the_pickle"
    (root / "data_batch_2").write_bytes(pickle.dumps({b"labels": Hostile(target)}, protocol=4))
    with pytest.raises(DataError, match=r"data_batch_2: .* it asks for \w+\.mkdir"):
        open_tasks(settings(root, "cifar-10", "one-vs-rest"))
    assert not target.exists()
    pickle.loads((root / "data_batch_2").read_bytes())
    assert target.exists()  # so the file was dangerous


def test_pickles_of_a_newer_python_and_numpy_are_read_too(tmp_path: Path) -> None:
    """Copies of the official files that were written again."""
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({b"data": files.cifar_rows(4, seed=0)}, protocol=4))
    assert read_pictures(path, "cifar").shape == (4, 32, 32, 3)


def test_data_task_opens_only_that_model(tmp_path: Path) -> None:
    """The other classes need not be there; without it, several models are too many for one run."""
    root = files.write_mvtec_ad(tmp_path / "ad", ["cable", "screw"])
    assert open_task(settings(root, "mvtec-ad", "per-class", task="cable")).name == "cable"
    with pytest.raises(DataError, match=r"2 models; set data\.task: cable, screw"):
        open_task(settings(root, "mvtec-ad", "per-class", classes=["screw", "cable"]))


def test_classes_choose_the_models_but_not_the_test_set(tmp_path: Path) -> None:
    """One-vs-rest on two of ten classes is two models, each tested against all others."""
    root = files.write_cifar_10(tmp_path / "cifar")
    tasks = open_tasks(settings(root, "cifar-10", "one-vs-rest", classes=["cat", "ship"]))
    assert [task.name for task in tasks] == ["cat", "ship"]
    assert len(count_kinds(tasks[0])) == 10


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"protocol": "one-vs-rest"}, "mvtec-ad has one-model and per-class"),
        ({"protocol": None}, "mvtec-ad has one-model and per-class"),
        ({"benchmark": "view"}, "view has one-vs-rest and many-vs-many"),
        (
            {"benchmark": "view", "protocol": "many-vs-many", "classes": ["sea"]},
            "many-vs-many splits all classes",
        ),
        ({"layout": "mvtec"}, "leave out data.layout"),
        ({"benchmark": None}, "protocol is for a benchmark"),
        ({"benchmark": None, "protocol": None, "task": "cable"}, "task is for a benchmark"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    more: dict[str, object], words: str, tmp_path: Path
) -> None:
    """By the configuration already, with what there is."""
    tree = {"root": str(tmp_path), "benchmark": "mvtec-ad", "protocol": "per-class", **more}
    with pytest.raises(msgspec.ValidationError, match=words):
        msgspec.convert(tree, DataConfig)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            {"classes": ["cabel"]},
            r"data\.classes: there is no 'cabel'; did you mean 'cable'\? there are: bottle, ",
        ),
        ({"task": "bottel"}, r"data\.task: there is no 'bottel'; did you mean 'bottle'"),
        (
            {"protocol": "one-model", "task": "cable"},
            r"data\.task: there is no 'cable'; there are: one-model",
        ),
    ],
)
def test_a_wrong_name_gets_the_right_one(more: dict[str, object], words: str, tmp_path: Path) -> None:
    """Of a class, or of a model."""
    root = files.write_mvtec_ad(tmp_path / "ad", ["cable"])
    with pytest.raises(DataError, match=words):
        open_tasks(settings(root, "mvtec-ad", **{"protocol": "per-class", **more}))  # type: ignore[arg-type]


@pytest.mark.parametrize("benchmark", WRITERS)
def test_a_root_one_level_off_is_named(benchmark: str, tmp_path: Path) -> None:
    """One too high or one too low, with the layout there should be; and a root that is none."""
    root = WRITERS[benchmark](tmp_path / "sets" / "data")
    protocol = (
        "one-vs-rest" if benchmark in ("view", "fashion-mnist") or "cifar" in benchmark else "per-class"
    )
    with pytest.raises(DataError, match=rf"did you mean {root}\?\n.*: .*"):
        open_tasks(settings(root.parent, benchmark, protocol))
    (root / "elsewhere").mkdir()
    with pytest.raises(DataError, match=rf"did you mean {root}\?"):
        open_tasks(settings(root / "elsewhere", benchmark, protocol))
    with pytest.raises(DataError, match="no such folder; set data"):
        open_tasks(settings(root / "nowhere", benchmark, protocol))


@pytest.mark.parametrize(
    ("benchmark", "gone", "words"),
    [
        ("mvtec-ad", "cable/train/good", "{root}/cable/train/good: no such folder"),
        ("mvtec-ad", "cable/test", "{root}/cable/test: no such folder"),
        ("mvtec-ad", "cable/test/bent", "class cable has no anomalous test picture"),
        ("mvtec-ad", "cable/test/good", "class cable has no good test picture"),
        ("mvtec-ad", "cable/train/good/*.png", "{root}/cable/train/good: holds no picture"),
        ("mvtec-loco", "pushpins/validation", "{root}/pushpins/validation/good: no such folder"),
        ("mvtec-loco", "pushpins/test/logical_anomalies", "pushpins/test/logical_anomalies: no such folder"),
        ("visa", "split_csv/1cls.csv", "{root}/split_csv/1cls.csv: cannot be read"),
        ("real-iad", "realiad_256", "has none of the folders realiad_1024, realiad_512, realiad_256"),
        ("real-iad", "realiad_jsons/realiad_jsons/usb.json", "{root}/realiad_jsons/usb.json: cannot be read"),
        ("cifar-10", "data_batch_4", "{root}/data_batch_4: cannot be read"),
        ("cifar-10", "batches.meta", "{root}/batches.meta: cannot be read"),
        ("cifar-100", "test", "{root}/test: cannot be read"),
        ("fashion-mnist", "t10k-labels-idx1-ubyte.gz", "{root}/t10k-labels-idx1-ubyte: cannot be read"),
        ("fashion-mnist", "t10k-images-idx3-ubyte.gz", "{root}/t10k-images-idx3-ubyte: no such file"),
        ("view", "seg_train/seg_train/sea", "{root}/seg_train/seg_train/sea: no such folder"),
        ("view", "seg_test/seg_test/sea/*.jpg", "{root}/seg_test/seg_test/sea: holds no picture"),
    ],
)
def test_a_missing_official_file_is_named_with_its_layout_and_origin(
    benchmark: str, gone: str, words: str, tmp_path: Path
) -> None:
    """Which file, how the files lie, and who offers them."""
    root = WRITERS[benchmark](tmp_path / "data")
    for path in root.glob(gone):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    protocol = (
        "one-vs-rest" if benchmark in ("view", "fashion-mnist") or "cifar" in benchmark else "per-class"
    )
    with pytest.raises(DataError) as caught:
        open_tasks(settings(root, benchmark, protocol))
    assert words.format(root=root) in str(caught.value)
    assert "the official files come from" in str(caught.value)


@pytest.mark.parametrize(
    ("benchmark", "file", "content", "words"),
    [
        ("visa", "split_csv/1cls.csv", b"object,set,image\n1,2,3\n", "has not the columns object,split"),
        ("visa", "split_csv/1cls.csv", b"object,split,label,image,mask\ncandle,train,bad,x,\n", "1cls.csv:2: split"),
        ("visa", "split_csv/1cls.csv", b"object,split,label,image,mask\n", "has not the columns"),
        ("real-iad", "realiad_jsons/realiad_jsons/usb.json", b"{}", "is not a split of Real-IAD: "),
        ("cifar-10", "test_batch", b"\x80\x02]q\x00.", "test_batch: .* it holds no dictionary"),
        ("cifar-10", "test_batch", b"<html>", "test_batch: is not a file of CIFAR's python version"),
        ("cifar-10", "test_batch", b"\x80\x02}q\x00.", "test_batch: has no list labels"),
        ("fashion-mnist", "train-labels-idx1-ubyte.gz", b"<html>", "is not an idx file of uint8 with 1 dimensions"),
        ("fashion-mnist", "train-labels-idx1-ubyte.gz", b"\x1f\x8b", "cannot be read"),
        ("fashion-mnist", "train-labels-idx1-ubyte.gz", bytes([0, 0, 8, 1, 0, 0, 0, 9, 1]), r"holds \(9,\) values"),
        ("fashion-mnist", "train-labels-idx1-ubyte.gz", bytes([0, 0, 8, 1, 0, 0, 0, 1, 10]), "label 10 is none of"),
    ],
)  # fmt: skip
def test_an_official_file_with_other_contents_is_named(
    benchmark: str, file: str, content: bytes, words: str, tmp_path: Path
) -> None:
    """A page of HTML in its place, a newer edition, a cut download."""
    root = WRITERS[benchmark](tmp_path / "data")
    (root / file).write_bytes(content)
    protocol = "one-vs-rest" if benchmark in ("cifar-10", "fashion-mnist") else "per-class"
    with pytest.raises(DataError, match=words):
        open_tasks(settings(root, benchmark, protocol))


def test_labels_outside_the_classes_are_refused(tmp_path: Path) -> None:
    """In CIFAR's pickles, where nothing else would notice."""
    root = files.write_cifar_10(tmp_path / "cifar")
    files.write_pickle(root / "test_batch", {b"data": files.cifar_rows(2, 0), b"labels": [3, 10]})
    files.write_pickle(root / "batches.meta", {b"label_names": [b"airplane"]})
    with pytest.raises(DataError, match=r"names 1 classes, not 10\n.*test_batch: label 10 is none of 0 to 9"):
        open_tasks(settings(root, "cifar-10", "one-vs-rest"))


def test_anomalies_among_real_iads_training_pictures_are_refused(tmp_path: Path) -> None:
    """As in its splits for training without any labels, which lie beside the official one."""
    root = files.write_real_iad(tmp_path / "iad", ["usb"])
    path = root / "realiad_jsons/realiad_jsons/usb.json"
    path.write_text(path.read_text().replace('"anomaly_class": "OK"', '"anomaly_class": "BX"', 1))
    with pytest.raises(DataError, match="has anomalies among its training pictures"):
        open_tasks(settings(root, "real-iad", "per-class", classes=["usb"]))


def test_all_missing_classes_are_named_at_once(tmp_path: Path) -> None:
    """Not one in each try."""
    root = files.write_mvtec_ad(tmp_path / "ad", AD_CLASSES[:12])
    with pytest.raises(DataError) as caught:
        open_tasks(settings(root, "mvtec-ad", "one-model"))
    assert all(f"{root}/{name}: no such folder" in str(caught.value) for name in AD_CLASSES[12:])


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs real data in {SHARED}")
def test_real_tiles_are_read_as_a_class_of_ones_own() -> None:
    """758 good tiles to train on; 194 good and 392 defective ones to test, all with masks."""
    task = open_task(settings(SHARED, "mvtec-like", "per-class", classes=["magnetic_tile"]))
    assert (len(task.dataset.train), len(task.dataset.test)) == (758, 586)
    assert count_kinds(task)[GOOD] == 194
    assert all(sample.mask for sample in task.dataset.test if sample.kind != GOOD)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs real data in {SHARED}")
@pytest.mark.parametrize(
    ("benchmark", "folder", "train", "test"),
    [("cifar-10", "cifar-10-batches-py", 500, 200), ("fashion-mnist", "fashion_mnist", 1000, 300)],
)
def test_real_archives_are_read(benchmark: str, folder: str, train: int, test: int) -> None:
    """So many pictures a class; and they are pictures: neighbouring rows are alike, which noise is not."""
    for task in open_tasks(settings(SHARED / folder, benchmark, "one-vs-rest")):
        assert len(task.dataset.train) == train
        assert set(count_kinds(task).values()) == {test}
        picture = next(read_samples(task.dataset.train)).astype(float)
        assert np.abs(np.diff(picture, axis=0)).mean() < picture.std()
