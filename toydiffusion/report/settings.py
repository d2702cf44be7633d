"""How large the demo is."""

from __future__ import annotations

from dataclasses import dataclass, fields

from toydiffusion.errors import InputError


@dataclass(frozen=True)
class DemoSettings:
    """Every size in the demo; the defaults take a few minutes on two cores.

    - `points`: how many points each model learns from.
    - `effort`: the share of each recipe's own training steps; 1 is the recipe.
    - `grid`: how many samples of `shown` points from different seeds.
    - `steps`: into how many steps the reverse process is cut, ascending.
    - `measured`: points drawn to measure each of those.
    - `schedule_seeds`: how often each schedule is trained, on a fresh draw of points and weights.
    - `schedule_effort`: the share of the original's training steps each of these gets.
    - `schedule_steps`, `schedule_points`: how these models are sampled.
    - `class_points`: points drawn from the conditional model.
    - `quadruples`: points to judge under the right class, under a wrong one, outside and far away.
    - `tested`: points of the truth to take log-densities, class probabilities and the certificate over.
    - `map`: pixels along a side of the map of log-density.
    - `fresh`: points of the truth to take losses and divergences over.
    - `frames`: pictures in the animation.
    """

    points: int = 1000
    shown: int = 1000
    effort: float = 1.0
    grid: int = 9
    steps: tuple[int, ...] = (1, 3, 5, 10, 100, 5000)
    measured: int = 1000
    schedule_seeds: int = 3
    schedule_effort: float = 0.5
    schedule_steps: int = 100
    schedule_points: int = 4000
    class_points: int = 50_000
    quadruples: int = 500
    tested: int = 2000
    map: int = 121
    fresh: int = 20_000
    frames: int = 40

    def __post_init__(self) -> None:
        """Check every field."""
        lowest = {"points": 50, "grid": 2, "schedule_seeds": 2, "fresh": 2000, "frames": 2, "tested": 50}
        for field in fields(self):
            value, low = getattr(self, field.name), lowest.get(field.name, 1)
            if field.name in ("effort", "schedule_effort"):
                if not 0 < value <= 1:
                    raise InputError(f"{field.name} must be above 0 and at most 1, got {value!r}")
            elif field.name == "steps":
                if list(value) != sorted({int(k) for k in value if k >= 1}):
                    raise InputError(f"steps must be different whole numbers >= 1, ascending, got {value!r}")
            elif isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise InputError(f"{field.name} must be a whole number >= {low}, got {value!r}")
        if len(self.steps) < 2:
            raise InputError(f"steps needs two numbers or more, got {self.steps!r}")
