"""The demo's line to watch: the daemon judges its parts over and over, and the view shows it in the browser.

Knows which processes that takes. Everything in them is what a user has.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from dualkd.export.demo_line import read_truth, write_centred_parts
from dualkd.export.demo_processes import DemoError, free_ports

STOP_S = 60.0  # longest wait for a process to end


def watch_line(configs: Path, out: Path) -> None:
    """Watch the line that the demo left in `out`, until Ctrl-C. Raises DemoError."""
    if not (out / "bundle").is_dir():
        raise DemoError(f"{out / 'bundle'} is not there: run the demo first, without --view")
    write_centred_parts(out / "centred.mkv", out / "film.mp4", read_truth(out / "truth.json"))
    results, scores, preview, control, page = (f"127.0.0.1:{port}" for port in free_ports(5))
    token, archive = out / "control.token", out / "archive"
    token.unlink(missing_ok=True)
    daemon = {
        "recipes.default.bundle": out / "bundle",
        "cameras.0.source": out / "centred.mkv",
        "publisher.results": f"tcp://{results}",
        "publisher.scores": f"tcp://{scores}",
        "preview.endpoint": f"tcp://{preview}",
        "control.endpoint": f"tcp://{control}",
        "archive.folder": archive,
    }
    view = {
        "scores": f"tcp://{scores}",
        "preview": f"tcp://{preview}",
        "control": f"tcp://{control}",
        "archive": archive,
        "address": page,
        "tokens.control": token,
    }
    running = [
        _start("dualkd.daemon", configs / "line.yaml", daemon),
        _start("dualkd.daemon.view.command", configs / "view.yaml", view),
    ]
    try:
        while all(process.poll() is None for process in running) and not token.exists():
            time.sleep(0.05)
        if token.exists():
            print(f"\nopen http://{page}/#token={token.read_text().strip()}  (Ctrl-C ends it)\n", flush=True)
        while all(process.poll() is None for process in running):
            time.sleep(0.2)
        raise DemoError("the daemon or the view ended by itself; what it said stands above")
    except KeyboardInterrupt:
        return
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(STOP_S)


def _start(module: str, config: Path, settings: dict[str, object]) -> subprocess.Popen[bytes]:
    overrides = (word for key, value in settings.items() for word in ("--set", f"{key}={value}"))
    return subprocess.Popen([sys.executable, "-m", module, str(config), *overrides])
