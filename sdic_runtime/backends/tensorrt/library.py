"""The two libraries, imported when they are needed, and a logger for both."""

from __future__ import annotations

import importlib
from collections import deque
from typing import Any

from sdic_runtime.backends.tensorrt.settings import Target
from sdic_runtime.errors import BackendError, MissingExtraError

OLDEST = {Target.tensorrt: (10, 12), Target.tensorrt_rtx: (1, 2)}
KEPT, SAID = 8, 300  # errors in mind, and the characters of them that a sentence has


def load_library(target: Target) -> Any:
    """The module of `target`. Raises MissingExtraError, or BackendError for one that does not load or is too old."""
    try:
        module = importlib.import_module(target.module)
    except ImportError as error:
        if error.name == target.module:
            raise MissingExtraError(target.module, target.value, target.label) from error
        raise BackendError(f"{target.label} cannot be loaded ({error}); install its libraries again") from error
    if tuple(int(part) for part in module.__version__.split(".")[:2]) < OLDEST[target]:
        oldest = ".".join(map(str, OLDEST[target]))
        why = f"{target.label} {module.__version__} is installed and {oldest} is the oldest that works"
        raise BackendError(f'{why}; update it with: pip install --upgrade "sdic-toolkit[{target}]"')
    return module


def error_log(library: Any) -> Any:
    """A logger that keeps the last errors for a sentence and prints nothing."""

    class Log(library.ILogger):
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=KEPT)

        def log(self, severity: Any, message: str) -> None:
            if severity <= library.ILogger.Severity.ERROR:
                self.errors.append(" ".join(message.split()))

        def said(self) -> str:
            """The errors since this was last asked, in short; "" without any."""
            text = "; ".join(self.errors)[:SAID]
            self.errors.clear()
            return text

    return Log()
