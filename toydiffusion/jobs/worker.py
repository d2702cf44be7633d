"""What a worker does: check that it agrees with the driver, then write one shard after another."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from toydiffusion import tables
from toydiffusion.errors import InputError, shown
from toydiffusion.files import file_digest
from toydiffusion.jobs.folder import MANIFEST, folder_at
from toydiffusion.jobs.job import Job
from toydiffusion.jobs.operations import OPERATIONS, Tally
from toydiffusion.model import Diffusion, load
from toydiffusion.threads import one_thread

_PROBED = 64
"""The points of the probe block."""


@dataclass(frozen=True)
class Record:
    """What is known of a finished shard.

    - `name`: of its file.
    - `rows`, `size`, `digest`: its rows, its bytes and their SHA-256.
    - `tally`: what is to be said about its rows.
    """

    name: str
    rows: int
    size: int
    digest: str
    tally: Tally

    def as_json(self) -> dict[str, Any]:
        """Return the record as JSON has it."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Record:
        """Return the record that `as_json` gave."""
        return cls(**{**found, "tally": Tally(**found["tally"])})


@dataclass(frozen=True)
class Task:
    """All that a worker is told: text, so that it can be compared and sent anywhere.

    - `job`: a `Job` as JSON.
    - `out`: the folder of the shards.
    - `maker`: what computes it, as `maker_of` tells.
    """

    job: str
    out: str
    maker: str

    def __call__(self, number: int) -> Record:
        """Write the shard of this number, and return its record."""
        with one_thread():
            job, model = _prepared(self)
            shard, folder = job.shards[number], folder_at(self.out)
            work = OPERATIONS[job.operation](model, job, shard)
            names, label_column, classes, whole = work.columns
            with (
                folder.writing(shard.name) as path,
                tables.Writer(path, names, label_column, classes, whole=whole) as writer,
            ):
                for points, labels in work.rows:
                    writer.write(points, labels)
            found = folder.size_and_digest(shard.name)
            assert found is not None
            record = Record(shard.name, len(shard.rows), *found, work.tally)
            folder.write(shard.record, json.dumps(record.as_json(), sort_keys=True).encode())
        return record


@functools.lru_cache(maxsize=1)
def _prepared(task: Task) -> tuple[Job, Diffusion]:
    """Return job and model, once a worker; `InputError` if this worker would not write the same bytes."""
    job = Job.from_json(json.loads(task.job))
    where = f"a worker on {platform.node()}"
    try:
        if file_digest(job.model) != job.model_digest:
            raise InputError(f"{where} sees another model at {shown(job.model)}")
    except OSError as error:
        raise InputError(f"{where} cannot read {shown(job.model)}: {error.strerror}") from error
    folder = folder_at(task.out)
    if folder.read(MANIFEST) is None:
        raise InputError(f"{where} does not see the folder {folder.name}; give one that all workers share")
    model = load(job.model)
    own, driver = json.loads(maker_of(model, job)), json.loads(task.maker)
    for name, value in driver.items():
        if own.get(name) != value:
            raise InputError(
                f"{where} has {name} {own.get(name)}, not {value}, so it would not write the same bytes"
            )
    return job, model


def maker_of(model: Diffusion, job: Job) -> str:
    """Return what decides the bytes beside the job, as JSON: versions, and the digest of a probe block."""
    import pyarrow
    import torch

    import toydiffusion

    with one_thread():
        x = model.sample(_PROBED, seed=0, device=job.settings["device"])
        parts = [np.asarray(x)]
        if job.operation == "log-prob":
            parts.append(model.log_prob(x, device=job.settings["device"]).value)
    digest = hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
    found = {
        "toydiffusion": toydiffusion.__version__,
        "torch": str(torch.__version__),
        "pyarrow": pyarrow.__version__,
        "the probe block": digest[:16],
    }
    return json.dumps(found, sort_keys=True)
