from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from radrep.data.batch import Batch
from radrep.generation.contract import DecodeOptions
from radrep.guidance.image_features import StageSummaries
from radrep.guidance.label_tokens import LabelTokens
from radrep.models.csr_lmca import CsrLmca
from radrep.models.encoder_decoder import EncoderDecoder
from radrep.modules.backbone import Backbone
from radrep.modules.dropout import Dropout
from radrep.modules.memory import CrossModalMemory
from radrep.modules.region_attention import RegionEncoder
from radrep.modules.sr_mamba import PooledEnhancer, SrMambaStack, TokenEnhancer


def tiny_model(
    enhancer: str = "tokens", *, joined: bool = False, label_tokens: bool = False
) -> CsrLmca:
    torch.manual_seed(0)
    backbone = Backbone(name="test_convnext.r160_in1k", weights="none", image_size=64)
    channels = backbone.out_dim
    stack = SrMambaStack(in_dim=channels, dim=16, num_layers=1, state_dim=4, stride=2)
    kinds = {
        "tokens": TokenEnhancer(stack, in_dim=channels, dim=16),
        "pooled": PooledEnhancer(stack, in_dim=channels, dim=16, pool_dim=8),
    }
    encoder_decoder = EncoderDecoder(
        in_dim=channels,
        vocabulary_size=20,
        grid=backbone.grid,
        memory=CrossModalMemory(dim=16, size=12, top_k=4, num_heads=2),
        regions=RegionEncoder(dim=16, num_heads=2, regions_per_side=[2], joined=joined),
        dim=16,
        num_layers=2,
        num_heads=2,
        ff_dim=24,
    )
    labels = None
    if label_tokens:  # predicts at random
        with torch.no_grad():
            size = StageSummaries(backbone.eval())(torch.zeros(1, 3, 64, 64)).shape[-1]
        backbone.train()
        labels = LabelTokens(num_features=size, num_views=2, dim=16)
        labels.weights.normal_()
        labels.slope.fill_(0.1)
        labels.bias.zero_()
        labels.edges.copy_(torch.tensor([0.2, 0.5, 0.8]))
    return CsrLmca(
        backbone=backbone,
        enhancer=kinds.get(enhancer),
        encoder_decoder=encoder_decoder,
        label_tokens=labels,
    )


def batch(num_views: list[int], *, length: int = 9) -> Batch:
    torch.manual_seed(1)
    studies = len(num_views)
    lengths = torch.randint(4, length + 1, (studies,))
    tokens = torch.randint(1, 21, (studies, length))
    tokens[:, 0] = 0
    for study, count in enumerate(lengths.tolist()):
        tokens[study, count - 1 :] = 0
    return Batch(
        ids=tuple(map(str, range(studies))),
        num_views=torch.tensor(num_views),
        images=torch.randn(sum(num_views), 3, 64, 64),
        tokens=tokens,
        lengths=lengths,
    )


def one_study(whole: Batch, study: int) -> Batch:
    first = int(whole.num_views[:study].sum())
    assert whole.images is not None
    assert whole.tokens is not None
    assert whole.lengths is not None
    return Batch(
        ids=whole.ids[study : study + 1],
        num_views=whole.num_views[study : study + 1],
        images=whole.images[first : first + int(whole.num_views[study])],
        tokens=whole.tokens[study : study + 1],
        lengths=whole.lengths[study : study + 1],
    )


def test_a_study_does_not_depend_on_its_batch() -> None:
    for enhancer in ("tokens", "pooled", "none"):
        for joined in (True, False):
            model = tiny_model(enhancer, joined=joined).eval()
            whole = batch([2, 1, 2, 3])
            assert whole.tokens is not None
            together = model.encoder_decoder.log_probs(model.encode(whole), whole.tokens)
            for study in range(4):
                part = one_study(whole, study)
                assert part.tokens is not None
                alone = model.encoder_decoder.log_probs(model.encode(part), part.tokens)
                length = int(whole.lengths[study])  # type: ignore[index]
                torch.testing.assert_close(
                    together[study, : length - 1], alone[0, : length - 1], atol=1e-5, rtol=1e-5
                )


