"""One target under the coverage-guided fuzzer, in this process; run.py starts it. Needs atheris.

python tests/fuzz/one.py TARGET FILE      repeats a finding
python tests/fuzz/one.py TARGET FOLDER -runs=N ...      libFuzzer's own options
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))  # for fakes and fuzz
with atheris.instrument_imports(include=["dualkd", "yaml"]):
    from fuzz.targets import TARGETS


def main() -> None:
    program, name, *options = sys.argv
    atheris.Setup([program, *options], TARGETS[name].check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
