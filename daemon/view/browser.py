"""One browser that looks on: it gets what is newest as soon as it is ready for more, and never what is old.

Two things are under way to it at most, an update and a picture, each until the page says that it is drawn. So
a slow network, or a phone that sleeps, sees fewer of them, not later ones. Knows the page's half of the
conversation: it says "u" (the update is taken in), "p" (the picture is), or "camera NAME" (only this one's
pictures; without a name all).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import msgspec
from aiohttp import WSMsgType, web
from dualkd.daemon.client import Preview
from dualkd.daemon.view import pictures
from dualkd.daemon.view.line import LineModel, Update

UPDATE_EVERY_S = 0.1
SAY_SOMETHING_S = 1.0  # a page that hears nothing for longer takes the view for gone
TAKE_IN_S = 60.0  # a browser that takes longer is gone

_GONE = (ConnectionError, asyncio.TimeoutError)  # what a browser that goes looks like

MakeUpdate = Callable[[Mapping[str, int]], Update]


class Browser:
    """The conversation over one WebSocket."""

    def __init__(self, socket: web.WebSocketResponse, line: LineModel, make_update: MakeUpdate) -> None:
        self._socket = socket
        self._line = line
        self._make_update = make_update
        self._ready_for_update = asyncio.Event()
        self._ready_for_picture = asyncio.Event()
        self._pictures_came = asyncio.Event()
        self._news = asyncio.Event()
        self._camera: str | None = None

    def tell_news(self) -> None:
        """Something was heard of the line."""
        self._news.set()
        self._pictures_came.set()

    async def converse(self) -> None:
        """Until the browser goes, or takes too long."""
        talking = [
            asyncio.create_task(work()) for work in (self._listen, self._send_updates, self._send_pictures)
        ]
        try:
            await asyncio.wait(talking, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in talking:
                task.cancel()
            ends = await asyncio.gather(*talking, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception) and not isinstance(end, _GONE):
                raise end

    async def _listen(self) -> None:
        async for message in self._socket:
            if message.type is not WSMsgType.TEXT:
                return
            if message.data == "u":
                self._ready_for_update.set()
            elif message.data == "p":
                self._ready_for_picture.set()
            elif message.data.startswith("camera"):
                self._camera = message.data.removeprefix("camera").strip() or None

    async def _send_updates(self) -> None:
        sent: dict[str, int] = {}
        while True:
            began_s = time.monotonic()
            self._news.clear()
            update = self._make_update(sent)
            self._ready_for_update.clear()
            await self._socket.send_str(msgspec.json.encode(update).decode())
            for name, camera in update.cameras.items():
                if camera.points:
                    sent[name] = camera.points[-1].number
            await asyncio.wait_for(self._ready_for_update.wait(), TAKE_IN_S)
            await asyncio.sleep(max(0.0, began_s + UPDATE_EVERY_S - time.monotonic()))
            await _wait(self._news, SAY_SOMETHING_S)

    async def _send_pictures(self) -> None:
        shown: dict[tuple[str, bool], int] = {}
        while True:
            self._pictures_came.clear()
            new = [
                (number, preview)
                for number, preview in self._line.previews(self._camera)
                if number > shown.get(_key(preview), 0)
            ]
            if not new:
                await self._pictures_came.wait()
                continue
            # in turn: first the camera that has waited longest
            number, preview = min(new, key=lambda each: shown.get(_key(each[1]), 0))
            shown[_key(preview)] = number
            self._ready_for_picture.clear()
            await self._socket.send_bytes(pictures.of_preview(number, preview))
            await asyncio.wait_for(self._ready_for_picture.wait(), TAKE_IN_S)


def _key(preview: Preview) -> tuple[str, bool]:
    return preview.header.camera, preview.header.result.verdict == "FAIL"


async def _wait(event: asyncio.Event, longest_s: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), longest_s)
    except asyncio.TimeoutError:
        return
