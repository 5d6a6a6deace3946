import contextlib
import csv
import gzip
import io

import numpy as np
import pytest

from radrep.errors import DataError
from radrep.evaluation.predictions import read_predictions
from radrep.preparation.sources import table_text
from radrep.preparation.sources.folder.json_rows import read_rows
from radrep.preparation.sources.table_text import text_notes
from radrep.preparation.sources.tables import (
    Column,
    Index,
    one_of,
    parse_number,
    read_columns,
    stream_cells,
    stream_rows,
)

TABLE = 'a,b,c\n1,"x, y",\n2,"two\nlines",z\n\n3,"a ""word""",ü\n'
ROWS = [(2, ["1", "x, y", ""]), (3, ["2", "two\nlines", "z"]), (6, ["3", 'a "word"', "ü"])]


@pytest.mark.parametrize(
    "content",
    [
        TABLE.encode(),
        b"\xef\xbb\xbf" + TABLE.encode(),
        TABLE.replace(",y", "y").encode(),
        TABLE.replace("\n1", "\r\n1").encode(),
        gzip.compress(TABLE.encode(), mtime=0),
        gzip.compress(TABLE.encode()[:20], mtime=0) + gzip.compress(TABLE.encode()[20:], mtime=0),
    ],
)
def test_rows_come_with_their_line_whatever_the_packing(tmp_path, content):
    for name in ("t.csv", "t.csv.gz"):  # what it is, is not told by its name
        (tmp_path / name).write_bytes(content)
        assert list(stream_rows(tmp_path / name, ("a", "b", "c"))) == ROWS


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters_are_recognised(tmp_path, delimiter):
    path = tmp_path / "t.csv"
    path.write_text(f"b{delimiter} a {delimiter}d\n1,5{delimiter}2{delimiter}3\n")
    assert list(stream_rows(path, ("a", "b"), ("c", "d"))) == [(2, ["2", "1,5", "", "3"])]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "t.csv has no column 'a'; its columns are none"),
        (b"x,y\n1,2\n", "t.csv has no column 'a'; its columns are x, y"),
        (b"a,b\n1,2\n1\n", "t.csv, line 3: 1 values, but the header names 2 columns"),
        (b"a,b\n1,2\n1,2,3\n", "t.csv, line 3: 3 values"),
        (b'a,b\n1,2\n3,"open\n4,5\n', "t.csv, line 3: not a row of a table"),
        (b'a,b\n1,"' + b"x" * 200_000, "t.csv, line 2: not a row of a table"),
        ("a,b\nö,2\n".encode() + b"n\xe4,2\n", "t.csv, line 3: byte 0xe4 is not UTF-8"),
        (b"a,b\nn\xe4,2\n" + "ö,2\n".encode(), "t.csv, line 2: byte 0xe4 is not UTF-8"),
        (b"a,b\nn\xe4,\x81\n", "t.csv, line 2: byte 0xe4 is not UTF-8"),
        (b"a,b\nn\xe4,\x01\n", "t.csv, line 2: byte 0xe4 is not UTF-8"),
        ("a,b\n1,2\n".encode("utf-16")[:-1], "t.csv, after line 2: no UTF-16"),
        (b"PK\x03\x04" + bytes(40), "t.csv is a zip file, perhaps an Excel workbook"),
        (b"\xd0\xcf\x11\xe0" + bytes(40), "t.csv is an Excel workbook"),
        (b"a,b,a\n1,2,1\n1,2,3\n", "t.csv, line 3: two columns 'a' with different values"),
        (gzip.compress(TABLE.encode() * 99, mtime=0)[:-9], "t.csv is cut off or broken after line"),
        (gzip.compress(b"a,b\n", mtime=0) + b"rest", "t.csv is cut off or broken after line"),
        (
            gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:12] + b"\xff" * 40,
            "t.csv is cut off or broken",
        ),
        (b"\x1f\x8b", "t.csv is cut off or broken"),
    ],
)
def test_a_broken_table_is_one_clear_error(tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(stream_rows(path, ("a",)))


def test_a_table_that_cannot_be_opened_is_a_data_error(tmp_path):
    for path in (tmp_path / "absent.csv", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            list(stream_rows(path, ("a",)))


def test_columns_become_arrays(tmp_path):
    path = tmp_path / "t.csv"
    num_rows = 70_000  # more than are parsed at a time
    path.write_text(
        "id,view\n" + "".join(f"{k},{'PA' if k % 2 else 'LL'}\n" for k in range(num_rows))
    )
    rows = read_columns(
        path,
        {
            "view": Column(one_of({"PA": 1, "LL": 2}), np.int8),
            "id": Column(lambda text: text.encode(), "S"),
        },
    )
    assert rows["view"].dtype == np.int8
    assert rows["view"].sum() == num_rows // 2 * 3
    assert rows["id"].dtype == np.dtype("S5")
    assert rows["id"][[0, -1]].tolist() == [b"0", b"69999"]
    path.write_text("id\n")
    assert len(read_columns(path, {"id": Column(parse_number, np.int64)})["id"]) == 0


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("x", "line 3: id is 'x'; expected a number"),
        ("-1", "id is '-1'; expected a number"),
        ("٣", "expected a number"),
        (" ", "id is ''; expected a number"),
        ("9" * 70, "id is '9+\\.\\.\\.'; expected a number"),
    ],
)
def test_a_cell_that_does_not_parse_is_named(tmp_path, cell, message):
    path = tmp_path / "t.csv"
    path.write_text(f"id,x\n 7 ,x\n{cell.strip()},x\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_columns(path, {"id": Column(parse_number, np.int64)})


def test_a_name_that_is_not_one_of_a_few_is_an_error():
    parse = one_of({"train": 0, "test": 1})
    assert parse(" test ") == 1
    with pytest.raises(ValueError, match="expected one of train, test"):
        parse("Test")


def test_an_index_finds_the_first_row_of_a_key():
    index = Index(np.array([b"b", b"a", b"b", b"dd"]))
    assert index.find(np.array([b"dd", b"b", b"c", b"a", b"zzz"])).tolist() == [3, 0, -1, 1, -1]
    assert Index(np.arange(1000) % 3).find(np.array([2, 0])).tolist() == [2, 0]
    assert Index(np.array([], np.int64)).find(np.array([1])).tolist() == [-1]


def draw_table(seed: int, letters: str, line_end: str) -> list[list[str]]:
    """A header and rows of texts with quotes, delimiters, line ends and these letters."""
    draw = np.random.default_rng(seed)
    alphabet = [*'ab1. ,;|\t"', line_end, *letters]

    def text() -> str:
        return "x" + "".join(draw.choice(alphabet, draw.integers(0, 12))) + "y"

    return [["id", "report", "label"], *([text() for _ in range(3)] for _ in range(6))]


def write_csv(rows: list[list[str]], delimiter: str, end: str, extra: int = 0) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, lineterminator=end)
    writer.writerows(row + [""] * extra for row in rows)
    return stream.getvalue()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("encoding", "letters"),
    [
        ("utf-8", "äß–”日"),
        ("utf-8-sig", "äß–”日"),
        ("utf-16", "äß–”日"),
        ("utf-16-le", "äß–”"),
        ("utf-16-be", "äß–”"),
        ("cp1252", "äß–”"),
    ],
)
def test_a_table_is_the_same_however_a_spreadsheet_saves_it(
    tmp_path, delimiter, end, encoding, letters
):
    if (encoding, end) == ("cp1252", "\r"):
        encoding = "mac_roman"
    # With carriage returns alone, a cell has no other line ends.
    rows = draw_table(len(delimiter + end + encoding), letters, "\r" if end == "\r" else "\n")
    header, *body = rows
    expected = [dict(zip(header, row, strict=True)) for row in body]
    path = tmp_path / "t.csv"
    empty = f"{delimiter * 2}{end}"
    plain = write_csv(rows, delimiter, end)
    variants = {
        "plain": plain,
        "sep": f"sep={delimiter}{end}" + plain,
        "quoted sep": f'"sep={delimiter}"{end}' + plain,
        "empty lines": end + empty + plain + empty + end,
        "spaces around names": plain.replace("id", " id ", 1).replace("label", "label ", 1),
        "no end": plain.removesuffix(end),
        "trailing": write_csv(rows, delimiter, end, extra=2),
        "rows trailing": write_csv([header], delimiter, end)
        + write_csv(body, delimiter, end, extra=1),
    }
    for name, text in variants.items():
        for content in (text.encode(encoding), gzip.compress(text.encode(encoding), mtime=0)):
            path.write_bytes(content)
            found = [{k: v for k, v in row.items() if k} for _, row in stream_cells(path)]
            assert found == expected, name
            guessed = encoding in ("cp1252", "mac_roman")
            assert bool(text_notes(path)) == guessed, name


