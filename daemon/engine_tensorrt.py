"""TensorRT behind the engine protocol.

One thread of its own holds the GPU's context and makes every call; whoever calls the engine waits for it. Frames
beyond the plan's batch are pipelined: while one part is computed, the next is copied to the GPU.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType

import numpy as np
import numpy.typing as npt
from dualkd.daemon.bundle import Bundle, Precision
from dualkd.daemon.device import POISON, Address, Array, Device, DeviceError, Event, Stream
from dualkd.daemon.device_cuda import CudaDevice
from dualkd.daemon.engine import EngineError, RawPrediction
from dualkd.daemon.machine import load_tensorrt, this_machine
from dualkd.daemon.tensorrt_plan import FRAME, REBUILD, Plan

logger = logging.getLogger(__name__)

SLOTS = 2  # one is computed while the next is filled


class TensorRTEngine:
    """Runs a TensorRT plan on this machine's GPU. See Engine; `infer` takes any number of frames.

    device_ms: how long the GPU computed for the last `infer`, without the copies, by its own clock.
    """

    def __init__(
        self,
        plan: Path,
        *,
        input_size: tuple[int, int],
        precision: Precision,
        device: Device | None = None,
        tensorrt: ModuleType | None = None,
    ) -> None:
        """`device` and `tensorrt` None: the first GPU, and the TensorRT that is installed. Raises EngineError."""
        self.input_size = input_size
        self.device_ms = 0.0
        self._closed = False
        self._session = _Session(plan, input_size, device or CudaDevice())
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tensorrt")
        try:
            gpu, version = self._worker.submit(self._session.open, tensorrt).result()
        except BaseException:
            self.close()
            raise
        self.description = f"{version}, {gpu}, {precision}"

    @classmethod
    def of(cls, bundle: Bundle, *, precision: Precision) -> TensorRTEngine:
        """The engine of the bundle's plan for this machine. Raises EngineError, BundleError."""
        size = (bundle.manifest.input.height, bundle.manifest.input.width)
        return cls(bundle.plan(precision, this_machine()), input_size=size, precision=precision)

    def infer(self, frames: npt.NDArray[np.uint8]) -> RawPrediction:
        expected = (*self.input_size, 3)
        if frames.dtype != np.uint8 or frames.shape[1:] != expected or not len(frames):
            raise EngineError(
                f"the engine takes uint8 (1.., {expected[0]}, {expected[1]}, 3), got {frames.dtype} {frames.shape}"
            )
        if self._closed:
            raise EngineError("the engine is closed")
        prediction, self.device_ms = self._worker.submit(self._session.infer, frames).result()
        return prediction

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._worker.submit(self._session.close).result()
        finally:
            self._worker.shutdown()

    def __enter__(self) -> TensorRTEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(slots=True)
class _Slot:
    """Where one part of a batch passes: page-locked arrays and their places on the GPU, never moved."""

    frames: Array
    outputs: dict[str, Array]
    addresses: dict[str, Address]
    uploaded: Event
    begun: Event
    computed: Event
    done: Event
    count: int = 0  # frames under way


