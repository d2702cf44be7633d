"""Jobs: rows cut into shards, the same bytes whatever computes them, and folders that are not theirs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sessions import kill

import toydiffusion as td
from toydiffusion import jobs, tables
from toydiffusion.jobs import Local, Record, ShardWarning, WorkerError
from toydiffusion.jobs.folder import folder_at
from toydiffusion.jobs.job import rows_of_a_shard
from toydiffusion.model import load


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models and tables."""
    made = tmp_path_factory.mktemp("jobs")
    x, y = td.distributions.ConcentricSquares(3).sample(200, seed=0)
    config = td.TrainConfig(steps=20, width=16, edges=8)
    td.Diffusion(config).fit(x, y, seed=0).save(made / "m.safetensors")
    td.Diffusion(config).fit(x, y, seed=1).save(made / "other.safetensors")
    pd.DataFrame(x[:120], columns=["x0", "x1"]).to_parquet(made / "points.parquet")
    return made


@pytest.fixture
def work(place: Path, tmp_path: Path) -> Path:
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    return tmp_path


def contents(at: Path) -> dict[str, str]:
    return {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in sorted(at.iterdir())}


SIZES = {"shard_rows": 300, "batch_size": 128, "executor": Local(1)}


# Shards ----------------------------------------------------------------------------------------------


def test_the_rows_of_all_shards_are_those_of_one_sample(work: Path) -> None:
    made = jobs.sample(
        work / "m.safetensors", 1000, work / "out", label=np.int64(1), seed=3, first_row=5, **SIZES
    )
    assert [one.rows for one in made.shards] == [300, 300, 300, 100]
    assert made.rows == 1000
    assert made.size == sum(file.stat().st_size for file in (work / "out").glob("part-*"))
    table = tables.read(work / "out" / "part-000002.parquet", label_column="label")
    x, y = load(work / "m.safetensors").sample(300, 1, seed=3, first_row=605, return_labels=True)
    np.testing.assert_allclose(table.points, x, atol=1e-5)
    np.testing.assert_array_equal(table.labels, y)
    assert sorted(contents(work / "out")) == [
        "_manifest.json",
        *(f"part-00000{k}.parquet" for k in range(4)),
    ]
    # A reader of folders takes the folder as it is.
    assert pq.read_table(work / "out").num_rows == 1000


def test_log_densities_of_a_folder_come_in_the_order_of_the_names(work: Path) -> None:
    model = load(work / "m.safetensors")
    x = model.sample(200, seed=9)
    (work / "in").mkdir()
    np.save(work / "in" / "b.npy", x[50:130])
    pd.DataFrame(x[:50], columns=["x0", "x1"]).to_csv(work / "in" / "a.csv", index=False)
    frame = pd.DataFrame(x[130:], columns=["x0", "x1"])
    frame.iloc[3, 1] = np.nan
    frame.to_parquet(work / "in" / "c.parquet", row_group_size=16)
    (work / "in" / "_left out.txt").write_text("x")
    settings = {"shard_rows": 32, "executor": Local(1), "on_bad": "skip", "tolerance": 0.05}
    made = jobs.log_prob(work / "m.safetensors", work / "in", work / "out", **settings)
    assert [one.rows for one in made.shards] == [32, 18, 32, 32, 16, 32, 32, 6]
    assert made.tally.skipped == 1
    found = pq.read_table(work / "out").to_pandas()
    want = model.log_prob(x, tolerance=0.05)
    assert list(found.columns) == ["log_density", "log_density_total_error", "p_0", "p_1", "p_2"]
    missing = found["log_density"].isna()
    assert list(np.flatnonzero(missing)) == [133]
    bars = (found["log_density_total_error"] + want.total_error)[~missing]
    assert (np.abs(found["log_density"] - want.value)[~missing] <= bars + 1e-9).all()
    # Errors count rows in the file, not in the shard.
    with pytest.raises(td.InputError, match=r"c.parquet', row 4 .*column 'x1'"):
        jobs.log_prob(
            work / "m.safetensors",
            work / "in" / "c.parquet",
            work / "raised",
            shard_rows=2,
            executor=Local(1),
        )


