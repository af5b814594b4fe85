"""The benchmarks: each as its official files lie on disk, and the models that its protocol asks for.

Knows which benchmark is read by which module, and helps who is a folder off. Reads no file itself.
"""

from __future__ import annotations

from pathlib import Path

from dualkd.train.benchmarks.cifar import CIFAR_10, CIFAR_100, CIFAR_100_COARSE
from dualkd.train.benchmarks.fashion_mnist import FASHION_MNIST
from dualkd.train.benchmarks.mvtec import MVTEC_AD, MVTEC_LIKE, MVTEC_LOCO
from dualkd.train.benchmarks.protocols import Industrial, Semantic, industrial_tasks, semantic_tasks
from dualkd.train.benchmarks.real_iad import REAL_IAD
from dualkd.train.benchmarks.view import VIEW
from dualkd.train.benchmarks.visa import VISA
from dualkd.train.config import Benchmark, DataConfig
from dualkd.train.datasets import DataError, Task, open_dataset

BENCHMARKS: dict[Benchmark, Industrial | Semantic] = {
    "mvtec-ad": MVTEC_AD,
    "mvtec-loco": MVTEC_LOCO,
    "mvtec-like": MVTEC_LIKE,
    "visa": VISA,
    "real-iad": REAL_IAD,
    "cifar-10": CIFAR_10,
    "cifar-100": CIFAR_100,
    "cifar-100-coarse": CIFAR_100_COARSE,
    "fashion-mnist": FASHION_MNIST,
    "view": VIEW,
}


def open_tasks(data: DataConfig) -> list[Task]:
    """The models that `data` asks for: one of a plain layout, and of a benchmark `data.task` or all of them.

    Looks for files, but into no picture (see check_tasks). Raises DataError with all that is missing.
    """
    if data.benchmark is None:
        dataset = open_dataset(data.root, data.layout, data.start, data.stop)
        return [Task(dataset.name, dataset)]
    benchmark = BENCHMARKS[data.benchmark]
    _check_root(Path(data.root), benchmark)
    if isinstance(benchmark, Industrial):
        return industrial_tasks(benchmark, data)
    return semantic_tasks(benchmark, data)


def open_task(data: DataConfig) -> Task:
    """The one model that `data` asks for. Raises DataError, also if there are several to choose from."""
    tasks = open_tasks(data)
    if len(tasks) > 1:
        names = ", ".join(task.name for task in tasks)
        raise DataError(f"{data.benchmark}, {data.protocol}, has {len(tasks)} models; set data.task: {names}")
    return tasks[0]


def _check_root(root: Path, benchmark: Industrial | Semantic) -> None:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; set data.root")
    if benchmark.is_root(root):
        return
    inside = sorted(entry for entry in root.iterdir() if entry.is_dir())
    meant = [folder for folder in (root.resolve().parent, *inside) if benchmark.is_root(folder)]
    hint = f"; did you mean {meant[0]}?" if meant else ""
    raise DataError.of([f"{root}: holds nothing of {benchmark.title}{hint}"], benchmark.advice)
