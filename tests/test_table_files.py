"""Tables in files: nothing is lost or changed in silence. Other readers and writers are the judges."""

import csv
import errno
import io
import os
import resource
import struct

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toydiffusion.errors import InputError
from toydiffusion.tables import (
    Table,
    Writer,
    check_for_fit,
    check_not_same,
    csvs,
    default_columns,
    from_frame,
    label_name,
    label_words,
    read,
)


def message_of(error: pytest.ExceptionInfo[InputError]) -> str:
    message = str(error.value)
    assert message.isprintable(), ascii(message)
    return message


def refused(path, *words: str, **arguments: object) -> str:
    with pytest.raises(InputError) as error:
        read(path, **arguments)
    message = message_of(error)
    assert [word for word in words if word not in message] == [], message
    return message


@pytest.fixture
def csv_file(tmp_path):
    def make(text: str | bytes):
        path = tmp_path / "a.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return make


# Blank lines ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("lines", "points"),
    [
        (["x", "1", "", "2"], [1, None, 2]),
        (["x", "1", "2", "", ""], [1, 2, None]),
        (["x", "", "", ""], [None, None]),
        (["x", "1", " ", "2"], [1, None, 2]),
        (["", "x", "1", "2", ""], [1, 2]),
        (["x", "1", '""', "2"], [1, None, 2]),
    ],
)
def test_a_blank_line_of_one_column_is_a_missing_number(csv_file, end, lines, points):
    path = csv_file(end.join(lines))
    table = read(path, on_bad="skip")
    np.testing.assert_array_equal(table.points[:, 0], np.array(points, dtype=float))
    assert table.missing.tolist() == [point is None for point in points]
    if None in points:
        line = lines.index("x") + 2 + points.index(None)
        refused(path, f"line {line},", "column 'x'", "empty")
        text = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\r", b"\n").lstrip()
        pandas = pd.read_csv(io.BytesIO(text), skip_blank_lines=False, skipinitialspace=True)
        np.testing.assert_array_equal(pandas["x"], table.points[:, 0])


@pytest.mark.parametrize("points", [[1, np.nan], [np.nan], [np.nan, 1, np.nan, np.nan]])
def test_missing_numbers_of_one_column_come_back(tmp_path, points):
    with Writer(tmp_path / "a.csv", ["x"]) as writer:
        writer.write(np.array(points)[:, None])
    np.testing.assert_array_equal(read(tmp_path / "a.csv", on_bad="skip").points[:, 0], points)


def test_blank_lines_of_more_columns_are_no_rows(csv_file):
    path = csv_file("x,c\n1,a\n\n2,b\n\n\n")
    table = read(path, label_column="c")
    assert table.points.tolist() == pd.read_csv(path)[["x"]].to_numpy().tolist()
    assert table.labels.tolist() == ["a", "b"]
    refused(csv_file("x,c\n1,a\n\n2\n"), "line 4", "found 1 field", label_column="c")


# The two readers of CSV agree -------------------------------------------------------------------------

CELLS = [
    *[
        "1",
        "2.5",
        "-3e4",
        "+1",
        " 7 ",
        "1,5",
        "2;5",
        "",
        " ",
        "nan",
        "NA",
        "-nan",
        "inf",
        "nan(x)",
        "1e999",
        "5e-999",
    ],
    *[
        "a",
        " a",
        "true",
        "True",
        "007",
        "-0",
        "0x10",
        "1_0",
        '"1"',
        '"1,5"',
        '"a""b"',
        '"a\nb"',
        'a"b',
        '"a"b',
        '"',
    ],
    *["é", "\ufeff1", "\x00", "1\x1c", "１"],
]


