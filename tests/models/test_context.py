"""Indication, prior report and prior images: what models read beside a study's own images."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from radrep.build import build_codec, build_dataset, build_model, build_preprocess, build_tokenizer
from radrep.data.batch import Batch
from radrep.data.dataset import ModelStudies, ReportDataset, collate
from radrep.data.study import SourceStudy
from radrep.generation.contract import DecodeOptions
from radrep.models.base import PolicyModel, ReportModel
from radrep.models.emrrg import Emrrg
from radrep.modules.hybrid_decoder import VisualCrossAttention
from radrep.preparation.pipeline import prepare
from radrep.preparation.sources.phantom.source import PhantomSource
from radrep.recipe.load import load_recipe
from tests.training.test_emrrg import MODEL as EMRRG
from tests.whole_way import TINY, write_recipe

CONTEXT = ["indication", "prior_report", "prior_image"]
WORDS = {"name": "small", "dim": 32, "num_layers": 2, "num_heads": 2, "train": "trained"}
MODELS: dict[str, dict[str, Any]] = {
    "csr_lmca": TINY["model"],
    "emrrg": EMRRG,
    "emrrg, words": {key: EMRRG[key] for key in EMRRG if key != "hybrid"}
    | {"language_model": WORDS},
}


class PatientPhantoms(PhantomSource):
    """Phantoms of which three in a row are of one patient, the second the earliest.

    Every sixth has no indication.
    """

    def __iter__(self) -> Iterator[SourceStudy]:
        for index, study in enumerate(super().__iter__()):
            sections = dict(study.sections)
            if index % 6 == 1:
                del sections["indication"]
            order = {0: 5, 1: 2, 2: 9}[index % 3]
            patient = f"patient-{index // 3}"
            yield SourceStudy(study.id, patient, study.split, study.images, sections, order=order)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = PatientPhantoms(18, image_size=64, splits=(4 / 6, 1 / 6, 1 / 6), indications=0.8)
    return prepare(
        source, tmp_path_factory.mktemp("patients") / "data", image_size=64, workers=1
    ).out


@pytest.fixture(scope="module", params=MODELS)
def made(
    request: pytest.FixtureRequest, prepared: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ReportModel, ReportDataset]:
    """A model with random weights, and the training studies in its form."""
    data = {**TINY["data"], "context": CONTEXT, "random_crop": False}
    path = write_recipe(tmp_path_factory.mktemp("recipe"), prepared, data=data)
    section = MODELS[request.param]
    text = {"model": section, "decode": {"max_new_tokens": 12}}
    path.write_text(_with(path, text))
    recipe = load_recipe(path, [])
    studies = ModelStudies(prepared, "train", target="findings")
    words = build_tokenizer(recipe.data, studies)
    torch.manual_seed(0)
    model = build_model(recipe, words.vocabulary)
    assert isinstance(model, ReportModel)
    for part in model.modules():
        if isinstance(part, VisualCrossAttention):
            torch.nn.init.constant_(part.warm_up, 0.5)  # at 0 it has no effect
    dataset = build_dataset(
        recipe,
        studies,
        preprocess=build_preprocess(recipe.data, model),
        codec=build_codec(recipe, words, model),
    )
    return model.eval(), dataset


def _with(path: Path, changes: dict[str, Any]) -> str:
    return yaml.safe_dump(yaml.safe_load(path.read_text()) | changes)


def batch_of(dataset: ReportDataset, *indices: int) -> Batch:
    return collate([dataset[0, index] for index in indices])


def test_the_study_before_is_the_patients_last_earlier_one(prepared: Path) -> None:
    studies = ModelStudies(prepared, "train", target="findings")
    assert {k: v for k, v in studies.priors.items() if k < 6} == {0: 1, 2: 0, 3: 4, 5: 3}
    usable = studies.find_priors({1})  # the earliest of a patient, as if the others had no text
    assert {k: v for k, v in usable.items() if k < 6} == {0: 1, 2: 1}
    assert not ModelStudies(prepared, "val").priors.keys() - {0, 2}


def test_a_batch_has_the_context_of_each_study(
    made: tuple[ReportModel, ReportDataset],
) -> None:
    _, dataset = made
    batch = batch_of(dataset, 0, 1, 2)
    assert batch.prior is not None
    assert batch.prior.num_views.tolist() == [1, 0, 1]
    own = dataset.studies.read_images(1)[0]
    shown = dataset.preprocess.evaluate(own)
    assert batch.prior.images is not None
    assert torch.equal(batch.prior.images[0], shown)
    assert batch.context is not None
    assert batch.context_kinds is not None
    assert {*batch.context_kinds[0].tolist()} - {0} == {1, 3}
    assert {*batch.context_kinds[1].tolist()} == {0}  # the first of its patient, no indication
    assert batch.study(1).prior is None


def test_a_report_with_context_does_not_depend_on_its_batch(
    made: tuple[ReportModel, ReportDataset],
) -> None:
    model, dataset = made
    together = batch_of(dataset, 0, 1, 2, 3)
    for decode in (
        DecodeOptions(method="beam", beam_size=2, max_new_tokens=12),
        DecodeOptions(method="greedy", max_new_tokens=12),
    ):
        with torch.no_grad():
            written = model.write(together, decode)
            for number in range(4):
                assert model.write(batch_of(dataset, number), decode) == [written[number]]
    losses = [model.loss(batch_of(dataset, i))["loss"] for i in range(4)]
    counts = [model.num_loss_terms(batch_of(dataset, i)) for i in range(4)]
    mean = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
    torch.testing.assert_close(model.loss(together)["loss"], mean)


def test_each_part_of_the_context_is_read(made: tuple[ReportModel, ReportDataset]) -> None:
    model, dataset = made
    batch = batch_of(dataset, 0, 2)
    other = batch_of(dataset, 3, 5)
    whole = model.loss(batch)["loss"]
    changes = {
        "prior": replace(batch, prior=other.prior),
        "no prior": replace(batch, prior=None),
        "texts": replace(batch, context=other.context, context_kinds=other.context_kinds),
        "no texts": replace(batch, context=None, context_kinds=None),
    }
    for name, changed in changes.items():
        assert not torch.isclose(model.loss(changed)["loss"], whole, rtol=1e-6), name
    loss = model.loss(batch)["loss"]
    loss.backward()
    parameters = dict(model.named_parameters())
    (earlier,) = (name for name in parameters if name.endswith("earlier"))
    assert parameters[earlier].grad is not None
    assert parameters[earlier].grad.abs().sum() > 0


def test_a_batch_without_any_prior_has_all_gradients(
    made: tuple[ReportModel, ReportDataset],
) -> None:
    # Else processes that share gradients would wait for one that some do not have.
    model, dataset = made
    for parameter in model.parameters():
        parameter.grad = None
    batch = batch_of(dataset, 1)
    assert batch.prior is None
    model.loss(batch)["loss"].backward()
    named = dict(model.named_parameters()).items()
    new = [p for name, p in named if name.endswith("earlier") or "text_kinds" in name]
    assert new
    assert all(parameter.grad is not None for parameter in new)


def test_cached_features_give_the_same(made: tuple[ReportModel, ReportDataset]) -> None:
    model, dataset = made
    batch = batch_of(dataset, 0, 1, 2)
    decode = DecodeOptions(method="greedy", max_new_tokens=12)
    with torch.no_grad():
        encoded = model.encode_images(batch, decode)
        assert encoded.prior is not None
        assert encoded.prior.images is None
        assert model.write(encoded, decode) == model.write(batch, decode)


def test_rewards_score_drawn_reports_as_the_likelihood_does(
    made: tuple[ReportModel, ReportDataset],
) -> None:
    model, dataset = made
    assert isinstance(model, PolicyModel)
    batch = batch_of(dataset, 0, 1)
    with torch.no_grad():
        encoded = model.encode_studies(batch)
        drawn = model.draw(encoded, torch.rand(2, 1, 8), 1.0)
        tokens = torch.nn.utils.rnn.pad_sequence([*map(torch.tensor, drawn)], batch_first=True)
        together = model.log_probs(encoded, tokens, 1.0)
        for number, own in enumerate(drawn):
            alone = model.encode_studies(batch_of(dataset, number))
            found = model.log_probs(alone, torch.tensor([own]), 1.0)[0]
            torch.testing.assert_close(together[number, : len(own)], found, atol=1e-5, rtol=1e-4)


def test_hybrid_layers_add_to_texts_and_not_to_the_tokens_of_a_prior(
    made: tuple[ReportModel, ReportDataset],
) -> None:
    """Only text attends to visual tokens (Shi et al. 2025), and a prior's are visual."""
    model, dataset = made
    layer: Any = next((m for m in model.modules() if isinstance(m, VisualCrossAttention)), None)
    if layer is None:
        pytest.skip("a model without hybrid layers")
    assert isinstance(model, Emrrg)
    added: list[torch.Tensor] = []
    hook = layer.register_forward_hook(
        lambda _, given, made: added.append((made - given[0]).abs().amax(dim=(2, 3)) > 0)
    )
    batch = batch_of(dataset, 0, 1)
    assert batch.prior is not None
    assert batch.prior.num_views.tolist() == [1, 0]
    with torch.no_grad():
        model.likelihood(model.encode_studies(batch), batch)
        with model._shown(batch) as prompt:
            real = prompt.real
    hook.remove()
    assert real is not None
    num_tokens = model._inline(model.encode(batch)).shape[1]
    first = len(model._before)
    own, prior = (slice(first + n * num_tokens, first + (n + 1) * num_tokens) for n in range(2))
    for number, images in ((0, [own, prior]), (1, [own])):
        expected = torch.ones(added[0].shape[1], dtype=torch.bool)
        for place in images:
            expected[place] = False
        found, present = (
            added[0][number],
            torch.nn.functional.pad(real[number], (0, len(expected) - real.shape[1]), value=True),
        )
        assert torch.equal(found[present], expected[present])


def test_kinds_are_dropped_at_random_by_seed(made: tuple[ReportModel, ReportDataset]) -> None:
    _, dataset = made
    reader = dataset.context
    assert reader is not None
    half = replace(reader, dropped=0.5)
    found = [half.read(dataset.studies, 0, seed) for seed in range(200)]
    for share in (
        sum("indication" in each.texts for each in found),
        sum("prior_report" in each.texts for each in found),
        sum(each.prior is not None for each in found),
    ):
        assert 70 < share < 130
    assert found == [half.read(dataset.studies, 0, seed) for seed in range(200)]
    of_another = replace(reader, source=lambda index: 3)
    assert of_another.read(dataset.studies, 0, 0) == reader.read(dataset.studies, 3, 0)
    none = replace(reader, source=lambda index: None).read(dataset.studies, 0, 0)
    assert (none.texts, none.prior) == ({}, None)
