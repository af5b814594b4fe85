"""Metrics against scikit-learn and against slow, plain references."""

from __future__ import annotations

import math
from itertools import pairwise

import cv2
import numpy as np
import pytest
from dualkd.train.metrics import PixelHistogram, detection_curves, detection_metrics
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    jaccard_score,
    precision_score,
    recall_score,
    roc_auc_score,
)


def histogram_of(masks: list[np.ndarray], maps: list[np.ndarray]) -> PixelHistogram:
    histogram = PixelHistogram(min(m.min() for m in maps), max(m.max() for m in maps))
    for mask, values in zip(masks, maps, strict=True):
        histogram.add(mask, values)
    return histogram


def aupro(masks: list[np.ndarray], maps: list[np.ndarray], max_fpr: float = 0.3) -> float:
    return histogram_of(masks, maps).aupro(max_fpr)


def made_pixels(side: int, rounded: int | None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Masks of a few discs, and noisy maps that are higher there; `rounded` to so many digits makes ties."""
    rng = np.random.default_rng(5)
    masks, maps = [], []
    for _ in range(5):
        canvas = np.zeros((side, side), np.uint8)
        for centre in rng.integers(0, side, (2, 2)).tolist():
            cv2.circle(canvas, centre, side // 8, 1, -1)
        masks.append(canvas > 0)
        values = (rng.random((side, side)) + 0.4 * masks[-1]).astype(np.float32)
        maps.append(values if rounded is None else np.round(values, rounded))
    return masks, maps


def slow_aupro(masks: list[np.ndarray], maps: list[np.ndarray], max_fpr: float) -> float:
    """The definition, threshold by threshold."""
    points = [(0.0, 0.0)]
    for threshold in sorted({float(v) for m in maps for v in m.ravel()}, reverse=True):
        overlaps, false, good = [], 0, 0
        for mask, values in zip(masks, maps, strict=True):
            count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
            overlaps += [float((values[labels == region] >= threshold).mean()) for region in range(1, count)]
            false += int((values[~mask] >= threshold).sum())
            good += int((~mask).sum())
        points.append((false / good, float(np.mean(overlaps))))
    fpr, overlap = np.array(points).T
    grid = np.unique(np.append(fpr[fpr <= max_fpr], max_fpr))
    area = 0.0
    for left, right in pairwise(grid):
        high_left, low_right = overlap[fpr == left].max(initial=-1), overlap[fpr == right].min(initial=2)
        if high_left < 0:
            high_left = np.interp(left, fpr, overlap)
        if low_right > 1:
            low_right = np.interp(right, fpr, overlap)
        area += (right - left) * (high_left + low_right) / 2
    return area / max_fpr


@pytest.mark.parametrize("rounded", [None, 2, 0])
def test_pixel_metrics_agree_with_scikit_learn(rounded: int | None) -> None:
    """What is counted by level, image by image, gives what all pixels at once give; also where maps tie."""
    masks, maps = made_pixels(96, rounded)
    truth, scores = np.concatenate(masks).ravel(), np.concatenate(maps).ravel()
    got = detection_metrics(*histogram_of(masks, maps).weighted())
    assert got["auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-6)
    assert got["ap"] == pytest.approx(average_precision_score(truth, scores), abs=1e-6)
    assert got["f1_max"] == pytest.approx(detection_metrics(truth, scores)["f1_max"], abs=1e-6)


def test_counts_of_several_histograms_add_up() -> None:
    """The good images and each kind are counted apart and put together for the class."""
    masks, maps = made_pixels(32, None)
    low, high = min(m.min() for m in maps), max(m.max() for m in maps)
    halves = [PixelHistogram(low, high), PixelHistogram(low, high)]
    for index, (mask, values) in enumerate(zip(masks, maps, strict=True)):
        halves[index % 2].add(mask, values)
    halves[0].merge(halves[1])
    whole = histogram_of(masks, maps)
    assert halves[0].aupro() == pytest.approx(whole.aupro())
    assert detection_metrics(*halves[0].weighted()) == pytest.approx(detection_metrics(*whole.weighted()))


@pytest.mark.parametrize("threshold", [0.9, 0.2, -1.0, 5.0])
def test_figures_at_a_threshold_agree_with_scikit_learn(threshold: float) -> None:
    """F1, IoU, precision and recall of what exceeds the threshold, also where that is everything or nothing."""
    masks, maps = made_pixels(48, 2)
    truth, found = np.concatenate(masks).ravel(), np.concatenate(maps).ravel() > threshold
    got = histogram_of(masks, maps).above(threshold)
    assert got["f1"] == pytest.approx(f1_score(truth, found, zero_division=0), abs=1e-6)
    assert got["iou"] == pytest.approx(jaccard_score(truth, found, zero_division=0), abs=1e-6)
    assert got["recall"] == pytest.approx(recall_score(truth, found), abs=1e-6)
    if found.any():
        assert got["precision"] == pytest.approx(precision_score(truth, found), abs=1e-6)
    else:
        assert math.isnan(got["precision"])


def test_coco_ad_figures_are_means_over_seven_thresholds_of_the_scaled_map() -> None:
    """mF1, mAcc and mIoU as in their source: lowest value 0, highest 1, pixels pooled, thresholds 0.2 to 0.8."""
    masks, maps = made_pixels(64, None)
    truth, scores = np.concatenate(masks).ravel(), np.concatenate(maps).ravel()
    scaled = (scores - scores.min()) / (scores.max() - scores.min())
    cuts = [scaled > 0.2 + 0.1 * step for step in range(7)]
    histogram = PixelHistogram(scores.min() - 0.5, scores.max() + 0.7)  # only what occurs sets the scale
    for mask, values in zip(masks, maps, strict=True):
        histogram.add(mask, values)
    got = histogram.coco_ad()
    assert got["mf1"] == pytest.approx(np.mean([f1_score(truth, cut) for cut in cuts]), abs=1e-4)
    assert got["macc"] == pytest.approx(np.mean([recall_score(truth, cut) for cut in cuts]), abs=1e-4)
    assert got["miou"] == pytest.approx(np.mean([jaccard_score(truth, cut) for cut in cuts]), abs=1e-4)


def test_a_constant_map_ranks_nothing() -> None:
    """Every pixel ties: AUROC one half, AP the share of anomalous pixels, AUPRO the chance diagonal."""
    masks = [np.zeros((10, 10), bool)]
    masks[0][:2, :5] = True
    histogram = histogram_of(masks, [np.full((10, 10), 0.25, np.float32)])
    got = detection_metrics(*histogram.weighted())
    assert got["auroc"] == pytest.approx(0.5)
    assert got["ap"] == pytest.approx(0.1)
    assert histogram.aupro(0.3) == pytest.approx(0.15)


def test_curves_have_the_areas_of_the_metrics() -> None:
    """The drawn ROC and precision-recall curves are those that AUROC and average precision measure."""
    rng = np.random.default_rng(2)
    truth = rng.random(3000) < 0.2
    scores = np.round(rng.normal(size=3000) + truth, 1)
    curves, metrics = detection_curves(truth, scores), detection_metrics(truth, scores)
    assert curves is not None
    assert curves.tpr.mean() == pytest.approx(metrics["auroc"], abs=5e-3)
    assert curves.precision.mean() == pytest.approx(metrics["ap"], abs=5e-3)
    assert detection_curves(np.ones(3, bool), np.arange(3.0)) is None


def test_aupro_agrees_with_a_plain_reference() -> None:
    """Sorting all pixels once gives what going through every threshold gives."""
    rng = np.random.default_rng(3)
    masks = [np.zeros((16, 20), bool) for _ in range(4)]
    masks[0][2:6, 3:9] = True
    masks[1][10:12, 1:3] = True
    masks[1][3:9, 12:18] = True  # a second region in the same image counts alone
    maps = [np.round(rng.random(m.shape) + 0.7 * m, 2) for m in masks]  # rounding makes ties
    assert aupro(masks, maps) == pytest.approx(slow_aupro(masks, maps, 0.3), abs=1e-4)


def test_aupro_of_a_perfect_map_is_one_and_of_none_is_undefined() -> None:
    """The ends of the scale."""
    mask = np.zeros((8, 8), bool)
    mask[2:4, 2:4] = True
    assert aupro([mask], [mask.astype(float)]) == pytest.approx(1.0)
    assert math.isnan(aupro([np.zeros((8, 8), bool)], [np.zeros((8, 8))]))


def test_a_large_region_does_not_outweigh_a_small_one() -> None:
    """AUPRO counts regions alike: missing the small one of two costs half."""
    mask = np.zeros((40, 40), bool)
    mask[:20, :20] = True
    mask[30:32, 30:32] = True
    found = np.zeros((40, 40))
    found[:20, :20] = 1.0
    assert aupro([mask], [found], max_fpr=0.3) == pytest.approx(0.5 + 0.5 * 0.15, abs=0.01)


def test_detection_metrics_agree_with_scikit_learn() -> None:
    """AUROC, AP and the best F1 over all thresholds."""
    rng = np.random.default_rng(0)
    truth = rng.random(200) < 0.3
    scores = np.round(rng.normal(size=200) + truth, 1)
    got = detection_metrics(truth, scores)
    assert got["auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-6)
    assert got["ap"] == pytest.approx(average_precision_score(truth, scores), abs=1e-6)
    best = max(f1_score(truth, scores >= threshold) for threshold in np.unique(scores))
    assert got["f1_max"] == pytest.approx(best, abs=1e-6)


def test_one_class_alone_has_no_metric() -> None:
    """No number is invented where there is nothing to compare."""
    assert math.isnan(detection_metrics(np.zeros(3, bool), np.arange(3.0))["auroc"])
