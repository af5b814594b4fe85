"""Every experiment behind BENCHMARKS.md still says something that its recipe can be told."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from dualkd.configs.loader import load
from dualkd.train.config import TrainConfig

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("tests/bench/experiments/*.yaml")), ids=lambda path: path.stem
)
def test_every_variant_is_a_configuration(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tests" / "bench")
    experiment = load(path, import_module("methods").Experiment, [])
    assert experiment.variants
    for overrides in experiment.variants.values():
        load(ROOT / experiment.recipe, TrainConfig, [*experiment.common, *overrides])
