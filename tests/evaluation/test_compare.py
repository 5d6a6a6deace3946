"""Several systems on the same studies, and systems from outside, through the command."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from radrep.weights.files import write_checksums
from tests.whole_way import draw_prepared, radrep, write_recipe

pytestmark = pytest.mark.usefixtures("without_java", "shared_cache")


@pytest.fixture
def other_run(trained_run: Path, tmp_path: Path) -> Path:
    """A run that writes other reports than the trained one: at most two words."""
    run = tmp_path / "other"
    shutil.copytree(trained_run, run, symlinks=True)
    recipe = run / "best/recipe.yaml"
    recipe.write_text(recipe.read_text().replace("max_new_tokens: 12", "max_new_tokens: 2"))
    write_checksums(recipe.parent)
    return run


def scores_of(folder: Path, split: str = "test") -> dict[str, Any]:
    return json.loads((folder / f"scores-{split}.json").read_text())


def by_name(protocol: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {system["name"]: system["scores"] for system in protocol["systems"]}


def test_two_runs_are_compared_in_pairs(trained_run: Path, other_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = radrep("eval", trained_run, other_run, "--split", "test", "--out", out)
    assert result.exit_code == 0, result.output
    scores = scores_of(out)
    full = scores["protocols"]["full"]
    found = by_name(full)
    first, second = str(trained_run), str(other_run)
    assert found[first]["bleu1"] > found[second]["bleu1"]
    pair = full["comparisons"][0]
    assert (pair["first"], pair["second"]) == (first, second)
    for metric in ("bleu1", "rouge_l", "cider"):
        told = pair["differences"][metric]
        assert told["value"] == pytest.approx(found[first][metric] - found[second][metric])
        assert told["low"] <= told["value"] <= told["high"]
        assert 0 < told["p_value"] <= 1
    assert f"{first} - {second}" in result.stdout


def test_reports_written_before_are_used_again(
    trained_run: Path, other_run: Path, tmp_path: Path
) -> None:
    assert radrep("eval", other_run, "--split", "test").exit_code == 0
    first = radrep("eval", other_run, trained_run, "--split", "test", "--out", tmp_path / "out")
    assert f"of {other_run} from" in first.stderr
    recipe = other_run / "best/recipe.yaml"  # decoding changed: they are of no use any more
    recipe.write_text(recipe.read_text().replace("max_new_tokens: 2", "max_new_tokens: 3"))
    second = radrep("eval", other_run, trained_run, "--split", "test", "--out", tmp_path / "again")
    assert f"of {other_run} from" not in second.stderr


def test_a_changed_decoding_holds_for_every_run_and_is_named_of_each(
    trained_run: Path, other_run: Path, tmp_path: Path
) -> None:
    assert radrep("eval", other_run, "--split", "test").exit_code == 0
    out, changed = tmp_path / "out", ("--set", "decode.max_new_tokens=3")
    result = radrep("eval", other_run, trained_run, "--split", "test", *changed, "--out", out)
    assert result.exit_code == 0, result.output
    assert f"of {other_run} from" not in result.stderr, "those were decoded otherwise"
    scores = scores_of(out)
    names = [str(other_run), str(trained_run)]
    assert {name: scores["decode"][name]["max_new_tokens"] for name in names} == dict.fromkeys(
        names, 3
    )
    assert scores["protocols"]["full"]["comparisons"][0]["differences"]["bleu1"]["value"] == 0
    notes = [note for note in scores["notes"] if "--set" in note]
    assert notes == [
        f"{other_run}: decoding changed by --set: max_new_tokens 3 instead of 2",
        f"{trained_run}: decoding changed by --set: max_new_tokens 3 instead of 12",
    ]
    assert (
        f"<dt>decode.{other_run}.max_new_tokens</dt><dd>3</dd>" in (out / "report.html").read_text()
    )


def test_runs_of_other_data_are_not_compared(trained_run: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, draw_prepared(tmp_path / "data", 60))
    assert radrep("train", recipe, "--set", "train.epochs=1").exit_code == 0
    result = radrep("eval", trained_run, tmp_path / "run", "--split", "test")
    assert result.exit_code == 2
    assert "different studies in test (8 and 10)" in result.stderr
    assert f"only in {tmp_path / 'run'}: phantom" in result.stderr


def test_predictions_from_outside_score_as_the_run_that_wrote_them(
    trained_run: Path, phantoms: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run, symlinks=True)
    assert radrep("eval", run, "--split", "test").exit_code == 0
    lines = (run / "predictions-test.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    table = tmp_path / "theirs.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["report", "dicom_id"])
        writer.writerows([row["generated"], row["id"]] for row in reversed(rows))
    out = tmp_path / "out"
    result = radrep("eval", "--predictions", table, "--references", phantoms, "--out", out)
    assert result.exit_code == 0, result.output
    ours, theirs = scores_of(run), scores_of(out)
    assert theirs["ids_sha256"] == ours["ids_sha256"]
    mine, other = (by_name(s["protocols"]["full"]) for s in (ours, theirs))
    assert other["theirs"] == mine["model"]
    for name in ("shuffled control", "nearest neighbour", "constant, best cider"):
        assert other[name] == mine[name]
    assert by_name(theirs["findings"])["theirs"] == by_name(ours["findings"])["model"]


def test_a_constant_scores_on_an_annotation_as_it_was_published(
    data_dir: Path, vectors_dir: Path, tmp_path: Path
) -> None:
    expected = json.loads((vectors_dir / "iu_val_constant.json").read_text())
    annotation = data_dir / "iu_xray/annotation.json"
    ids = [row["id"] for row in json.loads(annotation.read_text())["val"]]
    predictions = tmp_path / "constant.json"
    # As a program writes reports: full stops at the words.
    report = expected["constant"].replace(" .", ".")
    predictions.write_text(json.dumps(dict.fromkeys(ids, report)))
    words = ("eval", "--predictions", predictions, "--references", annotation, "--split", "val")
    result = radrep(*words, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    scores = scores_of(tmp_path / "out", "val")
    published = by_name(scores["protocols"]["published"])
    wanted = expected["published_protocol"]
    for ours, theirs in (
        ("bleu1", "B1"),
        ("bleu4", "B4"),
        ("rouge_l", "ROUGE"),
        ("cider", "CIDEr"),
    ):
        assert published["constant"][ours] == pytest.approx(wanted[theirs], abs=1e-4)
    best = expected["best_constant_per_metric"]
    for metric in ("bleu4", "cider", "rouge_l"):
        assert scores["constants"][f"constant, best {metric}"] == best[metric]["constant"]
    assert scores["diversity"]["constant"]["num_distinct"] == 1


def test_ids_that_differ_are_listed(phantoms: Path, tmp_path: Path) -> None:
    predictions = tmp_path / "few.jsonl"
    predictions.write_text(json.dumps({"id": "nobody", "report": "the lungs are clear"}) + "\n")
    result = radrep("eval", "--predictions", predictions, "--references", phantoms)
    assert result.exit_code == 2
    assert "nobody" in result.stderr
    assert not (tmp_path / "evaluations").exists()


def test_predictions_need_references_and_only_they(trained_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text("{}\n")
    alone = radrep("eval", "--predictions", file)
    assert alone.exit_code == 2
    assert "predictions need --references" in alone.stderr
    both = radrep("eval", trained_run, "--predictions", file, "--references", tmp_path)
    assert both.exit_code == 2
    assert "runs are scored on their own data" in both.stderr
    unknown = radrep("eval", "--predictions", file, "--references", file, "--dataset", "chest")
    assert unknown.exit_code == 2
    assert "--dataset must be one of iu, mimic, chexpert-plus, plain, got 'chest'" in unknown.stderr


@pytest.fixture
def annotation(tmp_path: Path) -> Path:
    """Three references of IU X-Ray's form."""
    file = tmp_path / "annotation.json"
    texts = ("The heart is enlarged.", "Left pleural effusion.", "The lungs are clear.")
    rows = [{"id": f"CXR{i}_IM-1", "report": text} for i, text in enumerate(texts)]
    file.write_text(json.dumps({"test": rows}))
    return file


