"""Gaussian mixtures fitted to the points: many candidates, stacked by their held-out density."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from toydiffusion.distributions import GaussianMixture
from toydiffusion.errors import InputError
from toydiffusion.row_noise import RowNoise
from toydiffusion.types import Labels, Points

FEWEST_SHARE = 0.04
"""A candidate with less weight than this in the stack is dropped."""
_ITERATIONS = 30
"""The iterations of EM for a candidate. Each starts from the one before it, so few suffice."""
_LEAST_VARIANCE = 1e-14
"""The least variance of a column in a component, in the units of z."""
_THIN = 1e7
"""Up to this ratio of the largest square of a point to the least variance of a component, sums of squares
about 0 stand for those about the means: they are off by 1e-8 at most, and many times faster."""
_NUMBERS = 2**21
"""The numbers in one table of points times components: 16 MB."""
_MANY = 8
"""From so many components on, only the shrinkage and flattening that were best with so many are tried."""
_SELECTED_ON = 4000
"""The points on which candidates are compared. The winners are then fitted to all."""


@dataclass(frozen=True)
class Shape:
    """What one candidate is: how many components each class has, and how its covariances are shrunk.

    With n_j and S_j the weight and the scatter of component j, and W the mean of S_j over all components,

        C_j = (S_j + shrinkage P) / (n_j + shrinkage),    P = (1 - flattening) W + flattening diag(W).

    This is the mode of the posterior under an inverse-Wishart law around P (Fraley & Raftery 2007).

    - `components`: the number of components of each class.
    - `shrinkage`: how many points the common covariance P counts as; infinity gives all components P.
    - `flattening`: the share of the diagonal in P, from 0 to 1.
    """

    components: int
    shrinkage: float
    flattening: float


@dataclass(frozen=True)
class Candidate:
    """A candidate of the mixture and its part in the stack.

    - `shape`: what it is.
    - `held_out`: its mean log-density of points it was not fitted to, in nats.
    - `share`: its weight in the stack; 0 for one that was dropped.
    """

    shape: Shape
    held_out: float
    share: float


@dataclass(frozen=True, eq=False)
class MixtureFit:
    """Mixtures fitted to points, and how well they predict points they have not seen.

    - `law`: the mixture fitted to all points.
    - `folds`: for each fold the mixture fitted to all other points.
    - `held_out` `(n,)`: `log p(z | label)` of each point under the mixture of its fold, in nats.
    - `candidates`: all candidates that were tried.
    """

    law: GaussianMixture
    folds: tuple[GaussianMixture, ...]
    held_out: Tensor
    candidates: tuple[Candidate, ...]


def fit_mixture(
    z: Points,
    label: Labels | None,
    fold: Tensor,
    *,
    components: Sequence[int],
    shrinkages: Sequence[float],
    flattenings: Sequence[float],
    fewest: float = FEWEST_SHARE,
    seed: int,
) -> MixtureFit:
    """Return the mixture that predicts held-out points best.

    Every combination of the grid is fitted by EM to all points but those of one fold, for each fold in turn.
    The weights w of the stack maximise the held-out log-density `sum_i log sum_m w_m p_m(z_i | label_i)`
    (Smyth & Wolpert 1999, "Linearly combining density estimators via stacking"). The mixture of a fold has
    weights of its own, found without that fold's points: they have no say in what judges them. With more
    components the density at first rises and later falls; the grid is cut off after two numbers without a
    gain.

    - `z` `(n, d)` float64: the points.
    - `label` `(n,)`: their class indices, or None. Each class has components of its own.
    - `fold` `(n,)`: the fold of each point, 0..B-1.
    - `components`, `shrinkages`, `flattenings`: the grid; see `Shape`.
    - `fewest`: candidates with less weight in the stack are dropped; 1 keeps the best one alone.
    - `seed`: of the first centers.
    """
    label = torch.zeros(len(z), dtype=torch.int64) if label is None else label
    num_folds = int(fold.max()) + 1
    chosen = rows_to_compare(label, fold, seed)
    padded = _Padded.of(z[chosen], label[chosen], fold[chosen], num_folds)
    tried: list[tuple[Shape, _Components, Tensor]] = []
    best, without_gain = -math.inf, 0
    around = [(one, other) for one in flattenings for other in sorted(shrinkages, reverse=True)]
    for k in components:
        if k * padded.num_classes == 1:
            shapes = [Shape(1, math.inf, flattening) for flattening in flattenings]
        else:
            shapes = [Shape(k, shrinkage, flattening) for flattening, shrinkage in around]
        now, means = _Components.first(padded, k, seed), []
        for shape in shapes:
            now = fitted(padded, shape, now, _ITERATIONS)
            held_out = padded.held_out(now)
            tried.append((shape, now, held_out))
            means.append(float(held_out.mean()))
        without_gain = 0 if max(means) > best + 1e-3 else without_gain + 1
        best = max(best, *means)
        if without_gain == 2:
            break
        if k >= _MANY:
            around = [around[int(np.argmax(means))]]
    log_probs = torch.stack([held_out for _, _, held_out in tried], 1)
    shares = stacked(log_probs, padded.part, fewest)
    used = (shares > 0).any(0)
    kept = [(shape, fit) for (shape, fit, _), one in zip(tried, used.tolist(), strict=True) if one]
    whole = padded
    if len(chosen) < len(z):
        whole = _Padded.of(z, label, fold, num_folds)
        kept = [(shape, fitted(whole, shape, fit, _ITERATIONS)) for shape, fit in kept]
    laws = [_law(whole, [fit for _, fit in kept], own, b) for b, own in enumerate(shares[:, used].tolist())]
    each = torch.stack([whole.held_out(fit) for _, fit in kept], 1)
    held_out = (each + shares[:, used].log()[fold]).logsumexp(1)
    return MixtureFit(
        law=laws[-1],
        folds=tuple(laws[:-1]),
        held_out=held_out,
        candidates=tuple(
            Candidate(shape, float(one.mean()), share)
            for (shape, _, one), share in zip(tried, shares[-1].tolist(), strict=True)
        ),
    )


def stacked(log_probs: Tensor, part: Tensor, fewest: float = FEWEST_SHARE) -> Tensor:
    """Return for each stack b the weights w that maximise `sum_i part_bi log sum_m w_m exp(log_probs_im)`.

    They are `(b, m)` and sum to 1.

    - `log_probs` `(n, m)`: the held-out log-densities of n points under m candidates.
    - `part` `(b, n)`: which points take part in which stack, 1 or 0.
    - `fewest`: smaller weights are dropped, and the others found again.

    >>> stacked(torch.tensor([[0.0, -9.0], [0.0, -9.0]]).double(), torch.ones(1, 2).double()).tolist()
    [[1.0, 0.0]]
    """
    # Densities relative to the best candidate at each point. None is 0, so no point is without a density.
    density = (log_probs - log_probs.amax(1, keepdim=True)).exp().clamp(min=1e-300)
    shares = log_probs.new_full((len(part), log_probs.shape[1]), 1 / log_probs.shape[1])
    for _ in range(2):
        for _ in range(300):
            shares = shares * ((part / (shares @ density.T)) @ density) / part.sum(1, keepdim=True)
        most = shares.amax(1, keepdim=True)
        shares = torch.where(shares < most.clamp(max=fewest), 0.0, shares)
        shares = shares / shares.sum(1, keepdim=True)
    return shares


def fold_of(label: Labels | None, n: int, folds: int, seed: int) -> Tensor:
    """Return a random fold 0..folds-1 for each of n points, `(n,)`, spread evenly over each class."""
    order = torch.randperm(n, generator=RowNoise(seed, "folds").generator())
    if label is not None:
        order = order[label[order].argsort(stable=True)]
    found = torch.empty(n, dtype=torch.int64)
    found[order] = torch.arange(n) % folds
    return found


def rows_to_compare(label: Labels, fold: Tensor, seed: int) -> Tensor:
    """Return the rows on which candidates are compared: all, or a random choice of each class and fold."""
    n = len(label)
    if n <= _SELECTED_ON:
        return torch.arange(n)
    order = torch.randperm(n, generator=RowNoise(seed, "selection").generator())
    order = order[(label * (int(fold.max()) + 1) + fold)[order].argsort(stable=True)]
    return order[torch.arange(_SELECTED_ON) * n // _SELECTED_ON].sort().values


@dataclass(frozen=True, eq=False)
class _Padded:
    """Points by class, filled up to the same number N, and who takes part in which fit.

    - `points` `(K, N, d)`.
    - `weight` `(B + 1, K, N)`: 1 for the points of each fit, 0 for others. Fit b leaves out fold b, and the
      last one nothing.
    - `part` `(B + 1, n)`: the same for the points in their own order.
    - `place` `(n,)`: where each point is in `(K, N)` flattened.
    - `fold` `(n,)`: the fold of each point.
    - `frequencies` `(K,)`: the shares of the classes.
    - `cut`: the points cut into parts of one size, kept from one step of EM to the next.
    """

    points: Tensor
    weight: Tensor
    part: Tensor
    place: Tensor
    fold: Tensor
    frequencies: Tensor
    cut: dict[int, list[_Points]] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return len(self.points)

    @classmethod
    def of(cls, z: Points, label: Labels, fold: Tensor, num_folds: int) -> _Padded:
        counts = label.bincount()
        if bool((counts == 0).any()):
            raise InputError(f"every class 0..{len(counts) - 1} needs a point")
        most = int(counts.max())
        order = label.argsort(stable=True)
        first = counts.cumsum(0) - counts
        place = torch.empty_like(label)
        place[order] = torch.arange(len(z)) - first[label[order]] + most * label[order]
        points = z.new_zeros(len(counts) * most, z.shape[1]).index_copy(0, place, z)
        part = torch.stack([*(fold != b for b in range(num_folds)), torch.ones_like(fold, dtype=torch.bool)])
        part = part.to(z)
        weight = z.new_zeros(num_folds + 1, len(counts) * most).index_copy(1, place, part)
        return cls(
            points.view(len(counts), most, -1),
            weight.view(num_folds + 1, len(counts), most),
            part,
            place,
            fold,
            counts / len(z),
        )

    def parts(self, fit: _Components) -> Iterator[tuple[_Points, Tensor]]:
        """Yield the points some at a time, since each meets all components of a fit, and their weights."""
        size = max(1, _NUMBERS // fit.mean.numel())
        if size not in self.cut:
            # Those of the size before are of no more use.
            self.cut.clear()
            farthest = float(self.points.square().sum(-1).max())
            self.cut[size] = [_Points(x, farthest) for x in torch.split(self.points, size, 1)]
        several = self.points.shape[1] * self.points.shape[2] ** 2 > _NUMBERS
        for some, weight in zip(self.cut[size], torch.split(self.weight, size, 2), strict=True):
            # With many points their squares are made anew each time, to save memory.
            yield (_Points(some.x, some.farthest) if several else some), weight

    def held_out(self, fit: _Components) -> Tensor:
        """Return `log p(z | label)` of each point under the fit without its fold, `(n,)`."""
        parts = [fit.joint(some).logsumexp(2) for some, _ in self.parts(fit)]
        each = torch.cat(parts, 2).flatten(1)[:, self.place]
        return each[self.fold, torch.arange(len(self.fold))]


@dataclass(frozen=True, eq=False)
class _Components:
    """The components of B + 1 fits side by side, k for each of K classes.

    - `share` `(B + 1, K, k)`: their weights within the class.
    - `mean` `(B + 1, K, k, d)`, `covariance` `(B + 1, K, k, d, d)`.
    """

    share: Tensor
    mean: Tensor
    covariance: Tensor

    @classmethod
    def first(cls, points: _Padded, k: int, seed: int) -> _Components:
        """Return components around the centers of k-means (k-means++ to begin with), all of one shape."""
        generator = RowNoise(seed, "centers").generator(k)
        x, weight = points.points, points.weight
        fits, classes = weight.shape[:2]
        dim = x.shape[2]
        # Distances in units of the spread of all points, so that no column counts more than another.
        scale = x.flatten(0, 1).std(0).clamp(min=1e-12)
        at = x / scale
        nearest = torch.ones_like(weight)
        centers = []
        for _ in range(k):
            chance = (weight * (nearest + 1e-9)).flatten(0, 1)
            # A class without a point in this fit takes any of its own.
            chance = torch.where(chance.sum(1, keepdim=True) > 0, chance, 1.0)
            row = torch.multinomial(chance, 1, generator=generator).view(fits, classes)
            center = at[torch.arange(classes), row]
            centers.append(center)
            away = (at - center[:, :, None]).square().sum(3)
            nearest = away if len(centers) == 1 else torch.minimum(nearest, away)
        mean = torch.stack(centers, 2)
        for _ in range(8 if k > 1 else 0):
            own = torch.cdist(at.expand(fits, *at.shape), mean).argmin(3)
            one = torch.nn.functional.one_hot(own, k).to(x) * weight[..., None]
            count = one.sum(2)[..., None]
            mean = torch.where(count > 0, one.mT @ at / count.clamp(min=1.0), mean)
        unit = torch.eye(dim).to(x) * scale.square() * (0.5 if k > 1 else 1.0)
        return cls(
            x.new_full((fits, classes, k), 1 / k),
            mean * scale,
            unit.expand(fits, classes, k, dim, dim),
        )

    @cached_property
    def whiten(self) -> Tensor:
        """The inverse of the Cholesky factor of each covariance, `(B + 1, K, k, d, d)`."""
        factor = torch.linalg.cholesky(self.covariance)
        unit = torch.eye(factor.shape[-1]).to(factor).expand_as(factor)
        inverse: Tensor = torch.linalg.solve_triangular(factor, unit, upper=False)
        return inverse

    @cached_property
    def thinnest(self) -> float:
        """A bound below all variances in any direction: 1 over the largest trace of a precision."""
        return 1 / float(self.whiten.square().sum((-2, -1)).max())

    def joint(self, some: _Points) -> Tensor:
        """Return `log share_j N(x; mean_j, covariance_j)` at some points, as `(B + 1, K, k, N)`."""
        x, whiten = some.x, self.whiten
        height = whiten.diagonal(dim1=-2, dim2=-1).log().sum(-1) - x.shape[2] / 2 * math.log(2 * math.pi)
        height = height + self.share.log()
        if not self.wide(some):
            # x - mean comes before the whitening: nearly collinear columns would cancel badly after it.
            away = x[:, None] - self.mean[..., None, :]
            joint: Tensor = height[..., None] - (away @ whiten.mT).square().sum(-1) / 2
            return joint
        precision = whiten.mT @ whiten
        pull = (precision @ self.mean[..., None])[..., 0]
        height = height - (pull * self.mean).sum(-1) / 2
        one, other = torch.triu_indices(*precision.shape[-2:])
        twice = torch.where(one == other, 0.5, 1.0).to(x)
        weight = torch.cat([height[..., None], pull, -twice * precision[..., one, other]], -1)
        fits, classes, k, size = weight.shape
        # One product for each class, of all components of all fits with all points.
        found = weight.transpose(0, 1).reshape(classes, fits * k, size) @ some.squares.mT
        return found.view(classes, fits, k, -1).transpose(0, 1)

    def moments(self, some: _Points, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums of 1, y and y y^T over some points x for each component, with y = x - `mean`.

        - `share` `(B + 1, K, k, N)`: the weights of the points.
        """
        x = some.x
        if not self.wide(some):
            away = x[:, None] - self.mean[..., None, :]
            weighted = away * share[..., None]
            return share.sum(-1), weighted.sum(-2), weighted.mT @ away
        fits, classes, k, d = self.mean.shape
        found = share.transpose(0, 1).reshape(classes, fits * k, -1) @ some.squares
        found = found.view(classes, fits, k, -1).transpose(0, 1)
        count, first = found[..., 0], found[..., 1 : 1 + d]
        one, other = torch.triu_indices(d, d)
        second = x.new_zeros(fits, classes, k, d, d)
        second[..., one, other] = second[..., other, one] = found[..., 1 + d :]
        both = first[..., :, None] * self.mean[..., None, :]
        second = second - both - both.mT
        second = second + count[..., None, None] * self.mean[..., :, None] * self.mean[..., None, :]
        return count, first - count[..., None] * self.mean, second

    def wide(self, some: _Points) -> bool:
        """Whether squares about 0 lose no digits that matter: no component is too thin for so far points."""
        return some.farthest < _THIN * self.thinnest


