"""asyncua's values, made briefly: data values with both their times, status codes, the standard's node ids."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from asyncua import ua

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def data_value(value: object, kind: ua.VariantType, at: datetime, *, array: bool = False) -> ua.DataValue:
    """A Good value of the time `at`; None is BadNoData."""
    if value is None:
        return bad_value(ua.StatusCodes.BadNoData, at)
    return ua.DataValue(ua.Variant(value, kind, is_array=array), **_times(at))


def bad_value(code: int, at: datetime) -> ua.DataValue:
    """No value, and why: a Bad status code."""
    return ua.DataValue(StatusCode=status_code(code), **_times(at))


def status_code(code: int) -> ua.StatusCode:
    """One of ua.StatusCodes."""
    return ua.StatusCode(ua.UInt32(code))


def standard_id(number: int) -> ua.NodeId:
    """One of ua.ObjectIds."""
    return ua.NodeId(ua.Int32(number))


def utc(utc_ns: int) -> datetime:
    """A wire's time, to the microsecond."""
    return _EPOCH + timedelta(microseconds=utc_ns // 1000)


def utc_now() -> datetime:
    return datetime.now(timezone.utc)


def _times(at: datetime) -> dict[str, Any]:
    """`at` the source had the value, now the server has it."""
    return {"SourceTimestamp": at, "ServerTimestamp": utc_now()}
