import csv
import gzip
import io
import json
import random
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from radrep.data.arrow import ShardWriter
from radrep.data.manifest import PREPARED, ShardRecord, hash_file
from radrep.data.store import PreparedStudies, study_features, study_row
from radrep.data.study import Study
from radrep.errors import DataError
from radrep.evaluation.predictions import (
    align,
    read_predictions,
    read_references,
)
from radrep.evaluation.report_files import ColumnNames, read_file
from tests.runaway import no_runaway
from tests.whole_way import without_split

# Invented reports; the second has everything that a table must quote.
REPORTS = {"b": "the lungs are clear.", "a": 'no "acute" finding,\nheart; normal\tü', "c": "x"}
ROWS = [{"id": id_, "report": text} for id_, text in REPORTS.items()]


def write(path: Path, content: object) -> Path:
    """Bytes and text as they are, anything else as JSON."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def table(rows, delimiter=",", line_end="\n") -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=line_end)
    writer.writerows([list(rows[0]), *(row.values() for row in rows)])
    return text.getvalue()


def json_lines(rows) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def annotation(*ids: str, split: str = "test", **more) -> dict:
    row = {"image_path": ["0.png"], "split": split}
    rows = [{"id": id_, "report": f"Report of {id_}."} | row for id_ in ids]
    return {split: rows} | more


RENAMED = [{"id": row["id"], "generated": row["report"]} for row in ROWS]
FORMS = {
    "by id": (REPORTS, "JSON by id"),
    "by id, a list of one": ({id_: [text] for id_, text in REPORTS.items()}, "JSON by id"),
    "objects by id": ({r["id"]: {"report": r["report"], "n": 1} for r in ROWS}, "JSON by id"),
    "list": (ROWS, "list of JSON objects"),
    "wrapped": ({"model": "m", "predictions": ROWS}, "list of JSON objects"),
    "wrapped by id": ({"results": {"predictions": REPORTS}}, "JSON by id"),
    "by split": ({"test": ROWS}, "JSON by split"),
    "by id by split": ({"test": REPORTS}, "JSON by split"),
    "lines": (json_lines(ROWS), "JSONL"),
    "lines with blanks": ("\n" + json_lines(ROWS).replace("\n", "\n\n"), "JSONL"),
    "radrep's own": (json_lines({"reference": "r", **row} for row in RENAMED), "JSONL"),
    "coco": ([{"image_id": r["id"], "caption": r["report"]} for r in ROWS], "list of JSON objects"),
    "table": (table(ROWS), "CSV table"),
    "semicolons": (table(ROWS, ";"), "CSV table"),
    "tabs": (table(ROWS, "\t"), "CSV table"),
    "windows": (table(ROWS, line_end="\r\n"), "CSV table"),
    "blank lines": (table(ROWS) + "\n\n", "CSV table"),
    "columns turned": (
        table([{"report": r["report"], "dicom_id": r["id"]} for r in ROWS]),
        "CSV table",
    ),
    "pandas": (table([{"": "0", **row} for row in ROWS]), "CSV table"),
    "capitals": (
        table([{"Study ID": r["id"], "Findings": r["report"]} for r in ROWS]),
        "CSV table",
    ),
    "padded ids": (
        table([{"id": f" {r['id']} ", "report": r["report"]} for r in ROWS]),
        "CSV table",
    ),
}


@pytest.mark.parametrize("packing", ["plain", "mark", "gzip"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_predictions_in_the_order_of_the_file(tmp_path, form, packing):
    content, name = FORMS[form]
    text = content if isinstance(content, str) else json.dumps(content)
    packed = {
        "plain": text.encode(),
        "mark": b"\xef\xbb\xbf" + text.encode(),
        "gzip": gzip.compress(text.encode(), mtime=0),
    }[packing]
    # What a file is, is not told by its name.
    predictions = read_predictions(write(tmp_path / "predictions.txt", packed))
    assert list(predictions.reports.items()) == list(REPORTS.items())
    assert predictions.source == name
    assert predictions.notes == ()


def test_breaks_within_a_line_of_a_list_of_texts_are_none(tmp_path):
    lines = ["Clear lungs, no effusion.\u2028Normal heart.", "Large heart.\x85Edema, mild, again."]
    path = write(tmp_path / "p.txt", "\r\n".join([*lines, ""]).encode())
    assert read_file(path).parts == {None: [{"text": line} for line in lines]}


def test_one_line_of_json_lines_is_one_prediction(tmp_path):
    path = write(tmp_path / "p.jsonl", json_lines(ROWS[:1]))
    assert read_predictions(path).reports == {"b": REPORTS["b"]}


@pytest.mark.parametrize(
    "column", ["prediction", "Predictions", "model_prediction", "generated", "hypothesis", "report",
               "findings", "section_findings", "text"],
)  # fmt: skip
def test_columns_of_reports_go_by_several_names(tmp_path, column):
    path = write(tmp_path / "p.csv", table([{"study_id": 7, column: "clear"}]))
    assert read_predictions(path).reports == {"7": "clear"}


@pytest.mark.parametrize("column", ["ID", "study_id", "StudyId", "dicom_id", "image_id", "uid"])
def test_columns_of_ids_go_by_several_names(tmp_path, column):
    path = write(tmp_path / "p.json", [{column: 50414267, "report": "clear"}])
    assert read_predictions(path).reports == {"50414267": "clear"}


def test_a_column_of_predictions_is_preferred_to_one_of_reports_and_that_is_stated(tmp_path):
    rows = [{"id": "a", "report": "reference", "findings": "f", "prediction": "written"}]
    predictions = read_predictions(write(tmp_path / "p.json", rows))
    assert predictions.reports == {"a": "written"}
    assert predictions.notes == ("p.json: 'prediction' is read, 'findings', 'report' is not",)


@pytest.mark.parametrize(
    "column",
    [
        "output",
        "Output",
        "model_report",
        "pred_report",
        "model_output",
        "response",
        "answer",
        "generation",
        "completion",
    ],
)
@pytest.mark.parametrize("other", ["report", "text", "findings"])
def test_what_a_model_wrote_wins_over_columns_that_do_not_state_whose_they_are(
    tmp_path, column, other
):
    rows = [{"id": id_, other: f"Truth of {id_}.", column: f"Model on {id_}."} for id_ in "ab"]
    for name, content in (("p.csv", table(rows)), ("p.jsonl", json_lines(rows))):
        path = write(tmp_path / name, content)
        predictions = read_predictions(path)
        assert predictions.reports == {"a": "Model on a.", "b": "Model on b."}
        assert predictions.notes == (f"{name}: '{column}' is read, '{other}' is not",)
        assert read_references(path).reports == ("Truth of a.", "Truth of b.")


@pytest.mark.parametrize("known", ["report", "text", "findings", "section_findings"])
def test_a_column_of_texts_that_nobody_knows_is_noted(tmp_path, known):
    row = {"id": "a b", known: "Lungs are clear.", "view": "PA and lateral", "label": "1"}
    for more, notes in (
        ({"llava": "The lungs clear."}, (f"p.csv: '{known}' is read, 'llava' is not",)),
        ({"llava": "\u80ba\u91ce\u6e05\u6670"}, (f"p.csv: '{known}' is read, 'llava' is not",)),
        ({"label": "No effusion"}, (f"p.csv: '{known}' is read, 'label' is not",)),
        ({"time": "2019-01-02 10:00", "Clinical History": "chest pain"}, ()),
        ({"model": "gpt mini"}, ()),
    ):
        path = write(tmp_path / "p.csv", table([row | more, {**row, "id": "c"} | more]))
        assert read_references(path).notes == notes
        for column in (known, *more) if notes else (known,):
            given = read_predictions(path, columns=ColumnNames(text=column))
            assert [*given.reports.values()] == [(row | more)[column]] * 2
            assert given.notes == ()
        if not notes:
            assert read_predictions(path).notes == ()
            continue
        (other,) = more
        told = f"several columns of texts: '{known}' and '{other}', .* Choose one with --text-col"
        with pytest.raises(DataError, match=told):
            read_predictions(path)


def test_two_columns_of_reports_that_differ_are_a_question(tmp_path):
    rows = [{"id": "a", "report": "Clear.", "text": "Clear."}]
    assert read_predictions(write(tmp_path / "p.csv", table(rows))).reports == {"a": "Clear."}
    rows += [{"id": "b", "report": "Clear.", "text": "Large heart."}]
    with pytest.raises(DataError, match="texts: 'report' and 'text', .* with --text-column"):
        read_predictions(write(tmp_path / "p.csv", table(rows)))


def test_columns_can_be_named(tmp_path):
    rows = [{"Case": "a", "id": 0, "Their Text": "theirs", "report": "r"}]
    path = write(tmp_path / "p.csv", table(rows))
    columns = ColumnNames(id="case", text="their text")
    assert read_predictions(path, columns=columns).reports == {"a": "theirs"}
    assert read_predictions(path).reports == {"0": "r"}
    assert read_references(path, columns=columns).ids == ("a",)
    other = write(tmp_path / "r.csv", table([{"id": "a", "report": "r"}]))
    assert read_references(other, columns=columns).ids == ("a",), "only where it is there"
    for wrong, option in ((ColumnNames(id="x"), "--id-column"), (ColumnNames(text="x"), "--text")):
        with pytest.raises(DataError, match=f"columns are Case, id, Their Text, report.*{option}"):
            read_predictions(path, columns=wrong)


def test_the_target_names_the_column_of_a_section(tmp_path):
    rows = [{"id": "a", "findings": "Clear. ", "impression": "Well."}]
    path = write(tmp_path / "p.json", rows)
    texts = {t: read_predictions(path, target=t).reports["a"] for t in ("findings", "impression")}
    assert texts == {"findings": "Clear. ", "impression": "Well."}
    assert read_predictions(path, target="both").reports["a"] == "Clear. Well."
    with pytest.raises(DataError, match="'history' is not one of findings, impression, both"):
        read_predictions(path, target="history")


def test_repeated_rows_count_once_and_different_reports_of_one_id_are_refused(tmp_path):
    path = write(tmp_path / "p.csv", table([*ROWS, ROWS[0]]))
    predictions = read_predictions(path)
    assert list(predictions.reports) == ["b", "a", "c"]
    assert predictions.notes == ("p.csv: 1 repeated rows are counted once",)
    others = [{"id": id_, "report": "other"} for id_ in "ba"]
    with pytest.raises(DataError, match=r"p.csv: 2 id have different reports: b, a$"):
        read_predictions(write(tmp_path / "p.csv", table([*ROWS, *others])))
    twice = '{"a": "one", "b": "x", "a": "two"}'
    with pytest.raises(DataError, match="'a' occurs twice with different values"):
        read_predictions(write(tmp_path / "p.json", twice))


def test_rows_repeated_whole_leave_the_images_of_a_study_apart(tmp_path):
    rows = [{"study_id": 1, "dicom_id": id_, "report": "clear"} for id_ in "xyx"]
    predictions = read_predictions(write(tmp_path / "p.csv", table(rows)))
    assert predictions.reports == {"x": "clear", "y": "clear"}


def test_empty_predictions_are_kept_and_counted(tmp_path):
    content = '{"a": "", "b": null, "c": NaN, "d": " ", "e": "clear"}'
    predictions = read_predictions(write(tmp_path / "p.json", content))
    assert predictions.reports == {"a": "", "b": "", "c": "", "d": "", "e": "clear"}
    assert predictions.notes == ("4 of 5 predictions are empty; they are scored as such",)


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "N/A", "<NA>", "null", " none "])
def test_words_for_nothing_are_no_reports(tmp_path, word):
    rows = [{"id": "a", "report": "None acute."}, {"id": "b", "report": word}]
    for name, content in (("p.csv", table(rows)), ("p.json", rows), ("p.jsonl", json_lines(rows))):
        path = write(tmp_path / name, content)
        assert read_predictions(path).reports == {"a": "None acute.", "b": ""}
        assert read_references(path).reports == ("None acute.",)
    with pytest.raises(DataError, match="row 1: it has no id"):
        read_predictions(write(tmp_path / "p.csv", table([{"id": word, "report": "Clear."}])))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no report"),
        ("id,report\n", "has no report"),
        ("{}", "has no report"),
        ('{"test": []}', "has no report"),
        ("id,view\n1,x\n", r"\(CSV table\) has no column of reports; its columns are id, view"),
        ("name,report\n1,x\n", "has no column of ids .*; its columns are name, report. Choose"),
        ("id,report\n1,x\n,y\n", "row 2: it has no id"),
        ("id,report\n1,x,y\n", "line 2: 3 values, but the header names 2 columns"),
        ('id,report\n1,"x\n', "line 2: not a row of a table"),
        ("id,report,report\n1,x,y\n", "two columns 'report'"),
        ("id,report,Report\n1,x,y\n", "two columns have one name"),
        ("id,report\n1,ö\n".encode() + b"2,\xe9\n", "line 3: byte 0xe9 is not UTF-8; save"),
        (b"PK\x03\x04" + bytes(30), "perhaps an Excel workbook"),
        ("id,report\n1,x\n1.23E+15,y\n", "row 2: id is '1.23E\\+15', rounded by a spreadsheet"),
        (gzip.compress(b"id,report\n1,x\n" * 99, mtime=0)[:-9], "is cut off or broken"),
        ('{"a": "x"', "cannot be read: Expecting"),
        ('{"a": "x"} {"b": "y"', "no JSON object"),
        ('{"id": "a", "report": "x"}\n{"id": "b", "rep\n', "line 2: no JSON object"),
        ('{"id": "a", "report": "x"}\n["b", "y"]\n', "line 2: expected one JSON object a line"),
        ("[" * 100_000, "cannot be read"),
        ('["x", 5]', "row 2: 5; expected an object or a text"),
        ('{"a": 5}', "'a' holds 5; expected a report or an object"),
        ('[{"id": "a", "report": 5}]', "row 1: 'report' is 5; expected text"),
        ('{"a": "\\ud83d"}', "surrogates not allowed"),
        ('{"predictions": {"a": "x"}, "references": {"a": "y"}}', "several lists of reports"),
    ],
)  # fmt: skip
def test_a_file_that_is_none_is_refused_with_the_reason(tmp_path, content, message):
    path = write(tmp_path / "p", content)
    with pytest.raises(DataError, match=message) as error:
        read_predictions(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "cp1252", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_predictions_come_through_a_spreadsheet(tmp_path, encoding, end):
    lines = ["sep=;", ";;", "id;report;", "0012;Größe;", ";;", "s7;Clear.;", ";;"]
    path = tmp_path / "p.csv"
    # Of text that has carriage returns alone, a Mac wrote the letters.
    encoding = "mac_roman" if (encoding, end) == ("cp1252", "\r") else encoding
    path.write_bytes(end.join(lines).encode(encoding))
    predictions = read_predictions(path)
    assert predictions.reports == {"0012": "Größe", "s7": "Clear."}
    is_guess = encoding in ("cp1252", "mac_roman")
    assert any("is not UTF-8 and read as" in note for note in predictions.notes) == is_guess


def test_ids_that_lost_their_zeros_are_matched_with_a_note(tmp_path):
    references = write(tmp_path / "r.json", {"007": "Clear.", "010": "Well."})
    predictions = read_predictions(write(tmp_path / "p.csv", "id,report\n7,x\n10,y\n"))
    texts, notes = align(predictions, read_references(references))
    assert texts == ("x", "y")
    assert "'0123' = '123'" in notes[0]


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"p.csv cannot be read: .*No such file"):
        read_predictions(tmp_path / "p.csv")
    with pytest.raises(DataError, match="is a folder; give a file of reports"):
        read_predictions(tmp_path)
    with pytest.raises(DataError, match=f"{PREPARED} not found"):
        read_references(tmp_path)


# What ReXrank publishes and what its inference scripts write, in its form with invented content.
REXRANK = {
    str(study): {
        "image_path": [f"/p10/s{study}/0.jpg", f"/p10/s{study}/1.jpg"],
        "key_image_path": f"/p10/s{study}/0.jpg",
        "section_findings": findings,
        "section_impression": impression,
        "report": f"Findings: {findings} Impression: {impression}",
        "frontal_lateral": ["frontal", "lateral"],
        "split": "test",
        "subject_id": 10,
        "context": "Indication: cough.",
        "model_prediction": prediction,
    }
    for study, findings, impression, prediction in (
        (50, "\nLungs clear.\n", "Well.", "Findings:Lungs clear.Impression:Well."),
        (51, float("nan"), "Unchanged.", "Unchanged."),
        (52, "Effusion.", float("nan"), "Small effusion."),
    )
}


def test_rexrank_holds_predictions_and_references(tmp_path):
    path = write(tmp_path / "r.json", REXRANK)
    predictions = read_predictions(path)
    assert predictions.source == "ReXrank JSON"
    assert predictions.reports == {id_: row["model_prediction"] for id_, row in REXRANK.items()}
    assert predictions.notes == (
        "r.json: 'model_prediction' is read, 'section_findings', 'report' is not",
        "1 of 3 predictions contain a heading such as 'Findings:'; they are scored as they are",
    )
    references = read_references(path)
    assert (references.source, references.split) == ("ReXrank JSON", "test")
    assert references.ids == ("50", "52")
    assert references.reports == ("\nLungs clear.\n", "Effusion.")
    assert references.train_reports == references.val_reports == ()
    assert references.notes == (
        "r.json: 'section_findings' is read, 'report' is not",
        "1 of 3 studies have no findings and are left out",
    )
    reports, found = align(predictions, references)
    assert reports == ("Findings:Lungs clear.Impression:Well.", "Small effusion.")
    assert found == ("1 predictions are for studies without the target text",)


def test_rexrank_has_other_targets_and_an_older_form(tmp_path):
    path = write(tmp_path / "r.json", REXRANK)
    assert read_references(path, target="impression").reports == ("Well.", "Unchanged.")
    assert read_references(path, target="both").reports == (
        "Lungs clear. Well.", "Unchanged.", "Effusion."
    )  # fmt: skip
    old = {"7": {"dicom_id": ["a", "b"], "findings": "F.", "impression": "I.",
                 "model_prediction": "P."}}  # fmt: skip
    path = write(tmp_path / "old.json", old)
    assert read_predictions(path).reports == {"7": "P."}
    assert read_references(path).reports == ("F.",)


def test_an_annotation_gives_the_split_and_what_vocabularies_need(tmp_path):
    train = annotation("t", "t", "u", split="train")
    path = write(tmp_path / "a.json", annotation("x", "y", **train, **annotation("v", split="val")))
    references = read_references(path)
    assert (references.source, references.split) == ("R2Gen annotation.json", "test")
    assert references.ids == ("x", "y")
    assert references.reports == ("Report of x.", "Report of y.")
    assert references.train_reports == ("Report of t.", "Report of t.", "Report of u.")
    assert references.val_reports == ("Report of v.",)
    assert read_references(path, split="val").ids == ("v",)
    assert references.notes == ()


def test_a_split_that_is_not_there_is_refused_and_without_test_studies_val_is_scored(tmp_path):
    path = write(tmp_path / "a.json", annotation("t", split="train") | {"val": [], "test": []})
    with pytest.raises(DataError, match="'val' has no study; there are train .1., val .0., test"):
        read_references(path, split="val")
    with pytest.raises(DataError, match="no test study; choose with --split one of train"):
        read_references(path)
    path = write(tmp_path / "a.json", annotation("v", split="val"))
    references = read_references(path)
    assert references.split == "val"
    assert references.notes == ("a.json has no test study, so the validation split is scored",)


def test_empty_reports_of_an_annotation_are_scored(tmp_path):
    content = annotation("x", "y")
    content["test"][0]["report"] = ""
    references = read_references(write(tmp_path / "a.json", content))
    assert references.reports == ("", "Report of y.")
    assert references.notes == ("1 of 2 references are empty; they are scored as such",)


def test_an_annotation_does_not_name_its_section(tmp_path):
    path = write(tmp_path / "a.json", annotation("x"))
    (note,) = read_references(path, target="impression").notes
    assert note.startswith("a.json does not name the section of 'report'")


def test_the_real_annotation(data_dir, tmp_path):
    path = data_dir / "iu_xray" / "annotation.json"
    references = read_references(path)
    assert references.split == "val"
    raw = json.loads(path.read_text())
    assert references.ids == tuple(row["id"] for row in raw["val"])
    assert len(set(references.ids)) == 295
    assert references.reports == references.val_reports
    assert references.train_reports == tuple(row["report"] for row in raw["train"])
    # As other programs release theirs: the text first, in another order.
    rows = [
        {"report": text.lower(), "dicom_id": id_}
        for id_, text in zip(references.ids, references.reports, strict=True)
    ]
    random.Random(0).shuffle(rows)
    predictions = read_predictions(write(tmp_path / "p.csv", table(rows)))
    reports, found = align(predictions, references)
    assert reports == tuple(text.lower() for text in references.reports)
    assert found == ()


def test_a_table_of_references_has_splits_and_sections(tmp_path):
    rows = [
        {"study_id": number, "split": split, "report": f"whole {number}", "findings": findings}
        for number, split, findings in (
            (1, "train", "one"), (2, "test", "two"), (3, "Validate", "three"), (4, "test", ""),
        )
    ]  # fmt: skip
    path = write(tmp_path / "r.tsv", table(rows, "\t"))
    references = read_references(path)
    assert references.split == "test"
    assert references.ids == ("2",)
    assert (references.train_reports, references.val_reports) == (("one",), ("three",))
    assert read_references(path, split="train").ids == ("1",)
    path = write(tmp_path / "r.tsv", table([*rows, {**rows[0], "split": ""}], "\t"))
    with pytest.raises(DataError, match="row 5: it has no split, though the file has splits"):
        read_references(path)


def test_a_file_without_splits_is_taken_whole(tmp_path):
    path = write(tmp_path / "r.csv", table(ROWS))
    assert read_references(path).split is None
    assert read_references(path).notes == ()
    references = read_references(path, split="val")
    assert references.ids == ("b", "a", "c")
    assert references.notes == ("r.csv has no splits, so all its 3 rows are the split 'val'",)


def test_references_without_text_alone_are_refused(tmp_path):
    path = write(tmp_path / "r.csv", "id,report\na,\n")
    with pytest.raises(DataError, match="no reference has a text for the target 'findings'"):
        read_references(path)


def test_predictions_may_be_keyed_by_any_id_of_an_annotation(tmp_path):
    content = annotation("x", "y")
    for number, row in enumerate(content["test"]):
        row |= {"study_id": 50 + number, "subject_id": 10 + number}
    references = read_references(write(tmp_path / "a.json", content))
    assert references.ids == ("x", "y")
    for ids, notes in (
        ("yx", ()),
        ((51, 50), ("the predictions are matched by the study_id of the references",)),
        ((11, 10), ("the predictions are matched by the subject_id of the references",)),
    ):
        rows = [{"study_id": ids[0], "report": "of y"}, {"study_id": ids[1], "report": "of x"}]
        reports, found = align(read_predictions(write(tmp_path / "p.csv", table(rows))), references)
        assert reports == ("of x", "of y")
        assert found == notes


def test_a_study_of_several_images_needs_a_prediction_for_each(tmp_path):
    content = annotation("x", "y")
    for row in content["test"]:
        row["study_id"] = 50
    references = read_references(write(tmp_path / "a.json", content))
    predictions = read_predictions(write(tmp_path / "p.json", {"50": "clear"}))
    with pytest.raises(DataError, match=r"2 references have 1 different study_id"):
        align(predictions, references)
    rows = [{"study_id": 50, "dicom_id": id_, "report": f"of {id_}"} for id_ in "yx"]
    predictions = read_predictions(write(tmp_path / "p.csv", table(rows)))
    assert predictions.reports == {"y": "of y", "x": "of x"}
    assert align(predictions, references)[0] == ("of x", "of y")


def test_row_numbers_that_resemble_ids_do_not_mix_up_reports(tmp_path):
    rows = [
        {"id": 0, "study_id": "x", "report": "of x"},
        {"id": 1, "study_id": "y", "report": "of y"},
    ]
    predictions = read_predictions(write(tmp_path / "p.csv", table(rows)))
    turned = [{**rows[1], "id": 0}, {**rows[0], "id": 1}]
    references = read_references(write(tmp_path / "r.csv", table(turned)))
    assert align(predictions, references)[0] == ("of y", "of x")


@pytest.mark.parametrize(
    ("given", "wanted", "note"),
    [
        (["50.0", "51.0"], ["50", "51"], "ids are matched as '123.0'"),
        (["50", "51"], ["50.0", "51.0"], "ids are matched as '123.0'"),
        (["50.0", "51"], ["50", "51"], "ids are matched as '123.0'"),
        (["50.0", "51.0"], ["50.0", "51.0"], None),
        (["s50", "s51"], ["50", "51"], "ids are matched as"),
        (["50.0", "51.0"], ["s50", "s51"], "ids are matched as"),
        (["p1_study1", "p1_study2"], ["p1/study1", "p1/study2"], "ids are matched as"),
        (["50.0", "51.0"], ["50", "52"], "differ"),
        (["050", "51"], ["50", "051"], "ids are matched as"),
        (["050", "50"], ["50", "51"], "differ"),
        (["A", "B"], ["a", "b"], "differ"),
    ],
)
def test_ids_are_mended_only_where_all_of_them_match_then(tmp_path, given, wanted, note):
    predictions = read_predictions(write(tmp_path / "p.json", dict(zip(given, "pq", strict=True))))
    references = read_references(write(tmp_path / "r.json", dict(zip(wanted, "rs", strict=True))))
    if note == "differ":
        with pytest.raises(DataError, match="have no prediction"):
            align(predictions, references)
        return
    reports, found = align(predictions, references)
    assert reports == ("p", "q")
    assert [text.startswith(note or "?") for text in found] == [True] * bool(note)


def test_numbers_of_json_are_ids(tmp_path):
    predictions = read_predictions(write(tmp_path / "p.json", '[{"id": 50.0, "report": "clear"}]'))
    references = read_references(write(tmp_path / "r.json", '[{"id": 50, "report": "Clear."}]'))
    assert align(predictions, references)[0] == ("clear",)


def test_ids_that_differ_are_counted_and_listed(tmp_path):
    references = read_references(write(tmp_path / "a.json", annotation(*map(str, range(30)))))
    ids = [*range(12, 30), *"abc"]
    predictions = read_predictions(write(tmp_path / "p.json", dict.fromkeys(ids, "clear")))
    with pytest.raises(DataError) as error:
        align(predictions, references)
    assert str(error.value).splitlines() == [
        f"the ids of {tmp_path / 'p.json'} (key) are not those of {tmp_path / 'a.json'} "
        "(R2Gen annotation.json, test, id); choose another column with --id-column:",
        "  12 of 30 have no prediction: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, and 2 more",
        "  3 of 21 have no reference: a, b, c",
    ]


def test_predictions_beyond_the_references_are_refused(tmp_path):
    references = read_references(write(tmp_path / "a.json", annotation("x", "y")))
    predictions = read_predictions(write(tmp_path / "p.json", dict.fromkeys("xyz", "clear")))
    with pytest.raises(DataError, match=r"--id-column:\n  1 of 3 have no reference: z$"):
        align(predictions, references)


def test_studies_without_the_target_are_not_named_as_beyond_the_references(tmp_path):
    references = read_references(write(tmp_path / "r.json", {"a": "Clear.", "b": None}))
    predictions = read_predictions(write(tmp_path / "p.json", dict.fromkeys("abc", "clear")))
    with pytest.raises(DataError, match=r"--id-column:\n  1 of 3 have no reference: c$"):
        align(predictions, references)


def test_a_difference_is_named_by_the_ids_that_agree_most(tmp_path):
    content = annotation("x", "y", "z")
    for number, row in enumerate(content["test"]):
        row["study_id"] = number
    references = read_references(write(tmp_path / "a.json", content))
    predictions = read_predictions(write(tmp_path / "p.json", {"0": "a", "1.0": "b"}))
    with pytest.raises(
        DataError, match=r"annotation.json, test, study_id\); .*\n  1 of 3 have no pr"
    ):
        align(predictions, references)


def test_a_prepared_folder_gives_the_references_of_its_studies(phantoms, tmp_path):
    references = read_references(phantoms)
    studies = PreparedStudies(phantoms, "test", target="findings")
    assert (references.source, references.split) == ("prepared folder", "test")
    assert references.ids == tuple(study.id for study in studies)
    assert list(references.reports) == studies.texts("findings")
    assert len(references.train_reports) == 32
    assert list(references.val_reports) == PreparedStudies(phantoms, "val").texts("findings")
    predictions = dict(zip(references.ids, references.reports, strict=True))
    path = write(tmp_path / "p.json", dict(sorted(predictions.items(), reverse=True)))
    assert align(read_predictions(path), references)[0] == references.reports
    without = without_split(phantoms, tmp_path / "copy", "test")
    assert read_references(without).split == "val"
    assert read_references(without).notes == (
        "copy has no test study, so the validation split is scored",
    )
    with pytest.raises(DataError, match="the split 'test' has no study; there are"):
        read_references(without, split="test")


def test_studies_of_a_prepared_folder_without_the_target_may_have_predictions(tmp_path):
    path = tmp_path / "test-00000.arrow"
    writer = ShardWriter(path, study_features())
    texts = {"s50_x": "findings", "s50_y": "impression", "s51_z": "findings"}
    for id_, section in texts.items():
        study = Study(id_, None, "test", (), {section: "Old."}, "drawn", "", {})
        writer.write(study_row(study, [], []))
    writer.close()
    shard = ShardRecord(path.name, "test", studies=3, images=0, sha256=hash_file(path), num_bytes=0)
    record = {"recipe": {}, "shards": [asdict(shard)]}
    (tmp_path / PREPARED).write_text(json.dumps(record))
    references = read_references(tmp_path)
    assert references.ids == ("s50_x", "s51_z")
    assert references.train_reports == references.val_reports == ()
    assert references.notes == ("1 of 3 studies have no findings and are left out",)
    # R2Gen's MIMIC-CXR, prepared: by the whole id, by the image, by the study.
    for first, second, *others in (
        ("s50_x", "s51_z", "s50_y"), ("x", "z", "y"), ("50", "51"), ("s50", "s51"), ("x", "z"),
    ):  # fmt: skip
        written = {id_: f"of {id_}" for id_ in (*others, second, first)}
        predictions = read_predictions(write(tmp_path / "p.json", written))
        assert align(predictions, references)[0] == (f"of {first}", f"of {second}")


def test_reading_reports_imports_no_torch():
    code = (
        "import sys, radrep.evaluation.predictions\n"
        "assert not {'torch', 'pydicom', 'datasets', 'pyarrow', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


TEXTS = [
    "the lungs are clear .",
    'no "acute" finding , \u00fc .',
    "heart , lungs , and bones normal .",
]


def pandas_column(texts: list[str], *, head: str | None = None, index: bool = False) -> str:
    """What pandas' to_csv writes of one column."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if head is not None:
        writer.writerow([*([""] if index else []), head])
    writer.writerows([[*([number] if index else []), text] for number, text in enumerate(texts)])
    return out.getvalue()


