"""Where tensors are computed: the CPU or a CUDA GPU, by name.

Random numbers are always made on the CPU (`row_noise`). So the same seed gives the same points everywhere.
"""

from __future__ import annotations

import re

import torch

from toydiffusion.errors import InputError, shown

CPU = torch.device("cpu")


def device_name(name: object) -> str:
    """Return `name` if it is the name of a device: auto, cpu, cuda, cuda:1. It need not be there.

    >>> device_name("gpu")
    Traceback (most recent call last):
    toydiffusion.errors.InputError: unknown device 'gpu': allowed are 'auto', 'cpu', 'cuda', 'cuda:1'
    """
    if not isinstance(name, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise InputError(f"unknown device {shown(name)}: allowed are 'auto', 'cpu', 'cuda', 'cuda:1'")
    return name


def torch_device(name: str) -> torch.device:
    """Return the device of this name. "auto" is the first GPU if there is one, and else the CPU.

    Raises `InputError` for an unknown name, and for a GPU that torch does not find.

    >>> torch_device("cpu")
    device(type='cpu')
    """
    kind, _, number = device_name(name).partition(":")
    there = torch.cuda.device_count() if kind != "cpu" and torch.cuda.is_available() else 0
    if kind == "cpu" or (kind == "auto" and not there):
        return CPU
    index = int(number or 0)
    if index >= there:
        found = f"{there} GPU{'s' if there > 1 else ''}" if there else "none"
        raise InputError(f"device {name!r} was asked for, but torch finds {found}; allowed: 'auto', 'cpu'")
    return torch.device(_GPU, index)


_GPU = "cuda"
"""What torch calls the kind of device. The tests put a pretended one here."""
