"""Every setting of a model for tables."""

from __future__ import annotations

from dataclasses import dataclass

from toydiffusion.errors import InputError, finite_number, shown, store, whole_number

FEWEST_FOR_NETWORKS = 80
"""With fewer points no network is trained: on its own fold it would not help."""
MOST_EDGE_COLUMNS = 6
"""The most columns with edge units by default. In more, an edge rarely shows, and its derivatives cost."""


@dataclass(frozen=True)
class TableConfig:
    """Every setting of a model for tables: the one page of defaults of preset "table".

    - `folds`: how many parts the points are split into. Each expert is judged on the parts that it has not
      seen.
    - `power`: whether columns may be transformed (`PowerMap`), where held-out points prefer it.
    - `steps_of_grid`: for each column the step of its values, 0 for none, None to find it. None (default)
      finds all; see `Cells`.
    - `bounds`: for each column its bounds (low, high), each a number or None, or None for a column without.
      None (default): no column has any. No sample and no density lies beyond them.
    - `components`: the numbers of Gaussians that are tried for each class.
    - `networks`: whether networks are trained beside the mixture.
    - `width`: the units in each hidden layer. None (default): 64 with edge units, 128 without.
    - `edges`: the edge units. None (default): 32 in up to 6 columns, none in more.
    - `steps`: the most training steps of a network; each stops where its held-out loss is smallest. None
      (default): between 400 and 2,000, more for more points.
    - `batch_size`: the points in a step of each network, each with a noise and its opposite.
    - `learning_rate`: the highest learning rate, reached after 20 steps. It then falls linearly to 0.
    - `sigma_min`: the lowest noise level, in standard deviations. None (default): a tenth of the smallest
      principal deviation of the mixture, at most 0.01.
    - `sigma_max`: the highest noise level.
    """

    folds: int = 5
    power: bool = True
    steps_of_grid: tuple[float | None, ...] | None = None
    bounds: tuple[tuple[float | None, float | None] | None, ...] | None = None
    components: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
    networks: bool = True
    width: int | None = None
    edges: int | None = None
    steps: int | None = None
    batch_size: int = 256
    learning_rate: float = 1e-2
    sigma_min: float | None = None
    sigma_max: float = 20.0

    def __post_init__(self) -> None:
        """Check every field, so that a `TableConfig` that exists can be fitted."""
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if value is not None or name not in ("width", "edges", "steps"):
                store(self, name, whole_number(name, value, least, most))
        store(self, "learning_rate", finite_number("learning_rate", self.learning_rate, above=0, below=1))
        store(self, "sigma_max", finite_number("sigma_max", self.sigma_max, least=1, below=1e6))
        if self.sigma_min is not None:
            low = finite_number("sigma_min", self.sigma_min, least=1e-8, below=self.sigma_max)
            store(self, "sigma_min", low)
        for name in ("power", "networks"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be True or False, got {shown(getattr(self, name))}")
        store(self, "components", _numbers("components", self.components))
        if self.steps_of_grid is not None:
            given = self.steps_of_grid
            if not isinstance(given, list | tuple):
                raise InputError(
                    f"steps_of_grid must hold a number or None for each column, got {shown(given)}"
                )
            steps = tuple(
                None if one is None else finite_number("a step of the grid", one, least=0) for one in given
            )
            store(self, "steps_of_grid", steps)

        if self.bounds is not None:
            store(self, "bounds", _pairs(self.bounds))

    def network_edges(self, dim: int) -> int:
        """Return the edge units in so many columns."""
        return (32 if dim <= MOST_EDGE_COLUMNS else 0) if self.edges is None else self.edges

    def network_width(self, dim: int) -> int:
        """Return the units in each hidden layer."""
        return (64 if self.network_edges(dim) else 128) if self.width is None else self.width

    def most_steps(self, num_points: int) -> int:
        """Return the most steps of a network for so many points; 0 if none is trained."""
        if not self.networks or num_points < FEWEST_FOR_NETWORKS:
            return 0
        return min(max(round(1.5 * num_points), 400), 2000) if self.steps is None else self.steps


_RANGES = {
    "folds": (2, 50),
    "width": (1, 10_000),
    "edges": (0, 10_000),
    "steps": (1, 10**9),
    "batch_size": (1, 10**6),
}
"""The whole numbers that make sense."""


def _numbers(name: str, given: object) -> tuple[int, ...]:
    if not isinstance(given, list | tuple) or not given:
        raise InputError(f"{name} must be one or more whole numbers, got {shown(given)}")
    found = tuple(whole_number(f"each of {name}", one, 1, 1000) for one in given)
    if sorted(set(found)) != list(found):
        raise InputError(f"{name} must be different and in ascending order, got {shown(given)}")
    return found


def _pairs(given: object) -> tuple[tuple[float | None, float | None] | None, ...]:
    """Return bounds, checked."""
    if not isinstance(given, list | tuple):
        raise InputError(f"bounds must hold a pair (low, high) or None for each column, got {shown(given)}")
    found: list[tuple[float | None, float | None] | None] = []
    for one in given:
        if one is None:
            found.append(None)
            continue
        if not isinstance(one, list | tuple) or len(one) != 2:
            raise InputError(f"each of bounds must be a pair (low, high) or None, got {shown(one)}")
        low, high = (None if end is None else finite_number("a bound", end) for end in one)
        if low is not None and high is not None and not low < high:
            raise InputError(f"bounds must be in ascending order, got {shown(one)}")
        found.append((low, high))
    return tuple(found)