@st.composite
def csv_texts(draw):
    delimiter = draw(st.sampled_from(",;\t"))
    width = draw(st.integers(1, 3))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    numbers = st.sampled_from(["1", "2.5", "-3e4", "1,5" if delimiter != "," else "4"])
    cells = draw(st.sampled_from([numbers, st.sampled_from(CELLS)]))
    rows = draw(st.lists(st.lists(cells, min_size=width, max_size=width), max_size=4))
    lines = [delimiter.join(row) for row in rows]
    for _ in range(draw(st.integers(0, 2))):
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(["", " ", "1"])))
    header = delimiter.join("xyz"[:width])
    return end.join([header, *lines, *draw(st.sampled_from([[], [""], ["", ""]]))]), width


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(csv_texts(), st.booleans(), st.sampled_from(["raise", "skip"]))
def test_the_fast_reader_agrees_with_the_slow_one(tmp_path_factory, drawn, labelled, on_bad):
    text, width = drawn
    path = tmp_path_factory.getbasetemp() / "both.csv"
    path.write_bytes(text.encode())
    label = "y" if labelled and width > 1 else None
    source = csvs.Source.of("'both.csv'", on_bad)
    header = csvs._read_header(path, source.name)
    _, chosen, position = csvs.plan(header.names, None, label, source.name)
    job = csvs._Job(path, header, chosen, position, source)
    try:
        points, labels, words = csvs._read_fast(job)
    except (pa.ArrowInvalid, InputError):
        return
    points2, labels2, words2 = csvs._read_slowly(job)
    np.testing.assert_array_equal(points, points2)
    assert (labels is None) == (labels2 is None)
    assert words == words2
    if labels is not None:
        assert labels.dtype == labels2.dtype
        assert labels.tolist() == labels2.tolist()


def test_quotes_at_the_borders_of_blocks(tmp_path):
    cells = ['"a""b"', '"a\nb"', '"a,b"', "plain", '""""']
    for shift in range(12):
        path = tmp_path / "a.csv"
        lines = ["c,x", *(f"{cells[i % 5]},{i}" for i in range(150_000))]
        text = "c" + " " * shift + "\n".join(lines)[1:]
        path.write_text(text)
        name = "c" + " " * shift
        expected = [row[0] for row in csv.reader(io.StringIO(text, newline=""))][1:]
        assert csvs._is_plain(path, ",")
        if shift == 0:
            assert read(path, label_column=name).labels.tolist() == expected
        path.write_text(text + '\n"open,1')
        assert not csvs._is_plain(path, ",")
        path.write_text(text + '\n"a"b,1')
        assert not csvs._is_plain(path, ",")


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_clean_files_stay_on_the_fast_path(csv_file, monkeypatch, delimiter):
    monkeypatch.setattr(csvs, "_read_slowly", lambda job: pytest.fail("read slowly"))
    rows = [["x", "y", "c"], ["1", "2", '"in"'], ["3", "4", '"say ""hi"""']]
    if delimiter == ";":
        rows[1][0] = "1,5"
    table = read(csv_file("\n".join(map(delimiter.join, rows))), label_column="c")
    assert table.labels.tolist() == ["in", 'say "hi"']
    assert table.points.tolist() == [[1.5 if delimiter == ";" else 1, 2], [3, 4]]


# Labels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["007", "7"],
        ["1e3", "1000"],
        ["0x10", "16"],
        ["true", "1"],
        ["+1", "1"],
        ["-0", "0"],
        ["1.0", "1"],
        [" a", "a", "a "],
        ["true", "True"],
        ["0.5", "1"],
        ["True", "FALSE"],
        ["01", " a", "true"],
    ],
)
def test_labels_that_are_written_in_two_ways_stay_two(csv_file, words):
    path = csv_file("c,x\n" + "".join(f"{word},1\n" for word in words))
    table = read(path, label_column="c")
    assert table.labels.tolist() == words
    assert table.labels.tolist() == pd.read_csv(path, dtype=str)["c"].tolist()
    assert table.label_texts.tolist() == words


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["3", "-5"], [3, -5]),
        (["true", "false"], [True, False]),
        (["True", "True"], [True, True]),
        (["FALSE", "TRUE"], [False, True]),
    ],
)
def test_labels_that_are_written_in_one_way_are_values(csv_file, words, values):
    path = csv_file("c,x\n" + "".join(f"{word},1\n" for word in words))
    table = read(path, label_column="c")
    assert [(type(v), v) for v in table.labels.tolist()] == [(type(v), v) for v in values]
    assert pd.read_csv(path)["c"].tolist() == values
    assert table.label_texts.tolist() == words
    assert table.select(["x"]).label_texts.tolist() == words


