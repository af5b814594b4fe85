"""What the commands have in common: options, logging, texts from elsewhere."""

from __future__ import annotations

import argparse
import logging
import os
import sys
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


def add_config_options(parser: argparse.ArgumentParser, example: str) -> None:
    """Add CONFIG, --check and --set, for a command that is configured by a file."""
    parser.add_argument("config", metavar="CONFIG", help=f"YAML file; {example} explains every key")
    parser.add_argument("--check", action="store_true", help="print the effective configuration and end")
    parser.add_argument(
        "--set",
        metavar="KEY.PATH=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="override one key",
    )


def fail(program: str, error: object, status: int) -> int:
    """Say on stderr what went wrong, line by line; return `status`."""
    for line in str(error).splitlines():
        print(f"{program}: {line}", file=sys.stderr)
    return status


def log_to_stderr() -> None:
    """Let what happens be seen, with the time where nobody else stamps it."""
    journal = "JOURNAL_STREAM" in os.environ
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(levelname)s %(message)s" if journal else "%(asctime)s %(levelname)s %(message)s",
    )
