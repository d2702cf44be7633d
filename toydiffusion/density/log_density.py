"""The log-density of points under a denoiser and a prior, with its errors."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toydiffusion.density.array_with_errors import SHOWN, ArrayWithErrors, summary_rows
from toydiffusion.density.probability_flow import ProbabilityFlow
from toydiffusion.distributions import Prior
from toydiffusion.errors import whole_number
from toydiffusion.row_noise import RowNoise
from toydiffusion.types import Denoiser, Labels, Levels, Points
from toydiffusion.views import data_frame, html_table

if TYPE_CHECKING:
    from pandas import DataFrame


class ToleranceWarning(UserWarning):
    """Some log-densities have an error bar wider than the tolerance asked for. The values stand."""


@dataclass(frozen=True, eq=False)
class LogDensity(ArrayWithErrors):
    """Log-densities of n points, in nats, and their errors. In arithmetic it is its `value`.

    - `value` `(n,)`: the log-densities.
    - `error` `(n,)`: the numerical error of the model's own density. It is a bar, not a bound
      (`density.ProbabilityFlow`).
    - `prior_error` `(n,)`: the mismatch at sigma_max between the law that the denoiser implies and the prior
      in its place (`prior_mismatch`).
    - `std_error` `(n,)`: the standard error of the random probes; 0 with the exact divergence.
    - `evaluations` `(n,)`: the number of denoiser evaluations.
    - `met` `(n,)`: whether `error` is within the tolerance.

    `total_error` `(n,)` is their sum `error + prior_error + std_error`.

    >>> from toydiffusion.density import ProbabilityFlow, log_density
    >>> from toydiffusion.distributions import Prior, Square
    >>> prior = Prior(Square().standardized(0.0, 0.577), 20.0)
    >>> at, level = torch.zeros(1, 2, dtype=torch.float64), torch.full((1,), 0.01, dtype=torch.float64)
    >>> found = log_density(ProbabilityFlow(prior.distribution.denoise, prior.distribution), prior, at, level)
    >>> truth = prior.distribution.log_prob(at, 0.01)
    >>> abs(np.asarray(found) - truth.numpy()).item() <= found.error.item() < 0.002
    True
    """

    value: NDArray[np.float64]
    error: NDArray[np.float64]
    prior_error: NDArray[np.float64]
    std_error: NDArray[np.float64]
    evaluations: NDArray[np.int64]
    met: NDArray[np.bool_]

    @property
    def total_error(self) -> NDArray[np.float64]:
        """`error + prior_error + std_error`, `(n,)`."""
        return self.error + self.prior_error + self.std_error

    def __repr__(self) -> str:
        """Return the first values with their total errors."""
        shown = [f"{v:.4f} +- {e:.1g}" for v, e in zip(self.value[:6], self.total_error[:6], strict=True)]
        more = f", ... {len(self)} points" if len(self) > 6 else ""
        return f"LogDensity([{', '.join(shown)}{more}] nats)"

    def _repr_html_(self) -> str:
        columns = {
            "value": (self.value, ".4f"),
            "error": (self.error, ".2g"),
            "prior_error": (self.prior_error, ".2g"),
            "total_error": (self.total_error, ".2g"),
            "evaluations": (self.evaluations, ",.0f"),
        }
        rows = summary_rows(columns.values())
        for row, met in zip(rows, self.met[:SHOWN].tolist(), strict=False):
            row.append(str(met))
        caption = f"LogDensity of {len(self):,} points, in nats; {int(self.met.sum()):,} met the tolerance"
        return html_table(caption, rows, ["", *columns, "met"], align="right")

    def to_pandas(self) -> DataFrame:
        """Return a pandas data frame with a row for each point.

        The first two columns, `log_density` and `log_density_total_error`, are those that
        `toydiffusion log-prob` writes. The others are the fields `error`, `prior_error`, `std_error`,
        `evaluations` and `met`. Raises `ImportError` without pandas.
        """
        columns = {f.name: getattr(self, f.name) for f in fields(self)[1:]}
        return data_frame({"log_density": self.value, "log_density_total_error": self.total_error} | columns)

    def shifted(self, nats: NDArray[np.float64]) -> LogDensity:
        """Return the same with `nats` `(n,)` added to the values."""
        return LogDensity(self.value + nats, *(getattr(self, f.name) for f in fields(self)[1:]))

    @classmethod
    def exact(cls, value: NDArray[np.float64]) -> LogDensity:
        """Return log-densities `(n,)` known in closed form: without errors, and without evaluations."""
        nothing = np.zeros(len(value))
        return cls(
            value, nothing, nothing, nothing, np.zeros(len(value), np.int64), np.ones(len(value), bool)
        )

    def without(self, gone: NDArray[np.bool_]) -> LogDensity:
        """Return the same, NaN where `gone` `(n,)` is True."""
        return LogDensity(
            np.where(gone, np.nan, self.value),
            np.where(gone, np.nan, self.error),
            np.where(gone, np.nan, self.prior_error),
            np.where(gone, np.nan, self.std_error),
            np.where(gone, 0, self.evaluations),
            self.met | gone,
        )

    def replaced(self, rows: NDArray[np.int64], others: LogDensity) -> LogDensity:
        """Return the same with the others, `(len(rows),)`, in the places of these rows."""

        def put(name: str) -> NDArray[Any]:
            found: NDArray[Any] = getattr(self, name).copy()
            found[rows] = getattr(others, name)
            return found

        return LogDensity(*(put(f.name) for f in fields(self)))

    def warn(self, tolerance: float) -> None:
        """Issue a `ToleranceWarning` if some of the values missed the tolerance."""
        if not self.met.all():
            warnings.warn(
                f"{int((~self.met).sum())} of {len(self)} log-densities missed the tolerance of "
                f"{tolerance:g} nats, the worst with an error of about {self.error[~self.met].max():.2g}; "
                "the values stand, with their errors",
                ToleranceWarning,
                stacklevel=3,
            )

    @staticmethod
    def joined(parts: Sequence[LogDensity]) -> LogDensity:
        """Return the parts one after another."""
        names = [f.name for f in fields(LogDensity)]
        return LogDensity(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    @staticmethod
    def chosen(parts: Sequence[LogDensity], index: NDArray[np.int64]) -> LogDensity:
        """Return row i of part `index[i]`, for each i."""
        rows = np.arange(len(index))
        names = [f.name for f in fields(LogDensity)]
        return LogDensity(*(np.stack([getattr(p, name) for p in parts])[index, rows] for name in names))

    @staticmethod
    def mixed(
        parts: Sequence[LogDensity], frequencies: NDArray[np.float64]
    ) -> tuple[LogDensity, NDArray[np.float64]]:
        """Return the log-density of the mixture of K classes, and the class posterior, `(n, K)`.

        `log p(x) = logsumexp_c(log f_c + log p(x | c))`. Its derivative in `log p(x | c)` is the posterior
        `p(c | x)`, which therefore weighs the errors of the classes. Standard errors are independent and add
        in quadrature.
        """
        joint = np.stack([part.value for part in parts], 1) + np.log(frequencies)
        value = np.logaddexp.reduce(joint, axis=1)
        share = np.exp(joint - value[:, None])

        def over(name: str) -> NDArray[Any]:
            return np.stack([getattr(part, name) for part in parts], 1)

        mixture = LogDensity(
            value,
            (share * over("error")).sum(1),
            (share * over("prior_error")).sum(1),
            np.sqrt(((share * over("std_error")) ** 2).sum(1)),
            over("evaluations").sum(1),
            # A class without weight at the point does not affect the value, so it may miss the tolerance.
            (over("met") | (share < 1e-12)).all(1),
        )
        return mixture, share


def log_density(
    flow: ProbabilityFlow,
    prior: Prior,
    z: Points,
    sigma: Levels,
    label: Labels | None = None,
    *,
    probes: int | None = None,
    seed: int = 0,
    first_row: int = 0,
) -> LogDensity:
    """Return the log-density that `flow` and `prior` define, `log p(z; sigma) = log prior(z_max) - change`.

    The flow carries z from sigma up to z_max at the level of the prior, and log p gains `change` on the way.

    - `z` `(n, d)`: the points.
    - `sigma` `(n,)`: their noise levels.
    - `label`: class indices `(n,)`, or None. It goes to the denoiser and the prior as it is.
    - `probes`: None for the exact divergence, which costs d backward passes. A number >= 4 is the mean over
      so many random probes (Hutchinson), each followed along the whole trajectory. In two dimensions all
      probes of one row in 2^(probes - 1) agree by chance, and its standard error is then 0.
    - `seed`, `first_row`: row i has row `first_row + i` of the random numbers of `seed`.
    """
    n, d = z.shape
    signs = None
    if probes is not None:
        probes = whole_number("probes", probes, 4, hint=" (their spread is the standard error)")
        coins = RowNoise(seed, "probes").uniform(first_row, first_row + n, dim=probes * d)
        signs = torch.where(coins < 0.5, -1.0, 1.0).to(z).reshape(n, probes, d)
    with torch.no_grad():
        carried = flow.carry(z, sigma, prior.sigma, label, probes=signs)
        value = prior.log_prob(carried.z, label) - carried.change.mean(1)
        mismatch = prior_error(flow.denoiser, prior, carried.z, label)
    spread = np.zeros(n) if probes is None else carried.change.numpy().std(axis=1, ddof=1) / probes**0.5
    return LogDensity(
        value.numpy(),
        carried.error.numpy(),
        mismatch.numpy(),
        spread,
        carried.evaluations.numpy() + (_NODES if n else 0),
        carried.met.numpy(),
    )


def value_and_gradient(
    flow: ProbabilityFlow, prior: Prior, z: Points, sigma: Levels, label: Labels | None = None
) -> tuple[Tensor, Tensor]:
    """Return `log_density` at z, `(n,)`, and its gradient in z, `(n, d)`, by autograd through the solver.

    The steps of the solver are held fixed. Memory grows with steps and points, so a few hundred points are
    differentiated at a time.
    """
    values, slopes = [z.new_zeros(0)], [torch.zeros_like(z[:0])]
    for first in range(0, len(z), 256):
        rows = slice(first, first + 256)
        given = None if label is None else label[rows]
        with torch.enable_grad():
            at = z[rows].detach().requires_grad_()
            carried = flow.carry(at, sigma[rows], prior.sigma, given, create_graph=True)
            value = prior.log_prob(carried.z, given) - carried.change.mean(1)
            slopes += torch.autograd.grad(value.sum(), at)
        values.append(value.detach())
    return torch.cat(values), torch.cat(slopes)


def prior_error(denoiser: Denoiser, prior: Prior, z: Points, label: Labels | None) -> Tensor:
    """Return the size of the mismatch at z `(n, d)`, with three times its own standard error, `(n,)`."""
    mismatch, std_error = prior_mismatch(denoiser, prior, z, label)
    return mismatch.abs() + 3 * std_error


def prior_mismatch(
    denoiser: Denoiser, prior: Prior, z: Points, label: Labels | None
) -> tuple[Tensor, Tensor]:
    """Return `log p - log prior` at z `(n, d)`, where p is the law of `denoiser`, and its standard error.

    All of it is at the level of the prior. The difference of the scores,
    `delta = (D(z) - z) / sigma^2 - grad log prior(z)`, is the gradient of the mismatch. So with m the prior's
    mean

        log p(z) - log prior(z) = int_0^1 delta(m + t (z - m)) . (z - m) dt - log E_prior[e^(the integral)].

    The integral is by Gauss-Legendre quadrature. The expectation, which keeps the mass at 1, is a mean over
    samples of the prior; hence the standard error. For a learned denoiser the mismatch includes the error of
    the network at sigma_max.
    """
    if not len(z):
        return z.new_zeros(0), z.new_zeros(0)
    kinds: list[Labels | None]
    if label is None:
        means, kinds, own = prior.distribution.mean[None], [None], None
        kind = torch.zeros(len(z), dtype=torch.int64)
    else:
        present, kind = torch.unique(label, return_inverse=True)
        means, kinds = prior.distribution.class_means[present], [one.expand(_CONSTANT) for one in present]
        own = torch.cat([label, present.repeat_interleave(_CONSTANT)])
    # The samples for the constant of each class go along with the points.
    sampled = [prior.rows(range(_CONSTANT), seed=0, label=one)[0] for one in kinds]
    row = torch.cat([kind, torch.arange(len(kinds)).repeat_interleave(_CONSTANT)])
    line = _along(denoiser, prior, torch.cat([z, *sampled]), means[row], own)
    ours, constants = line[: len(z)], line[len(z) :].view(len(kinds), _CONSTANT)
    constant = constants.logsumexp(1) - np.log(_CONSTANT)
    std_error = constants.softmax(1).std(1) * _CONSTANT**0.5
    return ours - constant[kind], std_error[kind]


_NODES = 4
"""Nodes of the quadrature along a line."""
_CONSTANT = 512
"""Samples of the prior for the constant."""


def _along(denoiser: Denoiser, prior: Prior, z: Points, mean: Tensor, label: Labels | None) -> Tensor:
    """Return the integral of delta along the straight line from `mean` `(n, d)` to each z, `(n,)`."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    sigma = torch.tensor(prior.sigma, dtype=torch.float64).expand(len(z))
    arm, total = z - mean, torch.zeros(len(z), dtype=torch.float64)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        at = mean + node * arm
        clean = denoiser(at, sigma, label) - prior.distribution.denoise(at, sigma, label)
        total += weight * (clean * arm).sum(1) / prior.sigma**2
    return total