LABEL_LISTS = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5),
    st.lists(st.booleans(), min_size=1, max_size=5),
    st.lists(
        st.one_of(
            st.sampled_from(
                ["01", " a", "true", "True", "1", "1.0", "-0", '"', "a\r\nb", "\ufeff", "nan(1)"]
            ),
            st.text(min_size=1, max_size=4).filter(lambda text: text.strip()),
        ),
        min_size=1,
        max_size=5,
    ),
)


@settings(max_examples=400, deadline=None)
@given(LABEL_LISTS, st.sampled_from([".csv", ".parquet"]))
def test_labels_match_their_classes_after_a_file(tmp_path_factory, labels, suffix):
    path = tmp_path_factory.getbasetemp() / f"labels{suffix}"
    given_labels = np.array(labels, dtype=object)
    with Writer(path, ["x"], "c") as writer:
        writer.write(np.ones((len(labels), 1)), given_labels)
    table = read(path, label_column="c")
    words = label_words(given_labels)
    assert [words[text] for text in table.label_texts] == labels
    if suffix == ".parquet" or table.labels.dtype == from_frame([[1.0]] * len(labels), labels).labels.dtype:
        assert table.labels.tolist() == labels


def test_other_readers_see_the_texts_of_label_words(tmp_path):
    for classes in ([3, -10], [False, True], ["01", " a", "say \"x\", 'y'"]):
        path = tmp_path / "a.csv"
        with Writer(path, ["x"], "c") as writer:
            writer.write(np.ones((len(classes), 1)), np.array(classes, dtype=object))
        with path.open(newline="") as file:
            texts = [row["c"] for row in csv.DictReader(file)]
        assert list(label_words(classes).items()) == list(zip(texts, classes, strict=True))
    with pytest.raises(InputError, match="missing"):
        label_words(["a", ""])


def test_labels_that_are_blank_or_no_unicode():
    for label in (" ", "\t\n", "\ud800"):
        with pytest.raises(InputError, match=r"y, row 2.*(missing|not valid Unicode)") as error:
            from_frame([[1], [2]], ["a", label])
        message_of(error)


# Names ------------------------------------------------------------------------------------------------

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=4).filter(lambda name: name.strip())


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(NAMES, st.sampled_from(["a;b;c", "a\tb", " a", "1.5", "\ufeffx", "a\rb", '"'])),
        min_size=1,
        max_size=4,
        unique=True,
    )
)
def test_names_come_back(tmp_path_factory, names):
    names = [*names, "end"]
    path = tmp_path_factory.getbasetemp() / "names.csv"
    with Writer(path, names) as writer:
        writer.write(np.ones((1, len(names))))
    assert read(path).columns == tuple(names)
    with path.open(newline="", encoding="utf-8-sig") as file:
        assert next(csv.reader(file)) == names


def test_names_are_those_of_pandas(csv_file, tmp_path):
    path = csv_file('x," a", b,1.5,label\n1,2,3,4,5\n')
    assert read(path).columns == tuple(pd.read_csv(path).columns)
    frame = pd.DataFrame([[1.0, 2, 3, 4]], columns=[" a", "1.5", "a.b", "label"])
    frame.to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet").columns == tuple(frame.columns)
    assert read(tmp_path / "a.parquet", columns=["1.5"]).points.tolist() == [[2]]
    assert "did you mean ' a'" in refused(path, "no column 'a'", columns=["a"])


