"""Faults below Python: a process whose wall clock is stepped, or that is killed between write and rename."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


class FaultyLibc:
    """Compiles faulty_libc.c into a folder; skips the test where nothing compiles."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("there is no C compiler (cc)")
        library, source = folder / "faulty_libc.so", Path(__file__).with_suffix(".c")
        options = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library)]
        subprocess.run([compiler, *options, str(source), "-ldl"], check=True)
        self._clock, self._rename = folder / "clock_step", folder / "die_at_rename"
        self.environment = {
            "LD_PRELOAD": str(library),
            "CLOCK_STEP": str(self._clock),
            "DIE_AT_RENAME": str(self._rename),
        }

    def step_clock(self, seconds: int) -> None:
        """Let the wall clock be so many seconds off from now on."""
        _say(self._clock, str(seconds))

    def die_at_rename(self, ending: str) -> None:
        """Kill whoever begins to rename a file to a path with this ending; "": nobody any more."""
        _say(self._rename, ending)


def _say(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)
