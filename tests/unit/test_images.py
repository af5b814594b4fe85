"""Which good images train, and which calibrate."""

from __future__ import annotations

from pathlib import Path

import pytest
from dualkd.train.config import DataConfig, OptimConfig, TrainConfig
from dualkd.train.datasets import DataError, Sample
from dualkd.train.images import split_held_out

SAMPLES = [Sample(f"{index}", Path("x"), "good", index=index) for index in range(20)]


def config(layout: str, seed: int = 0) -> TrainConfig:
    data = DataConfig(root="x", layout=layout, hold_out=0.25)  # type: ignore[arg-type]
    return TrainConfig(run="unused", data=data, training=OptimConfig(seed=seed))


def test_images_are_held_out_at_random_by_the_seed() -> None:
    """A quarter of them, none on both sides, the same ones for the same seed and others for another."""
    training, held_out = split_held_out(SAMPLES, config("folder"))
    assert (len(training), len(held_out)) == (15, 5)
    assert sorted([*training, *held_out], key=SAMPLES.index) == SAMPLES
    assert split_held_out(SAMPLES, config("folder")) == (training, held_out)
    assert split_held_out(SAMPLES, config("folder", seed=1))[1] != held_out


def test_of_a_film_the_last_frames_are_held_out() -> None:
    """A frame between two training frames is hardly unseen."""
    training, held_out = split_held_out(SAMPLES, config("video"))
    assert (training, held_out) == (SAMPLES[:15], SAMPLES[15:])


def test_too_few_images_are_refused() -> None:
    """One image cannot both train and calibrate."""
    with pytest.raises(DataError, match="1 good images are too few"):
        split_held_out(SAMPLES[:1], config("folder"))
