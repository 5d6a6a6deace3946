"""CSR-LMCA's parts against the public reference implementation, sizes from each file."""

from pathlib import Path

import pytest
import torch

from radrep.generation.search import beam_search, sample
from radrep.models.encoder_decoder import EncoderDecoder
from radrep.modules.memory import CrossModalMemory
from radrep.modules.region_attention import RegionEncoder
from radrep.modules.sr_mamba import PooledEnhancer, SrMambaMixer, SrMambaStack
from radrep.weights.public_names import (
    ENCODER_DECODER,
    MEMORY,
    POOLED_ENHANCER,
    REGION_ENCODER,
    SR_MAMBA_MIXER,
)
from tests.golden import Golden, assert_gradient, assert_output, golden_files, load_published


def test_golden_sr_mamba_mixer(golden_dir: Path) -> None:
    for golden in golden_files(golden_dir, "sr_mamba_mixer"):
        sizes = golden.sizes
        mixer = SrMambaMixer(
            dim=sizes["d_model"],
            state_dim=sizes["d_state"],
            conv_width=sizes["d_conv"],
            expand=sizes["expand"],
            stride=sizes["rate"],
        )
        load_published(mixer, golden.weights, SR_MAMBA_MIXER)
        x = golden["x"].requires_grad_()
        y = mixer(x)
        assert_output(y, golden["y"])
        y.backward(golden["grad_out"])
        assert x.grad is not None
        assert_gradient(x.grad, golden["grad_x"])


def test_golden_enhancer_pooled(golden_dir: Path) -> None:
    for golden in golden_files(golden_dir, "enhancer_pooled"):
        sizes, mixer = golden.sizes, "layers.0.1."
        inner, state = golden.weights[mixer + "A_log"].shape
        stack = SrMambaStack(
            in_dim=sizes["in_dim"],
            dim=sizes["width"],
            num_layers=sizes["layers"],
            state_dim=state,
            conv_width=golden.weights[mixer + "conv1d.weight"].shape[-1],
            expand=inner // sizes["width"],
            stride=sizes["rate"],
        )
        enhancer = PooledEnhancer(
            stack,
            in_dim=sizes["in_dim"],
            dim=sizes["width"],
            pool_dim=sizes["attention_hidden"],
            pooled_weight=sizes["blend"],
        ).eval()
        load_published(enhancer, golden.weights, POOLED_ENHANCER)
        assert_output(enhancer.pool(golden["x"]), golden["pooled"])
        assert_output(enhancer(golden["x"]), golden["y"])


def test_golden_memory_query(golden_dir: Path) -> None:
    for golden in golden_files(golden_dir, "memory_query"):
        size, dim = golden["memory"].shape
        memory = CrossModalMemory(
            dim=dim, size=size, top_k=golden.sizes["topk"], num_heads=golden.sizes["heads"]
        ).eval()
        load_published(
            memory,
            {**golden.weights, "memory_matrix": golden["memory"]},
            (*MEMORY, (r"memory_matrix", "memory")),
        )
        assert_output(memory(golden["query"]), golden["response"])


def test_golden_region_encoder(golden_dir: Path) -> None:
    for golden in golden_files(golden_dir, "region_encoder"):
        sizes = golden.sizes
        encoder = RegionEncoder(
            dim=sizes["dim"],
            num_heads=sizes["heads"],
            regions_per_side=[sizes["regions"]],
            joined=True,
            num_slots=sizes["slots"],
            epeg_kernel=sizes["epeg_k"],
        ).eval()
        load_published(encoder, golden.weights, REGION_ENCODER)
        num_patches = golden["x"].shape[1]
        # All images at once: an image's output must not depend on its batch.
        y = encoder(golden["x"], num_views=1, grid=(1, num_patches))
        assert_output(y, golden["y"])


def encoder_decoder(golden: Golden) -> EncoderDecoder:
    sizes = golden.sizes
    dim, heads = sizes["d_model"], sizes["heads"]
    model = EncoderDecoder(
        in_dim=sizes["d_vf"],
        vocabulary_size=sizes["vocab"],
        grid=(1, golden["patch_feats"].shape[1]),
        memory=CrossModalMemory(
            dim=dim, size=sizes["memory_size"], top_k=sizes["topk"], num_heads=heads
        ),
        regions=RegionEncoder(
            dim=dim,
            num_heads=golden.weights["rrt.layers.0.attn.attn.pe.weight"].shape[0],
            regions_per_side=[sizes["regions"]],
            joined=True,
            num_slots=sizes["slots"],
            epeg_kernel=sizes["epeg_k"],
        ),
        dim=dim,
        num_layers=sizes["layers"],
        num_heads=heads,
        ff_dim=sizes["d_ff"],
    ).eval()
    load_published(model, golden.weights, ENCODER_DECODER)
    return model


def test_golden_encoder_decoder_log_probs(golden_dir: Path) -> None:
    for golden in golden_files(golden_dir, "encoder_decoder"):
        model = encoder_decoder(golden)
        features, ids = golden["patch_feats"], golden["report_ids"]
        encoded = model.encode(features, torch.ones(len(features), dtype=torch.long))
        log_probs = model.log_probs(encoded, ids[:, :-1])
        for study, length in enumerate(golden["report_lengths"].tolist()):
            assert_output(log_probs[study, : length - 1], golden["log_probs"][study, : length - 1])


@pytest.mark.parametrize("one_by_one", [True, False], ids=["one_by_one", "together"])
def test_golden_encoder_decoder_generation(golden_dir: Path, one_by_one: bool) -> None:
    for golden in golden_files(golden_dir, "encoder_decoder"):
        model = encoder_decoder(golden)
        features, length = golden["patch_feats"], golden.sizes["max_length"]
        batches = features.split(1) if one_by_one else [features]
        beam, greedy = [], []
        for batch in batches:
            count = len(batch)
            encoded = model.encode(batch, torch.ones(count, dtype=torch.long))
            beam += beam_search(model, encoded, num_studies=count, beam_size=3, max_words=length)
            greedy += sample(model, encoded, num_studies=count, max_words=length)
        for actual, name in ((beam, "beam3"), (greedy, "greedy")):
            padded = [ids + [0] * (length - len(ids)) for ids in actual]
            assert padded == golden[name].tolist(), name
