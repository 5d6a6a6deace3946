import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from radrep.data.batch import Batch
from radrep.errors import CheckpointError
from radrep.models.pretraining import (
    AutoregressivePretraining,
    ContrastivePretraining,
    contrastive_loss,
    default_taps,
    expand_directions,
    retrieval_recall,
    start_from_stage_one,
)
from radrep.models.xray_mamba import DIRECTIONS, XrayMamba

DIM, SIZE = 16, (16, 24)  # 4 x 6 patches, 2 x 3 clusters


def stage_one(**options: object) -> AutoregressivePretraining:
    torch.manual_seed(0)
    encoder = XrayMamba(
        dim=DIM,
        depth=4,
        image_size=SIZE,
        patch_size=4,
        directions=("rows",),
        class_token=False,
        positions="fixed",
        final_norm=False,
        drop_path=0.0,
        state_dim=4,
    )
    arguments = {"cluster_size": 2, "decoder_dim": 16, "num_heads": 2}
    return AutoregressivePretraining(encoder=encoder, **{**arguments, **options})


def stage_two(**options: object) -> XrayMamba:
    torch.manual_seed(1)
    sizes = {"dim": DIM, "depth": 4, "image_size": (24, 24), "patch_size": 4, "state_dim": 4}
    return XrayMamba(**{**sizes, "drop_path": 0.0, **options})


