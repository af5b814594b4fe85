"""dualkd-ctl: ask a running daemon, or tell it what to do, from the command line; make keys for it.

Knows the client and the terminal. Does not know the daemon's inside.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from dualkd.daemon.client import Controller, ControllerTimeoutError, KeyDeniedError
from dualkd.daemon.control_messages import (
    AnyRequest,
    Pause,
    ReceivedReply,
    Recipe,
    Reload,
    Resume,
    SetThreshold,
    Snapshot,
    Status,
    Trigger,
    decode_request,
    encode_request,
)
from dualkd.daemon.curve import CurveError, make_keys
from dualkd.daemon.endpoints import check_endpoint
from dualkd.daemon.messages import CameraStatus, MessageError, StatusHeader
from dualkd.daemon.terminal import add_key_options, printable, read_keys

DONE, REFUSED, USAGE, NO_ANSWER, UNUSABLE, DENIED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

EXIT_STATUSES = """\
exit status: 0 done; 1 the daemon refused, and said why; 2 usage, or a key file that cannot be used;
3 no answer in time; 4 an unreadable answer, or a picture that cannot be written; 5 the daemon denies the
key; 130 interrupted"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run dualkd-ctl; return its exit status."""
    arguments = _parse(argv)
    try:
        if arguments.command == "keygen":
            return _keygen(arguments)
        return _ask(arguments, _request(arguments))
    except (CurveError, ValueError) as error:
        return _fail(error, USAGE)
    except ControllerTimeoutError as error:
        return _fail(error, NO_ANSWER)
    except KeyDeniedError as error:
        return _fail(error, DENIED)
    except (MessageError, OSError) as error:
        return _fail(error, UNUSABLE)
    except KeyboardInterrupt:
        return INTERRUPTED


def _ask(arguments: argparse.Namespace, request: AnyRequest) -> int:
    check_endpoint("--endpoint", arguments.endpoint)
    with Controller(arguments.endpoint, keys=read_keys(arguments)) as controller:
        received = controller.ask(request, arguments.timeout)
    reply = received.reply
    if isinstance(request, Snapshot) and reply.ok:
        _save(arguments.out, received)
    if arguments.json:
        print(msgspec.json.encode(reply).decode())
    elif not reply.ok:
        print(f"dualkd-ctl: refused: {printable(reply.message)}", file=sys.stderr)
    elif reply.status is not None:
        print("\n".join(status_lines(reply.status)))
    else:
        print(printable(reply.message))
    return DONE if reply.ok else REFUSED


def _keygen(arguments: argparse.Namespace) -> int:
    public, secret = make_keys(arguments.folder, arguments.name)
    if arguments.json:
        print(msgspec.json.encode({"public": str(public), "secret": str(secret)}).decode())
    else:
        print(f"{public}: the public key, to hand out\n{secret}: the secret key; it stays with its owner")
    return DONE


