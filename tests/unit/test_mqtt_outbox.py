"""What waits for a broker: in which order it goes, how long it stays, and what counts as lost."""

from __future__ import annotations

from dualkd.daemon.bridges.mqtt.outbox import MAX_WAITING_BYTES, Message, Outbox

HOLD_S = 5.0


class Wire:
    """Takes what an outbox hands over, and gives it ids."""

    def __init__(self, outbox: Outbox) -> None:
        self.sent: list[str] = []
        self._outbox = outbox

    def take(self, count: int = 100, now_s: float = 0.0) -> list[str]:
        """Up to so many messages, by their payloads."""
        begin = len(self.sent)
        while len(self.sent) - begin < count and self._outbox.hand_over(self._publish, now_s):
            pass
        return self.sent[begin:]

    def _publish(self, message: Message) -> int:
        self.sent.append(message.payload.decode())
        return len(self.sent)


def passing(text: str, topic: str = "result") -> Message:
    return Message(topic, text.encode())


def retained(text: str, topic: str = "state") -> Message:
    return Message(topic, text.encode(), retain=True)


def test_what_is_retained_goes_first_and_only_the_newest_of_it() -> None:
    outbox = Outbox(HOLD_S)
    for message in (passing("1"), passing("2")):
        outbox.add(message, 0.0)
    for message in (retained("old"), retained("other", "status"), retained("new")):
        outbox.retain(message)
    assert Wire(outbox).take() == ["new", "other", "1", "2"]


def test_what_waited_too_long_is_lost_and_counted() -> None:
    outbox = Outbox(HOLD_S)
    outbox.add(passing("1"), 0.0)
    outbox.add(passing("2"), 3.0)
    outbox.retain(retained("state"))
    assert Wire(outbox).take(now_s=HOLD_S + 0.1) == ["state", "2"]
    assert outbox.lost == 1


def test_what_no_broker_acknowledged_waits_again_in_its_place() -> None:
    outbox = Outbox(HOLD_S)
    wire = Wire(outbox)
    for text in "1234":
        outbox.add(passing(text), 0.0)
    wire.take(3)
    assert outbox.acknowledge(1, taken=True) == "result"
    outbox.take_back()
    assert outbox.under_way == 0
    assert wire.take() == ["2", "3", "4"]
    outbox.take_back()
    assert wire.take(now_s=HOLD_S + 0.1) == []
    assert outbox.lost == 3


def test_a_new_connection_gets_all_that_is_retained_again() -> None:
    outbox = Outbox(HOLD_S)
    wire = Wire(outbox)
    for message in (retained("state"), retained("status", "status")):
        outbox.retain(message)
    wire.take()
    outbox.take_back()
    assert wire.take() == []
    outbox.renew()
    assert wire.take() == ["state", "status"]


def test_what_a_broker_refuses_is_lost_unless_it_is_retained() -> None:
    outbox = Outbox(HOLD_S)
    outbox.retain(retained("state"))
    outbox.add(passing("1"), 0.0)
    Wire(outbox).take()
    assert [outbox.acknowledge(number, taken=False) for number in (1, 2, 3)] == ["state", "result", ""]
    assert (outbox.lost, outbox.idle) == (1, True)


def test_what_is_discarded_is_not_told_even_if_it_was_under_way() -> None:
    """Of one topic; others keep their places."""
    outbox = Outbox(HOLD_S)
    wire = Wire(outbox)
    for message in (passing("1"), passing("2", "other"), passing("3"), passing("4", "other")):
        outbox.add(message, 1.0)
    wire.take(2, now_s=1.0)
    outbox.discard("result")
    outbox.take_back()
    assert wire.take(now_s=1.0) == ["2", "4"]
    assert outbox.lost == 2


def test_it_does_not_grow_without_a_bound() -> None:
    outbox = Outbox(HOLD_S)
    half = "x" * (MAX_WAITING_BYTES // 2)
    for text in ("first" + half, half, "last"):
        outbox.add(passing(text), 0.0)
    assert [text[:4] for text in Wire(outbox).take()] == ["xxxx", "last"]
    assert outbox.lost == 1
