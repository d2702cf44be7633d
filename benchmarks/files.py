"""How much memory and time a very large sample takes, from a model file to a file of points.

`python benchmarks/files.py [name ...]` runs the named `ROWS`, or all of them: `student` is a distilled model,
`model` the same model with 3 evaluations. Each draws 10^6 and 10^8 points by `toydiffusion sample` into a
Parquet file, in a process of its own, whose greatest memory the system reports.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from measure import report

import toydiffusion as td
from toydiffusion.distributions import Square


def drawn(settings: list[str]) -> None:
    kind = "3 evaluations" if settings else "one call"
    with tempfile.TemporaryDirectory() as folder:
        file, points = Path(folder, "model.safetensors"), Path(folder, "points.parquet")
        x, _ = Square().sample(1000, seed=0)
        model = td.Diffusion().fit(x, seed=0, progress=False)
        (model if settings else td.distill(model, progress=False)).save(file)
        for n in (10**6, 10**8):
            command = [sys.executable, "-m", "toydiffusion", "sample", file, "-n", str(n), "--out", points]
            start = time.perf_counter()
            subprocess.run([*command, *settings], check=True, capture_output=True)
            # Of all processes so far, so the larger number comes last.
            memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
            report(
                f"{n:,} points to a file, {kind}: greatest memory; size; seconds",
                f"{memory:.2f} GiB; {points.stat().st_size / 1e9:.2f} GB; {time.perf_counter() - start:.0f}",
                "1 GiB",
            )


ROWS: dict[str, Callable[[], None]] = {
    "student": lambda: drawn([]),
    "model": lambda: drawn(["--steps", "3"]),
}

if __name__ == "__main__":
    for name in sys.argv[1:] or ROWS:
        ROWS[name]()