@dataclass(frozen=True, eq=False)
class _Points:
    """Some points, and what all fits need of them.

    - `x` `(K, N, d)`.
    - `farthest`: the largest squared distance from 0 among them and all others.
    """

    x: Tensor
    farthest: float

    @cached_property
    def squares(self) -> Tensor:
        """1, each coordinate and each product of two, side by side, `(K, N, 1 + d + d (d + 1) / 2)`."""
        one, other = torch.triu_indices(self.x.shape[-1], self.x.shape[-1])
        return torch.cat(
            [torch.ones_like(self.x[..., :1]), self.x, self.x[..., one] * self.x[..., other]], -1
        )


def fitted(points: _Padded, shape: Shape, start: _Components, iterations: int) -> _Components:
    """Return the components after EM from `start`; see `Shape`."""
    k = shape.components
    now = start
    last = -math.inf
    for _ in range(iterations):
        count, mean, scatter, log_prob = _moments(points, now)
        mean = torch.where(count[..., None] > 1e-6, mean, now.mean)
        # Half a point for each component, so that none is lost for ever.
        share = (count + 0.5) / (count + 0.5).sum(-1, keepdim=True)
        common = scatter.sum((1, 2), keepdim=True) / count.sum((1, 2))[:, None, None, None, None]
        flat = torch.diag_embed(common.diagonal(dim1=-2, dim2=-1).clamp(min=_LEAST_VARIANCE))
        around = torch.lerp(common, flat, shape.flattening)
        if math.isinf(shape.shrinkage):
            covariance = around.expand(-1, *scatter.shape[1:3], -1, -1)
        else:
            weight = (count + shape.shrinkage)[..., None, None]
            covariance = (scatter + shape.shrinkage * around) / weight
        now = _Components(share, mean, _proper(covariance))
        if k == 1 or log_prob - last < 1e-4:
            break
        last = log_prob
    return now


