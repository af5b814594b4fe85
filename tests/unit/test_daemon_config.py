"""The daemon's configuration: the file in the repository is true, and what must not be is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from dualkd.configs.loader import load
from dualkd.daemon.config import DaemonConfig

EXAMPLE = Path(__file__).parents[2] / "configs" / "daemon.yaml"
SMALLEST: dict[str, Any] = {
    "line": "line1",
    "recipes": {"default": {"bundle": "runs/bundle"}},
    "cameras": [{"name": "cam0", "source": "film.mp4"}],
}
KEYS = {"secret_key": "k", "subscribers": "s", "controllers": "c"}


def convert(**changes: Any) -> DaemonConfig:
    return msgspec.convert({**SMALLEST, **changes}, DaemonConfig)


def test_the_explained_file_holds_every_key_with_its_default() -> None:
    """configs/daemon.yaml is the reference: no key missing, no default out of date."""
    explained = yaml.safe_load(EXAMPLE.read_text())
    load(EXAMPLE, DaemonConfig)
    assert explained == msgspec.to_builtins(convert())


@pytest.mark.parametrize(
    "endpoint",
    ["tcp://127.0.0.1:5571", "tcp://127.8.9.1:1", "tcp://localhost:5571", "tcp://[::1]:5571", "ipc:///run/x"],
)
def test_endpoints_on_this_host_are_allowed(endpoint: str) -> None:
    """Loopback and ipc."""
    assert convert(publisher={"results": endpoint}).publisher.results == endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://*:5571", "tcp://0.0.0.0:5571", "tcp://192.168.1.2:5571", "tcp://eth0:5571", "tcp://[::]:5571",
        "tcp://127.0.0.1.evil.example:5571", "tcp://127.0.0.1", "tcp://127.0.0.1:99999", "tcp://:5571",
        "udp://127.0.0.1:1", "ipc://", "ipc://*", "inproc://x", "",
    ],
)  # fmt: skip
def test_endpoints_that_others_can_reach_are_refused(endpoint: str) -> None:
    """Without keys nothing leaves the host; what is no endpoint at all is refused as well."""
    with pytest.raises(msgspec.ValidationError):
        convert(publisher={"results": endpoint})
    with pytest.raises(msgspec.ValidationError):
        convert(control={"endpoint": endpoint})


@pytest.mark.parametrize(
    ("socket", "needed"),
    [
        ({"publisher": {"scores": "tcp://0.0.0.0:5572"}}, "subscribers"),
        ({"control": {"endpoint": "tcp://0.0.0.0:5573"}}, "controllers"),
    ],
)
def test_other_hosts_are_served_with_a_key_and_an_allow_list(socket: dict[str, Any], needed: str) -> None:
    """Both, and the message names what is missing."""
    convert(**socket, curve=KEYS)
    for missing in ("secret_key", needed):
        with pytest.raises(msgspec.ValidationError, match=f"needs curve.{missing} "):
            convert(**socket, curve={**KEYS, missing: None})


def test_metrics_stay_on_this_host() -> None:
    """HTTP has neither keys nor passwords here."""
    with pytest.raises(msgspec.ValidationError, match="only this host"):
        convert(metrics={"address": "0.0.0.0:9571"})


def test_a_camera_needs_a_recipe_that_exists() -> None:
    """The message names those there are."""
    with pytest.raises(msgspec.ValidationError, match="there is no recipe 'b'; recipes: default"):
        convert(cameras=[{"name": "a", "source": "s", "recipe": "b"}])


def test_warn_lies_below_fail() -> None:
    """Or no frame could be doubtful."""
    with pytest.raises(msgspec.ValidationError, match="warn must lie below fail"):
        convert(recipes={"default": {"bundle": "b", "fail": 0.4, "warn": 0.4}})


def test_a_camera_may_be_given_by_its_number() -> None:
    """`source: 0` is what people write; it need not be quoted."""
    assert convert(cameras=[{"name": "a", "source": 0}]).cameras[0].source == 0


def test_two_sockets_need_two_endpoints() -> None:
    """results and scores on one address would be a publisher error later; it is a configuration error now."""
    with pytest.raises(msgspec.ValidationError, match="an endpoint each"):
        convert(publisher={"results": "ipc://x", "scores": "ipc://x"})


@pytest.mark.parametrize(
    "cameras",
    [
        [],
        [{"name": "a", "source": "s"}, {"name": "a", "source": "t"}],
        [{"name": "a/b", "source": "s"}],
        [{"name": "a", "source": ""}],
        [{"name": "a", "source": -1}],
        [{"name": "a", "source": "s", "slots": 1}],
        [{"name": "a", "source": "s", "pace": "slow"}],
    ],
)
def test_cameras_that_cannot_be_told_apart_or_opened_are_refused(cameras: list[dict[str, Any]]) -> None:
    """None, twice the same name, a name that would break the topic, no source, too few slots, no such pace."""
    with pytest.raises(msgspec.ValidationError):
        convert(cameras=cameras)
