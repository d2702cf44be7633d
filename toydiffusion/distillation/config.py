"""Every setting of a distillation."""

from __future__ import annotations

from dataclasses import dataclass, fields

from toydiffusion.errors import finite_number, store, whole_number


@dataclass(frozen=True)
class DistillConfig:
    """Every setting of a distillation.

    - `points`: the number of points whose log-density the teacher computes for the students to learn. By
      default (None) it is 40,000, and 8,000 for each class of more than five.
    - `pairs`: the number of starts whose end points the teacher computes. By default (None) twice as many.
    - `steps`: the number of training steps of each student.
    - `batch_size`: the number of points in a step.
    - `width`: the number of units in each hidden layer. By default (None) 40, and 64 with labels.
    - `hidden_layers`: the number of hidden layers.
    - `learning_rate`: the highest learning rate. It falls linearly to 0.
    """

    points: int | None = None
    pairs: int | None = None
    steps: int = 4000
    batch_size: int = 1000
    width: int | None = None
    hidden_layers: int = 3
    learning_rate: float = 1e-2

    def __post_init__(self) -> None:
        """Check every field."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "learning_rate":
                store(self, field.name, finite_number(field.name, value, above=0, below=1))
            elif value is not None or field.default is not None:
                least = 100 if field.name in ("points", "pairs") else 1
                store(self, field.name, whole_number(field.name, value, least, 10**9))

    def units(self, num_classes: int) -> int:
        """Return the number of units in each hidden layer, for so many classes."""
        return (40 if num_classes == 1 else 64) if self.width is None else self.width

    def num_points(self, num_classes: int) -> int:
        """Return the number of log-densities to learn from, for so many classes."""
        return 8000 * max(5, num_classes) if self.points is None else self.points

    def num_pairs(self, num_classes: int) -> int:
        """Return the number of pairs of start and end point to learn from, for so many classes."""
        return 2 * self.num_points(num_classes) if self.pairs is None else self.pairs
