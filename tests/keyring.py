"""A daemon's key, two allow-lists, and clients on one, the other and neither, as files."""

from __future__ import annotations

import shutil
from pathlib import Path

from dualkd.daemon.config import CurveConfig
from dualkd.daemon.curve import ClientKeys, Security, load_client_keys, load_security, make_keys


class Keyring:
    """The client `watcher` may subscribe, `boss` may control, `stranger` may nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("daemon", "watcher", "boss", "stranger"):
            make_keys(folder, name)
        self.subscribers, self.controllers = folder / "subscribers", folder / "controllers"
        self.allow(self.subscribers, "watcher")
        self.allow(self.controllers, "boss")

    def allow(self, allowed: Path, name: str) -> None:
        allowed.mkdir(exist_ok=True)
        shutil.copy(self.folder / f"{name}.key", allowed)

    def config(self) -> CurveConfig:
        return CurveConfig(
            secret_key=str(self.folder / "daemon.key_secret"),
            subscribers=str(self.subscribers),
            controllers=str(self.controllers),
        )

    def security(self) -> Security:
        security = load_security(self.config())
        if security is None:
            raise AssertionError("the keyring has a secret key")
        return security

    def client(self, name: str) -> ClientKeys:
        return load_client_keys(self.folder / f"{name}.key_secret", self.folder / "daemon.key")