def test_rows_of_a_parquet_file_are_read_from_any_row_groups(tmp_path: Path) -> None:
    x = np.arange(100.0)
    pd.DataFrame({"a": x, "name": x.astype(int)}).to_parquet(tmp_path / "p.parquet", row_group_size=7)
    pd.DataFrame({"a": x, "name": x.astype(int)}).to_csv(tmp_path / "p.csv", index=False)
    for name in ("p.parquet", "p.csv"):
        assert tables.count_rows(tmp_path / name) == 100
        for rows in (range(1), range(6, 8), range(13, 90), range(99, 100), range(100), range(40, 40)):
            found = tables.read(tmp_path / name, label_column="name", rows=rows)
            assert found.points[:, 0].tolist() == list(map(float, rows))
            assert found.labels.tolist() == list(rows)
            assert found.digest is None


def test_how_many_rows_a_shard_has_depends_on_the_rows_alone() -> None:
    assert rows_of_a_shard(1) == 8192
    assert rows_of_a_shard(10**7) == 163_840
    assert rows_of_a_shard(10**12) == 2**20
    assert rows_of_a_shard(10**9, 2**17) == 2**17
    with pytest.raises(td.InputError, match="at most 999,999 are possible"):
        _ = jobs.Job("sample", "", "", 10**7, 1).shards


# Going on --------------------------------------------------------------------------------------------


class Stops(Local):
    """An executor that is stopped after some shards, as by a kill of the driver."""

    def run(self, task: Callable[[int], Record], shards: Sequence[int]) -> Iterator[Record]:
        for number in shards[:2]:
            yield task(number)
        raise KeyboardInterrupt


def test_a_stopped_job_goes_on_and_ends_with_the_same_bytes(work: Path) -> None:
    whole = {**SIZES, "seed": 4}
    jobs.sample(work / "m.safetensors", 1000, work / "whole", **whole)
    with pytest.raises(KeyboardInterrupt):
        jobs.sample(work / "m.safetensors", 1000, work / "out", **{**whole, "executor": Stops(1)})
    assert json.loads((work / "out" / "_manifest.json").read_text())["shards"] is None
    before = {name: (work / "out" / name).stat().st_mtime_ns for name in contents(work / "out")}
    # What a kill in the middle of a shard leaves behind.
    (work / "out" / ".part-000002.123-abcd.part.parquet").write_text("half")
    jobs.sample(work / "m.safetensors", 1000, work / "out", **whole)
    assert contents(work / "out") == contents(work / "whole")
    for name in ("part-000000.parquet", "part-000001.parquet"):
        assert (work / "out" / name).stat().st_mtime_ns == before[name]


@pytest.mark.parametrize("harm", ["missing", "cut", "altered", "record"])
def test_damaged_shards_are_made_again(work: Path, harm: str) -> None:
    jobs.sample(work / "m.safetensors", 1000, work / "out", **SIZES)
    good = contents(work / "out")
    file = work / "out" / "part-000001.parquet"
    content = file.read_bytes()
    match harm:
        case "missing":
            file.unlink()
        case "cut":
            file.write_bytes(content[:-9])
        case "altered":
            file.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
        case "record":  # a kill between a file and its record
            manifest = json.loads((work / "out" / "_manifest.json").read_text())
            for k, one in enumerate(manifest["shards"]):
                text = "{" if k == 2 else json.dumps(one)
                (work / "out" / f"_part-00000{k}.json").write_text(text)
            manifest["shards"] = None
            (work / "out" / "_manifest.json").write_text(json.dumps(manifest))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ShardWarning)
        jobs.sample(work / "m.safetensors", 1000, work / "out", **SIZES)
    assert [("1 files were missing, cut or altered" in str(one.message)) for one in told] == [True] * (
        harm != "record"
    )
    assert contents(work / "out") == good


@pytest.mark.slow
def test_a_worker_that_dies_again_and_again_is_an_error_that_names_the_shard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("toydiffusion.jobs.local.MOST_DEATHS", 2)
    with pytest.raises(WorkerError, match=r"workers died 2 times over piece \d"):
        list(Local(2).run(os._exit, [3, 4, 5]))  # type: ignore[arg-type]


