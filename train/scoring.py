"""Trained runs on test images: the distances, hazard and verdict of every image, and the hazards of parts.

Decides with the daemon's own decision. Knows no metric and draws nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from dualkd.daemon.decision import Calibration, noisy_or_hazard
from dualkd.daemon.engine import RawPrediction
from dualkd.daemon.frames import to_model_size
from dualkd.train.checkpoint import Run, RunError, load_detector
from dualkd.train.datasets import GOOD, DataError, Sample, Task, read_samples
from dualkd.train.detector import ENCODE_BATCH, Detector, infer, join_outputs
from dualkd.train.results import Fusion
from torch import Tensor
from tqdm import tqdm

Bools = npt.NDArray[np.bool_]
Hazards = npt.NDArray[np.float64]

_FUSED: dict[Fusion, Callable[[Hazards], np.float64]] = {"max": np.max, "noisy-or": np.sum}


@dataclass(frozen=True, slots=True)
class Scored:
    """One run on the test images of one task. `score` is P; ranking uses its unsaturated form `hazard`."""

    folder: Path
    run: Run
    calibration: Calibration
    task: str  # its name; empty outside benchmarks
    samples: list[Sample]
    raw: RawPrediction  # of n images
    hazard: Hazards  # (n,)

    @property
    def anomalous(self) -> Bools:
        """The truth, (n,)."""
        return np.array([sample.kind != GOOD for sample in self.samples])

    @property
    def score(self) -> Hazards:
        """P = 1 - exp(-hazard), (n,)."""
        return probability(self.hazard)

    @property
    def failed(self) -> Bools:
        """The verdict: which images FAIL, (n,)."""
        return self.score > self.calibration.threshold


def probability(hazard: Hazards) -> Hazards:
    """P = 1 - exp(-hazard), of any shape."""
    return np.asarray(-np.expm1(-hazard), np.float64)


def score_run(folder: Path, task: Task, device: torch.device) -> Scored:
    """Score the test images of `task` with the run in `folder`. Raises RunError, WeightsError, DataError."""
    detector, run = load_detector(folder)
    size = (run.config.input.height, run.config.input.width)
    return judge(folder, run, task, _predict(detector.to(device), task, size, device))


def judge(folder: Path, run: Run, task: Task, raw: RawPrediction) -> Scored:
    """Turn the distances of the task's test images into hazards by the run's calibration. Raises RunError."""
    if run.calibration is None:
        raise RunError(f"{folder} has no calibration; train it to its end")
    hazard = noisy_or_hazard(run.calibration, raw.d_local, raw.d_semantic)
    if not np.isfinite(hazard).all():
        name = task.dataset.test[int(np.flatnonzero(~np.isfinite(hazard))[0])].name
        raise RunError(f"{folder}: the distance of {name} is not finite; the run is damaged or diverged")
    return Scored(folder, run, run.calibration, task.name, task.dataset.test, raw, hazard)


def fuse_parts(samples: Sequence[Sample], hazard: Hazards, fusion: Fusion) -> tuple[Bools, Hazards] | None:
    """The truth and hazard of each part that `samples` are views of, (p,) each; None if none names its part.

    A part is anomalous if any of its views is. max: as suspect as its most suspect view, so that it fails where
    a view fails. noisy-or: 1 - P of the part is the product of its views' 1 - P, which is the sum of hazards.
    """
    views: dict[tuple[str, str], list[int]] = {}
    for index, sample in enumerate(samples):
        if sample.part is not None:
            views.setdefault((sample.category, sample.part), []).append(index)
    if not views:
        return None
    anomalous = np.array([any(samples[i].kind != GOOD for i in indices) for indices in views.values()])
    return anomalous, np.array([_FUSED[fusion](hazard[indices]) for indices in views.values()])


def _predict(detector: Detector, task: Task, size: tuple[int, int], device: torch.device) -> RawPrediction:
    """Score all test images in batches; only one batch of pictures is held."""
    samples, name = task.dataset.test, task.name or task.dataset.name
    if not samples:
        raise DataError(f"{name}: has no test images")
    images = read_samples(samples)
    outputs: list[dict[str, Tensor]] = []
    with tqdm(total=len(samples), desc=f"score {name}", unit="image", disable=None) as progress:
        while batch := [to_model_size(image, *size) for image in islice(images, ENCODE_BATCH)]:
            outputs.append(infer(detector, torch.from_numpy(np.stack(batch)).to(device)))
            progress.update(len(batch))
    return join_outputs(outputs)