class Words(nn.Module):
    """A text encoder: each hidden state knows its token and the mean of the attended ones."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)

    def forward(self, *, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        hidden, seen = self.words(input_ids), attention_mask[..., None]
        mean = (hidden * seen).sum(1, keepdim=True) / seen.sum(1, keepdim=True)
        return SimpleNamespace(last_hidden_state=hidden + mean)


def contrastive() -> ContrastivePretraining:
    encoder = stage_two(image_size=(8, 12), depth=1)
    return ContrastivePretraining(
        encoder=encoder, text_encoder=Words(), text_dim=8, projection_dim=6
    )


def studies() -> Batch:
    generator = torch.Generator().manual_seed(2)
    return Batch(
        ids=tuple("abcd"),
        num_views=torch.tensor([2, 1, 1, 2]),
        images=torch.randn(6, 3, 8, 12, generator=generator),
        tokens=torch.randint(1, 20, (4, 5), generator=generator),
        lengths=torch.tensor([5, 2, 3, 4]),
    )


def test_taps_are_spread_over_the_later_half() -> None:
    assert default_taps(12) == (6, 8, 10, 12)
    assert default_taps(24) == (12, 16, 20, 24)
    for depth in range(4, 40):
        taps = default_taps(depth)
        assert len(set(taps)) == 4
        assert taps[-1] == depth
    assert default_taps(2) == (1, 2)


def test_every_parameter_of_stage_one_gets_a_gradient() -> None:
    model = stage_one()
    batch = Batch(ids=("a",), num_views=torch.tensor([2]), images=torch.randn(2, 3, *SIZE))
    model(batch)["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_a_cluster_is_predicted_from_those_before_it_alone() -> None:
    model = stage_one().eval()
    images = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        before = model.predict(images).view(5, 4, 48)  # clusters 1 to 5 of 4 patches
        for changed in range(6):
            row, column = 8 * (changed // 3), 8 * (changed % 3)
            other = images.clone()
            other[..., row : row + 8, column : column + 8] += 1
            after = model.predict(other).view(5, 4, 48)
            differs = [not torch.equal(before[i - 1], after[i - 1]) for i in range(1, 6)]
            assert differs == [i > changed for i in range(1, 6)], f"cluster {changed}"


def test_targets_are_standardised_pixels_of_all_clusters_but_the_first() -> None:
    images = torch.randn(1, 3, *SIZE)
    targets = stage_one().targets(images)
    assert targets.shape == (1, 20, 48)
    # Cluster 1, its third patch: the second row of patches, the third column.
    patch = images[0, :, 4:8, 8:12].permute(1, 2, 0).flatten()
    expected = (patch - patch.mean()) / torch.sqrt(patch.var() + 1e-6)
    torch.testing.assert_close(targets[0, 2], expected)


def test_other_encoders_taps_and_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="this one has the directions .*, a class token, a final"):
        AutoregressivePretraining(encoder=stage_two())
    for taps in ((), (1, 2), (4, 2), (2, 2, 4), (0, 4), (4, 5)):
        with pytest.raises(ValueError, match="taps must be different blocks of 1 to 4"):
            stage_one(taps=taps)
    with pytest.raises(ValueError, match="4 x 4 patches do not fill"):
        stage_one(cluster_size=4)
    with pytest.raises(ValueError, match=r"dim \(16\) must be divisible by num_heads \(3\)"):
        stage_one(num_heads=3)
    with pytest.raises(ValueError, match="no second cluster of 1 x 1"):
        AutoregressivePretraining(
            encoder=XrayMamba(
                dim=DIM,
                depth=1,
                image_size=4,
                patch_size=4,
                directions=("rows",),
                class_token=False,
                final_norm=False,
            ),
            cluster_size=1,
        )


def test_stage_two_starts_with_copies_of_stage_one() -> None:
    old, new = stage_one(), stage_two()
    fresh = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    start_from_stage_one(new, old.state_dict(), grid=(4, 6))
    for mixer, source in zip(
        (block.mixer for block in new.layers),
        (block.mixer for block in old.encoder.layers),
        strict=True,
    ):
        assert torch.equal(mixer.in_proj.weight, source.in_proj.weight)
        for direction in DIRECTIONS:
            ours = mixer.branches[direction].state_dict()
            for name, tensor in source.branches["rows"].state_dict().items():
                assert torch.equal(ours[name], tensor), name
    for name in ("class_token", "norm_f.weight", "norm_f.bias"):
        assert torch.equal(new.state_dict()[name], fresh[name]), name
    grids = old.encoder.positions.view(1, 4, 6, DIM).permute(0, 3, 1, 2)
    expected = F.interpolate(grids, (6, 6), mode="bicubic").flatten(2).transpose(1, 2)
    assert not new.positions[:, 18].any()
    torch.testing.assert_close(new.positions[:, :18].detach(), expected[:, :18])
    torch.testing.assert_close(new.positions[:, 19:].detach(), expected[:, 18:])
    assert new.positions.requires_grad


def test_directions_learn_apart_after_the_expansion() -> None:
    new = stage_two()
    expanded = expand_directions(stage_one().encoder.state_dict(), grid=(4, 6), new_grid=new.grid)
    copies = [expanded[f"layers.0.mixer.branches.{name}.D"] for name in DIRECTIONS]
    assert len({tensor.data_ptr() for tensor in copies}) == 4


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"(?s)stage 1 do not fit.*layers\.3"):
        start_from_stage_one(stage_two(depth=3), stage_one().state_dict(), grid=(4, 6))
    with pytest.raises(CheckpointError, match="24 positions do not fit"):
        start_from_stage_one(stage_two(), stage_one().state_dict(), grid=(12, 12))


def test_contrastive_loss_matches_hand_count() -> None:
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    texts = torch.tensor([[0.6, 0.8], [0.8, 0.6]])
    # Cosines: image 1 with texts 0.6 and 0.8, image 2 with 0.8 and 0.6; twice as much in logits.
    one = -math.log(math.exp(1.2) / (math.exp(1.2) + math.exp(1.6)))
    loss = contrastive_loss(images, texts, torch.tensor(2.0))
    assert loss.item() == pytest.approx(one)
    images = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # Logits 1 0 / 1 0: of the rows one is right and one wrong, of the columns all are even.
    rows = (-math.log(math.e / (math.e + 1)) - math.log(1 / (math.e + 1))) / 2
    loss = contrastive_loss(images, texts, torch.tensor(1.0))
    assert loss.item() == pytest.approx((rows + math.log(2)) / 2)


def test_every_parameter_of_stage_two_gets_a_gradient() -> None:
    model = contrastive()
    model(studies())["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_images_are_the_mean_of_all_tokens_of_all_views() -> None:
    model, batch = contrastive().eval(), studies()
    embedded = model.embed_images(batch.images, batch.num_views)
    mean = model.encoder(batch.images[:2]).mean(dim=(0, 1))
    torch.testing.assert_close(embedded[0], F.normalize(model.project_image(mean), dim=0))
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(4))


def test_reports_are_their_last_token_and_padding_does_not_matter() -> None:
    model, batch = contrastive().eval(), studies()
    embedded = model.embed_texts(batch.tokens, batch.lengths)
    hidden = model.text_encoder(
        input_ids=batch.tokens[1:2, :2], attention_mask=torch.ones(1, 2, dtype=torch.long)
    ).last_hidden_state[0, 1]
    torch.testing.assert_close(embedded[1], F.normalize(model.project_text(hidden), dim=0))
    other = batch.tokens.clone()
    other[1, 2:] = 0
    assert torch.equal(model.embed_texts(other, batch.lengths)[1], embedded[1])


def test_a_text_encoder_of_the_transformers_package_fits() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    model = ContrastivePretraining(
        encoder=stage_two(image_size=(8, 12), depth=1),
        text_encoder=transformers.BertModel(config, add_pooling_layer=False),
        text_dim=config.hidden_size,
        projection_dim=6,
    )
    model(studies())["loss"].backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert not missing


def test_the_temperature_starts_at_007_and_is_bounded_but_not_stuck() -> None:
    model = contrastive()
    assert model.log_scale.exp().item() == pytest.approx(1 / 0.07)
    nn.init.constant_(model.log_scale, 9.0)
    model(studies())["loss"].backward()
    assert model.log_scale.exp().item() == pytest.approx(100)
    assert model.log_scale.grad.abs() > 0


def _one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    whole, model = studies(), contrastive()
    views = slice(0, 3) if rank == 0 else slice(3, 6)
    rows = slice(2 * rank, 2 * rank + 2)
    half = Batch(
        ids=whole.ids[rows],
        num_views=whole.num_views[rows],
        images=whole.images[views],
        tokens=whole.tokens[rows],
        lengths=whole.lengths[rows],
    )
    parallel = DistributedDataParallel(model)
    loss = parallel(half)["loss"]
    loss.backward()
    if rank == 0:
        model.eval()(half)  # would wait for ever if it waited for the other process
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.save({"loss": loss.detach(), "grads": grads}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_learn_as_one_with_all_studies(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_one_of_two, (str(tmp_path),), nprocs=2)
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    model = contrastive()
    loss = model(studies())["loss"]
    loss.backward()
    torch.testing.assert_close((halves[0]["loss"] + halves[1]["loss"]) / 2, loss.detach())
    for name, parameter in model.named_parameters():
        for half in halves:
            torch.testing.assert_close(half["grads"][name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_recall_matches_hand_count() -> None:
    images = torch.eye(3)
    texts = F.normalize(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.1, 1.0], [0.0, 1.0, 0.9]]), dim=1)
    assert retrieval_recall(images, texts, ks=(1, 2, 5)) == pytest.approx(
        {
            "image_to_text_r1": 1 / 3,  # images 2 and 3 like each other's text more
            "image_to_text_r2": 1.0,
            "image_to_text_r5": 1.0,
            "text_to_image_r1": 1 / 3,
            "text_to_image_r2": 1.0,
            "text_to_image_r5": 1.0,
        }
    )


def test_a_collapsed_model_scores_by_chance() -> None:
    same = torch.ones(10, 1)
    recall = retrieval_recall(same, same, ks=(1, 5))
    assert recall["image_to_text_r1"] == pytest.approx(0.1)
    assert recall["text_to_image_r5"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="2 image and 3 text embeddings cannot be paired"):
        retrieval_recall(torch.ones(2, 1), torch.ones(3, 1))