def test_what_goes_wrong_in_a_worker_is_raised_here() -> None:
    with pytest.raises(TypeError):
        list(Local(2).run(len, [1, 2, 3]))  # type: ignore[arg-type]


# Refusals --------------------------------------------------------------------------------------------


def test_a_folder_of_another_job_is_refused_and_left_alone(work: Path) -> None:
    jobs.sample(work / "m.safetensors", 1000, work / "out", **SIZES)
    before = contents(work / "out")

    def refused(words: str, name: str = "m.safetensors", n: int = 1000, **more: object) -> None:
        with pytest.raises(td.InputError, match=words):
            jobs.sample(work / name, n, work / "out", **{**SIZES, **more})
        assert contents(work / "out") == before

    refused("another seed: 0, not 1; give another folder", seed=1)
    refused("another model: ", "other.safetensors")
    refused("another rows: 1000, not 999", n=999)
    refused("another rows of a shard: 300, not 400", shard_rows=400)
    refused("another label: None, not 2", label=2)
    refused("another sampling", sampling=td.SampleConfig(steps=3))
    with pytest.raises(td.InputError, match="another "):
        jobs.log_prob(work / "m.safetensors", work / "points.parquet", work / "out", executor=Local(1))
    # A file that moves, or a model, is still the same.
    os.rename(work / "m.safetensors", work / "moved.safetensors")
    jobs.sample(work / "moved.safetensors", 1000, work / "out", **SIZES)
    assert contents(work / "out") == before


def test_changed_input_is_refused(work: Path) -> None:
    jobs.log_prob(work / "m.safetensors", work / "points.parquet", work / "out", executor=Local(1))
    frame = pd.read_parquet(work / "points.parquet")
    frame.iloc[0, 0] += 1
    frame.to_parquet(work / "points.parquet")
    with pytest.raises(td.InputError, match="another input files; give another folder"):
        jobs.log_prob(work / "m.safetensors", work / "points.parquet", work / "out", executor=Local(1))


@pytest.mark.parametrize("name", ["notes.txt", "part-000000.parquet", ".hidden", "_other"])
def test_foreign_files_are_refused(work: Path, name: str) -> None:
    (work / "out").mkdir()
    (work / "out" / name).write_text("mine")
    with pytest.raises(td.InputError, match=f"holds '{name}' and no _manifest"):
        jobs.sample(work / "m.safetensors", 10, work / "out", **SIZES)
    (work / "out" / name).unlink()
    jobs.sample(work / "m.safetensors", 10, work / "out", **SIZES)
    if name != "part-000000.parquet":
        (work / "out" / name).write_text("mine")
        with pytest.raises(td.InputError, match=f"holds '{name}', which is not of this job"):
            jobs.sample(work / "m.safetensors", 10, work / "out", **SIZES)
        assert (work / "out" / name).read_text() == "mine"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"format": 2, "job": {}, "maker": {}, "shards": null}',
        '{"format": 1, "job": {}, "maker": [], "shards": null}',
        '{"format": 1, "job": {}, "maker": {}, "shards": [{}]}',
    ],
)
def test_a_manifest_that_is_not_ours_is_refused(work: Path, text: str) -> None:
    (work / "out").mkdir()
    (work / "out" / "_manifest.json").write_text(text)
    with pytest.raises(td.InputError, match="is not one of ours"):
        jobs.sample(work / "m.safetensors", 10, work / "out", **SIZES)
    assert (work / "out" / "_manifest.json").read_text() == text


