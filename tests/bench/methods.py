"""Methods side by side on the same images and the same teacher tokens: ours, its parts, and two baselines.

    python tests/bench/methods.py tests/bench/experiments/tile.yaml --set data.root=DIR --seeds 0,1,2 --out build/tile

An experiment names a recipe and variants of it, each a list of overrides, and memories: nearest neighbours in a
memory of good tokens (PatchCore's idea, Roth et al., CVPR 2022). Every result is appended to OUT/results.jsonl as
soon as it is there; what is in it already is not computed again. The teacher looks at every image once, whatever
the number of variants, seeds, classes and experiments: what it said lies in --tokens, 50 KB a block of 64 patches.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

import cv2
import msgspec
import numpy as np
import torch
from dualkd.configs.loader import load
from dualkd.daemon.calibration import fit_calibration
from dualkd.daemon.decision import noisy_or_hazard
from dualkd.train.benchmarks import open_tasks
from dualkd.train.checkpoint import build_detector
from dualkd.train.config import Protocol, TrainConfig
from dualkd.train.datasets import GOOD, Sample, Task, read_mask
from dualkd.train.detector import predict
from dualkd.train.distributed import Ranks
from dualkd.train.figures import PIXEL_SIDE_PX
from dualkd.train.images import EncodedImages, load_frames, split_dataset
from dualkd.train.loop import Loop
from dualkd.train.metrics import PixelHistogram, detection_metrics
from dualkd.train.pixels import Normalise
from dualkd.train.pseudo import PseudoAnomalies
from dualkd.train.teacher import Teacher, make_teacher
from dualkd.train.weights import load_weights
from torch import Tensor, nn
from torch.nn.functional import normalize
from tqdm import tqdm

CPU = torch.device("cpu")


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A baseline: distance to the nearest of `size` good tokens, of a block or of the mean of several."""

    blocks: list[int]
    tokens: Literal["patch", "patch-mean", "class"] = "patch"  # patch: an image scores as its farthest patch
    size: int = 10_000


class Experiment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An experiment's file. `common` overrides the recipe for all variants; `protocols` are run one after another."""

    recipe: str
    protocols: list[Protocol] = []
    common: list[str] = []
    variants: dict[str, list[str]] = {}
    memories: dict[str, Memory] = {}


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """One method on one task. Image AUROC; the students' alone where there are two; AUPRO where there are masks.

    Of several products in one model `auroc` ranks all images together; the students' are means over products.
    """

    method: str
    seed: int
    task: str
    auroc: float
    local: float | None = None
    semantic: float | None = None
    aupro: float | None = None
    by_class: dict[str, float] = {}
    seconds: float = 0.0


class Scores(msgspec.Struct, frozen=True):
    """How anomalous one method found each test image of one task; a line of OUT/scores.jsonl (see confidence.py)."""

    method: str
    seed: int
    task: str
    anomalous: list[bool]
    scores: list[float]


class Remembered(nn.Module):
    """A vision transformer that looks at no image twice: what its blocks said is kept on disk, in half precision.

    A file an image, named by its pixels, holds all blocks as far as they were run, (blocks, 1 + N, D).
    """

    def __init__(self, teacher: Teacher, last_block: int, folder: Path) -> None:
        super().__init__()
        self.network, self.last_block, self._folder = teacher.network, last_block, folder
        self.patch_embed = teacher.network.patch_embed
        folder.mkdir(parents=True, exist_ok=True)

    def forward_intermediates(
        self, images: Tensor, indices: Sequence[int], **options: Any
    ) -> list[tuple[Tensor, Tensor]]:
        paths = [
            self._folder / f"{hashlib.blake2b(image.numpy().tobytes(), digest_size=16).hexdigest()}.npy"
            for image in images
        ]
        known = [self._recall(path, indices) for path in paths]
        new = [row for row, tokens in enumerate(known) if tokens is None]
        if new:
            levels = self.network.forward_intermediates(
                images[new], indices=list(range(self.last_block + 1)), **options
            )
            said = torch.stack(
                [torch.cat([prefix[:, :1], patches], 1) for patches, prefix in levels], 1
            ).half()
            for row, tokens in zip(new, said, strict=True):
                partial = paths[row].with_suffix(".partial")
                with partial.open("wb") as file:
                    np.save(file, tokens.numpy())
                partial.replace(paths[row])
                known[row] = tokens[list(indices)]
        both = torch.stack([tokens for tokens in known if tokens is not None], 1).float()
        return [(tokens[:, 1:], tokens[:, :1]) for tokens in both]

    def _recall(self, path: Path, indices: Sequence[int]) -> Tensor | None:
        """(blocks, 1 + N, D), or None if the image was not seen as far as that."""
        if not path.is_file():
            return None
        said = np.load(path, mmap_mode="r")
        return torch.from_numpy(said[list(indices)]) if max(indices) < len(said) else None


