"""The view over HTTP: the page, what it is told while it looks on, the archive, and requests to the daemon.

Knows paths and permissions. There are no paths into any folder: the page's files are read once, by name, and
archived pictures go by their number.

    GET  /, /view.css, /*.js       the page; there is nothing of the line in it
    GET, POST, DELETE /session     what one may do; a token for a cookie; and back
    GET  /live                     WebSocket: see browser.py
    GET  /archive, /archive/N/frame, /archive/N/thumbnail
    POST /control                  a request as on the control socket
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from dualkd.daemon.archive.index import ArchiveError
from dualkd.daemon.archive.reader import ArchiveReader, Entry, Query, VerdictFilter
from dualkd.daemon.client import AsyncController, ControllerTimeoutError, KeyDeniedError
from dualkd.daemon.control_messages import (
    MAX_REQUEST_BYTES,
    Pause,
    Recipe,
    Resume,
    SetThreshold,
    decode_request,
)
from dualkd.daemon.messages import MessageError, TopicName
from dualkd.daemon.view import pictures
from dualkd.daemon.view.access import COOKIE, SESSION_S, Access, Permission
from dualkd.daemon.view.browser import Browser, MakeUpdate
from dualkd.daemon.view.line import LineModel

logger = logging.getLogger(__name__)

MAX_BROWSERS = 64
MAX_ARCHIVE_PAGE = 200
KEPT_THUMBNAILS = 512
ARCHIVE_READERS = 2  # at once; the others wait
CHANGE_TIMEOUT_S = 60.0  # a recipe is loaded and tried first
PERMITTED = (Pause, Recipe, Resume, SetThreshold)
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Session(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a browser sends to be let in."""

    token: str


class ArchiveQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which archived frames, as a URL's query says it."""

    camera: TopicName | None = None
    verdict: VerdictFilter | None = None
    until_utc_ns: int | None = None
    limit: int = 60


