"""The command dualkd-export."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from dualkd.daemon.bundle import (
    MANIFEST_NAME,
    BundleError,
    GraphFile,
    Parity,
    PlanFile,
    Precision,
    load_bundle,
)
from dualkd.daemon.engine import EngineError
from dualkd.daemon.frames import FrameError
from dualkd.export.parity import ParityError
from dualkd.export.plans import PlanBuilder, gate_frames, verify
from dualkd.export.tensorrt_engine import BuildSettings
from dualkd.train.commands import say, say_what_is_missing


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 refused and nothing was changed or left behind, 2 the command line is wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("dualkd").setLevel(logging.INFO)
    if options.max_batch < 1:
        parser.error(f"--max-batch {options.max_batch}: must be 1 or more")
    plans: list[Precision] = [name for name in get_args(Precision) if getattr(options, name)]
    is_bundle = (options.source / MANIFEST_NAME).is_file()
    if is_bundle:
        for name, value in (("--out", options.out), ("--onnx-only", options.onnx_only)):
            if value:
                parser.error(f"{name} is for a run, and {options.source} is a bundle already")
    elif options.out is None:
        parser.error("--out BUNDLE is needed to export a run")
    elif options.verify is not None:
        parser.error("--verify is for a bundle; a run is compared on the parts it held out")
    command = shlex.join(["dualkd-export", *arguments])
    try:
        if options.onnx_only:
            plans = []
        builder = _builder(options, command) if plans else None
        if not is_bundle:
            return _export(options, command, builder, plans)
        if builder is not None:
            return _build(options.source, options.verify, builder, plans)
        if options.verify is not None:
            return _verify(options.source, options.verify)
        raise BundleError(
            f"{options.source} is a bundle already; name a run, or give --fp16 or --fp32 to build its plan for this "
            "machine, or --verify DIR to compare what it holds with its FP32 graph"
        )
    except ModuleNotFoundError as error:
        return say_what_is_missing("dualkd-export", error)
    except (BundleError, EngineError, FrameError, ParityError) as error:
        print(f"dualkd-export: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("dualkd-export: interrupted; nothing was changed", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dualkd-export",
        description="Turn a trained run into a bundle, one folder that the daemon accepts; or give a bundle the "
        "TensorRT plan of the machine that this runs on.",
    )
    parser.add_argument(
        "source", type=Path, help="a run; or a bundle, to build its TensorRT plan on this machine"
    )
    parser.add_argument("--out", type=Path, help="folder of the bundle; an older bundle there is replaced")
    parser.add_argument(
        "--fp16",
        action="store_true",
        help="also the mixed FP16 graph, and its TensorRT plan for this machine",
    )
    parser.add_argument(
        "--fp32", action="store_true", help="also the TensorRT plan of the FP32 graph for this machine"
    )
    parser.add_argument("--onnx-only", action="store_true", help="of a run: write the graphs, build no plan")
    parser.add_argument(
        "--attention",
        choices=get_args(Precision),
        default="fp16",
        help="of a run, with --fp16: fp32 keeps attention in float32, slower, where half precision is not enough",
    )
    parser.add_argument(
        "--verify",
        type=Path,
        metavar="DIR",
        help="of a bundle: compare its FP16 graph, and its plan for this machine, with its FP32 graph on the pictures "
        "in DIR; with --fp16 or --fp32, the plan just built, before it goes into the bundle",
    )
    parser.add_argument("--max-batch", type=int, default=8, help="largest batch the graph takes (default 8)")
    parser.add_argument(
        "--workspace-mib", type=int, help="GPU memory a layer of the plan may use (default: all there is)"
    )
    parser.add_argument(
        "--optimisation-level",
        type=int,
        choices=range(6),
        default=3,
        help="of the plan: 0 builds fastest, 5 may run fastest (default 3)",
    )
    parser.add_argument(
        "--timing-cache",
        type=Path,
        metavar="FILE",
        help="where TensorRT keeps its measurements between builds",
    )
    return parser


def _builder(options: argparse.Namespace, command: str) -> PlanBuilder:
    """What builds plans here. Raises EngineError that says why none can be built, and both ways on."""
    settings = BuildSettings(
        workspace_mib=options.workspace_mib,
        optimisation_level=options.optimisation_level,
        timing_cache=options.timing_cache,
    )
    try:
        return PlanBuilder.here(settings, command)
    except EngineError as error:
        raise EngineError(
            f"{error}. A TensorRT plan is built on the machine that will run it. Two ways on: write the graphs "
            "here (of a run: --fp16 --onnx-only) and run dualkd-export BUNDLE --fp16 over there; or leave --fp16 "
            "and --fp32 away and run the FP32 graph (engine.kind: onnx, engine.precision: fp32). Nothing was written"
        ) from error


def _build(path: Path, parts: Path | None, builder: PlanBuilder, plans: Sequence[Precision]) -> int:
    """Give the bundle its plans for this machine; needs no torch."""
    for precision in plans:
        bundle = load_bundle(path)
        plan = builder.add(bundle, precision, gate_frames(bundle, parts))
        say(f"{path}: {plan.file} for {plan.machine.gpu_name}: {_parity_line(plan.parity)}")
    return 0


def _verify(path: Path, parts: Path) -> int:
    bundle, compared = load_bundle(path), 0
    for name, parity in verify(bundle, lambda: gate_frames(bundle, parts)):
        say(f"{path}: {name}: {_parity_line(parity)}")
        compared += 1
    if not compared:
        raise BundleError(
            f"{path} holds its FP32 graph alone, so there is nothing to compare with it; "
            "export the run with --fp16, or build a plan with --fp32"
        )
    return 0


def _parity_line(parity: Parity) -> str:
    """One line: how far from the FP32 graph."""
    figures = {
        "d_local": parity.max_difference_local,
        "d_semantic": parity.max_difference_semantic,
        "map": parity.max_difference_map,
    }
    off = ", ".join(f"{name} off by {value:.1e}" for name, value in figures.items() if value is not None)
    cosine = (
        "" if parity.least_cosine_map is None else f", least cosine of a map {parity.least_cosine_map:.6f}"
    )
    return f"{parity.frames} frames, {off} (relative){cosine}, no verdict differs"


def _export(
    options: argparse.Namespace, command: str, builder: PlanBuilder | None, plans: Sequence[Precision]
) -> int:
    # The training stack loads only here: building a plan from a bundle must work without torch.
    from dualkd.export.bundler import export_run
    from dualkd.export.fp16_range import RangeError
    from dualkd.train.checkpoint import RunError
    from dualkd.train.datasets import DataError
    from dualkd.train.weights import WeightsError

    try:
        manifest = export_run(
            options.source,
            options.out,
            fp16=options.fp16,
            max_batch=options.max_batch,
            command=command,
            attention=options.attention,
            builder=builder,
            plans=plans,
        )
    except (RunError, DataError, WeightsError, RangeError) as error:
        print(f"dualkd-export: {error}", file=sys.stderr)
        return 1
    parts: list[GraphFile | PlanFile] = [*manifest.graphs, *manifest.plans]
    files = ", ".join(f"{part.file} ({part.precision})" for part in parts)
    say(
        f"{options.out}: {files}; parity with the trained model on {manifest.parity.frames} frames, no verdict differs"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
