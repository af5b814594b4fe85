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
        {"schema": 99},
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


@pytest.mark.parametrize("raw", [b'{"name": "\xff"}', b"[" * 200_000, b'{"name": ' + b"[" * 200_000])
def test_bytes_that_are_no_manifest_are_refused(bundle: Path, raw: bytes) -> None:
    """No UTF-8, and brackets without end: an error of the bundle's, not of the decoder's."""
    (bundle / MANIFEST_NAME).write_bytes(raw)
    with pytest.raises(BundleError, match="export the bundle again"):
        load_bundle(bundle)


def test_a_name_with_a_line_break_is_no_file_name(bundle: Path) -> None:
    """The file is there and its sum is right; such a name would break every line that tells of it."""
    (graph,) = json.loads((bundle / MANIFEST_NAME).read_text())["graphs"]
    (bundle / "model.onnx").rename(bundle / "model.onnx\n")
    edit(bundle, graphs=[{**graph, "file": "model.onnx\n"}])
    with pytest.raises(BundleError, match="matching regex"):
        load_bundle(bundle)


def test_a_link_out_of_the_folder_is_refused(bundle: Path) -> None:
    """What it points to may change without the bundle changing."""
    (bundle / "model.onnx").rename(bundle.parent / "elsewhere")
    (bundle / "model.onnx").symlink_to(bundle.parent / "elsewhere")
    with pytest.raises(BundleError, match=r"model\.onnx: is a link; a bundle is one folder"):
        load_bundle(bundle)


def test_what_the_system_will_not_read_is_told(bundle: Path) -> None:
    """A disk's error and a path too long end as the bundle's error, with the system's reason."""
    (bundle / MANIFEST_NAME).unlink()
    (bundle / MANIFEST_NAME).symlink_to("/proc/self/mem")
    with pytest.raises(BundleError, match="cannot be read: Input/output error"):
        load_bundle(bundle)
    with pytest.raises(BundleError, match="cannot be read: File name too long"):
        load_bundle("x" * 5000)


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