IN_ORDER = {
    "R2GenCMN's res.csv": (pandas_column(TEXTS), "csv"),
    "pandas' name of a column": (pandas_column(TEXTS, head="0"), "csv"),
    "pandas' index": (pandas_column(TEXTS, head="0", index=True), "csv"),
    "a column": (pandas_column(TEXTS, head="reports"), "csv"),
    "an index and a column": (pandas_column(TEXTS, head="Generated Report", index=True), "csv"),
    "CheXbert's column": (pandas_column(TEXTS, head="Report Impression"), "csv"),
    "lines": ("".join(f"{text}\n" for text in TEXTS), "txt"),
    "lines of Windows": ("".join(f"{text}\r\n" for text in TEXTS), "txt"),
    "no last line end": ("\n".join(TEXTS), "txt"),
    "a list": (json.dumps(TEXTS), "json"),
    "a list of lists": (json.dumps([[text] for text in TEXTS]), "json"),
    "lists": (json.dumps({"reports": TEXTS}), "json"),
    "under a name": (json.dumps({"results": TEXTS}), "json"),
    "numbered": (json.dumps({str(i): text for i, text in enumerate(TEXTS)}), "json"),
    "numbered from 1": (json.dumps({i: [text] for i, text in enumerate(TEXTS, 1)}), "json"),
    "objects": (json.dumps([{"pred": text} for text in TEXTS]), "json"),
    "JSONL": (json_lines([{"prediction": text} for text in TEXTS]), "jsonl"),
    "JSONL of texts": ("".join(json.dumps(text) + "\n" for text in TEXTS), "jsonl"),
}


