"""All benchmarks that compare with other packages, one after another, and their rows in one table.

`make bench` runs it in the environment of the peers and writes `bench.md`: a row for each line that a script
reports, with the date, the processor and the versions above them. `python benchmarks/bench.py [name ...]`
runs the named scripts. Each script compares its pieces of work in turn, in one process.
"""

from __future__ import annotations

import datetime
import importlib
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import measure
import torch

SCRIPTS = ("sampling", "flow", "training", "distill", "peers", "files")
PACKAGES = ("toydiffusion", "torch", "azula", "smalldiffusion", "torchdiffeq", "zuko", "scikit-learn")


def processor() -> str:
    """Return the name of the processor, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), platform.machine())


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    began = datetime.datetime.now(datetime.UTC)
    for name in names:
        for row in importlib.import_module(name).ROWS.values():
            row()
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    text = [
        "# Benchmarks",
        "",
        f"`make bench`, {began:%Y-%m-%d}, {processor()}, {os.cpu_count()} cores, one thread a process.",
        f"{versions}.",
        "",
        "| what | measured | must reach |",
        "|---|---|---|",
        *(f"| {what} | {measured} | {target} |" for what, measured, target in measure.REPORTED),
    ]
    Path("bench.md").write_text("\n".join(text) + "\n")
    print("wrote bench.md")


if __name__ == "__main__":
    main(sys.argv[1:] or list(SCRIPTS))
