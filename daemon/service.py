"""The daemon's life in three verbs: startup, main_loop, shutdown.

Frames in, verdicts out, every frame accounted for. Sees only protocols: an intake of frames, an engine, a
publisher, a notifier. Does not know OpenCV captures, ONNX or sockets, and a signal reaches it as a flag.
"""

from __future__ import annotations

import logging
import os
import time
from enum import IntEnum

from dualkd.daemon.bundle import Bundle, BundleError
from dualkd.daemon.config import DaemonConfig
from dualkd.daemon.engine import Engine, EngineError
from dualkd.daemon.judge import Judge, Judged
from dualkd.daemon.ledger import Ledger
from dualkd.daemon.messages import BundleRef, State, StatusHeader, result_topic, status_topic
from dualkd.daemon.parts import EngineLoader, Frames, Notifier, Publisher
from dualkd.daemon.publisher import PublisherError
from dualkd.daemon.report import result_message
from dualkd.daemon.sources import SourceError

logger = logging.getLogger(__name__)

TICK_S = 0.1
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
    PUBLISHER = 6


_STATUS_OF: dict[type[Exception], ExitStatus] = {
    BundleError: ExitStatus.BUNDLE,
    EngineError: ExitStatus.ENGINE,
    SourceError: ExitStatus.SOURCE,
    PublisherError: ExitStatus.PUBLISHER,
}


