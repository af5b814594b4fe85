"""The verdicts that are shown: of each camera the current one, and the latest of all; each Good only while it
may be believed. When that is, others say.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence
from datetime import datetime

from asyncua import ua
from dualkd.daemon.bridges.opcua.fields import RESULT, SUBSTITUTES, Values
from dualkd.daemon.bridges.opcua.space import CAMERAS, KEPT_RESULTS, Space, kept_result
from dualkd.daemon.bridges.opcua.values import bad_value, data_value, status_code, utc
from dualkd.daemon.messages import ResultHeader


class Results:
    """What is shown of verdicts, in the address space. A camera is doubted until it is believed."""

    def __init__(self, space: Space, cameras: Sequence[str]) -> None:
        self._space = space
        self._doubts: dict[str, int] = dict.fromkeys(cameras, 0)  # status codes of those that are doubted
        self._latest: dict[str, Values] = {}  # by camera, since it was last doubted
        self._good: deque[tuple[int, str, Values]] = deque(maxlen=KEPT_RESULTS)  # place, camera, its values
        self._next_place = 0

    async def clear(self, at: datetime) -> None:
        """Say of every place that nothing has come yet."""
        nothing = bad_value(ua.StatusCodes.BadWaitingForInitialData, at)
        for place in range(KEPT_RESULTS):
            await self._write(kept_result(place), {field.name: nothing for field in RESULT})

    async def take(self, header: ResultHeader) -> Values:
        """Keep a new verdict, show it unless its camera is doubted, and return its values."""
        at = utc(header.captured_utc_ns)
        values = {field.name: field.data_value(header, at) for field in RESULT}
        self._latest[header.camera] = values
        if header.camera not in self._doubts:
            await self._write(f"{CAMERAS}.{header.camera}", values)
        place, self._next_place = self._next_place, (self._next_place + 1) % KEPT_RESULTS
        self._good = deque((kept for kept in self._good if kept[0] != place), KEPT_RESULTS)
        self._good.append((place, header.camera, values))
        await self._write(kept_result(place), values)
        return values

    async def believe(self, camera: str) -> None:
        """From now on the camera's verdicts count; the one that came since it was doubted does."""
        if self._doubts.pop(camera, None) is not None and camera in self._latest:
            await self._write(f"{CAMERAS}.{camera}", self._latest[camera])

    async def doubt(self, camera: str, code: int, at: datetime) -> None:
        """Nothing is known of the camera now: show INVALID, all else with the Bad status `code`."""
        self._latest.pop(camera, None)
        if self._doubts.get(camera) == code:
            return
        self._doubts[camera] = code
        values = {field.name: bad_value(code, at) for field in RESULT}
        for name, (value, kind) in SUBSTITUTES.items():
            values[name] = _with_status(data_value(value, kind, at), ua.StatusCodes.UncertainSubstituteValue)
        await self._write(f"{CAMERAS}.{camera}", values)
        for place, _, good in [kept for kept in self._good if kept[1] == camera]:
            doubtful = {
                name: _with_status(value, ua.StatusCodes.UncertainLastUsableValue)
                for name, value in good.items()
                if value.StatusCode is not None and value.StatusCode.is_good()
            }
            await self._write(kept_result(place), doubtful)
        self._good = deque((kept for kept in self._good if kept[1] != camera), KEPT_RESULTS)

    async def _write(self, path: str, values: Values) -> None:
        for name, value in values.items():
            await self._space.write(f"{path}.{name}", value)


def _with_status(value: ua.DataValue, code: int) -> ua.DataValue:
    return dataclasses.replace(value, StatusCode=status_code(code))
