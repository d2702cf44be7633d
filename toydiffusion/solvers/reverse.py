"""The reverse process from any denoiser, by any method of `solvers.methods`, one noise level at a time.

Everything here is a generator over descending noise levels. A whole trajectory, its last point and a picture
of its middle therefore come from the same code. The state is float64 whatever the denoiser computes in.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from toydiffusion.distributions import Distribution, Prior
from toydiffusion.errors import InputError, finite_number
from toydiffusion.row_noise import RowNoise
from toydiffusion.schedules import Schedule
from toydiffusion.solvers.methods import ExponentialMultistep, ReverseSDE, RungeKutta, Solver
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
) -> Iterator[Points]:
    """Carry points down the noise levels; yield z at each of `levels` in turn, the first included.

    `levels` `(k + 1,)` descend and end above 0: the last denoising, to the clean point, is `denoiser` itself
    at the last level. `z` `(n, d)` is at the first level.

    `clock` None solves in sigma; a schedule solves in its t, as Song et al. (2021) write the reverse process,
    with `dsigma(t)` in the equations (see `Schedule`). The two agree at the method's order. An exponential
    multistep method has no clock: it solves in log sigma.

    `churn` is EDM's noise injection (Karras et al. 2022, algorithm 2, S_churn with S_noise = 1): before each
    of the k steps of a Runge-Kutta method, sigma is raised by the factor `1 + min(churn / k, sqrt(2) - 1)`
    with fresh noise.

    The noise of row i of z is row `first_row + i` of the noise of `seed`. So a point's trajectory does not
    depend on its batch.

    Raises `InputError` for levels that do not descend to a positive one, a churn below 0 or with a method
    that takes none.
    """
    levels = levels.double()
    if len(levels) < 1 or not bool((levels > 0).all()) or not bool((levels.diff() < 0).all()):
        raise InputError(f"noise levels must descend and stay above 0, got {levels.tolist()[:8]}")
    churn = finite_number("churn", churn, least=0)
    if churn and not isinstance(solver, RungeKutta):
        raise InputError("churn goes with the Runge-Kutta solvers: 'euler', 'heun', 'rk4'")
    z = z.double()
    noise = RowNoise(seed, "reverse noise")
    draws = itertools.count()

    def fresh() -> Tensor:
        rows = noise.normal(first_row, first_row + len(z), dim=z.shape[1], step=next(draws))
        return rows.to(z.device)

    def denoise(z: Points, sigma: float) -> Points:
        return denoiser(z, z.new_full((len(z),), sigma), label)

    match solver:
        case RungeKutta():
            return _runge_kutta(denoise, z, levels.tolist(), solver, clock, churn, fresh)
        case ExponentialMultistep():
            return _multistep(denoise, z, levels.tolist(), solver)
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
) -> Iterator[Points]:
    """Yield z at each of `levels`, and last the clean points at noise 0: `reverse` and the final denoising.

    `start` `(n, d)` are points at `levels[0]`. The other arguments are those of `reverse`.
    """
    z = start
    for z in reverse(
        denoiser, start, levels, solver, label=label, seed=seed, first_row=first_row, churn=churn
    ):
        yield z
    yield denoiser(z, z.new_full((len(z),), float(levels[-1])), label)


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
    """Return these rows of the endless sample of this seed: clean points `(n, d)` and their labels `(n,)`.

    The start is `law` noised to `levels[0]`. Labels that are not given follow the frequencies of `law`. Row i
    depends on the seed and on i only.
    """
    start, own = Prior(law, float(levels[0])).rows(rows, seed=seed, label=label)
    points = trajectory(
        denoiser, start, levels, solver, label=own, seed=seed, first_row=rows.start, churn=churn
    )
    return last(points), own


def last(points: Iterator[Points]) -> Points:
    """Return the last points of a trajectory, and keep no others in memory."""
    return deque(points, maxlen=1).pop()
