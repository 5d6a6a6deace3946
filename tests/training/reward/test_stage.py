"""The policy gradient against a definition that can be read, on tiny models."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from radrep.build import build_model
from radrep.data.batch import Batch
from radrep.guidance.reward import RewardScorer, RewardWeights
from radrep.guidance.token_credit import credit_tokens
from radrep.models.base import PolicyModel
from radrep.recipe.load import load_recipe
from radrep.training.reward.stage import RewardOptions, RewardStage
from tests.models.test_emrrg import tiny_batch, tiny_model
from tests.whole_way import write_recipe

# Words that findings are made of by chance.
WORDS = ("effusion", "cardiomegaly", "no", ".", "clear", "pneumothorax", ".")
RAW = {
    "a": "effusion . clear",
    "b": "clear .",
    "c": "cardiomegaly . no pneumothorax",
    "d": "no effusion .",
}
LENGTH, SAMPLES, TEMPERATURE = 8, 4, 0.8


def csr_lmca(folder: Path) -> tuple[Any, Batch]:
    backbone = {"name": "test_resnet.r160_in1k", "weights": "none", "frozen": True}
    recipe = load_recipe(str(write_recipe(folder, folder, model={"backbone": backbone})))
    torch.manual_seed(0)
    model: Any = build_model(recipe, WORDS)
    patches = model.backbone.grid[0] * model.backbone.grid[1]
    tokens = torch.tensor([[0, 1, 4, 5, 0], [0, 5, 0, 0, 0], [0, 2, 4, 3, 6]])
    batch = Batch(
        ids=("a", "b", "c"),
        num_views=torch.tensor([1, 2, 1]),
        features=torch.randn(4, patches, model.backbone.out_dim),
        tokens=tokens,
        lengths=torch.tensor([5, 3, 5]),
        seeds=(3, 4, 5),
    )
    with torch.no_grad():  # words that depend on the study and on one another
        for parameter in model.encoder_decoder.parameters():
            parameter *= 2
    return model.eval(), batch


def emrrg(**how: Any) -> tuple[Any, Batch]:
    model = tiny_model(adapters=True, encoder_training="adapters", hybrid_every=2, **how)
    batch = replace(tiny_batch([1, 2, 1], model), ids=("a", "b", "c"), seeds=(3, 4, 5))
    return model, batch


def decode(ids: Sequence[int]) -> str:
    return " ".join(WORDS[i % len(WORDS)] for i in ids if i > 0)


def build(model: PolicyModel, **options: Any) -> RewardStage:
    scorer = RewardScorer(RAW, RAW, RewardWeights())
    given = {"samples": SAMPLES, "temperature": TEMPERATURE, "max_new_tokens": LENGTH} | options
    codec: Any = SimpleNamespace(decode=decode)
    return RewardStage(model, codec, scorer, RewardOptions(**given))


def step_by_step(model: Any, batch: Batch, study: int) -> Callable[[list[int]], Tensor]:
    """Log-probabilities of the next id of one study's report after those written so far."""
    views = batch.num_views.tolist()
    part = slice(sum(views[:study]), sum(views[: study + 1]))
    one = Batch(
        ids=(batch.ids[study],),
        num_views=batch.num_views[study : study + 1],
        features=None if batch.features is None else batch.features[part],
        images=None if batch.images is None else batch.images[part],
    )
    encoded = model.encode_studies(one)

    def next_of_csr_lmca(report: list[int]) -> Tensor:
        decoder = model.encoder_decoder
        return decoder.log_probs(encoded, torch.tensor([[0, *report]]))[0, -1]

    def next_of_emrrg(report: list[int]) -> Tensor:
        with model._shown(encoded) as prompt:
            words = model._words(torch.tensor([report], dtype=torch.long))
            inputs = torch.cat([prompt.embedded, words], dim=1)
            logits = model.language_model(inputs_embeds=inputs, use_cache=False).logits
        return logits[0, -1].log_softmax(-1)

    return next_of_csr_lmca if hasattr(model, "encoder_decoder") else next_of_emrrg


