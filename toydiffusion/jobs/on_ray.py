"""Pieces of work on a Ray cluster, of this machine or of many."""

from __future__ import annotations

import functools
import importlib.util
import logging
import multiprocessing
import os
import secrets
import signal
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from toydiffusion.errors import InputError, shown, store, whole_number
from toydiffusion.jobs.local import MOST_DEATHS, Answer, WorkerError, processors

_SECONDS = 10.0
"""How long a cluster may take to answer, and to let one join. Ray itself would wait for minutes."""
_QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
_STORE = 100 * 2**20
"""The bytes of Ray's object store here. Shards go to files, so little is in it."""


@dataclass(frozen=True)
class OnRay:
    """Workers of a Ray cluster. It needs the extra `cluster`.

    - `address`: None (default) starts Ray on this machine, and ends it after the job. "HOST:PORT" joins a
      cluster.
    - `workers`: how many pieces are computed at once; None (default) is one for each processor.

    A worker that dies is replaced and its piece of work begun again, at most 5 times.

    **Who may connect.** Ray started here asks for a token: a fresh one, known to its processes alone, through
    their environment. It has no dashboard, sends no usage reports, and uses the loopback address. Still a
    dozen of its ports listen on all interfaces. The token guards them, but nothing is encrypted. Whoever can
    open a port of a cluster without tokens can run programs on it; joining one gives a warning.
    """

    address: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        """Check both."""
        if self.workers is not None:
            store(self, "workers", whole_number("workers", self.workers, 1, 100_000))
        if self.address is not None:
            _host_and_port(self.address)

    def run(self, task: Callable[[int], Answer], numbers: Sequence[int]) -> Iterator[Answer]:
        """Yield the answers of these pieces as they are finished."""
        if not numbers:
            return
        with tempfile.TemporaryDirectory(prefix="toydiffusion-") as folder, ExitStack() as stack:
            ray = self._started(stack, folder) if self.address is None else self._joined(self.address)
            try:
                workers = self.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
                compute = ray.remote(num_cpus=1, max_retries=MOST_DEATHS, retry_exceptions=False)(_piece)
                running: dict[Any, int] = {}
                for number in numbers:
                    running[compute.remote(task, number)] = number
                    # Twice as many as there are workers, so that none waits for the driver.
                    if len(running) >= 2 * workers:
                        yield from _finished(ray, running)
                while running:
                    yield from _finished(ray, running)
            finally:
                ray.shutdown()

    def _started(self, stack: ExitStack, folder: str) -> Any:
        """Start Ray on this machine; what it leaves behind is killed at the end of the stack."""
        with stack.enter_context(_guarded()):
            ray = _ray("token")
            try:
                ray.init(
                    num_cpus=self.workers or processors(),
                    include_dashboard=False,
                    object_store_memory=_STORE,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=folder,
                    **_QUIET,
                )
            except Exception as error:  # Ray raises a bare one when a process of it does not answer
                raise WorkerError(f"Ray cannot be started here: {_first_line(error)}") from None
        return ray

    @staticmethod
    def _joined(address: str) -> Any:
        """Join a cluster."""
        host, port = _host_and_port(address)
        try:
            socket.create_connection((host, port), timeout=_SECONDS).close()
        except OSError as error:
            raise InputError(f"no cluster answers at {shown(address)} ({error})") from None
        # What the user has said, else what there is a token for.
        mode = os.environ.get("RAY_AUTH_MODE", "token" if _has_token() else "disabled")
        ray = _ray(mode)
        if not _can_be_joined(address):
            raise InputError(f"what answers at {shown(address)} is no Ray cluster that can be joined")
        if mode.lower() != "token":
            warnings.warn(
                f"the cluster at {address} is joined without a token: whoever reaches its ports can run "
                "programs on it; set RAY_AUTH_MODE=token and one token on all its machines",
                UserWarning,
                stacklevel=3,
            )
        try:
            ray.init(address=address, **_QUIET)
        except Exception as error:  # as above
            raise InputError(f"cannot join the cluster at {shown(address)}: {_first_line(error)}") from None
        return ray


def _can_be_joined(address: str) -> bool:
    """Whether Ray can join within 10 seconds. It is tried in another process, since Ray cannot be stopped."""
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    trial = context.Process(target=_join, args=(ours, address))
    trial.start()
    ours.close()
    try:
        theirs.recv()  # that Ray is imported
        return bool(theirs.poll(_SECONDS) and theirs.recv())
    except EOFError:
        return False
    finally:
        trial.kill()
        trial.join()
        theirs.close()


