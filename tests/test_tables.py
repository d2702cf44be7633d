"""Point tables: every kind of bad input in words, and exact round trips against other readers."""

import io
import resource
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from toydiffusion.errors import InputError
from toydiffusion.files import check_target, replacing
from toydiffusion.tables import Table, Writer, check_for_fit, check_suffix, default_columns, from_frame, read
from toydiffusion.tables.writing import BLOCK

SUFFIXES = [".csv", ".parquet", ".npy"]
HARD = np.array(
    [1e30, 1e-30, -0.0, 0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -2.5, 123456789.123456789, 2**53]
)


def npy(values: object, **kwargs: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values), **kwargs)
    return buffer.getvalue()


def parquet(**columns: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def message_of(error: pytest.ExceptionInfo[InputError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def assert_words(message: str, words: list[str]) -> None:
    assert [word for word in words if word not in message] == [], message


TEXT_HINT = ["'c'", "'in'", "--label-column", "--columns"]
BAD_FILES = [
    # name, bytes, label column, columns, words of the message
    ("a.txt", b"x\n1\n", None, None, ["'.txt'", "'.csv'", "'.npy'", "'.parquet'"]),
    ("noending", b"x\n1\n", None, None, ["''", "'.csv'"]),
    ("a.csv", b"", None, None, ["is empty"]),
    ("a.npy", b"", None, None, ["is empty"]),
    ("a.parquet", b"", None, None, ["is empty"]),
    ("a.csv", b"\n \n", None, None, ["no header"]),
    ("a.csv", b"x,y\n1,2\n3\n", None, None, ["line 3", "found 1 field,", "header has 2"]),
    ("a.csv", b"x,y\n1,2\n\n1,5,2,5\n", None, None, ["line 4", "found 4 fields", "header has 2"]),
    ("a.csv", b"x,y\n1,2,\n", None, None, ["line 2", "found 3 fields"]),
    ("a.csv", b"x,y\n1,2\n3,abc\n", None, None, ["line 3", "column 'y'", "'abc'", "finite number"]),
    ("a.csv", b'x,c\n1,"a\nb"\noops,d\n', None, ["x"], ["line 4", "column 'x'", "'oops'"]),
    ("a.csv", b"x,y\nabc,1\n3,4\n", None, None, ["line 2", "column 'x'", "'abc'"]),
    ("a.csv", b"x,y\n1,2\n,4\n", None, None, ["line 3", "column 'x'", "empty"]),
    ("a.csv", b"x,y\n ,2\n", None, None, ["line 2", "column 'x'", "empty"]),
    ("a.csv", b'x\n1\n""\n', None, None, ["line 3", "empty"]),
    ("a.csv", b"x,y\n1,2\n3,NaN\n", None, None, ["line 3", "column 'y'", "'NaN'"]),
    ("a.csv", b"x,y\n1,2\n3,-inf\n", None, None, ["line 3", "column 'y'", "'-inf'"]),
    ("a.csv", b"x,y\n1,2\n3,1e999\n", None, None, ["line 3", "'1e999'"]),
    ("a.csv", b"x\n1_000\n2\n", None, None, ["line 2", "'1_000'"]),
    ("a.csv", b'x,y\n"1,5",2\n', None, None, ["line 2", "column 'x'", "'1,5'", "decimals with a point"]),
    ("a.csv", b"x,x\n1,2\n", None, None, ["two columns", "'x'"]),
    ("a.csv", b"x, \n1,2\n", None, None, ["column 2", "no name"]),
    ("a.csv", b"x,,y\n1,2,3\n", None, None, ["column 2", "no name"]),
    ("a.csv", b"1,2\n3,4\n", None, None, ["line 1", "'1'", "header"]),
    ("a.csv", b"0.5,1.5\n1,2\n", None, None, ["line 1", "'0.5'", "header"]),
    ("a.csv", b"1,5;2,5\n3,5;4,5\n", None, None, ["line 1", "'1,5'", "header"]),
    ("a.csv", b"0.5,1.5,in\n1,2,out\n", None, None, ["column 'in'", "'out'", "text"]),
    ("a.csv", b"x,c\n1,in\n2,out\n", None, None, ["column 'c'", "text", *TEXT_HINT]),
    ("a.csv", b"x,\xe9\n1,2\n", None, None, ["line 1", "0xe9", "UTF-8"]),
    ("a.csv", b"x,c\n1,b\n2,\xfc\n", "c", None, ["line 3", "0xfc", "UTF-8"]),
    ("a.csv", "x,y\n1,2\n".encode("utf-16"), None, None, ["line 1", "UTF-8"]),
    ("a.csv", b'x,c\n1,"a\n2,b\n3,c\n', "c", None, ["not valid CSV"]),
    ("a.csv", b'x,c\n1,"a\n2,"b\n3,c\n', None, ["x"], ["not valid CSV", "line 3"]),
    ("a.csv", b"x,class\n1,2\n", "clas", None, ["'clas'", "did you mean 'class'"]),
    ("a.csv", b"x,height\n1,2\n", None, ["heigth"], ["'heigth'", "did you mean 'height'"]),
    ("a.csv", b"x,y\n1,2\n", "y", ["x", "y"], ["'y'", "both"]),
    ("a.csv", b"x,y\n1,2\n", None, ["x", "x"], ["two columns", "'x'"]),
    ("a.csv", b"x,y\n1,2\n", None, [], ["no numeric column"]),
    ("a.csv", b"c\nin\n", "c", None, ["no numeric column"]),
    ("a.csv", b"x,c\n1,in\n2,\n", "c", None, ["line 3", "column 'c'", "missing"]),
    ("a.csv", b"x,c\n1,2\n2,\n", "c", None, ["line 3", "column 'c'", "missing"]),
    ("a.csv", b"x,c\n1,2\n\n2,nan\n", "c", None, ["line 4", "column 'c'", "missing"]),
    ("a.csv", b"x,c\n1,2.5\n2,NA\n", "c", None, ["line 3", "column 'c'", "'NA'", "missing"]),
    ("a.csv", b"x,c\n1,in\n2, \n", "c", None, ["line 3", "column 'c'", "missing"]),
    ("a.parquet", b"PAR1 this is none PAR1", None, None, ["not a readable Parquet file"]),
    ("a.parquet", parquet(x=[1.0, 2.0])[:-9], None, None, ["not a readable Parquet file"]),
    ("a.parquet", parquet(x=[1.0, None]), None, None, ["row 2 (counted from 1)", "column 'x'", "empty"]),
    ("a.parquet", parquet(x=[1.0, 2.0, np.inf]), None, None, ["row 3", "column 'x'", "inf"]),
    ("a.parquet", parquet(x=[1.0], c=["in"]), None, None, TEXT_HINT),
    ("a.parquet", parquet(x=["1", "2"]), None, None, ["column 'x'", "text", "'1'"]),
    ("a.parquet", parquet(x=["1", "z"]), None, None, ["row 2", "column 'x'", "'z'"]),
    ("a.parquet", parquet(x=[1], c=[True]), None, None, ["'c'", "bool"]),
    ("a.parquet", parquet(x=[1, 2], c=["a", None]), "c", None, ["row 2", "column 'c'", "missing"]),
    ("a.parquet", parquet(x=[1, 2]), "c", None, ["no column 'c'", "'x'"]),
    ("a.npy", b"junk that is not numpy", None, None, ["not a NumPy file"]),
    ("a.npy", npy([1.0, 2.0])[:-3], None, None, ["not a NumPy file"]),
    ("a.npy", npy([None, "a"], allow_pickle=True), None, None, ["not a NumPy file", "bject"]),
    ("a.npy", npy([[1j]]), None, None, ["complex128", "real"]),
    ("a.npy", npy([["a"]]), None, None, ["<U1", "real"]),
    ("a.npy", npy([[True]]), None, None, ["bool", "real"]),
    ("a.npy", npy(np.zeros((2, 2, 2))), None, None, ["(2, 2, 2)", "(n, d)"]),
    ("a.npy", npy(np.zeros((2, 0))), None, None, ["no numeric column"]),
    ("a.npy", npy([[1.0, 2.0], [np.nan, 3.0]]), None, None, ["row 2", "column 'x0'", "nan"]),
    ("a.npy", npy([[1.0, 2.0]]), None, ["x0", "x7"], ["no column 'x7'", "'x1'"]),
    ("a.npy", npy([[1.0, 2.5]]), "x1", None, ["row 1", "column 'x1'", "2.5"]),
]


@pytest.mark.parametrize(("name", "content", "label", "columns", "words"), BAD_FILES)
def test_bad_file(tmp_path, name, content, label, columns, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read(path, columns=columns, label_column=label)
    assert_words(message_of(error), [name, *words])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_file_or_a_folder(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with pytest.raises(InputError, match="no such file") as error:
        read(path)
    assert path.name in message_of(error)
    path.mkdir()
    with pytest.raises(InputError, match="is a folder"):
        read(path)


def test_unreadable_file(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text("x\n1\n")

    def deny(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)  # root may read everything
    with pytest.raises(InputError, match=r"a\.csv.*permission"):
        read(path)


GOOD_CSV = [
    # bytes, label column, columns, points, labels
    (b"x,y\n1,2\n3,4\n", None, ("x", "y"), [[1, 2], [3, 4]], None),
    (b"\xef\xbb\xbfx,y\r\n1,2\r\n3,4\r\n\r\n\r\n", None, ("x", "y"), [[1, 2], [3, 4]], None),
    (b"\n\nx,y\n1,2\n \n3,4", None, ("x", "y"), [[1, 2], [3, 4]], None),
    (b"x\r1\r2\r", None, ("x",), [[1], [2]], None),
    (b" x ; y\n 1 ;+2e0\n", None, (" x ", " y"), [[1, 2]], None),
    (b"x,x ,1.5\n1,2,3\n", None, ("x", "x ", "1.5"), [[1, 2, 3]], None),
    (b'"a;b"\t"c,d"\n"1"\t2\n', None, ("a;b", "c,d"), [[1, 2]], None),
    (b'"a;b;c","d"\n1,2\n', None, ("a;b;c", "d"), [[1, 2]], None),
    (b'"a\nb",y\n1,2\n', None, ("a\nb", "y"), [[1, 2]], None),
    (b"x\n1e30\n1e-30\n1e-999\n", None, ("x",), [[1e30], [1e-30], [0]], None),
    (b"2020,2021,c\n1,2,in\n", "c", ("2020", "2021"), [[1, 2]], ["in"]),
    (b"c,x\n1,5\n-9223372036854775808,6\n", "c", ("x",), [[5], [6]], [1, -(2**63)]),
    (b"c,x\n9007199254740993,5\n", "c", ("x",), [[5]], [9007199254740993]),
    (b"c,x\n1.0,5\n2,5\n", "c", ("x",), [[5], [5]], ["1.0", "2"]),
    (b"c,x\n9223372036854775808,5\n2,5\n", "c", ("x",), [[5], [5]], ["9223372036854775808", "2"]),
    (b"c,x\nTrue,5\nFalse,5\n", "c", ("x",), [[5], [5]], [True, False]),
    (b"c,x\nTRUE,5\n", "c", ("x",), [[5]], [True]),
    (b"c,x\nTrue,5\nfalse,5\n", "c", ("x",), [[5], [5]], ["True", "false"]),
    (b"c,x\n in,5\nin ,5\n7,5\n", "c", ("x",), [[5], [5], [5]], [" in", "in ", "7"]),
    (b'c,x\n"a\nb",5\n"say ""hi""",6\n', "c", ("x",), [[5], [6]], ["a\nb", 'say "hi"']),
    ("größe,c\n1,ü\n".encode(), "c", ("größe",), [[1]], ["ü"]),
    (b"x,y\n", None, ("x", "y"), np.empty((0, 2)), None),
    (b"x,y", None, ("x", "y"), np.empty((0, 2)), None),
]


@pytest.mark.parametrize(("content", "label", "columns", "points", "labels"), GOOD_CSV)
def test_good_csv(tmp_path, content, label, columns, points, labels):
    path = tmp_path / "a.CSV"
    path.write_bytes(content)
    table = read(path, label_column=label)
    assert table.columns == columns
    assert table.label_column == label
    np.testing.assert_array_equal(table.points, points, strict=False)
    assert table.points.shape == np.shape(points)
    if labels is None:
        assert table.labels is None
    else:
        assert [(type(v), v) for v in table.labels.tolist()] == [(type(v), v) for v in labels]


def test_columns_are_chosen_by_name_in_the_order_asked_for(tmp_path):
    (tmp_path / "a.csv").write_text("a,word,b\n1,in,2\n3,out,4\n")
    (tmp_path / "a.parquet").write_bytes(parquet(a=[1, 3], word=["in", "out"], b=[2, 4]))
    for suffix in (".csv", ".parquet"):
        table = read(tmp_path / f"a{suffix}", columns=["b", "a"])
        assert table.points.tolist() == [[2, 1], [4, 3]]
        assert table.columns == ("b", "a")


def test_npy(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(npy([5, 6]))
    assert read(path).points.tolist() == [[5.0], [6.0]]
    path.write_bytes(npy([[2**53 + 1, 1, 2], [7, 3, 4]]))
    table = read(path, label_column="x0")
    assert (table.columns, table.points.tolist()) == (("x1", "x2"), [[1, 2], [3, 4]])
    assert table.labels.tolist() == [2**53 + 1, 7]
    assert read(path, columns=["x2", "x0"]).points[1].tolist() == [4, 7]
    assert read(path, columns=["a", "b", "c"]).columns == ("a", "b", "c")


UNFIT = [
    ([[1.0, 2.0]], None, ["at least 2 points", "found 1"]),
    (np.empty((0, 2)), None, ["at least 2 points", "found 0"]),
    ([[1.0, 2.0], [3.0, 2.0]], None, ["column 'b'", "2.0", "every row"]),
    ([[1.0, 0.1], [3.0, 0.1], [5.0, 0.1]], None, ["column 'b'", "0.1"]),  # its computed deviation is not 0
    ([[1.0, 2.0]] * 3, None, ["all 3 points are identical"]),
    ([[1.0, 2.0], [2.0, 1.0]], [7, 7], ["only one class", "'c'", "7"]),
    ([[1.0, 2.0], [2.0, 1.0]], ["in", "in"], ["only one class", "'c'", "'in'"]),
]


@pytest.mark.parametrize(("points", "labels", "words"), UNFIT)
def test_unfit(points, labels, words):
    labels = None if labels is None else np.array(labels, dtype=object if labels[0] == "in" else None)
    table = Table(np.asarray(points), ("a", "b"), labels, None if labels is None else "c", "'p.csv'")
    with pytest.raises(InputError) as error:
        check_for_fit(table)
    assert_words(message_of(error), ["'p.csv'", *words])


def test_fit_takes_duplicates_and_extremes():
    check_for_fit(Table(np.array([[1e30, 1e-30], [1e30, 1e-30], [2e30, -1e-30]]), None, np.array([0, 0, 1])))
    check_for_fit(Table(np.random.default_rng(0).normal(size=(9, 50)), None))


def test_select():
    table = Table(np.array([[1.0, 2.0, 3.0]]), ("a", "b", "height"), np.array([4]), "c")
    chosen = table.select(["height", "a"])
    assert (chosen.columns, chosen.points.tolist(), chosen.labels.tolist()) == (
        ("height", "a"),
        [[3, 1]],
        [4],
    )
    with pytest.raises(InputError, match="'heigth'; did you mean 'height'"):
        table.select(["a", "heigth"])
    with pytest.raises(InputError, match="no column 'u'"):  # names are known: never by position
        table.select(["u", "v", "w"])
    for columns in (None, default_columns(3)):
        assert Table(table.points, columns).select(["u", "v", "w"]).points.tolist() == [[1, 2, 3]]
        with pytest.raises(InputError, match="no column 'u'"):
            Table(table.points, columns).select(["u", "v"])


X = [[1, 2.5], [3, 4]]
ARROW = pa.table({"a": [1, 3], "b": [2.5, 4]})
FRAMES = [
    (X, None),
    (np.array(X, dtype=np.float32), None),
    (np.array(X, dtype=object), None),
    (np.asfortranarray(X), None),
    (pd.DataFrame(X), None),
    (pd.DataFrame(X, columns=["a", "b"], index=[7, 3]), ("a", "b")),
    (pd.DataFrame(X, columns=["a", "b"], dtype="Float64"), ("a", "b")),
    (pd.DataFrame(X, columns=["a", "b"], dtype=object), ("a", "b")),
    (pl.DataFrame({"a": [1, 3], "b": [2.5, 4]}), ("a", "b")),
    (ARROW, ("a", "b")),
    (ARROW.to_batches()[0], ("a", "b")),
    (pa.concat_tables([ARROW.slice(0, 1), ARROW.slice(1)]), ("a", "b")),
]


@pytest.mark.parametrize(("x", "columns"), FRAMES)
def test_frames(x, columns):
    table = from_frame(x)
    assert table.columns == columns
    assert table.points.dtype == np.float64
    assert table.points.tolist() == X
    assert table.labels is None


LABELS = [
    ([7, 8], [7, 8]),
    (np.array([7, 8], dtype=np.uint8), [7, 8]),
    ([7.0, 8.0], [7, 8]),
    ([2**53 + 1, 8], [2**53 + 1, 8]),
    ([True, False], [True, False]),
    (["u", "v"], ["u", "v"]),
    (np.array(["u", "v"]), ["u", "v"]),
    (np.array(["u", "v"], dtype=object), ["u", "v"]),
    (pd.Series(["u", "v"], index=[9, 4]), ["u", "v"]),
    (pd.Series(["u", "v"], dtype="category"), ["u", "v"]),
    (pd.Series([7, 8], dtype="category"), [7, 8]),
    (pd.Series([7, 8], dtype="Int64"), [7, 8]),
    (pd.Series([True, False], dtype="boolean"), [True, False]),
    (pd.Categorical(["u", "v"]), ["u", "v"]),
    (pl.Series([7, 8]), [7, 8]),
    (pl.Series(["u", "v"]), ["u", "v"]),
    (pl.Series(["u", "v"], dtype=pl.Categorical), ["u", "v"]),
    (pl.Series(["u", "v"], dtype=pl.Enum(["v", "u"])), ["u", "v"]),
    (pa.array(["u", "v"]), ["u", "v"]),
    (pa.chunked_array([["u"], ["v"]]), ["u", "v"]),
]


@pytest.mark.parametrize(("y", "labels"), LABELS)
def test_labels(y, labels):
    got = from_frame(X, y).labels
    assert [(type(v), v) for v in got.tolist()] == [(type(v), v) for v in labels]
    assert got.dtype == {int: np.int64, bool: np.bool_, str: object}[type(labels[0])]


BAD_MEMORY = [
    ([1, 2], None, ["x", "(2,)", "reshape(-1, 1)"]),
    ([[1], [2, 3]], None, ["x", "one shape"]),
    ({}, None, ["x", "a dict"]),
    (pl.LazyFrame({"a": [1]}), None, ["x", "a LazyFrame"]),
    (pd.Series([1.0, 2.0]), None, ["x", "(2,)"]),
    ([[1, "a"]], None, ["x", "row 1", "'x1'", "'a'"]),
    ([[1, 2], [None, 3]], None, ["x", "row 2", "'x0'", "empty"]),
    ([[1, np.nan]], None, ["x", "row 1", "'x1'", "nan"]),
    ([[1, 2j]], None, ["x", "j", "finite number"]),
    ([[True]], None, ["x", "True"]),
    (np.ma.array(X, mask=[[0, 0], [0, 1]]), None, ["x", "masked"]),
    (pd.DataFrame({"a": [1, np.nan]}), None, ["x", "row 2", "'a'", "empty"]),
    (pd.DataFrame({"a": [1, "z"]}), None, ["x", "row 2", "'a'", "'z'"]),
    (pd.DataFrame({"a": [1], "b": ["z"]}), None, ["x", "'b'", "'z'", "as y"]),
    (pd.DataFrame([[1, 2]], columns=["a", "a"]), None, ["x", "two columns", "'a'"]),
    (pd.DataFrame(), None, ["x", "no numeric column"]),
    (pl.DataFrame({"a": [1, None]}), None, ["x", "row 2", "'a'", "empty"]),
    (pl.DataFrame({"a": [1.0, np.inf]}), None, ["x", "row 2", "'a'", "inf"]),
    (X, [1, 2, 3], ["2 rows", "3 labels"]),
    (X, [[1], [2]], ["y", "(2, 1)"]),
    (X, "word", ["y", "a str"]),
    (X, [1, None], ["y", "row 2", "missing"]),
    (X, [1, np.nan], ["y", "row 2", "missing"]),
    (X, ["a", None], ["y", "row 2", "missing"]),
    (X, ["a", ""], ["y", "row 2", "missing"]),
    (X, pd.Series([1, None], dtype="Int64"), ["y", "row 2", "missing"]),
    (X, pd.Series(["a", None]), ["y", "row 2", "missing"]),
    (X, pd.Series(["a", None], dtype="category"), ["y", "row 2", "missing"]),
    (X, pl.Series(["a", None]), ["y", "row 2", "missing"]),
    (X, pa.array([1, None]), ["y", "row 2", "missing"]),
    (X, [1, 2.5], ["y", "row 2", "2.5", "whole numbers"]),
    (X, [1, 1e30], ["y", "row 2", "1e+30", "64 bits"]),
    (X, [1, 2**64], ["y", "row 2", "64 bits"]),
    (X, np.array([1, 2**63], dtype=np.uint64), ["y", "row 2", "64 bits"]),
    (X, [1, "a"], ["y", "row 2", "'a'", "one kind"]),
    (X, pd.Series([1, "a"], dtype=object), ["y", "row 2", "'a'", "one kind"]),
    (X, [b"a", b"b"], ["y", "text"]),
    (X, np.array(["2020", "2021"], dtype="M8[Y]"), ["y", "datetime64"]),
]


@pytest.mark.parametrize(("x", "y", "words"), BAD_MEMORY)
def test_bad_memory(x, y, words):
    with pytest.raises(InputError) as error:
        from_frame(x, y)
    assert_words(message_of(error), words)


def hard_points(dim: int, rows: int = 40) -> np.ndarray:
    rng = np.random.default_rng(dim)
    return np.concatenate([rng.permuted(np.tile(HARD[:, None], dim), axis=0), rng.normal(size=(rows, dim))])


@pytest.mark.parametrize("dim", [1, 2, 50])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip_is_exact(tmp_path, suffix, dim):
    path, points = tmp_path / f"a{suffix}", hard_points(dim)
    with Writer(path, default_columns(dim)) as writer:
        writer.write(points)
    table = read(path)
    assert table.columns == default_columns(dim)
    assert table.points.tobytes() == points.tobytes()  # the sign of zero too
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


KINDS = {
    "int": np.array([2**62 + 1, -5, 0]),
    "bool": np.array([True, False, True]),
    "str": np.array(["in, or", 'say "é"', "a\nb"], dtype=object),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_labels_round_trip_and_other_libraries_agree(tmp_path, suffix, kind):
    path, points, labels = tmp_path / f"a{suffix}", hard_points(2)[:3], KINDS[kind]
    with Writer(path, ["a;b", "c"], "the, label") as writer:
        writer.write(points, labels)
    table = read(path, label_column="the, label")
    assert table.points.tolist() == points.tolist()
    assert table.labels.dtype == labels.dtype
    assert table.labels.tolist() == labels.tolist()
    if suffix == ".csv":  # as text: how exactly pandas parses floats depends on its version
        pandas = pd.read_csv(path, dtype={"a;b": str, "c": str}).astype({"a;b": float, "c": float})
    else:
        pandas = pd.read_parquet(path)
    polars = pl.read_csv(path) if suffix == ".csv" else pl.read_parquet(path)
    for frame in (pandas, polars):
        assert list(frame.columns) == ["a;b", "c", "the, label"]
        assert frame["the, label"].to_list() == labels.tolist()
        assert frame["c"].to_list() == points[:, 1].tolist()
        again = from_frame(frame[["a;b", "c"]], frame["the, label"])
        assert again.points.tolist() == points.tolist()
        assert again.labels.tolist() == labels.tolist()


def test_reads_what_other_libraries_write(tmp_path):
    frame = pd.DataFrame({"x": HARD, "c": ["in", "out"] * 5, "y": HARD[::-1]})
    for name, save in {
        "pandas.csv": lambda path: frame.to_csv(path, index=False),
        "semicolons.csv": lambda path: frame.to_csv(path, index=False, sep=";", quoting=1),
        "pandas.parquet": frame.astype({"c": "category"}).set_axis([*"abcdefghij"]).to_parquet,
        "polars.csv": pl.from_pandas(frame).write_csv,
        "polars.parquet": pl.from_pandas(frame).cast({"c": pl.Categorical}).write_parquet,
    }.items():
        save(tmp_path / name)
        table = read(tmp_path / name, label_column="c")
        assert table.columns == ("x", "y"), name
        assert table.points.tolist() == frame[["x", "y"]].to_numpy().tolist(), name
        assert table.labels.tolist() == frame["c"].tolist(), name


def test_npy_is_one_array_with_labels_last(tmp_path):
    path = tmp_path / "a.npy"
    with Writer(path, ["a", "b"], "c") as writer:
        writer.write(np.array(X), np.array([7, -8]))
    np.testing.assert_array_equal(np.load(path), [[1, 2.5, 7], [3, 4, -8]], strict=True)
    table = read(path, label_column="x2")
    assert (table.points.tolist(), table.labels.tolist()) == (X, [7, -8])


@pytest.mark.parametrize("dim", [1, 2])  # of one column NumPy and Arrow could share the memory
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_streaming_equals_one_write(tmp_path, suffix, dim):
    rows = 2 * BLOCK + 17
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(rows, dim)), rng.integers(0, 5, rows)
    with Writer(tmp_path / f"one{suffix}", default_columns(dim), "c") as writer:
        writer.write(points, labels)
    buffer, start = np.empty((100_000, dim)), 0
    with Writer(tmp_path / f"many{suffix}", default_columns(dim), "c") as writer:
        for size in (1, 0, 99, 100_000, 31_000, 100_000, 100_000):
            part = slice(start, min(start + size, rows))
            block = buffer[: part.stop - part.start]  # one buffer, filled again each time
            block[:] = points[part]
            writer.write(block, labels[part])
            start = part.stop
    assert start == rows
    assert (tmp_path / f"many{suffix}").read_bytes() == (tmp_path / f"one{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_rows(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with Writer(path, ["x0", "x1"]):
        pass
    assert read(path).points.shape == (0, 2)
    with Writer(path, ["x0", "x1"], "x2", classes=np.array([0, 1])):
        pass
    table = read(path, label_column="x2")
    assert (table.points.shape, table.labels.shape) == ((0, 2), (0,))


WRITER_MISUSE = [
    ("a.txt", ["x"], None, None, ["'.txt'", "'.csv'"]),
    ("a.csv", ["x", "x"], None, None, ["two columns", "'x'"]),
    ("a.csv", ["x"], "x", None, ["two columns", "'x'"]),
    ("no/a.csv", ["x"], None, None, ["no folder"]),
    ("", ["x"], None, None, ["''"]),
    ("a.npy", ["x"], "c", np.array(["in", "out"]), [".npy", "text", ".csv"]),
    ("a.npy", ["x"], "c", np.array([True]), [".npy", "true and false"]),
]


@pytest.mark.parametrize(("name", "columns", "label", "classes", "words"), WRITER_MISUSE)
def test_writer_misuse_is_told_when_made(tmp_path, name, columns, label, classes, words):
    with pytest.raises(InputError) as error:
        Writer(tmp_path / name, columns, label, classes)
    assert_words(message_of(error), words)
    assert list(tmp_path.iterdir()) == []


BAD_BLOCKS = [
    ("a.csv", None, np.zeros((2, 3)), None, ["(2, 3)", "(n, 2)"]),
    ("a.csv", None, np.zeros(2), None, ["(2,)", "(n, 2)"]),
    ("a.csv", None, np.zeros((2, 2)), [1, 2], ["go together"]),
    ("a.csv", "c", np.zeros((2, 2)), None, ["go together"]),
    ("a.csv", "c", np.zeros((2, 2)), [1, 2, 3], ["2 points", "(3,)"]),
    ("a.csv", "c", np.zeros((2, 2)), ["in", "out"], ["object", "int64"]),
    ("a.npy", "c", np.zeros((2, 2)), [1, -(2**53) - 1], ["2**53"]),
]


@pytest.mark.parametrize(("name", "label", "points", "labels", "words"), BAD_BLOCKS)
def test_bad_blocks_write_nothing(tmp_path, name, label, points, labels, words):
    with Writer(tmp_path / name, ["x", "y"], label) as writer:
        writer.write(np.ones((1, 2)), None if label is None else np.array([3]))
        with pytest.raises(InputError) as error:
            writer.write(points, labels)
    assert_words(message_of(error), [name, *words])
    assert len(read(tmp_path / name).points) == 1  # nothing of the bad block


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_exception_keeps_the_old_file_and_leaves_nothing_else(tmp_path, suffix, kind):
    path = tmp_path / f"a{suffix}"
    path.write_text("old")

    def write_and_fail() -> None:
        with Writer(path, ["x"]) as writer:
            writer.write(np.zeros((BLOCK + 1, 1)))
            assert len(list(tmp_path.iterdir())) == 2
            raise kind

    with pytest.raises(kind):
        write_and_fail()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(path.name, "old")]


@pytest.mark.parametrize("rows", [100_000, 400_000])  # fails on closing; fails on writing
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_full_disk_is_an_oserror_and_leaves_nothing(tmp_path, suffix, rows):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    points = np.random.default_rng(0).normal(size=(rows, 1))
    writer = Writer(tmp_path / f"a{suffix}", ["x"])
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (2**16, limit[1])
    )  # a write past it fails like one on a full disk
    try:
        with pytest.raises(OSError) as error, writer:
            writer.write(points)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not isinstance(error.value, InputError)
    assert list(tmp_path.iterdir()) == []


def test_a_million_rows(tmp_path):
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(1_000_000, 2)), rng.integers(0, 5, 1_000_000)
    with Writer(tmp_path / "a.csv", ["a", "b"], "c") as writer:
        writer.write(points, labels)
    table = read(tmp_path / "a.csv", label_column="c")
    assert (table.points == points).all()
    assert (table.labels == labels).all()


def test_replacing(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    (tmp_path / "link.txt").symlink_to("a.txt")
    with replacing(tmp_path / "link.txt") as part:
        assert (part.parent, part.suffix, part.name[0]) == (tmp_path, ".txt", ".")
        part.write_text("new")
        assert path.read_text() == "old"
    assert (tmp_path / "link.txt").is_symlink()
    assert path.read_text() == "new"
    (tmp_path / "ordinary").touch()
    assert path.stat().st_mode == (tmp_path / "ordinary").stat().st_mode
    check_target(path)
    assert path.read_text() == "new"


@pytest.mark.parametrize("check", [check_target, lambda path: replacing(path).__enter__()])
def test_bad_targets(tmp_path, check, monkeypatch):
    (tmp_path / "file").touch()
    for name, words in {".": "is a folder", "no/a": "no folder", "file/a": "not a folder"}.items():
        with pytest.raises(InputError, match=words):
            check(tmp_path / name)
    with pytest.raises(InputError, match="not a regular file"):
        check("/dev/null")
    monkeypatch.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    with pytest.raises(InputError, match="not writable"):
        check(tmp_path / "a")
    monkeypatch.setattr(
        Path, "open", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space") as error:
        check(tmp_path / "a")
    assert not isinstance(error.value, InputError)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_suffix():
    assert check_suffix("a.b.PARQUET") == ".parquet"
    with pytest.raises(InputError, match=r"'\.parqet'; did you mean '\.parquet'"):
        check_suffix("a.parqet")
