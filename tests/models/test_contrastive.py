import math
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.rnn import pad_sequence

from radrep.data.batch import Batch
from radrep.data.tokenizer import ClosedCodec, Tokenizer
from radrep.models.contrastive import ContrastivePretraining, contrastive_loss, retrieval_recall
from radrep.models.xray_mamba import XrayMamba, make_xray_mamba
from radrep.modules.text_encoder import small_text_encoder
from radrep.preparation.sources.phantom.source import PhantomSource


def small_encoder() -> XrayMamba:
    torch.manual_seed(1)
    return XrayMamba(dim=16, depth=1, image_size=(8, 12), patch_size=4, drop_path=0.0, state_dim=4)


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
    return ContrastivePretraining(
        encoder=small_encoder(), text_encoder=Words(), text_dim=8, projection_dim=6
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
        encoder=small_encoder(),
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


@pytest.mark.slow
def test_pairs_are_learned_by_heart() -> None:
    """Both towers start from nothing: what fails here is no lack of data."""
    studies = list(islice(PhantomSource(32, image_size=64, finding_scale=1.5), 32))
    reports = [study.sections["findings"] for study in studies]
    assert len(set(reports)) == 32
    codec = ClosedCodec(Tokenizer.build(reports, min_count=1, cleaner="plain"))
    ids = [torch.tensor(codec.encode(report, 60)) for report in reports]
    films = torch.stack([torch.from_numpy(study.images[0].read(64)) for study in studies])
    batch = Batch(
        ids=tuple(study.id for study in studies),
        num_views=torch.ones(32, dtype=torch.long),
        images=((films.float() / 255 - 0.45) / 0.22)[:, None].expand(-1, 3, -1, -1),
        tokens=pad_sequence(ids, batch_first=True),
        lengths=torch.tensor([len(each) for each in ids]),
    )
    torch.manual_seed(0)
    model = ContrastivePretraining(
        encoder=make_xray_mamba("nano", image_size=64, patch_size=16, drop_path=0.0),
        text_encoder=small_text_encoder(60, dim=64, num_layers=2, num_heads=2),
        text_dim=64,
        projection_dim=64,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(80):
        optimizer.zero_grad()
        loss = model.loss(batch)["loss"]
        loss.backward()
        optimizer.step()
    assert batch.images is not None
    assert batch.tokens is not None
    assert batch.lengths is not None
    with torch.no_grad():
        images = model.eval().embed_images(batch.images, batch.num_views)
        texts = model.embed_texts(batch.tokens, batch.lengths)
    assert min(retrieval_recall(images, texts, ks=(1,)).values()) > 0.9
    assert loss.item() < 0.2
