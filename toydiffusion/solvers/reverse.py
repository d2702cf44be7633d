"""The reverse process from any denoiser, by any method of `solvers.methods`, one noise level at a time.

The functions are generators over descending noise levels. So trajectories and samples come from the same
code. The points are float64, whatever the denoiser computes in.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from toydiffusion.distributions import Distribution, Gaussian, Prior, Reference
from toydiffusion.errors import InputError, finite_number
from toydiffusion.row_noise import RowNoise
from toydiffusion.schedules import Schedule
from toydiffusion.solvers.methods import (
    Adams,
    ExponentialMultistep,
    ReverseSDE,
    RungeKutta,
    Solver,
)
from toydiffusion.types import Denoiser, Labels, Points


def reverse(
    denoiser: Denoiser,
    z: Points,
    levels: Tensor,
    solver: Solver,
    *,
    label: Labels | None = None,
    seed: int = 0,
    first_row: int = 0,
    churn: float = 0.0,
    clock: Schedule | None = None,
    moments: Distribution | None = None,
) -> Iterator[Points]:
    """Solve the reverse process; yield z at each noise level in turn, including the first.

    - `denoiser`: any denoiser.
    - `z` `(n, d)`: points at the first noise level.
    - `levels` `(k + 1,)`: descending noise levels, > 0. The last one may be 0 with an Adams method.
      The other methods cannot step to the clean point: it is `denoiser` at the last level.
    - `solver`: the method.
    - `label` `(n,)`: class indices for the denoiser, or None (default).
    - `seed`, `first_row`: the noise of row i of z is row `first_row + i` of the noise of `seed`. So the
      trajectory of a point does not depend on its batch.
    - `churn`: the noise injection of EDM, default 0 (Karras et al. 2022, algorithm 2, S_churn with S_noise =
      1). Before each of the k steps of a Runge-Kutta method, fresh noise raises sigma by the factor
      `1 + min(churn / k, sqrt(2) - 1)`.
    - `clock`: a schedule, to solve in its time t with `dsigma(t)` in the equations (see `Schedule`), as in
      Song et al. 2021. None (default): solve in sigma. The results agree to the order of the method.
      Multistep methods have a time of their own.
    - `moments`: a law with the moments of the data and of its classes, for Adams methods. None
      (default): mean 0 and covariance I, those of standardised points. The closer it is to the data, the
      fewer steps suffice. The result does not depend on it in the limit.

    Raises `InputError` for levels that do not descend or are not positive, for a churn below 0, and for churn
    with a method that is not Runge-Kutta.
    """
    levels = levels.double()
    to_zero = isinstance(solver, Adams) and len(levels) > 1
    positive = levels[:-1] if to_zero and float(levels[-1]) == 0 else levels
    if len(levels) < 1 or not bool((positive > 0).all()) or not bool((levels.diff() < 0).all()):
        raise InputError(f"noise levels must descend and stay above 0, got {levels.tolist()[:8]}")
    churn = finite_number("churn", churn, least=0)
    if churn and not isinstance(solver, RungeKutta):
        raise InputError("churn goes with the Runge-Kutta solvers: 'euler', 'heun', 'rk4'")
    z = z.double()
    noise = RowNoise(seed, "reverse noise")
    counter = itertools.count()

    def fresh() -> Tensor:
        rows = noise.normal(first_row, first_row + len(z), dim=z.shape[1], step=next(counter))
        return rows.to(z.device)

    def denoise(z: Points, sigma: float) -> Points:
        # One number for all rows: a network computes what depends on it alone only once.
        return denoiser(z, z.new_full((1,), sigma).expand(len(z)), label)

    match solver:
        case RungeKutta():
            return _runge_kutta(denoise, z, levels.tolist(), solver, clock, churn, fresh)
        case ExponentialMultistep():
            return _multistep(denoise, z, levels.tolist(), solver)
        case Adams():
            law = Gaussian(torch.zeros(z.shape[1]), torch.eye(z.shape[1])) if moments is None else moments
            reference = Reference.of(law, z, label if moments is not None else None)
            return _adams(denoise, z, levels.tolist(), solver, reference)
        case ReverseSDE():
            return _reverse_sde(denoise, z, levels.tolist(), solver, clock, fresh)


_Denoise = Callable[[Points, float], Points]
_Fresh = Callable[[], Tensor]


def _runge_kutta(
    denoise: _Denoise,
    z: Points,
    levels: list[float],
    method: RungeKutta,
    clock: Schedule | None,
    churn: float,
    fresh: _Fresh,
) -> Iterator[Points]:
    yield z
    gain = 1 + min(churn / max(len(levels) - 1, 1), math.sqrt(2) - 1)
    for sigma, after in itertools.pairwise(levels):
        if gain > 1:
            z = z + math.sqrt((sigma * gain) ** 2 - sigma**2) * fresh()
        start, end = _time(clock, sigma * gain), _time(clock, after)
        slopes: list[Points] = []
        for row, c in zip(method.a, method.c, strict=True):
            inner = z + (end - start) * _combine(row, slopes)
            level, rate = _level_and_rate(clock, start + c * (end - start))
            slopes.append((inner - denoise(inner, level)) * (rate / level))
        z = z + (end - start) * _combine(method.b, slopes)
        yield z


def _multistep(
    denoise: _Denoise, z: Points, levels: list[float], method: ExponentialMultistep
) -> Iterator[Points]:
    yield z
    past: deque[tuple[float, Points]] = deque(maxlen=method.order)
    for sigma, after in itertools.pairwise(levels):
        now, step = -math.log(sigma), math.log(sigma / after)

        def advance(
            z: Points, known: list[tuple[float, Points]], now: float = now, h: float = step
        ) -> Points:
            weights = method.weights(h, [at - now for at, _ in known])
            return math.exp(-h) * z + _combine(tuple(weights), [value for _, value in known])

        past.appendleft((now, denoise(z, sigma)))
        ahead = advance(z, list(past))
        if method.order > 2 and len(past) == 1:
            ahead = advance(z, [*past, (now + step, denoise(ahead, after))])
        z = ahead
        yield z


def _adams(
    denoise: _Denoise, z: Points, levels: list[float], method: Adams, reference: Reference
) -> Iterator[Points]:
    yield z
    unit = 4 * (levels[-1] or levels[-2])
    relaxation = 1 - 2 / max(len(levels) - 1, 2)
    # An axis without spread has no theta. A spread far below all levels does no harm.
    reference = reference.widened((1e-6 * unit) ** 2)
    y = reference.whitened(z, z.new_full((1,), levels[0]))
    past: deque[tuple[float, Tensor]] = deque(maxlen=method.order)
    for sigma, after in itertools.pairwise(levels):
        spread = reference.spread(z.new_full((1,), sigma))
        # Along the axes D_G is variance / spread y.
        departure = reference.variance * y - spread * reference.turned(denoise(z, sigma))
        past.appendleft((sigma, departure / sigma))
        nodes = [node for node, _ in past]
        weights = method.weights(reference.variances, after, nodes, unit=unit, relaxation=relaxation)
        for weight, (_, value) in zip(weights, past, strict=True):
            y = y + (weight if len(weight) == 1 else weight[reference.kind]) * value
        z = reference.points(y, z.new_full((1,), after))
        yield z


def _reverse_sde(
    denoise: _Denoise,
    z: Points,
    levels: list[float],
    method: ReverseSDE,
    clock: Schedule | None,
    fresh: _Fresh,
) -> Iterator[Points]:
    yield z
    for sigma, after in itertools.pairwise(levels):
        if clock is None:
            variance = sigma**2 - after**2
        else:
            start, end = _time(clock, sigma), _time(clock, after)
            variance = (start - end) * float(clock.dsigma2(torch.tensor(start, dtype=torch.float64)))
        score = (denoise(z, sigma) - z) / sigma**2
        z = z + variance * score + math.sqrt(variance) * fresh()
        for _ in range(method.corrections):
            delta = 2 * (method.snr * after) ** 2
            score = (denoise(z, after) - z) / after**2
            z = z + delta * score + math.sqrt(2 * delta) * fresh()
        yield z


def _combine(weights: tuple[float, ...], values: list[Points]) -> Points | float:
    return sum((w * value for w, value in zip(weights, values, strict=True) if w), 0.0)


def _time(clock: Schedule | None, sigma: float) -> float:
    return sigma if clock is None else float(clock.t(torch.tensor(sigma, dtype=torch.float64)))


def _level_and_rate(clock: Schedule | None, time: float) -> tuple[float, float]:
    """Return sigma and d sigma / d time."""
    if clock is None:
        return time, 1.0
    t = torch.tensor(time, dtype=torch.float64)
    return float(clock.sigma(t)), float(clock.dsigma(t))


def trajectory(
    denoiser: Denoiser,
    start: Points,
    levels: Tensor,
    solver: Solver,
    *,
    label: Labels | None = None,
    seed: int = 0,
    first_row: int = 0,
    churn: float = 0.0,
    moments: Distribution | None = None,
) -> Iterator[Points]:
    """Yield z at each noise level, and finally the clean points.

    - `start` `(n, d)`: points at `levels[0]`.

    The other arguments are those of `reverse`. An Adams method takes a last step from the last
    level to 0. With the other methods the clean points are the denoised points of the last level.
    """
    whole = isinstance(solver, Adams)
    z = start
    for z in reverse(
        denoiser,
        start,
        torch.cat([levels.double(), levels.new_zeros(1).double()]) if whole else levels,
        solver,
        label=label,
        seed=seed,
        first_row=first_row,
        churn=churn,
        moments=moments,
    ):
        yield z
    if not whole:
        yield denoiser(z, z.new_full((1,), float(levels[-1])).expand(len(z)), label)


def sample(
    denoiser: Denoiser,
    law: Distribution,
    levels: Tensor,
    solver: Solver,
    *,
    rows: range,
    seed: int,
    label: Labels | None = None,
    churn: float = 0.0,
) -> tuple[Points, Labels]:
    """Return these rows of the infinite sample of this seed: clean points `(n, d)` and their labels `(n,)`.

    Row i depends only on the seed, on i, and on its label.

    - `denoiser`: any denoiser.
    - `law`: the trajectories start from samples of this law, noised to `levels[0]`. Adams methods
      use its moments.
    - `levels` `(k + 1,)`: descending noise levels, > 0.
    - `solver`: the method.
    - `rows`: the range of rows.
    - `seed`: an integer >= 0.
    - `label` `(n,)`: class indices. None (default) samples classes by the frequencies of `law`.
    - `churn`: see `reverse`.
    """
    start, own = Prior(law, float(levels[0])).rows(rows, seed=seed, label=label)
    points = trajectory(
        denoiser,
        start,
        levels,
        solver,
        label=own,
        seed=seed,
        first_row=rows.start,
        churn=churn,
        moments=law,
    )
    return last(points), own


def last(points: Iterator[Points]) -> Points:
    """Return the last points of a trajectory, without keeping the others in memory."""
    return deque(points, maxlen=1).pop()
