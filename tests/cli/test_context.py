"""Indication and prior study by the commands: train, eval with its controls, generate."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from pyarrow import ipc

from radrep.data.dataset import ModelStudies
from radrep.data.manifest import PREPARED
from radrep.metrics.names import NO_CONTEXT, OTHER_CONTEXT, SHUFFLED
from radrep.preparation.pipeline import prepare
from tests.interop.rows import check_row
from tests.models.test_context import CONTEXT, PatientPhantoms
from tests.whole_way import radrep, write_films, write_recipe

WHOLE = ("--set", f"data.context=[{','.join(CONTEXT)}]")


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = PatientPhantoms(36, image_size=64, splits=(4 / 6, 1 / 6, 1 / 6), indications=0.8)
    folder = tmp_path_factory.mktemp("patients") / "data"
    return prepare(source, folder, image_size=64, workers=1).out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, patients: Path) -> Path:
    folder = tmp_path_factory.mktemp("run")
    frozen = {"backbone": {"name": "test_resnet.r160_in1k", "weights": "none", "frozen": True}}
    recipe = write_recipe(folder, patients, model=frozen)
    result = radrep("train", recipe, *WHOLE)
    assert result.exit_code == 0, result.output
    return folder / "run"


@pytest.mark.usefixtures("without_java", "shared_cache")
def test_eval_scores_with_another_context_and_with_none(run: Path, tmp_path: Path) -> None:
    result = radrep("eval", run, "--split", "test")
    assert result.exit_code == 0, result.output
    scores = json.loads((run / "scores-test.json").read_text())
    systems = [each["name"] for each in scores["protocols"]["full"]["systems"]]
    assert {OTHER_CONTEXT.name, NO_CONTEXT.name, SHUFFLED.name} <= {*systems}
    page = (run / "report.html").read_text()
    assert "the context of the study" in page
    assert OTHER_CONTEXT.title in page
    select = ("--set", "decode.method=select", "--out", tmp_path)
    selected = radrep("eval", run, "--split", "test", *select)
    assert selected.exit_code == 0, selected.output
    assert OTHER_CONTEXT.name not in selected.stdout  # images alone select


@pytest.mark.usefixtures("without_java", "shared_cache")
def test_generate_reads_what_evaluation_reads(run: Path, patients: Path, tmp_path: Path) -> None:
    if not (run / "predictions-test.jsonl").is_file():
        radrep("eval", run, "--split", "test")
    rows = [json.loads(r) for r in (run / "predictions-test.jsonl").read_text().splitlines()]
    studies = ModelStudies(patients, "test", target="findings")
    films = write_films(patients, tmp_path / "films", "test", num=6)
    words = ("generate", "--checkpoint", run, "--method", "greedy", "--json")
    seen = 0
    for index, film in enumerate(films):
        sections, prior = studies[index].sections, studies.priors.get(index)
        typed: list[str | Path] = []
        if "indication" in sections:
            typed += ["--indication", sections["indication"]]
        if prior is not None:
            (tmp_path / "prior.txt").write_text(studies[prior].sections["findings"])
            typed += ["--prior-report", tmp_path / "prior.txt", "--prior", films[prior]]
            seen += 1
        row = json.loads(radrep(*words, film, *typed).stdout)
        check_row(row)
        assert row["report"] == [r for r in rows if r["id"] == film.stem][-1]["generated"]
        kinds = ["indication"] * ("indication" in sections)
        assert row["context"] == kinds + ["prior_report", "prior_image"] * (prior is not None)
    assert seen == 4
    selected = radrep(*words[:3], films[0], "--method", "select", "--indication", "x", "--json")
    assert "reads the films alone" in " ".join(selected.stderr.split())
    assert json.loads(selected.stdout)["context"] == []
    picture = tmp_path / "map.png"
    shown = radrep(
        *("generate", films[0], "--checkpoint", run, "--method", "greedy"),
        *("--prior", films[1], "--heatmap", picture),
    )
    assert shown.exit_code == 0, shown.output
    assert picture.stat().st_size > 1000


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    lines = [line for path in out.glob("part-*.jsonl") for line in path.read_text().splitlines()]
    return {row["study"]: row for row in map(json.loads, lines)}


@pytest.mark.usefixtures("without_java", "shared_cache")
def test_a_prepared_folder_is_reported_with_its_context(
    run: Path, patients: Path, tmp_path: Path
) -> None:
    if not (run / "predictions-test.jsonl").is_file():
        radrep("eval", run, "--split", "test")
    lines = (run / "predictions-test.jsonl").read_text().splitlines()
    expected = {row["id"]: row["generated"] for row in map(json.loads, lines)}
    words = ("generate", patients, "--checkpoint", run, "--out")
    result = radrep(*words, tmp_path / "reports")
    assert result.exit_code == 0, result.output
    assert "30 indication, 24 prior_report, 24 prior_image (of 36 studies)" in result.stderr
    rows = rows_of(tmp_path / "reports")
    assert {id_: rows[id_]["report"] for id_ in expected} == expected
    studies = ModelStudies(patients, "test")
    for index, study in enumerate(studies):
        kinds = ["indication"] * ("indication" in study.sections)
        kinds += ["prior_report", "prior_image"] * (index in studies.priors)
        assert rows[study.id]["context"] == kinds
    selected = radrep(*words, tmp_path / "selected", "--method", "select")
    assert "reads the films alone" in " ".join(selected.stderr.split())
    assert {tuple(row["context"]) for row in rows_of(tmp_path / "selected").values()} == {()}


def test_a_table_gives_the_studies_of_a_folder_their_context(
    run: Path, trained_run: Path, patients: Path, tmp_path: Path
) -> None:
    films = write_films(patients, tmp_path / "films", "test", num=5)
    names = [film.name for film in films]
    table, out = tmp_path / "studies.csv", tmp_path / "reports"
    table.write_text(
        "image,study_id,Indication,comparison,prior_report,prior_image\n"
        f"{names[0]},a,Chest pain.,None.,The lungs are clear.,{names[3]}\n"
        f"{names[1]},b,,,,\n"
        f"{names[2]},c,Cough.,,,gone.png\n"
    )
    words = ("generate", films[0].parent, "--checkpoint", run, "--method", "greedy")
    result = radrep(*words, "--studies", table, "--out", out)
    assert result.exit_code == 2, "an image is not found"
    told = " ".join(result.stderr.split())
    assert "2 indication, 1 prior_report, 2 prior_image (of 3 studies)" in told
    assert "The model does not read comparison: see data.context." in told
    assert "1 images are not in the table" in told
    missing = "gone.png: not found, or there are several files of this name (of the study before)"
    assert missing in told
    (tmp_path / "prior.txt").write_text("The lungs are clear.")
    typed: dict[str, list[str | Path]] = {
        "a": [
            *("--indication", "Chest pain.", "--prior", films[3]),
            *("--prior-report", tmp_path / "prior.txt"),
        ],
        "b": [],
        "c": ["--indication", "Cough."],
    }
    rows = rows_of(out)
    for (study, context), film in zip(typed.items(), films, strict=False):
        alone = json.loads(radrep(words[0], film, *words[2:], "--json", *context).stdout)
        same = ("report", "context", "sentences", "findings")
        assert {key: rows[study][key] for key in same} == {key: alone[key] for key in same}
    assert [rows[study]["context"] for study in "abc"] == [
        ["indication", "prior_report", "prior_image"],
        [],
        ["indication"],
    ]
    table.write_text(table.read_text().replace("Cough.", "Fever."))
    again = radrep(*words, "--studies", table, "--out", out)
    assert "2 of 3 studies are done already" in again.stderr
    bare = radrep(
        *("generate", films[0].parent, "--checkpoint", trained_run, "--studies", table),
        *("--out", tmp_path / "bare"),
    )
    assert bare.exit_code == 0, bare.output
    unread = "does not read Indication, comparison, prior_report, prior_image"
    assert unread in " ".join(bare.stderr.split())


def test_the_page_gives_the_model_what_it_reads(run: Path, patients: Path, tmp_path: Path) -> None:
    pytest.importorskip("starlette", reason="radrep[serve]")
    from radrep.serving.reader import FilmReader
    from tests.serving.test_app import as_film, client, rows_of

    study, prior = write_films(patients, tmp_path / "films", "test", num=2)
    reader = FilmReader(run)
    about = client(reader).get("/about").json()
    assert about["context"] == CONTEXT
    text = "The lungs are clear."
    (tmp_path / "prior.txt").write_text(text)
    sent = {
        "films": [as_film(study)],
        "context": {"indication": "Chest pain.", "prior_report": text},
        "prior": [as_film(prior)] * 2,
    }
    found = rows_of(client(reader).post("/report", json=sent))[-1]["report"]
    words = ("--indication", "Chest pain.", "--prior-report", tmp_path / "prior.txt")
    typed = radrep("generate", study, "--checkpoint", run, "--json", *words, "--prior", prior)
    expected = json.loads(typed.stdout)
    assert (found["text"], found["context"]) == (expected["report"], CONTEXT)
    assert any(note.startswith(f"{prior.name} of the prior study: not") for note in found["notes"])
    alone = rows_of(client(reader).post("/report", json={"films": sent["films"]}))[-1]["report"]
    assert alone["context"] == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--comparison", "None."), "reads indication, prior_report, prior_image beside"),
        (("--prior-report", "missing.txt"), "missing.txt cannot be read as UTF-8 text"),
        (("--prior", "FILM", "--prior", "FILM"), "2 views of one study, but this model was"),
        (("FILM", "--indication", "Cough."), "are of one study: give its files alone"),
        (("--indication", "Cough.", "--out", "reports"), "leave --out out"),
    ],
)
def test_context_that_cannot_be_read_ends_in_one_block(
    words: tuple[str, ...], told: str, run: Path, films: list[Path], tmp_path: Path
) -> None:
    typed = [films[1] if word == "FILM" else word for word in words]
    result = radrep("generate", films[0], "--checkpoint", run, *typed)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())


def test_a_model_without_context_refuses_it(trained_run: Path, films: list[Path]) -> None:
    result = radrep("generate", films[0], "--checkpoint", trained_run, "--indication", "Cough.")
    assert result.exit_code == 2
    told = " ".join(result.stderr.split())
    assert "this model reads images and no indication" in told
    assert "select" not in told


@pytest.mark.parametrize("kind", ["indication", "prior_report"])
def test_a_folder_without_context_is_refused_in_one_line(
    kind: str, phantoms: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, phantoms)
    result = radrep("train", recipe, "--set", f"data.context=[{kind}]")
    assert result.exit_code == 2
    told = f"none of its 32 training studies has {kind}, which data.context asks for"
    assert told in " ".join(result.stderr.split())


def test_shards_of_an_older_radrep_are_read_without_priors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = PatientPhantoms(6, image_size=64, splits=(1, 0, 0), indications=0.8)
    folder = prepare(source, tmp_path / "data", image_size=64, workers=1).out
    assert ModelStudies(folder, "train").priors
    (shard,) = folder.glob("*.arrow")
    table = Dataset.from_file(str(shard)).remove_columns("order").data.table
    shard.unlink()
    with ipc.new_stream(shard, table.schema) as writer:
        writer.write_table(table)
    monkeypatch.setenv("RADREP_VERIFY", "0")
    assert (folder / PREPARED).is_file()
    older = ModelStudies(folder, "train")
    assert (older.priors, older[0].order, len(older)) == ({}, None, 6)


def train_on(
    tmp_path: Path, kind: str, drawn: tuple[str, ...], train: dict[str, Any], changes: list[str]
) -> tuple[dict[str, Any], str]:
    """The scores of a small model that reads a kind of context of phantoms, and the words."""
    data = tmp_path / "data"
    words = ("--image-size", "64", *drawn, "--out", data)
    assert radrep("prepare", "phantom", *words).exit_code == 0
    sizes = {"dim": 64, "num_layers": 2, "num_heads": 4, "ff_dim": 64, "dropout": 0.0}
    backbone = {"name": "test_resnet.r160_in1k", "weights": "none", "frozen": True}
    model = {"backbone": backbone, "transformer": sizes, "enhancer": {"mode": "none"}}
    # Validation need not write reports.
    decode = {"method": "greedy", "max_new_tokens": 1, "select": None}
    recipe = write_recipe(
        tmp_path, data, model=model, train={**train, "log_every": 100}, decode=decode
    )
    keys = (f"data.context=[{kind}]", "optim.lr=0.002", *changes)
    result = radrep("train", recipe, *(word for key in keys for word in ("--set", key)))
    assert result.exit_code == 0, result.output
    whole = ("--set", "decode.max_new_tokens=60", "--out", tmp_path / "eval")
    result = radrep("eval", tmp_path / "run", "--split", "test", *whole)
    assert result.exit_code == 0, result.output
    return json.loads((tmp_path / "eval/scores-test.json").read_text()), result.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("without_java", "shared_cache")
def test_a_model_trained_with_indications_uses_them(tmp_path: Path) -> None:
    drawn = ("--num-studies", "400", "--indications", "1")
    train = {"epochs": 30, "batch_size": 16}
    scores, words = train_on(tmp_path, "indication", drawn, train, ["data.drop_context=0.2"])
    found = {
        each["name"]: each["scores"]["13 with side micro f1"]
        for each in scores["findings"]["systems"]
    }
    assert found["model"] > 0.5
    assert found["model"] > found[OTHER_CONTEXT.name] + 0.3
    assert found["model"] > found[NO_CONTEXT.name] + 0.3
    assert "It uses the context of the study" in words


@pytest.mark.slow
@pytest.mark.usefixtures("without_java", "shared_cache")
def test_a_model_trained_with_priors_uses_them(tmp_path: Path) -> None:
    """At this size for what it says of changes; larger ones learn findings from them too."""
    drawn = ("--num-studies", "800", "--priors")
    train = {"epochs": 12, "batch_size": 8}
    scores, words = train_on(tmp_path, "prior_report", drawn, train, ["data.drop_context=0"])
    found = {each["name"]: each["scores"] for each in scores["protocols"]["full"]["systems"]}
    assert found["model"]["cider"] > found[OTHER_CONTEXT.name]["cider"] + 0.3
    assert found["model"]["bleu4"] > found[OTHER_CONTEXT.name]["bleu4"] + 0.02
    assert "It uses the context of the study" in words