def test_a_column_called_label_beside_the_labels(tmp_path):
    columns = ["x", "label"]
    with pytest.raises(InputError, match="two columns are called 'label'"):
        Writer(tmp_path / "a.csv", columns, "label")
    name = label_name(None, columns)
    with Writer(tmp_path / "a.csv", columns, name) as writer:
        writer.write(np.array([[1.0, 2.0]]), ["in"])
    assert pl.read_csv(tmp_path / "a.csv").to_dicts() == [{"x": 1.0, "label": 2.0, "label_1": "in"}]
    assert label_name(None, np.array(["label", "label_1", "label_3"])) == "label_2"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_names_are_given_in_any_kind_of_list(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with Writer(path, np.array(["x", "y", "z"]), np.str_("c")) as writer:
        writer.write(np.array([[1.0, 2.0, 3.0]]), np.array([4]))
    frame = pd.DataFrame({"x": [1.0], "y": [2.0], "z": [3.0]})
    for columns in (["z", "x"], ("z", "x"), np.array(["z", "x"]), pd.Index(["z", "x"])):
        for table in (
            read(path, columns=columns, label_column=np.str_("c")),
            read(path, label_column="c").select(columns),
            from_frame(frame, columns=columns),
            Table(np.array([[3.0, 1.0]]), columns),
        ):
            assert table.points.tolist() == [[3, 1]]
            assert [(type(name), name) for name in table.columns] == [(str, "z"), (str, "x")]
    for columns in ("zx", 3, [1, 2]):
        refused(path, "column", repr(columns) if columns != [1, 2] else "1", columns=columns)
    assert default_columns(np.int64(2)) == ("x0", "x1")


def test_control_characters_are_escaped(tmp_path):
    path = tmp_path / "a\n\x1b[2J.csv"
    path.write_text("x,c\n1,\x1b[2J\n")
    refused(path, r"a\n\x1b[2J.csv", r"'\x1b[2J'", "column 'c'")
    refused(path, r"'\x1b[2J\n'", columns=["\x1b[2J\n"])
    refused(path, r"'\x1b\n'", label_column="\x1b\n")
    refused(path, r"'\x1b\n'", on_bad="\x1b\n")
    refused(tmp_path / "a.\x1b", r".\x1b")
    refused(tmp_path / "a\0.csv", r"\x00")
    refused(tmp_path / f"{'a' * 300}.csv", "too long")
    path.write_text('"\x1b[2J\n",c\noops,1\n2,2\n')
    refused(path, r"column '\x1b[2J\n'", "'oops'")
    for x in (pd.DataFrame({"\x1b\n": ["a"]}), [["\x1b\n"]]):
        with pytest.raises(InputError, match=r"\\x1b\\n") as error:
            from_frame(x)
        message_of(error)
    with pytest.raises(InputError, match=r"\\x1b") as error:
        Writer(tmp_path / "no" / "\x1b.csv", ["x"])
    message_of(error)


# Decimal commas ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_decimal_commas(csv_file, delimiter):
    path = csv_file(
        delimiter.join(["Länge", "Höhe", "c"])
        + "\n"
        + delimiter.join(["-1,5", "2", "1,5"])
        + "\n"
        + delimiter.join([" 1,25e3 ", ",5", "0.5"])
        + "\n"
    )
    table = read(path, label_column="c")
    frame = pd.read_csv(path, sep=delimiter, decimal=",", dtype={"c": str}, skipinitialspace=True)
    assert table.points.tolist() == frame[["Länge", "Höhe"]].astype(float).to_numpy().tolist()
    assert table.labels.tolist() == ["1,5", "0.5"]  # a label is no number


def test_decimal_commas_as_pandas_writes_them(tmp_path):
    frame = pd.DataFrame({"x": [0.1, 1e-30, -2.5, np.nan], "n": [1, 2, 3, 4]})
    for sep in ";\t":
        frame.to_csv(tmp_path / "a.csv", index=False, sep=sep, decimal=",")
        np.testing.assert_array_equal(read(tmp_path / "a.csv", on_bad="skip").points, frame.to_numpy())


@pytest.mark.parametrize("on_bad", ["raise", "skip"])
def test_points_and_commas_do_not_mix(csv_file, on_bad):
    mixed = "x;y\n1;2\n1,5;2\n1;2.5\n"
    refused(csv_file(mixed), "line 4", "column 'y'", "'2.5'", "'1,5' in line 3", on_bad=on_bad)
    refused(csv_file("x;y\n1.5;2\n1;2,5\n"), "line 3", "'2,5'", "'1.5' in line 2", on_bad=on_bad)
    refused(csv_file("x;y\n1.234,5;2\n"), "column 'x'", "'1.234,5'", on_bad=on_bad)
    refused(csv_file("x;y\nabc;2\n1,5;2\n"), "line 2", "'abc'", on_bad=on_bad)
    assert read(csv_file(mixed), columns=["x"]).points[1, 0] == 1.5  # the other column does not matter


# Parquet and NumPy ------------------------------------------------------------------------------------


def test_an_index_of_pandas_is_read_only_where_it_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    frame = pd.DataFrame({"x": [1.0, 2.0], "c": ["01", " a"]}, index=pd.Index([7, 8], name="id"))
    frame.to_parquet(path)
    assert read(path, columns=None, label_column="c").columns == ("x",)
    assert read(path, label_column="c").labels.tolist() == ["01", " a"]
    assert read(path, columns=["id", "x"]).points.tolist() == [[7, 1], [8, 2]]
    assert read(path, columns=["x"], label_column="id").labels.tolist() == [7, 8]
    table = pa.Table.from_pandas(frame[["x"]])
    assert from_frame(table).columns == ("x",)
    assert from_frame(table, columns=["id"]).points.tolist() == [[7], [8]]
    frame.set_index(["x"], append=True)[["c"]].to_parquet(path)
    refused(path, "no numeric column", label_column="c")
    frame[["x"]].reset_index(drop=True).loc[[1]].to_parquet(path)
    assert read(path).columns == ("x",)


@pytest.mark.parametrize(
    "metadata", [b"", b"{", b"[]", b"\xff", b'{"index_columns": 3}', b'{"index_columns": [{}]}']
)
def test_metadata_that_is_not_of_pandas(tmp_path, metadata):
    table = pa.table({"x": [1.0]}).replace_schema_metadata({"pandas": metadata})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet").points.tolist() == [[1]]


def npy_header(shape: str, kind: str = "<f8") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy_header("(1000000000000, 2)") + bytes(16), ["16,000,000,000,000 bytes", "16 follow"]),
        (npy_header("(1, 2)") + bytes(24), ["16 bytes", "24 follow"]),
        (npy_header("(-1, 2)"), ["not a NumPy file"]),
        (npy_header("(0, 1000000000000)"), ["1,000,000,000,000 columns"]),
        (npy_header("(1, 1)", "|O") + bytes(8), ["Python objects"]),
        (npy_header("()") + bytes(8), ["()", "(n, d)"]),
        (b"\x93NUMPY\x03\x00" + bytes(20), ["version 3.0"]),
        (b"\x93NUMPY", ["not a NumPy file"]),
    ],
)
def test_the_header_of_npy_is_checked_before_the_data(tmp_path, content, words):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    limit = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**36, limit[1]))
    try:
        refused(path, "a.npy", *words)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", [">f8", "<f4", ">f2", ">i8", "<u2", "longdouble"])
