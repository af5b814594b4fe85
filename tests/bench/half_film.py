"""How far the FP16 graph is from the FP32 graph on every frame of a film, on ONNX Runtime's CPU.

    python tests/bench/half_film.py BUNDLE FILM [--every N]

BUNDLE holds both graphs (dualkd-export RUN --out BUNDLE --fp16 --onnx-only). Prints how many verdicts differ, and for
each distance the largest and the median difference, as a share of the distance itself and of its link's location
(of a usual part's distance; export's own measure). Exit status 1 if a verdict differs or a share passes 1e-3. ONNX
Runtime's CPU keeps sums and what lies between fused operators in float32, so this proves the graph and its rounded
weights, not a GPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from dualkd.daemon.bundle import load_bundle
from dualkd.daemon.decision import decide
from dualkd.daemon.engine import RawPrediction
from dualkd.daemon.engine_onnx import OnnxEngine
from dualkd.daemon.frames import to_model_size
from dualkd.export.parity import FP16


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("film", type=Path)
    parser.add_argument("--every", type=int, default=1, help="only every Nth frame")
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    calibration, size = bundle.manifest.calibration, bundle.manifest.input
    whole: list[RawPrediction] = []
    half: list[RawPrediction] = []
    with OnnxEngine.of(bundle) as reference, OnnxEngine.of(bundle, precision="fp16") as candidate:
        for frame in _frames(options.film, options.every, (size.height, size.width)):
            whole.append(reference.infer(frame))
            half.append(candidate.infer(frame))
    expected, found = RawPrediction.join(whole), RawPrediction.join(half)
    flips = sum(
        decide(one, calibration).outcome != decide(other, calibration).outcome
        for one, other in zip(expected.split(), found.split(), strict=True)
    )
    print(f"{len(whole)} frames, {flips} verdicts differ\n")
    print(
        "| difference of | as a share of | largest | median | frames over the limit |\n|---|---|---:|---:|---:|"
    )
    passed = not flips
    for name, link in (("d_local", calibration.local), ("d_semantic", calibration.semantic)):
        one, other = getattr(expected, name), getattr(found, name)
        if one is None or link is None:
            continue
        for what, unit in (("itself", one), ("its location", link.location)):
            off = np.abs(other.astype(np.float64) - one) / unit
            over = int((off > FP16.value).sum())
            print(f"| {name} | {what} | {off.max():.1e} | {np.median(off):.1e} | {over} |")
            passed = passed and not over
    return 0 if passed else 1


def _frames(film: Path, every: int, size: tuple[int, int]) -> Iterator[npt.NDArray[np.uint8]]:
    """The film's frames as the daemon would see them, each a batch of one."""
    capture = cv2.VideoCapture(str(film))
    index = 0
    while True:
        read, frame = capture.read()
        if not read:
            break
        if index % every == 0:
            yield to_model_size(np.asarray(frame, np.uint8), *size)[None]
        index += 1
    capture.release()
    if index == 0:
        raise SystemExit(f"{film}: no frame can be read")


if __name__ == "__main__":
    sys.exit(main())
