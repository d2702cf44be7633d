"""Running a job: claim its folder, skip what is finished, compute the rest, write the manifest."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from toydiffusion.errors import InputError, choice, shown, whole_number
from toydiffusion.jobs.folder import MANIFEST, Folder, folder_at
from toydiffusion.jobs.job import Input, Job, checked_shard_rows, inputs_of, model_of
from toydiffusion.jobs.local import Executor, Local
from toydiffusion.jobs.operations import OPERATIONS, Tally
from toydiffusion.jobs.worker import Record, Task, maker_of
from toydiffusion.model import Diffusion, load
from toydiffusion.progress import bar
from toydiffusion.solvers import SampleConfig

_FORMAT = 1
_MOST_SCORED = 2**17
"""The most rows of a shard of log-densities: some seconds of work in two columns, some minutes in many."""


class ShardWarning(UserWarning):
    """Shards were missing, cut or altered, and are made again."""


@dataclass(frozen=True)
class Manifest:
    """What a finished job left in its folder.

    - `job`: the job.
    - `maker`: the versions that computed it, and the digest of a probe block.
    - `shards`: the record of each shard, in order.
    """

    job: Job
    maker: Mapping[str, str]
    shards: tuple[Record, ...]

    @property
    def rows(self) -> int:
        """The rows of all shards."""
        return sum(one.rows for one in self.shards)

    @property
    def size(self) -> int:
        """The bytes of all shards."""
        return sum(one.size for one in self.shards)

    @property
    def tally(self) -> Tally:
        """What is to be said about the rows."""
        return sum((one.tally for one in self.shards), Tally())


def sample(
    model: str | os.PathLike[str],
    n: int,
    out: str | os.PathLike[str],
    *,
    label: Any = None,
    sampling: SampleConfig | None = None,
    seed: int = 0,
    first_row: int = 0,
    shard_rows: int | None = None,
    batch_size: int = 8192,
    device: str = "cpu",
    executor: Executor | None = None,
    progress: bool | None = False,
) -> Manifest:
    """Sample n new points into a folder of Parquet files, `part-000000.parquet` and so on.

    The same call again skips what is finished, and so goes on after a kill. The files are the same bytes
    for any number of workers, kills and retries.

    - `model`: the model file.
    - `n`: how many points.
    - `out`: the folder, made if there is none, or a URI such as `s3://bucket/folder`.
    - `label`: a label; None (default) samples labels by their frequencies.
    - `sampling`, `seed`, `first_row`, `device`: as in `Diffusion.sample`.
    - `shard_rows`: the rows of a file. None (default): about a 64th of all, 8,192 to 1,048,576.
    - `batch_size`: how many points are computed at once.
    - `executor`: a `Local` or an `OnRay`. None (default): `Local()`, one process for each processor.
    - `progress`: whether to show a progress bar; None shows it on a terminal and in a notebook.

    Raises `InputError` for a folder that holds another job or other files, and where another run is at work.
    Damaged files are made again, with a `ShardWarning`.

    In a script, call it under `if __name__ == "__main__":`, since worker processes import the script.

    >>> import tempfile, toydiffusion as td
    >>> folder = tempfile.mkdtemp()
    >>> x, _ = td.distributions.Square().sample(200, seed=0)
    >>> td.Diffusion(td.TrainConfig(steps=10)).fit(x).save(f"{folder}/model.safetensors")
    >>> made = sample(f"{folder}/model.safetensors", 20_000, f"{folder}/points", executor=Local(1))
    >>> made.rows, [one.name for one in made.shards][:2]
    (20000, ['part-000000.parquet', 'part-000001.parquet'])
    """
    path, digest = model_of(model)
    n = whole_number("n", n, 1)
    job = Job(
        "sample",
        path,
        digest,
        n,
        checked_shard_rows(shard_rows, n),
        {
            "label": _as_json(label),
            "sampling": None if sampling is None else asdict(sampling),
            "seed": seed,
            "first_row": first_row,
            "batch_size": batch_size,
            "device": device,
        },
    )
    return run(job, out, executor, progress=progress)


def log_prob(
    model: str | os.PathLike[str],
    points: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    label: Any = None,
    label_column: str | None = None,
    on_bad: str = "raise",
    tolerance: float | None = None,
    shard_rows: int | None = None,
    batch_size: int | None = None,
    device: str = "cpu",
    executor: Executor | None = None,
    progress: bool | None = False,
) -> Manifest:
    """Compute the log-densities of rows in files into a folder of Parquet files.

    The rows are those of the files, of a folder in the order of the names. No shard crosses from one file to
    the next. Files go on, and are refused, as in `sample`.

    - `model`: the model file.
    - `points`: a file, a folder, or several of them. Files of .csv and .npy may have 256 MB at most.
    - `out`: the folder of the log-densities.
    - `label`: one class for all points; None (default) is the mixture of the classes.
    - `label_column`: the points' own labels.
    - `on_bad`: "raise" (default) or "skip"; see `tables.read`. Skipped rows stay in place, and are NaN.
    - `tolerance`: as in `Diffusion.log_prob`.
    - `shard_rows`, `executor`, `progress`: as in `sample`; at most 131,072 rows a shard by default.
    """
    path, digest = model_of(model)
    given = [points] if isinstance(points, str | os.PathLike) else list(points)
    inputs = inputs_of(given, load(path).columns, label_column)
    rows = sum(one.rows for one in inputs)
    if not rows:
        raise InputError("there are no rows to score")
    job = Job(
        "log-prob",
        path,
        digest,
        rows,
        checked_shard_rows(shard_rows, rows, _MOST_SCORED),
        {
            "label": _as_json(label),
            "label_column": label_column,
            "on_bad": on_bad,
            "tolerance": tolerance,
            "batch_size": batch_size,
            "device": device,
        },
        inputs,
    )
    return run(job, out, executor, progress=progress)


def _as_json(label: Any) -> Any:
    """Return a label as JSON has it: NumPy's numbers become Python's."""
    return label.item() if isinstance(label, np.generic) else label


def run(
    job: Job, out: str | os.PathLike[str], executor: Executor | None = None, *, progress: bool | None = False
) -> Manifest:
    """Run a job into a folder, or go on with it; `sample` and `log_prob` make jobs."""
    model = load(job.model)
    _check(model, job)
    place = os.fspath(out) if "://" in os.fspath(out) else os.path.abspath(out)
    folder = folder_at(place)
    _check_apart(job.inputs, place)
    task = Task(json.dumps(job.as_json()), place, maker_of(model, job))
    with folder.locked():
        finished = _claim(folder, job, json.loads(task.maker))
        folder.clean()
        try:
            return _run(job, folder, finished, task, Local() if executor is None else executor, progress)
        finally:
            folder.clean()


def _run(
    job: Job,
    folder: Folder,
    finished: dict[int, Record],
    task: Task,
    executor: Executor,
    progress: bool | None,
) -> Manifest:
    records = _whole(folder, finished, progress)
    todo = [shard.number for shard in job.shards if shard.number not in records]
    before = done = sum(one.rows for one in records.values())
    began = time.monotonic()
    with bar(job.operation, job.rows, progress) as move:
        move(done, f"{len(records)} of {len(job.shards)} files are there" if records else "")
        for record in executor.run(task, todo):
            records[int(record.name[5:11])] = record
            done += record.rows
            move(done, f"{(done - before) / (time.monotonic() - began):,.0f} rows a second")
    maker = json.loads(task.maker)
    found = Manifest(job, maker, tuple(records[shard.number] for shard in job.shards))
    _write(folder, job, maker, found.shards)
    for name in folder.names() & {shard.record for shard in job.shards}:
        folder.remove(name)
    return found


def _check(model: Diffusion, job: Job) -> None:
    """Raise `InputError` for settings that the operation refuses, before any worker begins."""
    first = job.shards[0]
    one = replace(first, rows=first.rows[:1], own=first.own[:1])
    # Arguments are checked before the first row is made.
    OPERATIONS[choice("operation", job.operation, OPERATIONS)](model, job, one)


def _check_apart(inputs: tuple[Input, ...], place: str) -> None:
    """Raise `InputError` if the shards would lie among the inputs."""
    for one in inputs:
        if os.path.realpath(os.path.dirname(one.path)) == os.path.realpath(place):
            raise InputError(
                f"{shown(place)} holds the input {shown(os.path.basename(one.path))}; give another folder"
            )


def _claim(folder: Folder, job: Job, maker: Mapping[str, str]) -> dict[int, Record]:
    """Make the folder that of the job, and return the records of its finished shards.

    Raises `InputError`, and changes nothing, if it holds another job or other files.
    """
    names, content = folder.names(), folder.read(MANIFEST)
    known = {name for shard in job.shards for name in (shard.name, shard.record)}
    if content is None:
        if names:
            raise InputError(
                f"folder {folder.name} holds {shown(min(names))} and no {MANIFEST}; "
                "give an empty or a new folder"
            )
        _write(folder, job, maker, None)
        return {}
    there = _manifest(content, folder)
    for name in {**job.identity, **there["job"]}:
        own, other = job.identity.get(name), there["job"].get(name)
        if own != other:
            brief = not isinstance(own, dict | list) and not isinstance(other, dict | list)
            told = f": {other}, not {own}" if brief else ""
            raise InputError(
                f"folder {folder.name} holds a job with another {name}{told}; give another folder"
            )
    for name, version in maker.items():
        if there["maker"].get(name) != version:
            raise InputError(
                f"folder {folder.name} was begun with {name} {there['maker'].get(name)}, not {version}, "
                "so the bytes would not be the same; give another folder"
            )
    if foreign := names - known - {MANIFEST}:
        raise InputError(
            f"folder {folder.name} holds {shown(min(foreign))}, which is not of this job; move it away"
        )
    if there["shards"] is not None:
        return dict(enumerate(there["shards"]))
    records = {}
    for shard in job.shards:
        if shard.record in names and (text := folder.read(shard.record)):
            try:
                records[shard.number] = Record.from_json(json.loads(text))
            except (ValueError, TypeError, KeyError):
                continue
    return records


def _manifest(content: bytes, folder: Folder) -> dict[str, Any]:
    """Return what a manifest holds, its shards as records."""
    try:
        found: dict[str, Any] = json.loads(content)
        if found["format"] != _FORMAT or not {type(found["job"]), type(found["maker"])} == {dict}:
            raise ValueError
        if found["shards"] is not None:
            found["shards"] = [Record.from_json(one) for one in found["shards"]]
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{MANIFEST} in folder {folder.name} is not one of ours; give another folder"
        ) from None
    return found


def _write(folder: Folder, job: Job, maker: Mapping[str, str], shards: tuple[Record, ...] | None) -> None:
    content = {
        "format": _FORMAT,
        "job": job.identity,
        "maker": dict(maker),
        "shards": None if shards is None else [one.as_json() for one in shards],
    }
    folder.write(MANIFEST, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def _whole(folder: Folder, finished: dict[int, Record], progress: bool | None) -> dict[int, Record]:
    """Return the records whose files are there, whole and unaltered."""
    good, bad = {}, []
    with bar("checking files", len(finished), progress) as move:
        for number, record in finished.items():
            if folder.size_and_digest(record.name) == (record.size, record.digest):
                good[number] = record
            else:
                bad.append(record.name)
            move(len(good) + len(bad), "")
    if bad:
        warnings.warn(
            f"folder {folder.name}: {len(bad)} files were missing, cut or altered and are made again, "
            f"the first is {bad[0]}",
            ShardWarning,
            stacklevel=2,
        )
    return good
