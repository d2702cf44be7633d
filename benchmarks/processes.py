"""From which width it pays to train with two processes on two cores: steps of one and of two, in turn.

`python benchmarks/processes.py` starts torchrun, which starts this file again as `... width steps batch`.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import torch

import toydiffusion as td
from toydiffusion.processes import processes
from toydiffusion.training import TrainState, run, train

ROUNDS = 5
CASES = ((64, 500, 500), (128, 300, 500), (256, 150, 500), (512, 60, 500), (64, 200, 4000), (256, 40, 4000))
"""Width, steps and points of a step."""


def measure(width: int, steps: int, batch: int) -> None:
    """Train on 10,000 points of the square; print the milliseconds of a step after the first few."""
    z, _ = td.distributions.Square().rows(0, 10_000, seed=0)
    config = td.TrainConfig(width=width, steps=steps, batch_size=batch, device="cpu")
    state = TrainState.start(2, 1, config, seed=0)
    together = processes()
    begin = 0.0
    for event in run(state, train(state, z, None, config, together), steps, processes=together):
        if event.step == steps // 5:
            begin = time.perf_counter()
    if together.first:
        print(1e3 * (time.perf_counter() - begin) / (steps - steps // 5))


def milliseconds(count: int, *case: int) -> float:
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    done = subprocess.run([*words, __file__, *map(str, case)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    print("width  points   ms a step   two processes: times faster [least to most]")
    for case in CASES:
        pairs = [(milliseconds(1, *case), milliseconds(2, *case)) for _ in range(ROUNDS)]
        ratios = sorted(one / two for one, two in pairs)
        one = statistics.median(one for one, _ in pairs)
        print(
            f"{case[0]:5}  {case[2]:6}   {one:9.2f}   "
            f"{statistics.median(ratios):.2f} [{ratios[0]:.2f} to {ratios[-1]:.2f}]",
            flush=True,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:]:
        measure(*map(int, sys.argv[1:]))
    else:
        main()