def slow_loss(model: Any, batch: Batch, end: int, credit: str, anchor: float) -> Tensor:
    """Each report by itself, word by word; expectations as they are written in the paper."""
    scorer = RewardScorer(RAW, RAW, RewardWeights())
    gain, terms = torch.zeros(()), model.num_loss_terms(batch)
    for study, id_ in enumerate(batch.ids):
        generator = torch.Generator().manual_seed(batch.seeds[study])
        numbers = torch.rand(SAMPLES, LENGTH, generator=generator)
        log_prob_of = step_by_step(model, batch, study)
        reports: list[list[int]] = []
        log_probs: list[list[Tensor]] = []
        for sample in range(SAMPLES):
            report: list[int] = []
            own: list[Tensor] = []
            while len(report) < LENGTH and (not report or report[-1] != end):
                scores = F.log_softmax(log_prob_of(report) / TEMPERATURE, dim=-1)
                reached = scores.exp().double().cumsum(-1)
                drawn = int((reached <= numbers[sample, len(report)]).sum())
                report.append(drawn)
                own.append(scores[drawn])
            reports.append(report)
            log_probs.append(own)
        texts = [decode(report) for report in reports]
        parts = scorer.score([id_], texts, texts)
        words = 0.1 * parts.cider[0] + 0.5 * parts.rouge[0]
        labels = parts.labels[0]
        for k in range(SAMPLES):
            others = [j for j in range(SAMPLES) if j != k]
            of_words = words[k] - np.mean(words[others])
            of_labels = labels[k] - np.mean(labels[others])
            owed = [True] * len(reports[k])
            if credit == "sentences" and abs(of_labels) > 1e-12:
                owed = credit_tokens(
                    decode,
                    reports[k],
                    parts.findings[k],
                    lambda named, id_=id_: scorer.label_f1(scorer.abnormal[id_], named),
                    better=of_labels > 0,
                ).tolist()
            for log_prob, is_owed in zip(log_probs[k], owed, strict=True):
                advantage = of_words + (of_labels if is_owed else 0)
                gain = gain + float(advantage) * log_prob / SAMPLES
    return -gain / terms + anchor * model.loss(batch)["loss"]


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("name", "credit"),
    [("csr_lmca", "sentences"), ("csr_lmca", "report"), ("emrrg", "sentences")],
)
def test_all_gradients_are_those_of_the_definition(tmp_path: Path, name: str, credit: str) -> None:
    model, batch = csr_lmca(tmp_path) if name == "csr_lmca" else emrrg()
    end = 0 if name == "csr_lmca" else model.language.eos_id
    found = build(model, credit=credit, anchor=0.2)(batch)
    fast = gradients(model, found["loss"])
    slow = slow_loss(model, batch, end, credit, 0.2)
    torch.testing.assert_close(found["loss"], slow, rtol=1e-4, atol=1e-6)
    expected = gradients(model, slow)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert fast.keys() == expected.keys() == trained
    assert sum(bool(grad.abs().max() > 1e-6) for grad in fast.values()) > len(fast) / 2
    for key, grad in fast.items():
        torch.testing.assert_close(grad, expected[key], rtol=1e-3, atol=2e-6, msg=key)


def test_rewards_differ_so_that_there_is_something_to_learn(tmp_path: Path) -> None:
    """Of what the tests above compare: reports, labels and tokens."""
    model, batch = csr_lmca(tmp_path)
    means = build(model)(batch)
    assert 1 < float(means["drawn_tokens"]) < LENGTH, "some reports end and some are cut"
    assert float(means["reward_labels"]) > 0
    total = 0.1 * means["reward_cider"] + 0.5 * means["reward_rouge"] + means["reward_labels"]
    assert float(means["reward"]) == pytest.approx(float(total))
    whole, sentences = (build(model, credit=how)(batch)["loss"] for how in ("report", "sentences"))
    assert not torch.isclose(whole, sentences)


@pytest.mark.parametrize("name", ["csr_lmca", "emrrg"])
def test_autocast_keeps_no_weights_of_the_draws(tmp_path: Path, name: str) -> None:
    """Weights cast without gradients would be reused with them: no parameter would learn."""
    model, batch = csr_lmca(tmp_path) if name == "csr_lmca" else emrrg()
    stage, real, drawn = build(model), model.draw, list[list[list[int]]]()
    found = []
    for draw in (lambda *given: drawn.append(real(*given)) or drawn[0], lambda *given: drawn[0]):
        model.draw = draw
        with torch.autocast("cpu", torch.bfloat16):
            loss = stage(batch)["loss"]
        found.append(gradients(model, loss))
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) == sum(p.requires_grad for p in model.parameters())
    for key, grad in found[0].items():
        torch.testing.assert_close(grad, found[1][key], msg=key)


def test_reports_are_scored_without_dropout_and_training_mode_stays(tmp_path: Path) -> None:
    model, batch = csr_lmca(tmp_path)
    model.train()
    encoded = model.encode(batch)
    drawn = model.draw(encoded, torch.rand(3, 2, LENGTH), 1.0)
    tokens = torch.zeros(6, LENGTH, dtype=torch.long)
    for row, ids in zip(tokens, drawn, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    once, again = (model.log_probs(encoded, tokens, 1.0) for _ in range(2))
    assert once.equal(again)
    assert all(part.training for part in model.encoder_decoder.modules())
    assert not model.likelihood(encoded, batch).equal(model.likelihood(encoded, batch))


def test_checkpointed_layers_give_the_same_gradients() -> None:
    found = []
    for checkpointed in (False, True):
        model, batch = emrrg(gradient_checkpointing=checkpointed)
        model.train()
        model.encoder.eval()
        found.append(gradients(model, build(model)(batch)["loss"]))
    for key, grad in found[0].items():
        torch.testing.assert_close(grad, found[1][key], rtol=1e-4, atol=1e-7, msg=key)


@pytest.mark.parametrize("samples", [2, 3])
def test_reports_are_scored_beside_their_own_study(tmp_path: Path, samples: int) -> None:
    """Two groups of as many reports as there are studies, too."""
    model, batch = csr_lmca(tmp_path)
    encoded = model.encode_studies(batch)
    drawn = model.draw(encoded, torch.rand(3, samples, LENGTH), 1.0)
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(d) for d in drawn], batch_first=True)
    found = model.log_probs(encoded, tokens, 1.0)
    for row, ids in enumerate(drawn):
        next_of = step_by_step(model, batch, row // samples)
        expected = [next_of(ids[:i])[word] for i, word in enumerate(ids)]
        torch.testing.assert_close(found[row, : len(ids)], torch.stack(expected))
        assert not found[row, len(ids) :].any()
