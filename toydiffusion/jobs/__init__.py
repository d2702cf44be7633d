"""Bulk work that survives faults: rows cut into shards, each a file that is whole or not there.

`sample` and `log_prob` make a `Job` and run it into a folder. An executor maps the job over its shards:
`Local` in processes of this machine, `OnRay` on a Ray cluster.
"""

from toydiffusion.jobs.folder import Folder, folder_at
from toydiffusion.jobs.job import Input, Job, Shard, inputs_of
from toydiffusion.jobs.local import Executor, Local, WorkerError
from toydiffusion.jobs.on_ray import OnRay
from toydiffusion.jobs.operations import (
    OPERATIONS,
    Columns,
    Tally,
    log_prob_columns,
    log_prob_rows,
    sample_columns,
)
from toydiffusion.jobs.running import Manifest, ShardWarning, log_prob, run, sample
from toydiffusion.jobs.worker import Record, Task

__all__ = [
    "OPERATIONS",
    "Columns",
    "Executor",
    "Folder",
    "Input",
    "Job",
    "Local",
    "Manifest",
    "OnRay",
    "Record",
    "Shard",
    "ShardWarning",
    "Tally",
    "Task",
    "WorkerError",
    "folder_at",
    "inputs_of",
    "log_prob",
    "log_prob_columns",
    "log_prob_rows",
    "run",
    "sample",
    "sample_columns",
]
