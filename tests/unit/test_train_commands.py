"""How the commands of training, evaluation and export print."""

from __future__ import annotations

import os
import subprocess
import sys


def test_a_reader_that_is_gone_ends_no_command() -> None:
    """dualkd-train ... | head: the first line that nobody reads, those after it, and the flush at exit."""
    reading, writing = os.pipe()
    os.close(reading)
    lines = "from dualkd.train.commands import say; say('one'); say('two'); print('three')"
    with os.fdopen(writing, "wb") as nobody:
        ended = subprocess.run(
            [sys.executable, "-c", lines], stdout=nobody, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert ended.returncode == 0
    assert ended.stderr == b""
