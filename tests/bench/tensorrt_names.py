"""Which names TensorRT's Python bindings have, version by version, written into tests/tensorrt_names.txt.

    pip download --no-deps -d WHEELS tensorrt-cu12-bindings==10.3.0 tensorrt-rtx-cu13-bindings==1.7.1.116 ...
    python tests/bench/tensorrt_names.py WHEELS/*.whl

The wheels hold no TensorRT, only the bindings, for the Python that runs this. Each is unpacked beside empty
libraries that have the symbols it links to (needs cc, nm and readelf), imported in a process of its own, and asked
for the members of CLASSES. A line is a name, its parameters (`name=` has a default, `;` parts overloads), and the
versions that have it so.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

TABLE = Path(__file__).parents[1] / "tensorrt_names.txt"
CLASSES = (
    *(
        "Builder",
        "BuilderFlag",
        "DataType",
        "IBuilderConfig",
        "ICudaEngine",
        "IExecutionContext",
        "IHostMemory",
    ),
    *("ILogger", "INetworkDefinition", "IOptimizationProfile", "IProgressMonitor", "ITensor", "ITimingCache"),
    *("Logger", "MemoryPoolType", "NetworkDefinitionCreationFlag", "OnnxParser", "ParserError", "Runtime"),
    *("TensorIOMode", "TensorLocation"),
)
SYMBOL = re.compile(r"^(create|get|init)[A-Z]|^_ZN(11nvuff|14nvcaffe)")
PARAMETER = re.compile(r"^\*?(\w+)(?:: .+?)?( =.*)?$")

ASK = """
import importlib, json, sys
trt = importlib.import_module(sys.argv[1])
found = {}
for kind in sys.argv[2:]:
    if hasattr(trt, kind):
        found[kind] = None
        for name in dir(getattr(trt, kind)):
            if not name.startswith("_") or name == "__init__":
                value = getattr(getattr(trt, kind), name)
                found[kind + "." + name] = value.__doc__ if callable(value) else None
print(json.dumps(found))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheels", nargs="+", type=Path)
    names: dict[str, list[str]] = {}
    for wheel in sorted(parser.parse_args().wheels, key=_version_key):
        for name, docstring in _members(wheel).items():
            names.setdefault(name + _signature(docstring), []).append(_version(wheel))
    lines = [f"{name} : {' '.join(versions)}" for name, versions in sorted(names.items())]
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{TABLE}: {len(lines)} names")


def _version(wheel: Path) -> str:
    """rtx-1.7 or 10.3."""
    name, version = wheel.name.split("-")[:2]
    return ("rtx-" if "rtx" in name else "") + ".".join(version.split(".")[:2])


def _version_key(wheel: Path) -> tuple[bool, list[int]]:
    version = _version(wheel)
    return version.startswith("rtx"), [int(part) for part in version.removeprefix("rtx-").split(".")]


def _members(wheel: Path) -> dict[str, str | None]:
    """The members of the wheel's CLASSES with their docstrings."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        (bindings,) = Path(folder).glob("*/tensorrt*.so")
        _write_empty_libraries(bindings)
        done = subprocess.run(
            [sys.executable, "-c", ASK, bindings.parent.name, *CLASSES],
            env={**os.environ, "PYTHONPATH": folder, "LD_LIBRARY_PATH": str(bindings.parent)},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        sys.exit(f"{wheel}: cannot be imported: {done.stderr}")
    found: dict[str, str | None] = json.loads(done.stdout)
    return found


def _write_empty_libraries(bindings: Path) -> None:
    """Write, beside the bindings, a library of every name that they need, with functions that return null."""
    listing = subprocess.run(["nm", "-D", "--undefined-only", bindings], capture_output=True, check=True)
    symbols = [line.split()[-1] for line in listing.stdout.decode().splitlines()]
    source = bindings.with_suffix(".c")
    source.write_text(
        "".join(f"void *{name}(void) {{ return 0; }}\n" for name in symbols if SYMBOL.match(name))
    )
    listing = subprocess.run(["readelf", "-d", bindings], capture_output=True, check=True)
    for library in re.findall(r"\[(lib(?:nv|tensorrt)[\w.-]+)\]", listing.stdout.decode()):
        command = [
            "cc",
            "-w",
            "-shared",
            "-fPIC",
            f"-Wl,-soname,{library}",
            "-o",
            bindings.parent / library,
            source,
        ]
        subprocess.run(command, check=True)


def _signature(docstring: str | None) -> str:
    """`(flags=)` of pybind11's docstring, without self; empty for what is no function."""
    found = re.findall(r"^(?:\d+\. )?\w+\(((?!\*args).*)\) -> ", docstring or "", re.MULTILINE)
    if not found:
        return ""
    overloads = []
    for parameters in found:
        plain = re.sub(
            r"\[[^][]*(?:\[[^][]*\][^][]*)*\]|<[^>]*>|\([^)]*\)", "", parameters
        )  # types have commas
        matches = [PARAMETER.match(part.strip()) for part in plain.split(",") if part.strip()]
        named = [match.group(1) + ("=" if match.group(2) else "") for match in matches if match]
        overloads.append(",".join(name for name in named if name != "self"))
    return f"({';'.join(overloads)})"


if __name__ == "__main__":
    main()
