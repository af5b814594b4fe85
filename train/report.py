"""Results as pictures: losses, curves, scores, and the sheet of a test set's best hits and worst misses.

Draws what it is given; knows no model and computes no metric. Good is blue and a defect is vermilion, two colours
of Okabe and Ito's that the colour-blind tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from dualkd.daemon.frames import Image
from dualkd.train.metrics import CURVE_POINTS, Curves
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TILE_PX = 180  # a tile's width; its height follows the first image's proportions
LABEL_PX = 34
COLUMNS = 6
GOOD_COLOUR, DEFECT_COLOUR, CLASS_COLOUR = "#0072B2", "#D55E00", "#9AA5B1"
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]  # Okabe and Ito
MARKERS = "osD^vP*"
BINS = 40
LOWEST_HAZARD = 1e-4  # of the logarithmic axis
DPI = 120

Hazards = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tile:
    """One judged image for the sheet. `anomaly_map` in [0, 1] after scaling, any size; `mask` as the image."""

    image: Image
    anomaly_map: npt.NDArray[np.float32] | None
    mask: npt.NDArray[np.bool_] | None
    title: str
    subtitle: str
    wrong: bool


def plot_losses(history: Sequence[dict[str, float]], path: Path) -> None:
    """Draw each loss over the steps (logarithmic) as a PNG: the students', and -log P of pseudo-anomalies."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for name in history[0] if history else ():
        axes.plot([step[name] for step in history], label=name, linewidth=1)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    if history:
        axes.legend()
    figure.savefig(path, dpi=DPI)


@dataclass(frozen=True, slots=True)
class ScoreGroup:
    """Scores to show together as hazards, -log(1 - score), and the threshold of the score that judges them."""

    name: str
    good: Hazards
    defects: Hazards
    threshold: float


def plot_curves(title: str, image: Mapping[str, Curves], pixel: Mapping[str, Curves], path: Path) -> None:
    """Draw ROC and precision-recall curves as a PNG: a row for images, and one for pixels if there are any.

    Of several classes each is a thin line, their mean at each abscissa a strong one, and the lowest is named.
    `image` holds one class at least.
    """
    rows = [(level, curves) for level, curves in (("image", image), ("pixel", pixel)) if curves]
    figure = Figure(figsize=(9, 0.5 + 4.2 * len(rows)), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(len(rows), 2, squeeze=False)
    for (left, right), (level, curves) in zip(panels, rows, strict=True):
        left.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":", label="chance")
        _draw_curves(left, {name: each.tpr for name, each in curves.items()})
        left.set(title=f"{level} ROC", xlabel="false-positive rate", ylabel="true-positive rate")
        _draw_curves(right, {name: each.precision for name, each in curves.items()})
        right.set(title=f"{level} precision and recall", xlabel="recall", ylabel="precision")
        for axes, place in ((left, "lower right"), (right, "lower left")):
            axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), aspect="equal")
            axes.grid(linewidth=0.3)
            axes.legend(loc=place, fontsize="small")
    figure.savefig(path, dpi=DPI)


def plot_histograms(title: str, groups: Sequence[ScoreGroup], path: Path) -> None:
    """Draw how good images and defects lie about the threshold, a panel a group, as a PNG.

    Over the hazard, logarithmic, which shows how far above the threshold a score lies that is as good as 1.
    """
    columns = min(len(groups), 4 if len(groups) > 4 else 2)
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(max(6.5, 3.4 * columns), 1.1 + 2.4 * rows), layout="constrained")
    figure.suptitle(title, x=0.02, horizontalalignment="left")
    figure.supxlabel("hazard, -log(1 - score)", fontsize="medium")
    figure.supylabel("share of the images (%)", fontsize="medium")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, group in zip(panels, groups, strict=False):
        limit = -np.log1p(-group.threshold)
        every = np.maximum(np.concatenate([group.good, group.defects, [limit]]), LOWEST_HAZARD)
        edges = np.geomspace(0.9 * every.min(), 1.1 * every.max(), BINS + 1)
        for name, hazards, colour in (
            ("good", group.good, GOOD_COLOUR),
            ("defects", group.defects, DEFECT_COLOUR),
        ):
            counts = np.histogram(np.maximum(hazards, LOWEST_HAZARD), edges)[0]
            shares = 100 * counts / max(len(hazards), 1)
            axes.stairs(shares, edges, fill=True, alpha=0.45, color=colour, label=name)
            axes.stairs(shares, edges, color=colour)
        axes.axvline(limit, color="black", linewidth=1, linestyle="--", label="threshold")
        axes.set(xscale="log", xlim=(edges[0], edges[-1]))
        axes.set_title(
            f"{group.name}: {len(group.good)} good, {len(group.defects)} defects", fontsize="medium"
        )
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=3, fontsize="small"
    )
    for unused in panels[len(groups) :]:
        unused.set_axis_off()
    figure.savefig(path, dpi=DPI)


def plot_scores(title: str, groups: Sequence[ScoreGroup], path: Path) -> None:
    """Draw every score as a point, a strip a group, with the threshold, as a PNG."""
    figure = Figure(figsize=(8, 1.4 + 0.45 * len(groups)), layout="constrained")
    axes = figure.add_subplot()
    jitter = np.random.default_rng(0)
    for row, group in enumerate(groups):
        both = bool(len(group.good) and len(group.defects))
        for hazards, colour, marker, side in (
            (group.good, GOOD_COLOUR, "o", -1),
            (group.defects, DEFECT_COLOUR, "x", 1),
        ):
            middle, spread = (row + 0.2 * side, 0.15) if both else (row, 0.3)
            heights = middle + jitter.uniform(-spread, spread, len(hazards))
            axes.scatter(
                -np.expm1(-hazards), heights, s=9, alpha=0.6, color=colour, marker=marker, linewidths=0.8
            )
        axes.plot([group.threshold] * 2, [row - 0.5, row + 0.5], color="black", linewidth=1)
    for name, colour, marker in (("good", GOOD_COLOUR, "o"), ("defect", DEFECT_COLOUR, "x")):
        axes.scatter([], [], s=16, color=colour, marker=marker, label=name)
    axes.plot([], [], color="black", linewidth=1, label="threshold")
    axes.set(
        title=title,
        yticks=range(len(groups)),
        yticklabels=[group.name for group in groups],
        ylim=(len(groups) - 0.5, -0.5),
        xlabel="score",
        xlim=(-0.02, 1.02),
    )
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(path, dpi=DPI)


