"""The commands of `sdic-run`."""

import sys
from types import TracebackType

_hook = sys.excepthook


def _without_interrupts(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C while a command still loads its modules, before it can answer: the process dies of the signal, and shows no traceback."""
    if not issubclass(kind, KeyboardInterrupt):
        _hook(kind, error, trace)


sys.excepthook = _without_interrupts
