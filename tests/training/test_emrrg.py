"""EMRRG the whole way: train, go on, evaluate, generate, with a language model of a few bytes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from radrep.inference.films import StudyFiles
from radrep.inference.generator import ReportGenerator
from radrep.recipe.training import Consensus, Decode
from radrep.weights.files import write_checksums
from tests.whole_way import radrep, read_metrics, stop_midway, write_recipe

MODEL: dict[str, Any] = {
    "name": "emrrg",
    "encoder": {"size": "tiny", "drop_path": 0.0},
    "train_encoder": "adapters",
    "lora": {"target": "X", "rank": 2},
    "visual_tokens": "pooled",
    "language_model": {"name": "tiny:llama", "precision": "fp32"},
    "hybrid": {"every_n_layers": 2},
}


def write(folder: Path, prepared: Path, **model: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = write_recipe(folder, prepared)
    recipe = yaml.safe_load(path.read_text())
    recipe["model"] = MODEL | model
    if recipe["model"].get("train_encoder") == "frozen":
        del recipe["model"]["lora"]  # without effect, so refused
    recipe["data"] |= {"random_crop": False, "max_tokens": 30}
    recipe["train"] |= {"epochs": 1, "save_every_steps": 2}
    recipe["decode"] = {"method": "greedy", "max_new_tokens": 8}
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="module")
def emrrg_run(tmp_path_factory: pytest.TempPathFactory, phantoms: Path) -> Path:
    folder = tmp_path_factory.mktemp("emrrg")
    result = radrep("train", write(folder, phantoms))
    assert result.exit_code == 0, result.output
    assert "adapters" in result.stderr, "the parameter table names its parts"
    return folder / "run"


def test_a_checkpoint_holds_no_frozen_language_model(emrrg_run: Path) -> None:
    names = load_file(emrrg_run / "best/weights.safetensors").keys()
    assert any(".adapters." in name for name in names)
    assert not any("embed_tokens" in name or "mlp" in name and "language" in name for name in names)


@pytest.mark.slow
def test_hybrid_layers_compute_activations_again_from_a_resume_on(
    emrrg_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(emrrg_run, tmp_path / "run", symlinks=True))
    changes = ("parallel.activation_checkpointing=true", "train.epochs=2")
    words = [word for change in changes for word in ("--set", change)]
    result = radrep("train", run, "--resume", *words)
    assert result.exit_code == 0, result.output
    losses = [row["loss"] for row in read_metrics(run) if "loss" in row]
    assert len(losses) == 8
    assert all(0 < loss < 99 for loss in losses)


def test_a_resumed_model_is_built_by_the_recipe_of_now(emrrg_run: Path) -> None:
    from radrep.recipe.load import load_recipe
    from radrep.weights.checkpoint import load_checkpoint

    change = ["parallel.activation_checkpointing=true"]
    recipe = load_recipe(str(emrrg_run / "best/recipe.yaml"), change)
    models: list[Any] = [
        load_checkpoint(emrrg_run / "best", built_by=each).model for each in (None, recipe)
    ]
    assert [len(model._checkpointed) for model in models] == [0, 3]


@pytest.mark.usefixtures("without_java", "shared_cache")
@pytest.mark.slow
def test_it_is_evaluated_and_writes_reports(emrrg_run: Path, films: list[Path]) -> None:
    result = radrep("eval", emrrg_run, "--split", "val")
    assert result.exit_code == 0, result.output
    protocols = json.loads((emrrg_run / "scores-val.json").read_text())["protocols"]
    assert list(protocols) == ["published", "published_llm", "full"]
    assert protocols["published_llm"]["tokenizer"] == "tiny:llama"
    assert protocols["published_llm"]["references_cut"] == 8  # at 30 bytes, every one
    first, again = (radrep("generate", films[0], "--checkpoint", emrrg_run) for _ in range(2))
    assert first.exit_code == 0, first.output
    assert first.stdout == again.stdout
    picture = radrep("generate", films[0], "--checkpoint", emrrg_run, "--heatmap", "looks.png")
    assert picture.exit_code == 2
    assert "--heatmap" in picture.stderr


@pytest.mark.usefixtures("without_java", "shared_cache")
@pytest.mark.slow
def test_what_was_imported_without_data_is_scored_by_the_words_of_training(
    emrrg_run: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree((emrrg_run / "best").resolve(), bare)
    vocabulary = json.loads((bare / "vocabulary.json").read_text())
    (bare / "vocabulary.json").write_text(json.dumps(vocabulary | {"vocabulary": ["<unk>"]}))
    write_checksums(bare)
    scores = []
    for checkpoint in (emrrg_run, bare):
        result = radrep("eval", checkpoint, "--split", "val", "--out", tmp_path / "out")
        assert result.exit_code == 0, result.output
        scores.append(json.loads((tmp_path / "out/scores-val.json").read_text())["protocols"])
    assert scores[0] == scores[1]


def test_sampling_is_refused_and_a_preset_is_taken(emrrg_run: Path, films: list[Path]) -> None:
    words = ("generate", films[0], "--checkpoint", emrrg_run)
    sampled = radrep(*words, "--method", "sample")
    assert sampled.exit_code == 2
    assert "emrrg writes by beam, greedy, select or consensus" in sampled.stderr
    selected = radrep(*words, "--method", "select", "--json")
    assert selected.exit_code == 0, selected.output
    assert json.loads(selected.stdout)["made"] == "selected"
    drawn = ReportGenerator(emrrg_run).loaded.recipe.decode.model_copy(
        update={"method": "consensus", "consensus": Consensus(samples=2, temperature=2.0)}
    )
    generator = ReportGenerator(emrrg_run, decode=drawn)
    together = [each.text for each in generator.write_all([StudyFiles((f,)) for f in films])]
    assert [generator.write(film).text for film in films] == together
    plain, preset = (
        ReportGenerator(emrrg_run).loaded.recipe,
        radrep(*words, "--json", "--preset", "mambaxray_iu", "--beam-size", 2),
    )
    assert preset.exit_code == 0, preset.output
    settings = Decode(preset="mambaxray_iu", beam_size=2, batch_size=plain.decode.batch_size)
    report = json.loads(preset.stdout)["report"]
    assert ReportGenerator(emrrg_run, decode=settings).write(films[0]).text == report
    unknown = radrep(*words, "--preset", "padchest")
    assert unknown.exit_code == 2
    assert "decode.preset" in unknown.stderr
    assert "'mambaxray_iu', 'mambaxray_mimic' or 'mambaxray_chexpert_plus'" in unknown.stderr


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_curve(
    emrrg_run: Path, phantoms: Path, tmp_path: Path
) -> None:
    recipe = write(tmp_path, phantoms)
    stop_midway("train", recipe, lines=3)
    resumed = radrep("train", recipe, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert read_metrics(tmp_path / "run") == read_metrics(emrrg_run)


@pytest.mark.slow
def test_a_frozen_encoder_is_read_from_the_cache(phantoms: Path, tmp_path: Path) -> None:
    recipe = write(tmp_path, phantoms, train_encoder="frozen", hybrid=None)
    result = radrep("train", recipe)
    assert result.exit_code == 0, result.output
    assert "image features" in result.stderr
    again = radrep("train", recipe)
    assert "from the cache" in again.stderr
    assert read_metrics(tmp_path / "run") == read_metrics(tmp_path / "run-2")
