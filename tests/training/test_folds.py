"""radrep train --folds: nothing of a study reaches the model that writes its report."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from radrep.data.manifest import source_of
from radrep.data.store import Fold, PreparedStudies
from radrep.data.study import HELD_OUT, SourceStudy
from radrep.errors import CheckpointError, RecipeError
from radrep.evaluation.result import EvalResult
from radrep.models.xray_mamba import make_xray_mamba
from radrep.preparation.pipeline import prepare
from radrep.preparation.plan import Choice
from radrep.preparation.sources.phantom.source import PhantomSource
from radrep.recipe.load import dump_recipe, load_recipe
from radrep.recipe.recipe import Recipe
from radrep.training.folds import fold_recipe
from radrep.weights.folds import fold_checkpoints, learned_reports_of
from radrep.weights.pretrained import save_encoder
from tests.whole_way import radrep, write_recipe

pytestmark = pytest.mark.usefixtures("without_java", "shared_cache")

FROZEN = {"backbone": {"name": "test_resnet.r160_in1k", "weights": "none", "frozen": True}}
FEW = {"epochs": 1, "batch_size": 8}


class Reworded(PhantomSource):
    """The phantoms, with another report for one of them."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(48, image_size=64, splits=(4 / 6, 1 / 6, 1 / 6))
        self._number, self._text = number, text

    def __iter__(self) -> Iterator[SourceStudy]:
        for number, study in enumerate(super().__iter__()):
            if number == self._number:
                study = replace(study, sections={"findings": self._text})
            yield study


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, phantoms: Path) -> Recipe:
    folder = tmp_path_factory.mktemp("recipe")
    return load_recipe(str(write_recipe(folder, phantoms, train=FEW, model=FROZEN)))


def read_generated(run: Path) -> dict[str, str]:
    lines = (run / f"predictions-{HELD_OUT}.jsonl").read_text().splitlines()
    return {row["id"]: row["generated"] for row in map(json.loads, lines)}


