"""Checkpoints: what an interrupted training leaves in a file, and how another goes on from it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from time import monotonic
from typing import TYPE_CHECKING, Protocol, TypeVar

from toydiffusion.errors import InputError, finite_number, shown, store
from toydiffusion.files import Archive, check_target
from toydiffusion.types import Labels, Points

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Step = TypeVar("Step")


class Resumable(Protocol):
    """What training changes, as a file holds it."""

    def archive(self) -> Archive:
        """Return everything that changes, as tensors and metadata."""
        ...

    def take(self, archive: Archive) -> None:
        """Become what `archive` gave, or raise an error."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in a file.

    - `path`: the file.
    - `fingerprint`: which data and settings it belongs to; see `fingerprint`.
    - `every`: how many seconds pass until it is written again, default 30.
    """

    path: str | os.PathLike[str]
    fingerprint: str
    every: float = 30.0

    def __post_init__(self) -> None:
        """Check the seconds."""
        store(self, "every", finite_number("checkpoint_every", self.every, least=0, unit="of seconds"))

    def save(self, state: Resumable) -> None:
        """Write the state, complete or not at all."""
        archive = state.archive()
        metadata = {**archive.metadata, "fingerprint": self.fingerprint}
        Archive(archive.tensors, metadata).write(self.path, "checkpoint")

    def resume(self, state: Resumable) -> None:
        """Put the file's content into the state; one of other data or settings is an `InputError`."""
        archive = Archive.read(self.path, "checkpoint")
        if archive.metadata.get("fingerprint") != self.fingerprint:
            raise InputError(
                f"checkpoint {shown(str(self.path))} belongs to other points, settings or seed; "
                "remove it or train without resuming"
            )
        try:
            state.take(archive)
        except (InputError, KeyError, ValueError, TypeError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"checkpoint {shown(str(self.path))} cannot be resumed: {reason}") from None


def check_checkpoint(path: str | os.PathLike[str]) -> None:
    """Raise `InputError` unless a checkpoint can be put at `path` without the loss of another file."""
    check_target(path)
    if os.path.exists(path):
        try:
            Archive.read(path, "checkpoint")
        except InputError as error:
            raise InputError(
                f"the checkpoint would replace {shown(str(path))}, which is not one of ours ({error}); "
                "move that file away"
            ) from None


def fingerprint(z: Points, label: Labels | None, config: DataclassInstance, *, seed: int) -> str:
    """Return a digest of all that decides the trained weights: points, labels, settings, seed."""
    digest = hashlib.sha256(json.dumps([asdict(config), seed, list(z.shape)]).encode())
    digest.update(z.double().numpy().tobytes())
    if label is not None:
        digest.update(label.numpy().tobytes())
    return digest.hexdigest()


def kept(
    steps: Iterator[Step],
    state: Resumable,
    checkpoint: Checkpoint | None,
    agreed: Callable[[bool], bool] = bool,
) -> Iterator[Step]:
    """Yield from `steps`; write a checkpoint as often as it says, at the end, and on `KeyboardInterrupt`.

    Ctrl-C and SIGTERM wait for the end of the step. A second one ends the training at once.

    - `steps`: what carries `state` forward, and yields after each step.
    - `agreed`: from whether this process was asked to stop to whether it stops, called after each step.
    """
    saved = monotonic()
    with _between_steps() as asked:
        for step in steps:
            yield step
            if agreed(asked()):
                if checkpoint is not None:
                    checkpoint.save(state)
                raise KeyboardInterrupt
            if checkpoint is not None and monotonic() - saved >= checkpoint.every:
                checkpoint.save(state)
                saved = monotonic()
        if checkpoint is not None:
            checkpoint.save(state)
        if agreed(asked()):
            raise KeyboardInterrupt


@contextmanager
def _between_steps() -> Iterator[Callable[[], bool]]:
    """Hold the first Ctrl-C back, which could tear a step in two; yield a function that tells of it.

    The second one is not held back. It interrupts a step or the writing of a checkpoint, and then an older
    checkpoint stays as it was.
    """
    signals: list[int] = []

    def hold(number: int, _: object) -> None:
        signals.append(number)
        if len(signals) > 1:
            raise KeyboardInterrupt

    handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            # A handler of Python's is there to raise KeyboardInterrupt; others, such as "ignore", stay.
            if callable(signal.getsignal(number)):
                handlers[number] = signal.signal(number, hold)
    try:
        yield lambda: bool(signals)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
