"""What the control socket changed outlives a restart, until the configuration says something new."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from dualkd.configs.loader import ConfigError
from dualkd.daemon import remembered
from dualkd.daemon.config import DaemonConfig


def configuration(
    choice: str = "a", fail: float | None = None, names: str = "ab", **changes: Any
) -> DaemonConfig:
    recipes = {name: {"bundle": name, "fail": fail if name == "a" else None} for name in names}
    cameras = [
        {"name": "cam", "source": "-", "recipe": choice},
        {"name": "other", "source": "-", "recipe": "a"},
    ]
    return msgspec.convert({"line": "l", "recipes": recipes, "cameras": cameras, **changes}, DaemonConfig)


def test_a_change_comes_back_from_the_file(tmp_path: Path) -> None:
    """Written and read, the difference makes the same configuration again."""
    effective = configuration("b", 0.7)
    folder = str(tmp_path / "state")
    remembered.write(folder, remembered.difference(configuration(), effective))
    assert remembered.apply(configuration(), remembered.read(folder)) == effective


def test_whoever_edits_the_configuration_has_the_last_word() -> None:
    """A choice or a threshold that replaced another value than is configured now is forgotten."""
    changes = remembered.difference(configuration("a", 0.5), configuration("b", 0.7))
    assert remembered.apply(configuration("b", 0.6), changes) == configuration("b", 0.6)


def test_a_recipe_that_is_gone_is_not_chosen() -> None:
    """The configuration lost recipe b, so the camera keeps what is configured."""
    changes = remembered.difference(configuration("a"), configuration("b"))
    assert remembered.apply(configuration("a", names="a"), changes) == configuration("a", names="a")


def test_nothing_is_remembered_without_a_folder_or_a_file(tmp_path: Path) -> None:
    """Both are an ordinary first start."""
    remembered.write(None, remembered.Remembered())
    assert remembered.read(None) == remembered.read(str(tmp_path)) == remembered.Remembered()


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"schema": 2}', b'{"cameras": {"../x": {}}}', b"[" * 100_000]
)
def test_a_damaged_file_is_no_reason_to_judge_by_something_else(tmp_path: Path, content: bytes) -> None:
    """The daemon does not start, and says which file and what to do."""
    (tmp_path / remembered.FILE_NAME).write_bytes(content)
    with pytest.raises(ConfigError, match=r"changes\.json: .*; mend it, or remove it"):
        remembered.read(str(tmp_path))
