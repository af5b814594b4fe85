"""The training configuration: the file in the repository is true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import yaml
from dualkd.configs.loader import load
from dualkd.train.config import DataConfig, TrainConfig

EXAMPLE = Path(__file__).parents[2] / "configs" / "train.yaml"


def test_the_explained_file_holds_every_key_with_its_default() -> None:
    """configs/train.yaml is the reference: no key missing, no default out of date."""
    explained = load(EXAMPLE, TrainConfig)
    defaults = TrainConfig(run=explained.run, data=DataConfig(root=explained.data.root))
    assert explained == defaults
    assert keys(yaml.safe_load(EXAMPLE.read_text())) == keys(msgspec.to_builtins(defaults))


def keys(tree: Any) -> Any:
    """The keys of nested mappings."""
    return {key: keys(value) for key, value in tree.items()} if isinstance(tree, dict) else None
