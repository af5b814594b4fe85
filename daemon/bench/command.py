"""The command dualkd-bench: measure a bundle on this machine, beside what the machine could do at most."""

from __future__ import annotations

import argparse
import functools
import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import get_args, get_type_hints

import msgspec
from dualkd.daemon.__main__ import load_engine
from dualkd.daemon.bench.ceilings import CeilingError, Sampler, core_sampler
from dualkd.daemon.bench.plot import draw
from dualkd.daemon.bench.report import Host, Report, figures_of, floor_of, markdown, roof_of
from dualkd.daemon.bench.turns import Bench, measure
from dualkd.daemon.bundle import Bundle, BundleError, Precision
from dualkd.daemon.config import EngineConfig, RecipeConfig
from dualkd.daemon.engine import EngineError, Provider
from dualkd.daemon.recipes import RecipeError, RecipeLoader

BATCHES = (1, 2, 4, 8)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 measured, 1 the bundle, its engine or this machine does not allow it, 2 the command line."""
    parser = argparse.ArgumentParser(
        prog="dualkd-bench",
        description="Measure how fast a bundle runs on this machine, beside what the machine could do at most.",
    )
    parser.add_argument("bundle", type=Path)
    engines = get_args(get_type_hints(EngineConfig)["kind"])
    parser.add_argument("--engine", choices=engines, default="onnx", help="default onnx")
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32", help="default fp32")
    parser.add_argument(
        "--provider", choices=get_args(Provider), default="cpu", help="of ONNX Runtime, default cpu"
    )
    parser.add_argument("--threads", type=int, default=0, help="engine threads, 0 for one a core")
    parser.add_argument(
        "--batch",
        type=int,
        nargs="+",
        metavar="N",
        help="batch sizes (default: those of 1 2 4 8 that the bundle takes)",
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to measure (default 60)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for bench.json and bench.png")
    options = parser.parse_args(arguments)
    try:
        keys = {"precision": options.precision, "provider": options.provider, "threads": options.threads}
        config = msgspec.convert({"kind": options.engine, **keys}, EngineConfig)
    except msgspec.ValidationError as error:
        parser.error(str(error))
    if not 0 < options.seconds <= 86_400:
        parser.error(f"--seconds {options.seconds:g}: must be more than 0 and at most a day")
    command = shlex.join(["dualkd-bench", *(sys.argv[1:] if arguments is None else arguments)])
    try:
        report = _bench(options, config, command)
        print(markdown(report), end="")
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / "bench.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
            draw(report, options.out / "bench.png")
    except (BundleError, RecipeError, EngineError, CeilingError, OSError) as error:
        print(f"dualkd-bench: {error}", file=sys.stderr)
        return 1
    return 0


def _bench(options: argparse.Namespace, config: EngineConfig, command: str) -> Report:
    created_utc, host = datetime.now(timezone.utc).isoformat(timespec="seconds"), _host()
    loader = RecipeLoader(functools.partial(load_engine, config=config))
    try:
        recipe = loader.load("bench", RecipeConfig(bundle=str(options.bundle)))
        bundle, engine = recipe.bundle, recipe.engine
        manifest = bundle.manifest
        batches = _batches(options.batch, bundle)
        with _sampler(config, host.cores) as sampler:
            sample = None if sampler is None else sampler.sample
            turns, samples = measure(Bench(recipe, max(batches)), batches, options.seconds, sample, _tell)
    finally:
        _tell("")
        loader.keep_only([])
    work = next((graph.work for graph in manifest.graphs if graph.precision == config.precision), None)
    roof = None if sampler is None else roof_of(sampler.of, samples)
    return Report(
        created_utc=created_utc,
        command=command,
        bundle=manifest.name,
        bundle_sha256=bundle.sha256,
        teacher=manifest.teacher,
        students=manifest.students,
        input=manifest.input,
        precision=config.precision,
        engine=engine.description,
        threads=_threads(config, host.cores),
        host=host,
        work=work,
        roof=roof,
        batches=[
            figures_of(batch, turns[batch], floor_of(work, batch, roof) if work and roof else None)
            for batch in batches
        ],
    )


def _batches(asked: list[int] | None, bundle: Bundle) -> list[int]:
    most = bundle.manifest.max_batch
    if asked is None:
        return [batch for batch in BATCHES if batch <= most]
    wrong = [batch for batch in asked if not 1 <= batch <= most]
    if wrong:
        raise BundleError(
            f"--batch {wrong[0]}: {bundle.path} takes 1 to {most} frames at once; its run can be exported again "
            "with another --max-batch"
        )
    return sorted(set(asked))


def _threads(config: EngineConfig, cores: int) -> int | None:
    """Threads of an engine that runs on the cores, None for one that does not."""
    return (config.threads or cores) if (config.kind, config.provider) == ("onnx", "cpu") else None


def _sampler(config: EngineConfig, cores: int) -> AbstractContextManager[Sampler | None]:
    """What measures the ceilings of what this engine runs on; None if that is a GPU and pycuda is not here."""
    threads = _threads(config, cores)
    if threads is not None:
        return nullcontext(core_sampler(threads))
    if find_spec("pycuda") is None:
        return nullcontext(None)
    from dualkd.daemon.bench.gpu import CublasDevice, gpu_sampler  # a GPU's own, which a CPU need not read

    return gpu_sampler(CublasDevice(), config.precision)


def _host() -> Host:
    return Host(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        system=platform.platform(),
        python=platform.python_version(),
        load=os.getloadavg()[0],
    )


def _cpu() -> str:
    for file, pattern in (
        ("/proc/cpuinfo", r"^model name\s*: (.+)$"),
        ("/proc/device-tree/model", r"^([^\0]+)"),
    ):
        path = Path(file)
        found = (
            re.search(pattern, path.read_text("utf-8", "replace"), re.MULTILINE) if path.is_file() else None
        )
        if found:
            return found[1].strip()
    return platform.machine()


def _tell(progress: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{progress}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
