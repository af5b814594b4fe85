"""What the commands that speak to a daemon have in common on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

from dualkd.daemon.curve import ClientKeys, CurveError, load_client_keys


def printable(text: str) -> str:
    """A text from elsewhere without what could steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def add_key_options(parser: argparse.ArgumentParser) -> None:
    """Add --key and --server-key, for a daemon that has keys."""
    parser.add_argument(
        "--key", metavar="FILE", type=Path, help="your own NAME.key_secret, if the daemon uses keys"
    )
    parser.add_argument("--server-key", metavar="FILE", type=Path, help="the daemon's NAME.key")


def read_keys(arguments: argparse.Namespace) -> ClientKeys | None:
    """The keys that were named, None if none were. Raises CurveError."""
    own, server = arguments.key, arguments.server_key
    if own is None and server is None:
        return None
    if own is None or server is None:
        raise CurveError("--key and --server-key go together: your own key, and the daemon's public one")
    return load_client_keys(own, server)
