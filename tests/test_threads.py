"""Pieces of work in threads: the order, the answers, and what happens when something goes wrong."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

import toydiffusion as td
from toydiffusion.threads import in_threads


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_answers_come_in_order_and_few_are_begun_at_once(threads) -> None:
    begun: list[int] = []
    seen: set[str] = set()

    def work(n: int) -> int:
        begun.append(n)
        seen.add(threading.current_thread().name)
        assert threads == 1 or torch.get_num_threads() == 1
        time.sleep(0.01 if n % 2 else 0.0)
        return n * n

    for done, answer in enumerate(in_threads(work, range(20))):
        assert answer == done * done
        assert len(begun) <= done + 1 + threads
    assert sorted(begun) == list(range(20))
    assert len(seen) <= threads
    assert torch.get_num_threads() == threads
    fresh: list[int] = []
    thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert fresh == [threads]


def test_an_error_comes_through_and_ends_the_work(threads) -> None:
    begun = []

    def work(n: int) -> int:
        begun.append(n)
        if n == 3:
            raise td.InputError("three")
        return n

    with pytest.raises(td.InputError, match="three"):
        list(in_threads(work, range(1000)))
    assert len(begun) < 10


def test_who_stops_early_leaves_no_thread(threads) -> None:
    answers = in_threads(lambda n: n, range(10**6))
    assert next(answers) == 0
    answers.close()  # type: ignore[attr-defined]
    assert not [one for one in threading.enumerate() if one.name.startswith("ThreadPoolExecutor")]


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    x, y = td.distributions.ConcentricSquares(3).sample(400, seed=0)
    config = td.TrainConfig(steps=60, width=16, edges=8)
    model = td.Diffusion(config).fit(x, y, seed=0, progress=False)
    before, found = torch.get_num_threads(), []
    for number in (1, 3):
        torch.set_num_threads(number)
        scores = model.log_prob(x, batch_size=90).value
        found.append((scores, model.sample(300, seed=1, batch_size=70), model.predict_proba(x)))
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
