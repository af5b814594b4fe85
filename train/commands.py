"""Entry points of dualkd-train and dualkd-eval, which say what to install where the training stack is missing.

And how these commands and dualkd-export print. Knows nothing of what they do.
"""

from __future__ import annotations

import os
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


def say(text: str) -> None:
    """Print to standard output; a reader who has seen enough (| head) is no error, and ends no run half way."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # as Python's documentation advises, so that neither later lines nor the flush at exit fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say_what_is_missing(command: str, error: ModuleNotFoundError) -> int:
    """Print what to install and return the exit status; a missing module of our own is raised again."""
    if (error.name or "").startswith("dualkd"):
        raise error
    needs = f"{command}: needs {error.name}, which is not here"
    print(f"{needs}; install dualkd with its extra 'train': pip install '.[train]'", file=sys.stderr)
    return 1
