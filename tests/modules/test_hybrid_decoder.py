from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from radrep.errors import CheckpointError
from radrep.modules.hybrid_decoder import (
    VisualContext,
    VisualCrossAttention,
    add_hybrid_layers,
)

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
}


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    made: Callable[[], PreTrainedModel] = FAMILIES[request.param]
    model = made().eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # Qwen2's start at 0
            torch.nn.init.normal_(parameter)
    return model


def layers(model: PreTrainedModel) -> list[VisualCrossAttention]:
    return [part for part in model.modules() if isinstance(part, VisualCrossAttention)]


def wake(model: PreTrainedModel, warm_up: float = 1.5) -> None:
    for cross in layers(model):
        torch.nn.init.constant_(cross.warm_up, warm_up)
        torch.nn.init.normal_(cross.gate.weight)


def see(context: VisualContext, studies: int = 2, seed: int = 5, num_beams: int = 1) -> None:
    """Four visual tokens a study, of which the first study's last is padding, and no image ones."""
    torch.manual_seed(seed)
    mask = torch.ones(studies, 4, dtype=torch.bool)
    mask[0, 3] = False
    text = torch.ones(studies, 6, dtype=torch.bool)
    text[:, 2:4] = False
    context.set(torch.randn(studies, 4, 32), mask, text, num_beams)


def logits(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    return model(input_ids=tokens).logits


TOKENS = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(3))


def test_at_first_nothing_changes(model: PreTrainedModel) -> None:
    before = logits(model, TOKENS)
    names = set(model.state_dict())
    context = add_hybrid_layers(model, 2)
    assert [hasattr(layer, "cross") for layer in model.model.layers] == [
        True,
        False,
        True,
    ]
    assert names <= set(model.state_dict())  # the layer's own weights keep their names
    torch.testing.assert_close(logits(model, TOKENS), before)
    see(context)
    torch.testing.assert_close(logits(model, TOKENS), before)


def test_awake_layers_see_the_image_at_text_positions_only(model: PreTrainedModel) -> None:
    context = add_hybrid_layers(model, 3)  # layer 0 alone, so that nothing goes on from it
    wake(model)
    blind = logits(model, TOKENS)
    seen = []
    for seed in (5, 6):
        see(context, seed=seed)
        seen.append(model(input_ids=TOKENS, output_hidden_states=True).logits)
    assert not torch.allclose(seen[0], seen[1])
    assert not torch.allclose(seen[0], blind)
    see(context)
    inputs = torch.randn(2, 9, 32)
    layer = model.model.layers[0]
    rotary = model.model.rotary_emb(inputs, torch.arange(9)[None])
    with_image = layer(inputs, position_embeddings=rotary)
    context.reset()
    without = layer(inputs, position_embeddings=rotary)
    changed = (with_image - without).abs().amax(dim=(0, 2)) > 1e-6
    assert changed.tolist() == [True, True, False, False, True, True, True, True, True]


