"""What the settings of semantic.yaml cost in the engine: the work of the graph, teacher and student apart.

    python tests/bench/semantic_cost.py tests/bench/experiments/semantic.yaml --out build/semantic_cost

One row for each variant whose graph differs from those before: GFLOP a frame (export/work.py counts them) and the
median milliseconds on one thread of ONNX Runtime. Weights do not matter here and are random.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from dualkd.configs.loader import load
from dualkd.export.work import count_work
from dualkd.train.config import TrainConfig
from dualkd.train.detector import Detector
from dualkd.train.teacher import TeacherTokens
from methods import Experiment
from torch import Tensor, nn

REPEATS = 30


class Student(nn.Module):
    """The semantic student's part of a detector: its network, and the metric."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor, global_tokens: Tensor) -> Tensor:
        return self.detector.score(TeacherTokens(global_tokens[:, :0], global_tokens), images)[0]


def measure(network: nn.Module, inputs: Sequence[Tensor], path: Path) -> tuple[float, float]:
    """GFLOP and milliseconds a frame."""
    program = torch.onnx.export(network.eval(), tuple(inputs), dynamo=True, verbose=False)
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    program.save(str(path), external_data=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    feed = {known.name: value.numpy() for known, value in zip(session.get_inputs(), inputs, strict=True)}
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        session.run(None, feed)
        times.append(1e3 * (time.perf_counter() - started))
    return count_work(path).flop / 1e9, float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    experiment = load(options.experiment, Experiment, [])
    teachers: dict[int, tuple[float, float]] = {}
    seen = []
    for name, overrides in experiment.variants.items():
        config = load(Path(experiment.recipe), TrainConfig, [*experiment.common, *options.set, *overrides])
        if config.semantic in seen:
            continue
        seen.append(config.semantic)
        detector = Detector(config).eval()
        images = torch.zeros(1, 3, config.input.height, config.input.width)
        last = max(config.semantic.blocks)
        if last not in teachers:
            teachers[last] = measure(detector.teacher, [images], options.out / "teacher.onnx")
        with torch.inference_mode():
            tokens = detector.teacher(images).global_tokens.clone()
        student = measure(Student(detector), [images, tokens], options.out / "student.onnx")
        print(
            f"{name}: student {student[0]:.3f} GFLOP, {student[1]:.1f} ms; "
            f"teacher to block {last} {teachers[last][0]:.2f} GFLOP, {teachers[last][1]:.1f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()
