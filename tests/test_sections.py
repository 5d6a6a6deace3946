"""Findings and impression as two sections of one report, from the recipe to every output."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread

from radrep.data.store import PreparedStudies
from radrep.data.study import SourceStudy
from radrep.data.text import CLEANERS, get_cleaner, target_text
from radrep.data.tokenizer import Tokenizer
from radrep.guidance.editing import SentenceBank, WrittenReport, edit_report
from radrep.metrics.labeler import label_report
from radrep.metrics.labeler.words import split_sentences
from radrep.metrics.protocol import published_references
from radrep.metrics.scorecard import Corpus, score_card
from radrep.preparation.pipeline import prepare
from radrep.preparation.sources.phantom.source import PhantomSource
from radrep.sections import (
    MARKER,
    SECTIONS,
    TWO_SECTIONS,
    join_sections,
    sections_of,
    split_sections,
    without_marker,
)
from tests.interop.rows import check_row
from tests.interop.test_fhir import read_bundle
from tests.whole_way import radrep, write_films, write_recipe

TWO = {"findings": "Heart is large.\nNo effusion", "impression": "Cardiomegaly."}
SELECT = ("--set", "decode.method=select")
texts = st.text(st.characters(exclude_characters="<>", exclude_categories=("C",))).map(str.strip)


class TwoSectionPhantoms(PhantomSource):
    """Phantoms of which every fifth has no findings section, and every seventh no impression."""

    def __iter__(self) -> Iterator[SourceStudy]:
        for index, study in enumerate(super().__iter__()):
            missing = {"findings": index % 5 == 4, "impression": index % 7 == 6}
            kept = {name: text for name, text in study.sections.items() if not missing[name]}
            yield SourceStudy(study.id, study.id, study.split, study.images, kept)


@given(texts, texts)
def test_sections_come_apart_as_they_were_joined(findings: str, impression: str) -> None:
    parts = split_sections(join_sections(findings, impression))
    assert parts == {"findings": findings, "impression": impression}


@given(texts)
def test_one_section_is_no_other_text_than_before(text: str) -> None:
    assert without_marker(text) == text
    assert sections_of(text, "findings") == {"findings": text}
    assert sections_of(text, "both") == {}
    for name, clean in CLEANERS.items():
        assert get_cleaner(name)(text) == clean(text)


@pytest.mark.parametrize("cleaner", CLEANERS)
def test_each_section_is_cleaned_by_itself(cleaner: str) -> None:
    clean = CLEANERS[cleaner]
    cleaned = get_cleaner(cleaner)(target_text(TWO, TWO_SECTIONS))
    found = {name: text.split() for name, text in split_sections(cleaned).items()}
    assert found == {name: clean(text).split() for name, text in TWO.items()}


def test_a_training_target_keeps_both_sections_and_its_end() -> None:
    long = {"findings": "a " * 30, "impression": "b " * 30}
    short = {"findings": "a", "impression": ""}
    marked = [target_text(sections, TWO_SECTIONS) for sections in (long, short)]
    words = Tokenizer.build(marked, min_count=1, cleaner="plain")
    # Seen twice at least or not: a model without the marker could not write two sections.
    assert MARKER in Tokenizer.build(marked, min_count=50, cleaner="plain").vocabulary
    ids = words.encode(marked[0], 10)
    assert words.decode(ids) == f"{'a ' * 9}{MARKER}{' b' * 9}"
    assert (ids[0], ids[-1], len(ids)) == (0, 0, 21)
    assert words.decode(words.encode(marked[1], 10)) == "a"
    only = words.encode(target_text({"impression": "b"}, TWO_SECTIONS), 10)
    assert words.decode(only) == f"{MARKER} b"


def test_the_marker_is_a_sentence_that_names_nothing() -> None:
    parts = "The heart is enlarged", "No pleural effusion. Cardiomegaly is stable"
    marked = join_sections(*parts)
    spans = [marked[start:end] for start, end in split_sentences(marked)]
    assert spans == [parts[0], MARKER, "No pleural effusion", "Cardiomegaly is stable"]
    assert label_report(marked).states == label_report(". ".join(parts)).states


def test_a_decoder_may_repeat_the_marker() -> None:
    text = f"Cardiomegaly. {MARKER} " * 3000
    assert label_report(text).states["Cardiomegaly"] == "positive"
    spans = split_sentences(text)
    assert [text[a:b] for a, b in spans] == ["Cardiomegaly", MARKER] * 3000


def test_no_score_counts_the_marker_and_each_section_is_scored_where_it_is() -> None:
    marked = target_text(TWO, TWO_SECTIONS)
    only = "the lungs are clear ."
    corpus = Corpus([marked, only], get_cleaner("plain"), vocabulary={"heart", "is", "large", "."})
    whole = [get_cleaner("plain")(text) for text in corpus.references]
    card = score_card(corpus, {"model": whole}, meteor="skip")
    assert card.full.value("model", "bleu1") == pytest.approx(1.0)
    assert card.diversity["model"].mean_length == (8 + 5) / 2  # the marker is no word
    swapped = ["the lungs are clear .", f"{MARKER} cardiomegaly ."]
    impression, kept = corpus.section("impression")
    assert (impression.references, kept) == (["Cardiomegaly."], [0])
    own = [split_sections(swapped[place])["impression"] for place in kept]
    assert score_card(impression, {"m": own}, meteor="skip").full.value("m", "bleu1") == 0
    cut = published_references(
        [marked], clean=corpus.clean, vocabulary=corpus.vocabulary or (), max_tokens=3
    )
    assert (cut.texts, cut.num_cut) == ([f"heart is {MARKER} <unk> ."], 1)


def test_editing_reaches_both_sections_and_names_them() -> None:
    bank = SentenceBank({"Pleural Effusion": "there is a pleural effusion ."})
    draft = f"the heart is normal . {MARKER} no pleural effusion ."
    edited = edit_report(draft, {"Pleural Effusion": True}, bank)
    assert edited.text == f"the heart is normal . {MARKER} there is a pleural effusion ."
    named = [(s.section, s.origin) for s in edited.by_section(TWO_SECTIONS)]
    assert named == [("findings", "generated"), ("impression", "inserted")]
    assert [s.section for s in WrittenReport("a . b .").by_section("impression")] == [
        "impression",
        "impression",
    ]
    assert {s.section for s in WrittenReport("a . b .").by_section("both")} == {None}


@pytest.fixture(scope="module")
def two_sections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = TwoSectionPhantoms(48, image_size=64, splits=(4 / 6, 1 / 6, 1 / 6), impressions=True)
    folder = tmp_path_factory.mktemp("two") / "data"
    return prepare(source, folder, image_size=64, workers=1).out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, two_sections: Path) -> Path:
    folder = tmp_path_factory.mktemp("run")
    recipe = write_recipe(
        folder,
        two_sections,
        decode={"method": "greedy", "max_new_tokens": 61},
    )
    target = ("--set", f"data.target={TWO_SECTIONS}")
    result = radrep("train", recipe, *target, "--logger", "tensorboard")
    assert result.exit_code == 0, result.output
    return folder / "run"


def test_tensorboard_shows_both_under_their_titles(run: Path, two_sections: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = events.EventAccumulator(str(run / "tensorboard")).Reload()
    studies = PreparedStudies(two_sections, "val", target=TWO_SECTIONS)[:4]
    assert sum(len(study.sections) == 2 for study in studies) > 1
    for study in studies:
        (*_, last) = found.Tensors(f"validation/{study.id}/text_summary")
        text = last.tensor_proto.string_val[0].decode()
        assert MARKER not in text
        titled = [f"{name.upper()}: {study.sections.get(name, '')}" for name in SECTIONS]
        reference, generated = text.removeprefix("**reference**").split("**generated**")
        assert reference.strip() == "\n\n".join(titled).strip()
        assert all(title in generated for title in ("FINDINGS: ", "\n\nIMPRESSION: "))


@pytest.mark.usefixtures("without_java", "shared_cache")
def test_eval_scores_sections_apart_and_together_and_shows_both(run: Path) -> None:
    result = radrep("eval", run, "--split", "test", *SELECT)
    assert result.exit_code == 0, result.output
    scores = json.loads((run / "scores-test.json").read_text())
    assert scores["num_studies"] == 8
    assert {name: own["num_studies"] for name, own in scores["sections"].items()} == {
        "findings": 7,
        "impression": 7,
    }
    for own in (scores, *scores["sections"].values()):
        systems = own["protocols"]["published"]["systems"]
        assert {"model", "shuffled control", "selection"} <= {each["name"] for each in systems}
    rows = [json.loads(r) for r in (run / "predictions-test.jsonl").read_text().splitlines()]
    for row in rows:
        for key in ("reference", "generated"):
            parts = {name: row[f"{key}_{name}"] for name in SECTIONS}
            assert parts == split_sections(row[key])
    assert any(row["generated_impression"] for row in rows)
    assert "impression alone, 7 studies that have it" in result.stdout
    page = (run / "report.html").read_text()
    assert "<strong>Impression</strong>" in page
    assert "Impression alone" in page
    assert MARKER not in page
    again = radrep("eval", run, run, "--split", "test", *SELECT, "--out", run / "both")
    assert "from its earlier evaluation" in again.stderr
    compared = json.loads((run / "both" / "scores-test.json").read_text())
    (mine,) = (s for s in compared["sections"]["impression"]["protocols"]["full"]["systems"][:1])
    (once,) = (s for s in scores["sections"]["impression"]["protocols"]["full"]["systems"][:1])
    assert mine["scores"] == once["scores"]


def test_generate_prints_and_writes_both(run: Path, two_sections: Path, tmp_path: Path) -> None:
    (film, other) = write_films(two_sections, tmp_path / "films", num=2)
    words = ("generate", "--checkpoint", run, "--method", "select")
    printed = radrep(*words, film).stdout.splitlines()
    row = json.loads(radrep(*words, film, "--json").stdout)
    check_row(row)
    sections = row["sections"]
    assert printed == [f"{name.upper()}: {text}".strip() for name, text in sections.items()]
    assert row["report"] == " ".join(filter(None, sections.values()))
    for name, text in sections.items():
        own = [each["text"] for each in row["sentences"] if each["section"] == name]
        assert " ".join(own) == text
    lines = radrep(*words, film, other).stdout.splitlines()
    assert [line.partition("\t")[0] for line in lines] == [str(film), str(other)]
    assert "FINDINGS: " in lines[0]


def test_documents_have_both_sections(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("fhir.resources", reason="fhir.resources is not installed: radrep[fhir]")
    pytest.importorskip("highdicom", reason="highdicom is not installed: radrep[dicom]")
    from tests.reporting.mixed_films import draw_films

    films, out = draw_films(tmp_path / "films", 3), tmp_path / "reports"
    words = ("generate", films, "--checkpoint", run, "--method", "select", "--out", out)
    result = radrep(*words, "--format", "fhir", "--format", "dicom-sr")
    assert result.exit_code == 0, result.output
    rows = [json.loads(r) for p in out.glob("part-*.jsonl") for r in p.read_text().splitlines()]
    by_study = {row["study"]: row["sections"] for row in rows}
    assert any(sections["impression"] for sections in by_study.values())
    for path in (out / "fhir").iterdir():
        (report,) = read_bundle(path.read_bytes())["DiagnosticReport"]
        sections = by_study[report["identifier"][0]["value"]]
        wanted = sections["impression"] or sections["findings"]
        assert report["conclusion"].startswith(f"{wanted}\n\nPreliminary")
    (sr,) = (out / "dicom-sr").iterdir()
    titles = {
        item.ConceptNameCodeSequence[0].CodeMeaning: item.ContentSequence
        for item in dcmread(sr).ContentSequence
        if item.ValueType == "CONTAINER"
    }
    assert {"Findings", "Impressions"} <= titles.keys()
    sections = by_study[sr.stem]
    for name, title in (("findings", "Findings"), ("impression", "Impressions")):
        said = " ".join(item.TextValue for item in titles[title])
        assert said == (sections[name] or "None.")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("decode.max_new_tokens=60",), "leaves no room for an impression behind findings"),
        (("data.target=findings_and_impression",), "findings_impression"),
    ],
)
def test_a_recipe_without_room_is_refused(
    words: tuple[str, ...], told: str, tmp_path: Path, two_sections: Path
) -> None:
    recipe = write_recipe(tmp_path, two_sections)
    typed = [word for pair in words for word in ("--set", pair)]
    result = radrep("train", recipe, "--set", f"data.target={TWO_SECTIONS}", *typed)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())


CSR_LMCA = {
    "backbone": {"name": "test_resnet.r160_in1k", "weights": "none", "frozen": True},
    "enhancer": {"mode": "none"},
    "transformer": {"dim": 64, "num_layers": 2, "num_heads": 4, "ff_dim": 64, "dropout": 0.0},
}
EMRRG = {
    "name": "emrrg",
    "encoder": {"size": "tiny", "drop_path": 0.0},
    "train_encoder": "frozen",
    "visual_tokens": "pooled",
    "projector_scale": "words",
    "language_model": {
        **{"name": "small", "dim": 64, "num_layers": 2, "num_heads": 4},
        "train": "trained",
    },
}


@pytest.mark.slow
@pytest.mark.usefixtures("without_java", "shared_cache")
@pytest.mark.parametrize("model", [CSR_LMCA, EMRRG], ids=["csr_lmca", "emrrg"])
def test_a_decoder_learns_to_write_both(model: dict[str, Any], tmp_path: Path) -> None:
    source = PhantomSource(120, image_size=64, splits=(0.8, 0.1, 0.1), impressions=True)
    data = prepare(source, tmp_path / "data", image_size=64, workers=1).out
    recipe = write_recipe(tmp_path, data)
    written = yaml.safe_load(recipe.read_text())
    written["model"] = model if "name" in model else written["model"] | model
    written["data"] |= {"target": TWO_SECTIONS, "random_crop": False}
    written["optim"] |= {"lr": 0.003}
    written["train"] |= {"epochs": 25, "batch_size": 8, "log_every": 100}
    written["decode"] = {"method": "greedy", "max_new_tokens": 80, "select": None}
    recipe.write_text(yaml.safe_dump(written))
    result = radrep("train", recipe)
    assert result.exit_code == 0, result.output
    assert radrep("eval", tmp_path / "run", "--split", "val").exit_code == 0
    clean = get_cleaner("plain")
    known = {clean(text) for text in PreparedStudies(data, "train").texts("impression")}
    rows = (tmp_path / "run/predictions-val.jsonl").read_text().splitlines()
    for row in map(json.loads, rows):
        assert len(row["generated_findings"].split()) > 15
        assert row["generated_impression"] in known
    scores = json.loads((tmp_path / "run/scores-val.json").read_text())["sections"]
    found = scores["findings"]["protocols"]["full"]["systems"][0]["scores"]
    assert found["bleu1"] > 0.5
