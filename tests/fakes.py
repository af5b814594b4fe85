"""Real things in small: a bundle whose graph judges brightness, films and pictures, an engine to steer.

The bundle's graph takes frames as any bundle's does and says
    anomaly_map = brightness of the pixels, averaged over 8 x 8 cells, in [0, 1]
    d_local     = the largest cell
    d_semantic  = the mean of the picture
and its calibration lets a picture FAIL from a brightness of about a half. So a test steers verdicts by
grey levels: DARK passes, BRIGHT fails, and a bright square on dark makes one region.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt
import onnx
from dualkd.daemon.bundle import (
    Bundle,
    GraphFile,
    InputSpec,
    Manifest,
    Parity,
    SelfTest,
    TeacherSpec,
    load_bundle,
    new_bundle_folder,
    write_manifest,
)
from dualkd.daemon.control_messages import AnyRequest, Reply
from dualkd.daemon.decision import Calibration, Link
from dualkd.daemon.engine import Answer, EngineError, RawPrediction
from dualkd.daemon.messages import Header, ResultHeader, StatusHeader
from dualkd.daemon.parts import Call, CameraCondition, Job, Lease
from dualkd.daemon.records import Frame
from onnx import TensorProto, helper

SIDE = 64
ROOM = 16  # frames of the steered engine
CELL = 8
DARK, BRIGHT = 40, 220

Image = npt.NDArray[np.uint8]


def brightness_model(cell: int = CELL) -> onnx.ModelProto:
    """The graph described above, dynamic in its batch."""
    cells = SIDE // cell
    nodes = [
        helper.make_node("Cast", ["frame"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("ReduceMean", ["planes", "channel"], ["grey"], keepdims=1),
        helper.make_node("Div", ["grey", "white"], ["unit"]),
        helper.make_node(
            "AveragePool", ["unit"], ["pooled"], kernel_shape=[cell, cell], strides=[cell, cell]
        ),
        helper.make_node("Squeeze", ["pooled", "channel"], ["anomaly_map"]),
        helper.make_node("ReduceMax", ["anomaly_map", "plane"], ["d_local"], keepdims=0),
        helper.make_node("ReduceMean", ["anomaly_map", "plane"], ["d_semantic"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
        [
            helper.make_tensor_value_info("d_local", TensorProto.FLOAT, ["batch"]),
            helper.make_tensor_value_info("d_semantic", TensorProto.FLOAT, ["batch"]),
            helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, ["batch", cells, cells]),
        ],
        [
            helper.make_tensor("channel", TensorProto.INT64, [1], [1]),
            helper.make_tensor("plane", TensorProto.INT64, [2], [1, 2]),
            helper.make_tensor("white", TensorProto.FLOAT, [], [255.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def write_bundle(target: Path, *, max_batch: int = 4, graph: bytes | None = None, cell: int = CELL) -> Path:
    """Write a real bundle around `brightness_model` (or the bytes of another graph) and return its path.

    `cell` 1 makes the largest map, of SIDE x SIDE.
    """
    raw = brightness_model(cell).SerializeToString() if graph is None else graph
    frame = cv2.imencode(".png", picture(DARK, SIDE, SIDE))[1].tobytes()
    with new_bundle_folder(target) as folder:
        (folder / "model.onnx").write_bytes(raw)
        (folder / "self_test.png").write_bytes(frame)
        write_manifest(
            folder,
            Manifest(
                schema=2,
                name="brightness",
                created_utc="2026-01-01T00:00:00Z",
                method="dual",
                students="both",
                input=InputSpec(height=SIDE, width=SIDE),
                map_size=(SIDE // cell, SIDE // cell),
                top_count=1,
                max_batch=max_batch,
                graphs=[
                    GraphFile(file="model.onnx", sha256=hashlib.sha256(raw).hexdigest(), precision="fp32")
                ],
                plans=[],
                calibration=calibration(),
                teacher=TeacherSpec(name="none", weights="none", sha256="0" * 64),
                parity=Parity(
                    frames=1,
                    max_difference_local=0.0,
                    max_difference_semantic=0.0,
                    max_difference_map=0.0,
                    verdict_flips=0,
                ),
                self_test=SelfTest(
                    file="self_test.png",
                    sha256=hashlib.sha256(frame).hexdigest(),
                    d_local=DARK / 255,
                    d_semantic=DARK / 255,
                ),
                command="tests",
                versions={},
            ),
        )
    return target


def calibration() -> Calibration:
    """FAIL from a brightest cell of about 0.5, or a mean of about 0.8."""
    return Calibration(
        local=Link(location=0.5, scale=0.02, steepness=1.0),
        semantic=Link(location=0.8, scale=0.02, steepness=1.0),
        threshold=0.5,
        region_threshold=0.5,
        false_reject_rate=0.01,
        good_parts=100,
        guaranteed=True,
    )


class SteeredEngine:
    """Judges as the brightness graph does, and fails at the calls that it is told to."""

    description = "steered"
    input_size = (SIDE, SIDE)
    beside = False

    def __init__(self, fail_calls: Iterable[int] = ()) -> None:
        self._room = np.zeros((ROOM, SIDE, SIDE, 3), np.uint8)
        self.calls = 0
        self.closed = False
        self._fail_calls = frozenset(fail_calls)

    def room(self) -> npt.NDArray[np.uint8]:
        return self._room

    def begin(self, frames: npt.NDArray[np.uint8]) -> Answer:
        prediction = self.infer(frames)
        return lambda: prediction

    def infer(self, frames: npt.NDArray[np.uint8]) -> RawPrediction:
        call, self.calls = self.calls, self.calls + 1
        if call in self._fail_calls:
            raise EngineError("steered to fail")
        cells = SIDE // CELL
        grey = frames.astype(np.float32).mean(axis=3) / 255
        maps = grey.reshape(len(frames), cells, CELL, cells, CELL).mean(axis=(2, 4))
        return RawPrediction(maps.max(axis=(1, 2)), maps.mean(axis=(1, 2)), maps)

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> SteeredEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def picture(grey: int, width: int = 128, height: int = 96) -> Image:
    """A plain picture of one grey level."""
    return np.full((height, width, 3), grey, np.uint8)


def with_square(image: Image, x: int, y: int, side: int) -> Image:
    """The same with a bright square."""
    marked = image.copy()
    marked[y : y + side, x : x + side] = BRIGHT
    return marked


def write_video(path: Path, images: Iterable[Image], *, fps: float = 25.0, codec: str = "MJPG") -> Path:
    """Write a film (.avi or .mkv for MJPG, .mp4 for mp4v)."""
    writer: cv2.VideoWriter | None = None
    for image in images:
        if writer is None:
            size = (image.shape[1], image.shape[0])
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, size)
            if not writer.isOpened():
                raise RuntimeError(f"OpenCV cannot write {path} with {codec}")
        writer.write(image)
    if writer is not None:
        writer.release()
    return path


def write_folder(path: Path, images: Iterable[Image]) -> Path:
    """Write pictures as 0000.png, 0001.png, ..."""
    path.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        cv2.imwrite(str(path / f"{index:04}.png"), image)
    return path


def load(path: Path) -> Bundle:
    """A written bundle, verified."""
    return load_bundle(path)


class ListedFrames:
    """The Frames protocol over a list: what an intake would give, without processes."""

    def __init__(self, frames: Iterable[Frame]) -> None:
        self.waiting = list(frames)
        self.released: list[int | None] = []
        self.paused: set[str] = set()
        self.held = False  # True: nothing is given until it is False again
        self.closed = False
        self._captured = Counter(frame.camera for frame in self.waiting if frame.frame_id is not None)
        self._next_slot = 0

    def start(self) -> None:
        """Nothing to start."""

    def opened(self) -> bool:
        return True

    def go(self) -> None:
        """Nothing waits for it."""

    def take(self, limit: int, wait_s: float, gather_s: float) -> list[Lease]:  # noqa: ARG002 (never waits)
        if self.held:
            return []
        taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return [Lease(frame, index) for index, frame in enumerate(taken, self._taken(len(taken)))]

    def release(self, lease: Lease) -> None:
        self.released.append(lease.slot)

    def trigger(self, job: Job) -> str:
        return f"camera {job.camera} is not triggered by software"

    def pause(self, camera: str) -> None:
        self.paused.add(camera)

    def resume(self, camera: str) -> None:
        self.paused.discard(camera)

    def stop(self) -> None:
        """It has nothing more anyway."""
        self.held = False

    def abandon(self) -> None:
        """Nothing to kill."""

    def ended(self) -> bool:
        return not self.waiting

    def failures(self) -> list[str]:
        return []

    def conditions(self) -> dict[str, CameraCondition]:
        return {
            camera: CameraCondition(
                "ended" if self.ended() else "running", "", camera in self.paused, 0, None
            )
            for camera in self._captured
        }

    def counters(self) -> dict[str, tuple[int, dict[str, int]]]:
        return {camera: (captured, {}) for camera, captured in self._captured.items()}

    def close(self) -> None:
        self.closed = True

    def _taken(self, count: int) -> int:
        first, self._next_slot = self._next_slot, self._next_slot + count
        return first


class KeptMessages:
    """The Publisher protocol into lists; `slow_s` makes every message take its time."""

    def __init__(self, slow_s: float = 0.0) -> None:
        self.subscriptions = 0
        self.endpoints = ["kept", "kept"]
        self.results: list[ResultHeader] = []
        self.statuses: list[StatusHeader] = []
        self.on_result: Callable[[], None] | None = None
        self._slow_s = slow_s
        self._seq: Counter[str] = Counter()

    def open(self) -> None:
        """Nothing to open."""

    def next_seq(self, topic: str) -> int:
        self._seq[topic] += 1
        return self._seq[topic] - 1

    def publish(
        self,
        topic: str,  # noqa: ARG002 (the header says it too)
        header: Header,
        map_bytes: bytes | None,  # noqa: ARG002 (tests of the service look at headers)
        keep_trying: Callable[[], bool] | None,  # noqa: ARG002 (never full)
    ) -> bool:
        if isinstance(header, StatusHeader):
            self.statuses.append(header)
            return True
        self.results.append(header)
        time.sleep(self._slow_s)
        if self.on_result is not None:
            self.on_result()
        return True

    def serve_subscriptions(self) -> None:
        """Nobody subscribes."""

    def close(self) -> None:
        """Nothing to close."""


class ListedCalls:
    """The Control protocol over a list of requests; what was answered is kept, in order."""

    def __init__(self) -> None:
        self.waiting: list[AnyRequest] = []
        self.replies: list[Reply] = []
        self.jpegs: list[bytes | None] = []
        self.on_answer: Callable[[], None] | None = None

    def open(self) -> None:
        """Nothing to open."""

    def calls(self) -> list[Call]:
        taken, self.waiting = self.waiting, []
        return [Call(request, self._answer) for request in taken]

    def close(self) -> None:
        """Nothing to close."""

    def _answer(self, reply: Reply, jpeg: bytes | None) -> None:
        self.replies.append(reply)
        self.jpegs.append(jpeg)
        if self.on_answer is not None:
            self.on_answer()


class KeptOffers:
    """The Archive protocol into a list of headers."""

    def __init__(self) -> None:
        self.offers: list[ResultHeader] = []

    def open(self) -> None:
        """Nothing to open."""

    def offer(
        self,
        header: ResultHeader,
        image: Image | None,  # noqa: ARG002 (tests of the service look at headers)
        anomaly_map: npt.NDArray[np.float32] | None,  # noqa: ARG002
    ) -> None:
        self.offers.append(header)

    def warnings(self) -> list[str]:
        return []

    def close(self) -> None:
        """Nothing to close."""


class NoPreview:
    """The Preview protocol, with nobody looking on."""

    def open(self) -> None:
        """Nothing to open."""

    def offer(self, header: ResultHeader, image: Image | None, map_bytes: bytes | None) -> None:
        """Nobody looks."""

    def close(self) -> None:
        """Nothing to close."""


class NoMetrics:
    """The Metrics protocol, counting nothing."""

    def open(self) -> None:
        """Nothing to open."""

    def result(self, header: ResultHeader) -> None:
        """Not counted."""

    def status(self, header: StatusHeader) -> None:
        """Not counted."""

    def close(self) -> None:
        """Nothing to close."""


class SilentNotifier:
    """The Notifier protocol, told but not telling."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def tell(self, *lines: str) -> None:
        self.told += lines

    def feed_watchdog(self) -> None:
        """Nobody watches."""

    def reloading(self) -> None:
        self.told.append("RELOADING=1")

    def extend_timeout(self, seconds: float) -> None:
        """Nobody waits."""