class _Session:
    """What lives on the engine's thread: device, plan, slots. Every method is called there."""

    def __init__(self, plan: Path, input_size: tuple[int, int], device: Device) -> None:
        self._path = plan
        self._input_size = input_size
        self._device = device
        self._plan = Plan(plan)
        self._slots: list[_Slot] = []
        self._copying = self._computing = Stream(0)

    def open(self, tensorrt: ModuleType | None) -> tuple[str, str]:
        """Return the names of GPU and runtime. Raises EngineError, after which close is still to be called."""
        gpu = self._device.open()
        # Only now: some TensorRT libraries crash the process where there is no GPU.
        module = load_tensorrt()[1] if tensorrt is None else tensorrt
        self._plan.load(module)
        if self._plan.input_size != self._input_size:
            raise EngineError(
                f"{self._path}: is for frames of {self._plan.input_size} (height, width), the bundle's are "
                f"{self._input_size}; {REBUILD}"
            )
        try:
            self._copying, self._computing = self._device.stream(), self._device.stream()
            self._slots = [self._new_slot() for _ in range(SLOTS)]
        except DeviceError as error:
            raise _explained("the engine's buffers cannot be made", error) from error
        return gpu, f"{module.__name__} {module.__version__}"

    def infer(self, frames: npt.NDArray[np.uint8]) -> tuple[RawPrediction, float]:
        """The prediction, and how long the GPU computed in ms. Raises EngineError; then nothing is under way."""
        try:
            parts, times_ms = zip(*self._run(frames), strict=True)
        except DeviceError as error:
            self._settle()
            raise _explained("the GPU failed at a batch", error) from error
        except EngineError:
            self._settle()
            raise
        return (parts[0] if len(parts) == 1 else RawPrediction.join(parts)), sum(times_ms)

    def close(self) -> None:
        """Free all that open made, whether it ended well or not."""
        self._slots.clear()
        self._plan.close()
        self._device.close()

    def _run(self, frames: npt.NDArray[np.uint8]) -> Iterator[tuple[RawPrediction, float]]:
        """Every part of the batch; the next is under way while one is waited for."""
        under_way: deque[_Slot] = deque()
        starts = range(0, len(frames), self._plan.max_batch)
        for start, slot in zip(starts, itertools.cycle(self._slots), strict=False):
            if len(under_way) == SLOTS:
                yield self._collect(under_way.popleft())
            self._launch(slot, frames[start : start + self._plan.max_batch])
            under_way.append(slot)
        while under_way:
            yield self._collect(under_way.popleft())

    def _launch(self, slot: _Slot, frames: npt.NDArray[np.uint8]) -> None:
        """Give the GPU all that is to be done with these frames. What it does not write stays poisoned."""
        device, count = self._device, len(frames)
        slot.count = count
        np.copyto(slot.frames[:count], frames)
        device.upload(slot.addresses[FRAME], slot.frames[:count], self._copying)
        device.record(slot.uploaded, self._copying)
        for name, output in slot.outputs.items():
            output.view(np.uint32)[:count] = POISON
            device.poison(slot.addresses[name], output[:count].size, self._computing)
        device.wait(self._computing, slot.uploaded)
        self._plan.bind(slot.addresses)
        device.record(slot.begun, self._computing)
        self._plan.enqueue(count, self._computing)
        device.record(slot.computed, self._computing)
        for name, output in slot.outputs.items():
            device.download(output[:count], slot.addresses[name], self._computing)
        device.record(slot.done, self._computing)

    def _collect(self, slot: _Slot) -> tuple[RawPrediction, float]:
        """Wait for a part; its prediction, in memory of its own, and how long the GPU computed in ms."""
        self._device.finish(slot.done)
        values = {name: output[: slot.count].copy() for name, output in slot.outputs.items()}
        for name, value in values.items():
            unwritten = int((value.view(np.uint32) == POISON).sum())
            if unwritten:
                raise EngineError(
                    f"the plan left {unwritten} of {value.size} values of {name} unwritten; {REBUILD}"
                )
        prediction = RawPrediction(*(values.get(name) for name in RawPrediction._fields))
        return prediction, self._device.elapsed_ms(slot.begun, slot.computed)

    def _settle(self) -> None:
        """Let the GPU end what it was given, so that the next batch finds the slots at rest."""
        try:
            self._device.drain()
        except DeviceError as error:
            logger.warning("the GPU does not come to rest: %s", error)

    def _new_slot(self) -> _Slot:
        device, batch = self._device, self._plan.max_batch
        frames = device.host_array((batch, *self._input_size, 3), np.uint8)
        outputs = {
            name: device.host_array((batch, *shape), np.float32) for name, shape in self._plan.outputs.items()
        }
        return _Slot(
            frames=frames,
            outputs=outputs,
            addresses={
                name: device.allocate(array.nbytes) for name, array in {FRAME: frames, **outputs}.items()
            },
            uploaded=device.event(),
            begun=device.event(),
            computed=device.event(),
            done=device.event(),
        )


def _explained(what: str, error: DeviceError) -> EngineError:
    advice = (
        "see what else uses its memory (nvidia-smi), or export with a smaller --max-batch"
        if error.out_of_memory
        else "see the kernel's log for its own account (journalctl -k, lines with NVRM)"
    )
    return EngineError(f"{what}: {error}; {advice}")