def test_a_layer_equals_its_definition(model: PreTrainedModel) -> None:
    context = add_hybrid_layers(model, 3)
    wake(model)
    see(context)
    layer = model.model.layers[0]
    attention = layer.self_attn
    hidden = torch.randn(2, 9, 32)
    cos, sin = model.model.rotary_emb(hidden, torch.arange(9)[None])
    seen = context.seen
    assert seen is not None

    normed, visual = layer.input_layernorm(hidden), layer.input_layernorm(seen.tokens)

    def turn(x: Tensor) -> Tensor:  # (9, 8): rotary positions of one head
        half = torch.cat([-x[:, 4:], x[:, :4]], dim=1)
        return x * cos[0] + half * sin[0]

    expected = torch.empty(2, 9, 32)
    key_value = torch.cat([attention.k_proj(visual), attention.v_proj(visual)], dim=-1)
    for study in range(2):
        for head in range(4):
            rows, group = slice(8 * head, 8 * head + 8), slice(8 * (head // 2), 8 * (head // 2) + 8)
            query = turn(attention.q_proj(normed)[study, :, rows])
            key = turn(attention.k_proj(normed)[study, :, group])
            scores = query @ key.T / 8**0.5
            scores = scores.masked_fill(~torch.ones(9, 9).tril().bool(), float("-inf"))
            own = scores.softmax(-1) @ attention.v_proj(normed)[study, :, group]
            keys, values = key_value[study, :, :16], key_value[study, :, 16:]
            scores = query @ keys[:, group].T / 8**0.5
            scores = scores.masked_fill(~seen.mask[study], float("-inf"))
            expected[study, :, rows] = own
            # Kept apart until the gate of the whole position is known.
            hidden_cross = scores.softmax(-1) @ values[:, group]
            if head == 0:
                crosses = torch.empty(9, 32)
            crosses[:, rows] = hidden_cross
        gate = torch.tanh(expected[study] @ layer.cross.gate.weight.T + layer.cross.gate.bias)
        gate = gate * torch.tanh(torch.tensor(1.5))
        text = torch.tensor([1, 1, 0, 0, 1, 1, 1, 1, 1.0])[:, None]
        expected[study] += text * gate * crosses
    after = hidden + attention.o_proj(expected)
    after = after + layer.mlp(layer.post_attention_layernorm(after))
    actual = layer(hidden, position_embeddings=(cos, sin))
    torch.testing.assert_close(actual, after, atol=1e-5, rtol=1e-5)


def test_studies_without_image_stay_as_they_are(model: PreTrainedModel) -> None:
    context = add_hybrid_layers(model, 2)
    wake(model)
    blind = logits(model, TOKENS)
    mask = torch.tensor([[True] * 4, [False] * 4])
    context.set(torch.randn(2, 4, 32), mask, torch.ones(2, 6, dtype=torch.bool))
    seen = logits(model, TOKENS)
    assert not torch.allclose(seen[0], blind[0])
    torch.testing.assert_close(seen[1], blind[1])
    seen.sum().backward()
    assert all(
        parameter.grad is None or parameter.grad.isfinite().all()
        for parameter in model.parameters()
    )


def test_cached_steps_equal_the_full_pass(model: PreTrainedModel) -> None:
    context = add_hybrid_layers(model, 2)
    wake(model)
    see(context)
    with torch.no_grad():
        full = logits(model, TOKENS)
        see(context)
        output = model(input_ids=TOKENS[:, :5], use_cache=True)  # ends before the prompt does
        steps = [output.logits]
        for place in range(5, 9):
            output = model(
                input_ids=TOKENS[:, place : place + 1],
                cache=output.cache,
                use_cache=True,
            )
            steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), full, atol=1e-5, rtol=1e-5)


def test_gradients_reach_everything_new(model: PreTrainedModel) -> None:
    context = add_hybrid_layers(model, 2)
    see(context)
    logits(model, TOKENS).square().sum().backward()
    assert all(
        cross.warm_up.grad is not None and cross.warm_up.grad.abs() > 0 for cross in layers(model)
    )
    wake(model)
    model.zero_grad()
    logits(model, TOKENS).square().sum().backward()
    for cross in layers(model):
        for name, parameter in cross.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_rows_must_be_studies_times_beams(model: PreTrainedModel) -> None:
    context = add_hybrid_layers(model, 2)
    wake(model)
    see(context, num_beams=3)
    six = logits(model, TOKENS.repeat_interleave(3, dim=0))
    with pytest.raises(ValueError, match="2 rows are not 2 studies with 3 beams"):
        logits(model, TOKENS)
    see(context)
    torch.testing.assert_close(six[::3], logits(model, TOKENS), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(six[2::3], six[::3])


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mask \(2, 3\)"):
        VisualContext().set(
            torch.zeros(2, 4, 8),
            torch.ones(2, 3, dtype=torch.bool),
            torch.ones(2, 6, dtype=torch.bool),
        )


def test_other_families_are_refused() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=11))
    with pytest.raises(CheckpointError, match="Llama and Qwen2 families, not for GPT2LMHeadModel"):
        add_hybrid_layers(model, 1)
    with pytest.raises(ValueError, match="every_n"):
        add_hybrid_layers(FAMILIES["llama"](), 0)


@pytest.mark.parametrize(
    ("make", "per_layer", "every", "places"),
    [
        (
            lambda: LlamaForCausalLM(
                LlamaConfig(
                    hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, vocab_size=8
                )
            ),
            33_566_722,
            8,
            [0, 8, 16, 24],
        ),
        (
            lambda: Qwen2ForCausalLM(
                Qwen2Config(
                    hidden_size=2048,
                    num_hidden_layers=24,
                    num_attention_heads=16,
                    num_key_value_heads=16,
                    vocab_size=8,
                )
            ),
            8_394_754,
            8,
            [0, 8, 16],
        ),
    ],
)
def test_new_parameters_are_as_many_as_published(
    make: Callable[[], PreTrainedModel], per_layer: int, every: int, places: list[int]
) -> None:
    with torch.device("meta"):
        model = make()
        add_hybrid_layers(model, every)
    counts = [sum(p.numel() for p in cross.parameters()) for cross in layers(model)]
    assert counts == [per_layer] * len(places)
    hybrid = [hasattr(layer, "cross") for layer in model.model.layers]
    assert [place for place, is_hybrid in enumerate(hybrid) if is_hybrid] == places
