"""From the sections of a recipe to what a run learns by beside the likelihood."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from radrep.data.store import PreparedStudies
from radrep.data.tokenizer import ReportCodec, Tokenizer
from radrep.errors import RecipeError
from radrep.guidance.reward import RewardScorer, RewardWeights, named_abnormal
from radrep.guidance.token_credit import weigh_tokens
from radrep.metrics.labeler import label_report
from radrep.models.base import PolicyModel, TrainableModel
from radrep.recipe.recipe import Recipe
from radrep.recipe.training import Reward
from radrep.training.report_task import training_references
from radrep.training.reward.stage import RewardOptions, RewardStage


def build_objective(
    recipe: Recipe,
    model: TrainableModel,
    studies: PreparedStudies,
    codec: ReportCodec,
    tokenizer: Tokenizer,
) -> nn.Module:
    """The module whose call gives the loss of a batch: the model, or a `RewardStage` around it."""
    section = recipe.train.reward
    if section is None:
        assert isinstance(model, nn.Module), "models are modules"
        return model
    if not isinstance(model, PolicyModel):
        text = f"{recipe.model.name} draws no reports to reward; set train.reward: null"
        raise RecipeError("this recipe", [("train.reward", text)])
    references = training_references(recipe.data, studies, codec, tokenizer).texts
    ids, raw = studies.ids, studies.texts(recipe.data.target)
    scorer = RewardScorer(
        dict(zip(ids, references, strict=True)),
        dict(zip(ids, raw, strict=True)),
        RewardWeights(**_own(section, RewardWeights)),
    )
    limit = recipe.decode.max_new_tokens
    options = RewardOptions(max_new_tokens=limit, **_own(section, RewardOptions))
    return RewardStage(model, codec, scorer, options)


def _own(section: Reward, kind: type) -> dict[str, Any]:
    """The keys of a section that a class has too."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in section.model_dump().items() if name in names}


def count_repeats(recipe: Recipe, studies: PreparedStudies) -> np.ndarray | None:
    """How often an epoch reads each study, (n,); None for once."""
    times = recipe.train.repeat_abnormal
    if times == 1:
        return None
    named = [bool(named_abnormal(label_report(t))) for t in studies.texts(recipe.data.target)]
    return np.where(named, times, 1)


def token_weights(recipe: Recipe, codec: ReportCodec) -> Callable[[Sequence[int]], Tensor] | None:
    """Weights in the loss of the tokens of a report; None for 1."""
    weight = recipe.train.finding_weight
    return None if weight == 1 else partial(_weights, codec, weight)


def _weights(codec: ReportCodec, weight: float, ids: Sequence[int]) -> Tensor:
    return torch.from_numpy(weigh_tokens(codec.decode, weight, ids))