def plot_comparison(title: str, columns: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Draw each column's figures (name -> values of its seeds, as shares) as points on a line a figure, as a PNG.

    Of several seeds the mean is drawn with a bar of one standard deviation to either side.
    """
    figures = list(next(iter(columns.values())))
    figure = Figure(figsize=(8, 1.8 + (0.3 + 0.16 * len(columns)) * len(figures)), layout="constrained")
    axes = figure.add_subplot()
    for index, (name, values) in enumerate(columns.items()):
        shift = 0.5 * ((index + 0.5) / len(columns) - 0.5)
        rows = [row for row, key in enumerate(figures) if values[key]]
        shares = [values[figures[row]] for row in rows]
        means = [100 * float(np.mean(each)) for each in shares]
        spreads = [100 * float(np.std(each, ddof=1)) if len(each) > 1 else 0.0 for each in shares]
        axes.errorbar(
            means,
            np.array(rows) + shift,
            xerr=spreads,
            fmt=MARKERS[index % len(MARKERS)],
            color=PALETTE[index % len(PALETTE)],
            markersize=5,
            capsize=2,
            label=name,
        )
    for row in range(1, len(figures)):
        axes.axhline(row - 0.5, color="black", linewidth=0.3)
    axes.grid(axis="x", linewidth=0.3)
    axes.set(
        title=title,
        xlabel="%",
        yticks=range(len(figures)),
        yticklabels=figures,
        ylim=(len(figures) - 0.5, -0.5),
    )
    figure.legend(loc="outside lower center", ncols=min(len(columns), 3), fontsize="small")
    figure.savefig(path, dpi=DPI)


def overlay(image: Image, anomaly_map: npt.NDArray[np.float32]) -> Image:
    """Blend the coloured map over the image, strong where the map is strong. 0.5 is the region threshold."""
    scaled = cv2.resize(np.clip(anomaly_map, 0, 1), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    heatmap = cv2.applyColorMap((scaled * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    weight = np.clip(1.4 * scaled - 0.35, 0, 0.75)[..., None]  # nothing over what is surely good
    return np.asarray(image * (1 - weight) + heatmap * weight, np.uint8)


def write_sheet(sections: Sequence[tuple[str, Sequence[Tile]]], path: Path) -> None:
    """Write sections of tiles, each an image beside its heatmap with the ground truth outlined, as a PNG."""
    rows = []
    height, width = next(tile.image.shape[:2] for _, tiles in sections for tile in tiles)
    size = (TILE_PX, round(TILE_PX * height / width))
    for title, tiles in sections:
        rows.append(_band(title))
        for start in range(0, len(tiles), COLUMNS):
            cells = [_draw_tile(tile, size) for tile in tiles[start : start + COLUMNS]]
            blank = np.full((size[1] + LABEL_PX, 2 * TILE_PX, 3), 255, np.uint8)
            rows.append(np.hstack(cells + [blank] * (COLUMNS - len(cells))))
    cv2.imwrite(str(path), np.vstack(rows))


def _draw_curves(axes: Axes, lines: Mapping[str, npt.NDArray[np.floating]]) -> None:
    grid = np.linspace(0, 1, CURVE_POINTS)
    if len(lines) == 1:
        for name, values in lines.items():
            axes.plot(grid, values, color=GOOD_COLOUR, linewidth=2.2, label=name)
        return
    lowest = min(lines, key=lambda name: float(lines[name].mean()))
    for name, values in lines.items():
        axes.plot(grid, values, color=CLASS_COLOUR, linewidth=0.8)
        if name == lowest:
            axes.plot(
                grid, values, color=DEFECT_COLOUR, linewidth=1.2, linestyle="--", label=f"lowest: {name}"
            )
    mean = np.mean(list(lines.values()), axis=0)
    axes.plot(grid, mean, color=GOOD_COLOUR, linewidth=2.2, label=f"mean of {len(lines)} classes")


def _band(title: str) -> Image:
    band = np.full((36, COLUMNS * 2 * TILE_PX, 3), 60, np.uint8)
    cv2.putText(band, title, (10, 25), cv2.FONT_HERSHEY_SIMPLEX, 0.65, (255, 255, 255), 1, cv2.LINE_AA)
    return band


def _draw_tile(tile: Tile, size: tuple[int, int]) -> Image:
    image = cv2.resize(tile.image, size, interpolation=cv2.INTER_AREA)
    judged = image.copy() if tile.anomaly_map is None else overlay(image, tile.anomaly_map)
    if tile.mask is not None and tile.mask.any():
        mask = cv2.resize(tile.mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(judged, outlines, -1, (255, 255, 255), 1)
    label = np.full((LABEL_PX, 2 * TILE_PX, 3), 255, np.uint8)
    colour = (0, 0, 200) if tile.wrong else (40, 110, 0)
    cv2.putText(label, tile.title[:48], (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(label, tile.subtitle[:48], (4, 28), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
    return np.vstack([np.hstack([image, judged]), label])
