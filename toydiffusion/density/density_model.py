"""The density of a denoiser and a prior, for one class or for the mixture of all classes.

Every function here takes class indices, one for each row, or None. None means the mixture of the classes,
weighted by their frequencies in the prior. All points and noise levels are in z.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from toydiffusion.denoisers import Network, Stacked
from toydiffusion.density.density_config import DensityConfig
from toydiffusion.density.elbo import Elbo, elbo
from toydiffusion.density.log_density import LogDensity, log_density, prior_error, value_and_gradient
from toydiffusion.density.probability_flow import FlowResult, ProbabilityFlow
from toydiffusion.devices import CPU
from toydiffusion.distributions import Distribution, GaussianMixture, Prior
from toydiffusion.types import Denoiser, FloatArray, Labels, Levels, Points

Answer = TypeVar("Answer")

SINGLE_PRECISION = 1e-3
"""The tolerance in nats from which on a network in float32 suffices. Its rounding moves 99 % of the
log-densities by at most 3e-6 nats, and the others by no more than another choice of steps does, 4e-4
(`benchmarks/flow.py precision`)."""


@dataclass(frozen=True, eq=False)
class DensityModel:
    """A denoiser and a prior, in z: together they define a density.

    - `denoiser`: computes in float64.
    - `prior`: the law at sigma_max. Its distribution holds the moments and frequencies of the classes. With
      one class the model has no labels.
    - `sigma_min`: the noise level at which densities are asked for.
    - `config`: how exactly they are computed.
    - `device`: where the flow computes; the CPU by default.
    """

    denoiser: Denoiser
    prior: Prior
    sigma_min: float
    config: DensityConfig = field(default_factory=DensityConfig)
    device: torch.device = CPU

    @property
    def num_classes(self) -> int:
        """The number of classes K; 1 without labels."""
        return self.prior.distribution.num_classes

    @property
    def frequencies(self) -> FloatArray:
        """The frequencies of the classes, `(K,)`."""
        return self.prior.distribution.frequencies.numpy()

    @property
    def flow(self) -> ProbabilityFlow:
        """The probability flow of the denoiser, in float64."""
        return ProbabilityFlow(
            self.denoiser,
            self.prior.distribution,
            self.config.nats,
            self.config.max_evaluations,
            device=self.device,
        )

    @property
    def quick_flow(self) -> ProbabilityFlow:
        """The flow that is fastest: of a network in even steps, in float32 from `SINGLE_PRECISION` on."""
        if not isinstance(self.denoiser, Network | Stacked):
            return self.flow
        even = replace(self.flow, even_first=True)
        if self.config.nats < SINGLE_PRECISION:
            return even
        return replace(even, denoiser=deepcopy(self.denoiser).float(), precision=torch.float32)

    @property
    def exact_law(self) -> Distribution | None:
        """The law whose density this is, if it is known in closed form: that of a stack of a mixture alone.

        Then no flow is needed for a log-density.
        """
        law = self.denoiser.exact_law if isinstance(self.denoiser, Stacked) else None
        prior = self.prior.distribution
        if not isinstance(law, GaussianMixture) or not isinstance(prior, GaussianMixture):
            return None
        same = law.means.shape == prior.means.shape and torch.equal(law.means, prior.means)
        return law if same else None

    def lowest(self, n: int) -> Levels:
        """Return sigma_min for each of n rows, `(n,)` float64."""
        return torch.full((n,), self.sigma_min, dtype=torch.float64)

    def for_each_class(self, n: int, answer: Callable[[Labels | None], Answer]) -> list[Answer]:
        """Return what `answer` gives for each class in turn, asked for all n rows at once.

        Without labels there is one answer, to the label None.
        """
        if self.num_classes == 1:
            return [answer(None)]
        return [answer(torch.tensor(c).expand(n)) for c in range(self.num_classes)]


def class_log_probs(
    model: DensityModel, z: Points, sigma: Levels, *, seed: int = 0, first_row: int = 0
) -> list[LogDensity]:
    """Return `log p(z | c; sigma)` for each class c; one log-density without labels.

    `seed` and `first_row` address the random probes, where there are any.
    """
    return model.for_each_class(
        len(z), lambda label: _under(model, z, sigma, label, seed=seed, first_row=first_row)
    )


def log_prob(
    model: DensityModel,
    z: Points,
    sigma: Levels,
    label: Labels | None = None,
    *,
    seed: int = 0,
    first_row: int = 0,
) -> LogDensity:
    """Return `log p(z | label; sigma)`, or `logsumexp_c(log f_c + log p(z | c; sigma))` without a label."""
    if label is not None:
        return _under(model, z, sigma, label, seed=seed, first_row=first_row)
    mixture, _ = LogDensity.mixed(
        class_log_probs(model, z, sigma, seed=seed, first_row=first_row), model.frequencies
    )
    return mixture


def _under(
    model: DensityModel, z: Points, sigma: Levels, label: Labels | None, *, seed: int, first_row: int
) -> LogDensity:
    if (law := model.exact_law) is not None and model.config.probes is None:
        return LogDensity.exact(law.log_prob(z, sigma, label).numpy())
    return log_density(
        model.quick_flow,
        model.prior,
        z,
        sigma,
        label,
        probes=model.config.probes,
        seed=seed,
        first_row=first_row,
    )


def class_posterior(model: DensityModel, z: Points, sigma: Levels) -> FloatArray:
    """Return `p(c | z; sigma) = f_c p(z | c; sigma) / p(z; sigma)`, `(n, K)`."""
    return LogDensity.mixed(class_log_probs(model, z, sigma), model.frequencies)[1]


def grad_log_prob(model: DensityModel, z: Points, sigma: Levels, label: Labels | None = None) -> Tensor:
    """Return the gradient of `log_prob` in z, `(n, d)`, by autograd through the solver."""
    if label is not None:
        return value_and_gradient(model.flow, model.prior, z, sigma, label)[1]
    parts = model.for_each_class(
        len(z), lambda own: value_and_gradient(model.flow, model.prior, z, sigma, own)
    )
    # grad logsumexp_c(a_c) = sum_c softmax(a)_c grad a_c, with a_c = log f_c + log p(z | c).
    values = torch.stack([value for value, _ in parts], 1)
    posterior = (values + torch.from_numpy(model.frequencies).log()).softmax(1)
    return torch.einsum("nc,cnd->nd", posterior, torch.stack([slope for _, slope in parts]))


@torch.no_grad()
def score(model: DensityModel, z: Points, sigma: Levels, label: Labels | None = None) -> Tensor:
    """Return the denoiser's own score `(D(z; sigma, label) - z) / sigma^2`, `(n, d)`.

    Without a label it is `sum_c p(c | z; sigma) score_c`, with the posterior of `log_prob`.
    """
    if label is not None:
        clean = model.denoiser(z, sigma, label)
    else:
        each = torch.stack(model.for_each_class(len(z), lambda own: model.denoiser(z, sigma, own)))
        posterior = class_posterior(model, z, sigma) if model.num_classes > 1 else np.ones((len(z), 1))
        clean = torch.einsum("nc,cnd->nd", torch.from_numpy(posterior), each)
    found: Tensor = (clean - z) / sigma[:, None].square()
    return found


def evidence_lower_bound(
    model: DensityModel,
    z: Points,
    label: Labels | None = None,
    *,
    evaluations: int = 256,
    steps: int | None = None,
    seed: int = 0,
    first_row: int = 0,
) -> Elbo:
    """Return the ELBO at z under the label, or that of the mixture (`Elbo.mixed`) without one."""

    def bound(own: Labels | None) -> Elbo:
        return elbo(
            model.denoiser,
            model.prior,
            z,
            own,
            sigma_min=model.sigma_min,
            evaluations=evaluations,
            steps=steps,
            seed=seed,
            first_row=first_row,
        )

    if label is not None:
        return bound(label)
    return Elbo.mixed(model.for_each_class(len(z), bound), model.frequencies)


@torch.no_grad()
def flow_sample(
    model: DensityModel, rows: range, label: Labels | None = None, *, seed: int = 0
) -> tuple[Points, FlowResult, Labels | None]:
    """Carry rows of the prior down the flow to sigma_min.

    Returns the latents `(n, d)` at sigma_max, the `FlowResult`, whose `z` are samples of the density, and
    their labels. Labels that are not given follow the frequencies; without classes they are None.
    """
    latent, sampled = model.prior.rows(rows, seed=seed, label=label)
    own = sampled if model.num_classes > 1 else None
    top = torch.full((len(rows),), model.prior.sigma, dtype=torch.float64)
    return latent, model.quick_flow.carry(latent, top, model.sigma_min, own), own


@torch.no_grad()
def sample_with_log_prob(
    model: DensityModel, rows: range, label: Labels | None = None, *, seed: int = 0
) -> tuple[Points, LogDensity, Labels | None]:
    """Return samples at sigma_min, their log-densities, and their labels.

    With a label, or in a model without labels, the density comes from the same pass of the flow. Without a
    label it is that of the mixture, which needs the flow of every class at the sample.
    """
    latent, down, own = flow_sample(model, rows, label, seed=seed)
    if label is None and own is not None:
        return down.z, log_prob(model, down.z, model.lowest(len(rows))), own
    density = LogDensity(
        value=(model.prior.log_prob(latent, own) + down.change[:, 0]).numpy(),
        error=down.error.numpy(),
        prior_error=prior_error(model.denoiser, model.prior, latent, own).numpy(),
        std_error=np.zeros(len(rows)),
        evaluations=down.evaluations.numpy(),
        met=down.met.numpy(),
    )
    return down.z, density, own
