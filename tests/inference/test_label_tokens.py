"""model.label_tokens: fitted before training, read by every command, cross-fitted."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from radrep.build import (
    build_codec,
    build_dataset,
    build_model,
    build_preprocess,
    build_tokenizer,
)
from radrep.data.study import SourceStudy
from radrep.errors import RecipeError
from radrep.guidance.label_tokens import StudyBuckets
from radrep.inference.label_tokens import fit_label_tokens
from radrep.metrics.labeler.vocabulary import ABNORMAL
from radrep.models.base import LabelTokenModel
from radrep.preparation.pipeline import prepare
from radrep.preparation.sources.phantom.source import PhantomSource
from radrep.progress import Reporter
from radrep.recipe.load import dump_recipe, load_recipe
from radrep.saliency.masked_split import read_split
from radrep.weights.checkpoint import find_checkpoint
from radrep.weights.files import write_checksums
from tests.training.test_folds import make_run, with_weights
from tests.whole_way import radrep, read_metrics, stop_midway, write_films, write_recipe

pytestmark = pytest.mark.usefixtures("shared_cache")

EFFUSION = ABNORMAL.index("Pleural Effusion")
FROZEN: dict[str, Any] = {
    "backbone": {"name": "test_resnet.r160_in1k", "weights": "none", "frozen": True},
    "enhancer": {"mode": "none"},
    "projection_dropout": 0.1,
    "label_tokens": {},
}


class Reworded(PhantomSource):
    """Phantoms, 100 of 120 to train, with another report for the first."""

    def __init__(self, text: str = "", num: int = 120) -> None:
        super().__init__(num, image_size=64, splits=(5 / 6, 1 / 12, 1 / 12))
        self._text = text

    def __iter__(self) -> Iterator[SourceStudy]:
        for number, study in enumerate(super().__iter__()):
            changed = replace(study, sections={"findings": self._text})
            yield changed if number == 0 and self._text else study


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled") / "data"
    return prepare(Reworded(), folder, image_size=64, workers=1).out


def fit(
    folder: Path, data: Path, start: Path | None = None, reporter: Reporter | None = None
) -> StudyBuckets:
    """With random weights; `start` is a run that the recipe names all the same."""
    recipe = load_recipe(str(write_recipe(folder, data, model=FROZEN)))
    torch.manual_seed(0)
    studies = read_split(recipe.data, "train")
    words = build_tokenizer(recipe.data, studies)
    model = build_model(recipe, words.vocabulary)
    dataset = build_dataset(
        recipe,
        studies,
        preprocess=build_preprocess(recipe.data, model),
        codec=build_codec(recipe, words, model),
    )
    assert isinstance(model, LabelTokenModel)
    named = recipe if start is None else with_weights(recipe, start)
    return fit_label_tokens(model, [dataset], named, reporter or Reporter())[0]


def test_a_start_that_learned_from_the_reports_at_any_remove_is_warned_of(
    data: Path, tmp_path: Path
) -> None:
    class Heard(Reporter):
        warnings: ClassVar[list[str]] = []

        def warn(self, text: str) -> None:
            self.warnings.append(text)

    recipe = load_recipe(str(write_recipe(tmp_path, data, model=FROZEN)))
    first = make_run(tmp_path / "first", recipe)
    elsewhere = recipe.data.model_copy(update={"prepared": tmp_path / "other data"})
    apart = recipe.model_copy(update={"data": elsewhere})
    second = make_run(tmp_path / "second", with_weights(apart, first))
    fit(tmp_path, data, make_run(tmp_path / "unrelated", apart), Heard())
    assert not Heard.warnings
    for start in (first, second):
        fit(tmp_path, data, start, Heard())
        assert f"{start}, or what it started from, learned" in Heard.warnings.pop()


def test_a_study_s_own_report_does_not_reach_what_is_predicted_for_it(
    data: Path, tmp_path: Path
) -> None:
    other = Reworded("Clear lungs .")
    changed = prepare(other, tmp_path / "data", image_size=64, workers=1).out
    before, after = fit(tmp_path, data), fit(tmp_path, changed)
    first = next(iter(before.predicted))
    differ = [
        study for study in before.predicted
        if not torch.equal(before.predicted[study], after.predicted[study])
    ]  # fmt: skip
    assert torch.equal(before.predicted[first], after.predicted[first])
    assert not torch.equal(before.labelled[first], after.labelled[first])
    assert differ, "the fit of the other folds learned from the report"
    known = torch.stack([*before.predicted.values()])
    assert len(known[:, EFFUSION].unique()) > 2
    assert set(known[:, ABNORMAL.index("Fracture")].tolist()) == {4}


def test_a_backbone_that_is_trained_is_refused(data: Path, tmp_path: Path) -> None:
    model = FROZEN | {"backbone": FROZEN["backbone"] | {"frozen": False}}
    file = write_recipe(tmp_path, data, model=model)
    refused = radrep("train", file)
    assert refused.exit_code == 2
    told = " ".join(refused.stderr.split())
    assert "model.label_tokens needs model.backbone.frozen: true" in told
    assert "freeze it, or set model.label_tokens to null" in told
    for shares in ({"gold": 0.6, "dropped": 0.4}, {"buckets": 1}):
        file = write_recipe(tmp_path, data, model=FROZEN | {"label_tokens": shares})
        with pytest.raises(RecipeError, match=r"model\.label_tokens"):
            load_recipe(str(file))


def test_null_and_nothing_are_no_label_tokens_and_an_empty_section_its_defaults(
    data: Path, tmp_path: Path
) -> None:
    for written in ({}, {"label_tokens": None}):
        model = {key: value for key, value in FROZEN.items() if key != "label_tokens"} | written
        recipe = load_recipe(str(write_recipe(tmp_path, data, model=model)))
        assert recipe.model.label_tokens is None
        (tmp_path / "dumped.yaml").write_text(dump_recipe(recipe))
        assert load_recipe(str(tmp_path / "dumped.yaml")) == recipe
    recipe = load_recipe(str(write_recipe(tmp_path, data, model=FROZEN)))
    assert recipe.model.label_tokens.buckets == 4


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many") / "data"
    return prepare(Reworded(num=480), folder, image_size=64, workers=1).out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, many: Path) -> Path:
    folder = tmp_path_factory.mktemp("with tokens")
    transformer = {"dim": 64, "num_layers": 1, "num_heads": 4, "ff_dim": 128, "dropout": 0.0}
    tokens = {"gold": 0.8, "dropped": 0.1}
    result = radrep(
        "train",
        write_recipe(
            folder,
            many,
            model=FROZEN | {"transformer": transformer, "label_tokens": tokens},
            optim={"lr": 2e-3},
            train={"epochs": 6, "batch_size": 10, "log_every": 20},
            decode={"max_new_tokens": 60},
        ),
    )
    assert result.exit_code == 0, result.output
    assert "findings are predicted, mean AUROC" in " ".join(result.stderr.split())
    return folder / "run"


@pytest.mark.slow
@pytest.mark.usefixtures("without_java")
def test_generate_and_eval_read_label_tokens_without_the_training_data(
    run: Path, many: Path, tmp_path: Path
) -> None:
    films = write_films(many, tmp_path / "films", split="test")
    copy = tmp_path / "copied"
    shutil.copytree(run, copy, symlinks=True)
    recipe = find_checkpoint(copy) / "recipe.yaml"
    text = recipe.read_text()
    recipe.write_text(text.replace(str(many), str(tmp_path / "gone")))
    write_checksums(recipe.parent)
    result = radrep("generate", *films, "--checkpoint", copy, "--json")
    assert result.exit_code == 0, result.output
    generated = [json.loads(line)["report"] for line in result.stdout.splitlines()]
    recipe.write_text(text)
    write_checksums(recipe.parent)
    assert radrep("eval", copy, "--split", "test").exit_code == 0
    rows = (copy / "predictions-test.jsonl").read_text().splitlines()
    assert generated == [json.loads(row)["generated"] for row in rows[: len(films)]]
    drawn = radrep("generate", films[0], "--checkpoint", copy, "--heatmap", tmp_path / "a.png")
    assert drawn.exit_code == 0, drawn.output


@pytest.mark.slow
def test_a_stopped_run_draws_the_same_tokens_again(data: Path, tmp_path: Path) -> None:
    changes = {"train": {"epochs": 3, "save_every_steps": 3, "log_every": 1, "batch_size": 10}}
    (tmp_path / "whole").mkdir()
    whole = write_recipe(tmp_path / "whole", data, model=FROZEN, **changes)
    assert radrep("train", whole).exit_code == 0
    recipe = write_recipe(tmp_path, data, model=FROZEN, **changes)
    stop_midway("train", recipe, lines=7)
    resumed = radrep("train", recipe, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert read_metrics(tmp_path / "run") == read_metrics(tmp_path / "whole/run")
