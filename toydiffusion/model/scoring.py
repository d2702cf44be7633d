"""What a fitted model says of points: how probable they are, of which class, where the flow takes them."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from toydiffusion import tables
from toydiffusion.certificate import Certificate, check
from toydiffusion.density import TOLERANCE, Elbo, LogDensity, elbo, gradient
from toydiffusion.distributions import Distribution
from toydiffusion.errors import InputError, whole_number
from toydiffusion.model.fitted import Fitted
from toydiffusion.model.judging import Judging, Scores
from toydiffusion.progress import bar
from toydiffusion.types import Labels, Levels, Points


class Scoring(ABC):
    """The half of `Diffusion` that judges points.

    All densities are those of the learned law smoothed at the lowest noise level, sigma_min: of `x + noise`
    with a standard deviation of sigma_min (0.01 by default) column by column in units of the data's own. What
    is finer than that the model does not know. They are in nats, of x and not of z. Everything here is
    computed in float64, the network included.
    """

    @property
    @abstractmethod
    def _learned(self) -> Fitted: ...

    # Log-density ------------------------------------------------------------------------------------

    def log_prob(
        self,
        x: ArrayLike | Any,
        label: Any = None,
        *,
        sigma: ArrayLike | None = None,
        tolerance: float = TOLERANCE,
        max_evaluations: int = 1000,
        probes: int | None = None,
        seed: int = 0,
        on_bad: str = "raise",
        batch_size: int = 4096,
        progress: bool | None = False,
    ) -> LogDensity:
        """Return the log-density at points `x` `(n, d)`, in nats: `value` `(n,)`, `error` and `prior_error`.

        `log p(x) = log prior(z_max) + int (d - tr dD/dz) dlog sigma + log |dz/dx|` along the probability flow
        from sigma_min to sigma_max (`density.ProbabilityFlow`). `label`, one or `(n,)`, asks for
        `log p(x | label)`;
        without it a model with labels answers for the whole, `logsumexp_c(log f_c + log p(x | c))` with
        class frequencies f_c.

        `sigma`, one or `(n,)`, in z: the density of points noised to that level instead of sigma_min.
        `tolerance` is what the numerical error may come to, in nats; a point takes the steps it needs,
        whatever its batch. Where `max_evaluations` of the denoiser do not suffice, the value stands, its
        `error` says so, and a `ToleranceWarning` is issued. `probes`, 4 or more, puts Hutchinson's estimate
        from so many random probes in place of the exact divergence; worth it only with far more columns.

        `on_bad="skip"` leaves rows with missing or infinite numbers in place, as NaN. Data frames are matched
        by column name, arrays by position.

        Raises `InputError` for other columns than the model's, unknown labels and numbers out of range.
        """
        learned, table = self._learned, self._table(x, on_bad)
        blocks = Judging(learned, learned.flow(tolerance, max_evaluations), probes, seed).blocks(
            table,
            learned.label_index(label, len(table.points)),
            self._levels(sigma, len(table.points)),
            shares=False,
            batch_size=batch_size,
            progress=progress,
        )
        found = LogDensity.joined([density for density, _ in blocks])
        found.warn(tolerance)
        return found

    def score_blocks(
        self,
        table: tables.Table,
        label: Any = None,
        *,
        tolerance: float = TOLERANCE,
        max_evaluations: int = 1000,
        batch_size: int = 4096,
        progress: bool | None = False,
    ) -> Iterator[Scores]:
        """Yield log-densities and class probabilities of a table a block at a time, in constant memory.

        The log-density of each point is that under its own label if the table has labels, under `label` if
        one is asked for, and that of the whole otherwise. Rows that are `missing` come out as NaN. The
        arguments are checked here, before the first block.
        """
        learned, table = self._learned, self._learned.own(table, table.source)
        return Judging(learned, learned.flow(tolerance, max_evaluations)).blocks(
            table,
            learned.label_index(label, len(table.points)) if label is not None else learned.labels_of(table),
            self._levels(None, len(table.points)),
            shares=True,
            batch_size=batch_size,
            progress=progress,
        )

    def grad_log_prob(
        self,
        x: ArrayLike | Any,
        label: Any = None,
        *,
        sigma: ArrayLike | None = None,
        tolerance: float = TOLERANCE,
    ) -> NDArray[np.float64]:
        """Return the gradient of `log_prob` in x, `(n, d)`, in nats per unit of x, by autograd.

        It is that of the density which `log_prob` gives; `score` is what the network says it is, which for a
        learned model is not quite the same.
        """
        learned, table = self._learned, self._table(x)
        z = learned.z(table)
        index = learned.label_index(label, len(z))
        level, flow = self._levels(sigma, len(z)), learned.flow(tolerance)

        def slope(label: Labels | None) -> Tensor:
            return gradient(flow, learned.prior(), z, level, label)

        if index is not None or learned.classes is None:
            found = slope(index)
        else:
            share = self._shares(table, level, tolerance)
            each = [slope(torch.full((len(z),), c)) for c in range(len(learned.classes))]
            found = torch.einsum("nc,cnd->nd", torch.from_numpy(share), torch.stack(each))
        return (found / learned.standardizer.scale).numpy()

    @torch.no_grad()
    def score(
        self, x: ArrayLike | Any, label: Any = None, *, sigma: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Return the learned score `(D(z; sigma) - z) / sigma^2` at x, per unit of x, `(n, d)`.

        The gradient of the log-density of points noised to `sigma` (None: sigma_min), in z, as the network
        knows it. Without a label it is that of the network trained with dropped labels.
        """
        learned = self._learned
        z = self._z(x)
        index, level = learned.label_index(label, len(z)), self._levels(sigma, len(z))
        slope = (learned.precise(z, level, index) - z) / level[:, None].square()
        found: NDArray[np.float64] = (slope / learned.standardizer.scale).numpy()
        return found

    def elbo(
        self,
        x: ArrayLike | Any,
        label: Any = None,
        *,
        evaluations: int = 256,
        steps: int | None = None,
        seed: int = 0,
    ) -> Elbo:
        """Return the evidence lower bound at points `x` `(n, d)`: its terms, each with a standard error.

        `evaluations` of the denoiser for each point (and class), shared between noise levels and noise;
        `steps` None for the continuous bound, T for that of T steps. `density.Elbo` gives the terms and says
        what the bound is a bound of. Labels as in `log_prob`.
        """
        learned = self._learned
        z = self._z(x)
        index = learned.label_index(label, len(z))

        def bound(index: Labels | None) -> Elbo:
            return elbo(
                learned.precise,
                learned.prior(),
                z,
                index,
                sigma_min=learned.config.sigma_min,
                evaluations=evaluations,
                steps=steps,
                seed=seed,
            )

        if index is not None or learned.classes is None:
            found = bound(index)
        else:
            each = [bound(torch.full((len(z),), c)) for c in range(len(learned.classes))]
            found = Elbo.mixed(each, learned.moments.frequencies.numpy())
        return found.shifted(learned.standardizer.log_det)

    # Classes ----------------------------------------------------------------------------------------

    def predict_proba(
        self, x: ArrayLike | Any, *, tolerance: float = TOLERANCE, on_bad: str = "raise"
    ) -> NDArray[np.float64]:
        """Return the probability of each class given x, `(n, K)`, columns in the order of `classes`.

        `p(c | x) = f_c p(x | c) / sum_k f_k p(x | k)` with the frequencies of the training points (Bayes).
        """
        if self._learned.classes is None:
            raise InputError("this model was fitted without labels, so it knows no classes")
        table = self._table(x, on_bad)
        return self._shares(table, self._levels(None, len(table.points)), tolerance)

    def predict(self, x: ArrayLike | Any) -> NDArray[Any]:
        """Return the most probable class of each point, `(n,)`: one of `classes`."""
        probabilities = self.predict_proba(x)
        found: NDArray[Any] = np.asarray(self._learned.classes)[probabilities.argmax(1)]
        return found

    # Certificate ------------------------------------------------------------------------------------

    def check_density(
        self,
        truth: Distribution | None = None,
        *,
        endless: bool = False,
        points: int = 1000,
        tolerance: float = TOLERANCE,
        seed: int = 0,
        progress: bool | None = None,
    ) -> Certificate:
        """Return what can be checked of the log-density: `print` it, or read its fields.

        Total mass (of each class), error of the solver and of its error bars, mismatch of the prior, and mean
        ELBO against mean log-density, at `points` points of the truth, or of the model itself without one.
        With the exact `truth`, in x, also what leaks out of its support, and the error budget: where the loss
        of log-likelihood comes from. `endless` trains the same network once more, on endless fresh points of
        the truth, to tell the network's share from that of finite data.

        In a model with labels, class c of `truth` must be the c-th of `classes`.

        Raises `InputError` for a truth of another dimension or number of classes, and `endless` without one.
        """
        learned = self._learned
        classes = None if learned.classes is None else len(learned.classes)
        if endless and truth is None:
            raise InputError("endless fresh points need the truth they are drawn from")
        points = whole_number("points", points, 2)
        known = truth
        if known is not None and not isinstance(known, Distribution):
            raise InputError(f"truth must be a distribution, got a {type(known).__name__}")
        if known is not None:
            if known.dim != learned.dim or (classes is not None and known.num_classes != classes):
                raise InputError(
                    f"the model is of {learned.dim} columns and {classes or 'no'} classes, "
                    f"the truth given of {known.dim} and {known.num_classes}"
                )
            known = known.standardized(learned.standardizer.mean, learned.standardizer.scale)
        with bar("checking", 4 + (classes or 1), progress) as move:
            notes = itertools.count()
            return check(
                learned.flow(tolerance),
                learned.prior(),
                sigma_min=learned.config.sigma_min,
                num_classes=classes,
                truth=known,
                endless=learned.trained_endlessly(known) if endless and known is not None else None,
                points=points,
                seed=seed,
                note=lambda text: move(next(notes), text),
            )

    # Within -----------------------------------------------------------------------------------------

    def _table(self, x: Any, on_bad: str = "raise") -> tables.Table:
        table = tables.from_frame(x, columns=self._learned.columns, on_bad=on_bad)
        return self._learned.own(table, "x")

    def _z(self, x: Any) -> Points:
        return self._learned.z(self._table(x))

    def _shares(self, table: tables.Table, sigma: Levels, tolerance: float) -> NDArray[np.float64]:
        """Return the class probabilities `(n, K)`."""
        judging = Judging(self._learned, self._learned.flow(tolerance))
        blocks = list(judging.blocks(table, None, sigma, shares=True, batch_size=4096, progress=False))
        LogDensity.joined([density for density, _ in blocks]).warn(tolerance)
        return np.concatenate([share for _, share in blocks if share is not None])

    def _levels(self, sigma: Any, n: int) -> Levels:
        low, high = self._learned.config.sigma_min, self._learned.config.sigma_max
        given = sigma.detach().cpu() if isinstance(sigma, Tensor) else sigma
        try:
            level = np.asarray(low if sigma is None else given, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"sigma must be a number or {n} of them, got {sigma!r}") from error
        if level.shape not in ((), (n,)):
            raise InputError(f"sigma must be one number or {n} of them, got shape {level.shape}")
        if not ((level >= low) & (level <= high)).all():
            raise InputError(f"sigma must lie in the model's range, {low:g} to {high:g}")
        return torch.from_numpy(np.broadcast_to(level, (n,)).copy())
