import json

import pytest

from radrep.data.text import get_cleaner
from radrep.data.tokenizer import Tokenizer
from radrep.metrics.protocol import full_references, published_references, scored_predictions


def clean(report: str) -> str:
    """Like the published cleaners: lower case, spaced full stops, " ." for nothing at all."""
    return report.lower().replace(".", "").strip() + " ."


def published(reports, vocabulary, max_tokens=60):
    return published_references(reports, clean=clean, vocabulary=vocabulary, max_tokens=max_tokens)


def test_published_replaces_words_outside_the_vocabulary():
    references = published(["Lungs CLEAR.", "Lungs hyperinflated."], ["lungs", "clear", "."])
    assert references.texts == ["lungs clear .", "lungs <unk> ."]
    assert references.protocol == "published"


def test_published_leaves_one_id_of_the_limit_to_the_opening_zero():
    references = published(["a b c.", "a b c d.", "a b c d e."], "abcde.", max_tokens=6)
    assert references.texts == ["a b c .", "a b c d .", "a b c d e"]
    assert references.num_cut == 1


def test_full_keeps_rare_words_and_length():
    long_report = "word " * 200
    references = full_references(["Hyperinflated.", long_report], clean=clean)
    assert references.texts[0] == "hyperinflated ."
    assert len(references.texts[1].split()) == 201
    assert references.num_cut == 0


def test_empty_report_becomes_a_lone_full_stop_in_both_protocols():
    assert published([""], ["."]).texts == ["."]
    assert full_references([""], clean=clean).texts == ["."]


@pytest.mark.parametrize(
    ("written", "scored"),
    [
        ("The lungs are clear.", "The lungs are clear ."),
        ("clear. No effusion.\nNormal heart", "clear . No effusion . Normal heart"),
        ("clear..", "clear ."),
        ("a 2.5 cm nodule (old).", "a 2.5 cm nodule (old) ."),
        ("Mixed CASE, kept", "Mixed CASE, kept"),
        ("  spaces\t only ", "spaces only"),
        ("", ""),
    ],
)
def test_predictions_keep_their_words_but_get_spaced_full_stops(written, scored):
    assert scored_predictions([written]) == [scored]


@pytest.mark.parametrize("decoded", ["no <unk> . . heart size normal .", ". .. .", "xxxx ."])
def test_decoded_reports_are_scored_as_decoded(decoded):
    assert scored_predictions([decoded]) == [decoded]


def test_predictions_are_cleaned_on_request():
    assert scored_predictions(["Lungs CLEAR."], clean=clean) == ["lungs clear ."]


@pytest.fixture(scope="module")
def iu_reports(data_dir):
    annotation = json.loads((data_dir / "iu_xray" / "annotation.json").read_text())
    return {split: [row["report"] for row in annotation[split]] for split in ("train", "val")}


def test_published_references_are_what_the_tokenizer_teaches(iu_reports):
    tokenizer = Tokenizer.build(iu_reports["train"], min_count=3, cleaner="r2gen_iu")
    references = published_references(
        iu_reports["val"],
        clean=get_cleaner("r2gen_iu"),
        vocabulary=tokenizer.vocabulary,
        max_tokens=60,
    )
    taught = [tokenizer.decode(tokenizer.encode(report, 60)) for report in iu_reports["val"]]
    assert references.texts == taught
    assert scored_predictions(taught) == taught


def test_published_protocol_cuts_the_known_number_of_iu_references(iu_reports, vectors_dir):
    expected = json.loads((vectors_dir / "iu_val_constant.json").read_text())
    tokenizer = Tokenizer.build(iu_reports["train"], min_count=3, cleaner="r2gen_iu")
    references = published_references(
        iu_reports["val"],
        clean=get_cleaner("r2gen_iu"),
        vocabulary=tokenizer.vocabulary,
        max_tokens=60,
    )
    assert len(tokenizer.vocabulary) == expected["vocabulary_size_with_unk"]
    assert references.num_cut == expected["references_cut"]
