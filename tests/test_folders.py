"""Training on folders of tables: moments in one pass, rows drawn uniformly, and the same model afterwards."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy import stats

import toydiffusion as td
from toydiffusion.codec import RunningMoments, Standardizer
from toydiffusion.distributions import moments
from toydiffusion.metrics import denoiser_divergence
from toydiffusion.model.folder_fitting import codec_of, moments_of, survey
from toydiffusion.tables import TableFolder, read, read_blocks
from toydiffusion.training import Batch, TrainState, streaming, train_streamed

SMALL = td.TrainConfig(steps=60, width=8, edges=4, batch_size=50)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def write(at: Path, x: np.ndarray, y: np.ndarray | None, cuts: list[int], *, group: int = 37) -> Path:
    """Write rows to several Parquet files, and the last part to a CSV file."""
    at.mkdir()
    frame = pd.DataFrame(x, columns=[f"c{j}" for j in range(x.shape[1])])
    if y is not None:
        frame["class"] = y
    ends = [0, *cuts, len(x)]
    for k, (first, last) in enumerate(itertools.pairwise(ends)):
        part = frame.iloc[first:last]
        if k == len(cuts):
            part.to_csv(at / f"part-{k}.csv", index=False)
        else:
            part.to_parquet(at / f"part-{k}.parquet", index=False, row_group_size=group)
    return at


def rows(n: int = 500) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.array(["a", "b", "c"], dtype=object)[rng.integers(0, 3, n)]
    return rng.normal(size=(n, 3)) * [1, 10, 0.1] + [5, -3, 1e4], y


# Moments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [[], [1], [400], [100, 101, 300]])
def test_moments_of_parts_are_those_of_the_whole(cuts: list[int]) -> None:
    x = rows()[0]
    parts = [RunningMoments.of(one) for one in np.split(x, cuts)]
    found = parts[0]
    for one in parts[1:]:
        found = found.merged(one)
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(x.T, ddof=0), rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal((found.low, found.high), (x.min(0), x.max(0)))
    assert found.count == 500


def test_a_large_mean_costs_no_digits() -> None:
    """Against two passes in long double; the plain sum of squares in float64 would keep four digits."""
    rng = np.random.default_rng(1)
    found, total, blocks = None, np.longdouble(0), []
    for _ in range(200):
        x = rng.normal(1e6, 1.0, size=(5000, 1))
        blocks.append(x)
        own = RunningMoments.of(x, None if found is None else found.about)
        found = own if found is None else found.merged(own)
        total += x.astype(np.longdouble).sum()
    assert found is not None
    mean = total / 10**6
    variance = sum(((x - mean) ** 2).sum() for x in blocks) / 10**6
    assert abs(float(found.mean[0] - mean)) < 1e-9
    assert abs(float(found.deviation[0] - np.sqrt(variance))) < 1e-9


def test_a_survey_finds_what_a_table_in_memory_gives(folder: Path) -> None:
    x, y = rows()
    opened = TableFolder.open(write(folder / "in", x, y, [100, 250]), label_column="class")
    assert (opened.num_rows, opened.columns, opened.sizes) == (500, ("c0", "c1", "c2"), (100, 150, 250))
    found = survey(opened, False)
    codec = codec_of(opened, found, standardize=True)
    whole = Standardizer.fit(torch.from_numpy(x))
    torch.testing.assert_close(codec.standardizer.mean, whole.mean)
    torch.testing.assert_close(codec.standardizer.scale, whole.scale)
    assert codec.classes is not None
    assert codec.classes.tolist() == ["a", "b", "c"]
    index = torch.from_numpy(np.searchsorted(["a", "b", "c"], y.astype(str)))
    law, exact = moments_of(found, codec), moments(whole.z(torch.from_numpy(x)), index)
    torch.testing.assert_close(law.means, exact.means, atol=1e-9, rtol=0)
    torch.testing.assert_close(law.covariances, exact.covariances, atol=1e-9, rtol=0)
    torch.testing.assert_close(law.weights, exact.weights)


# Rows ------------------------------------------------------------------------------------------------


def test_rows_are_taken_from_any_place(folder: Path) -> None:
    x, y = rows()
    opened = TableFolder.open(write(folder / "in", x, y, [100, 250]), label_column="class")
    for wanted in ([0], [499], [99, 100], [36, 37, 38, 249, 250, 251], list(range(500)), [7, 8, 300]):
        found = opened.take(np.array(wanted))
        np.testing.assert_allclose(found.points, x[wanted], rtol=1e-15)
        assert found.labels is not None
        assert found.labels.tolist() == y[wanted].tolist()
    few = opened.sample(50, seed=1)
    place = [int(np.flatnonzero((x == row).all(1))[0]) for row in few.points[:20]]
    assert place == sorted(set(place))
    assert len(opened.sample(10_000, seed=1).points) == 500
    blocks = list(read_blocks(folder / "in" / "part-0.parquet", label_column="class"))
    assert sum(len(one.points) for one in blocks) == 100


def test_each_step_draws_uniformly_and_never_what_is_kept_apart() -> None:
    """A chi-squared test over the rows; and the batches of a resumed run are those of a whole one."""
    n, config = 40, td.TrainConfig(steps=400, width=4, edges=2, batch_size=100, held_out=0.2)
    counts, apart = np.zeros(n), []

    def take(rows: np.ndarray) -> Batch:
        assert (np.diff(rows) > 0).all()
        apart.append(rows)
        return Batch(torch.from_numpy(rows)[:, None].float() / n, None)

    state = TrainState.start(1, 1, config, seed=3)
    original = streaming.train_on
    try:
        streaming.train_on = lambda state, batches, held, config, steps, **_: (batches, held, steps)
        batches, _, steps = train_streamed(state, take, n, config)
        assert steps == 400
        whole = [(batch.points[:, 0] * n).round().long() for batch in batches]
        state.step = 150
        rest = [(b.points[:, 0] * n).round().long() for b in train_streamed(state, take, n, config)[0]]
    finally:
        streaming.train_on = original
    assert len(whole) == 400
    assert all(torch.equal(a, b) for a, b in zip(whole[150:], rest, strict=True))
    for batch in whole:
        counts += np.bincount(batch, minlength=n)
    kept = apart[0]
    assert 4 <= len(kept) <= 8
    assert counts[kept].sum() == 0
    others = np.delete(counts, kept)
    expected = others.mean()
    assert 0.001 < stats.chi2.sf(((others - expected) ** 2 / expected).sum(), len(others) - 1) < 0.999


# Fitting ---------------------------------------------------------------------------------------------


def test_a_folder_gives_the_same_model_wherever_its_files_end(folder: Path) -> None:
    x, y = rows()
    models = []
    for k, cuts in enumerate(([], [3], [100, 250])):
        opened = TableFolder.open(write(folder / str(k), x, y, cuts, group=11 + k), label_column="class")
        models.append(td.Diffusion(SMALL).fit_table(opened, seed=2))
    first = models[0]
    assert first.classes is not None
    assert first.classes.tolist() == ["a", "b", "c"]
    assert first.fitted.provenance.num_points == 500
    for other in models[1:]:
        np.testing.assert_allclose(other.sample(50, seed=1), first.sample(50, seed=1), rtol=1e-3, atol=1e-3)
    assert np.isfinite(first.log_prob(x[:5]).value).all()


def test_resuming_is_exact(folder: Path, press_ctrl_c) -> None:
    x, y = rows()
    opened = TableFolder.open(write(folder / "in", x, y, [200]), label_column="class")
    whole = td.Diffusion(SMALL).fit_table(opened, seed=1)
    place = folder / "half.checkpoint"
    with press_ctrl_c(td.training.loop, "_adam", after=23):
        td.Diffusion(SMALL).fit_table(opened, seed=1, checkpoint=place)
    resumed = td.Diffusion(SMALL).fit_table(opened, seed=1, checkpoint=place, resume=True)
    assert resumed.history == whole.history
    np.testing.assert_array_equal(resumed.sample(20, seed=1), whole.sample(20, seed=1))
    with pytest.raises(td.InputError, match="belongs to other points"):
        td.Diffusion(SMALL).fit_table(opened, seed=9, checkpoint=place, resume=True)


@pytest.mark.slow
def test_the_order_of_the_rows_does_not_matter(folder: Path) -> None:
    """Sorted by label and column, or shuffled: the divergence is the same, by Welch's test at 1 %."""
    law = td.distributions.ConcentricSquares(3)
    x, y = law.sample(20_000, seed=0)
    order = np.lexsort((x[:, 0], y))
    found: dict[str, list[float]] = {"sorted": [], "shuffled": []}
    for name, which in (("sorted", order), ("shuffled", np.arange(len(x)))):
        opened = TableFolder.open(
            write(folder / name, x[which], y[which], [5000, 12_000]), label_column="class"
        )
        for seed in range(4):
            model = td.Diffusion(td.TrainConfig(steps=300)).fit_table(opened, seed=seed)
            found[name].append(
                denoiser_divergence(
                    model.denoiser,
                    model.standardized(law),
                    sigma_min=model.sigma_min,
                    sigma_max=model.sigma_max,
                    n=10_000,
                    conditional=True,
                ).value
            )
    assert stats.ttest_ind(found["sorted"], found["shuffled"], equal_var=False).pvalue > 0.01