class Service:
    """One run of the daemon: startup, main_loop, shutdown. Ends by itself or by `request_stop`."""

    def __init__(
        self,
        config: DaemonConfig,
        bundle: Bundle,
        load_engine: EngineLoader,
        frames: Frames,
        publisher: Publisher,
        notifier: Notifier,
    ) -> None:
        self._config = config
        self._bundle = bundle
        self._load_engine = load_engine
        self._frames = frames
        self._publisher = publisher
        self._notifier = notifier
        self._ledger = Ledger([camera.name for camera in config.cameras])
        self._engine: Engine | None = None
        self._state: State = "starting"
        self._boot_id = os.urandom(8).hex()
        self._bundle_ref = BundleRef(name=bundle.manifest.name, sha256=bundle.sha256)
        self._began_s = self._said_s = self._counted_s = time.monotonic()
        self._stop_requests = 0
        self._deadline_s: float | None = None  # of draining

    def request_stop(self) -> None:
        """Drain and end; asked a second time, end without draining. Only sets a flag: for signal handlers."""
        self._stop_requests += 1

    def run(self) -> ExitStatus:
        """Returns DONE, or raises what failed (see status_of) after an orderly shutdown."""
        outcome, reason = ExitStatus.UNEXPECTED, "unexpected error, see the log"
        try:
            self.startup()
            self.main_loop()
            outcome, reason = ExitStatus.DONE, ""
        except (BundleError, EngineError, SourceError, PublisherError) as error:
            outcome, reason = status_of(error), str(error)
            raise
        finally:
            self.shutdown(outcome, reason)
        return outcome

    def startup(self) -> None:
        """Take the endpoints, open the sources, load and try the engine, wait for subscribers."""
        self._publisher.open()
        logger.info("publishing on %s (results) and %s (scores)", *self._publisher.endpoints)
        self._frames.start()  # the sources open while the engine loads
        self._engine = self._load_engine()
        self._judge = Judge(
            self._engine, self._bundle, self._config.decision.threshold, self._config.batch.size
        )
        self._judge.warm_up()
        logger.info("engine: %s; up to %d frames at once", self._engine.description, self._judge.limit)
        self._wait_for_sources()
        self._notifier.tell("READY=1", f"STATUS=line {self._config.line}")
        self._wait_for_subscribers()
        if not self._stop_requests:
            self._frames.go()
            self._enter("running")

    def main_loop(self) -> None:
        """Judge frames until the sources end, one of them fails, or a stop is asked for; then drain."""
        while not (self._stop_requests or self._frames.ended() or self._frames.failures()):
            self._judge_some()
        self._enter("draining")
        self._frames.stop()
        self._deadline_s = time.monotonic() + self._config.drain_timeout_s
        kill_at_s = time.monotonic() + self._config.stop_grace_s
        while not self._frames.ended() and self._stop_requests < 2 and time.monotonic() < self._deadline_s:
            self._judge_some()
            if time.monotonic() > kill_at_s and self._frames.running():
                self._frames.abandon()
        if failures := self._frames.failures():
            raise SourceError("; ".join(failures))

    def shutdown(self, outcome: ExitStatus, reason: str) -> None:
        """Account for every frame, say the totals, and give everything back."""
        self._notifier.tell("STOPPING=1")
        self._drop_the_rest()
        self._ledger.capture_counters(self._frames.counters())
        self._state = "ended"
        if len(self._publisher.endpoints) == 2:  # both sockets are open
            self._deadline_s = time.monotonic() + self._config.stop_grace_s
            self._say_status(outcome, reason)
        self._frames.close()
        if self._engine is not None:
            self._engine.close()
        self._publisher.close()
        for camera, totals in self._ledger.totals([]).items():
            verdicts = f"{totals.passed} PASS, {totals.failed} FAIL, {totals.invalid} INVALID"
            dropped = sum(totals.dropped.values())
            logger.info("camera %s: %d captured: %s, %d dropped", camera, totals.captured, verdicts, dropped)

    def _judge_some(self) -> None:
        """One turn of the loop: take frames, judge them, publish each verdict."""
        self._tick()
        leases = self._frames.take(self._judge.limit, TICK_S, self._config.batch.deadline_ms / 1e3)
        if not leases:
            return
        prepared = self._judge.prepare([lease.frame for lease in leases])
        for lease in leases:
            self._frames.release(lease)
        self._ledger.capture_counters(self._frames.counters())
        for judged in self._judge.judge(prepared):
            self._publish(judged)
        if self._judge.errors_in_a_row >= ENGINE_ERRORS_IN_A_ROW:
            raise EngineError(f"{ENGINE_ERRORS_IN_A_ROW} batches in a row failed: {self._judge.last_error}")

    def _publish(self, judged: Judged) -> None:
        camera = judged.frame.camera
        topic = result_topic(self._config.line, camera)
        header, map_bytes = result_message(
            judged,
            line=self._config.line,
            boot_id=self._boot_id,
            seq=self._publisher.next_seq(topic),
            bundle=self._bundle_ref,
            region_threshold=self._bundle.manifest.calibration.region_threshold,
            dropped=self._ledger.dropped(camera),
            with_map=self._config.publisher.maps,
        )
        if self._publisher.publish(topic, header, map_bytes, self._keep_trying):
            self._ledger.published(camera, judged.verdict.outcome, header.stage_ms)
        else:
            self._ledger.drop(camera, DROPPED_UNSENT)

    def _keep_trying(self) -> bool:
        """Whether a full subscriber may hold the line up any longer (`when_full: block`)."""
        self._notifier.feed_watchdog()
        if self._stop_requests and self._deadline_s is None:
            self._deadline_s = time.monotonic() + self._config.drain_timeout_s
        return self._stop_requests < 2 and (self._deadline_s is None or time.monotonic() < self._deadline_s)

    def _tick(self) -> None:
        """What is due by the clock: watchdog, late subscribers, heartbeat, statistics."""
        now_s = time.monotonic()
        self._notifier.feed_watchdog()
        self._publisher.serve_subscriptions()
        if now_s - self._said_s >= self._config.heartbeat_s:
            self._ledger.capture_counters(self._frames.counters())
            self._say_status()
        if now_s - self._counted_s >= self._config.statistics_s:
            self._counted_s = now_s
            line = self._ledger.interval_line()
            logger.info("%s", line)
            self._notifier.tell(f"STATUS={line}")

    def _wait_for_sources(self) -> None:
        deadline_s = time.monotonic() + self._config.open_timeout_s
        while not self._frames.opened() and not self._stop_requests:
            if time.monotonic() > deadline_s:
                names = ", ".join(self._frames.unopened())
                limit_s = self._config.open_timeout_s
                raise SourceError(f"camera {names}: did not open within {limit_s:g} s (open_timeout_s)")
            self._tick()
            time.sleep(TICK_S / 10)

    def _wait_for_subscribers(self) -> None:
        wanted, limit_s = self._config.publisher.wait_for_subscribers, self._config.publisher.wait_timeout_s
        deadline_s = time.monotonic() + limit_s
        self._say_status()
        self._publisher.serve_subscriptions()
        while self._publisher.subscriptions < wanted and not self._stop_requests:
            if time.monotonic() > deadline_s:
                have = self._publisher.subscriptions
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
        now_s = self._said_s = time.monotonic()
        topic = status_topic(self._config.line)
        header = StatusHeader(
            boot_id=self._boot_id,
            line=self._config.line,
            seq=self._publisher.next_seq(topic),
            utc_ns=time.time_ns(),
            state=self._state,
            reason=reason,
            exit_status=None if outcome is None else int(outcome),
            uptime_s=now_s - self._began_s,
            heartbeat_s=self._config.heartbeat_s,
            bundle=self._bundle_ref,
            cameras=self._ledger.totals(self._frames.running()),
        )
        self._publisher.publish(topic, header, None, None if outcome is None else self._keep_trying)

    def _drop_the_rest(self) -> None:
        """What nobody will judge any more is counted as dropped, so that the accounts close."""
        self._frames.stop()
        until_s = time.monotonic() + self._config.stop_grace_s
        while not self._frames.ended():
            if time.monotonic() > until_s:
                self._frames.abandon()
            for lease in self._frames.take(64, TICK_S, 0.0):
                self._ledger.drop(lease.frame.camera, DROPPED_AT_STOP)
                self._frames.release(lease)


def status_of(error: Exception) -> ExitStatus:
    """The exit status that tells which part failed."""
    return next(
        (status for kind, status in _STATUS_OF.items() if isinstance(error, kind)), ExitStatus.UNEXPECTED
    )
