"""Recipes ready to judge: bundle verified, engine loaded and tried, mask read, thresholds known.

Knows bundles and engines. Does not know cameras, nor when a recipe is taken into use.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from dualkd.daemon.bundle import Bundle, BundleError, load_bundle
from dualkd.daemon.config import RecipeConfig, RegionConfig
from dualkd.daemon.engine import Engine, EngineError, predict
from dualkd.daemon.frames import FrameError, crop, read_image
from dualkd.daemon.mask import JUDGED_FROM, Grid, mask_grid
from dualkd.daemon.messages import BundleRef, RecipeRef
from dualkd.daemon.parts import EngineLoader

logger = logging.getLogger(__name__)

SELF_TEST_TOLERANCE = 0.01  # of a distance, as a share of its link's location: ten times what export allows


class RecipeError(Exception):
    """A recipe that cannot be used: which, and why."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a camera's frames are judged by.

    grid: which cells of the map are judged, None for all; mask_size: (height, width) of the picture that
    the mask was drawn for.
    """

    name: str
    config: RecipeConfig
    bundle: Bundle
    engine: Engine
    grid: Grid | None
    mask_size: tuple[int, int] | None

    @property
    def fail(self) -> float:
        """The threshold of the score: the recipe's, else the calibration's."""
        fail = self.config.fail
        return self.bundle.manifest.calibration.threshold if fail is None else fail

    @property
    def ref(self) -> RecipeRef:
        """As messages name it."""
        bundle = BundleRef(name=self.bundle.manifest.name, sha256=self.bundle.sha256)
        return RecipeRef(
            name=self.name,
            bundle=bundle,
            fail=self.fail,
            warn=self.config.warn,
            engine=self.engine.description,
        )


class RecipeLoader:
    """Loads recipes; those with the same bundle share one engine. For one thread at a time."""

    def __init__(self, load_engine: EngineLoader) -> None:
        self._load_engine = load_engine
        self._engines: dict[str, Engine] = {}  # by the bundle's sha256

    def load(self, name: str, config: RecipeConfig) -> Recipe:
        """Verify the sums, load the engine, try it on the bundle's own frame.

        Raises BundleError, EngineError, RecipeError; then nothing has changed.
        """
        bundle = load_bundle(config.bundle)
        grid, mask_size = None, None
        if config.mask is not None:
            try:
                grid, mask_size = _read_mask(config.mask, config.region, bundle)
            except (FrameError, RecipeError) as error:
                raise RecipeError(f"recipe {name}: mask: {error}") from error
        check_thresholds(name, config, bundle)
        return Recipe(name, config, bundle, self._engine(bundle), grid, mask_size)

    def keep_only(self, recipes: Collection[Recipe]) -> None:
        """Close the engines that none of these recipes uses."""
        used = {recipe.bundle.sha256 for recipe in recipes}
        for sha256 in [sha256 for sha256 in self._engines if sha256 not in used]:
            self._engines.pop(sha256).close()

    def _engine(self, bundle: Bundle) -> Engine:
        if bundle.sha256 not in self._engines:
            engine = self._load_engine(bundle)
            try:
                _self_test(engine, bundle)
            except BaseException:
                engine.close()
                raise
            self._engines[bundle.sha256] = engine
            logger.info("bundle %s: %s, self-test passed", bundle.path, engine.description)
        return self._engines[bundle.sha256]


def check_thresholds(name: str, config: RecipeConfig, bundle: Bundle) -> None:
    """Raise RecipeError if no score could ever be doubtful though the recipe wants to warn."""
    fail = bundle.manifest.calibration.threshold if config.fail is None else config.fail
    if config.warn is not None and config.warn >= fail:
        raise RecipeError(
            f"recipe {name}: warn must lie below fail, got {config.warn:g} and {fail:g}; lower warn or raise fail"
        )


def _self_test(engine: Engine, bundle: Bundle) -> None:
    """Raise EngineError unless the engine says of the bundle's frame what the bundle says of it."""
    stored = bundle.manifest.self_test
    path = bundle.path / stored.file
    try:
        frame = read_image(path)
    except FrameError as error:
        raise BundleError(f"{error}; copy or export the bundle again") from error
    size = (bundle.manifest.input.height, bundle.manifest.input.width, 3)
    if frame.shape != size:
        raise BundleError(f"{path}: has shape {frame.shape}, the model takes {size}; export the bundle again")
    (prediction,) = predict(engine, frame[None])
    calibration = bundle.manifest.calibration
    for name, link in (("d_local", calibration.local), ("d_semantic", calibration.semantic)):
        if link is None:
            continue
        expected, found = getattr(stored, name), getattr(prediction, name)
        allowed = SELF_TEST_TOLERANCE * max(abs(link.location), abs(expected or 0.0))
        if expected is None or found is None or not abs(found - expected) <= allowed:
            raise EngineError(
                f"{bundle.path}: self-test failed: {engine.description} gives {name} = {found} on "
                f"{stored.file}, expected {expected} +- {allowed:.2g}; the engine is wrong on this machine: "
                "try engine.precision: fp32, or export the bundle again"
            )


def _read_mask(file: str, region: RegionConfig | None, bundle: Bundle) -> tuple[Grid, tuple[int, int]]:
    map_size = bundle.manifest.map_size
    if map_size is None:
        raise RecipeError(f"{bundle.path} has no local student, hence no map that {file} could be laid on")
    mask = np.asarray(cv2.cvtColor(read_image(Path(file)), cv2.COLOR_BGR2GRAY), np.uint8)
    grid = mask_grid(mask if region is None else crop(mask, region), map_size)
    if not grid.any():
        raise RecipeError(
            f"{file} is dark wherever the model looks, so nothing would be judged; places from grey level "
            f"{JUDGED_FROM} on are judged"
        )
    return grid, (mask.shape[0], mask.shape[1])
