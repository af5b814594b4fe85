"""The `mqtt` part of a bridge's configuration: the file is true, mistakes are named, secrets stay secret."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from certificates import Authority
from dualkd.configs.loader import ConfigError
from dualkd.daemon.bridges.config import MqttConfig
from dualkd.daemon.bridges.mqtt.access import read_access

EXAMPLE = Path(__file__).parents[2] / "configs" / "bridge.yaml"


def convert(**changes: Any) -> MqttConfig:
    return msgspec.convert(changes, MqttConfig)


def secret(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_the_explained_file_holds_every_key_with_its_default() -> None:
    assert yaml.safe_load(EXAMPLE.read_text())["mqtt"] == msgspec.to_builtins(MqttConfig())


@pytest.mark.parametrize("address", ["broker:1883", "10.0.0.1:8883", "[::1]:1883", "b.example.org:65535"])
def test_addresses_of_brokers_are_taken(address: str) -> None:
    host = address.rpartition(":")[0].strip("[]")
    assert read_access(convert(address=address), "line1").host == host


@pytest.mark.parametrize(
    "wrong",
    [
        {"address": "broker"}, {"address": ":1883"}, {"address": "::1:1883"}, {"address": "tcp://b:1883"},
        {"address": "b:99999"}, {"protocol": 5}, {"prefix": ""}, {"prefix": "a/#"}, {"prefix": "a/+/b"},
        {"prefix": "/a"}, {"prefix": "a/"}, {"prefix": "$SYS"}, {"qos": 3}, {"keepalive_s": 0}, {"hold_s": 3600},
        {"password_file": "x"}, {"tls": {"certificate": "c.pem"}}, {"tls": {"key": "c.key"}}, {"password": "secret"},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        convert(**wrong)


def test_a_password_is_read_from_its_file_and_shown_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path, or the name of a systemd credential."""
    config = convert(user="line", password_file=secret(tmp_path / "password", "öffne dich\n"))
    access = read_access(config, "line1")
    assert access.password == "öffne dich"
    assert "öffne" not in repr(access)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "password").chmod(0o440)
    assert read_access(convert(user="line", password_file="password"), "line1").password == "öffne dich"


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("x", 0o640, "others can read this secret"),
        ("\n", 0o600, "holds no password"),
        ("é" * 40_000, 0o600, "holds no"),
    ],
)
def test_a_file_with_no_password_is_refused(text: str, mode: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"mqtt.password_file: .*{said}"):
        read_access(convert(user="u", password_file=secret(tmp_path / "p", text, mode)), "line1")
    with pytest.raises(ConfigError, match=r"mqtt\.password_file: .*cannot be read"):
        read_access(convert(user="u", password_file=str(tmp_path / "none")), "line1")


def test_files_of_tls_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    certificate, key = map(str, authority.issue("bridge"))
    access = read_access(
        convert(tls={"ca": str(authority.ca), "certificate": certificate, "key": key}), "line1"
    )
    assert access.tls is not None
    assert access.tls.check_hostname
    for tls, said in (
        ({"ca": key}, "mqtt.tls.ca: .*no certificates can be read"),
        ({"ca": str(tmp_path / "none")}, "mqtt.tls.ca: .*No such file"),
        ({"certificate": certificate, "key": certificate}, "mqtt.tls: .*no certificate with its key"),
    ):
        with pytest.raises(ConfigError, match=said):
            read_access(convert(tls=tls), "line1")
    Path(key).chmod(0o644)
    with pytest.raises(ConfigError, match=r"mqtt\.tls\.key: .*others can read"):
        read_access(convert(tls={"certificate": certificate, "key": key}), "line1")


def test_another_host_without_tls_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And of a password in the clear most of all; this host, and TLS, are quiet."""
    password = secret(tmp_path / "password", "x")
    with caplog.at_level(logging.WARNING):
        read_access(convert(), "line1")
        read_access(convert(address="broker:8883", tls={}), "line1")
        assert caplog.messages == []
        read_access(convert(address="broker:1883", user="u", password_file=password), "line1")
    assert "verdicts and the password" in caplog.text