def test_other_versions_or_processors_are_refused(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs.sample(work / "m.safetensors", 10, work / "out", **SIZES)
    monkeypatch.setattr("toydiffusion.__version__", "9.9")
    with pytest.raises(td.InputError, match=r"begun with toydiffusion .*, not 9\.9"):
        jobs.sample(work / "m.safetensors", 10, work / "out", **SIZES)
    # A worker that is not like the driver says so itself.
    seen: list[jobs.Task] = []

    class Other(Local):
        def run(self, task: Callable[[int], Record], shards: Sequence[int]) -> Iterator[Record]:
            assert isinstance(task, jobs.Task)
            seen.append(task)
            monkeypatch.undo()
            yield task(0)

    with pytest.raises(td.InputError, match=r"a worker on .* has toydiffusion .*, not 9\.9"):
        jobs.sample(work / "m.safetensors", 10, work / "new", **{**SIZES, "executor": Other(1)})
    assert len(seen) == 1


def test_a_second_run_at_the_same_time_is_refused(work: Path) -> None:
    (work / "out").mkdir()
    with folder_at(str(work / "out")).locked(), pytest.raises(td.InputError, match="another run is at work"):
        jobs.sample(work / "m.safetensors", 10, work / "out", **SIZES)
    jobs.sample(work / "m.safetensors", 10, work / "out", **SIZES)


def test_places_and_tables_that_cannot_be_used(work: Path) -> None:
    model = work / "m.safetensors"
    with pytest.raises(td.InputError, match="there is no folder"):
        jobs.sample(model, 10, work / "no" / "such", **SIZES)
    with pytest.raises(td.InputError, match="is a file, a folder is needed"):
        jobs.sample(model, 10, work / "points.parquet", **SIZES)
    with pytest.raises(td.InputError, match="no model file"):
        jobs.sample(work / "none.safetensors", 10, work / "out", **SIZES)
    with pytest.raises(td.InputError, match="is no place that can be written to"):
        jobs.sample(model, 10, "nowhere://at/all", **SIZES)
    with pytest.raises(td.InputError, match="n must be a whole number >= 1"):
        jobs.sample(model, 0, work / "out", **SIZES)
    with pytest.raises(td.InputError, match="shard_rows must be a whole number >= 1"):
        jobs.sample(model, 10, work / "out", shard_rows=0)
    with pytest.raises(td.InputError, match="workers must be a whole number >= 1"):
        Local(0)
    with pytest.raises(td.InputError, match="there is no such file"):
        jobs.log_prob(model, work / "none.parquet", work / "out", executor=Local(1))
    (work / "in").mkdir()
    with pytest.raises(td.InputError, match="holds no table"):
        jobs.log_prob(model, work / "in", work / "out", executor=Local(1))
    (work / "in" / "notes.txt").write_text("x")
    with pytest.raises(td.InputError, match=r"unknown suffix '\.txt'"):
        jobs.log_prob(model, work / "in", work / "out", executor=Local(1))
    shutil.copy(work / "points.parquet", work / "in" / "p.parquet")
    os.unlink(work / "in" / "notes.txt")
    with pytest.raises(td.InputError, match=r"holds the input 'p.parquet'"):
        jobs.log_prob(model, work / "in", work / "in", executor=Local(1))
    # Settings are refused before a folder is made.
    with pytest.raises(td.InputError, match="tolerance"):
        jobs.log_prob(model, work / "points.parquet", work / "out", tolerance=-1.0, executor=Local(1))
    with pytest.raises(td.InputError, match="unknown label 'none'"):
        jobs.sample(model, 10, work / "out", label="none", **SIZES)
    assert not (work / "out").exists()


# An object store -------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a bucket of a server on this machine."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from moto.server import ThreadedMotoServer
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    options = f"endpoint_override=127.0.0.1:{port}&scheme=http&allow_bucket_creation=true"
    yield f"s3://bucket/{{}}?{options}"
    server.stop()


@pytest.mark.slow
def test_a_bucket_gets_the_same_bytes_and_a_job_goes_on_there(work: Path, bucket: str) -> None:
    out = bucket.format("points")
    whole = jobs.sample(work / "m.safetensors", 1000, work / "whole", **SIZES)
    with pytest.raises(KeyboardInterrupt):
        jobs.sample(work / "m.safetensors", 1000, out, **{**SIZES, "executor": Stops(1)})
    store = folder_at(out)
    assert store.names() == {
        "_manifest.json",
        *(f"part-00000{k}.parquet" for k in (0, 1)),
        *(f"_part-00000{k}.json" for k in (0, 1)),
    }
    assert jobs.sample(work / "m.safetensors", 1000, out, **SIZES).shards == whole.shards
    assert {name: hashlib.sha256(store.read(name)).hexdigest() for name in store.names()} == contents(
        work / "whole"
    )
    # In processes of their own, and with a damaged file.
    store.write("part-000003.parquet", b"cut")
    with pytest.warns(ShardWarning, match="1 files were missing"):
        jobs.sample(work / "m.safetensors", 1000, out, **{**SIZES, "executor": Local(2)})
    assert store.size_and_digest("part-000003.parquet") == (whole.shards[3].size, whole.shards[3].digest)
    with pytest.raises(td.InputError, match="another seed"):
        jobs.sample(work / "m.safetensors", 1000, out, seed=1, **SIZES)


# A cluster -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_address_without_a_cluster_is_refused_in_time(work: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(td.InputError, match="is no Ray cluster that can be joined"):
            list(jobs.OnRay(address, 1).run(abs, [1]))
        assert time.monotonic() - began < 60  # Ray alone would take minutes; not a measurement
    with pytest.raises(td.InputError, match="no cluster answers at"):
        list(jobs.OnRay(address, 1).run(abs, [1]))


@pytest.mark.slow
def test_a_cluster_is_joined_with_a_warning_where_it_has_no_token(work: Path) -> None:
    """In a process of its own, since Ray reads once whether there are tokens."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "disabled", "HOME": str(work), "RAY_USAGE_STATS_ENABLED": "0"}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    start = f"start --head --port={port} --node-ip-address=127.0.0.1 --num-cpus=2 --include-dashboard=false"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    folder = f"--temp-dir={tempfile.mkdtemp(prefix='ray')}"
    cluster = subprocess.Popen([*ray, *start.split(), folder], start_new_session=True, **quiet)
    try:
        assert cluster.wait() == 0
        words = "sample m.safetensors -n 1000 --shard-rows 300 --batch-size 128 --workers 2 --out"
        del environment["RAY_AUTH_MODE"]
        found = subprocess.run(
            [sys.executable, "-m", "toydiffusion", *words.split(), "out/", "--cluster", f"127.0.0.1:{port}"],
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode == 0, found.stderr
        assert "joined without a token: whoever reaches its ports can run programs on it" in found.stderr
    finally:
        kill(cluster.pid)  # `ray stop` would stop other tests' Ray too
    jobs.sample(work / "m.safetensors", 1000, work / "whole", **SIZES)
    assert contents(work / "out") == contents(work / "whole")


# The command line ------------------------------------------------------------------------------------


@pytest.fixture
def folder(work: Path) -> Path:
    return work


def test_commands_take_folders(run, refused, folder) -> None:
    sampled = "sample m.safetensors -n 2e3 --shard-rows 1000 --workers 1 --out "
    assert run(f"{sampled}new/")[:2] == (0, "wrote 2,000 points to 2 files in new/\n")
    assert run(f"{sampled}new")[0] == 0  # a folder that is there needs no slash
    scored = "log-prob m.safetensors points.parquet new --shard-rows 1000 --workers 1 --tolerance 0.05 --out "
    code, out, _ = run(f"{scored}scores/")
    assert (code, out) == (0, "wrote the log-densities of 2,120 points to 3 files in scores/\n")
    (folder / "new" / "part-000001.parquet").unlink()
    code, _, err = run(f"{sampled}new/")
    assert code == 0
    assert "warning: folder" in err
    refused(f"{sampled}new.csv", ["--workers needs a folder of files", "slash"])
    refused("sample m.safetensors -n 5 --out new.csv --cluster local", ["--cluster needs a folder"])
    refused("log-prob m.safetensors points.parquet new --out one.csv", ["more than one table", "slash"])
    refused("sample m.safetensors -n 5 --out no/such/", ["there is no folder"])
    refused(f"{sampled}new/ --seed 1", ["another seed: 0, not 1"])
    refused("sample m.safetensors -n 5 --out x/ --workers 0", ["--workers must be a whole number"])
    refused("sample m.safetensors -n 5 --out x/ --cluster here", ["HOST:PORT", "'here'"])
    refused("sample m.safetensors -n 1.5e0 --out x/", ["a whole number is needed"])