def test_kinds_of_npy(tmp_path, kind, order):
    values = np.array([[1, 2, 3], [4, 5, 6]], dtype=kind, order=order)
    np.save(tmp_path / "a.npy", values)
    table = read(tmp_path / "a.npy", label_column="x2")
    assert (table.points.tolist(), table.labels.tolist()) == ([[1, 2], [4, 5]], [3, 6])
    assert table.points.dtype == np.dtype("=f8")


def test_wide_numbers(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[2**53 + 1, 2**64 - 1]], dtype=np.uint64))
    assert read(tmp_path / "a.npy").points.tolist() == [[float(2**53), 2.0**64]]  # the nearest float64
    refused(tmp_path / "a.npy", "row 1", "column 'x1'", "64 bits", label_column="x1")
    np.save(tmp_path / "a.npy", np.array([[np.longdouble("1e4000")]]))
    refused(tmp_path / "a.npy", "row 1", "column 'x0'", "inf")
    with pytest.raises(InputError, match=r"row 1.*'x0'.*beyond the range of float64"):
        from_frame([[10**400]])


# Tensors ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_tensors_without_plain_real_values():
    for make, word in {
        (lambda: torch.zeros(2, 2, device="meta")): "meta",
        (lambda: torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)])): "nested",
        (lambda: torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)], layout=torch.jagged)): "nested",
        (lambda: torch.zeros(2, 2, dtype=torch.complex64)): "complex",
        (lambda: torch.quantize_per_tensor(torch.zeros(2, 2), 0.1, 0, torch.qint8)): "quantized",
        (lambda: torch.zeros(2, 2, dtype=torch.bool)): "True|False",
        (lambda: torch.zeros(2, dtype=torch.complex64).to_sparse()): "complex",
        (lambda: torch.zeros(2).to_sparse()): r"\(2,\)",
        (lambda: torch.zeros(2, 2, dtype=torch.bits8)): "tensor",
    }.items():
        with pytest.raises(InputError, match=f"x.*{word}") as error:
            from_frame(make())
        message_of(error)
        with pytest.raises(InputError, match="y") as error:
            from_frame([[1], [2]], make() if word != r"\(2,\)" else torch.zeros(2, 2).to_sparse())
        message_of(error)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_tensors_of_all_real_kinds():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    conjugate = torch.complex(x, -x).conj().imag
    assert conjugate.is_neg()  # NumPy has no such view
    for given_x in (
        x.bfloat16(),
        x.half(),
        x.to(torch.float8_e4m3fn),
        x.to(torch.uint16),
        x.to_sparse(),
        x.to_sparse_csr(),
        x.requires_grad_(),
        conjugate,
        x.detach().T.contiguous().T,
    ):
        assert from_frame(given_x).points.tolist() == [[1, 2], [3, 4]]


