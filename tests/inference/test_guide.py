"""decode.method: select and decode.edit: fitted by training, for eval and generate."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from radrep.data.batch import Batch
from radrep.data.store import PreparedStudies
from radrep.data.text import get_cleaner
from radrep.errors import CheckpointError, RecipeError
from radrep.guidance.editing import ReportEditor, SentenceBank
from radrep.inference.generator import ReportGenerator
from radrep.inference.guide import guide_for
from radrep.metrics.labeler import label_report
from radrep.models.base import ReportModel
from radrep.recipe.load import load_recipe
from radrep.weights.checkpoint import find_checkpoint, load_checkpoint
from radrep.weights.files import write_checksums
from radrep.weights.guidance_files import (
    EDITING,
    SELECTION,
    read_editor,
    read_selector,
    save_editor,
    save_selector,
)
from tests.interop.rows import check_row
from tests.whole_way import radrep, write_recipe

pytestmark = pytest.mark.usefixtures("shared_cache")
SELECT = ("--set", "decode.method=select")


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained_run, tmp_path / "copied", symlinks=True)
    return tmp_path / "copied"


def training_reports(phantoms: Path) -> set[str]:
    clean = get_cleaner("plain")
    return {clean(text) for text in PreparedStudies(phantoms, "train").texts("findings")}


@pytest.mark.usefixtures("without_java")
def test_eval_selects_training_reports_and_the_page_says_so(run: Path, phantoms: Path) -> None:
    result = radrep("eval", run, "--split", "test", *SELECT, "--set", "decode.select.labels=1")
    assert result.exit_code == 0, result.output
    rows = [json.loads(r) for r in (run / "predictions-test.jsonl").read_text().splitlines()]
    assert {row["generated"] for row in rows} <= training_reports(phantoms)
    scores = json.loads((run / "scores-test.json").read_text())
    assert scores["made"] == {"model": "selected from 300 training reports"}
    assert scores["decode"]["select"] == {
        "pool": 300,
        "rouge": 5.0,
        "labels": 1.0,
        "film": 0.5,
    }
    changed = "method select instead of greedy, select.labels 1.0 instead of 5.0"
    assert f"decoding changed by --set: {changed}" in scores["notes"]
    assert "reports     selected from 300 training reports" in result.stdout
    page = (run / "report.html").read_text()
    assert "reports selected from 300 training reports" in page
    assert "decoded by" not in page


def test_generate_selects_without_the_data_and_marks_its_reports(
    run: Path, films: list[Path], phantoms: Path, tmp_path: Path
) -> None:
    recipe = find_checkpoint(run) / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(phantoms), str(tmp_path / "gone")))
    write_checksums(recipe.parent)
    words = ("generate", *films[:2], "--checkpoint", run, "--json")
    for method, made in (("select", "selected"), ("greedy", "decoded")):
        result = radrep(*words, "--method", method)
        assert result.exit_code == 0, result.output
        rows = [json.loads(line) for line in result.stdout.splitlines()]
        assert [row["made"] for row in rows] == [made] * 2
        if method == "select":
            assert {row["report"] for row in rows} <= training_reports(phantoms)
    heatmap = radrep(*words[:2], *words[3:], "--method", "select", "--heatmap", tmp_path / "a.png")
    assert heatmap.exit_code == 2
    assert "was selected, and has no attention maps" in heatmap.stderr


def test_a_selected_report_does_not_depend_on_its_batch(run: Path, films: list[Path]) -> None:
    from radrep.inference.films import StudyFiles

    decode = load_checkpoint(find_checkpoint(run)).recipe.decode
    generator = ReportGenerator(run, decode=decode.model_copy(update={"method": "select"}))
    together = list(generator.write_all([StudyFiles((film,)) for film in films]))
    assert [generator.write(film).text for film in films] == [report.text for report in together]


def test_the_selector_is_read_as_it_was_fitted_but_for_half_precision(run: Path) -> None:
    folder = find_checkpoint(run)
    selector = read_selector(folder)
    save_selector(folder, selector)
    again = read_selector(folder)
    assert (again.pool, again.penalty, again.score) == (
        selector.pool, selector.penalty, selector.score
    )  # fmt: skip
    vectors = np.random.default_rng(0).normal(size=(3, len(selector.mean))).astype(np.float32)
    np.testing.assert_array_equal(again.predict(vectors), selector.predict(vectors))


def test_a_missing_broken_or_foreign_selector_is_refused_and_fitted_by_resume(
    run: Path, tmp_path: Path
) -> None:
    folder = find_checkpoint(run)
    file, whole = folder / SELECTION, (folder / SELECTION).read_bytes()
    loaded = load_checkpoint(folder)
    decode = loaded.recipe.decode.model_copy(update={"method": "select"})

    def refusal() -> str:
        with pytest.raises(CheckpointError) as error:
            guide_for(loaded, decode)
        return str(error.value)

    flipped = bytearray(whole)
    flipped[-1] ^= 1
    file.write_bytes(flipped)
    assert "its selection.safetensors is not what was written" in refusal()
    assert f"Remove the file and fit it with: radrep train {run.resolve()}" in refusal()
    file.unlink()
    assert "has no selection.safetensors, which decode.method: select needs" in refusal()
    evaluated = radrep("eval", run, *SELECT)
    assert evaluated.exit_code == 2
    assert f"radrep train {run.resolve()} --resume" in " ".join(evaluated.stderr.split())
    resumed = radrep("train", run, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert guide_for(loaded, decode).selector is not None
    larger = decode.model_copy(
        update={"select": decode.select.model_copy(update={"pool": 301})}  # type: ignore
    )
    with pytest.raises(CheckpointError, match="pool is 301 and .* was trained with 300"):
        guide_for(loaded, larger)


def test_a_run_may_fit_none_and_may_select_by_default(
    tmp_path: Path, phantoms: Path, films: list[Path]
) -> None:
    short = {"epochs": 1}
    file = write_recipe(tmp_path, phantoms, train=short, decode={"select": None})
    assert radrep("train", file).exit_code == 0
    assert not (tmp_path / "run/best" / SELECTION).exists()
    with pytest.raises(RecipeError, match="must not be null for decode.method: select"):
        load_recipe(str(file), ["decode.method=select"])
    file = write_recipe(tmp_path, phantoms, train=short, decode={"method": "select"})
    trained = radrep("train", file, "--out", tmp_path / "selects")
    assert trained.exit_code == 0, trained.output
    assert "reports are decoded by beam search" in trained.stderr, "in validation"
    assert ReportGenerator(tmp_path / "selects").write(films[0]).made == "selected"


def test_statistics_of_new_images_are_those_that_training_cached() -> None:
    """Selection is fitted on the one and answers for the other."""
    from radrep.build import build_decode, build_model

    torch.manual_seed(0)
    images = torch.randn(3, 3, 224, 224)
    batch = Batch(("a", "b"), torch.tensor([2, 1]), images=images)
    for name, changes in (
        ("csr_lmca_iu_cpu", ["model.backbone.weights=none"]),
        ("emrrg_iu_cpu", ["model.language_model.name=tiny:llama"]),
    ):
        recipe = load_recipe(name, changes)
        model = build_model(recipe, ("<unk>", "clear")).eval()
        assert isinstance(model, ReportModel)
        encoder, summaries = model.frozen_encoder(), model.frozen_summaries()
        assert encoder is not None or name.startswith("emrrg")
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=summaries is not None):
            encoded = model.encode_images(batch, build_decode(recipe.decode, "fp32"))
            found = model.summaries(encoded)
            if encoder is not None and summaries is not None:
                torch.testing.assert_close(found, summaries(images)[:, 0])
                assert encoded.features is not None
                torch.testing.assert_close(encoded.features, encoder(images))
        assert found.shape[0] == 3
        assert found.dtype == torch.float32


@pytest.fixture
def certain(run: Path) -> Path:
    """The run, whose editor finds a large effusion in every film and no cardiomegaly in any."""
    folder = find_checkpoint(run)
    editor = read_editor(folder)
    predictor, names = editor.predictor, editor.predictor.names
    slope, bias = np.zeros(len(names)), np.full(len(names), -np.inf)
    bias[names.index("Pleural Effusion")] = 3.0
    predictor = replace(predictor, slope=slope, bias=bias)
    bank = SentenceBank({"Pleural Effusion": "large pleural effusion ."}, {})
    save_editor(folder, ReportEditor(predictor, bank))
    return run


POINT = ("--threshold", "Pleural Effusion=0.9", "--threshold", "Cardiomegaly=0.5")


def test_generate_edits_and_marks_what_it_edited(
    certain: Path, films: list[Path], tmp_path: Path
) -> None:
    words = ("generate", *films[:2], "--checkpoint", certain, "--json")
    plain = [json.loads(line) for line in radrep(*words).stdout.splitlines()]
    assert {s["origin"] for row in plain for s in row["sentences"]} == {"generated"}
    result = radrep(*words, *POINT)
    assert result.exit_code == 0, result.output
    for row in map(json.loads, result.stdout.splitlines()):
        check_row(row)
        assert row["made"] == "decoded, edited"
        found = {finding["observation"]: finding for finding in row["findings"]}
        assert found["Pleural Effusion"]["origin"] == "inserted"
        assert found["Pleural Effusion"]["sentence"] == "large pleural effusion ."
        assert found["Pleural Effusion"]["size"] == "large"
        assert row["probabilities"]["Atelectasis"] is not None
        assert row["probabilities"]["Edema"] is None, "too rare to be learned"
        states = label_report(row["report"]).states
        assert states["Pleural Effusion"] == "positive"
        assert states["Cardiomegaly"] != "positive"
        (inserted,) = (s for s in row["sentences"] if s["origin"] == "inserted")
        assert inserted["observation"] == "Pleural Effusion"
        assert inserted["probability"] == pytest.approx(1 / (1 + np.exp(-3.0)))
        assert " ".join(s["text"] for s in row["sentences"]) == row["report"]
    single = radrep(*words[:2], *words[3:], *POINT, "--heatmap", tmp_path / "a.png")
    assert (
        json.loads(single.stdout)["report"] == json.loads(result.stdout.splitlines()[0])["report"]
    )
    above = radrep(*words, "--threshold", "Pleural Effusion=0.99")
    assert "large pleural effusion" not in above.stdout


@pytest.mark.usefixtures("without_java")
def test_eval_says_that_reports_were_edited_and_keeps_their_marks(certain: Path) -> None:
    point = ("--set", "decode.edit.thresholds={Pleural Effusion: 0.9}")
    result = radrep("eval", certain, "--split", "test", *point)
    assert result.exit_code == 0, result.output
    rows = [json.loads(r) for r in (certain / "predictions-test.jsonl").read_text().splitlines()]
    assert all("large pleural effusion ." in row["generated"] for row in rows)
    assert all(any(s["origin"] == "inserted" for s in row["sentences"]) for row in rows)
    scores = json.loads((certain / "scores-test.json").read_text())
    assert scores["made"]["model"].endswith("sentences edited by predicted findings")
    page = (certain / "report.html").read_text()
    assert "inserted: large pleural effusion . (Pleural Effusion, probability 0.95)" in page


@pytest.mark.usefixtures("without_java")
def test_eval_shows_operating_points_beside_the_classifier(run: Path) -> None:
    # Those of training, for the number of studies: out of fold they would be worse.
    words = ("eval", run, "--split", "train", "--set")
    assert radrep(*words, "decode.method=select").exit_code == 0
    rates = json.loads((run / "scores-train.json").read_text())["operating_points"]
    assert [each["name"] for each in rates] == ["Atelectasis"]
    for each in rates:
        assert each["num_present"] + each["num_absent"] == 32
        assert each["edited"] == {}
        assert each["auroc"]["low"] <= each["auroc"]["value"] <= each["auroc"]["high"]
    assert "reports edited at sensitivities" not in (run / "report.html").read_text()
    assert radrep(*words, "decode.edit={min_precision: 0.0}").exit_code == 0
    (found,) = json.loads((run / "scores-train.json").read_text())["operating_points"]
    assert list(found["edited"]) == [f"0.{tenth}" for tenth in range(1, 10)]
    wrong, right = zip(*found["edited"].values(), strict=True)
    assert sorted(wrong) == list(wrong)
    assert sorted(right) == list(right)
    assert right[-1] > right[0], "a higher sensitivity names it in more reports"
    page = (run / "report.html").read_text()
    assert "<b>Atelectasis</b>" in page
    assert "reports edited at sensitivities" in page


def test_an_operating_point_that_cannot_be_is_refused(run: Path, films: list[Path]) -> None:
    words = ("generate", films[0], "--checkpoint", run)
    for options, text in (
        (("--sensitivity", "Edema=0.9"), "Edema: too few training studies have it"),
        (("--sensitivity", "high"), "--sensitivity takes a number from 0 to 1, got 'high'"),
        (("--threshold", "0.5"), "--threshold names a finding"),
        (("--threshold", "Plague=0.5"), "must name one of Enlarged Cardiomediastinum"),
        (("--sensitivity", "1.5"), "decode.edit.sensitivity"),
    ):
        result = radrep(*words, *options)
        assert result.exit_code == 2, result.output
        assert text in " ".join(result.stderr.split())


def test_the_editor_is_read_as_it_was_fitted(run: Path) -> None:
    folder = find_checkpoint(run)
    editor = read_editor(folder)
    save_editor(folder, editor)
    again = read_editor(folder)
    assert again.bank == editor.bank
    vectors = np.random.default_rng(0).normal(size=(3, len(editor.predictor.mean)))
    assert np.array_equal(
        again.predictor.probabilities(vectors), editor.predictor.probabilities(vectors)
    )
    (folder / EDITING).write_bytes((folder / EDITING).read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_editor(folder)
