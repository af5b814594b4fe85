"""dualkd-watch: a line's verdicts in the terminal, as JSON for scripts, and its heatmaps as pictures.

Knows the client and the terminal. Does not know the daemon's inside.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import msgspec
from dualkd.daemon.client import KeyDeniedError, Preview, Result, Status, Subscriber, SubscriberTimeoutError
from dualkd.daemon.curve import CurveError
from dualkd.daemon.messages import MessageError, ResultHeader
from dualkd.daemon.terminal import add_key_options, printable, read_keys

DONE, TIMED_OUT, USAGE, UNREADABLE, DAEMON_FAILED, DENIED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
_COLOURS = {"PASS": "\033[32m", "FAIL": "\033[1;31m", "INVALID": "\033[33m"}
_PLAIN = "\033[0m"

EXIT_STATUSES = """\
exit status: 0 done; 1 timed out; 2 usage; 3 unreadable message, or a picture that cannot be written;
4 the daemon ended with an error (with --until-ended); 5 the daemon denies the key; 130 interrupted"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run dualkd-watch; return its exit status."""
    arguments = _parse(argv)
    try:
        subscriber = Subscriber(arguments.endpoint, prefix=arguments.topic, keys=read_keys(arguments))
    except (ValueError, CurveError) as error:
        print(f"dualkd-watch: {error}", file=sys.stderr)
        return USAGE
    watch = _Watch(arguments, sys.stdout)
    with subscriber:
        try:
            status = watch.run(subscriber)
        except SubscriberTimeoutError as error:
            print(f"dualkd-watch: {arguments.endpoint}: {error}", file=sys.stderr)
            status = TIMED_OUT
        except (MessageError, OSError) as error:
            print(f"dualkd-watch: {error}", file=sys.stderr)
            status = UNREADABLE
        except KeyDeniedError as error:
            print(f"dualkd-watch: {error}", file=sys.stderr)
            status = DENIED
        except KeyboardInterrupt:
            status = INTERRUPTED
    print(watch.summary(), file=sys.stderr)
    return status


class _Watch:
    def __init__(self, arguments: argparse.Namespace, out: TextIO) -> None:
        self._arguments = arguments
        self._out = out
        self._colour = out.isatty() and not arguments.json
        self._verdicts: Counter[str] = Counter()
        self._lost = 0
        self._saved = 0
        self._state = ""
        self._warnings: set[str] = set()
        self._began_s = time.monotonic()

    def run(self, subscriber: Subscriber) -> int:
        """Show messages until the count is full or the daemon has ended."""
        if self._arguments.save is not None:
            self._arguments.save.mkdir(parents=True, exist_ok=True)
        while self._arguments.count is None or sum(self._verdicts.values()) < self._arguments.count:
            received = subscriber.receive(self._arguments.timeout)
            self._lost += received.lost
            if received.lost and not self._arguments.json:
                self._say(f"  -- {received.lost} messages lost on {received.topic}")
            if isinstance(received, Status):
                self._show_status(received)
                if self._arguments.until_ended and received.header.state == "ended":
                    return DAEMON_FAILED if received.header.exit_status else DONE
            elif isinstance(received, Preview):
                self._show_result(
                    Result(received.topic, received.header.result, received.anomaly_map, received.lost)
                )
            else:
                self._show_result(received)
        return DONE

    def summary(self) -> str:
        """One line for the end."""
        total = sum(self._verdicts.values())
        seconds = time.monotonic() - self._began_s
        counts = ", ".join(f"{self._verdicts[verdict]} {verdict}" for verdict in ("PASS", "FAIL", "INVALID"))
        saved = (
            f", {self._saved} heatmaps in {self._arguments.save}" if self._arguments.save is not None else ""
        )
        return f"{total} verdicts in {seconds:.1f} s: {counts}; {self._lost} messages lost{saved}"

    def _show_status(self, status: Status) -> None:
        header = status.header
        if self._arguments.json:
            self._say_json(status)
            return
        if header.state != self._state:
            reason = f": {printable(header.reason)}" if header.reason else ""
            self._say(f"  -- line {header.line} {header.state}{reason}")
        for warning in header.warnings:
            if warning not in self._warnings:
                self._say(f"  !! {printable(warning)}")
        self._state, self._warnings = header.state, set(header.warnings)

    def _show_result(self, result: Result) -> None:
        header = result.header
        self._verdicts[header.verdict] += 1
        if self._arguments.save is not None:
            self._save_heatmap(result)
        if self._arguments.json:
            self._say_json(result)
            return
        mark, plain = (_COLOURS[header.verdict], _PLAIN) if self._colour else ("", "")
        parts = [
            time.strftime("%H:%M:%S", time.localtime(header.captured_utc_ns / 1e9)),
            f"{header.camera:<12} {_frame(header):>7}",
            f"{mark}{header.verdict:<7}{plain}",
            f"score {_number(header.score)}",
            f"(local {_number(header.p_local)}, semantic {_number(header.p_semantic)})",
            f"{header.stage_ms.total:7.1f} ms",
        ]
        if header.smoothed_score is not None:
            parts.append(f"smoothed {_number(header.smoothed_score)}")
        if header.doubtful:
            parts.append(f"doubtful (above {_number(header.warn_threshold)})")
        if header.job_id is not None:
            parts.append(f"job {printable(header.job_id)}")
        parts += [f"at {box.x_px},{box.y_px} {box.width_px}x{box.height_px}" for box in header.regions[:3]]
        parts += [printable(text) for text in (header.source_name, header.reason) if text]
        self._say("  ".join(parts) + ("  (retained)" if header.retained else ""))

    def _save_heatmap(self, result: Result) -> None:
        header = result.header
        if result.anomaly_map is None or header.map is None:
            return
        import cv2  # only here: watching needs no OpenCV
        from dualkd.daemon.heatmap import heatmap

        covers = header.map.covers
        picture = heatmap(result.anomaly_map, covers.width_px, covers.height_px, header.region_threshold)
        path = self._arguments.save / f"{header.camera}_{_frame(header):0>8}_{header.verdict}.png"
        encoded, data = cv2.imencode(".png", picture)
        if not encoded:
            raise OSError(f"{path}: cannot be encoded")
        path.write_bytes(data.tobytes())
        self._saved += 1

    def _say_json(self, received: Result | Status) -> None:
        line = {**msgspec.to_builtins(received.header), "lost": received.lost}
        self._say(msgspec.json.encode(line).decode())

    def _say(self, line: str) -> None:
        print(line, file=self._out, flush=True)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _frame(header: ResultHeader) -> str:
    return "-" if header.frame_id is None else str(header.frame_id)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dualkd-watch",
        description="Show the verdicts of a running dualkd-daemon.",
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "endpoint", metavar="ENDPOINT", help="results or scores, such as tcp://127.0.0.1:5571"
    )
    add_key_options(parser)
    parser.add_argument("--topic", default="v1/", help="only topics that begin so (default: v1/, all)")
    parser.add_argument("--save", metavar="DIR", type=Path, help="write each heatmap as a PNG into DIR")
    parser.add_argument("--json", action="store_true", help="one JSON object a message")
    parser.add_argument("--count", metavar="N", type=int, help="end after N verdicts")
    parser.add_argument("--until-ended", action="store_true", help="end with the daemon")
    parser.add_argument(
        "--timeout", metavar="S", type=float, help="longest silence, in seconds (default: any)"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
