"""From points in z to a stack of experts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from toydiffusion.denoisers import GaussianExpert, ResidualSizes, Stacked
from toydiffusion.distributions import GaussianMixture
from toydiffusion.experts.config import TableConfig
from toydiffusion.experts.mixture import Candidate, MixtureFit, fit_mixture, fold_of, rows_to_compare
from toydiffusion.experts.networks import SIGMA_HIGH, SIGMA_LOW, FoldNetworks, FoldState, train_folds
from toydiffusion.experts.stack import stack
from toydiffusion.threads import one_thread
from toydiffusion.training import Checkpoint, kept
from toydiffusion.types import Labels, Points

OUTLIER_SIGMA = 0.1
"""The noise level at which outliers are judged. Structure finer than that, such as columns that are nearly
functions of others, would outweigh all else."""
_SHRINKAGES = (0.5, 2.0, 10.0, 50.0)
_FLATTENINGS = (0.0, 0.05, 0.2)
_FINE = 2000
"""Up to so many points the mixtures have finer folds than the networks, four times as many at most. Without a
fifth of few points a mixture is much worse than the final one, so the stack would trust it too little."""
_THINNEST = 0.1
"""sigma_min over the smallest principal deviation: what is lost to smoothing is 0.005 nats at most."""


@dataclass(frozen=True)
class ExpertsReport:
    """What was found out about each expert on held-out points. All numbers are in nats a point.

    - `mixture`: the mean log-density of the mixture, in z.
    - `gaussian`: that of one Gaussian for each class.
    - `gain`: what the stack gains over the mixture alone, by the evidence lower bound.
    - `gain_error`: its standard error.
    - `ridge`: the strength of the ridge towards the mixture; infinity is the mixture alone.
    - `candidates`: the mixtures that were tried.
    - `network_steps`: the steps at which the networks' held-out loss was smallest, 0 if they were of no use.
    - `network_gain`: the share of the Gaussian's held-out loss that the networks removed, at most 1.
    - `temperature`: by what the logits of the class probabilities are divided, so that their log-loss at
      held-out points is smallest; 1 without classes. It is found with the mixture.
    - `calibration`: the log-densities in z of all training points at noise level `OUTLIER_SIGMA`, each under
      a mixture that has not seen it, in ascending order. Conformal p-values are counted from them.
    """

    mixture: float
    gaussian: float
    gain: float
    gain_error: float
    ridge: float
    candidates: tuple[Candidate, ...]
    network_steps: int
    network_gain: float
    temperature: float
    calibration: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Experts:
    """A stack of experts, and what was found out about them.

    - `denoiser`: the stack.
    - `sigma_min`: the lowest noise level, in z.
    - `report`: what was found out on held-out points.
    """

    denoiser: Stacked
    sigma_min: float
    report: ExpertsReport


@dataclass(frozen=True)
class ExpertsEvent:
    """How far the fit has come: `step` of `steps` of the networks, and a note."""

    step: int
    steps: int
    note: str


def fit_experts(
    z: Points,
    label: Labels | None,
    config: TableConfig,
    *,
    seed: int,
    checkpoint: Checkpoint | None = None,
    resume: bool = False,
) -> Iterator[ExpertsEvent | Experts]:
    """Fit the experts and stack them; yield events, and the `Experts` at the end.

    - `z` `(n, d)` float64: the points, standardised.
    - `label` `(n,)`: their class indices, or None.
    - `checkpoint`: where the networks are kept while they train; see `kept`. Mixtures are fitted anew.
    - `resume`: whether the networks go on from the checkpoint.
    """
    n, d = z.shape
    folds = min(config.folds, n)
    finer = max(1, min(4, _FINE // n, n // folds))
    fine = fold_of(label, n, folds * finer, seed)
    coarse = fine % folds
    steps = config.most_steps(n)
    classes = 1 if label is None else int(label.max()) + 1
    sizes = ResidualSizes(folds, d, classes, config.network_width(d), config.network_edges(d))
    state = FoldState.start(sizes, seed=seed)
    if resume and checkpoint is not None:
        checkpoint.resume(state)
    yield ExpertsEvent(0, steps, "mixtures")
    mixture = _mixture(z, label, fine, config.components, seed)
    single = fit_mixture(
        z,
        label,
        coarse,
        components=(1,),
        shrinkages=_SHRINKAGES,
        flattenings=_FLATTENINGS,
        fewest=1.0,
        seed=seed,
    )
    gaussians = [GaussianExpert(law) for law in single.folds]
    low = _lowest(mixture.law) if config.sigma_min is None else config.sigma_min
    trained: FoldNetworks | None = None
    if steps:
        training = train_folds(
            state,
            z,
            label,
            coarse,
            gaussians,
            steps=steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            low=max(low, SIGMA_LOW),
            seed=seed,
        )
        with one_thread():
            for _ in kept(training, state, checkpoint):
                if state.step == state.looks[-1]:
                    trained = state.found()
                    yield ExpertsEvent(state.step, steps, f"networks {trained.gain:+.3f}")
    # Without a network that helps, the mixture is all there is to stack.
    useful = [trained.networks] if trained is not None and trained.gain < 0 else []
    weights = stack(
        z,
        label,
        fine,
        gaussians,
        [GaussianExpert(law) for law in mixture.folds],
        useful,
        low=low,
        high=SIGMA_HIGH,
        seed=seed,
    )
    chosen = [
        network for network, own in zip(useful, weights.weights[1:], strict=True) if bool((own > 0).any())
    ]
    rows = [True, *(bool((own > 0).any()) for own in weights.weights[1:])]
    report = ExpertsReport(
        mixture=float(mixture.held_out.mean()),
        gaussian=float(single.held_out.mean()),
        gain=weights.gain,
        gain_error=weights.gain_error,
        ridge=weights.ridge,
        candidates=mixture.candidates,
        network_steps=0 if trained is None else trained.steps[int(trained.held_out.mean(1).argmin())],
        network_gain=0.0 if trained is None else -trained.gain,
        temperature=1.0 if label is None else _temperature(mixture, z, label, fine),
        calibration=tuple(_held_out_densities(mixture, z, fine).sort().values.tolist()),
    )
    curves = weights.weights[torch.tensor(rows)]
    yield Experts(Stacked(mixture.law, single.law, chosen, weights.knots, curves), low, report)


def prefers_power(
    plain: Points, powered: Points, log_slope: Tensor, label: Labels | None, config: TableConfig, *, seed: int
) -> bool:
    """Whether held-out points have a higher density under a mixture of the transformed columns.

    - `plain`, `powered` `(n, d)`: the points without and with the power map, standardised.
    - `log_slope` `(n,)`: the logarithm of the volume that the map and the second standardiser add.
    """
    fold = fold_of(label, len(plain), min(config.folds, len(plain)), seed)
    few = [k for k in config.components if k <= _QUICK] or config.components[:1]
    kinds = torch.zeros_like(fold) if label is None else label
    rows = rows_to_compare(kinds, fold, seed)
    own, part = None if label is None else label[rows], fold[rows]
    without, within = (_mixture(z[rows], own, part, few, seed).held_out for z in (plain, powered))
    return bool((within + log_slope[rows] - without).mean() > 0)


_QUICK = 4
"""The most components of the mixtures that decide on the power map."""


def _mixture(
    z: Points, label: Labels | None, fold: Tensor, components: Sequence[int], seed: int
) -> MixtureFit:
    n, d = z.shape
    classes = 1 if label is None else int(label.max()) + 1
    # A component needs a few points, however strongly it is shrunk.
    possible = [k for k in components if k == components[0] or k * classes * 4 <= n]
    # With many points for each number of a covariance the diagonal has nothing to add.
    flattenings = _FLATTENINGS if n < 100 * d else _FLATTENINGS[:1]
    return fit_mixture(
        z, label, fold, components=possible, shrinkages=_SHRINKAGES, flattenings=flattenings, seed=seed
    )


def _held_out_densities(mixture: MixtureFit, z: Points, fold: Tensor) -> Tensor:
    """Return the log-density of each point, of whatever class, under the mixture of its fold, `(n,)`."""
    found = torch.empty(len(z), dtype=torch.float64)
    for k, law in enumerate(mixture.folds):
        own = fold == k
        found[own] = law.log_prob(z[own], OUTLIER_SIGMA)
    return found


def _temperature(mixture: MixtureFit, z: Points, label: Labels, fold: Tensor) -> float:
    """Return the temperature at which the class probabilities of held-out points have the least log-loss."""
    logits = z.new_empty(len(z), mixture.law.num_classes)
    for k, law in enumerate(mixture.folds):
        own = fold == k
        for c in range(law.num_classes):
            logits[own, c] = law.log_prob(z[own], 0.0, c) + law.frequencies[c].log()
    losses = [torch.nn.functional.cross_entropy(logits / t, label) for t in _TEMPERATURES]
    return float(_TEMPERATURES[int(torch.stack(losses).argmin())])


_TEMPERATURES = torch.logspace(-0.5, 1.5, 81, dtype=torch.float64)
"""The temperatures that are tried."""


def _lowest(law: GaussianMixture) -> float:
    """Return sigma_min: a part of the smallest principal deviation of the components."""
    smallest = float(torch.linalg.eigvalsh(law.covariances).min().clamp(min=1e-16).sqrt())
    return min(0.01, max(_THINNEST * smallest, 1e-8))
