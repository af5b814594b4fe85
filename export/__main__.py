"""The command dualkd-export."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from dualkd.daemon.bundle import MANIFEST_NAME, BundleError
from dualkd.daemon.engine import EngineError
from dualkd.daemon.frames import FrameError
from dualkd.train.commands import say_what_is_missing


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 the bundle is written, 1 it is not and nothing was left behind, 2 the command line is wrong."""
    parser = argparse.ArgumentParser(
        prog="dualkd-export",
        description="Turn a trained run into a bundle, one folder that the daemon accepts.",
    )
    parser.add_argument(
        "source", type=Path, help="a run; or a bundle, to build its TensorRT plan on this machine"
    )
    parser.add_argument("--out", type=Path, help="folder of the bundle; an older bundle there is replaced")
    parser.add_argument(
        "--fp16", action="store_true", help="also write the mixed FP16 graph and its TensorRT plan"
    )
    parser.add_argument(
        "--onnx-only", action="store_true", help="with --fp16: write the graph, build no plan"
    )
    parser.add_argument("--max-batch", type=int, default=8, help="largest batch the graph takes (default 8)")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("dualkd").setLevel(logging.INFO)
    if options.max_batch < 1:
        parser.error(f"--max-batch {options.max_batch}: must be 1 or more")
    is_bundle = (options.source / MANIFEST_NAME).is_file()
    if not is_bundle and options.out is None:
        parser.error("--out BUNDLE is needed to export a run")
    try:
        if options.fp16 and not options.onnx_only:
            _refuse_plan(options.source, options.out)
        if is_bundle:
            raise BundleError(
                f"{options.source} is a bundle already; name a run, or give --fp16 to build its plan"
            )
        return _export(options.source, options.out, options.fp16, options.max_batch)
    except ModuleNotFoundError as error:
        return say_what_is_missing("dualkd-export", error)
    except (BundleError, EngineError) as error:
        print(f"dualkd-export: {error}", file=sys.stderr)
        return 1


def _refuse_plan(source: Path, out: Path | None) -> None:
    """Say why no TensorRT plan can be built here, and both ways on."""
    target = out or source
    raise EngineError(
        "--fp16 builds a TensorRT plan on the machine that will run it, and this version cannot build one yet. "
        f"Two ways on: add --onnx-only to write the mixed FP16 graph without a plan, or leave --fp16 away and "
        f"run the FP32 graph (engine.precision: fp32). Nothing was written to {target}"
    )


def _export(run_folder: Path, out: Path, fp16: bool, max_batch: int) -> int:
    # The training stack loads only here: building a plan from a bundle must work without torch.
    from dualkd.export.bundler import export_run
    from dualkd.export.parity import ParityError
    from dualkd.train.checkpoint import RunError
    from dualkd.train.datasets import DataError
    from dualkd.train.weights import WeightsError

    command = shlex.join(
        ["dualkd-export", str(run_folder), "--out", str(out), *(["--fp16", "--onnx-only"] if fp16 else [])]
    )
    try:
        manifest = export_run(run_folder, out, fp16=fp16, max_batch=max_batch, command=command)
    except (RunError, DataError, FrameError, WeightsError, ParityError) as error:
        print(f"dualkd-export: {error}", file=sys.stderr)
        return 1
    files = ", ".join(f"{graph.file} ({graph.precision})" for graph in manifest.graphs)
    print(
        f"{out}: {files}; parity with the trained model on {manifest.parity.frames} frames, no verdict differs"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
