"""Metrics against scikit-learn and against slow, plain references."""

from __future__ import annotations

import math
from itertools import pairwise

import cv2
import numpy as np
import pytest
from dualkd.train.metrics import aupro, detection_metrics
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score


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
