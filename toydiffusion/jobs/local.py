"""Pieces of work in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Protocol, TypeVar

from toydiffusion.errors import store, whole_number

Answer = TypeVar("Answer")
MOST_DEATHS = 5
"""How often workers may die over one piece of work before all is given up."""


class WorkerError(RuntimeError):
    """Workers died too often over a piece of work; the message names it."""


class Executor(Protocol):
    """Something that computes pieces of work, which have numbers."""

    def run(self, task: Callable[[int], Answer], numbers: Sequence[int]) -> Iterator[Answer]:
        """Yield the answers of these pieces as they are finished. No process is left after the last one.

        - `task`: from a number to its answer. It and the answers must be values that can be sent.
        """
        ...


@dataclass(frozen=True)
class Local:
    """Processes of this machine. One worker is this process itself.

    - `workers`: how many; None (default) is one for each processor that this process may use.

    A worker that dies is replaced and its piece of work begun again, at most 5 times. Workers end with this
    process, even if it is killed.
    """

    workers: int | None = None

    def __post_init__(self) -> None:
        """Check the number."""
        given = processors() if self.workers is None else self.workers
        store(self, "workers", whole_number("workers", given, 1, 10_000))

    def run(self, task: Callable[[int], Answer], numbers: Sequence[int]) -> Iterator[Answer]:
        """Yield the answers of these pieces as they are finished."""
        assert self.workers is not None
        workers = min(self.workers, len(numbers))
        if workers <= 1:
            yield from map(task, numbers)
            return
        todo, deaths = list(numbers), Counter[int]()
        while todo:
            running: dict[Future[Answer], int] = {}
            done: set[int] = set()
            try:
                with _pool(workers) as pool:
                    for number in todo:
                        running[pool.submit(task, number)] = number
                        # One more than there are workers, so that none waits for the driver.
                        if len(running) > workers:
                            yield from _finished(running, done)
                    while running:
                        yield from _finished(running, done)
            except BrokenProcessPool:
                deaths.update(running.values())
                worst = max(running.values(), key=deaths.__getitem__, default=todo[0])
                if deaths[worst] >= MOST_DEATHS:
                    raise WorkerError(
                        f"workers died {deaths[worst]} times over piece {worst}, most likely for want of "
                        "memory; take fewer workers or smaller pieces"
                    ) from None
            todo = [number for number in todo if number not in done]


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _finished(running: dict[Future[Answer], int], done: set[int]) -> Iterator[Answer]:
    """Wait until a piece is finished, and yield what is; what goes wrong is raised after that."""
    ready, _ = wait(running, return_when=FIRST_COMPLETED)
    broken: BaseException | None = None
    for one in ready:
        error = one.exception()
        if error is not None:
            broken = error
            continue
        done.add(running.pop(one))
        yield one.result()
    if broken is not None:
        raise broken


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool whose workers end when the block does, or when this process dies."""
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(theirs,))
    try:
        yield pool
    finally:
        # Nothing is ever written: the workers see the end of the pipe, however this process ends.
        ours.close()
        pool.shutdown(wait=True, cancel_futures=True)
        theirs.close()


def _begin(driver: Connection) -> None:
    """Make a process a worker: Ctrl-C is for the driver, and the end of the driver is the worker's end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        try:
            driver.recv_bytes()
        except (EOFError, OSError):
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
