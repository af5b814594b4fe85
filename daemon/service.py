"""The daemon's life in three verbs: startup, main_loop, shutdown.

Frames in, verdicts out, every frame accounted for. Sees only protocols (parts.py) and the recipes it judges
by. Does not know OpenCV captures, ONNX or sockets, and a signal reaches it as a flag.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from enum import IntEnum

import msgspec
from dualkd.daemon.bundle import BundleError
from dualkd.daemon.cameras.sources import SourceError
from dualkd.daemon.commands import Commands
from dualkd.daemon.config import DaemonConfig
from dualkd.daemon.control import ControlError
from dualkd.daemon.engine import EngineError
from dualkd.daemon.judge import Judge, Judged
from dualkd.daemon.ledger import Ledger
from dualkd.daemon.line import Line
from dualkd.daemon.messages import State, StatusHeader, result_topic, status_topic
from dualkd.daemon.monitoring.drift import Drift
from dualkd.daemon.monitoring.metrics import MetricsError
from dualkd.daemon.parts import EngineLoader, Lease, Parts
from dualkd.daemon.preview import PreviewError
from dualkd.daemon.publisher import PublisherError
from dualkd.daemon.recipes import RecipeError, RecipeLoader
from dualkd.daemon.report import result_message

logger = logging.getLogger(__name__)

TICK_S = 0.1
LONGEST_LOAD_S = 300.0  # of the first recipes: systemd is asked for so long
STOP_AIR_S = 10.0  # the archive may need half of it
ENGINE_ERRORS_IN_A_ROW = 3
DROPPED_AT_STOP = "service: stopped before it was judged"
DROPPED_UNSENT = "publisher: a full subscriber"


class ExitStatus(IntEnum):
    """What the process ends with."""

    DONE = 0
    UNEXPECTED = 1
    CONFIG = 2
    BUNDLE = 3
    ENGINE = 4
    SOURCE = 5
    ENDPOINT = 6


_STATUS_OF: dict[type[Exception], ExitStatus] = {
    BundleError: ExitStatus.BUNDLE,
    RecipeError: ExitStatus.BUNDLE,
    EngineError: ExitStatus.ENGINE,
    SourceError: ExitStatus.SOURCE,
    PublisherError: ExitStatus.ENDPOINT,
    PreviewError: ExitStatus.ENDPOINT,
    ControlError: ExitStatus.ENDPOINT,
    MetricsError: ExitStatus.ENDPOINT,
}
ENDS_WITH = tuple(_STATUS_OF)


class Service:
    """One run of the daemon: startup, main_loop, shutdown. Ends by itself or by `request_stop`."""

    def __init__(
        self,
        config: DaemonConfig,
        parts: Parts,
        load_engine: EngineLoader,
        read_config: Callable[[], DaemonConfig],
    ) -> None:
        """`read_config` reads the configuration again, for a reload. Raises ConfigError."""
        self._config = config
        self._parts = parts
        self._judge = Judge(config.batch.size)
        self._line = Line(config, self._judge, RecipeLoader(load_engine))
        cameras = [camera.name for camera in config.cameras]
        self._ledger = Ledger(cameras)
        self._leases: deque[Lease] = deque()  # frames with the judge, in order
        self._drift = Drift(config.drift)
        self._commands = Commands(cameras, parts.frames, self._line, read_config, self._status)
        self._state: State = "starting"
        self._boot_id = os.urandom(8).hex()
        self._began_s = self._said_s = self._counted_s = time.monotonic()
        self._stop_requests = 0
        self._reload_requested = False
        self._deadline_s: float | None = None  # of draining

    def request_stop(self) -> None:
        """Drain and end; asked a second time, end without draining. Only sets a flag: for signal handlers."""
        self._stop_requests += 1

    def request_reload(self) -> None:
        """Read the configuration again between two frames. Only sets a flag: for signal handlers."""
        self._reload_requested = True

    def run(self) -> ExitStatus:
        """Returns DONE, or raises what failed (see status_of) after an orderly shutdown."""
        outcome, reason = ExitStatus.UNEXPECTED, "unexpected error, see the log"
        try:
            self.startup()
            self.main_loop()
            outcome, reason = ExitStatus.DONE, ""
        except ENDS_WITH as error:
            outcome, reason = status_of(error), str(error)
            raise
        finally:
            self.shutdown(outcome, reason)
        return outcome

    def startup(self) -> None:
        """Take the endpoints, open the sources, load and try the recipes, wait for subscribers."""
        parts = self._parts
        parts.publisher.open()
        logger.info("publishing on %s (results) and %s (scores)", *parts.publisher.endpoints)
        parts.preview.open()
        parts.control.open()
        parts.metrics.open()
        parts.archive.open()
        parts.frames.start()  # the sources open while the recipes load
        self._wait_for_recipes()
        self._wait_for_sources()
        parts.notifier.tell("READY=1", f"STATUS=line {self._config.line}")
        self._wait_for_subscribers()
        if not self._stop_requests:
            parts.frames.go()
            self._enter("running")

    def main_loop(self) -> None:
        """Judge frames until the sources end, one of them fails, or a stop is asked for; then drain."""
        frames = self._parts.frames
        if not self._judge.recipes:
            return  # stopped before there was anything to judge by
        while not (self._stop_requests or frames.ended() or frames.failures()):
            self._turn()
        self._enter("draining")
        self._parts.notifier.extend_timeout(self._longest_stop_s())
        frames.stop()
        self._deadline_s = time.monotonic() + self._config.drain_timeout_s
        kill_at_s = time.monotonic() + self._config.stop_grace_s
        while (
            (self._leases or not frames.ended())
            and self._stop_requests < 2
            and time.monotonic() < self._deadline_s
        ):
            self._turn()
            if time.monotonic() > kill_at_s:
                frames.abandon()
        if failures := frames.failures():
            raise SourceError("; ".join(failures))

    def shutdown(self, outcome: ExitStatus, reason: str) -> None:
        """Account for every frame, say the totals, and give everything back."""
        parts = self._parts
        parts.notifier.tell("STOPPING=1")
        self._drop_the_rest()
        self._state = "ended"
        if len(parts.publisher.endpoints) == 2:  # both sockets are open
            self._deadline_s = time.monotonic() + self._config.stop_grace_s
            self._say_status(outcome, reason)
        parts.frames.close()
        parts.control.close()
        self._line.close()
        parts.archive.close()
        parts.publisher.close()
        parts.preview.close()
        parts.metrics.close()
        for camera, account in self._status().cameras.items():
            verdicts = f"{account.passed} PASS, {account.failed} FAIL, {account.invalid} INVALID"
            dropped = sum(account.dropped.values())
            logger.info("camera %s: %d captured: %s, %d dropped", camera, account.captured, verdicts, dropped)

    def _turn(self) -> None:
        """One turn of the loop: take frames, judge them, publish each verdict that is due."""
        self._tick()
        frames = self._parts.frames
        wait_s = 0.0 if self._leases else TICK_S
        taken = frames.take(self._judge.limit, wait_s, self._config.batch.deadline_ms / 1e3)
        self._leases.extend(taken)
        for judged in self._judge.judge([lease.frame for lease in taken]):
            lease = self._leases.popleft()
            self._publish(judged)
            frames.release(lease)
        if (error := self._judge.broken_engine(ENGINE_ERRORS_IN_A_ROW)) is not None:
            raise EngineError(f"{ENGINE_ERRORS_IN_A_ROW} batches in a row failed: {error}")

    def _publish(self, judged: Judged) -> None:
        camera, publisher = judged.frame.camera, self._parts.publisher
        topic = result_topic(self._config.line, camera)
        header, map_bytes = result_message(
            judged,
            line=self._config.line,
            boot_id=self._boot_id,
            seq=publisher.next_seq(topic),
            dropped=self._ledger.dropped(camera),
            with_map=self._config.publisher.maps,
        )
        absent = header.frame_id is None
        if publisher.publish(topic, header, map_bytes, self._keep_trying):
            self._ledger.published(camera, header.verdict, header.stage_ms, absent)
        elif not absent:
            self._ledger.drop(camera, DROPPED_UNSENT)
        self._parts.preview.offer(header, judged.frame.image, map_bytes)
        prediction = judged.prediction
        self._parts.metrics.result(header)
        self._parts.archive.offer(
            header, judged.frame.image, None if prediction is None else prediction.anomaly_map
        )
        self._drift.observe(header, judged.recipe.bundle.manifest.calibration)
        self._commands.show(judged.frame, header)

    def _keep_trying(self) -> bool:
        """Whether a full subscriber may hold the line up any longer (`when_full: block`)."""
        self._parts.notifier.feed_watchdog()
        if self._stop_requests and self._deadline_s is None:
            self._deadline_s = time.monotonic() + self._config.drain_timeout_s
        return self._stop_requests < 2 and (self._deadline_s is None or time.monotonic() < self._deadline_s)

    def _tick(self) -> None:
        """What is due by the clock or asked for: watchdog, subscribers, requests, heartbeat, statistics."""
        now_s = time.monotonic()
        self._parts.notifier.feed_watchdog()
        self._parts.publisher.serve_subscriptions()
        for call in self._parts.control.calls():
            self._commands.carry_out(call)
        if self._reload_requested and self._state == "running":  # before, READY=1 would be said too early
            self._reload_requested = False
            self._reload()
        self._line.poll()
        self._commands.expire()
        self._ledger.capture_counters(self._parts.frames.counters())
        if now_s - self._said_s >= self._config.heartbeat_s:
            self._say_status()
        if now_s - self._counted_s >= self._config.statistics_s:
            self._counted_s = now_s
            line = self._ledger.interval_line()
            logger.info("%s", line)
            self._parts.notifier.tell(f"STATUS={line}")

    def _reload(self) -> None:
        """As systemd knows it: RELOADING, then READY, whether it could be done or all stayed as it was."""

        def done(error: Exception | None) -> None:
            said = "configuration read again" if error is None else f"reload refused: {error}"
            self._parts.notifier.tell("READY=1", f"STATUS={said}")

        self._parts.notifier.reloading()
        self._commands.reload(done)

    def _longest_stop_s(self) -> float:
        config = self._config
        return (
            config.drain_timeout_s + 2 * config.stop_grace_s + config.publisher.linger_ms / 1e3 + STOP_AIR_S
        )

    def _wait_for_recipes(self) -> None:
        ended: list[Exception | None] = []
        self._line.begin(ended.append)
        self._parts.notifier.extend_timeout(LONGEST_LOAD_S)
        while not ended and not self._stop_requests:
            self._tick()
            time.sleep(TICK_S / 10)
        if ended and ended[0] is not None:
            raise ended[0]
        logger.info("up to %d frames at once", self._judge.limit)

    def _wait_for_sources(self) -> None:
        while (
            not self._parts.frames.opened() and not self._stop_requests
        ):  # which raises when it takes too long
            self._tick()
            time.sleep(TICK_S / 10)

    def _wait_for_subscribers(self) -> None:
        wanted, limit_s = self._config.publisher.wait_for_subscribers, self._config.publisher.wait_timeout_s
        deadline_s = time.monotonic() + limit_s
        self._say_status()
        self._parts.publisher.serve_subscriptions()
        while self._parts.publisher.subscriptions < wanted and not self._stop_requests:
            if time.monotonic() > deadline_s:
                have = self._parts.publisher.subscriptions
                raise PublisherError(
                    f"{have} of {wanted} subscriptions came within {limit_s:g} s "
                    "(publisher.wait_for_subscribers, publisher.wait_timeout_s)"
                )
            self._tick()
            time.sleep(TICK_S / 10)

    def _enter(self, state: State) -> None:
        self._state = state
        logger.info("line %s: %s", self._config.line, state)
        self._say_status()

    def _say_status(self, outcome: ExitStatus | None = None, reason: str = "") -> None:
        self._said_s = time.monotonic()
        topic = status_topic(self._config.line)
        header = msgspec.structs.replace(
            self._status(),
            seq=self._parts.publisher.next_seq(topic),
            reason=reason,
            exit_status=None if outcome is None else int(outcome),
        )
        self._parts.metrics.status(header)
        self._parts.publisher.publish(topic, header, None, None if outcome is None else self._keep_trying)

    def _status(self) -> StatusHeader:
        """How the line is now; `seq` is not counted."""
        frames = self._parts.frames
        conditions = frames.conditions()
        self._ledger.capture_counters(frames.counters())
        lost = [
            f"camera {name}: {condition.reason}"
            for name, condition in conditions.items()
            if condition.state == "lost"
        ]
        parts = (self._parts.archive, self._drift, self._line, self._commands)
        return StatusHeader(
            boot_id=self._boot_id,
            line=self._config.line,
            seq=0,
            utc_ns=time.time_ns(),
            state=self._state,
            reason="",
            exit_status=None,
            uptime_s=time.monotonic() - self._began_s,
            heartbeat_s=self._config.heartbeat_s,
            warnings=[*lost, *(warning for part in parts for warning in part.warnings())],
            cameras=self._ledger.statuses(
                conditions, {camera: recipe.ref for camera, recipe in self._judge.recipes.items()}
            ),
            recipes=self._line.recipe_names,
        )

    def _drop_the_rest(self) -> None:
        """What nobody will judge any more is counted as dropped, so that the accounts close."""
        self._drop(self._leases)
        self._parts.frames.stop()
        until_s = time.monotonic() + self._config.stop_grace_s
        while not self._parts.frames.ended():
            if time.monotonic() > until_s:
                self._parts.frames.abandon()
            self._drop(self._parts.frames.take(64, TICK_S, 0.0))

    def _drop(self, leases: Iterable[Lease]) -> None:
        for lease in leases:
            if lease.frame.frame_id is not None:
                self._ledger.drop(lease.frame.camera, DROPPED_AT_STOP)
            self._parts.frames.release(lease)


def status_of(error: Exception) -> ExitStatus:
    """The exit status that tells which part failed."""
    return next(
        (status for kind, status in _STATUS_OF.items() if isinstance(error, kind)), ExitStatus.UNEXPECTED
    )
