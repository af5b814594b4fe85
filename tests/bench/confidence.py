"""How sure a difference in image AUROC is: two methods of one experiment, by bootstrap over the test images.

    python tests/bench/confidence.py build/cookies local dinomaly

Reads OUT/scores.jsonl, which methods.py writes. Good and anomalous test images are drawn anew, with replacement and
apart from each other, the same ones for both methods (Efron's percentile interval); of several tasks every one is
drawn anew and the mean is taken, of several seeds the mean of their AUROC. Training is not repeated, so what another
draw of training images would change is not in it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
import numpy as np
from methods import Scores
from scipy.stats import rankdata

DRAWS = 2_000
INTERVAL = (2.5, 97.5)  # percentiles


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="OUT of methods.py")
    parser.add_argument("method")
    parser.add_argument("other")
    arguments = parser.parse_args()
    lines = (arguments.folder / "scores.jsonl").read_bytes().splitlines()
    kept = [msgspec.json.decode(line, type=Scores) for line in lines]
    runs = [
        {(one.task, one.seed): one for one in kept if one.method == method}
        for method in (arguments.method, arguments.other)
    ]
    tasks = sorted({task for task, _ in runs[0]} & {task for task, _ in runs[1]})
    if not tasks:
        raise SystemExit(
            f"{arguments.folder}: no task of both methods; there are {sorted({s.method for s in kept})}"
        )
    rng = np.random.default_rng(0)
    drawn = np.zeros((DRAWS + 1, len(tasks), 2))  # the first as they are
    for column, task in enumerate(tasks):
        of_task = [[one for (name, _), one in run.items() if name == task] for run in runs]
        truth = np.array(of_task[0][0].anomalous)
        good, bad = np.flatnonzero(~truth), np.flatnonzero(truth)
        for draw in range(DRAWS + 1):
            chosen = (good, bad) if draw == 0 else (rng.choice(good, len(good)), rng.choice(bad, len(bad)))
            drawn[draw, column] = [np.mean([auroc(one, *chosen) for one in some]) for some in of_task]
    means = 100 * drawn.mean(1)  # (draws, 2)
    for name, values in (
        (arguments.method, means[:, 0]),
        (arguments.other, means[:, 1]),
        ("difference", means[:, 0] - means[:, 1]),
    ):
        low, high = np.percentile(values[1:], INTERVAL)
        print(f"{name}: {values[0]:.2f}, 95 % from {low:.2f} to {high:.2f}")
    print(f"{len(tasks)} tasks, the last of {len(good)} good and {len(bad)} anomalous test images")


def auroc(one: Scores, good: np.ndarray, bad: np.ndarray) -> float:
    """Mann and Whitney's statistic of images drawn by index; ties count half."""
    ranks = rankdata(np.array(one.scores)[np.concatenate([good, bad])])
    return float((ranks[len(good) :].sum() - len(bad) * (len(bad) + 1) / 2) / (len(good) * len(bad)))


if __name__ == "__main__":
    main()
