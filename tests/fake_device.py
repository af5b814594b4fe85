"""A GPU and a TensorRT that do what an engine asks, as late as they may, and notice what it must not do.

Work given to a stream is not done before somebody waits for it (or at once, if `eager`): whoever reads too early,
writes too early or forgets to wait gets wrong values. Calls from another thread than the one that opened the GPU,
addresses that are not its own, memory that is not page-locked and TensorRT objects that outlive their context
raise, or are kept in `violations`. The network is that of fakes.py.
"""

from __future__ import annotations

import json
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import fakes
import numpy as np
import numpy.typing as npt
from dualkd.daemon.device import POISON, Address, Array, DeviceError, Event, Stream

ILLEGAL_ADDRESS = "CUDA_ERROR_ILLEGAL_ADDRESS (700, an illegal memory access was encountered)"
OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY (2, out of memory)"
VERSION, CAPABILITY = "10.3.0", "8.7"

Work = Callable[[], None]


class FakeGpu:
    """See Device. `calls` are the names of all calls, in order."""

    def __init__(self, *, eager: bool = False, memory: int = 1 << 30) -> None:
        self.calls: list[str] = []
        self.violations: list[str] = []
        self.fail: dict[str, str] = {}  # by the name of a call: CUDA's code that it gives next, once
        self.live: Counter[str] = Counter()  # TensorRT objects
        self.memory: dict[int, bytearray] = {}
        self.arrays: list[Array] = []
        self._eager = eager
        self._free = memory
        self._thread: int | None = None
        self._next_address = 0x7F0000000000
        self._streams: dict[int, deque[Work]] = {}
        self._recorded: list[int] = []  # by event: how often recorded
        self._come: list[int] = []  # and how many of these have come
        self._came_at: list[float] = []
        self._recorded_in: list[int] = []
        self._now = 0.0
        self._broken = ""

    @property
    def held(self) -> tuple[int, int, int, int]:
        """Allocations, page-locked arrays, streams and TensorRT objects that are there."""
        return len(self.memory), len(self.arrays), len(self._streams), self.live.total()

    @property
    def under_way(self) -> int:
        """Pieces of work that were given to streams and are not done."""
        return sum(len(stream) for stream in self._streams.values())

    def open(self) -> str:
        assert self._thread is None, "opened twice"
        self._thread = threading.get_ident()
        return "Fake Orin"

    def close(self) -> None:
        self._call("close")
        if self.live.total():
            self.violations.append(f"{dict(self.live)} outlive the context")
        for array in self.arrays:
            array.view(np.uint8).fill(0xAB)  # whoever still reads it sees it
        for held in (self.memory, self.arrays, self._streams):
            held.clear()
        self._recorded, self._come, self._came_at, self._recorded_in = [], [], [], []
        self._thread = None

    def allocate(self, size: int) -> Address:
        self._call("allocate")
        self._free -= size
        if self._free < 0:
            raise DeviceError("cuMemAlloc", OUT_OF_MEMORY)
        address = self._next_address
        self._next_address += size + 4096  # never used again
        self.memory[address] = bytearray(size)
        return Address(address)

    def host_array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        self._call("host_array")
        array: Array = np.zeros(shape, dtype)
        self.arrays.append(array)
        return array

    def stream(self) -> Stream:
        self._call("stream")
        handle = 0x1000 + len(self._streams)
        self._streams[handle] = deque()
        return Stream(handle)

    def event(self) -> Event:
        self._call("event")
        for column in (self._recorded, self._come, self._recorded_in):
            column.append(0)
        self._came_at.append(0.0)
        return Event(len(self._recorded) - 1)

    def upload(self, to: Address, array: Array, stream: Stream) -> None:
        self._call("upload")
        self._check_copy(array, to)

        def work() -> None:
            start, held = next((at, held) for at, held in self.memory.items() if at <= to < at + len(held))
            held[to - start : to - start + array.nbytes] = array.tobytes()

        self.give(stream, work)

    def download(self, array: Array, source: Address, stream: Stream) -> None:
        self._call("download")
        self._check_copy(array, source)

        def work() -> None:
            array[...] = np.frombuffer(self.memory[source], array.dtype)[: array.size].reshape(array.shape)

        self.give(stream, work)

    def poison(self, at: Address, count: int, stream: Stream) -> None:
        self._call("poison")
        assert 4 * count <= len(self.memory[at])

        def work() -> None:
            self.memory[at][: 4 * count] = POISON.tobytes() * count

        self.give(stream, work)

    def copy(self, to: Address, source: Address, size: int, stream: Stream) -> None:
        self._call("copy")

        def work() -> None:
            assert size <= min(len(self.memory[to]), len(self.memory[source]))
            self.memory[to][:size] = self.memory[source][:size]

        self.give(stream, work)

    def multiply(
        self, product: Address, left: Address, right: Address, side: int, dtype: npt.DTypeLike, stream: Stream
    ) -> None:
        """Nothing but where the matrices lie is looked at."""
        self._call("multiply")
        size = side * side * np.dtype(dtype).itemsize
        places = sorted((product, left, right))
        assert all(one + size <= other for one, other in pairwise(places)), "matrices lie in one another"
        assert any(
            at <= places[0] and places[-1] + size <= at + len(held) for at, held in self.memory.items()
        )
        self.give(stream, lambda: None)

    def record(self, event: Event, stream: Stream) -> None:
        self._call("record")
        self._recorded[event] += 1
        self._recorded_in[event] = stream

        def work() -> None:
            self._come[event] += 1
            self._came_at[event] = self._now

        self.give(stream, work)

    def wait(self, stream: Stream, event: Event) -> None:
        self._call("wait")
        assert self._recorded[event], "waits for an event that was never recorded"
        until = self._recorded[event]
        self.give(stream, lambda: self._reach(event, until))

    def finish(self, event: Event) -> None:
        self._call("finish")
        assert self._recorded[event], "waits for an event that was never recorded"
        self._reach(event, self._recorded[event])
        self._raise_if_broken("cuEventSynchronize")

    def elapsed_ms(self, start: Event, end: Event) -> float:
        self._call("elapsed_ms")
        for event in (start, end):
            assert self._come[event] == self._recorded[event], "asks the time of an event that has not come"
        return self._came_at[end] - self._came_at[start]

    def drain(self) -> None:
        self._call("drain")
        for stream in self._streams:
            self._do_all(stream)
        self._raise_if_broken("cuCtxSynchronize")

    def give(self, stream: int, work: Work) -> None:
        """Let a stream do this after what it has."""
        self._streams[stream].append(work)
        if self._eager:
            self._do_all(stream)

    def break_down(self) -> None:
        """From now on every wait fails, as after an illegal access."""
        self._broken = ILLEGAL_ADDRESS

    def born(self, made: object, kind: str) -> None:
        """Notice when a TensorRT object dies, and where."""
        self.on_its_thread(f"make {kind}")
        self.live[kind] += 1
        weakref.finalize(made, self._died, kind).atexit = False

    def on_its_thread(self, what: str) -> None:
        """Raise unless the context is the calling thread's."""
        assert self._thread is not None, f"{what} without a context"
        assert self._thread == threading.get_ident(), f"{what} on a thread without the context"

    def _died(self, kind: str) -> None:
        self.live[kind] -= 1
        needs_it = {"runtime": ("engine", "context"), "engine": ("context",), "context": ()}[kind]
        self.violations += [f"{kind} died before its {other}" for other in needs_it if self.live[other]]
        if self._thread != threading.get_ident():
            self.violations.append(f"{kind} died on a thread without the context")

    def _call(self, name: str) -> None:
        self.on_its_thread(name)
        self.calls.append(name)
        if name in self.fail:
            raise DeviceError(name, self.fail.pop(name))

    def _check_copy(self, array: Array, address: Address) -> None:
        assert any(np.shares_memory(array, own) for own in self.arrays), (
            "copies memory that is not page-locked"
        )
        assert array.flags.c_contiguous
        assert any(
            at <= address and address + array.nbytes <= at + len(held) for at, held in self.memory.items()
        )

    def _do_next(self, stream: int) -> None:
        self._now += 1.0
        self._streams[stream].popleft()()

    def _do_all(self, stream: int) -> None:
        while self._streams[stream]:
            self._do_next(stream)

    def _reach(self, event: Event, count: int) -> None:
        while self._come[event] < count:
            self._do_next(self._recorded_in[event])

    def _raise_if_broken(self, call: str) -> None:
        if self._broken:
            raise DeviceError(call, self._broken)


