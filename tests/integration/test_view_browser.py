"""The page in a real browser, beside a real daemon and a real dualkd-view: what a person sees and can do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import fakes
import pytest
import yaml
from running import PATIENCE_S, DaemonProcess, Program, free_port, short_folder, wait_until

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)"
)

PATIENCE_MS = PATIENCE_S * 1e3
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
RED, GREEN = "rgb(217, 59, 65)", "rgb(47, 158, 98)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield started
        started.close()


class Line:
    """Two cameras that watch folders, the daemon, and the view of it; `page` is an operator's browser."""

    def __init__(self, folder: Path, bundle: Path, browser: Any) -> None:
        self._folder = folder
        self._browser = browser
        self._written = 0
        cameras = []
        for name in ("left", "right"):
            (folder / name).mkdir()
            cameras.append({"name": name, "source": str(folder / name), "follow": True})
        self.daemon = DaemonProcess(
            folder,
            bundle,
            cameras,
            publisher={"wait_for_subscribers": 0},
            recipes={"default": {"bundle": str(bundle)}, "tolerant": {"bundle": str(bundle), "fail": 0.9}},
            archive={"folder": str(folder / "archive")},
        )
        config = {
            "line": "test",
            "scores": self.daemon.scores,
            "preview": self.daemon.preview,
            "control": self.daemon.control,
            "archive": str(folder / "archive"),
            "address": f"127.0.0.1:{free_port()}",
            "tokens": {"control": str(folder / "control.token")},
        }
        self.url = f"http://{config['address']}/"
        path = folder / "view.yaml"
        path.write_text(yaml.safe_dump(config))
        self.view = Program(folder / "view.log", "dualkd.daemon.view.command", str(path))

    def start_daemon(self) -> None:
        """Start it, or start it again; pictures count from now on."""
        self.daemon.__enter__()
        wait_until(self._folder.joinpath("control").exists, "the control socket")
        wait_until(
            lambda: all(camera.state == "running" for camera in self.daemon.status().cameras.values()),
            "the cameras",
        )

    def __enter__(self) -> Line:
        self.start_daemon()
        self.view.__enter__()
        wait_until(lambda: "the view of line" in self.view.log, "the view")
        self.context = self._browser.new_context(viewport={"width": 1280, "height": 800})
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.context.close()
        self.view.__exit__(kind, error, trace)
        self.daemon.__exit__(kind, error, trace)

    @property
    def token(self) -> str:
        return (self._folder / "control.token").read_text().strip()

    def show(self, camera: str, grey: int) -> None:
        """Let a camera see one more picture."""
        self._written += 1
        whole = self._folder / f"{self._written:04}.png"
        cv2.imwrite(str(whole), fakes.picture(grey))
        whole.replace(self._folder / camera / whole.name)

    def tile(self, camera: str) -> Any:
        return self.page.locator(f'.tile[data-camera="{camera}"]')

    def wait_for_verdict(self, camera: str, verdict: str) -> None:
        sync_api.expect(self.tile(camera)).to_have_attribute("data-verdict", verdict, timeout=PATIENCE_MS)


@pytest.fixture
def line(bundle: Path, browser: Any) -> Iterator[Line]:
    with short_folder() as folder, Line(folder, bundle, browser) as started:
        yield started
        assert started.complaints == []


def test_cameras_appear_and_a_defect_turns_its_tile_red(line: Line) -> None:
    """The other camera's stays green; the next good part turns it green again."""
    line.page.goto(line.url)
    sync_api.expect(line.page.locator(".tile")).to_have_count(2, timeout=PATIENCE_MS)
    sync_api.expect(line.page.locator("#state")).to_have_text("running")
    for camera in ("left", "right"):
        line.show(camera, fakes.DARK)
        line.wait_for_verdict(camera, "PASS")
    line.show("left", fakes.BRIGHT)
    line.wait_for_verdict("left", "FAIL")
    band = line.tile("left").locator(".verdict")
    sync_api.expect(band).to_have_css("background-color", RED)
    sync_api.expect(band.locator(".word")).to_have_text("FAIL")
    sync_api.expect(line.tile("right").locator(".verdict")).to_have_css("background-color", GREEN)
    caption = line.tile("left").locator("figcaption")
    sync_api.expect(caption).to_contain_text("FAIL", timeout=PATIENCE_MS)
    picture = line.tile("left").locator(".picture")
    pixel = picture.evaluate("(canvas) => [...canvas.getContext('2d').getImageData(60, 40, 1, 1).data]")
    assert pixel[0] > pixel[1] + 60  # the heatmap lies over the grey picture
    line.show("left", fakes.DARK)
    line.wait_for_verdict("left", "PASS")


