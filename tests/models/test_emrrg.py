from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radrep.data.batch import Batch
from radrep.errors import CheckpointError
from radrep.models.emrrg import PROMPT, Emrrg
from radrep.modules.hybrid_decoder import VisualCrossAttention
from radrep.modules.language_model import load_language_model
from radrep.modules.low_rank import LowRankLinear

LONG: dict[str, Any] = {
    "num_beams": 3,
    "min_new_tokens": 4,
    "max_new_tokens": 12,
    "repetition_penalty": 2.0,
    "length_penalty": 2.0,
}


class TinyEncoder(nn.Module):
    """Twelve patches and a class token, as `XrayMamba` gives them."""

    dim, grid, class_index = 16, (3, 4), 6

    def __init__(self) -> None:
        super().__init__()
        self.patches = LowRankLinear(3 * 8 * 8, self.dim)
        self.mixer = nn.Linear(self.dim, self.dim)
        self.class_token = nn.Parameter(torch.randn(1, 1, self.dim))
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        patches = F.unfold(images, 8, stride=8).transpose(1, 2)
        tokens = self.mixer(self.dropout(self.patches(patches)))
        middle = self.class_token.expand(len(images), -1, -1)
        return torch.cat([tokens[:, :6], middle, tokens[:, 6:]], dim=1)


def tiny_model(
    family: str = "llama", *, dtype: torch.dtype = torch.float32, adapters: bool = False, **how: Any
) -> Emrrg:
    torch.manual_seed(0)
    encoder: Any = TinyEncoder()
    if adapters:
        encoder.patches.add_adapter("X", rank=2)
    language = load_language_model(f"tiny:{family}", cache_folder=Path(), dtype=dtype)
    model = Emrrg(encoder=encoder, language=language, **how)
    # Initial weights are so small that the likeliest next token is nearly the same everywhere.
    with torch.no_grad():
        for name, parameter in model.language_model.named_parameters():
            if name.endswith(".weight") and "proj" in name and "lora_" not in name:
                parameter *= 8
    for part in model.modules():
        if isinstance(part, VisualCrossAttention):
            nn.init.constant_(part.warm_up, 1.0)
    return model.eval()


def tiny_batch(num_views: list[int], model: Emrrg) -> Batch:
    torch.manual_seed(1)
    texts = ["no effusion .", "heart size is normal . lungs clear .", "x"][: len(num_views)]
    reports = [model.language.encode_report(text, 99) for text in texts]
    length = max(map(len, reports))
    pad = [model.language.pad]
    return Batch(
        ids=tuple(map(str, range(len(num_views)))),
        num_views=torch.tensor(num_views),
        images=30 * torch.randn(sum(num_views), 3, 24, 32),
        tokens=torch.tensor([report + pad * (length - len(report)) for report in reports]),
        lengths=torch.tensor([len(report) for report in reports]),
    )


def one_study(batch: Batch, study: int) -> Batch:
    assert batch.images is not None
    assert batch.tokens is not None
    assert batch.lengths is not None
    first = int(batch.num_views[:study].sum())
    rows = slice(study, study + 1)
    return Batch(
        ids=batch.ids[rows],
        num_views=batch.num_views[rows],
        images=batch.images[first : first + int(batch.num_views[study])],
        tokens=batch.tokens[rows, : int(batch.lengths[study])],
        lengths=batch.lengths[rows],
    )


def prompts(model: Emrrg, batch: Batch) -> Tensor:
    """The prompt of every study, put together by hand."""
    assert batch.images is not None
    tokens = model.encoder(batch.images)
    studies = torch.stack([views.mean(0) for views in tokens.split(batch.num_views.tolist())])
    if model.visual_tokens == "pooled":
        grid = studies[:, [*range(6), *range(7, 13)]].unflatten(1, (3, 4))
        pooled = [grid[:, i : i + 2, j : j + 2].mean((1, 2)) for i in (0, 2) for j in (0, 2)]
        studies = torch.stack(pooled, dim=1)
    embed = model.language_model.get_input_embeddings()
    begin = [] if model.language.begin is None else [model.language.begin]
    before = embed(torch.tensor([*begin, *model.language.encode(PROMPT[0])]))
    after = embed(torch.tensor(model.language.encode(PROMPT[1])))
    visual = model.projector(studies)
    assert isinstance(visual, Tensor)
    return torch.stack([torch.cat([before, rows.to(before.dtype), after]) for rows in visual])


