"""The command line: `toydiffusion`, or `python -m toydiffusion`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (None: the program's own arguments) and return its exit code.

    0 is success, 2 bad input, 1 a failure while running, 130 interrupted. The last three print one line on
    standard error.
    """
    # Nothing can be lost while the commands load, and an interrupted import of torch leaves a long traceback.
    handler = signal.signal(signal.SIGINT, _leave)
    from toydiffusion.cli.commands import run

    signal.signal(signal.SIGINT, handler)
    return run(arguments)


def _leave(number: int, frame: object) -> None:
    sys.stderr.write("toydiffusion: interrupted\n")
    sys.stderr.flush()
    os._exit(130)
