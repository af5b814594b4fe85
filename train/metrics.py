"""Image and pixel metrics of anomaly detection. Numpy in, numbers out.

Ground truth is True where anomalous; what has no value (one class alone, no mask) is NaN. The mask rule
(gt > 0.5 after resizing) is applied where masks are read.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating]
Counts = npt.NDArray[np.int64]

AUPRO_MAX_FPR = 0.3
LEVELS = 2**20  # of a map's range, equally spaced; maps agree with their exact values to a millionth of it
COCO_AD_CUTS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
CURVE_POINTS = 501


def detection_metrics(truth: Bools, scores: Floats, weights: Counts | None = None) -> dict[str, float]:
    """AUROC, average precision and the best F1 over all thresholds, of (n,) truths and scores.

    `weights` (n,): how often each pair occurs. NaN where only one class is present.
    """
    if truth.all() or not truth.any():
        return {"auroc": float("nan"), "ap": float("nan"), "f1_max": float("nan")}
    precision, recall, _ = precision_recall_curve(truth, scores, sample_weight=weights)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return {
        "auroc": float(roc_auc_score(truth, scores, sample_weight=weights)),
        "ap": float(average_precision_score(truth, scores, sample_weight=weights)),
        "f1_max": float(f1.max()),
    }


class Curves(NamedTuple):
    """ROC and precision-recall curve over one grid of CURVE_POINTS from 0 to 1, so that they can be averaged."""

    tpr: Floats  # at each false-positive rate of the grid
    precision: Floats  # at each recall of the grid


def detection_curves(truth: Bools, scores: Floats, weights: Counts | None = None) -> Curves | None:
    """The curves behind `detection_metrics`; None where only one class is present.

    The precision at a recall is that of the highest threshold that reaches it, as average precision counts it;
    scikit-learn's point (recall 0, precision 1), which belongs to no threshold, is left out.
    """
    if truth.all() or not truth.any():
        return None
    grid = np.linspace(0, 1, CURVE_POINTS)
    fpr, tpr, _ = roc_curve(truth, scores, sample_weight=weights)
    precision, recall, _ = precision_recall_curve(truth, scores, sample_weight=weights)
    recall, precision = recall[-2::-1], precision[-2::-1]
    return Curves(np.interp(grid, fpr, tpr), precision[np.searchsorted(recall, grid - 1e-9)])


def overlap_metrics(hits: int, predicted: int, anomalous: int) -> dict[str, float]:
    """F1, intersection over union, precision and recall of `predicted` pixels, `hits` of them anomalous."""
    union = predicted + anomalous - hits
    return {
        "f1": 2 * hits / (predicted + anomalous) if anomalous else float("nan"),
        "iou": hits / union if anomalous else float("nan"),
        "precision": hits / predicted if predicted else float("nan"),
        "recall": hits / anomalous if anomalous else float("nan"),
    }


class PixelHistogram:
    """How many good and how many anomalous pixels lie at each of LEVELS levels of the anomaly map.

    All pixel metrics follow from it, and it does not grow with the number of images: neither maps nor masks
    are kept and nothing of the size of all pixels is sorted. It takes 24 MiB.
    """

    def __init__(self, low: float, high: float) -> None:
        """low, high: the range of the maps; what lies outside counts as its end."""
        self.low, self.high = low, high
        self._step = max(high - low, 1e-12) / (LEVELS - 1)
        self.good = np.zeros(LEVELS, np.int64)
        self.bad = np.zeros(LEVELS, np.int64)
        self._overlap = np.zeros(LEVELS)  # sum over regions of the share of the region at each level
        self._regions = 0

    def add(self, mask: Bools, anomaly_map: Floats) -> None:
        """Count the pixels of one image; mask and anomaly_map are (h, w)."""
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        levels = self._level(anomaly_map)
        np.add.at(self.good, levels[~mask], 1)
        np.add.at(self.bad, levels[mask], 1)
        np.add.at(self._overlap, levels[mask], 1 / stats[labels[mask], cv2.CC_STAT_AREA])
        self._regions += count - 1

    def merge(self, other: PixelHistogram) -> None:
        """Add the counts of a histogram over the same range."""
        self.good += other.good
        self.bad += other.bad
        self._overlap += other._overlap
        self._regions += other._regions

    def weighted(self) -> tuple[Bools, Floats, Counts]:
        """All pixels as (truth, score, weight) for `detection_metrics`: one entry a level and class that occurs."""
        good, bad = np.flatnonzero(self.good), np.flatnonzero(self.bad)
        truth = np.repeat([False, True], [len(good), len(bad)])
        scores = np.concatenate([good, bad]).astype(np.float64)
        return truth, scores, np.concatenate([self.good[good], self.bad[bad]])

    def aupro(self, max_fpr: float = AUPRO_MAX_FPR) -> float:
        """Area under the per-region-overlap curve up to `max_fpr`, divided by `max_fpr`.

        Bergmann et al., MVTec-AD (IJCV 2021): every connected region (8 neighbours) of the ground truth counts
        alike, whatever its size. Over all thresholds: from the highest level down, a good pixel adds to the
        false-positive rate, a pixel of a region of s pixels adds 1 / (s * regions) to the overlap. NaN without
        any region or any good pixel.
        """
        if not self._regions or not self.good.any():
            return float("nan")
        occupied = np.flatnonzero(self.good + self.bad)[::-1]
        fpr = np.append(0.0, np.cumsum(self.good[occupied]) / self.good.sum())
        overlap = np.append(0.0, np.cumsum(self._overlap[occupied]) / self._regions)
        inside = fpr <= max_fpr
        at_limit = np.interp(max_fpr, fpr, overlap)
        fpr, overlap = np.append(fpr[inside], max_fpr), np.append(overlap[inside], at_limit)
        return float(np.sum(np.diff(fpr) * (overlap[1:] + overlap[:-1]) / 2) / max_fpr)

    def above(self, threshold: float) -> dict[str, float]:
        """F1, IoU, precision and recall of the pixels whose map exceeds `threshold`."""
        return self._above_level(np.rint((threshold - self.low) / self._step))

    def coco_ad(self) -> dict[str, float]:
        """mf1, macc, miou: F1, recall and IoU averaged over the thresholds 0.2, 0.3 .. 0.8 of the map.

        Zhang et al., COCO-AD (arXiv 2404.10760), as their code (ADer) counts: the map is scaled so that the
        lowest and the highest value of all counted pixels are 0 and 1, and pixels of all images are pooled.
        """
        occupied = np.flatnonzero(self.good + self.bad)
        low, high = (occupied[0], occupied[-1]) if len(occupied) else (0, 0)
        cuts = [self._above_level(low + cut * (high - low)) for cut in COCO_AD_CUTS]
        names = {"mf1": "f1", "macc": "recall", "miou": "iou"}
        return {name: float(np.mean([cut[key] for cut in cuts])) for name, key in names.items()}

    def _above_level(self, level: float) -> dict[str, float]:
        first = int(np.clip(np.floor(level) + 1, 0, LEVELS))
        hits, false = int(self.bad[first:].sum()), int(self.good[first:].sum())
        return overlap_metrics(hits, hits + false, int(self.bad.sum()))

    def _level(self, values: Floats) -> npt.NDArray[np.intp]:
        levels = np.rint((values.astype(np.float64) - self.low) / self._step)
        return np.clip(levels, 0, LEVELS - 1).astype(np.intp)