def write_predictions(file: Path, annotation: Path) -> Path:
    rows = json.loads(annotation.read_text())["test"]
    file.write_text(json.dumps({row["id"]: row["report"].lower() for row in rows}))
    return file


def test_set_and_dataset_are_refused_where_they_would_do_nothing(
    trained_run: Path, annotation: Path, tmp_path: Path
) -> None:
    theirs = write_predictions(tmp_path / "theirs.json", annotation)
    outside = ("eval", "--predictions", theirs, "--references", annotation)
    for words, told in (
        ((*outside, "--set", "decode.beam_size=1"), "predictions in a file are written already"),
        (("eval", trained_run, "--dataset", "iu"), "--dataset goes with --predictions"),
        (
            ("eval", trained_run, "--predictions", theirs, "--dataset", "iu"),
            "the references of a run are cleaned as for its training",
        ),
    ):
        result = radrep(*words)
        assert result.exit_code == 2
        assert told in result.stderr


def test_a_file_named_as_a_baseline_does_not_become_one(annotation: Path, tmp_path: Path) -> None:
    words = ["eval", "--references", annotation, "--out", tmp_path / "out"]
    for name in ("shuffled control", "nearest neighbour", "constant"):
        words += ["--predictions", write_predictions(tmp_path / f"{name}.json", annotation)]
    result = radrep(*words)
    assert result.exit_code == 0, result.output
    names = [s["name"] for s in scores_of(tmp_path / "out")["protocols"]["full"]["systems"]]
    assert names == ["shuffled control-2", "nearest neighbour-2", "constant"]
    assert "shuffled control-2 and nearest neighbour-2 do not differ significantly" in result.stdout


def test_many_systems_find_a_folder_that_disks_can_name(
    annotation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["eval", "--references", annotation]
    for i in range(5):
        words += ["--predictions", write_predictions(tmp_path / f"{i}{'x' * 70}.json", annotation)]
    result = radrep(*words)
    assert result.exit_code == 0, result.output
    (folder,) = (tmp_path / "evaluations").iterdir()
    assert (folder / "scores-test.json").is_file()


def test_a_single_study_has_no_other_images(annotation: Path, tmp_path: Path) -> None:
    one = json.loads(annotation.read_text())["test"][:1]
    annotation.write_text(json.dumps({"test": one}))
    theirs = write_predictions(tmp_path / "theirs.json", annotation)
    out = tmp_path / "out"
    result = radrep("eval", "--predictions", theirs, "--references", annotation, "--out", out)
    assert result.exit_code == 0, result.output
    full = scores_of(out)["protocols"]["full"]
    assert [system["name"] for system in full["systems"]] == ["theirs"]
    assert "Whether theirs uses the image was not tested." in result.stdout


def test_references_without_a_word_are_refused(annotation: Path, tmp_path: Path) -> None:
    theirs = write_predictions(tmp_path / "theirs.json", annotation)
    rows = json.loads(annotation.read_text())["test"]
    annotation.write_text(json.dumps({"test": [row | {"report": " ."} for row in rows]}))
    result = radrep("eval", "--predictions", theirs, "--references", annotation)
    assert result.exit_code == 2
    assert "none of its 3 references of test has a word" in result.stderr
