"""Processes that train one network together: the steps of one process, one stop, one file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor

import toydiffusion as td
from toydiffusion.model import load
from toydiffusion.processes import ALONE, Processes
from toydiffusion.training import Checkpoint, TrainState, run, train, train_streamed

Found = TypeVar("Found")
CONFIG = td.TrainConfig(width=16, edges=8, steps=100, batch_size=101, held_out=0.1, device="cpu")


class Threads(Processes):
    """Threads in place of processes: the sum is taken when all have given their part."""

    def __init__(self, rank: int, count: int, given: dict[int, Tensor], all_there: threading.Barrier) -> None:
        super().__init__(rank, count)
        self.given, self.all_there = given, all_there

    def _sum(self, numbers: Tensor) -> Tensor:
        self.given[self.rank] = numbers.clone()
        self.all_there.wait(timeout=60)
        found = torch.stack([self.given[k] for k in range(self.count)]).sum(0)
        self.all_there.wait(timeout=60)
        return found


def in_threads(count: int, work: Callable[[Processes], Found]) -> list[Found]:
    given: dict[int, Tensor] = {}
    all_there = threading.Barrier(count)
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda rank: work(Threads(rank, count, given, all_there)), range(count)))


def trained(processes: Processes, *, streamed: bool, labelled: bool) -> TrainState:
    x, y = td.distributions.ConcentricSquares(3).rows(0, 500, seed=0)
    z, label = x.float(), y if labelled else None
    state = TrainState.start(2, 3 if labelled else 1, CONFIG, seed=1)
    if streamed:
        batch = td.training.Batch
        training = train_streamed(
            state, lambda i: batch(z[i], None if label is None else label[i]), 500, CONFIG, processes
        )
    else:
        training = train(state, z, label, CONFIG, processes)
    for _ in run(state, training, 100, processes=processes):
        pass
    return state


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(("streamed", "labelled"), [(False, True), (True, False), (True, True)])
def test_several_processes_take_the_steps_of_one(count: int, streamed: bool, labelled: bool) -> None:
    alone = trained(ALONE, streamed=streamed, labelled=labelled)
    found = in_threads(count, lambda own: trained(own, streamed=streamed, labelled=labelled))
    for state in found:
        torch.testing.assert_close(torch.tensor(state.loss), torch.tensor(alone.loss), rtol=0, atol=1e-5)
        torch.testing.assert_close(state.weights.values, alone.weights.values, rtol=0, atol=1e-3)
        assert torch.equal(state.weights.values, found[0].weights.values)
        np.testing.assert_allclose(state.held_out, alone.held_out, rtol=1e-4)


def test_all_stop_at_the_same_step_when_one_is_asked() -> None:
    def stops(own: Processes) -> list[bool]:
        found = []
        for step in range(4):
            own.total(torch.zeros(1))
            found.append(own.agreed(own.rank == 1 and step == 1))
        return found

    assert in_threads(3, stops) == [[False, False, True, False]] * 3


def test_the_first_process_alone_keeps_the_checkpoint(tmp_path: Path) -> None:
    def work(own: Processes) -> bool:
        state = TrainState.start(2, 1, CONFIG, seed=1)
        checkpoint = Checkpoint(tmp_path / f"{own.rank}.checkpoint", "key", every=0)
        for _ in run(state, train(state, torch.zeros(300, 2), None, CONFIG, own), 100, checkpoint, own):
            pass
        return Path(checkpoint.path).exists()

    assert in_threads(2, work) == [True, False]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_parts_of_a_step_are_all_of_it(count: int) -> None:
    rows = torch.arange(10)
    parts = [Processes(rank, count).own(rows) for rank in range(count)]
    assert torch.equal(torch.cat(parts), rows)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_step_of_too_few_points_is_refused() -> None:
    state = TrainState.start(2, 1, CONFIG, seed=0)
    few = td.TrainConfig(batch_size=2, steps=3)
    with pytest.raises(td.InputError, match="batch_size must be at least 3, the number of processes, got 2"):
        next(train(state, torch.zeros(9, 2), None, few, Processes(0, 3)))


# Under torchrun ----------------------------------------------------------------------------------------

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
FIT = ["-m", "toydiffusion", "fit", "points", "--label-column", "side", "--batch-size", "101"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("processes")
    x, y = td.distributions.ConcentricSquares(3).sample(600, seed=0)
    (made / "points").mkdir()
    for k in range(3):
        part = slice(200 * k, 200 * (k + 1))
        td.Table(x[part], ("a", "b"), labels=y[part], label_column="side").to_pandas().to_parquet(
            made / "points" / f"{k}.parquet"
        )
    return made


def begin(place: Path, count: int, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TORCHRUN, f"--nproc-per-node={count}", *words],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return out, err


@pytest.mark.slow
def test_the_first_losses_agree_whatever_the_number_of_processes(place: Path) -> None:
    losses, cards = [], []
    for count in (1, 2):
        out, _ = finish(begin(place, count, *FIT, "--steps", "120", "--out", f"{count}.safetensors"))
        cards.append(out.replace(f"{count}.safetensors", "M"))
        losses.append(load(place / f"{count}.safetensors").fitted.history.loss[:100])
    np.testing.assert_allclose(losses[1], losses[0], rtol=0, atol=1e-5)
    # One process speaks, and writes.
    assert cards[0] == cards[1]
    assert not list(place.glob("*.checkpoint"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_processes_go_on_to_the_same_weights(place: Path, number: signal.Signals) -> None:
    """Ctrl-C or a kill comes to one of them. Of Ctrl-C the others learn, and stop at the same step."""
    fit = [*FIT, "--steps", "400", "--checkpoint-every", "0.1", "--out"]
    if not (place / "whole.safetensors").exists():
        finish(begin(place, 2, *fit, "whole.safetensors"))
    name = f"after-{number.name}"
    process = begin(place, 2, *fit, f"{name}.safetensors")
    checkpoint = place / f"{name}.checkpoint"
    end = time.monotonic() + 60
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), number)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert err.count("to go on, run: toydiffusion fit") == (number == signal.SIGINT)
    assert err.count("another process of this training has ended") == (number == signal.SIGKILL)
    assert checkpoint.exists()
    assert not (place / f"{name}.safetensors").exists()
    finish(begin(place, 2, *fit, f"{name}.safetensors", "--resume"))
    whole, again = (load(place / f"{one}.safetensors").fitted for one in ("whole", name))
    assert again.history == whole.history
    for one, other in zip(again.denoiser.parameters(), whole.denoiser.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_processes_that_differ_and_tables_are_refused_in_all_of_them(place: Path) -> None:
    (place / "script.py").write_text(
        "import os, numpy as np, toydiffusion as td\n"
        "x = np.random.default_rng(0).normal(size=(300, 2))\n"
        "rank = int(os.environ['RANK'])\n"
        "for config, seed in ((td.TrainConfig(steps=3), rank), (td.TableConfig(), 0)):\n"
        "    try:\n"
        "        td.Diffusion(config).fit(x, seed=seed)\n"
        "    except td.InputError as error:\n"
        "        open(f'told-{rank}', 'a').write(f'{error}\\n')\n"
    )
    finish(begin(place, 2, "script.py"))
    for rank in (0, 1):
        first, second = (place / f"told-{rank}").read_text().splitlines()
        assert first.startswith("the 2 processes have been given different points, settings, seeds or check")
        assert second.startswith("a stack of experts is fitted by one process")
