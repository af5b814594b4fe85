"""Every TensorRT name and call that we use is there from 10.3 to 11.4 and in TensorRT for RTX, in one form.

tests/tensorrt_names.txt holds what the bindings of each version have; tests/bench/tensorrt_names.py writes it.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

VERSIONS = {"10.3", "10.13", "10.16", "11.4", "rtx-1.7"}
ROOT = Path(__file__).parents[2]
MODULES = ("export/tensorrt_engine.py", "daemon/tensorrt_plan.py", "daemon/tensorrt_log.py")
NAMESPACES = ("trt", "tensorrt", "_tensorrt")  # what our modules call TensorRT's

Table = dict[str, dict[str, str | None]]  # Class.member -> version -> its parameters; None: no function


@pytest.fixture(scope="module")
def table() -> Table:
    read: Table = defaultdict(dict)
    for line in (ROOT / "tests/tensorrt_names.txt").read_text(encoding="utf-8").splitlines():
        name, versions = line.split(" : ")
        name, _, parameters = name.partition("(")
        for version in versions.split():
            read[name][version] = parameters.rstrip(")") if _ else None
    return read


def test_the_table_has_every_version(table: Table) -> None:
    """So that no version is passed over in silence."""
    assert {version for versions in table.values() for version in versions} == VERSIONS


@pytest.mark.parametrize("module", MODULES)
def test_what_we_name_is_in_every_version(module: str, table: Table) -> None:
    """trt.Builder, trt.BuilderFlag.TF32: classes and enums by their full name."""
    named = [name for node in ast.walk(_parse(module)) if (name := _full_name(node)) is not None]
    assert named
    for name in named:
        assert set(table.get(name, ())) == VERSIONS, (
            f"{module}: {name} is only in {sorted(table.get(name, ()))}"
        )


@pytest.mark.parametrize("module", MODULES[:2])
def test_what_we_call_takes_what_we_give_in_every_version(module: str, table: Table) -> None:
    """Methods and attributes of TensorRT's objects, found by their name; calls by number and names of arguments."""
    tree = _parse(module)
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    seen = 0
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or _full_name(node) is not None:
            continue
        owners = [name for name in table if name.partition(".")[2] == node.attr]
        whole = [name for name in owners if set(table[name]) == VERSIONS]
        if not owners:
            continue  # not TensorRT's
        seen += 1
        assert whole, (
            f"{module}: .{node.attr} is not in every version: {[(o, list(table[o])) for o in owners]}"
        )
        call = calls.get(id(node))
        if call is not None:
            assert any(_takes_everywhere(table[name], call) for name in whole), (
                f"{module}: line {node.lineno}: .{node.attr} is not called so in every version"
            )
    assert seen >= 5


def _takes_everywhere(versions: dict[str, str | None], call: ast.Call) -> bool:
    return all(
        parameters is not None and any(_takes(one, call) for one in parameters.split(";"))
        for parameters in versions.values()
    )


def _takes(parameters: str, call: ast.Call) -> bool:
    """Whether `network,config,path=` takes the call's arguments."""
    names = [name for name in parameters.split(",") if name]
    given = {keyword.arg for keyword in call.keywords}
    left = names[len(call.args) :]
    needed = {name for name in left if not name.endswith("=")}
    return len(call.args) <= len(names) and needed <= given <= {name.rstrip("=") for name in left}


def _full_name(node: ast.AST) -> str | None:
    """`Builder` of trt.Builder, `Runtime` of self._tensorrt.Runtime, `BuilderFlag.TF32`; None for anything else."""
    parts = []
    while isinstance(node, ast.Attribute) and node.attr not in NAMESPACES:
        parts.append(node.attr)
        node = node.value
    module = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
    if module not in NAMESPACES or not parts or parts[-1].startswith("__"):
        return None
    return ".".join(reversed(parts))


def _parse(module: str) -> ast.Module:
    return ast.parse((ROOT / module).read_text(encoding="utf-8"))
