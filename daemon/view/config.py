"""The view's configuration as typed structs. configs/view.yaml explains every key in place."""

from __future__ import annotations

from typing import Annotated

import msgspec
from dualkd.daemon.config import ClientKeysConfig
from dualkd.daemon.endpoints import check_endpoint, host_and_port, is_loopback
from dualkd.daemon.messages import TopicName

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]


class TokensConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Files with a token each, made if they are not there. Who has the second may look too, and control."""

    view: Text | None = None
    control: Text | None = None


class TlsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """PEM files."""

    certificate: Text
    key: Text


class ViewConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of it. Relative paths are relative to the current directory."""

    line: TopicName
    scores: Text = "tcp://127.0.0.1:5572"
    preview: Text | None = "tcp://127.0.0.1:5574"  # None: no pictures
    control: Text | None = "tcp://127.0.0.1:5573"  # None: nothing can be changed
    keys: ClientKeysConfig | None = None
    archive: Text | None = None  # the daemon's folder
    address: Text = "127.0.0.1:8571"
    hosts: list[Text] = []  # names under which browsers reach it, beside the address
    tokens: TokensConfig = msgspec.field(default_factory=TokensConfig)
    tls: TlsConfig | None = None

    def __post_init__(self) -> None:
        check_endpoint("scores", self.scores)
        for key in ("preview", "control"):
            if (endpoint := getattr(self, key)) is not None:
                check_endpoint(key, endpoint)
        host, _ = host_and_port("address", self.address)
        if not is_loopback(host) and self.tokens.view is None:
            raise ValueError(
                f"address: {self.address} can be reached from other hosts, which needs tokens.view: a file for a "
                "token, which is made if it is not there"
            )
