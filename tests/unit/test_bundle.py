"""The contract: a bundle is whole, and is what its manifest says, or it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import fakes
import pytest
from dualkd.daemon.bundle import MANIFEST_NAME, BundleError, load_bundle, new_bundle_folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return fakes.write_bundle(tmp_path / "bundle")


def edit(bundle: Path, **changes: object) -> None:
    manifest = json.loads((bundle / MANIFEST_NAME).read_text())
    manifest.update(changes)
    (bundle / MANIFEST_NAME).write_text(json.dumps(manifest))


def fail_half_way(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"half")
    raise RuntimeError


def test_a_whole_bundle_loads(bundle: Path) -> None:
    """Its graph is found by precision, and its identity is the manifest's sum."""
    loaded = load_bundle(bundle)
    assert loaded.graph("fp32") == bundle / "model.onnx"
    assert len(loaded.sha256) == 64
    with pytest.raises(BundleError, match="holds no fp16 graph"):
        loaded.graph("fp16")


def test_the_identity_changes_with_any_change(bundle: Path) -> None:
    """Another threshold is another bundle."""
    before = load_bundle(bundle).sha256
    edit(bundle, name="other")
    assert load_bundle(bundle).sha256 != before


def test_a_damaged_file_is_refused(bundle: Path) -> None:
    """One flipped byte."""
    graph = bundle / "model.onnx"
    raw = bytearray(graph.read_bytes())
    raw[len(raw) // 2] ^= 1
    graph.write_bytes(raw)
    with pytest.raises(BundleError, match="the file is damaged or was swapped"):
        load_bundle(bundle)


def test_half_a_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    """A missing graph, half a manifest, no manifest, no folder: each says what is missing."""
    graph = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx: is missing though"):
        load_bundle(bundle)
    (bundle / "model.onnx").write_bytes(graph)
    text = (bundle / MANIFEST_NAME).read_text()
    (bundle / MANIFEST_NAME).write_text(text[: len(text) // 2])
    with pytest.raises(BundleError, match="export the bundle again"):
        load_bundle(bundle)
    (bundle / MANIFEST_NAME).unlink()
    with pytest.raises(BundleError, match=r"has no bundle\.json"):
        load_bundle(bundle)
    with pytest.raises(BundleError, match="does not exist"):
        load_bundle(tmp_path / "none")


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"surprise": 1},
        {"max_batch": 0},
        {"graphs": [{"file": "../model.onnx", "sha256": "0" * 64, "precision": "fp32"}]},
        {"calibration": {"threshold": 0.5}},
    ],
)
def test_a_manifest_of_another_shape_is_refused(bundle: Path, change: dict[str, object]) -> None:
    """Another schema, an unknown key, a value out of range, a path that leaves the folder, half a calibration."""
    edit(bundle, **change)
    with pytest.raises(BundleError):
        load_bundle(bundle)


def test_a_failed_export_leaves_the_old_bundle_and_nothing_else(bundle: Path) -> None:
    """Written aside and renamed: an error on the way changes nothing."""
    before = load_bundle(bundle).sha256
    with pytest.raises(RuntimeError), new_bundle_folder(bundle) as folder:
        fail_half_way(folder)
    assert load_bundle(bundle).sha256 == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_what_is_no_bundle_is_not_overwritten(tmp_path: Path) -> None:
    """A folder with something else in it stays as it is."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("x")
    with pytest.raises(BundleError, match="is not a bundle"), new_bundle_folder(precious):
        pass
    assert (precious / "thesis.txt").read_text() == "x"
