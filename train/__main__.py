"""The command dualkd-train."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from dualkd.configs.loader import ConfigError, dump, load
from dualkd.daemon.calibration import CalibrationError
from dualkd.daemon.frames import FrameError
from dualkd.train.checkpoint import RESUME_NAME, RUN_NAME, RunError
from dualkd.train.config import TrainConfig
from dualkd.train.datasets import DataError
from dualkd.train.detector import Detector
from dualkd.train.trainer import TrainingStopped, train
from dualkd.train.weights import WeightsError


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 a complete run, 1 training failed, 2 the configuration is wrong, 130 interrupted and saved."""
    parser = argparse.ArgumentParser(
        prog="dualkd-train", description="Train a detector from images of good parts."
    )
    parser.add_argument("config", type=Path, help="YAML file, see configs/train.yaml")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one key of the file"
    )
    parser.add_argument("--check", action="store_true", help="print the effective configuration and stop")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    parser.add_argument("--overwrite", action="store_true", help="replace a run that is already there")
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    try:
        config = load(options.config, TrainConfig, options.set)
        _check_networks(config)
        if options.check:
            print(dump(config), end="")
            return 0
        _check_device(config)
        _check_run_folder(Path(config.run), options.resume, options.overwrite)
        run = train(config, resume=options.resume)
    except ConfigError as error:
        print(f"dualkd-train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dualkd-train: interrupted; what was saved before stays", file=sys.stderr)
        return 130
    except TrainingStopped as stop:
        print(f"dualkd-train: {stop}", file=sys.stderr)
        return 130
    except (DataError, FrameError, WeightsError, RunError, CalibrationError) as error:
        print(f"dualkd-train: {error}", file=sys.stderr)
        return 1
    losses = ", ".join(f"{name} loss {value:.4f}" for name, value in run.losses.items())
    print(f"{config.run}: {run.steps_done} steps in {run.seconds:.0f} s, {losses}")
    print(f"next: dualkd-export {config.run} --out BUNDLE")
    return 0


def _check_networks(config: TrainConfig) -> None:
    """Build the detector without memory and weights: what no network can be built from ends here."""
    with torch.device("meta"):
        Detector(config)


def _check_device(config: TrainConfig) -> None:
    if config.training.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            ["training.device: got 'cuda', but torch sees no CUDA GPU here; set training.device: cpu"]
        )


def _check_run_folder(folder: Path, resume: bool, overwrite: bool) -> None:
    if resume and not (folder / RESUME_NAME).is_file():
        what = "is complete already" if (folder / RUN_NAME).is_file() else "holds nothing to resume"
        raise RunError(f"{folder} {what}; train without --resume")
    if not resume and not overwrite and (folder / RUN_NAME).is_file():
        raise RunError(f"{folder} already holds a run; set another run, or give --resume or --overwrite")


if __name__ == "__main__":
    sys.exit(main())
