"""The divergence of a denoiser: the trace of its Jacobian, exact or by random probes."""

from __future__ import annotations

import torch
from torch import Tensor

from toydiffusion.denoisers import Network, Stacked
from toydiffusion.types import Denoiser, Labels, Levels, Points


def denoise_with_trace(
    denoiser: Denoiser,
    z: Points,
    sigma: Levels,
    label: Labels | None,
    *,
    probes: Tensor | None = None,
    create_graph: bool = False,
) -> tuple[Points, Tensor]:
    """Return `D(z; sigma)`, `(n, d)`, and the trace of its Jacobian `J` in z, `(n, k)`.

    - `denoiser`: a `Network` or a `Stacked` has its trace beside its values. Any other denoiser is
      differentiated by autograd, in as many backward passes.
    - `probes`: None for the exact trace; k is then 1. Or probes v `(n, k, d)` with random entries +1 and -1.
      The result is then `v^T J v` for each, whose mean over v is the trace (Hutchinson 1989).
    - `create_graph`: whether to keep the graph, so that both results can be differentiated again.

    >>> halving = lambda z, sigma, label=None: z / 2
    >>> D, trace = denoise_with_trace(halving, torch.ones(1, 3), torch.ones(1), None)
    >>> trace
    tensor([[1.5000]])
    """
    if isinstance(denoiser, Network | Stacked):
        with torch.set_grad_enabled(create_graph):
            return denoiser.with_trace(z, sigma, label, probes=probes)
    with torch.enable_grad():
        at = z if create_graph else z.detach().requires_grad_()
        clean = denoiser(at, sigma, label)
        if not clean.requires_grad:  # a denoiser that does not depend on z
            return clean, z.new_zeros(len(z), 1 if probes is None else probes.shape[1])
        n, d = z.shape
        axes = torch.eye(d).to(z)[:, None].expand(d, n, d)
        directions = axes if probes is None else probes.transpose(0, 1)
        parts = []
        for i, direction in enumerate(directions):
            last = i == len(directions) - 1
            (back,) = torch.autograd.grad(
                clean,
                at,
                direction.to(clean),
                retain_graph=create_graph or not last,
                create_graph=create_graph,
                materialize_grads=True,
            )
            parts.append((back * direction).sum(1))
    traces = torch.stack(parts, 1)
    if probes is None:
        traces = traces.sum(1, keepdim=True)
    return (clean, traces) if create_graph else (clean.detach(), traces)
