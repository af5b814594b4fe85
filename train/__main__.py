"""The command dualkd-train."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
from dualkd.configs.loader import ConfigError, dump, load
from dualkd.daemon.calibration import CalibrationError
from dualkd.daemon.frames import FrameError
from dualkd.train.benchmarks.check import check_tasks
from dualkd.train.checkpoint import Run, RunError
from dualkd.train.commands import say
from dualkd.train.config import Benchmark, Protocol, TrainConfig
from dualkd.train.datasets import DataError
from dualkd.train.detector import Detector
from dualkd.train.distributed import RankError, Ranks
from dualkd.train.images import split_dataset
from dualkd.train.suite import left_to_train, plan_runs
from dualkd.train.trainer import TrainingStopped, train
from dualkd.train.weights import WeightsError

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 all runs complete, 1 training failed, 2 the configuration is wrong, 130 interrupted and saved."""
    parser = argparse.ArgumentParser(
        prog="dualkd-train", description="Train a detector from images of good parts."
    )
    parser.add_argument("config", type=Path, help="YAML file, see configs/train.yaml")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one key of the file"
    )
    parser.add_argument("--benchmark", choices=get_args(Benchmark), help="sets data.benchmark")
    parser.add_argument("--protocol", choices=get_args(Protocol), help="sets data.protocol")
    parser.add_argument("--classes", metavar="A,B", help="sets data.classes")
    parser.add_argument("--check", action="store_true", help="print the effective configuration and stop")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with an interrupted run; of several, skip the complete ones",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a run that is already there")
    options = parser.parse_args(arguments)
    ranks = Ranks.from_environment()
    logging.basicConfig(
        level=logging.INFO if ranks.first else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
    )
    try:
        config = load(options.config, TrainConfig, [*_benchmark_overrides(options), *options.set])
        _check_networks(config)
        if options.check:
            say(dump(config).removesuffix("\n"))
            return 0
        _check_device(config)
        planned = plan_runs(config)
        left = left_to_train(planned, resume=options.resume, overwrite=options.overwrite)
        for one in left:
            split_dataset(one.task.dataset, one.config)  # whether the images are enough
        check_tasks(one.task for one in left)
        with ranks.joined(config.training.device):
            for number, one in enumerate(planned, start=1):
                state = "" if one in left else " (complete already)"
                if len(planned) > 1:
                    log.info("task %d of %d: %s%s", number, len(planned), one.task.name, state)
                if one in left:
                    run = train(one.config, resume=options.resume and one.begun, ranks=ranks)
                    if ranks.first:
                        _report(run)
        if len(planned) > 1 and ranks.first:
            say(f"next: dualkd-eval {config.run}, for all of them together")
    except ConfigError as error:
        print(f"dualkd-train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dualkd-train: interrupted; what was saved before stays", file=sys.stderr)
        return 130
    except TrainingStopped as stop:
        if ranks.first:
            print(f"dualkd-train: {stop}", file=sys.stderr)
        return 130
    except (DataError, FrameError, WeightsError, RunError, CalibrationError, RankError) as error:
        who = "dualkd-train" if ranks.first else f"dualkd-train (rank {ranks.rank})"
        print(f"{who}: {error}", file=sys.stderr)
        return 1
    return 0


def _benchmark_overrides(options: argparse.Namespace) -> list[str]:
    """--benchmark, --protocol and --classes as overrides of the configuration's keys."""
    values = {"benchmark": options.benchmark, "protocol": options.protocol}
    values["classes"] = options.classes.split(",") if options.classes else None
    return [f"data.{key}={json.dumps(value)}" for key, value in values.items() if value is not None]


def _report(run: Run) -> None:
    losses = ", ".join(f"{name} loss {value:.4f}" for name, value in run.losses.items())
    say(f"{run.config.run}: {run.steps_done} steps in {run.seconds:.0f} s, {losses}")
    if run.stopped_early is not None:
        say(f"stopped early after step {run.stopped_early.step}: {run.stopped_early.reason}")
    say(f"next: dualkd-export {run.config.run} --out BUNDLE")


def _check_networks(config: TrainConfig) -> None:
    """Build the detector without memory and weights: what no network can be built from ends here."""
    with torch.device("meta"):
        Detector(config)


def _check_device(config: TrainConfig) -> None:
    if config.training.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            ["training.device: got 'cuda', but torch sees no CUDA GPU here; set training.device: cpu"]
        )


if __name__ == "__main__":
    sys.exit(main())