class FakeTensorRT(ModuleType):
    """What the runner uses of the module tensorrt, on a FakeGpu.

    refuse_enqueue: the next run is refused. idle: runs do nothing and say that all is well; idle_runs: these, as
    numbered from 0. break_at_run: the GPU breaks down in the next run.
    """

    ILogger: Any
    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")
    DataType = SimpleNamespace(UINT8="uint8", FLOAT="float", HALF="half")

    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__("tensorrt")
        self.__version__ = VERSION
        self.gpu = gpu
        self.refuse_enqueue = self.idle = self.break_at_run = self.no_context = False
        self.bound: dict[str, set[int]] = {}
        self.idle_runs: set[int] = set()
        self.runs = 0

    class ILogger:  # type: ignore[no-redef]  # as TensorRT nests its levels
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def Runtime(self, log: Any) -> _Runtime:  # noqa: N802 (TensorRT's name)
        return _Runtime(self, log)


class _Runtime:
    def __init__(self, tensorrt: FakeTensorRT, log: Any) -> None:
        self._tensorrt, self._log = tensorrt, log
        tensorrt.gpu.born(self, "runtime")

    def deserialize_cuda_engine(self, raw: bytes) -> _Engine | None:
        said = ""
        plan: dict[str, Any] = {}
        if raw[:4] != b"ftrt" or raw[-4:] != b"trtf":
            said = "Serialization assertion plan.header.size == blobSize failed."
        else:
            plan = json.loads(raw[4:-4])
            if plan["version"] != VERSION:
                said = (
                    "The engine plan file is not compatible with this version of TensorRT, expecting library version "
                    f"{VERSION} got {plan['version']}, please rebuild."
                )
            elif plan["capability"] != CAPABILITY:
                said = (
                    "The engine plan file is generated on an incompatible device, expecting compute "
                    f"{CAPABILITY} got compute {plan['capability']}, please rebuild."
                )
            elif plan["huge"]:
                said = "Error Code 2: OutOfMemory (Requested size was 99999744 bytes.)"
        if said:
            self._log.log(self._tensorrt.ILogger.ERROR, said)
            return None
        return _Engine(self._tensorrt, self._log, plan)