def test_a_model_for_tables_takes_a_random_part(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toydiffusion.model.fitting.MOST_IN_MEMORY", 60)
    x, _ = rows()
    opened = TableFolder.open(write(folder / "in", x, None, [200]))
    model = td.Diffusion(td.TableConfig(networks=False)).fit_table(opened, seed=1)
    assert model.fitted.provenance.num_points == 60
    with pytest.raises(td.InputError, match="compare needs a table in memory"):
        td.Diffusion(SMALL).fit_table(opened, compare=True)


def test_the_command_takes_a_folder(folder: Path, run, refused, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rows()
    write(folder / "in", x, y, [200])
    quick = "--steps 5 --width 8"
    code, out, _ = run(f"fit in --label-column class {quick} --out m.safetensors")
    assert code == 0
    assert "500 in 3 dimensions" in out
    monkeypatch.setattr("toydiffusion.model.fitting.MOST_IN_MEMORY", 60)
    code, out, _ = run("fit in --columns c0,c1 --preset table --steps 5 --out t.safetensors")
    assert code == 0
    assert "fitted to 60 of 500 rows, chosen at random" in out
    refused(f"fit in {quick} --out new.safetensors", ["column 'class'", "text"])
    (folder / "empty").mkdir()
    refused(f"fit empty {quick} --out new.safetensors", ["holds no table"])
    (folder / "in" / "notes.txt").write_text("x")
    refused(f"fit in --label-column class {quick} --out new.safetensors", ["notes.txt", "unknown suffix"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("missing", r"part-1.parquet', row 3 .*column 'c1'"),
        ("other columns", "has no column 'c2'"),
        ("constant", "column 'c0' is 1.0 in every row"),
        ("one class", "only one class in column 'class'"),
        ("other labels", "labels of another kind"),
        ("cut", "not a readable Parquet file"),
    ],
)
def test_bad_folders_get_one_line(folder: Path, change: str, words: str) -> None:
    x, y = rows()
    match change:
        case "constant":
            x[:, 0] = 1.0
        case "one class":
            y[:] = "a"
    at = write(folder / "in", x, y, [100, 200, 300])
    path = at / "part-1.parquet"
    frame = pd.read_parquet(path)
    match change:
        case "missing":
            frame.iloc[2, 1] = np.nan
            frame.to_parquet(path)
        case "other columns":
            frame.rename(columns={"c2": "d2"}).to_parquet(path)
        case "other labels":
            frame["class"] = 7
            frame.to_parquet(path)
        case "cut":
            path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(td.InputError, match=words):
        td.Diffusion(SMALL).fit_table(TableFolder.open(at, label_column="class"))


def test_a_file_of_another_number_of_rows_is_noticed(folder: Path) -> None:
    x, _ = rows()
    at = write(folder / "in", x, None, [100])
    opened = TableFolder.open(at)
    pq.write_table(pa.table({f"c{j}": x[:50, j] for j in range(3)}), at / "part-0.parquet")
    with pytest.raises(td.InputError, match="has changed since it was opened"):
        opened.take(np.arange(500))
    assert len(read(at / "part-0.parquet").points) == 50
