"""The view without a browser: who may do what, what a page is told, and that a slow page falls behind nobody."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import cv2
import fakes
import msgspec
import numpy as np
import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, web
from dualkd.configs.loader import load
from dualkd.daemon.archive import Archive
from dualkd.daemon.client import AsyncController, Preview, Result, Status
from dualkd.daemon.config import ArchiveConfig, ControlConfig
from dualkd.daemon.control import ControlServer
from dualkd.daemon.control_messages import Reply, SetThreshold
from dualkd.daemon.messages import (
    Box,
    FrameSize,
    MapSpec,
    PreviewHeader,
    RegionBox,
    ResultHeader,
    encode_map,
)
from dualkd.daemon.view.access import Access, Permission, TokenError
from dualkd.daemon.view.config import TokensConfig, ViewConfig
from dualkd.daemon.view.line import KEPT_POINTS, LineModel
from dualkd.daemon.view.server import ViewServer, listening
from headers import camera_status, result_header, status_header
from running import PATIENCE_S, short_folder

ROOT = Path(__file__).parents[2]
CONTROL_TOKEN, VIEW_TOKEN = "control-token-of-tests", "view-token-of-the-tests"
PICTURE = cv2.imencode(".jpg", fakes.picture(90, 64, 48))[1].tobytes()
COVERS = Box(x_px=0, y_px=0, width_px=64, height_px=48)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, PATIENCE_S))


def result(number: int, **changes: Any) -> Result:
    header = result_header(seq=number, frame_id=number, **changes)
    return Result("v1/line/cam/result", header, None, 0)


def status(*cameras: str, **changes: Any) -> Status:
    header = status_header({name: camera_status() for name in cameras}, recipes=["default"], **changes)
    return Status("v1/line/status", header, 0)


def preview(number: int, camera: str = "cam", **changes: Any) -> Preview:
    header = PreviewHeader(
        boot_id="0",
        line="line",
        camera=camera,
        seq=number,
        size=FrameSize(width_px=64, height_px=48),
        result=result_header(
            camera=camera,
            frame_id=number,
            region_threshold=0.5,
            map=MapSpec(shape=(2, 2), covers=COVERS),
            **changes,
        ),
    )
    return Preview("t", header, PICTURE, np.array([[0, 0.25], [0.5, 9]], np.float32), 0)


class Served:
    """A view over HTTP on a free port, and the line that it shows."""

    def __init__(self, session: ClientSession, url: str, line: LineModel, server: ViewServer) -> None:
        self.session = session
        self.url = url
        self.line = line
        self.server = server

    async def say(self, method: str, path: str, **settings: Any) -> tuple[int, Any]:
        """The status and the JSON of an answer."""
        async with self.session.request(method, self.url + path, **settings) as response:
            return response.status, await response.json()

    async def sign_in(self, token: str) -> int:
        return (await self.say("POST", "/session", json={"token": token}))[0]

    @asynccontextmanager
    async def page(self, **headers: str) -> AsyncIterator[ClientWebSocketResponse]:
        """A browser's conversation after the greeting."""
        async with self.session.ws_connect(
            self.url + "/live", headers={"Origin": self.url, **headers}
        ) as socket:
            assert (await socket.receive_json())["kind"] == "hello"
            yield socket