SETUPS: list[dict[str, Any]] = [
    {"family": "llama"},
    {"family": "qwen2", "visual_tokens": "pooled"},
    {"family": "llama", "visual_tokens": "pooled", "hybrid_every": 2},
    {"family": "qwen2", "hybrid_every": 2, "language_training": "lora"},
]


def test_the_prompt_reads_as_published() -> None:
    assert (
        f"{PROMPT[0]}{PROMPT[1]}" == "Human: <Img></Img> Generate a comprehensive and detailed "
        "diagnosis report for this chest xray image. \nAssistant:"
    )


@pytest.mark.parametrize("setup", SETUPS[:2])
def test_loss_is_the_cross_entropy_of_report_and_end_alone(setup: dict[str, Any]) -> None:
    model = tiny_model(**setup)
    batch = tiny_batch([2, 1, 3], model)
    assert batch.tokens is not None
    assert batch.lengths is not None
    losses = []
    for study, prompt in enumerate(prompts(model, batch)):
        report = batch.tokens[study, : int(batch.lengths[study])]
        assert int(report[-1]) == model.language.end
        words = model.language_model.get_input_embeddings()(report)
        logits = model.language_model(inputs_embeds=torch.cat([prompt, words])[None]).logits[0]
        log_probs = logits.log_softmax(-1)
        for place, token in enumerate(report.tolist(), start=len(prompt)):
            losses.append(-log_probs[place - 1, token])
    torch.testing.assert_close(model.loss(batch)["loss"], torch.stack(losses).mean())
    torch.testing.assert_close(model(batch)["loss"], model.loss(batch)["loss"])


@pytest.mark.parametrize("setup", SETUPS)
def test_padding_never_changes_the_loss(setup: dict[str, Any]) -> None:
    model = tiny_model(**setup)
    batch = tiny_batch([2, 1, 3], model)
    assert batch.tokens is not None
    expected = model.loss(batch)["loss"]
    for padding in (model.language.end, 7):
        longer = replace(batch, tokens=F.pad(batch.tokens, (0, 5), value=padding))
        torch.testing.assert_close(model.loss(longer)["loss"], expected)


def test_cached_tokens_are_as_good_as_images() -> None:
    model = tiny_model(hybrid_every=2)
    batch = tiny_batch([2, 1], model)
    assert batch.images is not None
    cached = replace(batch, images=None, features=model.encoder(batch.images))
    torch.testing.assert_close(model.loss(cached)["loss"], model.loss(batch)["loss"])


@pytest.mark.parametrize("setup", SETUPS)
def test_greedy_reports_equal_the_full_pass_step_by_step(setup: dict[str, Any]) -> None:
    model = tiny_model(**setup)
    batch = tiny_batch([2, 1, 3], model)
    reports = model.generate(batch, num_beams=1, max_new_tokens=10)
    assert len({tuple(report) for report in reports}) > 1  # they do depend on the images
    embed = model.language_model.get_input_embeddings()
    for study in range(3):
        written: list[int] = []
        one = one_study(batch, study)
        while len(written) < 10:
            with torch.no_grad(), model._shown(model.encode(one)) as prompt:
                words = embed(torch.tensor([written], dtype=torch.long))
                inputs = torch.cat([prompt, words], dim=1)
                logits = model.language_model(inputs_embeds=inputs, use_cache=False).logits
            token = int(logits[0, -1].argmax())
            if token == model.language.end:
                break
            written.append(token)
        assert reports[study] == written


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize(
    "settings", [LONG, {"num_beams": 3, "min_new_tokens": 0, "max_new_tokens": 12}]
)
def test_one_study_at_a_time_equals_any_batch(
    setup: dict[str, Any], settings: dict[str, Any]
) -> None:
    model = tiny_model(**setup)
    batch = tiny_batch([2, 1, 3], model)
    together = model.generate(batch, **settings)
    assert together == [
        one for study in range(3) for one in model.generate(one_study(batch, study), **settings)
    ]
    assert all(settings["min_new_tokens"] <= len(report) <= 12 for report in together)
    assert model.language.end not in sum(together, [])


