"""From a complete run to a bundle that the daemon accepts, or to nothing at all."""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from dualkd.daemon.bundle import (
    Bundle,
    GraphFile,
    InputSpec,
    Manifest,
    Parity,
    TeacherSpec,
    file_sha256,
    new_bundle_folder,
    write_manifest,
)
from dualkd.daemon.engine_onnx import OnnxEngine
from dualkd.export.onnx_graph import write_onnx
from dualkd.export.parity import FP16, FP32, compare, run_engine
from dualkd.train.benchmarks import open_task
from dualkd.train.checkpoint import Run, RunError, load_detector
from dualkd.train.datasets import DataError
from dualkd.train.detector import Detector, predict
from dualkd.train.images import load_frames

log = logging.getLogger(__name__)

GRAPH_NAMES = {"fp32": "model.onnx", "fp16": "model.fp16.onnx"}
PARITY_FRAMES = 16


def export_run(run_folder: Path, target: Path, *, fp16: bool, max_batch: int, command: str) -> Manifest:
    """Write the bundle `target` from a run: graphs, parity on held-out frames, calibration, sums.

    Raises RunError, WeightsError, DataError, ParityError, EngineError, BundleError; then nothing is written.
    """
    detector, run = load_detector(run_folder)
    if run.calibration is None:
        raise RunError(f"{run_folder}: the run has no calibration")
    size = (run.config.input.height, run.config.input.width)
    frames = _parity_frames(run, size)
    with new_bundle_folder(target) as folder:
        manifest = _manifest(run, detector, max_batch, command)
        for precision in ("fp32", "fp16") if fp16 else ("fp32",):
            path = folder / GRAPH_NAMES[precision]
            log.info("writing %s", path.name)
            write_onnx(detector, path, size=size, max_batch=max_batch, precision=precision)
            graph = GraphFile(file=path.name, sha256=file_sha256(path), precision=precision)
            manifest = msgspec.structs.replace(manifest, graphs=[*manifest.graphs, graph])
        parity = _check_parity(Bundle(folder, manifest, ""), detector, frames)
        manifest = msgspec.structs.replace(manifest, parity=parity)
        write_manifest(folder, manifest)
    return manifest


def _check_parity(bundle: Bundle, detector: Detector, frames: npt.NDArray[np.uint8]) -> Parity:
    """FP32 graph against the torch module; FP16 graph, if any, against the FP32 one."""
    calibration = bundle.manifest.calibration
    reference = predict(detector, torch.from_numpy(frames), torch.device("cpu"))
    with OnnxEngine(bundle) as engine:
        exported = run_engine(engine, frames, batch=1)
        parity = compare(reference, exported, calibration, FP32)
        if bundle.manifest.max_batch > 1:  # the same frames, several at a time, must give the same again
            compare(reference, run_engine(engine, frames, bundle.manifest.max_batch), calibration, FP32)
    log.info("parity with torch on %d frames: %s", parity.frames, msgspec.structs.asdict(parity))
    if any(graph.precision == "fp16" for graph in bundle.manifest.graphs):
        with OnnxEngine(bundle, precision="fp16") as engine:
            half = compare(exported, run_engine(engine, frames), calibration, FP16)
        log.info("FP16 against FP32, relative: %s", msgspec.structs.asdict(half))
    return parity


def _parity_frames(run: Run, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Held-out good images of the run, evenly spaced over all of them, as the daemon would see them."""
    dataset = open_task(run.config.data).dataset
    names = set(run.held_out)
    samples = [sample for sample in (*dataset.train, *dataset.held_out) if sample.name in names]
    if len(samples) != len(names):
        raise DataError(
            f"{run.config.data.root}: {len(names) - len(samples)} of the run's {len(names)} held-out images are gone; "
            "the exported graph is checked on them, so put them back"
        )
    chosen = np.linspace(0, len(samples) - 1, min(len(samples), PARITY_FRAMES)).astype(int)
    return load_frames([samples[index] for index in chosen], size).numpy()


def _manifest(run: Run, detector: Detector, max_batch: int, command: str) -> Manifest:
    if run.calibration is None:
        raise RunError("the run has no calibration")
    return Manifest(
        schema=1,
        name=run.config.name,
        created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        method=run.config.method,
        students=run.config.students,
        input=InputSpec(height=run.config.input.height, width=run.config.input.width),
        map_size=detector.grid if detector.local is not None else None,
        max_batch=max_batch,
        graphs=[],
        plans=[],
        calibration=run.calibration,
        teacher=TeacherSpec(name=run.teacher.teacher, weights=run.teacher.source, sha256=run.teacher.sha256),
        parity=Parity(
            frames=1,
            max_difference_local=None,
            max_difference_semantic=None,
            max_difference_map=None,
            verdict_flips=0,
        ),
        command=command,
        versions={**run.versions, **{name: version(name) for name in ("onnx", "onnxscript", "onnxruntime")}},
    )