def test_lines_are_those_of_the_file_also_after_lines_of_nothing(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('\nsep=,\n,,\na,b\n1,"x\ny"\n,,\n2,z\n')
    assert [line for line, _ in stream_cells(path)] == [5, 8]
    path.write_text("\n\na,b\n1,2,3\n")
    with pytest.raises(DataError, match="line 4: 3 values, but the header names 2"):
        list(stream_cells(path))


def test_a_line_end_in_the_name_of_a_column_is_a_blank(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a,"Study\n ID"\n1,2\n')
    assert list(stream_cells(path)) == [(3, {"a": "1", "Study ID": "2"})]


def test_two_columns_of_one_name_may_say_the_same(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,a\n1,2,1 \n")
    assert list(stream_rows(path, ("a", "b"))) == [(2, ["1", "2"])]
    path.write_text("a,b,b\n1,2,3\n")
    assert list(stream_rows(path, ("a",))) == [(2, ["1"])]


def test_spaces_after_each_delimiter_are_no_part_of_the_cells(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a, b, c\n1, "x, y", z\n')
    assert list(stream_rows(path, ("a", "b", "c"))) == [(2, ["1", "x, y", "z"])]


def test_a_table_of_megabytes_has_its_one_odd_letter(tmp_path):
    path = tmp_path / "t.csv"
    lines = ["id,text", *(f"{k},{'x' * 90}" for k in range(30_000)), "30000,café"]
    path.write_bytes("\n".join(lines).encode("cp1252"))
    *_, (_, (_, text)) = stream_rows(path, ("id", "text"))
    assert text == "café"
    path.write_bytes(
        "\n".join([*lines, "1,日"]).encode("utf-8").replace(b"caf\xc3\xa9", b"caf\xe9")
    )
    with pytest.raises(DataError, match="line 30002: byte 0xe9 is not UTF-8"):
        list(stream_rows(path, ("id",)))


LONG = "x" * 2_000_000


@pytest.mark.parametrize(
    "text", [f"image,report\na.png,{LONG}\n", f"{LONG},image\nx,a.png\n"], ids=["cell", "header"]
)
def test_a_cell_of_more_than_a_million_characters_is_refused(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"field larger than field limit \(1000000\)"):
        list(stream_cells(path))
    path.write_text(text.replace(LONG, LONG[:999_900]))
    assert len(list(stream_cells(path))) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("reports.csv", f"image,report\na.png,{LONG}\n"),
        ("reports.jsonl", f'{{"image": "a.png", "report": "{LONG}"}}\n'),
        ("reports.json", f'[\n{{"image": "a.png", "report": "b"}}{" " * 999}\n' + " \n" * 999_999),
        ("predictions.json", f'{{"a": "{LONG}"}}'),
    ],
)
def test_text_that_unpacks_to_very_much_is_refused(tmp_path, monkeypatch, name, text):
    path = tmp_path / f"{name}.gz"
    path.write_bytes(gzip.compress(text.encode()))

    def read() -> object:
        if name == "predictions.json":
            return read_predictions(path)
        return list(read_rows(path) if "json" in name else stream_cells(path))

    with contextlib.suppress(DataError):  # about anything but its length
        read()
    monkeypatch.setattr(table_text, "_MAX_CHARACTERS", 1_000_000)
    assert 20 * path.stat().st_size < 1_000_000
    with pytest.raises(DataError, match=r"more than 1 (million characters|MB)"):
        read()
    monkeypatch.setattr(table_text, "_MAX_RATIO", 2000)
    with contextlib.suppress(DataError):
        read()
