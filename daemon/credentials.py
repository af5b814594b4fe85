"""Secrets in files: where one is, and who else may read it.

A plain name that exists in $CREDENTIALS_DIRECTORY is a systemd credential and taken from there; anything else is a
path. Does not know what is in the files.
"""

from __future__ import annotations

import os
from pathlib import Path


def find_secret(configured: str) -> Path:
    """The file that a configuration means."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials and Path(configured).name == configured:
        credential = Path(credentials) / configured
        if credential.exists():
            return credential
    return Path(configured)


def why_not_secret(path: Path) -> str:
    """What is wrong with a secret file's mode; empty if nobody else can read it. Raises OSError."""
    mode = path.stat().st_mode & 0o777
    # systemd guards the folder of its credentials; the group bits of one are the mask of its access list
    guarded = os.environ.get("CREDENTIALS_DIRECTORY") == str(path.parent)
    if mode & (0o007 if guarded else 0o077):
        return f"others can read this secret (mode {mode:03o}): chmod 600 {path}"
    return ""
