"""TensorRT behind the engine protocol.

One thread of its own holds the GPU's context and makes every call; whoever calls the engine waits for it. Two
batches may be under way: while one is computed, the next is written into page-locked memory and copied to the GPU.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from dualkd.daemon.bundle import Bundle, Precision
from dualkd.daemon.device import POISON, Address, Array, Device, DeviceError, Event, Stream
from dualkd.daemon.device_cuda import CudaDevice
from dualkd.daemon.engine import Answer, EngineError, RawPrediction, check_frames
from dualkd.daemon.machine import load_tensorrt, this_machine
from dualkd.daemon.tensorrt_plan import FRAME, REBUILD, Plan

logger = logging.getLogger(__name__)

SLOTS = 2  # one is computed while the next is filled

Result = TypeVar("Result")


class TensorRTEngine:
    """Runs a TensorRT plan on this machine's GPU. See Engine.

    device_ms: how long the GPU computed for the latest answer, without the copies, by its own clock.
    """

    beside = True

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

    def room(self) -> npt.NDArray[np.uint8]:
        return self._on_its_thread(self._session.room)

    def begin(self, frames: npt.NDArray[np.uint8]) -> Answer:
        check_frames(frames, self._session.room_shape)
        running = self._on_its_thread(lambda: self._session.begin(frames))

        def answer() -> RawPrediction:
            if running.outcome is None:
                self._on_its_thread(lambda: self._session.collect(running))
            if not isinstance(running.outcome, RawPrediction):
                raise running.outcome or EngineError("the batch was lost")
            self.device_ms = running.device_ms
            return running.outcome

        return answer

    def infer(self, frames: npt.NDArray[np.uint8]) -> RawPrediction:
        return self.begin(frames)()

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

    def _on_its_thread(self, work: Callable[[], Result]) -> Result:
        if self._closed:
            raise EngineError("the engine is closed")
        return self._worker.submit(work).result()


@dataclass(slots=True)
class _Slot:
    """Where a batch passes: page-locked arrays and their places on the GPU, never moved."""

    frames: Array
    outputs: dict[str, Array]
    addresses: dict[str, Address]
    uploaded: Event
    begun: Event
    computed: Event
    done: Event


@dataclass(slots=True)
class _Running:
    """A batch that was begun, and what came of it once it is collected."""

    slot: _Slot
    count: int  # frames
    outcome: RawPrediction | EngineError | None = None
    device_ms: float = 0.0


class _Session:
    """What lives on the engine's thread: device, plan, slots. Every method is called there."""

    def __init__(self, plan: Path, input_size: tuple[int, int], device: Device) -> None:
        self._path = plan
        self._input_size = input_size
        self._device = device
        self._plan = Plan(plan)
        self._free: deque[_Slot] = deque()  # the first is the next batch's room
        self._under_way: deque[_Running] = deque()  # in the order in which they were begun
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
            self._free.extend(self._new_slot() for _ in range(SLOTS))
        except DeviceError as error:
            raise _explained("the engine's buffers cannot be made", error) from error
        return gpu, f"{module.__name__} {module.__version__}"

    @property
    def room_shape(self) -> tuple[int, ...]:
        return (self._plan.max_batch, *self._input_size, 3)

    def room(self) -> npt.NDArray[np.uint8]:
        """The frames of the next batch's slot. Waits for the oldest batch if every slot is taken."""
        if not self._free:
            self.collect(self._under_way[0])
        return self._free[0].frames

    def begin(self, frames: npt.NDArray[np.uint8]) -> _Running:
        """Give the GPU a batch. Raises EngineError; then nothing of it is under way."""
        room = self.room()[: len(frames)]
        if frames.ctypes.data != room.ctypes.data:
            np.copyto(room, frames)
        slot = self._free[0]
        try:
            self._launch(slot, len(frames))
        except (DeviceError, EngineError) as error:
            self._settle()
            raise _explained("the GPU failed at a batch", error) from error
        running = _Running(self._free.popleft(), len(frames))
        self._under_way.append(running)
        return running

    def collect(self, running: _Running) -> None:
        """Wait for a batch and those begun before it, each of which gets its own prediction or error."""
        while running.outcome is None:
            self._collect(self._under_way.popleft())

    def close(self) -> None:
        """Free all that open made, whether it ended well or not."""
        if self._under_way:  # the plan must not go while it runs
            self._settle()
        self._under_way.clear()
        self._free.clear()
        self._plan.close()
        self._device.close()

    def _launch(self, slot: _Slot, count: int) -> None:
        """Give the GPU all that is to be done with the slot's frames. What it does not write stays poisoned."""
        device = self._device
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

    def _collect(self, running: _Running) -> None:
        """Wait for the oldest batch; its prediction goes into memory of its own, and its slot is free."""
        slot = running.slot
        try:
            self._device.finish(slot.done)
            running.device_ms = self._device.elapsed_ms(slot.begun, slot.computed)
            running.outcome = self._read(slot, running.count)
        except (DeviceError, EngineError) as error:
            self._settle()
            running.outcome = _explained("the GPU failed at a batch", error)
        self._free.append(slot)

    def _read(self, slot: _Slot, count: int) -> RawPrediction:
        values = {name: output[:count].copy() for name, output in slot.outputs.items()}
        for name, value in values.items():
            unwritten = int((value.view(np.uint32) == POISON).sum())
            if unwritten:
                raise EngineError(
                    f"the plan left {unwritten} of {value.size} values of {name} unwritten; {REBUILD}"
                )
        return RawPrediction(*(values.get(name) for name in RawPrediction._fields))

    def _settle(self) -> None:
        """Let the GPU end what it was given, so that the next batch finds the slots at rest."""
        try:
            self._device.drain()
        except DeviceError as error:
            logger.warning("the GPU does not come to rest: %s", error)

    def _new_slot(self) -> _Slot:
        device, batch = self._device, self._plan.max_batch
        frames = device.host_array(self.room_shape, np.uint8)
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


def _explained(what: str, error: DeviceError | EngineError) -> EngineError:
    if isinstance(error, EngineError):
        return error
    advice = (
        "see what else uses its memory (nvidia-smi), or export with a smaller --max-batch"
        if error.out_of_memory
        else "see the kernel's log for its own account (journalctl -k, lines with NVRM)"
    )
    return EngineError(f"{what}: {error}; {advice}")