class _Engine:
    def __init__(self, tensorrt: FakeTensorRT, log: Any, plan: dict[str, Any]) -> None:
        self._tensorrt, self._log, self._plan = tensorrt, log, plan
        cells = plan["side"] // fakes.CELL
        self.shapes = {
            "frame": (-1, plan["side"], plan["side"], 3),
            "d_local": (-1,),
            "d_semantic": (-1,),
            "anomaly_map": (-1, cells, cells),
        }
        tensorrt.gpu.born(self, "engine")

    @property
    def num_io_tensors(self) -> int:
        return len(self.shapes)

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name == "frame" else "output"

    def get_tensor_dtype(self, name: str) -> str:
        return "uint8" if name == "frame" else str(self._plan["output"])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        assert index == 0
        rest = self.shapes[name][1:]
        return [(batch, *rest) for batch in (1, self._plan["max_batch"], self._plan["max_batch"])]

    def create_execution_context(self) -> _Context | None:
        if self._plan["huge_context"]:
            self._log.log(1, "Error Code 1: Cuda Runtime (out of memory)")
            return None
        return _Context(self._tensorrt, self._log, self.shapes, self._plan["max_batch"])


class _Context:
    def __init__(self, tensorrt: FakeTensorRT, log: Any, shapes: dict[str, Any], max_batch: int) -> None:
        self._tensorrt, self._log, self._shapes, self._max_batch = tensorrt, log, shapes, max_batch
        self._addresses: dict[str, int] = {}
        self._batch = 0
        tensorrt.gpu.born(self, "context")

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "frame"
        assert shape[1:] == self._shapes[name][1:]
        self._batch = shape[0]
        return 1 <= shape[0] <= self._max_batch

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        self._tensorrt.bound.setdefault(name, set()).add(address)
        return address in self._tensorrt.gpu.memory

    def execute_async_v3(self, stream: int) -> bool:
        tensorrt, gpu = self._tensorrt, self._tensorrt.gpu
        gpu.on_its_thread("execute_async_v3")
        gpu.calls.append("execute")
        assert self._addresses.keys() == self._shapes.keys()
        if tensorrt.refuse_enqueue:
            tensorrt.refuse_enqueue = False
            self._log.log(1, "Error Code 1: Cuda Runtime (an illegal instruction was encountered)")
            return False
        gpu.give(stream, lambda batch=self._batch, at=dict(self._addresses): self._run(batch, at))  # type: ignore[misc]
        return True

    def _run(self, batch: int, at: dict[str, int]) -> None:
        tensorrt, memory = self._tensorrt, self._tensorrt.gpu.memory
        run, tensorrt.runs = tensorrt.runs, tensorrt.runs + 1
        if tensorrt.break_at_run:
            tensorrt.gpu.break_down()
        if tensorrt.idle or run in tensorrt.idle_runs or tensorrt.break_at_run:
            return
        shape = (batch, *self._shapes["frame"][1:])
        frames = np.frombuffer(memory[at["frame"]], np.uint8)[: int(np.prod(shape))].reshape(shape)
        for name, value in fakes.SteeredEngine().infer(frames)._asdict().items():
            raw = np.ascontiguousarray(value, np.float32).tobytes()
            assert len(raw) <= len(memory[at[name]]), f"the buffer of {name} is too small"
            memory[at[name]][: len(raw)] = raw


def write_plan(path: Path, **changes: Any) -> Path:
    """A plan that FakeTensorRT takes, or not, by `changes`."""
    plan = {
        "version": VERSION,
        "capability": CAPABILITY,
        "max_batch": 4,
        "side": fakes.SIDE,
        "output": "float",
        "huge": False,
        "huge_context": False,
    }
    path.write_bytes(b"ftrt" + json.dumps(plan | changes).encode() + b"trtf")
    return path
