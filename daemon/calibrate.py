"""The command dualkd-calibrate: set a bundle's threshold on the target, from new images of good parts.

Runs the bundle's own engine, so it needs no torch and no training data. With a region the pictures are cut as
the daemon cuts a camera's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from dualkd.daemon.bundle import BundleError, load_bundle, write_manifest
from dualkd.daemon.calibration import CalibrationError, describe, fit_calibration
from dualkd.daemon.config import RegionConfig
from dualkd.daemon.decision import Calibration
from dualkd.daemon.engine import EngineError, RawPrediction
from dualkd.daemon.engine_onnx import OnnxEngine
from dualkd.daemon.frames import FrameError, Image, crop, list_images, read_image, to_model_size


def main(arguments: Sequence[str] | None = None) -> int:
    """The command dualkd-calibrate."""
    parser = argparse.ArgumentParser(
        prog="dualkd-calibrate",
        description="Set a bundle's threshold from images of good parts, on the target.",
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--good", type=Path, required=True, help="folder of images of good parts, not used in training"
    )
    parser.add_argument(
        "--false-reject-rate", type=float, help="wanted share of good parts rejected (default: as before)"
    )
    parser.add_argument(
        "--region",
        type=_region,
        metavar="X,Y,W,H",
        help="the recipe's region, in pixels of the images (default: the whole picture)",
    )
    parser.add_argument("--threads", type=int, default=0, help="engine threads, 0 for one a core")
    options = parser.parse_args(arguments)
    try:
        calibration = _calibrate_bundle(
            options.bundle, options.good, options.false_reject_rate, options.region, options.threads
        )
    except (BundleError, EngineError, CalibrationError, FrameError) as error:
        print(f"dualkd-calibrate: {error}", file=sys.stderr)
        return 2
    print(describe(calibration))
    return 0


def _region(text: str) -> RegionConfig:
    numbers = [int(number) if number.isdecimal() else -1 for number in text.split(",")]
    if len(numbers) != 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not X,Y,W,H: four whole numbers of pixels")
    keys = dict(zip(RegionConfig.__struct_fields__, numbers, strict=True))
    try:
        return msgspec.convert(keys, RegionConfig)
    except msgspec.ValidationError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no region: {error}") from error


def _calibrate_bundle(
    path: Path, good: Path, rate: float | None, region: RegionConfig | None, threads: int
) -> Calibration:
    bundle = load_bundle(path)
    images = list_images(good) if good.is_dir() else []
    if not images:
        raise CalibrationError(f"{good}: no images there; give a folder of images of good parts")
    with OnnxEngine.of(bundle, threads=threads) as engine:
        outputs = []
        for number, image in enumerate(images, 1):
            outputs.append(engine.infer(_read_as_judged(image, region, engine.input_size)[None]))
            if sys.stderr.isatty():
                print(f"\r{number}/{len(images)} good parts", end="", file=sys.stderr, flush=True)
    rate = bundle.manifest.calibration.false_reject_rate if rate is None else rate
    calibration = fit_calibration(RawPrediction.join(outputs), rate)
    write_manifest(path, msgspec.structs.replace(bundle.manifest, calibration=calibration))
    return calibration


def _read_as_judged(path: Path, region: RegionConfig | None, size: tuple[int, int]) -> Image:
    image = read_image(path)
    try:
        return to_model_size(image if region is None else crop(image, region), *size)
    except FrameError as error:
        raise FrameError(f"{path}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
