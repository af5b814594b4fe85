"""Which good images train and which calibrate, and how they reach the device."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from dualkd.train.config import (
    DataConfig,
    InputConfig,
    LocalConfig,
    OptimConfig,
    SemanticConfig,
    TrainConfig,
)
from dualkd.train.datasets import DataError, Dataset, Sample
from dualkd.train.detector import Detector
from dualkd.train.images import EncodedImages, load_frames, open_frames, split_dataset, split_held_out
from torch.nn.functional import normalize

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
    """One image cannot both train and calibrate, and three are too few to calibrate on."""
    with pytest.raises(DataError, match="1 good images are too few"):
        split_held_out(SAMPLES[:1], config("folder"))
    with pytest.raises(
        DataError, match=r"tiles: 3 good images to calibrate on, but it takes 4; raise data\.hold_out"
    ):
        split_dataset(Dataset("tiles", SAMPLES[:12], []), config("folder"))


def test_what_a_data_set_itself_holds_out_is_what_calibrates() -> None:
    """Then all of its training images train."""
    assert split_dataset(Dataset("tiles", SAMPLES[:2], [], SAMPLES[2:7]), config("folder")) == (
        SAMPLES[:2],
        SAMPLES[2:7],
    )


@pytest.fixture
def pictures(tmp_path: Path) -> list[Sample]:
    rng = np.random.default_rng(0)
    samples = [Sample(f"{index}", tmp_path / f"{index}.png", "good") for index in range(7)]
    for sample in samples:
        cv2.imwrite(str(sample.path), rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    return samples


def test_images_beyond_the_memory_are_decoded_to_the_same_frames(pictures: list[Sample]) -> None:
    """In any order, in slices, and of every group; with room enough they are a tensor."""
    held, decoded = (open_frames([pictures[:5], pictures[5:]], (28, 42), mib) for mib in (1, 0))
    assert all(isinstance(group, torch.Tensor) for group in held)
    assert not any(isinstance(group, torch.Tensor) for group in decoded)
    for one, other in zip(held, decoded, strict=True):
        assert len(one) == len(other)
        assert one[1:3].equal(other[1:3])
        order = torch.tensor([1, 0, 1])
        assert one[order].equal(other[order])


def test_a_broken_image_is_found_when_the_frames_are_opened(pictures: list[Sample]) -> None:
    """Also where they are not kept, so that no step is spent."""
    pictures[6].path.write_bytes(pictures[6].path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"6\.png"):
        open_frames([pictures], (28, 42), 0)


def test_students_begin_with_what_the_teacher_says_of_good_images(pictures: list[Sample]) -> None:
    """A single prototype amid its patch tokens, and the mean of its unit global tokens, over all images."""
    torch.manual_seed(0)
    settings = TrainConfig(
        run="unused",
        data=DataConfig(root="x"),
        input=InputConfig(height=28, width=42),
        local=LocalConfig(blocks=[0, 1], depth=2, prototypes=1),
        semantic=SemanticConfig(blocks=[1], grid=2, depth=1, width=24, heads=3, side=28),
    )
    detector = Detector(settings).eval()
    frames = load_frames([*pictures, *pictures[:3]], (28, 42))  # more than the teacher takes at once
    images = EncodedImages(frames, detector, torch.device("cpu"), "float32", cache_mib=64)
    images.fit_beginnings(torch.Generator().manual_seed(0))
    assert detector.local is not None
    assert detector.local.prototypes is not None
    assert detector.semantic is not None
    tokens = detector.teacher(detector.normalise(frames))
    expected = normalize(tokens.global_tokens, dim=-1).mean(0)
    torch.testing.assert_close(detector.semantic.mean, expected, rtol=1e-3, atol=1e-4)
    units = normalize(tokens.patch_tokens.mean(1), dim=-1).flatten(0, 1)
    middle = normalize(units.mean(0, keepdim=True), dim=-1)
    torch.testing.assert_close(detector.local.prototypes.keys, middle, rtol=1e-3, atol=1e-4)


def test_batches_come_in_the_order_of_the_schedule_however_images_and_tokens_are_kept(
    pictures: list[Sample],
) -> None:
    """The images are the scheduled ones; tokens computed each time are the kept ones but for their rounding."""
    torch.manual_seed(0)
    settings = TrainConfig(
        run="unused",
        data=DataConfig(root="x"),
        students="local",
        input=InputConfig(height=28, width=42),
        local=LocalConfig(blocks=[0, 1], prototypes=0, depth=2),
    )
    detector = Detector(settings).eval()
    schedule = [torch.tensor(indices) for indices in ([3], [0, 6], [3, 1], [5], [2, 2, 2], [4])]
    size, device = (28, 42), torch.device("cpu")
    frames = load_frames(pictures, size)
    kept = EncodedImages(frames, detector, device, "float32", cache_mib=64)
    (decoded,) = open_frames([pictures], size, 0)
    computed = EncodedImages(decoded, detector, device, "float32", cache_mib=0)
    assert (kept.cached_mib > 0, computed.cached_mib) == (True, 0)
    served = zip(schedule, kept.batches(schedule), computed.batches(schedule), strict=True)
    for indices, (tokens, images), (fresh_tokens, fresh_images) in served:
        assert images.equal(detector.normalise(frames[indices]))
        assert images.equal(fresh_images)
        torch.testing.assert_close(tokens.patch_tokens, fresh_tokens.patch_tokens, rtol=2e-3, atol=2e-3)