@asynccontextmanager
async def serve(
    tmp_path: Path,
    tokens: Mapping[str, str] = {},
    archive: Path | None = None,
    control: str | None = None,
) -> AsyncIterator[Served]:
    files = {}
    for name, token in tokens.items():
        path = tmp_path / f"{name}.token"
        path.write_text(token)
        path.chmod(0o600)
        files[name] = str(path)
    line = LineModel("line")
    jar = aiohttp.CookieJar(unsafe=True)
    controller = None if control is None else AsyncController(control)
    # the port must be known before the access list is made
    socket = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = socket.sockets[0].getsockname()[1]
    socket.close()
    await socket.wait_closed()
    config = ViewConfig(line="line", address=f"127.0.0.1:{port}", tokens=TokensConfig(**files))
    server = ViewServer(
        Access(config),
        line,
        lambda sent: line.update("", lambda _: "", 0, sent),
        archive,
        controller,
        secure=False,
    )
    runner = listening(server.application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with ClientSession(cookie_jar=jar) as session:
            yield Served(session, f"http://127.0.0.1:{port}", line, server)
    finally:
        await runner.cleanup()
        if controller is not None:
            controller.close()


# Who may do what


BOTH = {"view": VIEW_TOKEN, "control": CONTROL_TOKEN}
THRESHOLD = {"command": "threshold", "recipe": "default", "fail": 0.4}


def test_without_a_token_there_is_nothing_of_the_line(tmp_path: Path) -> None:
    """The page itself comes, for it asks for the token; a wrong token is nothing too."""

    async def ask() -> None:
        async with serve(tmp_path, BOTH, archive=tmp_path) as view:
            for path in ("/archive", "/archive/1/frame", "/archive/1/thumbnail"):
                assert (await view.say("GET", path))[0] == 401
            assert (await view.say("GET", "/session")) == (200, {"may": "nothing"})
            assert (await view.say("POST", "/control", json=THRESHOLD))[0] == 401
            with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
                async with view.page():
                    pass
            assert await view.sign_in("wrong-token-wrong-token") == 401
            bearer = {"Authorization": "Bearer wrong-token-wrong-token"}
            assert (await view.say("GET", "/archive", headers=bearer))[0] == 401
            async with view.session.get(view.url + "/") as page:
                assert page.status == 200
                assert "default-src 'none'" in page.headers["Content-Security-Policy"]

    run(ask())


def test_a_view_token_may_look_and_a_control_token_may_control(tmp_path: Path) -> None:
    """By cookie or as a bearer; signing out ends it."""

    async def ask() -> None:
        async with serve(tmp_path, BOTH) as view:
            assert await view.sign_in(VIEW_TOKEN) == 200
            async with view.page():
                pass
            assert (await view.say("POST", "/control", json=THRESHOLD))[0] == 401
            assert await view.sign_in(CONTROL_TOKEN) == 200
            code, answer = await view.say("POST", "/control", json=THRESHOLD)
            assert (code, answer["message"]) == (404, "this view only looks on (control: null)")
            await view.say("DELETE", "/session")
            assert (await view.say("GET", "/session")) == (200, {"may": "nothing"})
            bearer = {"Authorization": f"Bearer {CONTROL_TOKEN}"}
            assert (await view.say("GET", "/session", headers=bearer)) == (200, {"may": "control"})

    run(ask())


def test_on_this_host_anybody_may_look_and_nobody_control(tmp_path: Path) -> None:
    """Unless a control token is configured."""

    async def ask() -> None:
        async with serve(tmp_path) as view:
            assert (await view.say("GET", "/session")) == (200, {"may": "view"})
            async with view.page():
                pass
            assert (await view.say("POST", "/control", json=THRESHOLD))[0] == 401

    run(ask())


def test_a_foreign_page_and_a_foreign_name_get_nothing(tmp_path: Path) -> None:
    """Not even with a cookie: a page elsewhere, a name that was made to lead here, a page of a file."""

    async def ask() -> None:
        async with serve(tmp_path, {"control": CONTROL_TOKEN}) as view:
            await view.sign_in(CONTROL_TOKEN)
            for origin in ("http://evil.example", "null", view.url + ".evil.example", "http://127.0.0.1:1"):
                headers = {"Origin": origin}
                assert (await view.say("GET", "/session", headers=headers))[0] == 403
                assert (await view.say("POST", "/control", json=THRESHOLD, headers=headers))[0] == 403
                with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                    async with view.page(Origin=origin):
                        pass
            assert (await view.say("GET", "/session", headers={"Host": "evil.example"}))[0] == 403
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                async with view.session.ws_connect(view.url + "/live"):
                    pass
            assert (await view.say("GET", "/session", headers={"Origin": view.url}))[0] == 200

    run(ask())


@pytest.mark.parametrize(
    "path",
    [
        "/../access.py",
        "/..%2faccess.py",
        "/%2e%2e/access.py",
        "/archive/../../etc/passwd",
        "/archive/1/..",
        "/page/",
        "//etc/passwd",
    ],
)
def test_a_path_with_dots_leads_nowhere(tmp_path: Path, path: str) -> None:
    """As it was written, not as a client tidies it up."""

    async def ask() -> None:
        async with serve(tmp_path, archive=tmp_path) as view:
            host = view.url.removeprefix("http://")
            reader, writer = await asyncio.open_connection(*host.split(":"))
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            assert answer.split(b"\r\n")[0].split()[1] == b"404"
            assert b"root:" not in answer

    run(ask())


def test_a_request_that_a_page_has_no_business_with_is_refused(tmp_path: Path) -> None:
    """Misspelt ones and too large ones too, with the daemon's own words."""

    async def ask() -> None:
        with short_folder() as folder:
            control = f"ipc://{folder}/control"
            async with serve(tmp_path, {"control": CONTROL_TOKEN}, control=control) as view:
                await view.sign_in(CONTROL_TOKEN)
                assert (await view.say("POST", "/control", json={"command": "reload"}))[0] == 403
                code, answer = await view.say("POST", "/control", json={**THRESHOLD, "fial": 1})
                assert code == 400
                assert "fial" in answer["message"]
                assert (await view.say("POST", "/control", data=b"x" * 100_000))[0] in (400, 413)

    run(ask())


def test_a_threshold_reaches_the_daemon_and_its_answer_the_page(tmp_path: Path) -> None:
    """A refusal is one on the page too."""

    async def ask(server: ControlServer, control: str) -> None:
        async with serve(tmp_path, {"control": CONTROL_TOKEN}, control=control) as view:
            await view.sign_in(CONTROL_TOKEN)
            for ok, code in ((True, 200), (False, 409)):
                asking = asyncio.create_task(view.say("POST", "/control", json=THRESHOLD))
                calls: list[Any] = []
                while not calls:
                    calls = server.calls()
                    await asyncio.sleep(0.005)
                assert calls[0].request == SetThreshold(recipe="default", fail=0.4, id=calls[0].request.id)
                calls[0].answer(Reply(id=calls[0].request.id, ok=ok, message="said"), None)
                assert await asking == (code, {"message": "said"})

    with short_folder() as folder:
        control = f"ipc://{folder}/control"
        server = ControlServer(ControlConfig(endpoint=control), None, lambda _: "")
        server.open()
        run(ask(server, control))
        server.close()


def test_an_address_that_others_reach_needs_a_token() -> None:
    """Found when the configuration is read."""
    with pytest.raises(msgspec.ValidationError, match=r"0.0.0.0:8571 can be reached .* needs tokens.view"):
        msgspec.convert({"line": "l", "address": "0.0.0.0:8571"}, ViewConfig)
    msgspec.convert({"line": "l", "address": "0.0.0.0:8571", "tokens": {"view": "t"}}, ViewConfig)
    assert load(ROOT / "configs/view.yaml", ViewConfig).tokens == TokensConfig()


def test_a_token_file_is_made_once_and_read_by_nobody_else(tmp_path: Path) -> None:
    """A weak or an open one is refused by name."""
    path = tmp_path / "control.token"
    config = ViewConfig(line="l", tokens=TokensConfig(control=str(path)))
    Access(config)
    token = path.read_text().strip()
    assert path.stat().st_mode & 0o777 == 0o600
    access = Access(config)
    assert path.read_text().strip() == token
    assert access.permission({"Authorization": f"Bearer {token}"}, {}) is Permission.CONTROL
    path.chmod(0o644)
    with pytest.raises(TokenError, match=r"tokens.control: .*control.token: everybody can read it"):
        Access(config)
    path.write_text("short")
    path.chmod(0o600)
    with pytest.raises(TokenError, match="at least 16"):
        Access(config)
    if os.geteuid() != 0:
        path.chmod(0)
        with pytest.raises(TokenError, match="cannot be read"):
            Access(config)


# What a page is told


def test_a_page_gets_each_point_once_and_at_most_what_is_kept() -> None:
    """However long it was away."""
    line = LineModel("line")
    line.take(status("cam"))
    for number in range(KEPT_POINTS + 100):
        line.take(result(number, score=0.1))
    points = line.update("", lambda _: "", 0, {}).cameras["cam"].points
    assert [point.number for point in points] == list(range(101, KEPT_POINTS + 101))
    line.take(result(9, verdict="FAIL", score=0.9))
    (new,) = line.update("", lambda _: "", 0, {"cam": KEPT_POINTS + 100}).cameras["cam"].points
    assert (new.verdict, new.score, new.threshold) == ("FAIL", 0.9, 0.5)
    assert line.update("", lambda _: "", 0, {"cam": KEPT_POINTS + 101}).cameras["cam"].points == []


def test_a_retained_verdict_is_not_shown_as_new() -> None:
    """It is from before we looked."""
    line = LineModel("line")
    line.take(status("cam"))
    line.take(result(5, retained=True))
    camera = line.update("", lambda _: "no verdict yet", 0, {}).cameras["cam"]
    assert (camera.last, camera.points, camera.fault) == (None, [], "no verdict yet")


def test_the_reject_rate_leaves_out_what_could_not_be_judged() -> None:
    """FAIL of those judged."""
    line = LineModel("line")
    line.take(status("cam"))
    for verdict in ("PASS", "PASS", "PASS", "FAIL", "INVALID"):
        line.take(result(0, verdict=verdict, score=None if verdict == "INVALID" else 0.5))
    assert line.update("", lambda _: "", 0, {}).cameras["cam"].reject_share == 0.25
    assert LineModel("line").update("", lambda _: "", 0, {}).cameras == {}


def test_verdicts_that_come_in_batches_are_rated_by_the_time_that_has_passed() -> None:
    """Eight at once are not thousands a second."""
    line = LineModel("line")
    line.take(status("cam"))
    for number in range(8):
        line.take(result(number))
    assert 1.0 < line.update("", lambda _: "", 0, {}).cameras["cam"].frames_per_s <= 8.0


def test_warnings_of_a_daemon_that_is_gone_are_not_shown() -> None:
    """They say nothing of now."""
    line = LineModel("line")
    line.take(status("cam", warnings=["the archive is full"]))
    assert line.update("", lambda _: "", 0, {}).warnings == ["the archive is full"]
    assert line.update("the daemon is silent", lambda _: "", 0, {}).warnings == []


async def take(socket: ClientWebSocketResponse, answer: bool = True) -> tuple[str, Any]:
    """The next message, as ("u", update) or ("p", head of the picture); answered as a page does."""
    message = await socket.receive(PATIENCE_S)
    if message.type is WSMsgType.BINARY:
        length = int.from_bytes(message.data[:4], "little")
        kind, content = "p", {**json.loads(message.data[4 : 4 + length]), "rest": message.data[4 + length :]}
    else:
        kind, content = "u", message.json()
    if answer:
        await socket.send_str(kind)
    return kind, content


async def until(socket: ClientWebSocketResponse, fits: Callable[[str, Any], bool]) -> Any:
    while True:
        kind, content = await take(socket)
        if fits(kind, content):
            return content


def test_a_picture_comes_with_its_verdict_and_its_map(tmp_path: Path) -> None:
    """The map a byte a cell: nothing, half the region threshold, the threshold, far above it."""

    async def look() -> None:
        async with serve(tmp_path) as view, view.page() as page:
            view.line.take(preview(7, verdict="FAIL"))
            view.server.tell_news()
            shown = await until(page, lambda kind, _: kind == "p")
            assert shown["result"]["frame_id"] == 7
            assert shown["result"]["verdict"] == "FAIL"
            assert shown["map"] == {"height": 2, "width": 2, "covers": msgspec.to_builtins(COVERS)}
            picture, cells = shown["rest"][: shown["picture_bytes"]], shown["rest"][shown["picture_bytes"] :]
            assert picture == PICTURE
            assert list(cells) == [0, 63, 127, 255]

    run(look())


def test_a_slow_page_sees_less_and_not_later(tmp_path: Path) -> None:
    """Nothing is sent before the last was drawn; then comes what is newest, and every verdict in the chart."""

    async def look() -> None:
        async with serve(tmp_path) as view, view.page() as page:
            view.line.take(status("cam"))
            view.line.take(preview(0))
            view.server.tell_news()
            taken = {kind for kind, _ in [await take(page, answer=False) for _ in range(2)]}
            assert taken == {"u", "p"}
            for number in range(1, 40):
                view.line.take(result(number))
                view.line.take(preview(number))
                view.server.tell_news()
            with pytest.raises(asyncio.TimeoutError):
                await page.receive(0.3)
            await page.send_str("p")
            kind, picture = await take(page)
            assert (kind, picture["result"]["frame_id"]) == ("p", 39)
            await page.send_str("u")
            update = await until(page, lambda kind, _: kind == "u")
            assert update["cameras"]["cam"]["last"]["frame_id"] == 39
            assert len(update["cameras"]["cam"]["points"]) == 39

    run(look())


def test_a_page_may_ask_for_one_camera_alone(tmp_path: Path) -> None:
    """The others' pictures would only take its network; their verdicts still come."""

    async def look() -> None:
        async with serve(tmp_path) as view, view.page() as page:
            await page.send_str("camera two")
            for _ in range(2):  # the second comes after an answer that went out after the wish
                await until(page, lambda kind, _: kind == "u")
            seen = set()
            for number in range(5):
                for camera in ("one", "two"):
                    view.line.take(preview(number, camera))
                view.server.tell_news()
                seen.add((await until(page, lambda kind, _: kind == "p"))["result"]["camera"])
            assert seen == {"two"}

    run(look())


def test_a_line_that_says_nothing_still_keeps_its_page_alive(tmp_path: Path) -> None:
    """Or the page would take the view for gone."""

    async def look() -> None:
        async with serve(tmp_path) as view, view.page() as page:
            for _ in range(3):
                assert (await take(page))[0] == "u"

    run(look())


def test_pictures_are_wanted_only_while_somebody_looks(tmp_path: Path) -> None:
    """So that the daemon makes none for an empty hall."""

    async def look() -> None:
        async with serve(tmp_path) as view:
            assert not view.server.watched.is_set()
            async with view.page():
                assert view.server.watched.is_set()
            while view.server.watched.is_set():
                await asyncio.sleep(0.005)

    run(look())


# The archive


def archived(folder: Path) -> list[ResultHeader]:
    """Three rejected frames of two cameras, and one that had no picture."""
    archive = Archive(ArchiveConfig(folder=str(folder), format="jpeg"), "line")
    archive.open()
    spec, _ = encode_map(np.ones((2, 2), np.float32), COVERS)
    headers = [
        result_header(
            camera=camera,
            frame_id=number,
            captured_utc_ns=(1_700_000_000 + number) * 10**9,
            verdict="FAIL",
            score=0.9,
            region_threshold=0.5,
            map=spec,
            regions=[RegionBox(x_px=8, y_px=8, width_px=16, height_px=16, peak=1.0)],
        )
        for number, camera in enumerate(("cam", "cam", "other"))
    ]
    for header in headers:
        archive.offer(header, fakes.picture(50, 64, 48), np.ones((2, 2), np.float32))
    absent = result_header(
        frame_id=None, verdict="INVALID", reason="gone", score=None, captured_utc_ns=1_700_000_009 * 10**9
    )
    archive.offer(absent, None, None)
    archive.close()
    return headers


def test_the_archive_opens_from_the_newest_with_thumbnails_and_whole_frames(tmp_path: Path) -> None:
    """Filtered and page by page; a frame without a picture says so."""
    folder = tmp_path / "archive"
    headers = archived(folder)

    async def look() -> None:
        async with serve(tmp_path, archive=folder) as view:
            _, entries = await view.say("GET", "/archive?verdict=FAIL&limit=2")
            assert [entry["frame_id"] for entry in entries] == [2, 1]
            before = entries[-1]["captured_utc_ns"]
            _, more = await view.say("GET", f"/archive?verdict=FAIL&until_utc_ns={before}")
            assert [entry["frame_id"] for entry in more] == [0]
            _, other = await view.say("GET", "/archive?camera=other")
            assert [entry["camera"] for entry in other] == ["other"]
            for _ in range(2):  # made, then kept
                async with view.session.get(f"{view.url}/archive/{more[0]['id']}/thumbnail") as response:
                    assert response.content_type == "image/jpeg"
                    small = cv2.imdecode(np.frombuffer(await response.read(), np.uint8), cv2.IMREAD_COLOR)
            assert small is not None
            assert small[16, 8, 2] > 150  # the frame around the region is red
            async with view.session.get(f"{view.url}/archive/{more[0]['id']}/frame") as response:
                raw = await response.read()
            length = int.from_bytes(raw[:4], "little")
            head = json.loads(raw[4 : 4 + length])
            assert msgspec.convert(head["result"], ResultHeader) == headers[0]
            assert list(raw[-4:]) == [255] * 4
            _, absent = await view.say("GET", "/archive?verdict=INVALID")
            code, answer = await view.say("GET", f"/archive/{absent[0]['id']}/frame")
            assert (code, "has no picture" in answer["message"]) == (404, True)
            code, answer = await view.say("GET", "/archive/999999/frame")
            assert (code, "there is no frame 999999" in answer["message"]) == (404, True)
            assert (await view.say("GET", "/archive?verdict=BROKEN"))[0] == 400
            assert (await view.say("GET", "/archive?folder=/etc"))[0] == 400

    run(look())


def test_a_view_without_an_archive_says_so(tmp_path: Path) -> None:
    """And one whose archive is not there yet."""

    async def look() -> None:
        async with serve(tmp_path) as view:
            code, answer = await view.say("GET", "/archive")
            assert (code, "no archive is configured" in answer["message"]) == (404, True)
        async with serve(tmp_path, archive=tmp_path / "none") as view:
            code, answer = await view.say("GET", "/archive")
            assert (code, "is no archive" in answer["message"]) == (404, True)

    run(look())


def test_the_pages_files_are_served_and_fit_each_other(tmp_path: Path) -> None:
    """Every file that one of them names is there, and nothing comes from elsewhere."""
    page = ROOT / "daemon/view/page"
    texts = {file.name: file.read_text() for file in page.iterdir()}
    assert not any(word in text for text in texts.values() for word in ("https://", "//cdn", "@import"))

    async def look() -> None:
        async with serve(tmp_path) as view:
            for name in texts:
                path = "/" if name == "index.html" else f"/{name}"
                async with view.session.get(view.url + path) as response:
                    assert response.status == 200
                    assert (await response.text()) == texts[name]

    run(look())
    for name, text in texts.items():
        for line in text.splitlines():
            if line.startswith("import "):
                assert line.split('"./')[1].split('"')[0] in texts, name
