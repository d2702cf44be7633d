"""The processes of a session: a program that a test started, its workers and their Ray."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path


def members(session: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state, _, _, own = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(own) == session and state != "Z":
                found.append(int(entry.name))
    return found


def kill(session: int) -> None:
    """Kill the processes of a session, and those that they start meanwhile."""
    while found := members(session):
        for pid in found:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