@pytest.fixture
def ordered(tmp_path: Path) -> Path:
    """References whose second study of four has no text."""
    rows = annotation("CXR2_IM-1", "CXR1_IM-1", "CXR3_IM-1", "CXR9_IM-1")
    for row, text in zip(rows["test"], [TEXTS[0], "", *TEXTS[1:]], strict=True):
        row["report"] = text
    return write(tmp_path / "refs.jsonl", json_lines(rows["test"]))


@pytest.mark.parametrize(("content", "ending"), IN_ORDER.values(), ids=IN_ORDER)
def test_texts_without_ids_are_taken_in_the_order_of_the_references(
    content: str, ending: str, tmp_path: Path, ordered: Path
) -> None:
    given = read_predictions(write(tmp_path / f"theirs.{ending}", content))
    references = read_references(ordered)
    texts, notes = align(given, references)
    assert list(texts) == TEXTS
    assert [note for note in notes if "has no ids: its 3 texts are taken in the order of" in note]


def test_a_text_for_every_study_also_those_without_a_reference(
    tmp_path: Path, ordered: Path
) -> None:
    every = [TEXTS[0], "for the one without", *TEXTS[1:]]
    given = read_predictions(write(tmp_path / "res.csv", pandas_column(every)))
    assert list(align(given, read_references(ordered))[0]) == TEXTS