def beams_over_full_passes(model: Emrrg, batch: Batch, *, num_beams: int, steps: int) -> list[int]:
    """The best of some beams of one study, every step of every beam computed anew.

    None of them ends before the last step: the end is never taken.
    """
    embed = model.language_model.get_input_embeddings()
    beams: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(steps):
        found = []
        for score, written in beams:
            with torch.no_grad(), model._shown(model.encode(batch)) as prompt:
                words = embed(torch.tensor([written], dtype=torch.long))
                inputs = torch.cat([prompt, words], dim=1)
                logits = model.language_model(inputs_embeds=inputs, use_cache=False).logits
            steps_left = logits[0, -1].log_softmax(dim=-1)
            steps_left[model.language.end] = -torch.inf
            values, tokens = steps_left.topk(num_beams)
            found += [
                (score + value, [*written, token])
                for value, token in zip(values.tolist(), tokens.tolist(), strict=True)
            ]
        beams = sorted(found, reverse=True)[:num_beams]
    return beams[0][1]


@pytest.mark.parametrize("setup", SETUPS)
def test_beams_with_a_cache_equal_beams_over_full_passes(setup: dict[str, Any]) -> None:
    model = tiny_model(**setup)
    batch = tiny_batch([2, 1], model)
    length = {"min_new_tokens": 8, "max_new_tokens": 8}
    cached = model.generate(batch, num_beams=4, **length)
    for study in range(2):
        expected = beams_over_full_passes(model, one_study(batch, study), num_beams=4, steps=8)
        assert cached[study] == expected
    assert model.generate(batch, num_beams=1, **length) != cached


def test_nothing_of_a_batch_stays_behind() -> None:
    model = tiny_model(hybrid_every=2)
    batch = tiny_batch([2, 1], model)
    assert model._context is not None
    model.loss(batch)
    assert model._context.seen is None
    model.generate(batch, num_beams=2, max_new_tokens=3)
    assert model._context.seen is None
    with pytest.raises(IndexError):
        model.loss(replace(batch, tokens=torch.full((2, 4), 10**6)))
    assert model._context.seen is None


