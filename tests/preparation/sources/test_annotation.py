import json

import pytest

from radrep.errors import DataError
from radrep.preparation.sources.annotation import stream_annotation


def row(number: int, report: str = "Clear.") -> dict:
    return {"id": f"id{number}", "report": report, "image_path": [f"{number}.jpg"], "extra": [1]}


def test_rows_are_the_same_however_they_fall_into_the_parts_that_are_read(tmp_path):
    # Each part is a megabyte, so that rows, escapes and characters of two bytes are cut in two.
    rows = [row(k, 'ü \\ "quoted" ]}, {[ ' * (k % 97)) for k in range(3000)]
    path = tmp_path / "annotation.json"
    content = {"train": rows[:2000], "val": [], "test": rows[2000:]}
    for indent in (None, 2):
        path.write_text(json.dumps(content, indent=indent, ensure_ascii=False), encoding="utf-8")
        assert path.stat().st_size > 2 << 20
        pairs = list(stream_annotation(path))
        assert [pair[0] for pair in pairs] == ["train"] * 2000 + ["test"] * 1000
        assert [pair[1] for pair in pairs] == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an object with train, val, test"),
        (b"[]", "expected an object with train, val, test"),
        (b"{}", "has no study"),
        (b'{"train": []}', "has no study"),
        (b'{"train": {}}', "train must be a list of studies"),
        (b'{"training": []}', '"training" is not one of the splits'),
        (b'{"val": [7]}', r"val\[0\] must be an object; it begins with '7'"),
        (b'{"val": [{}]}', r"val\[0\].id is missing; found nothing"),
        (b'{"val": [{"id": "a", "report": "b"}]}', r"image_path is missing; found id, report"),
        (b'{"val": [{"id": 3, "report": "", "image_path": []}]}', "id must be text, found 3"),
        (b'{"val": [{"id": " ", "report": "", "image_path": []}]}', r"val\[0\].id is empty"),
        (b'{"val": [{"id": "a", "report": "", "image_path": "a"}]}', "must be a list of file"),
        (b'{"val": [{"id": "\\ud800", "report": "", "image_path": []}]}', "half a character"),
        (b'{"val": [{"id": "a"', "cannot be read"),
        (b'{"val" []}', "cannot be read: expected one of :"),
        (b'{"val": [] "test": []}', "cannot be read: expected one of ,"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b'{"val": [{"a": ' + b"[" * 100_000, "cannot be read"),
        (b'{"val": [{"a": ' + b"[" * 200 + b"]" * 200 + b"}]}", "nested more than 100 levels"),
    ],
)
def test_a_broken_annotation_is_one_clear_error(tmp_path, content, message):
    path = tmp_path / "annotation.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"annotation.json.*{message}"):
        list(stream_annotation(path))


def test_an_absent_annotation_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        list(stream_annotation(tmp_path / "annotation.json"))
