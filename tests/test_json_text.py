import pytest

from radrep.data.manifest import read_record
from radrep.data.tokenizer import Tokenizer
from radrep.errors import RadrepError
from radrep.evaluation.predictions import read_predictions
from radrep.json_text import load_json
from radrep.preparation.sources.folder.table import Table
from radrep.weights.files import find_change


def test_depth_is_bounded_whatever_is_nested():
    assert load_json("[" * 100 + "]" * 100)
    assert load_json('{"a": [1, "[[["]}') == {"a": [1, "[[["]}
    for text in ("[" * 101 + "]" * 101, '{"a":' * 101 + "1" + "}" * 101, "[" * 100_000):
        with pytest.raises(ValueError, match="nested more than 100 levels deep"):
            load_json(text)


@pytest.mark.parametrize("depth", [200, 100_000])
def test_every_reader_of_json_names_what_is_nested_too_deeply(tmp_path, depth):
    text = '{"a": ' + "[" * depth + "]" * depth + "}"
    for name in ("prepared.json", "vocabulary.json", "checksums.json", "table.jsonl"):
        (tmp_path / name).write_text(text)
    assert "nested more than" in find_change(tmp_path, ("x",))
    for read, path in (
        (read_record, tmp_path),
        (Tokenizer.load, tmp_path / "vocabulary.json"),
        (Table, tmp_path / "table.jsonl"),
        (read_predictions, tmp_path / "table.jsonl"),
    ):
        with pytest.raises(RadrepError, match="nested more than"):
            read(path)