@pytest.mark.parametrize(
    ("how", "trained"),
    [
        ({"encoder_training": "frozen"}, {"projector"}),
        ({"encoder_training": "adapters", "adapters": True}, {"projector", "encoder adapters"}),
        ({"encoder_training": "trained"}, {"projector", "encoder"}),
        (
            {"encoder_training": "trained", "adapters": True, "language_training": "lora"},
            {"projector", "encoder", "encoder adapters", "language model LoRA"},
        ),
        (
            {"encoder_training": "frozen", "hybrid_every": 2, "language_training": "lora"},
            {"projector", "hybrid layers", "language model LoRA"},
        ),
        (
            {"encoder_training": "frozen", "hybrid_every": 3, "language_training": "trained"},
            {"projector", "hybrid layers", "language model"},
        ),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exactly_what_is_to_learn_learns(
    how: dict[str, Any], trained: set[str], dtype: torch.dtype
) -> None:
    model = tiny_model(dtype=dtype, **how)
    table = model.parameter_table()
    assert {part for part, _, count in table if count} == trained
    assert all(count in (0, total) for _, total, count in table)
    assert sum(total for _, total, _ in table) == sum(p.numel() for p in model.parameters())
    assert sum(count for *_, count in table) == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )
    for name, parameter in model.named_parameters():  # zero-started halves let no gradient through
        if name.endswith((".up", "lora_B.default.weight")):
            nn.init.normal_(parameter)
    model.train()
    model.loss(tiny_batch([2, 1], model))["loss"].backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.dtype == torch.float32, name
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name


def test_the_encoders_mixers_are_counted() -> None:
    rows = {part: total for part, total, _ in tiny_model(adapters=True).parameter_table()}
    assert rows["encoder"] == (192 * 16 + 16) + (16 * 16 + 16) + 16
    assert rows["encoder adapters"] == 2 * (192 + 16)
    assert rows["projector"] == 16 * 128 + 128 + 2 * 128


def test_gradients_through_a_bfloat16_model_are_those_of_a_float32_one() -> None:
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny_model(dtype=dtype, encoder_training="trained", hybrid_every=2)
        model.loss(tiny_batch([2, 1], model))["loss"].backward()
        grads.append(
            torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        )
    assert F.cosine_similarity(*grads, dim=0) > 0.98
    torch.testing.assert_close(grads[0].norm(), grads[1].norm(), rtol=0.1, atol=0)


def test_lora_changes_nothing_at_first() -> None:
    plain, lora = tiny_model(), tiny_model(language_training="lora")
    batch = tiny_batch([2, 1], plain)
    torch.testing.assert_close(lora.loss(batch)["loss"], plain.loss(batch)["loss"])
    rows = {part: total for part, total, _ in lora.parameter_table()}
    assert rows["language model LoRA"] == 3 * 16 * ((128 + 128) + (128 + 64))


def test_frozen_parts_stay_in_evaluation_mode() -> None:
    model = tiny_model(encoder_training="frozen", hybrid_every=2).train()
    assert not model.encoder.training
    assert not model.encoder.dropout.training
    assert not model.language_model.training
    crosses = [part for part in model.modules() if isinstance(part, VisualCrossAttention)]
    assert all(cross.training for cross in crosses)
    model.eval()
    assert not any(cross.training for cross in crosses)
    model = tiny_model(encoder_training="trained", language_training="lora").train()
    assert model.encoder.dropout.training
    assert model.language_model.training


@pytest.mark.parametrize("setup", [*SETUPS, {"language_training": "trained"}])
def test_own_state_brings_a_trained_model_back(setup: dict[str, Any]) -> None:
    model = tiny_model(**setup)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    state = {name: tensor.clone() for name, tensor in model.own_state().items()}
    if model.language_training != "trained":
        assert not any(name.endswith("embed_tokens.weight") for name in state)
    fresh = tiny_model(**setup)
    batch = tiny_batch([2, 1], model)
    assert not torch.equal(fresh.loss(batch)["loss"], model.loss(batch)["loss"])
    fresh.load_own_state(state)
    torch.testing.assert_close(fresh.loss(batch)["loss"], model.loss(batch)["loss"])


def test_a_state_of_another_model_is_told() -> None:
    model = tiny_model()
    state = dict(model.own_state())
    state["projector.9.weight"] = state.pop("projector.0.weight")
    state["projector.1.bias"] = torch.zeros(3)
    with pytest.raises(
        CheckpointError,
        match=r"1 tensors are missing \(first: \['projector.0.weight'\]\), 1 are unknown "
        r"\(first: \['projector.9.weight'\]\), 1 have another shape",
    ):
        model.load_own_state(state)


def test_encoder_parameters_are_the_encoders() -> None:
    model = tiny_model()
    assert {id(p) for p in model.encoder_parameters()} == {
        id(p) for p in model.encoder.parameters()
    }


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"encoder_training": "half"}, "encoder_training must be one of frozen, adapters, trained"),
        ({"language_training": "no"}, "language_training must be one of frozen, lora, trained"),
        ({"visual_tokens": "few"}, "visual_tokens must be one of all, pooled, got 'few'"),
        ({"encoder_training": "adapters"}, "the encoder has none"),
    ],
)
def test_impossible_choices_are_told(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_model(**how)


def test_a_frozen_encoder_keeps_its_precision_under_autocast() -> None:
    for training in ("frozen", "trained"):
        model = tiny_model(encoder_training=training)
        batch = tiny_batch([2, 1], model)
        plain = model.encode(batch)
        with torch.autocast("cpu", torch.bfloat16):
            under_autocast = model.encode(batch)
        assert torch.equal(under_autocast.float(), plain) == (training == "frozen")
