"""A TensorRT plan into a bundle, on the machine that will run it: built, held to the gate, bound, or left out.

Needs no torch. Knows bundles and the gate; tensorrt_engine.py knows how a plan is built.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from dualkd.daemon.bundle import (
    Bundle,
    Machine,
    Parity,
    PlanFile,
    Precision,
    file_sha256,
    write_manifest,
)
from dualkd.daemon.engine import Engine, EngineError
from dualkd.daemon.engine_onnx import OnnxEngine
from dualkd.daemon.frames import FrameError, list_images, read_image, to_model_size
from dualkd.daemon.machine import load_tensorrt, this_machine
from dualkd.export.parity import FP16, FP16_PLAN, FP32_PLAN, compare_engines
from dualkd.export.tensorrt_engine import BuildSettings, build_plan

log = logging.getLogger(__name__)

PLAN_LIMITS = {"fp16": FP16_PLAN, "fp32": FP32_PLAN}

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PlanBuilder:
    """Builds plans for `machine` with the module `trt`; `open_engine` runs one: path, (height, width), precision."""

    machine: Machine
    trt: Any
    open_engine: Callable[[Path, tuple[int, int], Precision], Engine]
    settings: BuildSettings
    command: str  # the command line, for the manifest

    @classmethod
    def here(cls, settings: BuildSettings, command: str) -> PlanBuilder:
        """For this machine. Raises EngineError where it has no GPU, no TensorRT or nothing to run plans with."""
        machine = this_machine()
        if find_spec("pycuda") is None:
            raise EngineError(
                "pycuda is not installed here, and no plan is believed before it has run; install dualkd[tensorrt] "
                "where the CUDA toolkit is"
            )
        return cls(machine, load_tensorrt()[1], _open_tensorrt, settings, command)

    def add(self, bundle: Bundle, precision: Precision, frames: Iterable[Frames]) -> PlanFile:
        """Give `bundle` the plan of its graph of this precision, in place of one that it has for this machine.

        The manifest changes once, at the end, and only for a plan that passed the gate on `frames`, batches
        of (B, H, W, 3). Raises BundleError, EngineError, ParityError, FrameError; then nothing has changed.
        """
        graph, manifest = bundle.graph(precision), bundle.manifest
        size = (manifest.input.height, manifest.input.width)
        built = bundle.path / f".{graph.stem}.plan"
        try:
            build_plan(self.trt, graph, built, max_batch=manifest.max_batch, settings=self.settings)
            with (
                OnnxEngine.of(bundle) as reference,
                self.open_engine(built, size, precision) as candidate,
            ):
                parity = compare_engines(
                    reference, candidate, frames, manifest.calibration, PLAN_LIMITS[precision]
                )
            log.info("plan against FP32 graph, relative: %s", msgspec.structs.asdict(parity))
            sha256 = file_sha256(built)
            plan = PlanFile(
                file=f"{graph.stem}.{_slug(self.machine.gpu_name)}.{sha256[:8]}.plan",
                sha256=sha256,
                precision=precision,
                machine=self.machine,
                parity=parity,
                command=self.command,
            )
            built.replace(bundle.path / plan.file)
        finally:
            built.unlink(missing_ok=True)
        replaced = [old for old in manifest.plans if self._replaces(old, precision)]
        kept = [old for old in manifest.plans if old not in replaced]
        write_manifest(bundle.path, msgspec.structs.replace(manifest, plans=[*kept, plan]))
        for file in {old.file for old in replaced} - {old.file for old in (*kept, plan)}:
            (bundle.path / file).unlink(missing_ok=True)
        return plan

    def _replaces(self, old: PlanFile, precision: Precision) -> bool:
        return old.precision == precision and not self.machine.mismatch(old.machine)


def verify(bundle: Bundle, frames: Callable[[], Iterable[Frames]]) -> Iterator[tuple[str, Parity]]:
    """Compare every form of the model that can run here with the FP32 graph: name of the file, how far it is.

    The FP16 graph by ONNX Runtime; of each precision that the bundle has plans of, the one for this machine.
    Raises ParityError, BundleError (no plan fits), EngineError, FrameError.
    """
    calibration, size = (
        bundle.manifest.calibration,
        (bundle.manifest.input.height, bundle.manifest.input.width),
    )
    with OnnxEngine.of(bundle) as reference:
        if any(graph.precision == "fp16" for graph in bundle.manifest.graphs):
            with OnnxEngine.of(bundle, precision="fp16") as engine:
                parity = compare_engines(reference, engine, frames(), calibration, FP16)
            yield bundle.graph("fp16").name, parity
        for precision in sorted({plan.precision for plan in bundle.manifest.plans}):
            plan = bundle.plan(precision, this_machine())
            with _open_tensorrt(plan, size, precision) as engine:
                parity = compare_engines(reference, engine, frames(), calibration, PLAN_LIMITS[precision])
            yield plan.name, parity


def gate_frames(bundle: Bundle, parts: Path | None) -> Iterator[Frames]:
    """The bundle's self-test frame, then the pictures in the folder `parts`, as the daemon would see them.

    In batches of at most the bundle's max_batch. Raises FrameError.
    """
    manifest = bundle.manifest
    paths = [bundle.path / manifest.self_test.file]
    if parts is not None:
        pictures = list_images(parts) if parts.is_dir() else []
        if not pictures:
            raise FrameError(f"{parts}: no images there; give a folder of pictures of parts")
        paths += pictures
    for start in range(0, len(paths), manifest.max_batch):
        chosen = paths[start : start + manifest.max_batch]
        size = manifest.input.height, manifest.input.width
        yield np.stack([to_model_size(read_image(path), *size) for path in chosen])
        if sys.stderr.isatty():
            done = start + len(chosen)
            end = "\n" if done == len(paths) else ""
            print(f"\r{done}/{len(paths)} frames compared", end=end, file=sys.stderr, flush=True)


def _open_tensorrt(plan: Path, size: tuple[int, int], precision: Precision) -> Engine:
    from dualkd.daemon.engine_tensorrt import TensorRTEngine  # needs pycuda, which other commands do not

    return TensorRTEngine(plan, input_size=size, precision=precision)


def _slug(name: str) -> str:
    """`name` as part of a file name: NVIDIA H200 -> nvidia-h200."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
