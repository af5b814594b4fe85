"""Results as pictures: the loss curve of a run and the sheet of a test set's best hits and worst misses.

Draws what it is given; knows no model and no metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from dualkd.daemon.frames import Image
from matplotlib.figure import Figure

TILE_PX = 180  # a tile's width; its height follows the first image's proportions
LABEL_PX = 34
COLUMNS = 6


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
    """Draw each student's loss over the steps (logarithmic) as a PNG."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for name in history[0] if history else ():
        axes.plot([step[name] for step in history], label=f"{name} student", linewidth=1)
    axes.set(xlabel="step", ylabel="loss (cosine distance)", yscale="log")
    if history:
        axes.legend()
    figure.savefig(path, dpi=120)


def plot_scores(groups: Mapping[str, npt.NDArray[np.floating]], threshold: float, path: Path) -> None:
    """Draw one strip of scores a kind, with the threshold, as a PNG."""
    figure = Figure(figsize=(7, 0.8 + 0.45 * len(groups)), layout="constrained")
    axes = figure.add_subplot()
    jitter = np.random.default_rng(0)
    for row, (name, scores) in enumerate(groups.items()):
        color = "tab:green" if name == "good" else "tab:red"
        axes.scatter(scores, row + jitter.uniform(-0.3, 0.3, len(scores)), s=6, alpha=0.6, color=color)
    axes.axvline(threshold, color="black", linewidth=1, label=f"threshold {threshold:.3g}")
    axes.set(yticks=range(len(groups)), yticklabels=list(groups), xlabel="score", xlim=(-0.02, 1.02))
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)


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