# What fitting needs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([-1.7e308, 1.7e308], ["-1.7e+308", "1.7e+308", "too large"]),
        ([1e308, 1.7e308], ["1e+308", "too large"]),
        ([1e200, 0.0], ["0.0", "1e+200", "too large"]),
        ([5e-324, 0.0], ["5e-324", "too close"]),
        ([1e-200, -1e-200], ["1e-200", "too close"]),
    ],
)
def test_columns_near_the_ends_of_float64(values, words):
    table = Table(np.array([[1.0, values[0]], [2.0, values[1]], [3.0, values[0]]]), ("a", "b"), source="'p'")
    with pytest.raises(InputError) as error:
        check_for_fit(table)
    message = message_of(error)
    assert [word for word in ["'p'", "column 'b'", "rescale", *words] if word not in message] == [], message


def test_too_many_columns():
    rng = np.random.default_rng(0)
    check_for_fit(from_frame(rng.normal(size=(3, 1_000))))
    for columns in (None, default_columns(10_000)):
        with pytest.raises(InputError, match=r"10,000 columns.*1 to about 50.*--columns"):
            check_for_fit(Table(rng.normal(size=(3, 10_000)), columns))


# Writing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npy"])
def test_protected_files(tmp_path, suffix, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, out = tmp_path / f"model{suffix}", f"out{suffix}"
    model.write_text("precious")
    os.symlink(model, f"symbolic{suffix}")
    os.link(model, f"hard{suffix}")
    for name in (model, f"./model{suffix}", f"symbolic{suffix}", f"hard{suffix}"):
        with pytest.raises(
            InputError, match=r"is the same file as .*model.*, which would be overwritten"
        ) as error:
            Writer(name, ["x"], protect=["none", model])
        assert repr(os.fspath(name)) in message_of(error)
    check_not_same(out, [out + "x", model])
    with pytest.raises(InputError, match="same file"):
        check_not_same(out, [tmp_path / out])  # neither is there yet
    with Writer(out, ["x"], protect=[model]) as writer:
        writer.write(np.ones((1, 1)))
    assert model.read_text() == "precious"


@pytest.mark.parametrize("rows", [100_000, 400_000])  # fails on closing; fails on writing
@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npy"])
def test_a_full_disk_names_the_file(tmp_path, suffix, rows):
    path = tmp_path / f"a{suffix}"
    points = np.random.default_rng(0).normal(size=(rows, 1))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = Writer(path, ["x"])
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limit[1]))  # a write past it fails as on a full disk
    try:
        with pytest.raises(OSError, match="File too large") as error, writer:
            writer.write(points)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert error.value.filename == str(path)
    assert str(error.value).endswith(f"{str(path)!r}")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_move_names_the_file_and_one_of_the_block_its_own(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    with pytest.raises(FileNotFoundError) as error, Writer(path, ["x"]):
        (tmp_path / "other").open()
    assert error.value.filename == str(tmp_path / "other")

    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source, None, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left") as error, Writer(path, ["x"]):
        pass
    assert (error.value.errno, error.value.filename, error.value.filename2) == (errno.ENOSPC, str(path), None)
    assert list(tmp_path.iterdir()) == []
