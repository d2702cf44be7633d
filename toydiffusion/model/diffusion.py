"""`Diffusion`: the one class that users meet. Every method checks its arguments and calls one function."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

import numpy as np
import torch
from numpy.typing import ArrayLike

from toydiffusion import tables
from toydiffusion.baselines import Comparison
from toydiffusion.certificate import DENSITIES, Certificate
from toydiffusion.codec import Standardizer
from toydiffusion.density import MAX_EVALUATIONS, TOLERANCE, DensityConfig, Elbo, LogDensity, Term
from toydiffusion.devices import torch_device
from toydiffusion.distributions import Distribution, Prior
from toydiffusion.errors import InputError, choice, finite_number, seed_number, shown, whole_number
from toydiffusion.experts import ExpertsReport, TableConfig
from toydiffusion.model import comparison, copying, densities, fitting, model_file, outliers, plotting
from toydiffusion.model.copying import Copying
from toydiffusion.model.densities import Densities
from toydiffusion.model.fitted_model import FittedModel
from toydiffusion.model.outliers import Outliers, Reasons
from toydiffusion.model.presets import PRESETS
from toydiffusion.model.sampling import (
    Block,
    joined,
    rows_from,
    sample_blocks,
    sample_trajectory,
)
from toydiffusion.schedules import Schedule
from toydiffusion.solvers import SampleConfig
from toydiffusion.students import Student
from toydiffusion.training import History, TrainConfig
from toydiffusion.types import Denoiser, FloatArray, LabelArray, Labels, Levels
from toydiffusion.views import html_table, import_pandas

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


class _SampleSettings(TypedDict, total=False):
    """The arguments of `Diffusion.sample` on which the type of its result does not depend."""

    sampling: SampleConfig | None
    steps: int | None
    solver: str | None
    schedule: str | None
    sigma_start: float | None
    guidance: float | None
    churn: float | None
    start: ArrayLike | Any | None
    seed: int
    first_row: int
    batch_size: int
    device: str
    progress: bool | None


class Diffusion:
    """A diffusion model of points in a few dimensions: fit it, sample from it, ask it for densities, save it.

    Arguments in common:

    - `x` `(n, d)`: points, as an array, a tensor, nested lists, a data frame (pandas, polars, Arrow), or a
      `Table`. Data frames are matched to the model by column name, arrays by position.
    - `label`: one of `classes` for all points, or `(n,)` of them, or None. None means the mixture of the
      classes by their frequencies, for samples and densities alike.
    - `seed`: a whole number >= 0. The same seed gives the same result.
    - `device`: where to compute: "cpu", "cuda" (a GPU), "cuda:1", or "auto", which is a GPU if there is one.
      The random numbers are the same everywhere, and the results agree up to rounding.
    - `first_row`: the number of the first row. Row i depends on the seed and on i only: rows a to b of a run
      are those rows of any longer run, up to float32 rounding (about 1e-6 of a standard deviation), since
      matrix products round differently in batches of another shape. The same call gives the same bits.

    All methods raise `InputError` for arguments that cannot be used, before any work is done.

    >>> import toydiffusion as td
    >>> x, y = td.distributions.ConcentricSquares().sample(200, seed=0)
    >>> model = td.Diffusion(td.TrainConfig(steps=20)).fit(x, y, seed=0)
    >>> model.sample(5, label=3, steps=4, seed=1).shape
    (5, 2)
    """

    def __init__(
        self,
        config: TrainConfig | TableConfig | None = None,
        sampling: SampleConfig | None = None,
        *,
        preset: str = "default",
    ) -> None:
        """Make a model that is not fitted yet.

        - `config`: how to fit, a `TrainConfig` for one network or a `TableConfig` for a table; None is
          that of the preset.
        - `sampling`: how to sample unless a call says otherwise; None is that of the preset.
        - `preset`: a name in `PRESETS`.
        """
        recipe = PRESETS[choice("preset", preset, PRESETS)]
        if config is not None and not isinstance(config, TrainConfig | TableConfig):
            raise InputError(f"config must be a TrainConfig or a TableConfig, got {shown(config)}")
        _check_kind("sampling", sampling, SampleConfig)
        self._config = config or recipe.train
        self._sampling = sampling or recipe.sample
        self._fitted: FittedModel | None = None

    # Fitting ----------------------------------------------------------------------------------------

    def fit(
        self,
        x: ArrayLike | Any,
        y: ArrayLike | Any | None = None,
        *,
        seed: int = 0,
        progress: bool | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: float = 30.0,
        resume: bool = False,
        compare: bool = False,
    ) -> Diffusion:
        """Learn points, with or without labels, and return the model itself.

        - `x` `(n, d)`: the points.
        - `y` `(n,)`: their labels, whole numbers, booleans or text; None for none. The name of a series
          becomes that of the label column.
        - `seed`: the same seed gives the same weights on one machine and version.
        - `progress`: whether to show a progress bar; None shows it on a terminal and in a notebook.
        - `checkpoint`: a file that is written every half minute, at the end, and when Ctrl-C interrupts the
          training. It is yours to remove.
        - `checkpoint_every`: how many seconds pass until it is written again.
        - `resume`: whether to go on from the checkpoint. The weights are then those of an uninterrupted run.
        - `compare`: whether to compare with baselines too (`Diffusion.compare`). For that a second model is
          fitted to four fifths of the rows. The result is on the card, and in `comparison`.

        Raises `InputError` for points that cannot be learned (fewer than two, NaN, a constant column, one
        class only), and `TrainingError` if the loss is no longer finite.
        """
        return self.fit_table(
            tables.from_frame(x, y),
            seed=seed,
            progress=progress,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            resume=resume,
            compare=compare,
        )

    def fit_table(
        self,
        table: tables.Table | tables.TableFolder,
        *,
        seed: int = 0,
        progress: bool | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: float = 30.0,
        resume: bool = False,
        compare: bool = False,
    ) -> Diffusion:
        """Learn a `Table`, such as `tables.read` returns, or the rows of a `tables.TableFolder`; see `fit`.

        A folder may hold more rows than fit in memory. It is read once for means, deviations and classes.
        Then each step takes rows drawn uniformly from all of them, whatever their order; rows of many steps
        are fetched in one pass. A model for tables is fitted to 100,000 of them, chosen at random.
        """
        if not isinstance(table, tables.TableFolder):
            _check_kind("table", table, tables.Table, optional=False)
        if compare and isinstance(table, tables.TableFolder):
            raise InputError(
                "compare needs a table in memory; compare with `Diffusion.compare` on some of its rows"
            )
        self._fitted = fitting.fit(
            table,
            self._config,
            self._sampling,
            seed=seed,
            progress=progress,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            resume=resume,
        )
        if compare and isinstance(table, tables.Table):
            found = comparison.trial(table, self._config, self._sampling, seed=seed, progress=progress)
            self._fitted = replace(self._fitted, comparison=found)
        return self

    @classmethod
    def of(cls, fitted: FittedModel) -> Diffusion:
        """Return the facade of a fitted model."""
        model = cls(fitted.config, fitted.sampling)
        model._fitted = fitted
        return model

    def with_denoiser(self, denoiser: Denoiser) -> Diffusion:
        """Return the same model with another denoiser in the network's place, in z.

        >>> import toydiffusion as td
        >>> law = td.distributions.Square()
        >>> model = td.Diffusion(td.TrainConfig(steps=20)).fit(law.sample(200, seed=0)[0])
        >>> perfect = model.with_denoiser(model.standardized(law).denoise)
        >>> bool(law.contains(perfect.sample(100, seed=0)).mean() > 0.95)
        True
        """
        if not callable(denoiser):
            raise InputError(f"denoiser must be a function of (z, sigma, label), got {shown(denoiser)}")
        return Diffusion.of(self.fitted.with_denoiser(denoiser))

    def standardized(self, truth: Distribution) -> Distribution:
        """Return an exact law of x in the model's coordinates z, where denoisers are compared.

        Class c of the law is the c-th of `classes`. Raises `InputError` for a law of other columns or
        classes.

        >>> import toydiffusion as td
        >>> law = td.distributions.Square()
        >>> model = td.Diffusion(td.TrainConfig(steps=20)).fit(law.sample(200, seed=0)[0])
        >>> truth = model.standardized(law)
        >>> bool(abs(truth.covariance.diagonal() - 1).max() < 0.2)
        True
        """
        return densities.standardized(self.fitted, truth)

    # What was learned -------------------------------------------------------------------------------

    @property
    def fitted(self) -> FittedModel:
        """The fitted model: a frozen value that can be pickled. An `InputError` before `fit`."""
        if self._fitted is None:
            raise InputError("this model is not fitted yet: call fit(x) first, or load a saved one")
        return self._fitted

    @property
    def config(self) -> TrainConfig | TableConfig:
        """The settings of the model and its training."""
        return self._config

    @property
    def sampling(self) -> SampleConfig:
        """The settings of sampling, unless a call says otherwise."""
        return self._sampling

    @property
    def denoiser(self) -> Denoiser:
        """The learned denoiser in z: tensors `(n, d)`, `(n,)`, and class indices `(n,)` to `(n, d)`."""
        return self.fitted.denoiser

    @property
    def unconditional_denoiser(self) -> Denoiser:
        """The denoiser trained with dropped labels, which guidance starts from, in z."""
        return self.fitted.unconditional_denoiser

    @property
    def standardizer(self) -> Standardizer:
        """The map `z = (x - mean) / scale` between the user's coordinates and the model's."""
        return self.fitted.codec.standardizer

    @property
    def moments(self) -> Distribution:
        """For each class the Gaussian with the data's mean and covariance, in z."""
        return self.fitted.prior.distribution

    @property
    def classes(self) -> LabelArray | None:
        """The user's labels in ascending order; None in a model without labels."""
        return self.fitted.codec.classes

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The names of the columns; None if they have none."""
        return self.fitted.codec.columns

    @property
    def label_column(self) -> str | None:
        """The name of the label column; None if it has none."""
        return self.fitted.codec.label_column

    @property
    def history(self) -> History:
        """The loss during training."""
        return self.fitted.history

    @property
    def dim(self) -> int:
        """The number of columns d."""
        return self.fitted.dim

    @property
    def sigma_min(self) -> float:
        """The lowest noise level, in z."""
        return self.fitted.sigma_min

    @property
    def sigma_max(self) -> float:
        """The highest noise level, in z."""
        return self.fitted.sigma_max

    @property
    def schedule(self) -> Schedule:
        """The schedule of the noise levels in training."""
        config = self.fitted.config
        if not isinstance(config, TrainConfig):
            raise InputError("a model for tables has no schedule: its parts are fitted in different ways")
        return config.noise()

    def prior(self, sigma: float | None = None) -> Prior:
        """Return the law where the reverse process starts, at noise level `sigma` in z; None: sigma_max."""
        if sigma is None:
            return self.fitted.prior
        return Prior(self.moments, finite_number("sigma", sigma, above=0))

    @property
    def experts(self) -> ExpertsReport | None:
        """What was found out about the experts of a model for tables (`ExpertsReport`); None in others."""
        return self.fitted.experts

    @property
    def student(self) -> Student | None:
        """The students of a distilled model (`distill`), with their certificate; None in other models."""
        return self.fitted.student

    # Samples ----------------------------------------------------------------------------------------

    @overload
    def sample(
        self,
        n: int | None = None,
        label: Any = None,
        *,
        return_labels: Literal[False] = False,
        as_frame: Literal[False] = False,
        **settings: Unpack[_SampleSettings],
    ) -> FloatArray: ...

    @overload
    def sample(
        self,
        n: int | None = None,
        label: Any = None,
        *,
        return_labels: Literal[True],
        as_frame: Literal[False] = False,
        **settings: Unpack[_SampleSettings],
    ) -> tuple[FloatArray, LabelArray]: ...

    @overload
    def sample(
        self,
        n: int | None = None,
        label: Any = None,
        *,
        return_labels: Literal[False] = False,
        as_frame: Literal[True],
        **settings: Unpack[_SampleSettings],
    ) -> DataFrame: ...

    def sample(
        self,
        n: int | None = None,
        label: Any = None,
        *,
        sampling: SampleConfig | None = None,
        steps: int | None = None,
        solver: str | None = None,
        schedule: str | None = None,
        sigma_start: float | None = None,
        guidance: float | None = None,
        churn: float | None = None,
        start: ArrayLike | Any | None = None,
        seed: int = 0,
        first_row: int = 0,
        return_labels: bool = False,
        as_frame: bool = False,
        batch_size: int = 8192,
        device: str = "auto",
        progress: bool | None = False,
    ) -> FloatArray | tuple[FloatArray, LabelArray] | DataFrame:
        """Return n new points, `(n, d)` float64, alone, with their labels `(n,)`, or as a pandas data frame.

        - `n`: how many points. Not needed with `start`.
        - `label`: a label, or one for each point; None samples labels by their frequencies.
        - `sampling`: the settings of sampling; None is the model's own. In a distilled model without any
          settings or `start`, its student answers in one call.
        - `steps`, `solver`, `schedule`, `sigma_start`, `guidance`, `churn`: single settings instead of those
          in `sampling`; see `SampleConfig`.
        - `start` `(n, d)`: points in x to start from instead of the prior. They are noised to `sigma_start`
          and denoised again: the higher sigma_start, the less is left of them. In a model with labels, a
          point without a label gets a class sampled from the posterior of the noisy point.
        - `seed`, `first_row`: which rows of which endless sample.
        - `return_labels`: whether to return the pair of points and labels, in a model with labels.
        - `as_frame`: whether to return a data frame instead: the table that `toydiffusion sample` writes. Its
          columns are called as those of the model (x0, x1, ... without names). Columns of whole numbers are
          int64 in a model for tables. In a model with labels the last one holds the labels. It needs
          pandas.
        - `batch_size`: how many points are computed at once.
        - `progress`: whether to show a progress bar; None shows it on a terminal and in a notebook.

        The points are not clipped to the range of the data.
        """
        if return_labels and self.classes is None:
            raise InputError("return_labels needs a model with labels; this one was fitted without")
        if as_frame and return_labels:
            raise InputError("as_frame has the labels in a column of its frame; leave out return_labels")
        if as_frame:
            import_pandas("as_frame")
        chosen: dict[str, Any] = {
            "steps": steps,
            "solver": solver,
            "schedule": schedule,
            "sigma_start": sigma_start,
            "guidance": guidance,
            "churn": churn,
        }
        _check_kind("sampling", sampling, SampleConfig)
        given = {name: value for name, value in chosen.items() if value is not None}
        x, labels = joined(
            self.sample_blocks(
                n,
                label,
                sampling=replace(sampling or self.sampling, **given) if given else sampling,
                start=start,
                seed=seed,
                first_row=first_row,
                batch_size=batch_size,
                device=device,
                progress=progress,
            )
        )
        codec = self.fitted.codec
        if as_frame:
            frame = tables.Table(x, codec.names, labels, codec.label_name).to_pandas()
            return frame.astype(dict.fromkeys(codec.whole, np.int64))
        return x if not return_labels or labels is None else (x, labels)

    def sample_blocks(
        self,
        n: int | None = None,
        label: Any = None,
        *,
        sampling: SampleConfig | None = None,
        start: ArrayLike | Any | None = None,
        seed: int = 0,
        first_row: int = 0,
        batch_size: int = 8192,
        device: str = "auto",
        progress: bool | None = False,
    ) -> Iterator[Block]:
        """Yield the result of `sample` in blocks of `batch_size` points, in constant memory.

        A `Block` has `points` `(k, d)` and `labels` `(k,)`; in a model without labels these are None.
        `sampling` None is the model's own, or the student of a distilled model. The arguments are checked
        before the first block.
        """
        _check_kind("sampling", sampling, SampleConfig)
        fitted, given = self.fitted, None
        if start is not None:
            given = fitted.codec.to_z(self._table(start, what="start"))
            if n is not None and n != len(given):
                raise InputError(f"n is {n} but start has {len(given)} points; leave n out")
            n = len(given)
        rows = rows_from(first_row, n)
        return sample_blocks(
            self._on(device),
            rows,
            sampling,
            fitted.codec.class_index(label, len(rows)),
            given=given,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
        )

    def trajectory(
        self,
        n: int,
        label: Any = None,
        *,
        sampling: SampleConfig | None = None,
        seed: int = 0,
        first_row: int = 0,
        device: str = "auto",
    ) -> tuple[FloatArray, FloatArray]:
        """Return the trajectories of n points, `(steps + 1, n, d)` in x, and the levels, `(steps + 1,)`.

        The last entries are the clean points, at level 0: those that `sample` returns for the same arguments.
        """
        _check_kind("sampling", sampling, SampleConfig)
        rows = rows_from(first_row, n)
        index = self.fitted.codec.class_index(label, len(rows))
        return sample_trajectory(self._on(device), rows, sampling or self.sampling, index, seed=seed)

    def sample_with_log_prob(
        self,
        n: int,
        label: Any = None,
        *,
        tolerance: float | None = None,
        seed: int = 0,
        first_row: int = 0,
        device: str = "auto",
    ) -> tuple[FloatArray, LogDensity, LabelArray | None]:
        """Return n new points `(n, d)`, their log-densities, and their labels (None in a model without).

        The points are samples of the density that `log_prob` gives. Asked for them with the same `label`,
        `log_prob` returns the same values, within the errors. Like those of `decode` they stop at sigma_min,
        without the final denoising of `sample`. `tolerance` is as in `log_prob`.

        In a distilled model, of which no tolerance is asked, they are the points of `sample`, each with the
        density that `log_prob` gives at this point. Two students answer, so the points follow that density
        only as nearly as both imitate their teacher.
        """
        rows = rows_from(first_row, n)
        index = self.fitted.codec.class_index(label, len(rows))
        plan = DensityConfig(tolerance)
        points, density, labels = densities.sample_with_log_prob(
            self._on(device), rows, plan, index, seed=seed
        )
        density.warn(plan.nats)
        return points, density, labels

    # Densities --------------------------------------------------------------------------------------

    def log_prob(
        self,
        x: ArrayLike | Any,
        label: Any = None,
        *,
        sigma: ArrayLike | None = None,
        tolerance: float | None = None,
        max_evaluations: int = MAX_EVALUATIONS,
        probes: int | None = None,
        seed: int = 0,
        first_row: int = 0,
        on_bad: str = "raise",
        batch_size: int | None = None,
        device: str = "auto",
        progress: bool | None = False,
    ) -> LogDensity:
        """Return the log-density at points x, in nats: `value` `(n,)`, with `error` and `prior_error`.

        Along the probability flow from sigma_min to sigma_max (`density.ProbabilityFlow`),

            log p(x | label) = log prior(z_max) + int (d - tr dD/dz) dlog sigma + log |dz/dx|.

        Without a label a model with labels returns `log p(x) = logsumexp_c(log f_c + log p(x | c))`, with the
        class frequencies f_c.

        It is the density of smoothed points, `x + noise`. The standard deviation of the noise is sigma_min
        times that of each column.

        - `x` `(n, d)`: the points.
        - `label`: a label, one for each point, or None for the mixture.
        - `sigma`: the noise level of the density in z, one or `(n,)`; None is sigma_min.
        - `tolerance`: the error bar asked for, in nats. Each point takes the steps it needs, whatever its
          batch. None asks for 0.002. In a distilled model None lets the student answer in its training
          range, in one evaluation for each class. With a number it answers only where its own bar is within
          it, and the flow answers elsewhere.
        - `max_evaluations`: denoiser evaluations after which a point is refined no further. Its value stands,
          its `error` says how exact it is, and a `ToleranceWarning` is issued.
        - `probes`: None for the exact divergence, or 4 or more random probes that estimate it (Hutchinson).
          Worth it only for far more columns than 50.
        - `seed`, `first_row`: which random probes.
        - `on_bad`: "raise" refuses rows with missing or infinite numbers; "skip" returns NaN for them.
        - `batch_size`: how many points are computed at once. None (default): 8,192 in two columns, fewer in
          more, and four times as many where a student answers.
        - `progress`: as in `sample`.
        """
        plan, table = DensityConfig(tolerance, max_evaluations, probes), self._table(x, on_bad)
        n = len(table.points)
        blocks = densities.log_prob_blocks(
            self._on(device),
            table,
            plan,
            self.fitted.codec.class_index(label, n),
            sigma=None if sigma is None else densities.levels_of(self.fitted, sigma, n),
            seed=seed,
            first_row=first_row,
            batch_size=batch_size,
            progress=progress,
        )
        found = densities.joined(blocks).log_prob
        found.warn(plan.nats)
        return found

    def log_mass(
        self,
        x: ArrayLike | Any,
        label: Any = None,
        *,
        samples: int = 64,
        tolerance: float | None = None,
        seed: int = 0,
        first_row: int = 0,
        device: str = "auto",
    ) -> Term:
        """Return the logarithm of the probability of each row of a rounded table, `(n,)`, in nats.

        It is the integral of the density over the row's cell: all values that are rounded to it, in columns
        with a grid. In other columns it stays a density. Unlike `log_prob`, it does not depend on the unit
        of a rounded column. `std_error` is the standard error of the integral.

        - `samples`: the points in each cell, at least 16.
        - the others: as in `log_prob`. Needs a model for tables.
        """
        table = self._table(x)
        index = self.fitted.codec.class_index(label, len(table.points))
        return densities.log_mass(
            self._on(device),
            table,
            DensityConfig(tolerance),
            index,
            samples=samples,
            seed=seed,
            first_row=rows_from(first_row, len(table.points)).start,
        )

    def log_prob_blocks(
        self,
        table: tables.Table,
        label: Any = None,
        *,
        tolerance: float | None = None,
        max_evaluations: int = MAX_EVALUATIONS,
        first_row: int = 0,
        batch_size: int | None = None,
        device: str = "auto",
        progress: bool | None = False,
    ) -> Iterator[Densities]:
        """Yield log-densities and class probabilities of a table in blocks, in constant memory.

        The log-density of a point is that under `label` if one is given, under its own label if the table has
        labels, and that of the mixture otherwise. Rows that are missing come out as NaN. The arguments are
        checked before the first block. The other arguments are those of `log_prob`.
        """
        _check_kind("table", table, tables.Table, optional=False)
        codec, table = self.fitted.codec, self.fitted.codec.select(table, table.source)
        index = codec.table_index(table) if label is None else codec.class_index(label, len(table.points))
        return densities.log_prob_blocks(
            self._on(device),
            table,
            DensityConfig(tolerance, max_evaluations),
            index,
            classes=True,
            first_row=first_row,
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
        device: str = "auto",
    ) -> FloatArray:
        """Return the gradient of `log_prob` in x, `(n, d)`, in nats per unit of x, by autograd.

        This is the gradient of the density that `log_prob` returns. `score` is what the network says it is.
        For a learned model the two differ a little. The arguments are those of `log_prob`.
        """
        table = self._table(x)
        index, level = self._index_and_level(table, label, sigma)
        return densities.grad_log_prob(self._on(device), table, DensityConfig(tolerance), index, level)

    def score(
        self,
        x: ArrayLike | Any,
        label: Any = None,
        *,
        sigma: ArrayLike | None = None,
        device: str = "auto",
    ) -> FloatArray:
        """Return the learned score `(D(z; sigma, label) - z) / sigma^2` at x, `(n, d)`.

        It is in nats per unit of x. Without a label a model with labels returns
        `sum_c p(c | x; sigma) score_c`. The arguments are those of `log_prob`.
        """
        table = self._table(x)
        index, level = self._index_and_level(table, label, sigma)
        return densities.score(self._on(device), table, index, level)

    def elbo(
        self,
        x: ArrayLike | Any,
        label: Any = None,
        *,
        evaluations: int = 256,
        steps: int | None = None,
        seed: int = 0,
        first_row: int = 0,
        device: str = "auto",
    ) -> Elbo:
        """Return the evidence lower bound at points x: its value and its terms, each with a standard error.

        `density.Elbo` gives the terms, and says what the bound is a bound of.

        - `x` `(n, d)`: the points.
        - `label`: a label, one for each point, or None for the mixture.
        - `evaluations`: denoiser evaluations for each point and class, at least 16.
        - `steps`: None for the continuous bound, or the number of steps of a discrete one.
        - `seed`, `first_row`: which random numbers.
        """
        table = self._table(x)
        return densities.elbo(
            self._on(device),
            table,
            self.fitted.codec.class_index(label, len(table.points)),
            evaluations=evaluations,
            steps=steps,
            seed=seed,
            first_row=rows_from(first_row, len(table.points)).start,
        )

    def encode(
        self, x: ArrayLike | Any, label: Any = None, *, tolerance: float = 1e-5, device: str = "auto"
    ) -> FloatArray:
        """Carry points up the probability flow; return their latents at sigma_max, `(n, d)`, in z.

        Divided by `sqrt(1 + sigma_max^2)` the latents are about standard normal.

        - `x` `(n, d)`: the points.
        - `label`: a label, or one for each point. A model with labels needs it: each class has its own flow.
        - `tolerance`: the numerical error allowed, in nats.
        """
        table = self._table(x)
        index = self.fitted.codec.class_index(label, len(table.points))
        return densities.encode(self._on(device), table, index, tolerance=tolerance)

    def decode(
        self, latent: ArrayLike, label: Any = None, *, tolerance: float = 1e-5, device: str = "auto"
    ) -> FloatArray:
        """Carry latents down the probability flow; return the points x that `encode` carries to them.

        The points stop at sigma_min, without the final denoising of `sample`.

        - `latent` `(n, d)`: latents in z.
        - `label`, `tolerance`: as in `encode`.
        """
        given = tables.from_frame(latent, name="latent").points
        if given.shape[1] != self.dim:
            raise InputError(f"latent must have {self.dim} columns, got {given.shape[1]}")
        index = self.fitted.codec.class_index(label, len(given))
        return densities.decode(self._on(device), torch.from_numpy(given), index, tolerance=tolerance)

    # Classes ----------------------------------------------------------------------------------------

    def predict_proba(
        self,
        x: ArrayLike | Any,
        *,
        tolerance: float | None = None,
        on_bad: str = "raise",
        device: str = "auto",
    ) -> FloatArray:
        """Return the probability of each class given x, `(n, K)`, columns in the order of `classes`.

        `p(c | x) = f_c p(x | c) / sum_k f_k p(x | k)` with the class frequencies of the training points
        (Bayes' rule). The arguments are those of `log_prob`.
        """
        return self._classified(x, tolerance, on_bad, device)[0]

    def predict(self, x: ArrayLike | Any, *, device: str = "auto") -> LabelArray:
        """Return the most probable class of each point, `(n,)`: one of `classes`."""
        probabilities = self.predict_proba(x, device=device)
        found: LabelArray = np.asarray(self.classes)[probabilities.argmax(1)]
        return found

    def joint_log_prob(
        self,
        x: ArrayLike | Any,
        *,
        tolerance: float | None = None,
        on_bad: str = "raise",
        device: str = "auto",
    ) -> FloatArray:
        """Return `log f_c + log p(x | c)` for each class c, `(n, K)`, columns in the order of `classes`.

        Their `logsumexp` is `log_prob(x)`, and their `softmax` is `predict_proba(x)`. The arguments are those
        of `log_prob`.
        """
        probabilities, density = self._classified(x, tolerance, on_bad, device)
        with np.errstate(divide="ignore"):
            found: FloatArray = np.log(probabilities) + density.value[:, None]
        return found

    # Outliers ---------------------------------------------------------------------------------------

    def normality(self, x: ArrayLike | Any, *, on_bad: str = "raise") -> FloatArray:
        """Return how usual each row is, `(n,)`: the log-density in z at noise level 0.1 under the mixture.

        Needs a model for tables, as do `p_values` and `reasons`. Outliers have low values.
        """
        return outliers.normality(self.fitted, self._table(x, on_bad))

    def p_values(self, x: ArrayLike | Any, *, seed: int = 1, on_bad: str = "raise") -> FloatArray:
        """Return the conformal p-value of each row, `(n,)`: the share of inliers that are as odd.

        `p(x) = (1 + #{i: s_i >= s(x)}) / (n + 1)` with the oddness s = -`normality`. The s_i are those of the
        training rows, each under a mixture that has not seen it (cross-conformal, Vovk 2015).

        - `seed`: of the places in their cells to which rounded values are spread, as in training.
        """
        return outliers.p_values(self.fitted, self._table(x, on_bad), seed=seed_number(seed))

    def outliers(
        self, x: ArrayLike | Any, *, fdr: float = 0.1, seed: int = 1, on_bad: str = "raise"
    ) -> Outliers:
        """Return the rows of x, the oddest first, with p-values and reasons (`Outliers`).

        - `fdr`: the share of inliers that may be among the rows selected, on average.
        - `seed`: as in `p_values`.
        - `on_bad`: "raise" refuses rows with missing or infinite numbers; "skip" leaves them out.
        """
        table = self._table(x, on_bad)
        return outliers.outliers(self.fitted, table, fdr=fdr, seed=seed_number(seed))

    def reasons(self, x: ArrayLike | Any) -> Reasons:
        """Return how unusual each column of each row is, given the row's other columns (`Reasons`)."""
        return outliers.reasons(self.fitted, self._table(x))

    # Figures ----------------------------------------------------------------------------------------

    def plot(
        self,
        what: str = "model",
        *,
        data: ArrayLike | Any | None = None,
        labels: ArrayLike | Any | None = None,
        truth: Distribution | None = None,
        columns: Sequence[str] | None = None,
        n: int = 2000,
        seed: int = 0,
        device: str = "auto",
        progress: bool | None = False,
    ) -> Figure:
        """Return a matplotlib `Figure` of the model or of its training. Notebooks show it.

        A model of one column shows its density with the error bar as a band, that of each class too, over a
        histogram of samples. A model of two columns shows samples and a map of the log-density, down to 10
        nats below its highest value. A model of more columns shows all pairs of columns, samples below the
        diagonal and data above it.

        Densities are those of `log_prob`. A map asks for a tolerance of 0.05 nats. It has 64 x 64 cells for
        at most three classes. With more it has fewer, at least 24 x 24, because each class takes a
        log-density in each cell.

        - `what`: "model", "history" for the loss during training, or "experts" for the weights over noise of
          the experts of a model for tables.
        - `data` `(m, d)`: points to show beside the model, such as those it was fitted to; a model does not
          keep them. Anything that `fit` takes.
        - `labels` `(m,)`: the labels of `data`, in a model with labels.
        - `truth`: the exact law, in x. Its density, smoothed at sigma_min as that of the model is, is shown
          beside the learned one, in a figure of a density.
        - `columns`: the names of the columns to show, in order; None is all, up to the first 6.
        - `n`, `seed`: how many samples to show, and of which seed: those of `sample(n, seed=seed)`.
        - `progress`: as in `sample`, for the densities.

        >>> import toydiffusion as td
        >>> x, y = td.distributions.ConcentricSquares(2).sample(200, seed=0)
        >>> model = td.Diffusion(td.TrainConfig(steps=20)).fit(x, y, seed=0)
        >>> figure = model.plot(data=x, labels=y)
        >>> [ax.get_title() for ax in figure.axes[:3]]
        ['data, 200 points', '2,000 samples', 'learned log-density']
        """
        fitted = self.fitted
        if choice("plot", what, ("model", "history", "experts")) != "model":
            if any(given is not None for given in (data, labels, truth, columns)):
                raise InputError(
                    f"data, labels, truth and columns belong to plot('model'), not to plot({what!r})"
                )
            return plotting.plot_history(fitted) if what == "history" else plotting.plot_experts(fitted)
        if labels is not None and data is None:
            raise InputError("labels are those of the data; give data too")
        table = None if data is None else self._table(data, what="data")
        index = None if table is None else fitted.codec.class_index(labels, len(table.points), "labels: ")
        chosen = None if columns is None else fitted.codec.positions(columns)
        n, seed = whole_number("n", n, 1, hint=", the number of samples"), seed_number(seed)
        known = None if truth is None else self.standardized(truth)
        return plotting.plot_model(
            self._on(device), table, index, known, chosen, n=n, seed=seed, progress=progress
        )

    # Certificate ------------------------------------------------------------------------------------

    def check_density(
        self,
        truth: Distribution | None = None,
        label: Any = None,
        *,
        endless: bool = False,
        points: int = 1000,
        most_densities: int = DENSITIES,
        tolerance: float = TOLERANCE,
        seed: int = 0,
        device: str = "auto",
        progress: bool | None = None,
    ) -> Certificate:
        """Return a certificate of the log-density: `print` it, or read its fields.

        It holds the total mass, the solver's error and whether the bars hold, the mismatch of the prior, and
        the mean ELBO beside the mean log-density. With the exact truth it also holds the mass outside the
        support, and the error budget: where the loss of log-likelihood comes from.

        - `truth`: the exact law, in x. Class c of it is the c-th of `classes`. Without it the test points are
          samples of the model.
        - `label`: the class whose density is checked; None for that of the mixture.
        - `endless`: whether to train the same network once more on endless fresh points of the truth. This
          separates the network's part of the loss from that of the finite data.
        - `points`: the number of test points, at least 2.
        - `most_densities`: those that the mass of a class may take, at least 1,000. It is found by
          quadrature in up to three columns, and by importance sampling where that would take more.
        - `tolerance`: as in `log_prob`.
        """
        index = self.fitted.codec.class_index(label, 1)
        return densities.check_density(
            self._on(device),
            truth,
            DensityConfig(tolerance),
            None if index is None else int(index[0]),
            endless=endless,
            points=whole_number("points", points, 2),
            most=whole_number("most_densities", most_densities, 1000),
            seed=seed_number(seed),
            progress=progress,
        )

    # Held-out rows ----------------------------------------------------------------------------------

    @property
    def comparison(self) -> Comparison | None:
        """The held-out log-density beside baselines, of a model fitted with `compare=True`; else None."""
        return self.fitted.comparison

    def compare(
        self, train: ArrayLike | Any, held_out: ArrayLike | Any, *, seed: int = 0, on_bad: str = "raise"
    ) -> Comparison:
        """Compare the log-densities of held-out rows with those of baselines: print it, or read its fields.

        The baselines are a Gaussian kernel density and a mixture of Gaussians. Cross-validation chooses
        their settings. They get the same columns as the model: its power transforms, and the same spread-out
        values of rounded columns. Of more than 2,000 held-out rows a random 2,000 count.

        - `train` `(n, d)`: the rows that the model was fitted to. The baselines are fitted to them.
        - `held_out` `(m, d)`: rows that the model has not seen.
        - `seed`: of the spread, the choice of rows, and the cross-validation.
        - `on_bad`: "raise" refuses rows with missing or infinite numbers; "skip" leaves them out.

        >>> import toydiffusion as td
        >>> law = td.distributions.Square()
        >>> model = td.Diffusion(td.TableConfig(networks=False)).fit(law.sample(200, seed=0)[0])
        >>> found = model.compare(law.sample(200, seed=0)[0], law.sample(100, seed=1)[0])
        >>> found.num_rows, len(found.baselines)
        (100, 2)
        """
        rows = self._rows(train, None, "train", on_bad), self._rows(held_out, None, "held_out", on_bad)
        return comparison.compare(self.fitted, *rows, seed=seed_number(seed))

    def check_copying(
        self,
        train: ArrayLike | Any,
        held_out: ArrayLike | Any,
        *,
        train_labels: ArrayLike | Any | None = None,
        held_out_labels: ArrayLike | Any | None = None,
        samples: int = 1000,
        seed: int = 0,
        on_bad: str = "raise",
    ) -> Copying:
        """Check whether samples are copies of training rows (`Copying`): print it, or read its fields.

        This finds copies. It does not show that a model keeps its rows secret.

        - `train` `(n, d)`: the rows that the model was fitted to.
        - `held_out` `(m, d)`: rows of the same law that the model has not seen. They show what chance does.
        - `train_labels`, `held_out_labels`: their labels, in a model with labels; not needed with a `Table`
          that holds them.
        - `samples`: how many samples are drawn: those of `sample(samples, seed=seed)`.
        - `on_bad`: "raise" refuses rows with missing or infinite numbers; "skip" leaves them out.

        >>> import toydiffusion as td
        >>> law = td.distributions.Square()
        >>> model = td.Diffusion(td.TableConfig(networks=False)).fit(law.sample(200, seed=0)[0])
        >>> found = model.check_copying(law.sample(200, seed=0)[0], law.sample(200, seed=1)[0])
        >>> found.samples, len(found.memory)
        (1000, 3)
        """
        own = self._rows(train, train_labels, "train", on_bad)
        other = self._rows(held_out, held_out_labels, "held_out", on_bad)
        samples = whole_number("samples", samples, 2)
        return copying.check_copying(self.fitted, own, other, samples=samples, seed=seed_number(seed))

    # Files and words --------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a `.safetensors` file, whole or not at all; `load` reads it back."""
        model_file.save(self.fitted, path)

    def card(self) -> list[tuple[str, str]]:
        """Return the model card, pairs of heading and text: what it was fitted to, and how it samples."""
        return self.fitted.card()

    def __repr__(self) -> str:
        """Return one line: what the model was fitted to."""
        if self._fitted is None:
            return "Diffusion(not fitted)"
        kind = "" if self.classes is None else f", {len(self.classes)} classes"
        num_points = self._fitted.provenance.num_points
        return f"Diffusion({self.dim} columns{kind}, fitted to {num_points:,} points)"

    def _repr_html_(self) -> str:
        return html_table(repr(self), [] if self._fitted is None else self.card())

    # Arguments --------------------------------------------------------------------------------------

    def _classified(
        self, x: Any, tolerance: float | None, on_bad: str, device: str
    ) -> tuple[FloatArray, LogDensity]:
        """Return class probabilities `(n, K)`, and the log-densities of the mixture of the classes."""
        if self.classes is None:
            raise InputError("this model was fitted without labels, so it knows no classes")
        plan, table = DensityConfig(tolerance), self._table(x, on_bad)
        blocks = densities.log_prob_blocks(self._on(device), table, plan, classes=True)
        found = densities.joined(blocks)
        found.log_prob.warn(plan.nats)
        return np.asarray(found.class_probabilities), found.log_prob

    def _on(self, device: str) -> FittedModel:
        return self.fitted.on(torch_device(device))

    def _table(self, x: Any, on_bad: str = "raise", *, what: str = "x") -> tables.Table:
        codec = self.fitted.codec
        if isinstance(x, tables.Table):
            return codec.select(x, x.source)
        return codec.select(tables.from_frame(x, columns=codec.names, on_bad=on_bad, name=what), what)

    def _rows(self, x: Any, labels: Any, what: str, on_bad: str) -> tables.Table:
        """Return the rows that are not missing, with their labels if there are any."""
        table = self._table(x, on_bad, what=what)
        if labels is not None:
            index = self.fitted.codec.class_index(labels, len(table.points), f"{what}: ")
            table = replace(table, labels=self.fitted.codec.labels(index))
        return comparison.rows_of(table, ~table.missing)

    def _index_and_level(self, table: tables.Table, label: Any, sigma: Any) -> tuple[Labels | None, Levels]:
        n = len(table.points)
        return self.fitted.codec.class_index(label, n), densities.levels_of(self.fitted, sigma, n)


def _check_kind(name: str, value: object, kind: type, *, optional: bool = True) -> None:
    if not isinstance(value, kind) and not (optional and value is None):
        raise InputError(f"{name} must be a {kind.__name__}, got {shown(value)}")


def load(path: str | os.PathLike[str]) -> Diffusion:
    """Return the model that `Diffusion.save` wrote.

    Raises `InputError` for a file that is missing, cut off, altered, of another version, or not a model.
    """
    return Diffusion.of(model_file.load(path))
