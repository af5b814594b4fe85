"""Plans: the one of this machine is run, or the reason is told with the command that builds it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import fakes
import msgspec
import pytest
from dualkd.daemon.bundle import (
    Bundle,
    BundleError,
    Machine,
    Parity,
    PlanFile,
    load_bundle,
    write_manifest,
)

ORIN = Machine(
    gpu_name="Orin",
    compute_capability="8.7",
    runtime="tensorrt",
    tensorrt_version="10.3.0",
    driver_version="CUDA 12.6",
)
H200 = Machine(
    gpu_name="NVIDIA H200",
    compute_capability="9.0",
    runtime="tensorrt",
    tensorrt_version="11.4.0",
    driver_version="580.95.05 (CUDA 13.0)",
)


def plan_file(machine: Machine, content: bytes) -> PlanFile:
    return PlanFile(
        file=f"{machine.gpu_name.split()[-1]}.plan",
        sha256=hashlib.sha256(content).hexdigest(),
        precision="fp16",
        machine=machine,
        parity=Parity(
            frames=1,
            max_difference_local=0.0,
            max_difference_semantic=0.0,
            max_difference_map=0.0,
            verdict_flips=0,
        ),
        command="tests",
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle with the plans of two machines."""
    path = fakes.write_bundle(tmp_path / "a bundle")
    plans = [plan_file(ORIN, b"of Orin"), plan_file(H200, b"of H200")]
    (path / "Orin.plan").write_bytes(b"of Orin")
    (path / "H200.plan").write_bytes(b"of H200")
    write_manifest(path, msgspec.structs.replace(load_bundle(path).manifest, plans=plans))
    return load_bundle(path)


def test_each_machine_finds_its_own_plan(bundle: Bundle) -> None:
    """One bundle serves the Jetson and the line PC, and a newer driver changes nothing."""
    assert bundle.plan("fp16", ORIN) == bundle.path / "Orin.plan"
    assert bundle.plan("fp16", H200) == bundle.path / "H200.plan"
    newer = msgspec.structs.replace(H200, driver_version="610.10 (CUDA 13.5)")
    assert bundle.plan("fp16", newer) == bundle.path / "H200.plan"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gpu_name": "NVIDIA L4"}, r"gpu_name NVIDIA H200 \(here NVIDIA L4\)"),
        ({"compute_capability": "8.9"}, r"compute_capability 9\.0 \(here 8\.9\)"),
        ({"tensorrt_version": "11.5.0"}, r"tensorrt_version 11\.4\.0 \(here 11\.5\.0\)"),
        ({"runtime": "tensorrt_rtx"}, r"runtime tensorrt \(here tensorrt_rtx\)"),
    ],
)
def test_a_plan_of_another_machine_is_refused_with_the_command_that_builds_one(
    bundle: Bundle, change: dict[str, str], said: str
) -> None:
    """Whatever differs is named with both values, for every plan there is; the command can be pasted."""
    here = msgspec.structs.replace(H200, **change)
    with pytest.raises(BundleError, match=said) as caught:
        bundle.plan("fp16", here)
    assert "Orin.plan: gpu_name Orin" in str(caught.value)
    assert f"dualkd-export '{bundle.path}' --fp16" in str(caught.value)


def test_a_precision_without_a_plan_is_refused(bundle: Bundle) -> None:
    """An FP32 engine is never replaced by an FP16 one in silence."""
    with pytest.raises(BundleError, match=r"holds no fp32 TensorRT plan; build one .* --fp32"):
        bundle.plan("fp32", H200)


def test_a_damaged_plan_is_refused_where_it_would_run_and_nowhere_else(bundle: Bundle) -> None:
    """Cut short, missing, or a link: this machine is told to build again, the other one runs on."""
    plan = bundle.path / "H200.plan"
    plan.write_bytes(b"of H")
    again = load_bundle(bundle.path)
    assert again.plan("fp16", ORIN).read_bytes() == b"of Orin"
    with pytest.raises(BundleError, match=r"H200\.plan: sha256 is .* build one on this machine"):
        again.plan("fp16", H200)
    plan.unlink()
    with pytest.raises(BundleError, match=r"H200\.plan: is missing though .* build one on this machine"):
        again.plan("fp16", H200)
    plan.symlink_to(bundle.path / "Orin.plan")
    with pytest.raises(BundleError, match=r"H200\.plan: is a link"):
        again.plan("fp16", H200)
