"""From an ONNX graph to a TensorRT plan: TensorRT 10.3 to 11 and TensorRT for RTX by the same lines.

Knows TensorRT's builder and the graph's file; needs neither torch nor onnx, so that it runs on a Jetson or a line
PC. Precision is the graph's alone: the network is strongly typed and TF32 is off. Does not know bundles, nor
whether the plan computes what the graph says (plans.py).
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from dualkd.daemon.engine import EngineError
from dualkd.daemon.tensorrt_log import tensorrt_log

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    """What a build may use; nothing here changes what the plan computes."""

    workspace_mib: int | None = None  # GPU memory that a layer may ask for; None: as much as there is
    optimisation_level: int = 3  # 0 to 5: a longer build for a faster plan
    timing_cache: Path | None = None  # kernels measured before, read and written again


def build_plan(trt: Any, graph: Path, plan: Path, *, max_batch: int, settings: BuildSettings) -> None:
    """Write `plan` from the ONNX file `graph`, for batches of 1 to `max_batch`, fastest at the largest.

    `trt`: the module tensorrt or tensorrt_rtx. Shows its progress; Ctrl-C ends the build at its next step.
    Raises EngineError with the parser's own errors and the nodes they are about.
    """
    started = time.monotonic()
    logger = tensorrt_log(trt)
    builder = trt.Builder(logger)
    # By name: the flag's number is another in 11, where every network is strongly typed.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        errors = [_describe(parser.get_error(index)) for index in range(parser.num_errors)]
        raise EngineError(
            f"{graph}: {trt.__name__} {trt.__version__} cannot read the graph: {'; '.join(errors) or logger.reasons()}"
        )
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.builder_optimization_level = settings.optimisation_level
    if settings.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
    _add_profile(builder, network, config, max_batch)
    if settings.timing_cache is not None:
        _read_timing_cache(trt, config, settings.timing_cache)
    progress = _progress_monitor(trt)
    config.progress_monitor = progress
    before = signal.signal(
        signal.SIGINT, progress.cancel
    )  # an exception must not cross TensorRT's own frames
    try:
        serialized = builder.build_serialized_network(network, config)
    finally:
        signal.signal(signal.SIGINT, before)
        progress.clear()
    if progress.cancelled:
        raise KeyboardInterrupt
    if serialized is None:
        raise EngineError(
            f"{graph}: {trt.__name__} {trt.__version__} built no plan: {logger.reasons()}; if memory is short, "
            "close what else uses the GPU or give a smaller --workspace-mib"
        )
    if settings.timing_cache is not None:
        _write_aside(settings.timing_cache, config.get_timing_cache().serialize())
    _write_aside(plan, serialized)
    log.info(
        "%s: %.0f MB by %s %s in %.0f s",
        plan.name,
        plan.stat().st_size / 1e6,
        trt.__name__,
        trt.__version__,
        time.monotonic() - started,
    )


def _add_profile(builder: Any, network: Any, config: Any, max_batch: int) -> None:
    """Allow batches from 1 to `max_batch` for every input whose batch is left open."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        batch, *rest = tensor.shape
        if batch == -1:
            profile.set_shape(tensor.name, (1, *rest), (max_batch, *rest), (max_batch, *rest))
    config.add_optimization_profile(profile)


def _read_timing_cache(trt: Any, config: Any, path: Path) -> None:
    if trt.__name__ == "tensorrt_rtx":
        raise EngineError("TensorRT for RTX measures no kernels when it builds; leave --timing-cache away")
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise EngineError(
            f"{path}: is no timing cache of this GPU and TensorRT; remove it, or name another --timing-cache"
        )


def _write_aside(path: Path, content: Any) -> None:
    """Write a buffer so that `path` is never half written. Raises EngineError, for a disk may be full."""
    aside = path.with_name(f".{path.name}.part")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise EngineError(f"{path}: cannot be written: {error.strerror}") from error


def _describe(error: Any) -> str:
    """A parser's error: the node by its name and operator, and what is wrong with it."""
    where = f"node {error.node_name()!r} ({error.node_operator()}): " if error.node_operator() else ""
    return f"{where}{error.desc()}"


def _progress_monitor(trt: Any) -> Any:
    """A trt.IProgressMonitor that shows itself and can be cancelled."""

    class Monitor(_Progress, trt.IProgressMonitor):  # type: ignore[misc]  # of the module that is there
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            _Progress.__init__(self)

    return Monitor()


class _Progress:
    """One line on a terminal, the outermost phases in the log. TensorRT calls it from any thread."""

    def __init__(self) -> None:
        self.cancelled = False
        self._phases: dict[str, tuple[int, int]] = {}  # steps done, and in all
        self._shows = sys.stderr.isatty()

    def cancel(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 (a signal handler's signature)
        """End the build at its next step."""
        self.cancelled = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        if parent_phase is None:
            log.info("%s", phase_name)
        self._phases[phase_name] = (0, num_steps)
        self._show()

    def step_complete(self, phase_name: str, step: int) -> bool:
        _, steps = self._phases.get(phase_name, (0, 0))
        self._phases[phase_name] = (step + 1, steps)
        self._show()
        return not self.cancelled

    def phase_finish(self, phase_name: str) -> None:
        self._phases.pop(phase_name, None)
        self._show()

    def clear(self) -> None:
        """Leave an empty line behind."""
        if self._shows:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _show(self) -> None:
        if self._shows:
            phases = ", ".join(f"{name} {done}/{steps}" for name, (done, steps) in list(self._phases.items()))
            print(f"\r\033[K{phases[:100]}", end="", file=sys.stderr, flush=True)