class ViewServer:
    """The application, and who looks on at the moment."""

    def __init__(
        self,
        access: Access,
        line: LineModel,
        make_update: MakeUpdate,
        archive: Path | None,
        controller: AsyncController | None,
        *,
        secure: bool,
    ) -> None:
        """`secure`: served over TLS, so that cookies never travel without."""
        self.watched = asyncio.Event()  # set while somebody looks on
        self._access = access
        self._line = line
        self._make_update = make_update
        self._archive = None if archive is None else ArchiveReader(archive)
        self._reading = asyncio.Semaphore(ARCHIVE_READERS)
        self._thumbnails: OrderedDict[int, bytes] = OrderedDict()
        self._controller = controller
        self._secure = secure
        self._browsers: dict[Browser, web.WebSocketResponse] = {}

    def application(self) -> web.Application:
        """The routes, each behind the permission that it takes."""
        application = web.Application(middlewares=[self._guard], client_max_size=MAX_REQUEST_BYTES)
        page = files("dualkd.daemon.view") / "page"
        for file in page.iterdir():
            body, media_type = file.read_bytes(), _MEDIA_TYPES[Path(file.name).suffix]
            path = "/" if file.name == "index.html" else f"/{file.name}"
            application.router.add_get(path, partial(_page, body, media_type))
        application.router.add_get("/session", self._session)
        application.router.add_post("/session", self._begin_session)
        application.router.add_delete("/session", self._end_session)
        application.router.add_get("/live", self._needs(Permission.VIEW, self._live))
        application.router.add_get("/archive", self._needs(Permission.VIEW, self._list))
        application.router.add_get(r"/archive/{id:\d{1,18}}/frame", self._needs(Permission.VIEW, self._frame))
        application.router.add_get(
            r"/archive/{id:\d{1,18}}/thumbnail", self._needs(Permission.VIEW, self._thumbnail)
        )
        application.router.add_post("/control", self._needs(Permission.CONTROL, self._control))
        application.on_shutdown.append(self._hang_up)
        return application

    def tell_news(self) -> None:
        """Something was heard of the line."""
        for browser in self._browsers:
            browser.tell_news()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what comes from elsewhere; say errors as JSON; add the headers that tell browsers to be strict."""
        try:
            if not self._access.comes_from_here(request.headers):
                raise web.HTTPForbidden
            response = await handler(request)
        except web.HTTPException as error:
            response = _say(error.reason, error.status)
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    def _needs(self, permission: Permission, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if self._access.permission(request.headers, request.cookies) < permission:
                return _say(f"this takes a token that may {permission.name.lower()}", 401)
            return await handler(request)

        return guarded

    async def _session(self, request: web.Request) -> web.Response:
        permission = self._access.permission(request.headers, request.cookies)
        return web.json_response({"may": permission.name.lower()})

    async def _begin_session(self, request: web.Request) -> web.Response:
        try:
            session = msgspec.json.decode(await request.read(), type=Session)
        except msgspec.MsgspecError:
            return _say('expected {"token": "..."}', 400)
        permission, cookie = await self._access.begin_session(session.token)
        if permission is Permission.NOTHING:
            logger.warning("%s came with a wrong token", request.remote)
            return _say("this token is not known here", 401)
        response = _say("", 200)
        response.set_cookie(
            COOKIE, cookie, max_age=int(SESSION_S), httponly=True, samesite="Strict", secure=self._secure
        )
        return response

    async def _end_session(self, request: web.Request) -> web.Response:
        self._access.end_session(request.cookies)
        response = _say("", 200)
        response.del_cookie(COOKIE)
        return response

    async def _live(self, request: web.Request) -> web.StreamResponse:
        if "Origin" not in request.headers and "Authorization" not in request.headers:
            return _say("a WebSocket says its Origin", 403)
        if len(self._browsers) >= MAX_BROWSERS:
            return _say(f"{MAX_BROWSERS} browsers look on already; close one", 503)
        socket = web.WebSocketResponse(heartbeat=20.0, max_msg_size=1024)
        await socket.prepare(request)
        permission = self._access.permission(request.headers, request.cookies)
        hello = {
            "kind": "hello",
            "may_control": self._controller is not None and permission is Permission.CONTROL,
            "controllable": self._controller is not None,
            "archive": self._archive is not None,
        }
        browser = Browser(socket, self._line, self._make_update)
        self._browsers[browser] = socket
        self.watched.set()
        try:
            await socket.send_json(hello)
            await browser.converse()
        except ConnectionError:
            pass  # it went while we spoke
        finally:
            del self._browsers[browser]
            if not self._browsers:
                self.watched.clear()
            await socket.close()
        return socket

    async def _list(self, request: web.Request) -> web.Response:
        try:
            wanted = msgspec.convert(dict(request.query), ArchiveQuery, strict=False)
        except msgspec.ValidationError as error:
            return _say(str(error), 400)
        query = Query(
            camera=wanted.camera,
            verdict=wanted.verdict,
            until_utc_ns=wanted.until_utc_ns,
            limit=min(max(1, wanted.limit), MAX_ARCHIVE_PAGE),
        )

        def read(reader: ArchiveReader) -> bytes:
            entries: list[Entry] = reader.list(query)
            return msgspec.json.encode(entries)

        return await self._from_archive(read, "application/json")

    async def _frame(self, request: web.Request) -> web.Response:
        number = int(request.match_info["id"])
        return await self._from_archive(
            lambda reader: pictures.of_record(reader, reader.get(number)), "application/octet-stream"
        )

    async def _thumbnail(self, request: web.Request) -> web.Response:
        number = int(request.match_info["id"])
        if (kept := self._thumbnails.get(number)) is not None:
            return web.Response(body=kept, content_type="image/jpeg")
        response = await self._from_archive(
            lambda reader: pictures.thumbnail(reader, reader.get(number)), "image/jpeg"
        )
        if response.status == 200 and isinstance(response.body, bytes):
            self._thumbnails[number] = response.body
            while len(self._thumbnails) > KEPT_THUMBNAILS:
                self._thumbnails.popitem(last=False)
        return response

    async def _from_archive(self, read: Callable[[ArchiveReader], bytes], media_type: str) -> web.Response:
        """Read in a thread: a disk may take its time, and the line goes on being shown."""
        if self._archive is None:
            return _say("no archive is configured for this view (archive: FOLDER)", 404)
        try:
            async with self._reading:
                body = await asyncio.to_thread(read, self._archive)
        except ArchiveError as error:
            return _say(str(error), 404)
        except OSError as error:
            return _say(f"the archive cannot be read: {error.strerror}", 503)
        return web.Response(body=body, content_type=media_type)

    async def _control(self, request: web.Request) -> web.Response:
        """Pass a request on to the daemon, if it is one of those that a page may send."""
        if self._controller is None:
            return _say("this view only looks on (control: null)", 404)
        try:
            wanted = decode_request(await request.read())
            if not isinstance(wanted, PERMITTED):
                return _say(f"a {wanted.__struct_config__.tag} request does not come from a page", 403)
            reply = (await self._controller.ask(wanted, CHANGE_TIMEOUT_S)).reply
        except MessageError as error:
            return _say(str(error), 400)
        except (ControllerTimeoutError, KeyDeniedError) as error:
            return _say(str(error), 504)
        logger.info("%s asked: %s: %s", request.remote, wanted, reply.message)
        return _say(reply.message, 200 if reply.ok else 409)

    async def _hang_up(self, _: web.Application) -> None:
        for socket in list(self._browsers.values()):
            await socket.close(code=1001, message=b"the view ends")


async def _page(body: bytes, media_type: str, _: web.Request) -> web.Response:
    return web.Response(body=body, content_type=media_type, charset="utf-8")


def _say(message: str, status: int) -> web.Response:
    return web.json_response({"message": message}, status=status)


def listening(application: web.Application) -> web.AppRunner:
    """A runner that drops a request that takes longer than it should, and writes no line for each."""
    options: dict[str, Any] = {"access_log": None, "shutdown_timeout": 2.0, "keepalive_timeout": 30.0}
    return web.AppRunner(application, **options)
