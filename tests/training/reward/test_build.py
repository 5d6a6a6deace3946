"""Rewards and weights of findings through the command."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from radrep.data.store import PreparedStudies
from radrep.data.tokenizer import Tokenizer
from radrep.errors import RecipeError
from radrep.metrics.labeler import label_reports
from radrep.models.base import mean_token_loss
from radrep.recipe.load import dump_recipe, load_recipe
from radrep.training.folds import fold_recipe
from radrep.training.reward.build import count_repeats, token_weights
from tests.whole_way import radrep, read_metrics, stop_midway, write_recipe

FROZEN: dict[str, Any] = {
    "backbone": {"name": "test_resnet.r160_in1k", "weights": "none", "frozen": True},
    "projection_dropout": 0.0,
    "enhancer": {"mode": "none"},
    "transformer": {"dim": 16, "num_layers": 1, "num_heads": 2, "ff_dim": 16, "dropout": 0.0},
}
DECODE = {"method": "greedy", "max_new_tokens": 40, "select": None}
PARTS = ("reward", "reward_cider", "reward_rouge", "reward_labels", "drawn_tokens")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, phantoms: Path) -> Path:
    """A run that learned by likelihood, to start from."""
    folder = tmp_path_factory.mktemp("start")
    train = {"epochs": 12, "log_every": 4}
    optim = {"lr": 1e-2, "encoder_lr": 1e-2}
    file = write_recipe(folder, phantoms, train=train, model=FROZEN, decode=DECODE, optim=optim)
    done = radrep("train", file)
    assert done.exit_code == 0, done.output
    return folder / "run"


def write(folder: Path, prepared: Path, start: Path, **train: Any) -> Path:
    folder.mkdir(exist_ok=True)
    given = {"start_from": str(start), "reward": {}, "epochs": 1} | train
    optim = {"lr": 2e-3, "encoder_lr": 2e-3}
    return write_recipe(folder, prepared, train=given, model=FROZEN, decode=DECODE, optim=optim)


def rewards_of(run: Path) -> list[list[float]]:
    rows = [row for row in read_metrics(run) if "loss" in row]
    return [[row["loss"], row["grad_norm"], *(row[part] for part in PARTS)] for row in rows]


def test_accumulated_batches_draw_and_learn_as_one(
    tmp_path: Path, phantoms: Path, start: Path
) -> None:
    curves = []
    for name, sizes in (
        ("whole", {"batch_size": 8}),
        ("parts", {"batch_size": 2, "grad_accum_steps": 4}),
    ):
        done = radrep("train", write(tmp_path / name, phantoms, start, **sizes))
        assert done.exit_code == 0, done.output
        assert "  reward 0." in done.output
        curves.append(rewards_of(tmp_path / name / "run"))
    assert len(curves[0]) == 4
    np.testing.assert_allclose(curves[0], curves[1], rtol=2e-3)


@pytest.mark.slow
def test_two_processes_draw_and_learn_as_one(tmp_path: Path, phantoms: Path, start: Path) -> None:
    curves = []
    for name, size in (("one", 8), ("two", 4)):
        recipe = write(tmp_path / name, phantoms, start, batch_size=size)
        command = [sys.executable, "-m", "radrep", "train", str(recipe)]
        if name == "two":
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
            command[1:3] = [*launcher, "-m", "radrep"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        curves.append(rewards_of(tmp_path / name / "run"))
    np.testing.assert_allclose(curves[0], curves[1], rtol=2e-3)


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_same_rewards(
    tmp_path: Path, phantoms: Path, start: Path
) -> None:
    sizes = {"epochs": 3, "batch_size": 4, "save_every_steps": 3, "log_every": 2}
    assert radrep("train", write(tmp_path / "whole", phantoms, start, **sizes)).exit_code == 0
    recipe = write(tmp_path / "stopped", phantoms, start, **sizes)
    stop_midway("train", recipe, lines=7)
    resumed = radrep("train", recipe, "--resume")
    assert resumed.exit_code == 0, resumed.output
    runs = [tmp_path / name / "run" for name in ("stopped", "whole")]
    assert read_metrics(runs[0]) == read_metrics(runs[1])


@pytest.mark.slow
def test_training_raises_the_mean_reward(tmp_path: Path, phantoms: Path, start: Path) -> None:
    recipe = write(tmp_path, phantoms, start, epochs=30, log_every=4)
    assert radrep("train", recipe).exit_code == 0
    rewards = [row["reward"] for row in read_metrics(tmp_path / "run") if "reward" in row]
    before, after = np.mean(rewards[:3]), np.mean(rewards[-3:])
    assert after > before + 0.05, rewards


def test_a_run_to_start_from_must_be_of_this_model_and_these_words(
    tmp_path: Path, phantoms: Path, start: Path
) -> None:
    recipe = write(tmp_path, phantoms, start)
    for change, words in (
        ("model.memory.size=32", "its model.memory.size is 16, that of this recipe 32"),
        ("data.tokenizer.min_count=9", "has a vocabulary of"),
        ("train.start_from=null", "must name the run to start from"),
        ("train.start_from=runs/none", "not found"),
    ):
        refused = radrep("train", recipe, "--set", change)
        assert refused.exit_code == 2, refused.output
        assert words in " ".join(refused.stderr.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_emrrg_learns_from_rewards_what_its_recipe_trains(tmp_path: Path, phantoms: Path) -> None:
    language = {"name": "tiny:llama", "precision": "bf16", "gradient_checkpointing": True}
    model = {
        "name": "emrrg", "encoder": {"size": "tiny"}, "train_encoder": "adapters",
        "language_model": language, "hybrid": {"every_n_layers": 2},
    }  # fmt: skip

    def write_emrrg(**train: Any) -> Path:
        given = {"epochs": 1, "precision": "bf16"} | train
        file = write_recipe(tmp_path, phantoms, train=given, decode=DECODE)
        written = yaml.safe_load(file.read_text())
        written["data"]["random_crop"] = False
        file.write_text(yaml.safe_dump(written | {"model": model}))
        return file

    assert radrep("train", write_emrrg()).exit_code == 0
    rewarded = write_emrrg(start_from=str(tmp_path / "run"), reward={"samples": 2, "anchor": 0.0})
    done = radrep("train", rewarded, "--out", tmp_path / "rewarded")
    assert done.exit_code == 0, done.output
    weights = [load_file(tmp_path / n / "best/weights.safetensors") for n in ("run", "rewarded")]
    changed = {name for name in weights[0] if not weights[0][name].equal(weights[1][name])}
    assert any(".adapters." in name for name in changed)
    assert any(name.startswith("projector.") for name in changed)
    assert all(
        ".adapters." in name or ".cross." in name or name.startswith("projector.")
        for name in changed
    )
    language["train"] = "lora"
    refused = radrep("train", write_emrrg(start_from=str(tmp_path / "run"), reward={}))
    assert refused.exit_code == 2
    assert "gradient_checkpointing: false and train: frozen" in " ".join(refused.stderr.split())


def test_rewards_are_for_models_that_write_reports() -> None:
    for change in ("train.start_from=runs/x", "train.finding_weight=2", "train.repeat_abnormal=2"):
        refused = radrep("train", "sdam_discriminator_cpu", "--set", change)
        assert refused.exit_code == 2
        assert "is for models that write reports" in " ".join(refused.stderr.split())


def test_a_fold_starts_from_the_same_fold(tmp_path: Path, phantoms: Path, start: Path) -> None:
    recipe = load_recipe(str(write(tmp_path, phantoms, start)))
    with pytest.raises(RecipeError, match=r"train.start_from.*Train its folds first"):
        fold_recipe(recipe, 1, 3)
    fold = tmp_path / "base-folds/fold-1"
    (fold / "best").mkdir(parents=True)
    (fold / "best/weights.safetensors").touch()
    changes = ["data.fold.number=1", "data.fold.of=3"]
    written = load_recipe(str(write_recipe(tmp_path, phantoms, model=FROZEN)), changes)
    (fold / "best/recipe.yaml").write_text(dump_recipe(written))
    found = fold_recipe(load_recipe(str(write(tmp_path, phantoms, tmp_path / "base"))), 1, 3)
    assert found.train.start_from == fold


def test_what_is_abnormal_comes_again_and_weighs_more(tmp_path: Path, phantoms: Path) -> None:
    studies = PreparedStudies(phantoms, "train")
    named = [
        any(s == "positive" for n, s in found.states.items() if n != "No Finding")
        for found in label_reports(studies.texts("findings"))
    ]
    assert 0 < sum(named) < len(named)
    train = {"repeat_abnormal": 3, "finding_weight": 4.0}
    recipe = load_recipe(str(write_recipe(tmp_path, phantoms, train=train)))
    counts = count_repeats(recipe, studies)
    assert counts is not None
    assert counts.tolist() == [3 if own else 1 for own in named]
    tokenizer = Tokenizer.build(studies.texts("findings"), min_count=1, cleaner="plain")
    weigh = token_weights(recipe, tokenizer)
    assert weigh is not None
    for text, own in zip(studies.texts("findings"), named, strict=True):
        weights = weigh(tokenizer.encode(text, 60))
        assert weights[0] == 1
        assert bool((weights == 4).any()) == own
    plain = load_recipe(str(write_recipe(tmp_path, phantoms)))
    assert count_repeats(plain, studies) is None
    assert token_weights(plain, tokenizer) is None


def test_repeats_and_weights_train(tmp_path: Path, phantoms: Path) -> None:
    train = {"repeat_abnormal": 2, "finding_weight": 4.0, "epochs": 1}
    file = write_recipe(tmp_path, phantoms, train=train, model=FROZEN, decode=DECODE)
    done = radrep("train", file)
    assert done.exit_code == 0, done.output
    counts = count_repeats(load_recipe(str(file)), PreparedStudies(phantoms, "train"))
    assert counts is not None
    steps = [row for row in read_metrics(tmp_path / "run") if "loss" in row]
    assert len(steps) == -(-int(counts.sum()) // 8)


def test_losses_of_findings_weigh_more() -> None:
    losses, real = torch.tensor([[1.0, 2.0, 5.0]]), torch.tensor([[True, True, False]])
    assert mean_token_loss(losses, real, None) == 1.5
    assert mean_token_loss(losses, real, torch.tensor([[1.0, 4.0, 9.0]])) == 4.5