@pytest.mark.parametrize("count", [1, 2, 5])
def test_another_number_of_texts_is_refused_with_both(
    count: int, tmp_path: Path, ordered: Path
) -> None:
    texts = [f"report number {n} ." for n in range(count)]
    given = read_predictions(write(tmp_path / "res.csv", pandas_column(texts)))
    told = f"has no ids and {count} texts, and .* has 3 references of test .or 4 studies"
    with pytest.raises(DataError, match=told):
        align(given, read_references(ordered))


def test_references_beside_the_texts_prove_their_order(tmp_path: Path, ordered: Path) -> None:
    columns = {"reports": ["a b", "c d", "e f"], "ground_truths": TEXTS}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    for name, content in (("a.json", json.dumps(columns)), ("a.csv", table(rows))):
        given = read_predictions(write(tmp_path / name, content))
        texts, notes = align(given, read_references(ordered))
        assert list(texts) == columns["reports"]
        assert "to which the references beside them fit" in notes[0]
    shuffled = [rows[1], rows[0], rows[2]]
    given = read_predictions(write(tmp_path / "b.csv", table(shuffled)))
    with pytest.raises(DataError, match="its row 1 is beside another reference than that of CXR2"):
        align(given, read_references(ordered))


@pytest.mark.parametrize("index", ["index", "idx", "row", "Unnamed: 0", ""])
@pytest.mark.parametrize(
    ("numbers", "order"),
    [("201", (1, 2, 0)), ("312", (1, 2, 0)), ("012", None), ("259", None), (["", "", ""], None)],
)
def test_rows_are_in_the_order_of_their_index(tmp_path, ordered, index, numbers, order):
    rows = [{index: n, "prediction": text} for n, text in zip(numbers, TEXTS, strict=True)]
    wanted = tuple(TEXTS[k] for k in order or range(3))
    sorted_by = ("p: its rows are sorted by '" + (index or "Unnamed: 0") + "'",)
    for content in (table(rows), json_lines(rows)) if index else (table(rows),):
        path = write(tmp_path / "p", content)
        predictions = read_predictions(path)
        assert align(predictions, read_references(ordered))[0] == wanted
        assert predictions.notes == (sorted_by if order else ())
    path = write(
        tmp_path / "p", table([{index: r[index], "report": r["prediction"]} for r in rows])
    )
    assert read_references(path).reports == wanted


