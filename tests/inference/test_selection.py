"""decode.method: select, by the commands: fitted by training, for eval and generate."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from radrep.data.batch import Batch
from radrep.data.store import PreparedStudies
from radrep.data.text import get_cleaner
from radrep.errors import CheckpointError, RecipeError
from radrep.inference.generator import ReportGenerator
from radrep.inference.selection import selector_for
from radrep.recipe.load import load_recipe
from radrep.weights.checkpoint import find_checkpoint, load_checkpoint
from radrep.weights.selector_file import SELECTION, read_selector, save_selector
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
    assert scores["decode"]["select"] == {"pool": 300, "rouge": 5.0, "labels": 1.0}
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
    from radrep.inference.generator import StudyFiles

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
            selector_for(loaded, decode)
        return str(error.value)

    flipped = bytearray(whole)
    flipped[-1] ^= 1
    file.write_bytes(flipped)
    assert "its checksum is wrong; remove it and fit it with: radrep train RUN" in refusal()
    file.write_bytes(whole[:-100])
    assert "cannot be read" in refusal()
    file.write_bytes(whole)
    weights = folder / "weights.safetensors"
    own = weights.read_bytes()
    weights.write_bytes(own + b" ")
    assert "was fitted on other weights" in refusal()
    weights.write_bytes(own)
    file.unlink()
    assert "has no selection.safetensors, which decode.method: select needs" in refusal()
    evaluated = radrep("eval", run, *SELECT)
    assert evaluated.exit_code == 2
    assert "radrep train RUN --resume" in evaluated.stderr
    resumed = radrep("train", run, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert selector_for(loaded, decode) is not None
    larger = decode.model_copy(
        update={"select": decode.select.model_copy(update={"pool": 301})}  # type: ignore
    )
    with pytest.raises(CheckpointError, match="pool is 301 and .* was trained with 300"):
        selector_for(loaded, larger)


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


def test_the_maps_of_both_methods_are_those_of_their_encoders() -> None:
    from radrep.build import build_model

    torch.manual_seed(0)
    images = torch.randn(3, 3, 224, 224)
    batch = Batch(("a", "b"), torch.tensor([2, 1]), images=images)
    for name, changes in (
        ("csr_lmca_iu_cpu", ["model.backbone.weights=none"]),
        ("emrrg_iu_cpu", ["model.language_model.name=tiny:llama"]),
    ):
        model = build_model(load_recipe(name, changes), 10).eval()  # type: ignore[attr-defined]
        with torch.no_grad():
            maps, tokens = model.feature_maps(batch), model.features(batch)
        assert maps.shape[0] == 3
        assert maps.shape[-1] == tokens.shape[-1]
        assert tokens.shape[1] - maps[0, ..., 0].numel() in (0, 1), "the class token is no patch"
