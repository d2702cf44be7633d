"""The evidence lower bound (ELBO) of points, term by term, each with its standard error."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toydiffusion.density.array_with_errors import ArrayWithErrors, summary_rows
from toydiffusion.distributions import Prior, Reference
from toydiffusion.errors import whole_number
from toydiffusion.row_noise import RowNoise
from toydiffusion.types import Denoiser, Labels, Points
from toydiffusion.views import data_frame, html_table

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class Term(ArrayWithErrors):
    """A number for each of n points, and its standard error. In arithmetic it is its `value`.

    - `value` `(n,)`: the numbers, in nats.
    - `std_error` `(n,)`: their standard errors, in nats.
    """

    value: NDArray[np.float64]
    std_error: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Elbo(Term):
    """A lower bound on log-density: `value = reconstruction + diffusion + prior`, each signed, in nats.

    The model that it bounds is an SDE. It starts from the prior at sigma_max, steps down with D in place of
    the clean point, and ends with a sample of `N(z_min, sigma_min^2 I)`. With z0 the point,
    `z_t = z0 + sigma_t eps` and SNR = 1 / sigma^2 (Kingma et al. 2021, arXiv:2107.00630, equations 11, 12
    and 18):

    - `value` `(n,)`: the bound.
    - `std_error` `(n,)`: its standard error.
    - `reconstruction`: `E log N(z0; z_min, sigma_min^2 I) = -d/2 log(2 pi e sigma_min^2)`, plus the
      log-determinant of the standardiser where x is not z. It is exact, so its standard error is 0.
    - `diffusion`: `-1/2 int E|z0 - D(z_t; sigma_t)|^2 dSNR`, or over T steps
      `-1/2 sum_i (SNR(sigma_(i-1)) - SNR(sigma_i)) E|z0 - D(z_i; sigma_i)|^2`.
    - `prior`: `-KL(N(z0, sigma_max^2 I) | prior)`. For a mixture of classes it also holds minus the
      divergence of the class posterior from the class frequencies.

    With the exact denoiser and prior the bound equals `E log p(z0 + sigma_min eps; sigma_min)`. It does not
    bound the density of the probability flow point by point. For a denoiser with an error, the SDE and the
    flow are different laws (Song et al. 2021, arXiv:2101.09258). They are close on average.
    """

    reconstruction: Term
    diffusion: Term
    prior: Term

    def _terms(self, whole: str) -> dict[str, Term]:
        return {
            whole: self,
            "reconstruction": self.reconstruction,
            "diffusion": self.diffusion,
            "prior": self.prior,
        }

    def _repr_html_(self) -> str:
        columns = {name: (term.value, ".4f") for name, term in self._terms("value").items()}
        columns["std_error of value"] = self.std_error, ".2g"
        caption = f"Elbo of {len(self):,} points, in nats: reconstruction + diffusion + prior"
        return html_table(caption, summary_rows(columns.values()), ["", *columns], align="right")

    def to_pandas(self) -> DataFrame:
        """Return a pandas data frame with a row for each point.

        The columns are `elbo` and its terms, `reconstruction`, `diffusion` and `prior`, each followed by its
        standard error, `elbo_std_error` and so on. Raises `ImportError` without pandas.
        """
        columns: dict[str, NDArray[np.float64]] = {}
        for name, term in self._terms("elbo").items():
            columns |= {name: term.value, f"{name}_std_error": term.std_error}
        return data_frame(columns)

    def shifted(self, nats: NDArray[np.float64]) -> Elbo:
        """Return the same with `nats` `(n,)` added to the reconstruction, and so to the value."""
        moved = Term(self.reconstruction.value + nats, self.reconstruction.std_error)
        return Elbo(self.value + nats, self.std_error, moved, self.diffusion, self.prior)

    @staticmethod
    def joined(parts: Sequence[Elbo]) -> Elbo:
        """Return the parts one after another."""

        def over(terms: Sequence[Term]) -> Term:
            return Term(
                np.concatenate([term.value for term in terms]),
                np.concatenate([term.std_error for term in terms]),
            )

        whole = over(parts)
        return Elbo(
            whole.value,
            whole.std_error,
            over([part.reconstruction for part in parts]),
            over([part.diffusion for part in parts]),
            over([part.prior for part in parts]),
        )

    @staticmethod
    def mixed(parts: Sequence[Elbo], frequencies: NDArray[np.float64]) -> Elbo:
        """Return the bound for the mixture of K classes from the bounds under each class.

        The class is one more hidden variable. Its best posterior r is proportional to `f_c e^(ELBO_c)`, and
        the bound is `logsumexp_c(log f_c + ELBO_c) = sum_c r_c ELBO_c - KL(r | f)`.
        """
        joint = np.stack([part.value for part in parts], 1) + np.log(frequencies)
        value = np.logaddexp.reduce(joint, axis=1)
        r = np.exp(joint - value[:, None])

        def over(terms: Sequence[Term]) -> Term:
            values = np.stack([term.value for term in terms], 1)
            errors = np.stack([term.std_error for term in terms], 1)
            return Term((r * values).sum(1), np.sqrt(((r * errors) ** 2).sum(1)))

        prior = over([part.prior for part in parts])
        # log r - log f is ELBO_c - value, which stays finite where r underflows.
        divergence = (r * (joint - np.log(frequencies) - value[:, None])).sum(1)
        return Elbo(
            value,
            over(parts).std_error,
            over([part.reconstruction for part in parts]),
            over([part.diffusion for part in parts]),
            Term(prior.value - divergence, prior.std_error),
        )


def elbo(
    denoiser: Denoiser,
    prior: Prior,
    z: Points,
    label: Labels | None = None,
    *,
    sigma_min: float,
    evaluations: int = 256,
    steps: int | None = None,
    seed: int = 0,
    first_row: int = 0,
) -> Elbo:
    """Return the bound at points z.

    - `z` `(n, d)`: the points.
    - `label`: class indices `(n,)`, or None. It goes to the denoiser and the prior as it is.
    - `sigma_min`: the lowest noise level.
    - `evaluations`: denoiser evaluations for each point, at least 16.
    - `steps`: None for the continuous bound, or the number of steps T, even in log sigma.
    - `seed`, `first_row`: row i has row `first_row + i` of the random numbers of `seed`.

    Each point has its own scrambled Sobol points for noise level and noise: 4 nets, or 8 from 1,024
    evaluations on, each with a random digital shift. The spread over the nets is the standard error. With so
    few nets the standard error itself is uncertain, by 40 % and by 27 %. The levels follow a logistic law of
    log sigma around an eighth of the data's standard deviation.

    A control variate removes most of the noise. The average runs over the difference from the same integrand
    for Gaussian data, whose mean has a closed form. The difference is zero wherever the data looks Gaussian
    to the denoiser.
    """
    evaluations = whole_number("evaluations", evaluations, 16)
    if steps is not None:
        steps = whole_number("steps", steps, 1, hint=", or None for the continuous bound")
    law = _LevelLaw.around(prior, sigma_min, steps)
    nets = 8 if evaluations >= 1024 else 4
    size = evaluations // nets
    rows = max(1, _TOGETHER // size)
    parts = []
    for first in range(0, max(len(z), 1), rows):
        some = slice(first, first + rows)
        given = None if label is None else label[some]
        shift = _shifts(seed, first_row + first, len(z[some]), nets, z.shape[1] + 1)
        parts.append(_bound(denoiser, prior, z[some], given, law, size, shift))
    return Elbo.joined(parts)


_TOGETHER = 2**15
"""The number of noisy points in one call of the denoiser."""


@torch.no_grad()
def _bound(
    denoiser: Denoiser,
    prior: Prior,
    z: Points,
    label: Labels | None,
    law: _LevelLaw,
    size: int,
    shift: Tensor,
) -> Elbo:
    n, d = z.shape
    # The control variate must not be thinner than the levels sampled most: the denoiser of a class of one
    # point has nothing in common with a Gaussian far below them, and the difference would not cancel.
    reference = Reference.of(prior.distribution, z, label).widened(math.exp(2 * law.center))
    copies = torch.arange(n).repeat_interleave(size)
    clean, near = z[copies], reference.rows(copies)
    given = None if label is None else label[copies]
    differences, mismatches = [], []
    top = z.new_full((n,), prior.sigma)
    for uniform in _nets(size, shift):
        sigma, weight = law.sample(uniform[..., 0].reshape(-1))
        eps = torch.special.ndtri(uniform[..., 1:]).reshape(-1, d)
        noisy = clean + sigma[:, None] * eps
        ours = (clean - denoiser(noisy, sigma, given)).square().sum(1)
        gaussian = (clean - near.denoise(noisy, sigma)).square().sum(1)
        differences.append((weight * (ours - gaussian)).reshape(n, size).mean(1))
        # The prior term is the closed form for the Gaussian reference plus this mean difference, which is
        # zero where the prior is that Gaussian.
        some = min(size, 16)
        last = (clean + prior.sigma * eps).reshape(n, size, d)[:, :some].reshape(-1, d)
        few = copies.reshape(n, size)[:, :some].reshape(-1)
        far = prior.log_prob(last, None if label is None else label[few])
        far = far - reference.rows(few).log_prob(last, top[few])
        mismatches.append(far.reshape(n, some).mean(1))
    diffusion = -(torch.stack(differences, 1) + law.gaussian(reference, z)[:, None])
    # E log N(z_max; m, C + sigma^2) over z_max ~ N(z0, sigma_max^2 I), and that law's entropy.
    inside = reference.log_prob(z, top) - (prior.sigma / reference.spread(top)).square().sum(1) / 2
    entropy = d / 2 * math.log(2 * math.pi * math.e * prior.sigma**2)
    start = torch.stack(mismatches, 1) + (inside + entropy)[:, None]
    reconstruction = np.full(n, -d / 2 * math.log(2 * math.pi * math.e * law.sigma_min**2))
    total = _term(diffusion + start)
    return Elbo(
        total.value + reconstruction,
        total.std_error,
        Term(reconstruction, np.zeros(n)),
        _term(diffusion),
        _term(start),
    )


def _term(nets: Tensor) -> Term:
    """Return the mean over the columns, and its standard error from their spread."""
    values = nets.numpy()
    return Term(values.mean(axis=1), values.std(axis=1, ddof=1) / math.sqrt(values.shape[1]))


_BITS = 30


def _shifts(seed: int, first: int, n: int, nets: int, dim: int) -> Tensor:
    """Return random digits for each row, net and dimension, `(n, nets, dim)` int64."""
    uniform = RowNoise(seed, "elbo").uniform(first, first + n, dim=nets * dim)
    digits: Tensor = (uniform * 2**_BITS).long().reshape(n, nets, dim)
    return digits


def _nets(size: int, shift: Tensor) -> Iterator[Tensor]:
    """Yield for each net its points in (0, 1), `(n, size, dim)`."""
    for net in range(shift.shape[1]):
        sobol: Any = torch.quasirandom.SobolEngine  # it has no types
        uniform: Tensor = sobol(shift.shape[2], scramble=True, seed=net).draw(size, dtype=torch.float64)
        yield (((uniform * 2**_BITS).long() ^ shift[:, net, None]).double() + 0.5) / 2**_BITS


@dataclass(frozen=True, eq=False)
class _LevelLaw:
    """The law of the noise levels, and the weight `dSNR / 2` over its density.

    It is a logistic law of log sigma around `center`, cut off at both ends. `steps` holds the levels of a
    bound of T steps, ascending; a level between two of them counts as the upper one.
    """

    sigma_min: float
    sigma_max: float
    center: float
    steps: Tensor | None

    @classmethod
    def around(cls, prior: Prior, sigma_min: float, steps: int | None) -> _LevelLaw:
        scale = math.sqrt(float(prior.distribution.covariance.diagonal().mean()))
        between = None
        if steps is not None:
            ends = math.log(sigma_min), math.log(prior.sigma)
            between = torch.linspace(*ends, steps + 1, dtype=torch.float64).exp()
        return cls(sigma_min, prior.sigma, math.log(0.12 * scale), between)

    def _share(self, sigma: Tensor) -> Tensor:
        """Return the probability of a level below sigma under the law before it is cut off."""
        return torch.sigmoid(sigma.log() - self.center)

    def sample(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Return levels `(n,)` from uniforms `(n,)`, and the weight of `|z0 - D|^2` at each."""
        low, high = self._share(uniform.new_tensor([self.sigma_min, self.sigma_max]))
        below = low + (high - low) * uniform
        sigma = torch.exp(self.center + torch.logit(below))
        if self.steps is None:
            # dSNR / 2 = dlog sigma / sigma^2, and the density of log sigma is below (1 - below).
            weight: Tensor = (high - low) / (below * (1 - below)) / sigma.square()
            return sigma, weight
        upper = torch.searchsorted(self.steps, sigma).clamp(1, len(self.steps) - 1)
        s, t = self.steps[upper - 1], self.steps[upper]
        weight = (s**-2 - t**-2) / 2 * (high - low) / (self._share(t) - self._share(s))
        return t, weight

    def gaussian(self, reference: Reference, z: Points) -> Tensor:
        """Return `1/2 int E|z0 - D_G|^2 dSNR`, `(n,)`, the control variate's mean, in closed form.

        Along an axis of variance v, at distance a from the mean, `E|z0 - D_G|^2` is
        `(sigma^4 a^2 + sigma^2 v^2) / (v + sigma^2)^2`.
        """
        v, a2 = reference.variance, reference.turned(z).square()
        if self.steps is not None:
            s, t = self.steps[:-1, None, None], self.steps[1:, None, None]
            error = (t**4 * a2 + t**2 * v**2) / (v + t**2) ** 2
            return ((s**-2 - t**-2) / 2 * error).sum((0, 2))

        def primitive(sigma: float) -> Tensor:
            tau = sigma**2
            inner: Tensor = (math.log(tau) - (v + tau).log() + (v - a2) / (v + tau)) / 2
            return inner

        return (primitive(self.sigma_max) - primitive(self.sigma_min)).sum(1)
