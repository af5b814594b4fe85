"""The daemon from outside, in Python: verdicts with lost ones counted, whether the line lives, and requests.

What every bridge, view and command stands on. WIRE.md documents the messages; dualkd.daemon.messages and
dualkd.daemon.control_messages are their types. Knows the wire; does not know the rest of the daemon.
"""

from dualkd.daemon.client.connection import KeyDeniedError
from dualkd.daemon.client.controller import AsyncController, Controller, ControllerTimeoutError
from dualkd.daemon.client.reception import Preview, Received, Result, Status
from dualkd.daemon.client.subscriber import AsyncSubscriber, Subscriber, SubscriberTimeoutError

__all__ = [
    "AsyncController",
    "AsyncSubscriber",
    "Controller",
    "ControllerTimeoutError",
    "KeyDeniedError",
    "Preview",
    "Received",
    "Result",
    "Status",
    "Subscriber",
    "SubscriberTimeoutError",
]