def _save(path: Path, received: ReceivedReply) -> None:
    """Write a snapshot's picture, whole or not at all. Raises OSError, MessageError."""
    if received.jpeg is None:
        raise MessageError("the reply to a snapshot holds no picture")
    with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent, delete=False) as file:
        try:
            file.write(received.jpeg)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def status_lines(status: StatusHeader) -> list[str]:
    """A daemon's state for a person in a hurry: what is wrong comes first, then a row a camera."""
    reason = f": {status.reason}" if status.reason else ""
    lines = [f"line {status.line}: {status.state}{reason}, up {_duration(status.uptime_s)}"]
    lines += [f"  !! {warning}" for warning in status.warnings]
    rows: list[tuple[str, ...]] = [
        ("CAMERA", "STATE", "RECIPE", "FAIL", "WARN", "PASSED", "FAILED", "INVALID", "DROPPED", "LAST FRAME")
    ]
    rows += [_row(name, camera) for name, camera in status.cameras.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    reasons = ["", *(camera.reason for camera in status.cameras.values())]
    for row, why in zip(rows, reasons, strict=True):
        cells = [
            cell.rjust(width) if 3 <= column <= 8 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join([*cells, why]).rstrip())
    return [printable(line) for line in lines]


def _row(name: str, camera: CameraStatus) -> tuple[str, ...]:
    recipe = camera.recipe
    return (
        name,
        f"{camera.state}, paused" if camera.paused else camera.state,
        "-" if recipe is None else recipe.name,
        "-" if recipe is None else f"{recipe.fail:.3f}",
        "off" if recipe is None or recipe.warn is None else f"{recipe.warn:.3f}",
        str(camera.passed),
        str(camera.failed),
        str(camera.invalid),
        str(sum(camera.dropped.values())),
        "none yet" if camera.age_s is None else f"{_duration(camera.age_s)} ago",
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86_400)
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {int(seconds % 60)} s"


def _fail(error: Exception, status: int) -> int:
    print(f"dualkd-ctl: {printable(str(error))}", file=sys.stderr)
    return status


def _request(arguments: argparse.Namespace) -> AnyRequest:
    """The request that was typed. Raises ValueError for one that no daemon would take."""
    request: AnyRequest
    match arguments.command:
        case "status":
            request = Status()
        case "trigger":
            request = Trigger(camera=arguments.camera, job_id=arguments.job_id or secrets.token_hex(6))
        case "recipe":
            request = Recipe(recipe=arguments.name, camera=arguments.camera)
        case "threshold":
            request = SetThreshold(recipe=arguments.recipe, fail=arguments.fail, warn=arguments.warn)
        case "pause":
            request = Pause(camera=arguments.camera)
        case "resume":
            request = Resume(camera=arguments.camera)
        case "snapshot":
            request = Snapshot(camera=arguments.camera)
        case _:
            request = Reload()
    try:
        return decode_request(encode_request(request))
    except MessageError as error:
        raise ValueError(str(error)) from error


def _threshold_or(word: str) -> Callable[[str], float | str]:
    def read(text: str) -> float | str:
        if text == word:
            return text
        try:
            return float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a number or {word!r}, got {text!r}") from None

    return read


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"expected seconds, more than 0 and at most 3600, got {text!r}")
    return seconds


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dualkd-ctl",
        description="Ask a running dualkd-daemon, or tell it what to do.",
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--endpoint",
        default="tcp://127.0.0.1:5573",
        help="the daemon's control.endpoint (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout", metavar="S", type=_seconds, default=5.0, help="longest wait for the answer (default: 5)"
    )
    add_key_options(parser)
    parser.add_argument("--json", action="store_true", help="the answer as one JSON object")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("status", help="how the line, its cameras and its recipes are")
    trigger = commands.add_parser("trigger", help="judge the next frame of a camera in software trigger mode")
    trigger.add_argument("camera", metavar="CAMERA")
    trigger.add_argument(
        "job_id", metavar="JOB_ID", nargs="?", help="comes back in the verdict (default: drawn)"
    )
    recipe = commands.add_parser("recipe", help="judge by another recipe of the configuration")
    recipe.add_argument("name", metavar="NAME")
    recipe.add_argument("--camera", metavar="CAMERA", help="only this one (default: all)")
    threshold = commands.add_parser("threshold", help="move a recipe's thresholds")
    threshold.add_argument("recipe", metavar="RECIPE")
    threshold.add_argument("--fail", metavar="X|calibrated", type=_threshold_or("calibrated"))
    threshold.add_argument("--warn", metavar="X|off", type=_threshold_or("off"))
    for name, said in (("pause", "judge no frame until resume"), ("resume", "undo pause")):
        command = commands.add_parser(name, help=said)
        command.add_argument("camera", metavar="CAMERA", nargs="?", help="default: all")
    snapshot = commands.add_parser("snapshot", help="the next judged frame of a camera, as a picture")
    snapshot.add_argument("camera", metavar="CAMERA")
    snapshot.add_argument("--out", metavar="FILE.jpg", type=Path, required=True)
    commands.add_parser("reload", help="read the configuration and the allow-lists again, as SIGHUP does")
    keygen = commands.add_parser("keygen", help="write a new key pair: DIR/NAME.key and DIR/NAME.key_secret")
    keygen.add_argument("folder", metavar="DIR", type=Path)
    keygen.add_argument("name", metavar="NAME")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