@pytest.mark.parametrize("index", ["index", "idx", "row", "Unnamed: 0", ""])
@pytest.mark.parametrize(
    "ids", [("s9", "s2", "s5"), ("925", "12", "50"), ("2", "5", "9"), ("1", "2", "0")]
)
def test_an_index_that_has_the_ids_of_the_references_is_theirs(tmp_path, index, ids):
    rows = [{index: n, "prediction": text} for n, text in zip(ids, TEXTS, strict=True)]
    wanted = dict(zip(ids, TEXTS, strict=True))
    order = random.Random(str(ids)).sample(ids, 3)
    references = read_references(
        write(tmp_path / "r.csv", table([{"study_id": n, "report": f"Of {n}."} for n in order]))
    )
    given = read_predictions(write(tmp_path / "p.csv", table(rows)))
    assert list(align(given, references)[0]) == [wanted[n] for n in order]
    others = [{"study_id": f"x{n}", "report": f"Of {n}."} for n in order]
    other = read_references(write(tmp_path / "r.csv", table(others)))
    if ids in (("2", "5", "9"), ("1", "2", "0")):  # an order, if no ids
        in_order = TEXTS if ids[0] == "2" else [TEXTS[2], *TEXTS[:2]]
        assert list(align(given, other)[0]) == in_order
        return
    with pytest.raises(DataError, match="the ids of .* are not those of .*--id-column"):
        align(given, other)


