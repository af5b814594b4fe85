"""From a complete run to a bundle that the daemon accepts, or to nothing at all."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import torch
from dualkd.daemon.bundle import (
    BundleError,
    GraphFile,
    InputSpec,
    Manifest,
    Parity,
    Precision,
    SelfTest,
    TeacherSpec,
    file_sha256,
    load_bundle,
    new_bundle_folder,
    write_manifest,
)
from dualkd.daemon.decision import Calibration
from dualkd.daemon.engine_onnx import OnnxEngine
from dualkd.export.fp16_range import HALF_MAX, check_range
from dualkd.export.onnx_graph import write_onnx
from dualkd.export.parity import FP16, FP32, batches, compare, run_engine
from dualkd.export.plans import PlanBuilder
from dualkd.export.work import count_work
from dualkd.train.benchmarks import open_task
from dualkd.train.checkpoint import Run, RunError, load_detector
from dualkd.train.datasets import DataError
from dualkd.train.detector import Detector, predict
from dualkd.train.images import load_frames

log = logging.getLogger(__name__)

GRAPH_NAMES = {"fp32": "model.onnx", "fp16": "model.fp16.onnx"}
PARITY_FRAMES = 16
SELF_TEST_NAME = "self_test.png"


def export_run(
    run_folder: Path,
    target: Path,
    *,
    fp16: bool,
    max_batch: int,
    command: str,
    attention: Precision = "fp16",
    builder: PlanBuilder | None = None,
    plans: Sequence[Precision] = (),
) -> Manifest:
    """Write the bundle `target` from a run: graphs, parity on held-out frames, calibration, sums, and `plans`.

    Raises RunError, WeightsError, DataError, RangeError, ParityError, EngineError, BundleError; then nothing
    is written.
    """
    detector, run = load_detector(run_folder)
    if run.calibration is None:
        raise RunError(f"{run_folder}: the run has no calibration")
    size = (run.config.input.height, run.config.input.width)
    frames = _parity_frames(run, size)
    precisions: list[Precision] = ["fp32", "fp16"] if fp16 else ["fp32"]
    with new_bundle_folder(target) as folder:
        graphs = []
        for precision in precisions:
            path = folder / GRAPH_NAMES[precision]
            log.info("writing %s", path.name)
            write_onnx(
                detector,
                path,
                size=size,
                max_batch=max_batch,
                precision=precision,
                attention=attention,
                frames=torch.from_numpy(frames),
            )
            if precision == "fp16":
                log.info("largest number in half precision, of %g: %s", HALF_MAX, check_range(path, frames))
            graphs.append(
                GraphFile(
                    file=path.name, sha256=file_sha256(path), precision=precision, work=count_work(path)
                )
            )
        engines = {
            graph.precision: OnnxEngine(
                folder / graph.file, input_size=size, max_batch=max_batch, precision=graph.precision
            )
            for graph in graphs
        }
        parity = _check_parity(engines, max_batch, run.calibration, detector, frames)
        self_test = _write_self_test(engines["fp32"], frames[0], folder / SELF_TEST_NAME)
        manifest = Manifest(
            schema=2,
            name=run.config.name,
            created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            method=run.config.method,
            students=run.config.students,
            input=InputSpec(height=size[0], width=size[1]),
            map_size=detector.grid if detector.local is not None else None,
            top_count=None if detector.anomaly_map is None else detector.anomaly_map.top_count,
            max_batch=max_batch,
            graphs=graphs,
            plans=[],
            calibration=run.calibration,
            teacher=TeacherSpec(
                name=run.teacher.teacher, weights=run.teacher.source, sha256=run.teacher.sha256
            ),
            parity=parity,
            self_test=self_test,
            command=command,
            versions={
                **run.versions,
                **{name: version(name) for name in ("onnx", "onnxscript", "onnxruntime")},
            },
        )
        write_manifest(folder, manifest)
        if builder is not None:
            for precision in plans:
                builder.add(load_bundle(folder), precision, batches(frames, max_batch))
        return load_bundle(folder).manifest


def _check_parity(
    engines: dict[Precision, OnnxEngine],
    max_batch: int,
    calibration: Calibration,
    detector: Detector,
    frames: npt.NDArray[np.uint8],
) -> Parity:
    """FP32 graph against the torch module; FP16 graph, if any, against the FP32 one."""
    reference = predict(detector, torch.from_numpy(frames), torch.device("cpu"))
    exported = run_engine(engines["fp32"], frames, batch=1)
    parity = compare(reference, exported, calibration, FP32)
    if max_batch > 1:  # the same frames, several at a time, must give the same again
        compare(reference, run_engine(engines["fp32"], frames, max_batch), calibration, FP32)
    log.info("parity with torch on %d frames: %s", parity.frames, msgspec.structs.asdict(parity))
    if "fp16" in engines:
        half = compare(exported, run_engine(engines["fp16"], frames), calibration, FP16)
        log.info("FP16 against FP32, relative: %s", msgspec.structs.asdict(half))
    return parity


def _write_self_test(engine: OnnxEngine, frame: npt.NDArray[np.uint8], path: Path) -> SelfTest:
    """Store a frame and what the FP32 graph says of it, for the daemon to try every engine on."""
    encoded, png = cv2.imencode(".png", frame)
    if not encoded:
        raise BundleError(f"{path}: this OpenCV cannot write PNG")
    path.write_bytes(png.tobytes())
    prediction = engine.infer(frame[None]).split()[0]
    return SelfTest(
        file=path.name,
        sha256=file_sha256(path),
        d_local=prediction.d_local,
        d_semantic=prediction.d_semantic,
    )


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
