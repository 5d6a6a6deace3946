"""decode.method: consensus, for eval and generate."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from radrep.errors import CheckpointError, RecipeError
from radrep.guidance.editing import ReportEditor
from radrep.inference.films import StudyFiles
from radrep.inference.generator import ReportGenerator
from radrep.inference.guide import guide_for
from radrep.metrics.labeler import label_report
from radrep.recipe.load import load_recipe
from radrep.weights.checkpoint import find_checkpoint, load_checkpoint
from radrep.weights.files import write_checksums
from radrep.weights.guidance_files import (
    CONSENSUS,
    read_editor,
    read_frequencies,
    save_editor,
    save_frequencies,
)
from tests.whole_way import radrep

pytestmark = pytest.mark.usefixtures("shared_cache")
CHOSEN = ("--set", "decode.method=consensus")


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained_run, tmp_path / "copied", symlinks=True)
    return tmp_path / "copied"


def be_certain(run: Path, observation: str) -> None:
    """Let the run predict one observation for every film, and no other."""
    folder = find_checkpoint(run)
    editor = read_editor(folder)
    names = editor.predictor.names
    bias = np.full(len(names), -9.0)
    bias[names.index(observation)] = 9.0
    predictor = replace(editor.predictor, slope=np.zeros(len(names)), bias=bias)
    save_editor(folder, ReportEditor(predictor, editor.bank))


@pytest.mark.usefixtures("without_java")
def test_eval_says_how_reports_were_chosen_and_who_worded_each(run: Path) -> None:
    only_selections = ("--set", "decode.consensus.samples=0", "--set", "decode.beam_size=1")
    result = radrep("eval", run, "--split", "test", *CHOSEN, *only_selections)
    assert result.exit_code == 0, result.output
    made = "chosen by consensus of 1 beams and 10 training reports"
    assert f"reports     {made}" in result.stdout
    assert json.loads((run / "scores-test.json").read_text())["made"] == {"model": made}
    assert f"reports {made}" in (run / "report.html").read_text()
    rows = [json.loads(r) for r in (run / "predictions-test.jsonl").read_text().splitlines()]
    # A hardly trained decoder against real reports.
    assert {row["source"] for row in rows} == {"training reports"}


def test_predicted_findings_tip_the_choice(run: Path, films: list[Path]) -> None:
    decode = load_checkpoint(find_checkpoint(run)).recipe.decode
    pool = decode.consensus.model_copy(update={"selections": 30, "labels": 100.0})
    decode = decode.model_copy(update={"method": "consensus", "consensus": pool})
    for observation in ("Pleural Effusion", "Pneumothorax"):
        be_certain(run, observation)
        report = ReportGenerator(run, decode=decode).write(films[0])
        assert label_report(report.text).states[observation] == "positive"
        assert report.made == "selected, by consensus"


def test_a_report_by_consensus_does_not_depend_on_its_batch(run: Path, films: list[Path]) -> None:
    # Without selections the decoder's own words are compared, drawn at random.
    decode = load_checkpoint(find_checkpoint(run)).recipe.decode
    pool = decode.consensus.model_copy(update={"selections": 0, "temperature": 2.0})
    decode = decode.model_copy(update={"method": "consensus", "consensus": pool})
    generator = ReportGenerator(run, decode=decode)
    together = list(generator.write_all([StudyFiles((film,)) for film in films]))
    assert [generator.write(film).text for film in films] == [report.text for report in together]
    assert {report.made for report in together} == {"decoded, by consensus"}


def test_generate_marks_its_reports_and_shows_attention_of_what_was_decoded(
    run: Path, films: list[Path], tmp_path: Path
) -> None:
    words = ("generate", films[0], "--checkpoint", run, "--json", "--method", "consensus")
    picture = ("--heatmap", tmp_path / "a.png")
    selected = radrep(*words, *picture)
    assert json.loads(selected.stdout)["made"] == "selected, by consensus"
    assert selected.exit_code == 2
    assert "was selected, and has no attention maps" in selected.stderr
    recipe = find_checkpoint(run) / "recipe.yaml"
    own = recipe.read_text()
    assert "selections: 10" in own
    recipe.write_text(own.replace("selections: 10", "selections: 0"))
    write_checksums(recipe.parent)
    point = ("--threshold", "Pleural Effusion=0.999")
    decoded = radrep(*words, *picture)
    assert decoded.exit_code == 0, decoded.output
    assert json.loads(decoded.stdout)["made"] == "decoded, by consensus"
    assert (tmp_path / "a.png").stat().st_size > 1000
    edited = radrep(*words, *point)
    assert json.loads(edited.stdout)["made"] == "decoded, by consensus, edited"
    other = radrep(*words, "--seed", "1")
    assert other.exit_code == 0, other.output


def test_frequencies_are_read_as_counted_and_refused_when_missing(run: Path) -> None:
    folder = find_checkpoint(run)
    loaded = load_checkpoint(folder)
    decode = loaded.recipe.decode.model_copy(update={"method": "consensus"})
    frequencies = read_frequencies(folder)
    assert frequencies.num_reports == 32
    assert min(frequencies.counts.values()) == 2
    save_frequencies(folder, frequencies)
    assert read_frequencies(folder) == frequencies
    (folder / CONSENSUS).unlink()
    with pytest.raises(CheckpointError, match="which decode.method: consensus needs"):
        guide_for(loaded, decode)


def test_settings_that_leave_nothing_to_compare_are_refused() -> None:
    method = "decode.method=consensus"
    with pytest.raises(RecipeError, match="must not be null for decode.method: consensus"):
        load_recipe("csr_lmca_iu_cpu", [method, "decode.select=null"])
    with pytest.raises(RecipeError, match=r"must be at most decode\.select\.pool \(300\), got 301"):
        load_recipe("csr_lmca_iu_cpu", [method, "decode.consensus.selections=301"])
