"""Whatever the file holds: it is a configuration, or mistakes with file and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from dualkd.configs.loader import ConfigError, load
from dualkd.daemon.config import DaemonConfig
from fuzz.targets import SMALLEST, check_config, config_seeds, configurations
from fuzz.trees import ANYTHING, slips
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

quick = settings(
    max_examples=150, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@quick
@given(configurations())
def test_any_good_configuration_is_read_and_survives_being_printed(tree: Any) -> None:
    """Every key with any value of its range: what --check prints is the same configuration."""
    check_config(yaml.safe_dump(tree, sort_keys=False).encode())
    msgspec.convert(tree, DaemonConfig)  # it is a good one


def test_the_seeds_are_configurations(tmp_path: Path) -> None:
    """The coverage-guided run begins with what is read, not with what is refused."""
    path = tmp_path / "c.yaml"
    for seed in config_seeds():
        path.write_bytes(seed)
        load(path, DaemonConfig)


@quick
@given(slips(DaemonConfig) | ANYTHING)
def test_any_tree_is_a_configuration_or_mistakes_with_their_places(tree: Any) -> None:
    """The right shape with anything in some places, keys that are no text among it."""
    check_config(yaml.safe_dump(tree, sort_keys=False).encode())


@quick
@given(
    st.binary(max_size=200)
    | st.text("ab01:-[]{}&*!#?|>'\"%@`,. \n\\<=~\0\x85\u2028\U0001f600", max_size=60).map(str.encode)
)
def test_any_text_is_a_configuration_or_refused(data: bytes) -> None:
    """YAML's own signs in any order, and bytes that are no text."""
    check_config(data)


@quick
@given(st.lists(st.text("cameras.nmline0123=[]{}:&*!-²", max_size=16), min_size=1, max_size=3))
def test_any_override_is_taken_or_refused(overrides: list[str]) -> None:
    """--set with anything: places that are not there, values that are no YAML."""
    lines = "".join(f"#set {override}\n" for override in overrides)
    check_config(SMALLEST + lines.encode())


def laughs(levels: int) -> str:
    return "a0: &a0 [x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, levels)
    )


@pytest.mark.parametrize(
    "text",
    [
        laughs(30),
        "a: &a [*a]\n",
        "? " * 100_000,
        "- " * 100_000,
        "{a: " * 50_000,
        "[" * 200_000,
        "a: '" + "x" * 250_000,
        "cameras:\n" + "- {name: a, source: b}\n" * 1_000,
        "line: " + "9" * 250_000,
        "%YAML " + "9" * 10_000 + ".1\n---\n",
        "".join(f"k{n}: 1\n" for n in range(25_000)),
    ],
    ids=[
        "laughs",
        "itself",
        "keys",
        "items",
        "maps",
        "lists",
        "quote",
        "cameras",
        "digits",
        "version",
        "unknown",
    ],
)
def test_what_was_made_to_be_costly_is_refused(tmp_path: Path, text: str) -> None:
    """Aliases of aliases would take all memory and some hours; depth, length and number have their limits."""
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load(path, DaemonConfig)
