"""Processes that train one network together, begun by torchrun."""

from __future__ import annotations

import atexit
import hashlib
import os

import torch
from torch import Tensor, distributed

from toydiffusion.errors import InputError


class Processes:
    """Processes that run the same program and share its work; one alone has nothing to share.

    - `rank`: the number of this process, from 0.
    - `count`: how many there are.

    >>> alone = Processes()
    >>> alone.own(torch.arange(5)).tolist(), alone.agreed(False)
    ([0, 1, 2, 3, 4], False)
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count
        self._asked = self._stopping = False

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and speaks to the user."""
        return self.rank == 0

    def own(self, rows: Tensor) -> Tensor:
        """Return the part of the rows that falls to this process; the parts differ by at most one row."""
        return torch.tensor_split(rows, self.count)[self.rank]

    def total(self, numbers: Tensor) -> Tensor:
        """Return the sum of what every process gives, the same bits in all of them.

        Raises `ConnectionError` when another process is gone.
        """
        if self.count == 1:
            return numbers
        # What `agreed` was told travels along, since a second sum would cost nearly as much as the first.
        whole = self._sum(torch.cat([numbers, numbers.new_tensor([float(self._asked)])]))
        self._stopping = bool(whole[-1] > 0)
        return whole[:-1]

    def _sum(self, numbers: Tensor) -> Tensor:
        try:
            distributed.all_reduce(numbers)
        except RuntimeError as error:
            reason = "another process of this training has ended; its own message says why"
            raise ConnectionError(reason) from error
        return numbers

    def agreed(self, asked: bool) -> bool:
        """Return whether all processes stop now, the same in each of them.

        - `asked`: whether this process was asked to stop. The others learn of it in the next sum.
        """
        stopping = self._stopping if self.count > 1 else asked
        self._asked = asked and not stopping
        return stopping

    def check_same(self, text: str, what: str) -> None:
        """Raise `InputError` unless the text is the same in all processes.

        - `what`: what it stands for, in a few words.
        """
        if self.count == 1:
            return
        words = torch.frombuffer(
            bytearray(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8
        ).double()
        # Equal numbers have a mean square that is the square of their mean; 32 bytes are exact in float64.
        mean, square = (self.total(words**power) / self.count for power in (1, 2))
        if not torch.equal(square, mean**2):
            raise InputError(f"the {self.count} processes have been given different {what}; start them alike")


ALONE = Processes()
"""One process with nobody to share with."""


def processes() -> Processes:
    """Return the processes that torchrun began, connected to each other, or this one alone.

    A program that has called `torch.distributed.init_process_group` itself keeps its group.
    """
    if not distributed.is_available():
        return ALONE
    if not distributed.is_initialized():
        if not distributed.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
            return ALONE
        if os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"] and os.path.exists("/sys/class/net/lo"):
            # All are on this machine, so nobody else needs to reach their ports, which ask for no password.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        distributed.init_process_group()
        atexit.register(distributed.destroy_process_group)
    return Processes(distributed.get_rank(), distributed.get_world_size())
