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
SMALLEST: dict[str, Any] = {"line": "l", "bundle": "b", "cameras": [{"name": "c", "source": "s"}]}


def convert(**changes: Any) -> DaemonConfig:
    return msgspec.convert({**SMALLEST, **changes}, DaemonConfig)


def test_the_explained_file_holds_every_key_with_its_default() -> None:
    """configs/daemon.yaml is the reference: no key missing, no default out of date."""
    explained = yaml.safe_load(EXAMPLE.read_text())
    load(EXAMPLE, DaemonConfig)
    defaults = msgspec.to_builtins(convert())
    for key in ("line", "bundle", "cameras"):  # have no default
        assert set(explained[key][0]) == set(defaults[key][0]) if key == "cameras" else key in explained
        del explained[key], defaults[key]
    assert explained == defaults


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
    """Without CURVE nothing leaves the host; what is no endpoint at all is refused as well."""
    with pytest.raises(msgspec.ValidationError):
        convert(publisher={"results": endpoint})


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
