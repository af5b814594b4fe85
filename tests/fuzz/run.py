"""The coverage-guided run: every reader of bytes, each in a process of its own; prints a table. Needs atheris.

    python tests/fuzz/run.py                             a million inputs and more, about half an hour
    python tests/fuzz/run.py config --runs 20000         one target

A finding is an input that breaks what targets.py promises: it is kept, and the command that repeats it told.
Ends with 1 if there is one.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for fakes and fuzz
from fuzz.targets import TARGETS, Target

FINDINGS = Path("build/fuzz")
ONE = Path(__file__).with_name("one.py")
SECONDS_AN_INPUT = 10
MEMORY_MIB = 2048


@dataclass(frozen=True)
class Outcome:
    """What became of one target."""

    inputs: int
    seconds: float
    coverage: int  # edges of the Python code, as atheris counts them
    memory_mib: int  # at its peak
    finding: Path | None
    log: Path


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Coverage-guided fuzzing of all that reads bytes from outside."
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("--runs", type=int, help="inputs for each target (default: its own number)")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations (default: %(default)s)")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.targets if name not in TARGETS]
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}; targets: {', '.join(TARGETS)}")
    FINDINGS.mkdir(parents=True, exist_ok=True)
    print(
        "| target | inputs | seconds | coverage | peak MiB | findings |\n|---|---|---|---|---|---|",
        flush=True,
    )
    outcomes = []
    for name in arguments.targets or TARGETS:
        outcome = _fuzz(name, TARGETS[name], arguments.runs or TARGETS[name].runs, arguments.seed)
        outcomes.append(outcome)
        found = "none" if outcome.finding is None else str(outcome.finding)
        print(
            f"| {name} | {outcome.inputs:,} | {outcome.seconds:.0f} | {outcome.coverage} "
            f"| {outcome.memory_mib} | {found} |",
            flush=True,
        )
        if outcome.finding is not None:
            print(f"    {sys.executable} {ONE} {name} {outcome.finding}    (log: {outcome.log})", flush=True)
    print(f"{sum(outcome.inputs for outcome in outcomes):,} inputs")
    return int(any(outcome.finding is not None for outcome in outcomes))


def _fuzz(name: str, target: Target, runs: int, seed: int) -> Outcome:
    shared = Path("/dev/shm")
    log = FINDINGS / f"{name}.log"
    with tempfile.TemporaryDirectory(
        prefix="dualkd-fuzz-", dir=shared if shared.is_dir() else None
    ) as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        words = set()
        for index, raw in enumerate(target.seeds()):
            (corpus / f"{index:04}").write_bytes(raw)
            words.update(re.findall(rb"[A-Za-z_][A-Za-z0-9_]{2,24}", raw))
        dictionary = Path(folder) / "words"
        dictionary.write_text("".join(f'"{word.decode()}"\n' for word in sorted(words)))
        before = set(FINDINGS.iterdir())
        began = time.monotonic()
        with log.open("wb") as output:
            ended = subprocess.run(
                [
                    sys.executable, str(ONE), name, str(corpus), f"-runs={runs}", f"-seed={seed}",
                    f"-max_len={target.max_bytes}", f"-timeout={SECONDS_AN_INPUT}", "-print_final_stats=1",
                    f"-rss_limit_mb={MEMORY_MIB}", f"-dict={dictionary}", f"-artifact_prefix={FINDINGS / name}-",
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": folder},
                check=False,
            )  # fmt: skip
        seconds = time.monotonic() - began
    told = log.read_text(errors="replace")
    kept = sorted(set(FINDINGS.iterdir()) - before - {log})
    finding = kept[0] if kept else (log if ended.returncode else None)
    return Outcome(
        inputs=_last(r"stat::number_of_executed_units:\s*(\d+)", told) or _last(r"^#(\d+)", told),
        seconds=seconds,
        coverage=_last(r"cov: (\d+)", told),
        memory_mib=_last(r"stat::peak_rss_mb:\s*(\d+)", told),
        finding=finding,
        log=log,
    )


def _last(pattern: str, text: str) -> int:
    found = re.findall(pattern, text, re.MULTILINE)
    return int(found[-1]) if found else 0


if __name__ == "__main__":
    sys.exit(main())
