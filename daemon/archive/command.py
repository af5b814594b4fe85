"""dualkd-archive: look into the frames that a daemon has kept, hand some on, make room.

Knows the terminal and the archive's reader. Works beside a running daemon.
"""

from __future__ import annotations

import argparse
import os
import re
import sqlite3
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import msgspec
from dualkd.daemon.archive.export import export_frame
from dualkd.daemon.archive.index import ArchiveError, Index
from dualkd.daemon.archive.names import INDEX_NAME, utc_text
from dualkd.daemon.archive.pruning import drop
from dualkd.daemon.archive.reader import ArchiveReader, Entry, Query

DONE, MISSING, USAGE, UNUSABLE, INTERRUPTED = 0, 1, 2, 3, 130
LIST_LIMIT = 100
DAY_S = 86_400

EXIT_STATUSES = """\
exit status: 0 done; 1 no frame matched; 2 usage; 3 the folder is no archive, a frame of that id is not
there, or a disk cannot be read or written; 130 interrupted
Times are in UTC, as in the names of the pictures."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run dualkd-archive; return its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        status = int(arguments.run(arguments))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # as in `dualkd-archive list ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (ArchiveError, OSError, sqlite3.Error) as error:
        print(f"dualkd-archive: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        return INTERRUPTED


def _list(arguments: argparse.Namespace) -> int:
    entries = ArchiveReader(arguments.folder).list(_query(arguments))
    if arguments.json:
        for entry in entries:
            print(msgspec.json.encode(entry).decode())
    else:
        print(f"{'ID':>8}  {'TIME (UTC)':<23}  {'CAMERA':<16}  {'VERDICT':<8}  {'SCORE':>5}  REASON")
        for entry in entries:
            print(_line(entry))
        if len(entries) == arguments.limit:
            print(f"the newest {arguments.limit}; more with --limit", file=sys.stderr)
    return DONE if entries else MISSING


def _show(arguments: argparse.Namespace) -> int:
    reader = ArchiveReader(arguments.folder)
    record = reader.get(arguments.id)
    print(_line(record.entry))
    path = reader.picture_path(record.entry)
    gone = "" if path is None or path.is_file() else " (gone: pruned just now?)"
    print(f"picture: {'none' if path is None else path}{gone}")
    if record.header is None:
        print("header:  lost with a damaged index; the line above is from the picture's name")
    else:
        print(_printable(msgspec.json.format(record.header, indent=2).decode(), keep="\n"))
    return DONE


def _export(arguments: argparse.Namespace) -> int:
    reader = ArchiveReader(arguments.folder)
    query = _query(arguments)
    if not arguments.ids and query == Query():
        print("dualkd-archive: export needs ids or a filter, such as --verdict FAIL", file=sys.stderr)
        return USAGE
    if arguments.ids and query != Query():
        print("dualkd-archive: export takes ids or filters, not both", file=sys.stderr)
        return USAGE
    numbers = arguments.ids or [entry.id for entry in reader.list(query)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for count, number in enumerate(numbers, 1):
        try:
            export_frame(reader, number, arguments.out)
        except ArchiveError as error:
            failed += 1
            print(f"dualkd-archive: {error}", file=sys.stderr)
        if sys.stderr.isatty():
            print(f"\r{count}/{len(numbers)} frames", end="", file=sys.stderr, flush=True)
    print(f"{len(numbers) - failed} frames exported to {arguments.out}")
    return UNUSABLE if failed else DONE if numbers else MISSING


def _prune(arguments: argparse.Namespace) -> int:
    if arguments.older_than is None and arguments.max_mib is None:
        print("dualkd-archive: prune needs --older-than or --max-mib", file=sys.stderr)
        return USAGE
    ArchiveReader(arguments.folder).list(Query(limit=1))  # no archive is begun here
    index = Index(arguments.folder / INDEX_NAME)
    try:
        days, mib = arguments.older_than, arguments.max_mib
        before = None if days is None else time.time_ns() - int(days * DAY_S * 1e9)
        victims = index.plan(before, None if mib is None else mib << 20)
        if not arguments.dry_run:
            drop(arguments.folder, index, victims)
    finally:
        index.close()
    gone_mib = sum(victim.bytes for victim in victims) / 2**20
    print(
        f"{len(victims)} frames, {gone_mib:.1f} MiB: {'would be pruned' if arguments.dry_run else 'pruned'}"
    )
    return DONE


def _query(arguments: argparse.Namespace) -> Query:
    return Query(
        camera=arguments.camera,
        verdict=arguments.verdict,
        since_utc_ns=arguments.since,
        until_utc_ns=arguments.until,
        limit=arguments.limit,
    )


def _line(entry: Entry) -> str:
    score = "-" if entry.score is None else f"{entry.score:.3f}"
    verdict = "PASS?" if entry.doubtful else entry.verdict
    return (
        f"{entry.id:>8}  {utc_text(entry.captured_utc_ns).replace('T', ' ').rstrip('Z'):<23}  "
        f"{_printable(entry.camera):<16}  {verdict:<8}  {score:>5}  {_printable(entry.reason)}"
    ).rstrip()


def _printable(text: str, keep: str = "") -> str:
    return "".join(sign if sign.isprintable() or sign in keep else " " for sign in text)


def _time(text: str) -> int:
    """ISO 8601 as nanoseconds; without an offset in UTC."""
    when = datetime.fromisoformat(re.sub(r"[zZ]\Z", "+00:00", text))
    return round((when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp() * 1e6) * 1000


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _days(text: str) -> float:
    days = float(text)
    if not 0 <= days <= 36_500:
        raise ValueError(text)
    return days


_time.__name__, _positive.__name__, _days.__name__ = (
    "time",
    "positive number",
    "number of days",
)  # in messages


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dualkd-archive",
        description="Look into the frames that a dualkd-daemon has kept, hand some on, make room.",
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, what: str, run: object) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=what, description=what.capitalize() + ".")
        made.add_argument("folder", metavar="FOLDER", type=Path, help="the archive (archive.folder)")
        made.set_defaults(run=run)
        return made

    listing = command("list", "list frames, newest first", _list)
    _add_filters(listing, LIST_LIMIT)
    listing.add_argument("--json", action="store_true", help="one JSON object a frame")
    showing = command("show", "show all that is known of a frame", _show)
    showing.add_argument("id", metavar="ID", type=_positive)
    exporting = command("export", "write pictures, heatmaps laid over them, and headers to a folder", _export)
    exporting.add_argument("ids", metavar="ID", type=_positive, nargs="*", help="or a filter")
    exporting.add_argument("--out", metavar="DIR", type=Path, required=True)
    _add_filters(exporting, None)
    pruning = command("prune", "remove the oldest frames", _prune)
    pruning.add_argument("--older-than", metavar="DAYS", type=_days)
    pruning.add_argument("--max-mib", metavar="N", type=_positive, help="until so much is left")
    pruning.add_argument("--dry-run", action="store_true", help="only say how many")
    return parser


def _add_filters(parser: argparse.ArgumentParser, limit: int | None) -> None:
    parser.add_argument("--camera", metavar="NAME")
    parser.add_argument(
        "--verdict",
        choices=("PASS", "FAIL", "INVALID", "DOUBTFUL"),
        help="DOUBTFUL: PASS above the warn threshold",
    )
    parser.add_argument(
        "--since", metavar="TIME", type=_time, help="such as 2026-11-23 or 2026-11-23T09:12:34Z"
    )
    parser.add_argument("--until", metavar="TIME", type=_time, help="and before this")
    parser.add_argument(
        "--limit",
        metavar="N",
        type=_positive,
        default=limit,
        help=f"at most so many (default: {limit or 'all'})",
    )


if __name__ == "__main__":
    sys.exit(main())
