import json

import pytest

from radrep.data.tokenizer import Tokenizer
from radrep.errors import CheckpointError, DataError

TEXTS = ["Clear lungs.", "Clear heart.", "Clear lungs. Rare."]


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer.build(TEXTS, min_count=2, cleaner="r2gen_iu")


def test_vocabulary_is_the_sorted_words_seen_often_enough_and_unk(tokenizer):
    assert tokenizer.vocabulary == (".", "<unk>", "clear", "lungs")


def test_encode_puts_zeros_around_and_unk_for_other_words(tokenizer):
    assert tokenizer.encode("Clear zebra lungs.", max_tokens=60) == [0, 3, 2, 4, 1, 0]


@pytest.mark.parametrize(
    ("max_tokens", "ids"),
    [(6, [0, 3, 4, 1, 0]), (5, [0, 3, 4, 1, 0]), (4, [0, 3, 4, 1]), (2, [0, 3])],
)
def test_encode_cuts_the_closing_zero_before_any_word(tokenizer, max_tokens, ids):
    assert tokenizer.encode("Clear lungs.", max_tokens) == ids


def test_decode_stops_at_the_first_zero_after_the_opening_one(tokenizer):
    assert tokenizer.decode([0, 3, 4, 1, 0, 4, 4]) == "clear lungs ."
    assert tokenizer.decode([3, 4, 1, 0, 0]) == "clear lungs ."
    assert tokenizer.decode([0, 0, 3]) == ""
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("number", [5, -1])
def test_decode_refuses_ids_beyond_the_vocabulary(tokenizer, number):
    with pytest.raises(IndexError, match=f"id {number} is not one of 1 to 4"):
        tokenizer.decode([0, number])


def test_saving_and_loading_gives_the_same_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "vocabulary.json")
    loaded = Tokenizer.load(tmp_path / "vocabulary.json")
    assert loaded == tokenizer
    assert loaded.encode(TEXTS[2], 60) == tokenizer.encode(TEXTS[2], 60)


def test_an_unknown_cleaner_is_refused():
    with pytest.raises(DataError, match="'raw'"):
        Tokenizer.build(TEXTS, min_count=1, cleaner="raw")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "wordpiece"}, "kind is 'wordpiece'"),
        ({"cleaner": "raw"}, "cleaner 'raw' is not one of r2gen_iu"),
        ({"min_count": "3"}, "min_count is '3'"),
        ({"vocabulary": "clear"}, "not a list of words"),
        ({"vocabulary": ["<unk>", 3]}, "not a list of words"),
        ({"vocabulary": ["lungs", "<unk>"]}, "not sorted"),
        ({"vocabulary": ["<unk>", "lungs", "lungs"]}, "has a word twice"),
        ({"vocabulary": ["lungs"]}, "lacks <unk>"),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused(tokenizer, tmp_path, change, message):
    path = tmp_path / "vocabulary.json"
    tokenizer.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.load(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_a_broken_file_is_refused(tmp_path, content):
    path = tmp_path / "vocabulary.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="vocabulary.json is not a vocabulary file"):
        Tokenizer.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="absent.json cannot be read"):
        Tokenizer.load(tmp_path / "absent.json")


def test_iu_train_gives_the_published_vocabulary_size(data_dir):
    annotation = json.loads((data_dir / "iu_xray" / "annotation.json").read_text())
    texts = [row["report"] for row in annotation["train"]]
    tokenizer = Tokenizer.build(texts, min_count=3, cleaner="r2gen_iu")
    assert len(tokenizer.vocabulary) == 760
    encoded = [tokenizer.encode(text, max_tokens=60) for text in texts]
    assert max(map(len, encoded)) == 60
    assert any(ids[-1] != 0 for ids in encoded)  # cut reports have no closing 0
    assert max(max(ids) for ids in encoded) == 760
