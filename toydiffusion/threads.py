"""Small work in one thread, and independent pieces of work, each in a thread of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from toydiffusion.devices import CPU


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread for a while.

    Small operations gain little from a second thread and lose much on a busy machine, where each waits for
    the other. They also round differently: with one, results do not depend on the thread count.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


Item = TypeVar("Item")
Answer = TypeVar("Answer")


def in_threads(
    work: Callable[[Item], Answer], items: Iterable[Item], device: torch.device = CPU
) -> Iterator[Answer]:
    """Yield `work(item)` for each item, in their order, computed by as many threads as torch has, at most 8.

    Each thread computes a piece of its own, with one thread of torch. This is faster than all threads in
    turn on each small operation, above all on a busy machine, where they would wait for each other. Only so
    many pieces are begun as there are threads. On a GPU they are computed one after another.

    >>> list(in_threads(lambda n: n * n, range(4)))
    [0, 1, 4, 9]
    """
    whole = torch.get_num_threads()
    threads = min(whole, _MOST)
    if threads == 1 or device != CPU:
        yield from map(work, items)
        return
    waiting: deque[Future[Answer]] = deque()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) == threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()
            # Threads begun later take over what the last one was told.
            torch.set_num_threads(whole)


_MOST = 8
"""Of a block of the flow, Python itself takes about a tenth of the time, which threads cannot share."""
