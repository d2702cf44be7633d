"""A sweep as a value: the grid of its cells, from a TOML file."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from toydiffusion.distributions import BUILT_IN
from toydiffusion.errors import InputError, choice, nearest, seed_number, shown, whole_number
from toydiffusion.solvers import SampleConfig
from toydiffusion.training import TrainConfig

Value = bool | int | float | str
_TRAIN = tuple(one.name for one in fields(TrainConfig))
_SAMPLE = tuple(one.name for one in fields(SampleConfig))
MOST_CELLS = 1_000_000


@dataclass(frozen=True)
class Training:
    """One training: what a model depends on.

    - `law`: a name in `BUILT_IN`.
    - `points`: how many points it learns.
    - `seed`: of points, weights and samples.
    - `labelled`: whether it learns the labels.
    - `train`: fields of `TrainConfig`, the others have their defaults.
    """

    law: str
    points: int
    seed: int
    labelled: bool
    train: Mapping[str, Value]

    def as_json(self) -> dict[str, Any]:
        """Return the columns of the table."""
        return {
            "law": self.law,
            "points": self.points,
            "seed": self.seed,
            "labelled": self.labelled,
            **{f"train.{name}": value for name, value in self.train.items()},
        }


@dataclass(frozen=True)
class Cell:
    """One cell of the grid: a model, and how it is sampled.

    - `training`: the model.
    - `sample`: fields of `SampleConfig`, the others have their defaults.
    - `samples`: how many samples are measured.
    """

    training: Training
    sample: Mapping[str, Value]
    samples: int

    def as_json(self) -> dict[str, Any]:
        """Return the columns of the table."""
        chosen = {f"sample.{name}": value for name, value in self.sample.items()}
        return {**self.training.as_json(), **chosen, "samples": self.samples}


def key_of(config: Mapping[str, Any]) -> str:
    """Return what a file of a cell or of a model is called: a digest of its settings and of the version."""
    import toydiffusion

    text = json.dumps([toydiffusion.__version__, config], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Sweep:
    """A grid of trainings and of ways to sample from each.

    - `law`: names in `distributions.BUILT_IN`. Default: the square.
    - `points`: the numbers of points. Default: 1,000.
    - `seeds`: the seeds. Default: 0.
    - `labelled`: whether models learn labels. Default: no.
    - `samples`: how many samples are measured in each cell. Default: 10,000.
    - `train`: for fields of `TrainConfig` the values to try.
    - `sample`: for fields of `SampleConfig` the values to try.

    Raises `InputError` for unknown fields, with the nearest name, for empty lists, equal values, and settings
    that a configuration refuses.

    >>> sweep = Sweep(seeds=(0, 1), train={"schedule": ("linear", "cosine")}, sample={"steps": (5, 10)})
    >>> len(sweep.trainings), len(sweep.cells)
    (4, 8)
    """

    law: tuple[str, ...] = ("square",)
    points: tuple[int, ...] = (1000,)
    seeds: tuple[int, ...] = (0,)
    labelled: bool = False
    samples: int = 10_000
    train: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    sample: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every value by making each configuration once."""
        for name in self.law:
            choice("law", name, BUILT_IN)
        for count in self.points:
            whole_number("points", count, 2)
        for seed in self.seeds:
            seed_number(seed, "seeds")
        if not isinstance(self.labelled, bool):
            raise InputError(f"labelled must be true or false, got {shown(self.labelled)}")
        whole_number("samples", self.samples, 2)
        for title, given, known in (("train", self.train, _TRAIN), ("sample", self.sample, _SAMPLE)):
            for name in given:
                if name not in known:
                    raise InputError(f"[{title}]: unknown field {shown(name)}: {nearest(name, known)}")
        axes: dict[str, tuple[Value, ...]] = {"law": self.law, "points": self.points, "seeds": self.seeds}
        axes |= {
            f"{title}.{name}": v for title in ("train", "sample") for name, v in getattr(self, title).items()
        }
        count = 1
        for name, values in axes.items():
            if not values:
                raise InputError(f"{name} is an empty list, so the grid has no cell")
            if len({(type(one), one) for one in values}) < len(values):
                raise InputError(
                    f"{name} has equal values, so cells would be there twice: {shown(list(values))}"
                )
            count *= len(values)
        if count > MOST_CELLS:
            raise InputError(f"the grid has {count:,} cells, at most {MOST_CELLS:,} are possible")
        for one in _grid(self.train):
            TrainConfig(**one)
        for one in _grid(self.sample):
            SampleConfig(**one)

    def training(self, number: int) -> Training:
        """Return the training of a number, counted from 0 in the order of the grid."""
        law, points, train, seed = next(itertools.islice(self._trainings(), number, None))
        return Training(law, points, seed, self.labelled, train)

    @property
    def trainings(self) -> list[Training]:
        """The trainings, in the order of the grid."""
        return [
            Training(law, points, seed, self.labelled, train)
            for law, points, train, seed in self._trainings()
        ]

    def _trainings(self) -> Iterator[tuple[str, int, dict[str, Value], int]]:
        return itertools.product(self.law, self.points, list(_grid(self.train)), self.seeds)

    @property
    def cells(self) -> list[Cell]:
        """All cells: those of the first training, then those of the second one, and so on."""
        return [cell for training in self.trainings for cell in self.cells_of(training)]

    def cells_of(self, training: Training) -> list[Cell]:
        """Return the cells that share a training."""
        return [Cell(training, sample, self.samples) for sample in _grid(self.sample)]


def _grid(axes: Mapping[str, tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def read_sweep(path: str | os.PathLike[str]) -> Sweep:
    """Return the sweep of a TOML file.

    Its fields are those of `Sweep`. A value that is not in a list is a list of one. `seeds = 10` means the
    seeds 0 to 9.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "sweep.toml"
    >>> _ = file.write_text('law = ["square", "spiral"]\\nseeds = 3\\n[sample]\\nsteps = [5, 10]\\n')
    >>> len(read_sweep(file).cells)
    12
    """
    name = shown(os.fspath(path))
    try:
        given = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no file {name}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{name} cannot be read ({str(error).partition(chr(10))[0]})") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name} is not TOML: {error}") from None
    known = [one.name for one in fields(Sweep)]
    for field_name in given:
        if field_name not in known:
            raise InputError(f"{name}: unknown field {shown(field_name)}: {nearest(field_name, known)}")
    settings: dict[str, Any] = dict(given)
    if isinstance(seeds := given.get("seeds"), int) and not isinstance(seeds, bool):
        settings["seeds"] = tuple(range(whole_number(f"{name}: seeds", seeds, 1, 1_000_000)))
    for field_name in ("law", "points", "seeds"):
        if field_name in settings:
            settings[field_name] = _values(f"{name}: {field_name}", settings[field_name])
    for field_name in ("train", "sample"):
        if field_name in settings:
            table = settings[field_name]
            if not isinstance(table, dict):
                raise InputError(f"{name}: {field_name} must be a table, [{field_name}], got {shown(table)}")
            settings[field_name] = {k: _values(f"{name}: {field_name}.{k}", v) for k, v in table.items()}
    try:
        return Sweep(**settings)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _values(name: str, given: object) -> tuple[Value, ...]:
    values = tuple(given) if isinstance(given, list | tuple) else (given,)
    for one in values:
        if not isinstance(one, bool | int | float | str):
            raise InputError(f"{name} must hold numbers, words, true or false, got {shown(one)}")
    return values