class Bench:
    """Results so far, and one teacher for all methods."""

    def __init__(self, folder: Path, tokens: Path, config: TrainConfig, blocks: Sequence[int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._scores_path = folder / "results.jsonl", folder / "scores.jsonl"
        lines = self._path.read_bytes().splitlines() if self._path.exists() else []
        self.results = [msgspec.json.decode(line, type=Result) for line in lines]
        state, weights = load_weights(config.teacher.name, config.teacher.weights)
        size = (config.input.height, config.input.width)
        teacher = make_teacher(config.teacher.name, size, blocks, [])
        teacher.load(state)
        self._network = Remembered(
            teacher, max(blocks), tokens / f"{weights.sha256[:12]}-{size[0]}x{size[1]}"
        )

    def has(self, method: str, seed: int, task: str) -> bool:
        return any((r.method, r.seed, r.task) == (method, seed, task) for r in self.results)

    def note(self, result: Result) -> None:
        self.results.append(result)
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(result) + b"\n")
        print(msgspec.json.encode(result).decode(), flush=True)

    def keep_scores(self, method: str, seed: int, task: Task, scores: np.ndarray) -> None:
        anomalous = [sample.kind != GOOD for sample in task.dataset.test]
        kept = Scores(method, seed, task.name, anomalous, [float(f"{score:.7g}") for score in scores])
        with self._scores_path.open("ab") as file:
            file.write(msgspec.json.encode(kept) + b"\n")

    def run(self, name: str, config: TrainConfig, task: Task) -> Result:
        """Train and score one variant as dualkd-train and dualkd-eval do."""
        started = time.monotonic()
        training, held_out = split_dataset(task.dataset, config)
        size = (config.input.height, config.input.width)
        torch.manual_seed(config.training.seed)
        detector, _ = build_detector(config)
        detector.teacher.network = self._network
        frames = load_frames(training, size)
        images = EncodedImages(frames, detector, CPU, "float32", config.training.cache_mib)
        images.fit_beginnings(torch.Generator().manual_seed(config.training.seed))
        held_frames = load_frames(held_out, size)
        checked = (
            EncodedImages(held_frames, detector, CPU, "float32", 1 << 20)
            if config.training.check_every
            else None
        )
        pseudo = PseudoAnomalies(config, frames, detector, CPU, config.training.cache_mib)
        loop = Loop(config, detector, images, pseudo, checked, CPU, Ranks())
        for _ in loop.steps():
            pass
        if loop.early_stopping.best_weights is not None:
            detector.load_student_state(loop.early_stopping.best_weights)
        detector.eval()
        images.fit_semantic_metric()
        seconds = time.monotonic() - started
        calibration = fit_calibration(
            predict(detector, held_frames, CPU), config.calibration.false_reject_rate
        )
        test = task.dataset.test
        raw = predict(detector, load_frames(test, size), CPU)
        hazard = noisy_or_hazard(calibration, raw.d_local, raw.d_semantic)
        both = raw.d_local is not None and raw.d_semantic is not None
        self.keep_scores(name, config.training.seed, task, hazard)
        return Result(
            method=name,
            seed=config.training.seed,
            task=task.name,
            auroc=image_auroc(test, hazard),
            local=mean_auroc(test, raw.d_local) if both else None,
            semantic=mean_auroc(test, raw.d_semantic) if both else None,
            aupro=None if raw.anomaly_map is None else pixel_aupro(test, raw.anomaly_map),
            by_class=auroc_by_class(test, hazard),
            seconds=round(seconds, 1),
        )

    def run_memory(self, name: str, memory: Memory, config: TrainConfig, task: Task, seed: int) -> Result:
        """Score with the nearest of a random choice of the training images' tokens, all good images used."""
        started = time.monotonic()
        size = (config.input.height, config.input.width)
        patches = memory.tokens == "patch"
        read = (memory.blocks, []) if patches else ([], memory.blocks)
        teacher = make_teacher(config.teacher.name, size, *read, semantic_grid=1)
        teacher.network = self._network
        see = Normalise(teacher.mean, teacher.std)

        def tokens(samples: Sequence[Sample]) -> Tensor:
            parts = []
            for frames in tqdm(torch.split(load_frames(samples, size), 8), desc="memory", disable=None):
                with torch.inference_mode():
                    patch, whole = teacher(see(frames))
                part = (
                    patch.mean(1)
                    if patches
                    else whole[:, :, int(memory.tokens == "patch-mean")].mean(1)[:, None]
                )
                parts.append(normalize(part, dim=-1))
            return torch.cat(parts)  # (M, N, D)

        good = tokens(task.dataset.train).flatten(0, 1)
        chosen = torch.randperm(len(good), generator=torch.Generator().manual_seed(seed))[: memory.size]
        test = task.dataset.test
        nearest = [1 - (part @ good[chosen].t()).amax(-1) for part in torch.split(tokens(test), 8)]
        distances = torch.cat(nearest)  # (M, N)
        score = distances.amax(1).numpy()
        maps = distances.view(-1, *teacher.grid).numpy() if patches else None
        self.keep_scores(name, seed, task, score)
        return Result(
            method=name,
            seed=seed,
            task=task.name,
            auroc=image_auroc(test, score),
            aupro=None if maps is None else pixel_aupro(test, maps),
            by_class=auroc_by_class(test, score),
            seconds=round(time.monotonic() - started, 1),
        )


def image_auroc(samples: Sequence[Sample], scores: np.ndarray) -> float:
    truth = np.array([sample.kind != GOOD for sample in samples])
    return detection_metrics(truth, scores)["auroc"]


def auroc_by_class(samples: Sequence[Sample], scores: np.ndarray) -> dict[str, float]:
    """Of several products in one model, each product's own."""
    names = np.array([sample.category for sample in samples])
    if len(set(names)) < 2:
        return {}
    return {
        str(name): image_auroc([s for s in samples if s.category == name], scores[names == name])
        for name in sorted(set(names))
    }


def mean_auroc(samples: Sequence[Sample], scores: np.ndarray) -> float:
    """Of several products in one model, the mean of each product's own."""
    return float(np.mean([*auroc_by_class(samples, scores).values()] or [image_auroc(samples, scores)]))


def pixel_aupro(samples: Sequence[Sample], maps: np.ndarray) -> float | None:
    """Over all products alike, each with its own histogram."""
    values = []
    for category in sorted({sample.category for sample in samples}):
        rows = [i for i, s in enumerate(samples) if s.category == category and (s.kind == GOOD or s.mask)]
        if not any(samples[i].mask for i in rows):
            continue
        histogram = PixelHistogram(float(maps[rows].min()), float(maps[rows].max()))
        side = (PIXEL_SIDE_PX, PIXEL_SIDE_PX)
        for row in rows:
            histogram.add(read_mask(samples[row], side), cv2.resize(maps[row], side))
        values.append(histogram.aupro())
    return float(np.mean(values)) if values else None


def summary(results: Sequence[Result]) -> str:
    """A Markdown table: a row a method, its means over tasks, and over seeds the mean and its spread."""
    lines = [
        "| method | image AUROC | local alone | semantic alone | AUPRO | training s |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for method in dict.fromkeys(result.method for result in results):
        of_method = [result for result in results if result.method == method]
        cells = []
        for column in ("auroc", "local", "semantic", "aupro"):
            seeds: dict[int, list[float]] = {}
            for result in of_method:
                value = (
                    float(np.mean([*result.by_class.values()]))
                    if column == "auroc" and result.by_class
                    else getattr(result, column)
                )
                if value is not None:
                    seeds.setdefault(result.seed, []).append(100 * value)
            means = [float(np.mean(values)) for values in seeds.values()]
            spread = f" ± {np.std(means, ddof=1):.2f}" if len(means) > 1 else ""
            cells.append(f"{np.mean(means):.2f}{spread}" if means else "")
        seconds = sum(result.seconds for result in of_method) / len({result.seed for result in of_method})
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {seconds:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--only", help="these methods, by comma")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, default=Path("build/tokens"), help="default: build/tokens")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    experiment = load(options.experiment, Experiment, [])
    overrides = [*experiment.common, *options.set]
    known = [*experiment.memories, *experiment.variants]
    wanted = options.only.split(",") if options.only else known
    if unknown := set(wanted) - set(known):
        parser.error(f"--only: {options.experiment} has no {', '.join(unknown)}; it has {', '.join(known)}")
    base = load(Path(experiment.recipe), TrainConfig, overrides)
    blocks = {block for memory in experiment.memories.values() for block in memory.blocks}
    for name in wanted:
        config = load(Path(experiment.recipe), TrainConfig, [*overrides, *experiment.variants.get(name, [])])
        blocks |= {*config.local.blocks, *config.semantic.blocks}
    bench = Bench(options.out, options.tokens, base, sorted(blocks))
    for protocol in experiment.protocols or [base.data.protocol]:
        suffix = f", {protocol}" if len(experiment.protocols) > 1 else ""
        for task in open_tasks(msgspec.structs.replace(base.data, protocol=protocol)):
            for seed, name in product(map(int, options.seeds.split(",")), wanted):
                if bench.has(name + suffix, seed, task.name):
                    continue
                if name in experiment.memories:
                    bench.note(bench.run_memory(name + suffix, experiment.memories[name], base, task, seed))
                    continue
                chosen = [*overrides, *experiment.variants[name], f"training.seed={seed}"]
                config = load(Path(experiment.recipe), TrainConfig, chosen)
                bench.note(bench.run(name + suffix, config, task))
    table = summary(bench.results)
    (options.out / "table.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
