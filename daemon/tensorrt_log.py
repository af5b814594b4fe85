"""What TensorRT says of its own failures: its calls give None or False, and the reason goes to its logger.

A process has one such logger, for TensorRT keeps to the first that it is given.
"""

from __future__ import annotations

import functools
import logging
from collections import deque
from types import ModuleType
from typing import Any

logger = logging.getLogger(__name__)

KEPT = 8


@functools.cache
def tensorrt_log(tensorrt: ModuleType) -> Any:
    """The logger of `tensorrt` (or tensorrt_rtx): hand it to Runtime, Builder and OnnxParser.

    Its `reasons()` are the errors since it was last asked, as one line; warnings go to our own log.
    """

    class Log(tensorrt.ILogger):  # type: ignore[misc,name-defined]  # a class of the module that is there
        def __init__(self) -> None:
            super().__init__()
            self._errors: deque[str] = deque(maxlen=KEPT)

        def log(self, severity: Any, message: str) -> None:
            if severity in (tensorrt.ILogger.INTERNAL_ERROR, tensorrt.ILogger.ERROR):
                self._errors.append(" ".join(message.split()))
            elif severity == tensorrt.ILogger.WARNING:
                logger.warning("TensorRT: %s", message)

        def reasons(self) -> str:
            errors = list(self._errors)
            self._errors.clear()
            return "; ".join(errors) or "TensorRT gave no reason"

    return Log()
