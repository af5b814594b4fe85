"""A subscriber with a memory, for tests: what was heard, whether the accounts close, how long a recovery took."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType

from dualkd.daemon.client import Subscriber, SubscriberTimeoutError
from dualkd.daemon.curve import ClientKeys
from dualkd.daemon.messages import ResultHeader, StatusHeader
from running import PATIENCE_S

RECOVERY_S = 15.0  # promised are 5; a busy test machine gets more


class Ear:
    """A subscriber that keeps the headers of all it heard, in order; a context manager."""

    def __init__(self, endpoint: str, keys: ClientKeys | None = None) -> None:
        self.results: list[ResultHeader] = []
        self.statuses: list[StatusHeader] = []
        self._subscriber = Subscriber(endpoint, keys=keys)

    def __enter__(self) -> Ear:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._subscriber.close()

    @property
    def lost(self) -> int:
        """Messages that did not come, by the gaps."""
        return self._subscriber.lost

    def hears(self, within_s: float) -> bool:
        """Take the next message; whether one came in so short a time."""
        try:
            self.hear(within_s)
        except SubscriberTimeoutError:
            return False
        return True

    def hear(self, within_s: float = PATIENCE_S) -> ResultHeader | StatusHeader:
        """The next message."""
        header = self._subscriber.receive(within_s).header
        if isinstance(header, StatusHeader):
            self.statuses.append(header)
        else:
            self.results.append(header)
        return header

    def result(self, fits: Callable[[ResultHeader], bool], what: str) -> ResultHeader:
        """Listen until a verdict fits, and return it; fail with `what` when none comes."""
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            header = self.hear()
            if isinstance(header, ResultHeader) and fits(header):
                return header
        raise AssertionError(f"{what}: not within {PATIENCE_S:g} s; last heard: {self.results[-1:]}")

    def status(self, fits: Callable[[StatusHeader], bool], what: str) -> StatusHeader:
        """Listen until a status fits, and return it; fail with `what` when none comes."""
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            header = self.hear()
            if isinstance(header, StatusHeader) and fits(header):
                return header
        raise AssertionError(f"{what}: not within {PATIENCE_S:g} s; last heard: {self.statuses[-1:]}")

    def judged(self, count: int = 1) -> list[ResultHeader]:
        """Listen to so many more frames that got a PASS or a FAIL, and return them."""
        return [self.result(was_judged, "a verdict") for _ in range(count)]

    def to_the_end(self) -> StatusHeader:
        """Listen until the daemon has ended, check its accounts, and return its last word."""
        last = self.status(lambda status: status.state == "ended", "the last status")
        check_accounts(last, self.results if self.lost == 0 else None)
        return last


def was_judged(header: ResultHeader) -> bool:
    return header.verdict != "INVALID"


def check_accounts(last: StatusHeader, results: list[ResultHeader] | None) -> None:
    """Fail unless every captured frame has one verdict or one counted drop, and no PASS came of an error.

    `results` is all that was heard, None if some was lost on the way.
    """
    for name, account in last.cameras.items():
        judged = (account.passed, account.failed, account.invalid, account.absent)
        assert account.captured == sum(judged[:3]) + sum(account.dropped.values()), (name, account)
        if results is None:
            continue
        heard = [header for header in results if header.camera == name]
        kinds = Counter("absent" if header.frame_id is None else header.verdict for header in heard)
        assert judged == tuple(kinds[kind] for kind in ("PASS", "FAIL", "INVALID", "absent")), (name, account)
        assert [header.seq for header in heard] == list(range(len(heard)))
        numbers = [header.frame_id for header in heard if header.frame_id is not None]
        assert numbers == sorted(set(numbers))
    for header in results or []:
        if header.verdict == "PASS":
            assert not header.reason
            assert header.score is not None
            assert header.score <= header.threshold
        if header.verdict == "INVALID":
            assert header.reason


def seconds_to(header: ResultHeader, since_ns: int, what: str) -> float:
    """How long after `since_ns` (monotonic) a frame was captured: printed, and within RECOVERY_S."""
    seconds = (header.captured_mono_ns - since_ns) / 1e9
    print(f"{what}: {seconds:.2f} s")
    assert seconds < RECOVERY_S
    return seconds
