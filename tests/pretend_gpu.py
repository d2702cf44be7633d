"""A GPU that is not there: its tensors compute on the CPU, but say "pretend" and refuse to meet others.

An operation on a tensor of the pretended device and on one of the CPU raises, as torch does with a real GPU,
and so does `.numpy()`. So code that forgets to move a tensor fails on a machine without a GPU too.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

# Makes torch's place for other makers' devices usable from Python: streams, guards and autograd.
backend_registration._setup_privateuseone_for_python_backend("pretend")
DEVICE = torch.device("pretend", 0)


class OnDevice(Tensor):
    """A tensor that says it is on the pretended device. `held` is the one that computes."""

    @staticmethod
    def __new__(cls, held):
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return run(operation, args, kwargs or {})


def run(operation, args, kwargs):
    """Compute on the CPU underneath, and wrap the result if it belongs on the device."""
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    there = [one for one in tensors if isinstance(one, OnDevice)]
    # Numbers without dimensions may come from anywhere, and copies go across.
    here = [one for one in tensors if not isinstance(one, OnDevice) and one.ndim > 0]
    if here and there and operation not in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
        raise RuntimeError(f"tensors on different devices in {operation}")
    target = kwargs.get("device")
    if target is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    plain_args, plain_kwargs = tree_map(
        lambda one: one.held if isinstance(one, OnDevice) else one, (args, kwargs)
    )
    result = operation(*plain_args, **plain_kwargs)
    if there if target is None else torch.device(target).type == DEVICE.type:
        result = tree_map(lambda one: OnDevice(one) if isinstance(one, Tensor) else one, result)
    return return_and_correct_aliasing(operation, args, kwargs, result) if there else result


_LIBRARY = torch.library.Library("_", "IMPL")
_LIBRARY.fallback(lambda operation, *args, **kwargs: run(operation, args, kwargs), "PrivateUse1")
