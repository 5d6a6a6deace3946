"""A sixth model costs its own file, one recipe section and one branch in build.py."""

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
import yaml
from torch import Tensor, nn

from radrep import build
from radrep.data.batch import Batch
from radrep.generation.contract import DecodeOptions
from radrep.models.base import Channels, EmbeddingModel, LabelModel, ReportModel
from radrep.recipe import load, models, problems
from radrep.recipe.models import ModelSection
from radrep.recipe.recipe import Recipe
from tests.whole_way import radrep, read_metrics, write_recipe

# ---- its own file: models/toy.py


class Toy(nn.Module):
    """The likeliest words of a report by the mean grey of its images, each word once."""

    def __init__(self, *, vocabulary_size: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 4)
        self.to_words = nn.Linear(4, vocabulary_size + 1)

    @property
    def pixel_stats(self) -> tuple[Channels, Channels]:
        return (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

    def encoder_parameters(self) -> list[nn.Parameter]:
        return list(self.encoder.parameters())

    def frozen_encoder(self) -> None:
        return None

    def checkpoint_state(self) -> dict[str, Tensor]:
        return self.state_dict()

    def num_loss_terms(self, batch: Batch) -> int:
        assert batch.lengths is not None
        return int((batch.lengths - 1).sum())

    def log_probs(self, batch: Batch) -> Tensor:
        """(b, words)."""
        assert batch.images is not None
        views = self.encoder(batch.images.mean(dim=(2, 3))).split(batch.num_views.tolist())
        return self.to_words(torch.stack([view.mean(dim=0) for view in views])).log_softmax(-1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.tokens is not None
        assert batch.lengths is not None
        targets = batch.tokens[:, 1:]
        real = torch.arange(targets.shape[1], device=targets.device) < batch.lengths[:, None] - 1
        return {"loss": -self.log_probs(batch).gather(1, targets)[real].mean()}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.loss(batch)

    def encode_images(self, batch: Batch, decode: DecodeOptions) -> Batch:
        return batch  # nothing of it takes time

    def summaries(self, batch: Batch) -> Tensor:
        assert batch.images is not None
        return batch.images.mean(dim=(2, 3))

    def frozen_summaries(self) -> None:
        return None

    def write(
        self, batch: Batch, decode: DecodeOptions, generator: torch.Generator | None = None
    ) -> list[list[int]]:
        with torch.no_grad():
            ranked = self.log_probs(batch)[:, 1:].topk(min(decode.max_new_tokens, 5)).indices + 1
        return [row.tolist() for row in ranked]

    def write_candidates(
        self, batch: Batch, decode: DecodeOptions, seed: int = 0
    ) -> list[list[list[int]]]:
        return [[ids] for ids in self.write(batch, decode)]

    def attention(self, batch: Batch, ids: list[int]) -> None:
        return None


# ---- one recipe section: recipe/models.py


class ToySection(ModelSection):
    """The toy."""

    output: ClassVar[Literal["reports"]] = "reports"
    name: Literal["toy"]


class RecipeWithToy(Recipe):
    model: ToySection  # type: ignore[assignment]


@pytest.fixture
def _sixth_model(monkeypatch: pytest.MonkeyPatch) -> None:
    registered = {**models.MODELS, "toy": ToySection}
    for module in (models, problems):
        monkeypatch.setattr(module, "MODELS", registered)
    monkeypatch.setattr("radrep.recipe.recipe.MODELS", registered)
    monkeypatch.setattr(load, "Recipe", RecipeWithToy)

    # ---- one branch in build.py: in front of the last one of build_model
    last_branch = build._build_contrastive

    def branch(section: Any, image_size: int, vocabulary_size: int, weights: bool) -> Any:
        if isinstance(section, ToySection):
            return Toy(vocabulary_size=vocabulary_size)
        return last_branch(section, image_size, vocabulary_size, weights)

    monkeypatch.setattr(build, "_build_contrastive", branch)


@pytest.mark.usefixtures("_sixth_model", "without_java", "shared_cache")
def test_it_trains_evaluates_and_generates(
    tmp_path: Path, phantoms: Path, films: list[Path]
) -> None:
    fast = {"lr": 0.1, "encoder_lr": 0.1}
    file = write_recipe(tmp_path, phantoms, train={"monitor": "val/bleu1"}, optim=fast)
    typed = yaml.safe_load(file.read_text()) | {"model": {"name": "toy"}}
    file.write_text(yaml.safe_dump(typed))
    trained = radrep("train", file)
    assert trained.exit_code == 0, trained.output
    losses = [row["loss"] for row in read_metrics(tmp_path / "run") if "loss" in row]
    assert losses[-1] < losses[0]
    scored = radrep("eval", tmp_path / "run", "--split", "val")
    assert scored.exit_code == 0, scored.output
    assert "published" in json.loads((tmp_path / "run/scores-val.json").read_text())["protocols"]
    assert (tmp_path / "run/report.html").is_file()
    written = radrep("generate", films[0], "--checkpoint", tmp_path / "run")
    assert written.exit_code == 0, written.output
    assert len(written.stdout.split()) == 5


def test_it_keeps_the_contract() -> None:
    toy = Toy(vocabulary_size=3)
    assert isinstance(toy, ReportModel)
    assert not isinstance(toy, LabelModel | EmbeddingModel)