def test_a_threshold_that_is_moved_on_the_page_is_obeyed(line: Line) -> None:
    """Only after signing in; the recipe too is changed and the camera paused."""
    line.page.goto(line.url)
    line.tile("left").locator("summary").click()
    facts = line.tile("left").locator(".facts")
    sync_api.expect(facts).to_be_visible()
    sync_api.expect(facts).to_contain_text("fail 0.500", timeout=PATIENCE_MS)
    settings = line.tile("left").locator(".settings")
    sync_api.expect(settings).to_be_hidden()
    line.page.click("#sign-in")
    line.page.fill("#token", "a-wrong-token-of-somebody")
    line.page.press("#token", "Enter")
    sync_api.expect(line.page.locator("#sign-in-says")).to_have_text("this token is not known here")
    line.page.fill("#token", line.token)
    line.page.press("#token", "Enter")
    sync_api.expect(settings).to_be_visible(timeout=PATIENCE_MS)
    settings.locator(".threshold").fill("0.01")
    settings.locator(".apply").click()
    says = line.tile("left").locator(".says")
    sync_api.expect(says).to_have_text("recipe default: thresholds are set", timeout=PATIENCE_MS)
    recipe = line.daemon.status().cameras["left"].recipe
    assert recipe is not None
    assert recipe.fail == 0.01
    settings.locator(".choose").select_option("tolerant")
    sync_api.expect(says).to_contain_text("recipe tolerant is in use", timeout=PATIENCE_MS)
    sync_api.expect(line.tile("left").locator(".recipe")).to_have_text("recipe tolerant", timeout=PATIENCE_MS)
    settings.locator(".pause").click()
    sync_api.expect(says).to_have_text("paused", timeout=PATIENCE_MS)
    assert line.daemon.status().cameras["left"].paused
    sync_api.expect(line.tile("left").locator(".why")).to_have_text(
        "the camera is paused", timeout=PATIENCE_MS
    )


def test_the_archive_opens_and_shows_a_reject_with_its_heatmap(line: Line) -> None:
    """Thumbnails, then one as large as there is room, and the next with a key."""
    line.page.goto(line.url)
    for number in range(3):
        line.show("right", fakes.BRIGHT)
        sync_api.expect(line.tile("right").locator(".counts")).to_contain_text(
            f"fail{number + 1}", timeout=PATIENCE_MS, use_inner_text=False
        )
    line.page.click("#show-rejects")
    thumbnails = line.page.locator(".thumbnail")

    def all_there() -> bool:
        line.page.click("#filter button")
        line.page.wait_for_timeout(200)
        return bool(thumbnails.count() == 3)

    wait_until(all_there, "three rejects")
    line.page.wait_for_function(
        "() => [...document.querySelectorAll('.thumbnail img')].every((image) => image.naturalWidth > 0)"
    )
    thumbnails.first.click()
    sync_api.expect(line.page.locator("#kept-picture")).to_be_visible(timeout=PATIENCE_MS)
    sync_api.expect(line.page.locator("#kept-title")).to_contain_text("FAIL")
    first = line.page.inner_text("#kept-facts")
    line.page.keyboard.press("ArrowRight")
    line.page.wait_for_function(
        "(before) => document.getElementById('kept-facts').innerText !== before", arg=first
    )
    line.page.keyboard.press("Escape")
    sync_api.expect(line.page.locator("#kept")).to_be_hidden()


def test_a_page_says_that_the_daemon_is_gone_and_then_that_the_view_is(line: Line) -> None:
    """No old PASS stays on the wall; when both are back, so are the verdicts, without a hand on the page."""
    line.page.goto(line.url)
    line.show("left", fakes.DARK)
    line.wait_for_verdict("left", "PASS")
    line.daemon.process.kill()
    line.wait_for_verdict("left", "NONE")
    sync_api.expect(line.tile("left").locator(".why")).to_have_text("there is no connection to the daemon")
    sync_api.expect(line.page.locator("#state")).to_have_class("pill gone")
    line.daemon.process.wait()
    line.start_daemon()
    sync_api.expect(line.page.locator("#state")).to_have_text("running", timeout=PATIENCE_MS)
    line.show("left", fakes.BRIGHT)
    line.wait_for_verdict("left", "FAIL")
    line.view.process.kill()
    sync_api.expect(line.tile("left").locator(".why")).to_have_text(
        "this page has no connection to dualkd-view", timeout=PATIENCE_MS
    )
    line.wait_for_verdict("left", "NONE")


def test_a_wall_shows_all_cameras_at_once_and_as_large_as_they_fit(line: Line) -> None:
    """Beside each other or below, with the words beside the pictures or below, whatever the screen is like."""
    line.page.goto(line.url)
    sync_api.expect(line.page.locator(".tile")).to_have_count(2, timeout=PATIENCE_MS)
    places: dict[str, list[dict[str, float]]] = {}
    for screen, size in {"wall": (1920, 1080), "upright": (1080, 1920)}.items():
        line.page.set_viewport_size({"width": size[0], "height": size[1]})
        places[screen] = [line.tile(camera).bounding_box() for camera in ("left", "right")]
        assert line.page.evaluate("() => document.documentElement.scrollHeight <= window.innerHeight")
    assert places["wall"][0]["y"] == places["wall"][1]["y"]
    assert places["upright"][0]["x"] == places["upright"][1]["x"]
    assert min(place["width"] for place in places["wall"] + places["upright"]) > 0.45 * 1920


def test_a_phone_shows_everything_without_scrolling_sideways(line: Line) -> None:
    """One column; and one camera alone when its name is touched."""
    line.page.set_viewport_size({"width": 360, "height": 740})
    line.page.goto(line.url)
    line.show("left", fakes.BRIGHT)
    line.wait_for_verdict("left", "FAIL")
    assert line.page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    line.tile("left").locator(".name").click()
    sync_api.expect(line.tile("right")).to_be_hidden()
    line.tile("left").locator(".name").click()
    sync_api.expect(line.tile("right")).to_be_visible()