def _join(driver: Connection, address: str) -> None:
    """Join a cluster, and say so."""
    # What Ray prints about it is for nobody.
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    import ray

    driver.send(True)
    ray.init(address=address, **_QUIET)
    driver.send(True)


def _piece(task: Callable[[int], Answer], number: int) -> Answer:
    """Compute one piece of work, in a worker of Ray."""
    return task(number)


def _finished(ray: Any, running: dict[Any, int]) -> Iterator[Any]:
    """Wait until a piece is finished, and yield what is."""
    ready, _ = ray.wait(list(running), num_returns=1)
    for one in ready:
        number = running.pop(one)
        try:
            yield ray.get(one)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise WorkerError(f"Ray gave up over piece {number}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _has_token() -> bool:
    """Whether Ray would find a token, of a cluster to join."""
    given = [os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")]
    return any(given) or (Path.home() / ".ray" / "auth_token").exists()


def _ray(mode: str) -> Any:
    """Import Ray, which must not run here yet.

    - `mode`: "token" or "disabled". Ray reads it, and the token, once in a process.
    """
    if importlib.util.find_spec("ray") is None:
        raise InputError("this needs Ray: pip install 'toydiffusion[cluster]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Without it Ray warns of a default of its own that is to change.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ["RAY_AUTH_MODE"] = mode
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
    if ray.is_initialized():
        raise InputError("Ray already runs in this process; call ray.shutdown() first")
    return ray


@functools.cache
def _token() -> str:
    """Return the token of the clusters that this process starts: a fresh one for each process."""
    return secrets.token_hex(32)


@contextmanager
def _guarded() -> Iterator[AbstractContextManager[None]]:
    """Yield the context to start Ray in, with the token. No process of that Ray outlives the block.

    Ray reads the token as it is imported.

    Some of Ray's processes stay when the driver is killed. A process of ours waits for the end of a pipe,
    which comes however the driver ends, and kills them.
    """
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe()
    guard = context.Process(target=_guard, args=(theirs, _token()))
    guard.start()
    theirs.close()
    ours.recv()  # that it is on guard
    try:
        yield _with_token()
    finally:
        ours.close()
        guard.join()


@contextmanager
def _with_token() -> Iterator[None]:
    """Let processes that are begun in the block know the token."""
    before = os.environ.get("RAY_AUTH_TOKEN")
    os.environ["RAY_AUTH_TOKEN"] = _token()
    try:
        yield
    finally:
        del os.environ["RAY_AUTH_TOKEN"]
        if before is not None:
            os.environ["RAY_AUTH_TOKEN"] = before


def _guard(pipe: Connection, token: str) -> None:
    """Wait for the end of the driver, then kill the processes that know the token, and their descendants.

    Some of Ray's processes write their title over their environment. They descend from others that do not,
    which is noted while the driver lives.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):
        pipe.send(True)
    mark, known = f"RAY_AUTH_TOKEN={token}".encode(), set[tuple[int, str]]()
    while not pipe.poll(0.5):
        known |= _marked(mark, known)
    # Until a few looks in a row find none, since a process may just be starting another.
    quiet = 0
    while quiet < 5:
        quiet += 1
        for pid, _ in _marked(mark, known):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                quiet = 0
        time.sleep(0.2)


def _marked(mark: bytes, known: set[tuple[int, str]]) -> set[tuple[int, str]]:
    """Return the living processes that have the mark in their environment, are known, or descend from these.

    A process is its number and the time of its start.
    """
    found = _processes()
    ours = {pid for pid, (_, began) in found.items() if (pid, began) in known or _has(pid, mark)}
    while more := {pid for pid, (parent, _) in found.items() if parent in ours} - ours:
        ours |= more
    return {(pid, found[pid][1]) for pid in ours}


def _has(pid: int, mark: bytes) -> bool:
    """Whether the environment of a process has the mark."""
    with suppress(OSError):
        return mark in Path(f"/proc/{pid}/environ").read_bytes()
    return False


def _processes() -> dict[int, tuple[int, str]]:
    """Return the parent and the time of the start of each living process, by its number."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                found[int(entry.name)] = int(fields[1]), fields[19]
    return found


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(f"a cluster's address is HOST:PORT, such as 10.0.0.5:6379, got {shown(address)}")
    return host.strip("[]"), int(port)
