"""Which camera is judged by which recipe, and how that changes between two frames.

Loads recipes in a thread of its own, so that frames go on being judged; takes them into use only whole, and
keeps the old ones if anything fails. Remembers what was changed. Does not know sockets or requests.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace

import msgspec
from dualkd.daemon import remembered
from dualkd.daemon.config import DaemonConfig, RecipeConfig
from dualkd.daemon.judge import Judge
from dualkd.daemon.recipes import Recipe, RecipeError, RecipeLoader, check_thresholds

logger = logging.getLogger(__name__)

REMEMBER_AGAIN_S = 1.0  # after a disk did not take a change
LOAD_PATIENCE_S = 5.0  # at the end, longest wait for a recipe that is being loaded

Done = Callable[[Exception | None], None]
"""Told how a change ended: None if it was made, else why not."""


@dataclass(slots=True)
class _Change:
    """Recipes to load and take into use: of a camera, or all of a new configuration."""

    choices: Mapping[str, str]  # camera -> recipe
    configured: DaemonConfig | None  # None: the one in use
    done: Done
    loading: Future[dict[str, Recipe]] | None = None


class Line:
    """The line's recipes. All methods are for the service's own thread and return at once."""

    def __init__(self, configured: DaemonConfig, judge: Judge, loader: RecipeLoader) -> None:
        """Raises ConfigError if what is remembered cannot be read."""
        self._judge = judge
        self._loader = loader
        self._configured = configured
        self._effective = remembered.apply(configured, remembered.read(configured.state))
        self._changes: deque[_Change] = deque()
        self._thread: threading.Thread | None = None  # that loads, or did
        self._unsaved = ""
        self._remember_at_s = 0.0  # again, what is unsaved
        for name in (*self.changes().cameras, *self.changes().recipes):
            logger.info("%s: as set through the control socket, not as configured", name)

    def changes(self) -> remembered.Remembered:
        """What differs from the configuration."""
        return remembered.difference(self._configured, self._effective)

    def warnings(self) -> list[str]:
        return [self._unsaved] if self._unsaved else []

    @property
    def recipe_names(self) -> list[str]:
        return list(self._effective.recipes)

    def begin(self, done: Done) -> None:
        """Load the recipes of all cameras; nothing can be judged before."""
        choices = {camera.name: camera.recipe for camera in self._effective.cameras}
        self._changes.append(_Change(choices, None, done))

    def choose(self, cameras: list[str], recipe: str, done: Done) -> None:
        """Judge these cameras by another recipe as soon as it is loaded and tried."""
        self._changes.append(_Change(dict.fromkeys(cameras, recipe), None, done))

    def reconfigure(self, configured: DaemonConfig, done: Done) -> None:
        """Take over another configuration's recipes, bundles read anew. All else must be as it was."""
        if different := _needs_restart(self._configured, configured):
            done(RecipeError(f"{', '.join(different)}: changes only with a restart; nothing was changed"))
            return
        effective = remembered.apply(configured, self.changes())
        choices = {camera.name: camera.recipe for camera in effective.cameras}
        self._changes.append(_Change(choices, configured, done))

    def set_thresholds(self, name: str, recipe: RecipeConfig) -> None:
        """Judge by `recipe`'s thresholds from the next frame on. Raises RecipeError if they cannot be."""
        in_use = {
            camera: replace(used, config=recipe)
            for camera, used in self._judge.recipes.items()
            if used.name == name
        }
        for used in in_use.values():
            check_thresholds(name, recipe, used.bundle)
        self._judge.use(in_use)
        recipes = {**self._effective.recipes, name: recipe}
        self._effective = msgspec.structs.replace(self._effective, recipes=recipes)
        self._remember()

    def recipe(self, name: str) -> RecipeConfig:
        """A recipe's settings as they are now. Raises RecipeError naming those there are."""
        if name not in self._effective.recipes:
            raise RecipeError(f"there is no recipe {name!r}; recipes: {', '.join(self.recipe_names)}")
        return self._effective.recipes[name]

    def poll(self) -> None:
        """Go on with the changes asked for: begin to load the next, take into use what is loaded.

        And try again to remember what a disk has not taken.
        """
        if self._unsaved and time.monotonic() >= self._remember_at_s:
            self._remember()
        if not self._changes:
            return
        change = self._changes[0]
        if change.loading is None:
            change.loading = self._load(change)
        elif change.loading.done():
            self._changes.popleft()
            if (error := change.loading.exception()) is None:
                self._take_into_use(change, change.loading.result())
            elif not isinstance(error, Exception):
                raise error
            change.done(error)

    def close(self) -> None:
        """Free the engines.

        A recipe that is being loaded is waited for: a runtime's thread that outlives Python aborts the process.
        """
        if self._thread is not None:
            self._thread.join(LOAD_PATIENCE_S)
        self._loader.keep_only([])

    def _load(self, change: _Change) -> Future[dict[str, Recipe]]:
        """Load the recipes of a change in a thread; their names are the keys of what comes."""
        effective = self._effective
        if change.configured is not None:
            effective = remembered.apply(change.configured, self.changes())
        names = sorted(set(change.choices.values()))
        loading: Future[dict[str, Recipe]] = Future()

        def load() -> None:
            try:
                loading.set_result({name: self._loader.load(name, effective.recipes[name]) for name in names})
            except BaseException as error:  # noqa: BLE001 (poll raises it, or says it to who asked)
                loading.set_exception(error)

        self._thread = threading.Thread(target=load, name="recipes", daemon=True)
        self._thread.start()
        return loading

    def _take_into_use(self, change: _Change, loaded: Mapping[str, Recipe]) -> None:
        if change.configured is not None:
            effective = remembered.apply(change.configured, self.changes())
            self._configured = change.configured
        else:
            effective = self._effective
        cameras = [
            msgspec.structs.replace(camera, recipe=change.choices.get(camera.name, camera.recipe))
            for camera in effective.cameras
        ]
        self._effective = msgspec.structs.replace(effective, cameras=cameras)
        self._judge.use(
            {
                camera: replace(loaded[name], config=self._effective.recipes[name])
                for camera, name in change.choices.items()
            }
        )
        self._loader.keep_only(self._judge.recipes.values())
        self._remember()
        for camera, recipe in self._judge.recipes.items():
            logger.info("camera %s: recipe %s, bundle %s", camera, recipe.name, recipe.bundle.sha256[:12])

    def _remember(self) -> None:
        try:
            remembered.write(self._configured.state, self.changes())
            unsaved = ""
        except OSError as error:
            unsaved = f"{self._configured.state}: changes are in use but not remembered: {error.strerror}"
            self._remember_at_s = time.monotonic() + REMEMBER_AGAIN_S
        if unsaved != self._unsaved:
            logger.warning("%s", unsaved or f"{self._configured.state}: changes are remembered again")
        self._unsaved = unsaved


def _needs_restart(now: DaemonConfig, new: DaemonConfig) -> list[str]:
    """The top-level keys that differ, recipes and the cameras' choice of them apart."""

    def rest(config: DaemonConfig) -> dict[str, object]:
        cameras = [msgspec.structs.replace(camera, recipe="") for camera in config.cameras]
        return {**msgspec.structs.asdict(config), "recipes": None, "cameras": cameras}

    before, after = rest(now), rest(new)
    return [key for key in before if before[key] != after[key]]
