"""The accounts of the frames."""

from __future__ import annotations

from dualkd.daemon.ledger import Ledger
from dualkd.daemon.messages import StageTimes


def times(total: float) -> StageTimes:
    return StageTimes(wait=0, resize=0, infer=0, decide=0, total=total)


def test_drops_counted_in_two_places_add_up_once() -> None:
    """The intake's counters are totals and are taken over, not added up; our own drops come on top."""
    ledger = Ledger(["cam"])
    ledger.capture_counters({"cam": (5, {"intake: x": 2})})
    ledger.drop("cam", "service: y")
    ledger.capture_counters({"cam": (9, {"intake: x": 3})})
    totals = ledger.totals(["cam"])["cam"]
    assert (totals.captured, totals.dropped, totals.running) == (9, {"intake: x": 3, "service: y": 1}, True)


def test_the_statistics_line_tells_of_its_interval_only() -> None:
    """Counts, drops and medians since the last line; then from zero."""
    ledger = Ledger(["cam"])
    for total in (1.0, 2.0, 30.0):
        ledger.published("cam", "PASS", times(total))
    ledger.published("cam", "FAIL", times(2.0))
    ledger.drop("cam", "service: y")
    line = ledger.interval_line()
    assert line.startswith("4 frames, ")
    assert "3 PASS, 1 FAIL, 0 INVALID, 1 dropped" in line
    assert line.endswith("total 2.00")
    assert "0 frames" in ledger.interval_line()
    assert "0 dropped" in ledger.interval_line()
    assert ledger.totals([])["cam"].passed == 3