def test_the_score_of_a_fold_is_of_its_own_studies() -> None:
    folds = [SimpleNamespace(ids=ids) for ids in (("a", "b"), ("c",))]
    card = SimpleNamespace(per_report={"model": np.array([1.0, 2.0, 6.0])})
    result = Mock(EvalResult, studies=SimpleNamespace(folds=folds), card=card, main="model")
    assert EvalResult.fold_cider.fget(result) == (1.5, 6.0)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_folds_are_trained_scored_together_and_kept_by_resume(
    phantoms: Path, tmp_path: Path
) -> None:
    file = write_recipe(tmp_path, phantoms, train=FEW, model=FROZEN)
    result = radrep("train", file, "--folds", 2)
    assert result.exit_code == 0, result.output
    assert "no study of the patient" in " ".join(result.output.split())
    folds = tmp_path / "run-folds"
    scores = json.loads((folds / "scores-heldout.json").read_text())
    ids = PreparedStudies(phantoms, "train").ids
    assert sorted(read_generated(folds)) == sorted(ids)
    assert scores["num_studies"] == len(ids)
    published = {s["name"]: s for s in scores["protocols"]["published"]["systems"]}
    assert {"model", "shuffled control", "nearest neighbour", "constant, best cider"} <= set(
        published
    )
    assert published["nearest neighbour"]["standard_errors"]["cider"] > 0
    (full,) = (s for s in scores["protocols"]["full"]["systems"] if s["name"] == "model")
    line = next(line for line in result.stdout.splitlines() if line.startswith("CIDEr, protocol"))
    pooled, error, average, deviation = map(float, re.findall(r"\d\.\d{3}", line))
    assert [pooled, error] == pytest.approx(
        [full["scores"]["cider"], full["standard_errors"]["cider"]], abs=5e-4
    )
    assert average == pytest.approx(pooled, abs=2e-3), "both held out as many"
    assert deviation < 0.01, "after one epoch both write the same"

    weights = [folder / "weights.safetensors" for folder in fold_checkpoints(folds)]
    before = [file.stat().st_mtime_ns for file in weights]
    again = radrep("train", file, "--folds", 2)
    assert again.exit_code == 2
    assert "exists already" in again.output
    resumed = radrep("train", folds, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert [file.stat().st_mtime_ns for file in weights] == before

    other = tmp_path / "other-folds"
    assert radrep("train", file, "--folds", 2, "--out", other).exit_code == 0
    compared = radrep("eval", folds, other, "--out", tmp_path / "compared")
    assert compared.exit_code == 0, compared.output
    refused = radrep("eval", folds, "--split", "val")
    assert refused.exit_code == 2
    assert "held out" in refused.output


@pytest.mark.slow
@pytest.mark.parametrize("with_labels", [False, True])
def test_changing_a_study_s_report_changes_nothing_of_its_own(
    tmp_path: Path, with_labels: bool
) -> None:
    """The backbone, its labels, the vocabulary, the model and the controls are cross-fitted."""
    generated, probabilities = [], []
    for name, text in (
        ("one", "Clear lungs ."),
        ("other", "Large left pleural effusion , cardiomegaly , purple elephants ."),
    ):
        folder = tmp_path / name
        folder.mkdir()
        data = prepare(Reworded(5, text), folder / "data", image_size=64, workers=1).out
        study = PreparedStudies(data, "train").ids[5]
        number = next(
            n for n in range(2) if study in PreparedStudies(data, HELD_OUT, fold=Fold(n, 2)).ids
        )
        model = FROZEN
        if with_labels:
            backbone = FROZEN["backbone"] | {"frozen": False}
            section = {"name": "discriminator", "backbone": backbone, "labels": "reports"}
            labelled = write_recipe(folder, data, train=FEW | {"monitor": "val/loss"})
            written = json.loads(json.dumps(load_recipe(str(labelled)).model_dump(mode="json")))
            written["model"], written["out"] = section, str(folder / "labels")
            written["decode"] = {}
            (folder / "labels.yaml").write_text(json.dumps(written))
            result = radrep("train", folder / "labels.yaml", "--folds", 2)
            assert result.exit_code == 0, result.output
            model = {"backbone": FROZEN["backbone"] | {"weights": str(folder / "labels")}}
        file = write_recipe(folder, data, train=FEW, model=model)
        result = radrep("train", file, "--folds", 2)
        assert result.exit_code == 0, result.output
        folds = folder / "run-folds"
        generated.append(read_generated(folds)[study])
        weights = fold_checkpoints(folds)[number] / "weights.safetensors"
        probabilities.append(weights.read_bytes()[-100_000:])  # behind the header with paths
    assert generated[0] == generated[1]
    assert probabilities[0] == probabilities[1]


def make_run(folder: Path, recipe: Recipe) -> Path:
    """A run as far as its recipe and a checkpoint's name."""
    checkpoint = folder / "checkpoints/step-0000001"
    checkpoint.mkdir(parents=True)
    for place in (folder, checkpoint):
        (place / "recipe.yaml").write_text(dump_recipe(recipe))
    (checkpoint / "weights.safetensors").touch()
    (folder / "best").symlink_to("checkpoints/step-0000001")
    return folder


def with_weights(recipe: Recipe, *weights: Path) -> Recipe:
    several = tuple(map(str, weights))
    named = several if len(several) > 1 else several[0]
    backbone = recipe.model.backbone.model_copy(update={"weights": named})
    model = recipe.model.model_copy(update={"backbone": backbone})
    return recipe.model_copy(update={"model": model})


def test_a_fold_starts_from_the_same_fold_of_what_it_names(recipe: Recipe, tmp_path: Path) -> None:
    named = with_weights(recipe, tmp_path / "first")
    for number in range(3):
        make_run(tmp_path / f"first-folds/fold-{number}", fold_recipe(recipe, number, 3))
    for number in range(3):
        own = fold_recipe(named, number, 3)
        assert own.model.backbone.weights == str(tmp_path / f"first-folds/fold-{number}")
        assert (own.data.fold.number, own.data.fold.of) == (number, 3)
    with pytest.raises(RecipeError, match="other folds than these 2"):
        fold_recipe(named, 0, 2)


def test_every_run_of_an_average_is_replaced_by_its_fold(recipe: Recipe, tmp_path: Path) -> None:
    several = [tmp_path / name for name in ("first", "second")]
    for folder in several:
        make_run(tmp_path / f"{folder.name}-folds/fold-1", fold_recipe(recipe, 1, 3))
    named = with_weights(recipe, *several)
    own = fold_recipe(named, 1, 3).model.backbone.weights
    assert own == tuple(str(tmp_path / f"{each.name}-folds/fold-1") for each in several)
    make_run(tmp_path / "leaking", recipe)
    with pytest.raises(RecipeError, match=r"leaking learned from the reports"):
        fold_recipe(with_weights(recipe, several[0], tmp_path / "leaking"), 1, 3)


def test_a_start_that_learned_from_the_reports_held_out_is_refused(
    recipe: Recipe, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "leaking", recipe)
    with pytest.raises(RecipeError, match=r"learned from the reports.*--folds 5"):
        fold_recipe(with_weights(recipe, run), 0, 5)
    elsewhere = recipe.model_copy(
        update={"data": recipe.data.model_copy(update={"prepared": tmp_path / "other data"})}
    )
    honest = make_run(tmp_path / "elsewhere", elsewhere)
    assert fold_recipe(with_weights(recipe, honest), 0, 5).model.backbone.weights == str(honest)


def test_what_a_start_started_from_counts_too(recipe: Recipe, tmp_path: Path) -> None:
    """A learned from the reports, B from other ones and from A, by each key that names a run."""

    def on_other_data(recipe: Recipe) -> Recipe:
        data = recipe.data.model_copy(update={"prepared": tmp_path / "other data"})
        return recipe.model_copy(update={"data": data})

    first = make_run(tmp_path / "first", recipe)
    train = recipe.train.model_copy(update={"start_from": first})
    by_key = {
        "weights": with_weights(recipe, first),
        "start": recipe.model_copy(update={"train": train}),
    }
    for key, own in by_key.items():
        second = make_run(tmp_path / f"second-{key}", on_other_data(own))
        third = make_run(tmp_path / f"third-{key}", on_other_data(with_weights(recipe, second)))
        for start in (second, third):
            words = rf"{start.name} started from .*first, which learned.*folds of .*first,"
            with pytest.raises(RecipeError, match=words):
                fold_recipe(with_weights(recipe, start), 0, 2)
    # With folds of A under B and so on, nothing is in what the fold holds out.
    for number in range(2):
        honest = make_run(tmp_path / f"apart-folds/fold-{number}", fold_recipe(recipe, number, 2))
        own = with_weights(fold_recipe(on_other_data(recipe), number, 2), honest)
        make_run(tmp_path / f"later-folds/fold-{number}", own)
        named = fold_recipe(with_weights(recipe, tmp_path / "later"), number, 2)
        assert named.model.backbone.weights == str(tmp_path / f"later-folds/fold-{number}")
    # Folds of B that all started from the whole of A are refused.
    for number in range(2):
        own = with_weights(fold_recipe(on_other_data(recipe), number, 2), first)
        make_run(tmp_path / f"leaking-folds/fold-{number}", own)
    with pytest.raises(RecipeError, match=r"leaking-folds/fold-1 started from .*first, which"):
        fold_recipe(with_weights(recipe, tmp_path / "leaking"), 1, 2)
    # Of what is no longer here nothing is known.
    shutil.rmtree(first)
    start = tmp_path / "second-weights"
    assert fold_recipe(with_weights(recipe, start), 0, 2).model.backbone.weights == str(start)


def test_folds_of_another_preparation_of_the_data_hold_out_the_same_patients(
    recipe: Recipe, tmp_path: Path
) -> None:
    def on(folder: Path) -> Recipe:
        data = recipe.data.model_copy(update={"prepared": folder})
        return recipe.model_copy(update={"data": data})

    source = PhantomSource(48, image_size=64, splits=(4 / 6, 1 / 6, 1 / 6))
    copy, fewer = tmp_path / "copy", tmp_path / "fewer"
    shutil.copytree(recipe.data.prepared, copy)
    prepare(source, fewer, image_size=64, workers=1, choice=Choice(limit=20))
    for name, folder in (("same", copy), ("other", fewer)):
        for number in range(2):
            own = fold_recipe(on(folder), number, 2)
            make_run(tmp_path / f"{name}-folds/fold-{number}", own)
    named = fold_recipe(with_weights(recipe, tmp_path / "same"), 1, 2)
    assert named.model.backbone.weights == str(tmp_path / "same-folds/fold-1")
    with pytest.raises(RecipeError, match=r"that fold 1 of .* holds out: it was trained on"):
        fold_recipe(with_weights(recipe, tmp_path / "other"), 0, 2)
    moved = on(tmp_path / "moved")
    for number in range(2):
        run = make_run(tmp_path / f"moved-folds/fold-{number}", fold_recipe(moved, number, 2))
        about = {"source": source_of(recipe.data.prepared)}
        save_file({"a": torch.zeros(1)}, run / "best/weights.safetensors", about)
    with pytest.raises(RecipeError, match="moved cannot be compared with those of"):
        fold_recipe(with_weights(recipe, tmp_path / "moved"), 0, 2)
    # Without folds a run on any preparation of the same download has seen all of them.
    run = make_run(tmp_path / "whole", on(copy))
    with pytest.raises(RecipeError, match="learned from the reports"):
        fold_recipe(with_weights(recipe, run), 0, 2)


def test_adapters_and_merged_encoders_know_whose_reports_they_learned_from(
    recipe: Recipe, tmp_path: Path
) -> None:
    ours, theirs = source_of(recipe.data.prepared), "mimic_cxr"
    for name, learned, refused in (("ours", ours, True), ("theirs", theirs, False)):
        save_encoder(make_xray_mamba("tiny", image_size=32), tmp_path / name, {"learned": learned})
        file = tmp_path / f"{name}.safetensors"
        save_file({"a": torch.zeros(1)}, file, {"learned": f"{learned}, other"})
        for start in (tmp_path / name, file):
            assert learned_reports_of(start, recipe.data.prepared) is refused
    with pytest.raises(RecipeError, match=r"ours learned from the reports.*something else"):
        fold_recipe(with_weights(recipe, tmp_path / "ours"), 0, 2)


def test_a_fold_that_was_not_trained_is_named(recipe: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "x-folds"
    make_run(folder / "fold-0", fold_recipe(recipe, 0, 3))
    (folder / "folds.yaml").write_text(dump_recipe(fold_recipe(recipe, 0, 3)))
    with pytest.raises(CheckpointError, match=r"fold-1, fold-2, of 3 folds.*--resume"):
        fold_checkpoints(folder)
