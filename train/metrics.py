"""Image and pixel metrics of anomaly detection. Numpy in, numbers out.

Ground truth is True where anomalous. The mask rule (gt > 0.5 after resizing) is applied where masks are read.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating]

AUPRO_MAX_FPR = 0.3


def detection_metrics(truth: Bools, scores: Floats) -> dict[str, float]:
    """AUROC, average precision and the best F1 over all thresholds, of (n,) truths and scores.

    NaN where only one class is present.
    """
    if truth.all() or not truth.any():
        return {"auroc": float("nan"), "ap": float("nan"), "f1_max": float("nan")}
    precision, recall, _ = precision_recall_curve(truth, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return {
        "auroc": float(roc_auc_score(truth, scores)),
        "ap": float(average_precision_score(truth, scores)),
        "f1_max": float(f1.max()),
    }


def aupro(masks: Sequence[Bools], maps: Sequence[Floats], max_fpr: float = AUPRO_MAX_FPR) -> float:
    """Area under the per-region-overlap curve up to `max_fpr`, divided by `max_fpr`.

    masks, maps: one (h, w) an image. Bergmann et al., MVTec-AD (IJCV 2021): every connected region of the
    ground truth counts alike, whatever its size. Exact over all thresholds: pixels are sorted once, a good
    pixel adds to the false-positive rate, a pixel of a region of s pixels adds 1 / (s * regions) to the
    overlap. NaN without any region or any good pixel.
    """
    weights = []
    regions = 0
    for mask in masks:
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        regions += count - 1
        areas = stats[:, cv2.CC_STAT_AREA].astype(np.float64)
        areas[0] = np.inf  # the background belongs to no region
        weights.append((1 / areas)[labels].ravel())
    overlap_gain = np.concatenate(weights)
    good = overlap_gain == 0
    if regions == 0 or not good.any():
        return float("nan")
    scores = np.concatenate([values.ravel() for values in maps])
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # last pixel of each tied run
    fpr = np.concatenate([[0.0], np.cumsum(good[order])[ends] / good.sum()])
    overlap = np.concatenate([[0.0], np.cumsum(overlap_gain[order])[ends] / regions])
    inside = fpr <= max_fpr
    at_limit = np.interp(max_fpr, fpr, overlap)
    fpr, overlap = np.append(fpr[inside], max_fpr), np.append(overlap[inside], at_limit)
    return float(np.sum(np.diff(fpr) * (overlap[1:] + overlap[:-1]) / 2) / max_fpr)
