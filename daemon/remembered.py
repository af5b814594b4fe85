"""What was changed through the control socket, kept in a file so that it outlives the daemon.

A change is remembered with the configured value that it replaced, and holds as long as the configuration
still says that: whoever edits the file has the last word. Knows configurations and one JSON file.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
from dualkd.configs.loader import ConfigError
from dualkd.daemon.config import DaemonConfig, RecipeConfig, Threshold
from dualkd.daemon.messages import TopicName

FILE_NAME = "changes.json"
MAX_BYTES = 1 << 20


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A camera's recipe."""

    recipe: TopicName
    configured: TopicName


class Thresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A recipe's thresholds."""

    fail: Threshold | None
    warn: Threshold | None
    configured_fail: Threshold | None
    configured_warn: Threshold | None


class Remembered(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All changes."""

    schema: Literal[1] = 1
    cameras: dict[TopicName, Choice] = {}
    recipes: dict[TopicName, Thresholds] = {}


def difference(configured: DaemonConfig, effective: DaemonConfig) -> Remembered:
    """What makes `effective` of `configured`. Both have the same cameras and recipes."""
    cameras = {
        now.name: Choice(recipe=now.recipe, configured=then.recipe)
        for then, now in zip(configured.cameras, effective.cameras, strict=True)
        if now.recipe != then.recipe
    }
    recipes = {}
    for name, now in effective.recipes.items():
        then = configured.recipes[name]
        if (now.fail, now.warn) != (then.fail, then.warn):
            recipes[name] = Thresholds(
                fail=now.fail, warn=now.warn, configured_fail=then.fail, configured_warn=then.warn
            )
    return Remembered(cameras=cameras, recipes=recipes)


def apply(configured: DaemonConfig, remembered: Remembered) -> DaemonConfig:
    """Return the configuration with those changes that still hold."""
    recipes = {
        name: _with_thresholds(recipe, remembered.recipes.get(name))
        for name, recipe in configured.recipes.items()
    }
    cameras = []
    for camera in configured.cameras:
        choice = remembered.cameras.get(camera.name)
        if choice is not None and choice.configured == camera.recipe and choice.recipe in recipes:
            camera = msgspec.structs.replace(camera, recipe=choice.recipe)
        cameras.append(camera)
    return msgspec.structs.replace(configured, recipes=recipes, cameras=cameras)


def read(folder: str | None) -> Remembered:
    """Read what is remembered in `folder`; nothing where there is no folder or no file yet.

    Raises ConfigError for a file that is damaged: to judge by another recipe than the operator chose, and
    say nothing, would be worse than not to start.
    """
    if folder is None or not (Path(folder) / FILE_NAME).exists():
        return Remembered()
    path = Path(folder) / FILE_NAME
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(MAX_BYTES), type=Remembered)
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        raise ConfigError(
            [f"{path}: {error}; mend it, or remove it to begin with the recipes and thresholds configured"]
        ) from error


def write(folder: str | None, remembered: Remembered) -> None:
    """Replace the file, whole or not at all. Raises OSError.

    What a kill leaves has always the same name, so that it does not pile up.
    """
    if folder is None:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    path = Path(folder) / FILE_NAME
    new = path.with_name(f".{FILE_NAME}.new")
    try:
        with new.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(remembered), indent=2) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def _with_thresholds(recipe: RecipeConfig, change: Thresholds | None) -> RecipeConfig:
    if change is None or (change.configured_fail, change.configured_warn) != (recipe.fail, recipe.warn):
        return recipe
    return msgspec.structs.replace(recipe, fail=change.fail, warn=change.warn)
