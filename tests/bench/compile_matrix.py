"""Does NVIDIA's compiler take the model in every shape? All of them in FP16, with TensorRT for RTX, on a CPU.

    python tests/bench/compile_matrix.py [--covering]

The default model, random weights: both methods, each choice of students, ViT-S and ViT-B, 224 and 392 px, batch 1
and 8. That is 40 and not 48, since SNL is the local student's and refuses the semantic one alone. `--covering` takes
only the few in which every value appears; they also come first, and the others mixed, so that a run that is cut short
has still seen something of everything. Prints a table; exit status 1 if one did not compile.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import tensorrt_rtx
from compiling import ALL, COVERING, Case, compile_case, random_detector
from dualkd.daemon.engine import EngineError
from dualkd.train.config import LocalConfig, SemanticConfig


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--covering", action="store_true", help="only a few, every value at least once")
    others = [] if parser.parse_args().covering else [case for case in ALL if case not in COVERING]
    random.Random(0).shuffle(others)
    cases = [*COVERING, *others]
    print(f"TensorRT for RTX {tensorrt_rtx.__version__}, FP16 graphs\n")
    print("| method | students | teacher | px | batch | graph MB | export s | plan MB | build s |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|", flush=True)
    refused = [case for case in cases if not _row(case)]
    print(f"\n{len(cases) - len(refused)} of {len(cases)} compiled")
    return 1 if refused else 0


def _row(case: Case) -> bool:
    """Print a row of the table; whether it compiled."""
    shape = f"| {case.method} | {case.students} | {case.teacher} | {case.side} | {case.max_batch} |"
    detector = random_detector(case, LocalConfig().blocks, SemanticConfig().blocks)
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = compile_case(tensorrt_rtx, case, detector, Path(folder))
        except EngineError as error:
            print(f"{shape} {error} | | | |", flush=True)
            return False
    megabytes = done.graph_bytes / 1e6, done.plan_bytes / 1e6
    print(
        f"{shape} {megabytes[0]:.0f} | {done.export_s:.1f} | {megabytes[1]:.0f} | {done.build_s:.1f} |",
        flush=True,
    )
    return True


if __name__ == "__main__":
    sys.exit(main())
