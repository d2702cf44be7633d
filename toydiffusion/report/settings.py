"""The sizes of the demo."""

from __future__ import annotations

from dataclasses import dataclass, fields

from toydiffusion.errors import InputError


@dataclass(frozen=True)
class DemoSettings:
    """All sizes of the demo. With the defaults it takes a few minutes on two cores.

    - `points`: the number of training points of each model.
    - `shown`: the points of each sample in `grid` and of the animation, and the most points in other plots.
    - `effort`: the share of the training steps of each recipe, above 0 and at most 1.
    - `grid`: the number of samples from different seeds.
    - `steps`: the numbers of solver steps to compare, ascending.
    - `measured`: the points sampled with each number of steps.
    - `schedule_seeds`: the number of models trained with each schedule, each with its own points and weights.
    - `schedule_effort`: the share of the original's training steps of these models.
    - `schedule_steps`, `schedule_points`: the solver steps and the sampled points of these models.
    - `class_points`: the points sampled from the conditional model.
    - `quadruples`: the points whose log-densities are compared with right and wrong labels, outside and far
      outside.
    - `tested`: the points of the truth for log-densities, class probabilities and the certificate.
    - `map`: the pixels along a side of the map of log-density.
    - `fresh`: the points of the truth for losses and divergences.
    - `frames`: the images of the animation.

    Raises `InputError` for sizes that are too small or of another type.
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