@pytest.mark.parametrize("label_tokens", [False, True])
def test_cached_steps_equal_the_full_pass(label_tokens: bool) -> None:
    model = tiny_model(label_tokens=label_tokens).eval()
    whole = batch([2, 1, 2])
    assert whole.tokens is not None
    tokens = whole.tokens.masked_fill(whole.tokens == 0, 7)  # no study ends
    tokens[:, 0] = 0
    with torch.no_grad():
        encoded = model.encode(whole)
        full = model.encoder_decoder.log_probs(encoded, tokens)
        state = model.encoder_decoder.start(encoded, num_beams=2)
        for place in range(tokens.shape[1]):
            both = tokens[:, place].repeat_interleave(2)
            log_probs, state = model.encoder_decoder.step(both, state)
            torch.testing.assert_close(log_probs[::2], full[:, place], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(log_probs[1::2], full[:, place], atol=1e-5, rtol=1e-5)


def test_dropping_a_study_leaves_the_others_as_they_were() -> None:
    model = tiny_model().eval()
    whole = batch([2, 1, 2])
    with torch.no_grad():
        state = model.encoder_decoder.start(model.encode(whole), num_beams=2)
        _, state = model.encoder_decoder.step(torch.zeros(6, dtype=torch.long), state)
        words = torch.tensor([3, 4, 5, 6, 7, 8])
        expected, _ = model.encoder_decoder.step(words, state)
        rows = torch.tensor([[1, 0], [5, 4]])
        actual, _ = model.encoder_decoder.step(words[rows.flatten()], state.select(rows))
    torch.testing.assert_close(actual, expected[rows.flatten()])


@pytest.mark.parametrize("num_views", [[2, 1, 2], [2, 2, 2]])
def test_dropping_reports_of_some_studies_leaves_the_others_as_they_were(
    num_views: list[int],
) -> None:
    model = tiny_model().eval()
    decoder = model.encoder_decoder
    with torch.no_grad():
        state = decoder.start(model.encode(batch(num_views)), num_beams=3)
        _, state = decoder.step(torch.zeros(9, dtype=torch.long), state)
        words, kept = torch.arange(1, 10), torch.arange(9)
        rest = state
        for rows in ([0, 2, 3, 6, 7, 8], [1, 3, 4, 5], [0], [0]):  # the second study goes
            words, kept = words[rows], kept[rows]
            rest = rest.keep(torch.tensor(rows))
            expected, longer = decoder.step(torch.arange(1, 10), state)
            actual, rest = decoder.step(words, rest)
            torch.testing.assert_close(actual, expected[kept])
            state = longer


def test_a_step_embeds_equal_words_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model().eval()
    decoder = model.encoder_decoder
    queries: list[torch.Size] = []
    original = type(decoder.memory).forward

    def counted(self: nn.Module, query: Tensor, *others: Any) -> Tensor:
        queries.append(query.shape[:-1])
        return original(self, query, *others)

    with torch.no_grad():
        state = decoder.start(model.encode(batch([2, 1, 2])), num_beams=2)
        monkeypatch.setattr(type(decoder.memory), "forward", counted)
        decoder.step(torch.tensor([4, 5, 4, 4, 5, 4]), state)
    assert queries == [torch.Size([2])]


def test_padding_never_changes_the_loss() -> None:
    model = tiny_model().eval()
    whole = batch([2, 1])
    assert whole.tokens is not None
    wider = Batch(
        ids=whole.ids,
        num_views=whole.num_views,
        images=whole.images,
        tokens=torch.nn.functional.pad(whole.tokens, (0, 5)),
        lengths=whole.lengths,
    )
    torch.testing.assert_close(model.loss(whole)["loss"], model.loss(wider)["loss"])


def test_loss_is_the_mean_over_words_and_the_closing_token() -> None:
    model = tiny_model().eval()
    whole = batch([1, 1])
    assert whole.tokens is not None
    assert whole.lengths is not None
    log_probs = model.encoder_decoder.log_probs(model.encode(whole), whole.tokens[:, :-1])
    by_hand = [
        -float(log_probs[study, place, whole.tokens[study, place + 1]].detach())
        for study in range(2)
        for place in range(int(whole.lengths[study]) - 1)
    ]
    assert abs(float(model.loss(whole)["loss"].detach()) - sum(by_hand) / len(by_hand)) < 1e-5


def test_every_trainable_parameter_gets_a_finite_gradient() -> None:
    for enhancer in ("tokens", "pooled"):
        model = tiny_model(enhancer, label_tokens=True)
        model.loss(batch([2, 1]))["loss"].backward()
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                assert "model.head" in name, name  # behind the features: never learns
                continue
            assert parameter.grad is not None, f"no gradient for {name}"
            assert parameter.grad.isfinite().all(), name


def test_second_view_changes_the_report() -> None:
    model = tiny_model().eval()
    two = batch([2])
    assert two.tokens is not None
    assert two.images is not None
    swapped = Batch(ids=two.ids, num_views=two.num_views, images=two.images[[0, 0]])
    with torch.no_grad():
        real = model.encoder_decoder.log_probs(model.encode(two), two.tokens)
        copied = model.encoder_decoder.log_probs(model.encode(swapped), two.tokens)
    assert (real - copied).abs().max() > 1e-4


@pytest.mark.parametrize("label_tokens", [False, True])
def test_attention_is_a_distribution_over_real_patches(label_tokens: bool) -> None:
    model = tiny_model(label_tokens=label_tokens).eval()
    whole = batch([2, 1])
    assert whole.tokens is not None
    patches = model.encoder_decoder.grid[0] * model.encoder_decoder.grid[1]
    looks = model.encoder_decoder.attention_maps(model.encode(whole), whole.tokens)
    assert looks.shape[-1] == 2 * patches
    torch.testing.assert_close(looks.sum(-1), torch.ones(looks.shape[:2]))
    assert looks[1, :, patches:].abs().max() == 0


BEAM = DecodeOptions(method="beam", beam_size=3, max_new_tokens=8)


def test_a_report_with_label_tokens_does_not_depend_on_its_batch() -> None:
    model = tiny_model(label_tokens=True).eval()
    whole = batch([2, 1, 2, 1])
    together = model.write(whole, BEAM)
    assert together == [model.write(one_study(whole, study), BEAM)[0] for study in range(4)]


def test_the_buckets_of_a_batch_take_the_place_of_those_of_its_images() -> None:
    model = tiny_model(label_tokens=True).eval()
    assert model.label_tokens is not None
    whole = batch([2, 1])
    assert whole.tokens is not None
    with torch.no_grad():
        encoded = model.encode_images(whole, BEAM)
        buckets = model.label_tokens.read(encoded, model.summaries)
        assert len(set(buckets.flatten().tolist())) > 2
        found, given, turned = (
            model.encoder_decoder.log_probs(model.encode(each), whole.tokens)
            for each in (
                whole,
                replace(whole, label_buckets=buckets),
                replace(whole, label_buckets=3 - buckets),
            )
        )
    assert torch.equal(found, given)
    assert (found - turned).abs().max() > 1e-3


def test_a_model_without_label_tokens_is_the_one_before_them() -> None:
    """Same weights from the same seed, and only they differ."""
    without, with_tokens = tiny_model(), tiny_model(label_tokens=True)
    state = with_tokens.state_dict()
    for name, tensor in without.state_dict().items():
        assert torch.equal(state.pop(name), tensor), name
    assert all(name.startswith("label_tokens.") for name in state)
    one = batch([2])
    (ids,) = with_tokens.eval().write(one, BEAM)
    maps = with_tokens.attention(one, ids)
    assert maps.shape == (len(ids), 2, *with_tokens.encoder_decoder.grid)


@pytest.mark.slow
def test_a_bucket_that_is_forced_decides_what_the_report_names() -> None:
    """Reports name three findings or their absence, as the buckets of training say."""
    model = tiny_model("none", label_tokens=True).train()
    for part in model.modules():
        if isinstance(part, Dropout):
            part.p = 0.0
    drawn, num = torch.Generator().manual_seed(0), 32
    features = torch.randn(num, 4, model.backbone.out_dim, generator=drawn)

    def study(buckets: torch.Tensor) -> Batch:
        words = torch.tensor([1, 3, 5]) + (buckets[:, :3] == 3)
        ends = torch.zeros(len(buckets), 1, dtype=torch.long)
        return Batch(
            ids=tuple(map(str, range(len(buckets)))),
            num_views=torch.ones(len(buckets), dtype=torch.long),
            features=features[: len(buckets)],
            tokens=torch.cat([ends, words, ends], dim=1),
            lengths=torch.full((len(buckets),), 5),
            label_buckets=buckets,
        )

    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(300):
        optimizer.zero_grad()
        present = torch.rand(num, 13, generator=drawn) < 0.4
        model.loss(study(3 * present.long()))["loss"].backward()
        optimizer.step()
    model.eval()
    for named in ([0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]):
        buckets = torch.zeros(1, 13, dtype=torch.long)
        buckets[0, :3] = 3 * torch.tensor(named)
        assert model.write(study(buckets), BEAM) == [[1 + named[0], 3 + named[1], 5 + named[2]]]