def _moments(points: _Padded, now: _Components) -> tuple[Tensor, Tensor, Tensor, float]:
    """Return what EM needs: weights, means and scatter of the components, and the mean log-density of before.

    Moments are taken around the means of before, so that little cancels.
    """
    count = first = second = total = torch.zeros((), dtype=torch.float64)
    for some, weight in points.parts(now):
        joint = now.joint(some)
        density = joint.logsumexp(2)
        share = (joint - density[:, :, None]).exp() * weight[:, :, None]
        own = now.moments(some, share)
        count, first, second = count + own[0], first + own[1], second + own[2]
        total = total + (density * weight).sum()
    shift = first / count.clamp(min=1e-9)[..., None]
    scatter = second - count[..., None, None] * shift[..., None] * shift[..., None, :]
    return count, now.mean + shift, scatter, float(total / points.weight.sum())


def _proper(covariance: Tensor) -> Tensor:
    """Return covariances `(..., d, d)` that can be factorised: the diagonal grows where they cannot."""
    flat = torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1).clamp(min=_LEAST_VARIANCE))
    extra = 1e-12
    while bool((failed := torch.linalg.cholesky_ex(covariance).info > 0).any()):
        covariance = torch.where(failed[..., None, None], covariance + extra * flat, covariance)
        extra *= 10
    return covariance


def _law(
    points: _Padded, candidates: Sequence[_Components], shares: Sequence[float], fit: int
) -> GaussianMixture:
    """Return the stack of the candidates' fits of this number as one mixture."""
    means, covariances, weights, labels = [], [], [], []
    for one, share in zip(candidates, shares, strict=True):
        if not share:
            continue
        classes, k, dim = one.mean.shape[1:]
        weight = share * points.frequencies[:, None] * one.share[fit]
        means.append(one.mean[fit].reshape(-1, dim))
        covariances.append(one.covariance[fit].reshape(-1, dim, dim))
        weights.append(weight.flatten())
        labels.append(torch.arange(classes).repeat_interleave(k))
    covariance = torch.cat(covariances)
    return GaussianMixture(
        torch.cat(means),
        (covariance + covariance.mT) / 2,
        weights=torch.cat(weights),
        labels=torch.cat(labels),
    )
