"""The vision encoder and stage 1 against the public reference, sizes from each file."""

from pathlib import Path

import torch

from radrep.data.batch import Batch
from radrep.models.autoregressive import AutoregressivePretraining
from radrep.models.xray_mamba import XrayMamba, sin_cos_positions
from radrep.weights.public_names import (
    AUTOREGRESSIVE_PRETRAINING,
    XRAY_MAMBA,
    XRAY_MAMBA_OF_CONTRASTIVE,
)
from tests.golden import Golden, assert_gradient, assert_output, golden_files, load_published


def encoder(golden: Golden) -> XrayMamba:
    sizes = golden.sizes
    assert sizes["expand"] == 1
    return XrayMamba(
        dim=sizes["dim"],
        depth=sizes["depth"],
        image_size=sizes["image"],
        patch_size=sizes["patch"],
        state_dim=sizes["d_state"],
        conv_width=sizes["d_conv"],
    ).eval()


def test_golden_xray_mamba_encoder(golden_dir: Path) -> None:
    for golden in golden_files(golden_dir, "xray_mamba_encoder"):
        model = encoder(golden)
        load_published(model, golden.weights, XRAY_MAMBA)
        pixels = golden["pixels"].requires_grad_()
        tokens = model(pixels)
        assert_output(tokens, golden["tokens"])
        tokens.backward(golden["grad_out"])
        assert pixels.grad is not None
        assert_gradient(pixels.grad, golden["grad_pixels"])


def test_golden_xray_mamba_encoder_out_of_both_towers(golden_dir: Path) -> None:
    for golden in golden_files(golden_dir, "xray_mamba_encoder"):
        both = {f"visual_encoder.{name}": tensor for name, tensor in golden.weights.items()}
        both |= {"logit_scale": torch.ones(1), "text_encoder.pooler.dense.bias": torch.ones(2)}
        model = encoder(golden)
        load_published(model, both, XRAY_MAMBA_OF_CONTRASTIVE)
        assert_output(model(golden["pixels"]), golden["tokens"])


def test_golden_autoregressive_pretraining(golden_dir: Path) -> None:
    for golden in golden_files(golden_dir, "autoregressive_pretraining"):
        sizes, weights, pixels = golden.sizes, golden.weights, golden["pixels"]
        model = AutoregressivePretraining(
            encoder=XrayMamba(
                dim=sizes["dim"],
                depth=sizes["depth"],
                image_size=sizes["image"],
                patch_size=sizes["patch"],
                directions=("rows",),
                class_token=False,
                positions="fixed",
                final_norm=False,
            ),
            cluster_size=sizes["cluster"],
            decoder_dim=sizes["decoder_dim"],
        ).eval()
        assert model.decoder[0].attention.num_heads == sizes["decoder_heads"]
        load_published(model, weights, AUTOREGRESSIVE_PRETRAINING)
        prediction = model.predict(pixels)
        assert_output(prediction, golden["prediction"])
        errors = (prediction - model.targets(pixels)).square().mean(dim=(0, 2))
        assert_output(errors, golden["loss_per_token"])
        batch = Batch(ids=("a", "b"), num_views=torch.ones(2, dtype=torch.long), images=pixels)
        assert_output(model(batch)["loss"].reshape(1), golden["loss"])


def test_golden_fixed_positions_and_mask(golden_dir: Path) -> None:
    for golden in golden_files(golden_dir, "autoregressive_pretraining"):
        sizes, weights = golden.sizes, golden.weights
        side = sizes["image"] // sizes["patch"]
        for name, dim in (("pos_embed", sizes["dim"]), ("dec_pos_embed", sizes["decoder_dim"])):
            torch.testing.assert_close(sin_cos_positions(dim, (side, side)), weights[name])
        stage_one = XrayMamba(
            dim=sizes["dim"],
            depth=1,
            image_size=sizes["image"],
            directions=("rows",),
            class_token=False,
            final_norm=False,
        )
        model = AutoregressivePretraining(
            encoder=stage_one,
            cluster_size=sizes["cluster"],
            decoder_dim=sizes["decoder_dim"],
            taps=[1],
        )
        assert torch.equal(model.mask, weights["mask"] == 0)
