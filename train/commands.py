"""Entry points of dualkd-train and dualkd-eval, which say what to install where the training stack is missing."""

from __future__ import annotations

import sys
from importlib import import_module


def train() -> int:
    """The command dualkd-train; see __main__.py."""
    return _run("dualkd-train", "dualkd.train.__main__")


def evaluate() -> int:
    """The command dualkd-eval; see evaluate.py."""
    return _run("dualkd-eval", "dualkd.train.evaluate")


def _run(command: str, module: str) -> int:
    try:
        main = import_module(module).main
    except ModuleNotFoundError as error:
        return say_what_is_missing(command, error)
    return int(main())


def say_what_is_missing(command: str, error: ModuleNotFoundError) -> int:
    """Print what to install and return the exit status; a missing module of our own is raised again."""
    if (error.name or "").startswith("dualkd"):
        raise error
    needs = f"{command}: needs {error.name}, which is not here"
    print(f"{needs}; install dualkd with its extra 'train': pip install '.[train]'", file=sys.stderr)
    return 1
