"""Reports for prepared studies and for single ones, in the way that a recipe decodes."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch

from radrep.build import build_decode
from radrep.data.batch import Batch
from radrep.data.tokenizer import ReportCodec
from radrep.device import autocast
from radrep.errors import CheckpointError
from radrep.generation.contract import DecodeOptions
from radrep.guidance.editing import WrittenReport
from radrep.inference.guide import (
    Draft,
    Guide,
    choose_reports,
    edit_reports,
    select_reports,
    study_features,
)
from radrep.models.base import ReportModel
from radrep.progress import Advance
from radrep.recipe.training import Decode
from radrep.weights.checkpoint import Loaded

DECODED = Guide()  # nothing but the decoder


@torch.no_grad()
def write_reports(
    model: ReportModel,
    batches: Iterable[Batch],
    codec: ReportCodec,
    decode: Decode,
    *,
    precision: str,
    seed: int = 0,
    advance: Advance | None = None,
    guide: Guide = DECODED,
) -> list[tuple[str, WrittenReport]]:
    """Write (id, report) of every study, in the order of the batches.

    The bare model lies on its device and is put into evaluation mode; `precision` is the arithmetic
    of training, for `decode.precision: train`; `advance` gets the number of studies of each batch.
    A guide, of `guide_for`, selects reports in place of the decoder, compares or edits them.
    """
    model.eval()
    device = next(model.parameters()).device
    options = build_decode(decode, precision)
    generator = torch.Generator().manual_seed(seed)
    written: list[tuple[str, WrittenReport]] = []
    with autocast(device, options.precision):
        for batch in batches:
            _, drafts, probabilities = _draft(
                model, batch.to(device), codec, decode, options, guide, seed, generator
            )
            written += zip(batch.ids, edit_reports(guide, probabilities, drafts), strict=True)
            if advance is not None:
                advance(len(drafts))
    return written


def _draft(
    model: ReportModel,
    batch: Batch,
    codec: ReportCodec,
    decode: Decode,
    options: DecodeOptions,
    guide: Guide,
    seed: int,
    generator: torch.Generator,
) -> tuple[Batch, list[Draft], np.ndarray | None]:
    """The batch, encoded where a guide reads features, and each study's report before editing.

    The last result is the probabilities of findings, (b, l), where they are predicted.
    """
    probabilities = None
    if guide.needs_features:
        batch, vectors = study_features(model, batch, guide, options)
        if guide.predictor is not None:
            probabilities = guide.predictor.probabilities(vectors)
        if guide.consensus is not None:
            selected = select_reports(guide, vectors, decode, decode.consensus.selections)
            found = model.write_candidates(batch, options, seed)
            candidates = [
                [*(Draft(codec.decode(ids), ids) for ids in own), *others]
                for own, others in zip(found, selected, strict=True)
            ]
            chosen = choose_reports(guide, candidates, vectors, probabilities)
            return batch, chosen, probabilities
        if guide.selector is not None:
            best = [own for (own,) in select_reports(guide, vectors, decode)]
            return batch, best, probabilities
    written = model.write(batch, options, generator)
    return batch, [Draft(codec.decode(ids), ids) for ids in written], probabilities


def writes_by_word(decode: Decode) -> bool:
    """Whether a report is known word by word: beams and candidates are known when they end."""
    return decode.method in ("greedy", "sample")


def report_model(loaded: Loaded) -> ReportModel:
    """The model of a checkpoint; raise CheckpointError if it writes no reports."""
    if loaded.recipe.model.output == "labels":
        raise CheckpointError(
            f"{loaded.folder} is a discriminator and writes no reports; a report model can be "
            "given images under its masks: see data.saliency in the recipe csr_lmca_iu_saliency_cpu"
        )
    if not isinstance(loaded.model, ReportModel):
        raise CheckpointError(
            f"{loaded.folder} is of pretraining and writes no reports; train a report model on it: "
            "radrep train emrrg_iu_cpu --set model.encoder.weights=" + str(loaded.folder)
        )
    return loaded.model


@torch.no_grad()
def explain_reports(
    model: ReportModel,
    batch: Batch,
    codec: ReportCodec,
    decode: Decode,
    *,
    precision: str,
    seed: int = 0,
    guide: Guide = DECODED,
    on_text: Callable[[str], None] | None = None,
) -> list[tuple[WrittenReport, np.ndarray]]:
    """Write the report of each study, with the attention before each word of its draft.

    By a model in evaluation mode. Attention is averaged over layers and heads, (words, views, rows,
    columns), 1 in sum for a word; without words for a language model and for a report that was
    selected. `on_text` gets the first study's draft so far, word by word, where the decoder writes
    it so: see `writes_by_word`.
    """
    options = build_decode(decode, precision)
    if on_text is not None and writes_by_word(decode):
        options = replace(options, on_tokens=lambda ids: on_text(codec.decode(ids)))
    generator = torch.Generator().manual_seed(seed)
    batch = batch.to(next(model.parameters()).device)
    with autocast(batch.device, options.precision):
        if not guide.needs_features:  # encoded once, for the reports and their attention
            batch = model.encode_images(batch, options)
        batch, drafts, probabilities = _draft(
            model, batch, codec, decode, options, guide, seed, generator
        )
        maps = [
            None if draft.ids is None else model.attention(batch.study(number), draft.ids)
            for number, draft in enumerate(drafts)
        ]
    attention = [np.zeros((0, 0, 0, 0), np.float32) if m is None else m.cpu().numpy() for m in maps]
    return list(zip(edit_reports(guide, probabilities, drafts), attention, strict=True))
