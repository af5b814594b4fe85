"""Recipes: verified, tried, shared engines, and refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import fakes
import msgspec
import numpy as np
import pytest
from dualkd.daemon.bundle import Bundle, BundleError, load_bundle, write_manifest
from dualkd.daemon.config import RecipeConfig
from dualkd.daemon.engine import EngineError
from dualkd.daemon.recipes import RecipeError, RecipeLoader


def config(bundle: Path, **changes: Any) -> RecipeConfig:
    return msgspec.convert({"bundle": str(bundle), **changes}, RecipeConfig)


class Loaded:
    """A loader that keeps the engines it made."""

    def __init__(self) -> None:
        self.engines: list[fakes.SteeredEngine] = []
        self.loader = RecipeLoader(self._engine)

    def _engine(self, bundle: Bundle) -> fakes.SteeredEngine:  # noqa: ARG002 (all bundles here are alike)
        self.engines.append(fakes.SteeredEngine())
        return self.engines[-1]


def test_recipes_of_one_bundle_share_an_engine_that_lives_as_long_as_one_of_them(tmp_path: Path) -> None:
    """Two recipes, one engine; it is closed when neither is in use."""
    bundle, made = fakes.write_bundle(tmp_path / "bundle"), Loaded()
    one, other = made.loader.load("a", config(bundle)), made.loader.load("b", config(bundle, fail=0.7))
    assert one.engine is other.engine
    assert (one.fail, other.fail) == (0.5, 0.7)
    made.loader.keep_only([other])
    assert not made.engines[0].closed
    made.loader.keep_only([])
    assert made.engines[0].closed


def test_an_engine_that_says_something_else_of_the_stored_frame_is_refused(tmp_path: Path) -> None:
    """The bundle says what its frame measures; an engine 2 % of the link's location off is wrong here."""
    path = fakes.write_bundle(tmp_path / "bundle")
    manifest = load_bundle(path).manifest
    stored = manifest.self_test
    for shift, fits in ((0.002, True), (0.01, False)):
        d_local = (stored.d_local or 0.0) + shift
        changed = msgspec.structs.replace(stored, d_local=d_local)
        write_manifest(path, msgspec.structs.replace(manifest, self_test=changed))
        made = Loaded()
        if fits:
            made.loader.load("a", config(path))
            continue
        with pytest.raises(
            EngineError, match=r"self-test failed: .* gives d_local = 0\.15.*export the bundle again"
        ):
            made.loader.load("a", config(path))
        assert made.engines[0].closed


def test_a_damaged_stored_frame_is_a_damaged_bundle(tmp_path: Path) -> None:
    """Its sum is checked like any other."""
    path = fakes.write_bundle(tmp_path / "bundle")
    (path / "self_test.png").write_bytes(b"")
    with pytest.raises(BundleError, match=r"self_test\.png: sha256"):
        Loaded().loader.load("a", config(path))


def test_warn_must_lie_below_the_calibrated_threshold_too(tmp_path: Path) -> None:
    """Else no frame could ever be doubtful."""
    path = fakes.write_bundle(tmp_path / "bundle")
    with pytest.raises(RecipeError, match=r"recipe a: warn must lie below fail, got 0\.6 and 0\.5"):
        Loaded().loader.load("a", config(path, warn=0.6))


@pytest.mark.parametrize(
    ("grey", "region", "why"),
    [
        (0, None, "dark wherever the model looks"),
        (255, {"x_px": 60, "y_px": 0, "width_px": 64, "height_px": 64}, "leaves the picture"),
        (None, None, "cannot be read"),
    ],
)
def test_a_mask_that_cannot_be_used_is_refused(
    tmp_path: Path, grey: int | None, region: dict[str, int] | None, why: str
) -> None:
    """All dark, smaller than the region, missing."""
    path, mask = fakes.write_bundle(tmp_path / "bundle"), tmp_path / "mask.png"
    if grey is not None:
        cv2.imwrite(str(mask), np.full((96, 100), grey, np.uint8))
    with pytest.raises(RecipeError, match=f"recipe a: mask: .*{why}"):
        Loaded().loader.load("a", config(path, mask=str(mask), region=region))
