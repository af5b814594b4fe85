"""Every shape of the model that NVIDIA's compiler must take, with random weights: exported in FP16 and built.

TensorRT for RTX compiles on a CPU; its plans run on a GPU only, so this says nothing of accuracy or speed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from dualkd.export.onnx_graph import write_onnx
from dualkd.export.tensorrt_engine import BuildSettings, build_plan
from dualkd.train.config import TrainConfig
from dualkd.train.detector import Detector

METHODS = ("dual", "snl")
STUDENTS = ("local", "semantic", "both")
TEACHERS = ("vit_small_patch14_dinov2", "vit_base_patch14_dinov2")
SIDES = (224, 392)
BATCHES = (1, 8)


class Case(NamedTuple):
    method: str
    students: str
    teacher: str
    side: int  # pixels
    max_batch: int

    def __str__(self) -> str:
        return f"{self.method}-{self.students}-{self.teacher.split('_')[1]}-{self.side}-{self.max_batch}"


ALL = [
    Case(*values)
    for values in product(METHODS, STUDENTS, TEACHERS, SIDES, BATCHES)
    if values[:2] != ("snl", "semantic")  # SNL is the local student's: there is no such model
]
COVERING = [  # every value at least once
    Case("dual", "both", "vit_small_patch14_dinov2", 224, 1),
    Case("snl", "local", "vit_base_patch14_dinov2", 392, 8),
    Case("dual", "semantic", "vit_base_patch14_dinov2", 224, 8),
]


class Compiled(NamedTuple):
    graph_bytes: int
    plan_bytes: int
    export_s: float
    build_s: float


def random_detector(case: Case, local_blocks: Sequence[int], semantic_blocks: Sequence[int]) -> Detector:
    """The default model that reads these blocks, no weight or buffer of it zero."""
    settings = {
        "run": "none",
        "name": str(case),
        "method": case.method,
        "students": case.students,
        "data": {"root": "none"},
        "input": {"height": case.side, "width": case.side},
        "teacher": {"name": case.teacher},
        "local": {"blocks": list(local_blocks)},
        "semantic": {"blocks": list(semantic_blocks)},
    }
    torch.manual_seed(0)
    detector = Detector(msgspec.convert(settings, TrainConfig)).eval()
    with torch.no_grad():
        for tensor in (*detector.parameters(), *detector.buffers()):
            if tensor.is_floating_point() and not tensor.any():
                tensor.normal_(std=0.02)
    return detector


def compile_case(trt: Any, case: Case, detector: Detector, folder: Path) -> Compiled:
    """Export the detector's FP16 graph and build it into a plan, both in `folder`."""
    graph, plan = folder / "model.fp16.onnx", folder / "model.fp16.plan"
    started = time.monotonic()
    write_onnx(detector, graph, size=(case.side, case.side), max_batch=case.max_batch, precision="fp16")
    exported = time.monotonic()
    build_plan(trt, graph, plan, max_batch=case.max_batch, settings=BuildSettings())
    built = time.monotonic()
    return Compiled(graph.stat().st_size, plan.stat().st_size, exported - started, built - exported)