@pytest.mark.parametrize("index", ["index", "Unnamed: 0", ""])
@pytest.mark.parametrize("numbers", ["010", "992", ["s1", "s1", "s3"], ["0", "", "1"]])
def test_an_index_that_gives_no_order_is_refused(tmp_path, index, numbers):
    rows = [{index: n, "report": text} for n, text in zip(numbers, TEXTS, strict=True)]
    path = write(tmp_path / "p.csv", table(rows))
    for read in (read_predictions, read_references):
        with pytest.raises(DataError, match=r"has no ids, and its '.*neither ascends nor numbers"):
            read(path)


def test_both_files_without_ids(tmp_path: Path) -> None:
    given = read_predictions(write(tmp_path / "res.csv", pandas_column(["x y", "", "z w"])))
    references = read_references(write(tmp_path / "gts.csv", pandas_column(TEXTS)))
    assert references.reports == tuple(TEXTS)
    with pytest.raises(DataError, match="2 texts"):  # pandas writes an empty text as an empty line
        align(given, references)
    given = read_predictions(write(tmp_path / "res.json", json.dumps(["x y", "", "z w"])))
    assert align(given, references)[0] == ("x y", "", "z w")


def test_numbers_that_are_ids_stay_ids(tmp_path: Path) -> None:
    rows = [{"id": str(n), "report": text} for n, text in zip((2, 0, 1), TEXTS, strict=True)]
    references = read_references(write(tmp_path / "refs.jsonl", json_lines(rows)))
    given = read_predictions(
        write(tmp_path / "p.json", {"0": "zero a", "1": "one b", "2": "two c"})
    )
    assert align(given, references)[0] == ("two c", "zero a", "one b")


def test_a_table_of_unknown_columns_is_no_list_of_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "My Study Name,My Own Body\nx,clear lungs\ny,large heart\n")
    with pytest.raises(DataError, match="no column of reports"):
        read_predictions(path)


def test_time_grows_with_the_length_of_a_text_that_has_no_word_of_two(tmp_path: Path) -> None:
    rows = [{"id": "1", "report": "a b", "written": "a" * 100_000}]
    path = write(tmp_path / "p.json", json.dumps(rows))
    with no_runaway(5):
        assert read_predictions(path).reports == {"1": "a b"}
