"""Reports for prepared studies and for single ones, in the way that a recipe decodes."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import numpy as np
import torch

from radrep.build import ReportModel
from radrep.data.batch import Batch
from radrep.data.tokenizer import ReportCodec
from radrep.device import autocast
from radrep.errors import CheckpointError
from radrep.generation.search import beam_search, sample
from radrep.models.discriminator import Discriminator
from radrep.models.emrrg import Emrrg
from radrep.recipe.schema import Decode
from radrep.weights.checkpoint import Loaded


def decoding_autocast(
    device: torch.device, decode: Decode, precision: str
) -> AbstractContextManager[object]:
    """The arithmetic of decoding: that of training only where `decode.precision` says so."""
    return autocast(device, precision if decode.precision == "train" else "fp32")


def decode_reports(
    model: ReportModel,
    batch: Batch,
    decode: Decode,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Write the reports of studies in the way that a recipe's `decode` says: ids of each."""
    if isinstance(model, Emrrg):
        return model.generate(
            batch,
            num_beams=decode.beam_size if decode.method == "beam" else 1,
            min_new_tokens=decode.min_words,
            max_new_tokens=decode.max_words,
            repetition_penalty=decode.repetition_penalty,
            length_penalty=decode.length_penalty,
            in_float32=decode.precision == "fp32",
        )
    encoded, num_studies = model.encode(batch), len(batch.ids)
    if decode.method == "beam":
        return beam_search(
            model.decoder,
            encoded,
            num_studies=num_studies,
            beam_size=decode.beam_size,
            max_words=decode.max_words,
            length_penalty=decode.length_penalty,
            block_trigrams=decode.block_trigrams,
        )
    return sample(
        model.decoder,
        encoded,
        num_studies=num_studies,
        max_words=decode.max_words,
        temperature=decode.temperature if decode.method == "sample" else 0.0,
        top_p=decode.top_p if decode.method == "sample" else 1.0,
        block_trigrams=decode.block_trigrams,
        generator=generator,
    )


@torch.no_grad()
def write_reports(
    model: ReportModel,
    batches: Iterable[Batch],
    codec: ReportCodec,
    decode: Decode,
    *,
    precision: str,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> list[tuple[str, str]]:
    """Write a report for every study.

    Args:
        model: The bare model, on its device; it is put into evaluation mode.
        batches: The studies.
        codec: Turns ids into text.
        decode: How to decode.
        precision: Arithmetic of training, which `decode.precision: train` decodes in too.
        seed: Of the draws, when sampling.
        advance: Told the number of studies after each batch.

    Returns:
        (id, report) of each study, in the order of the batches.
    """
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    written: list[tuple[str, str]] = []
    with decoding_autocast(device, decode, precision):
        for batch in batches:
            ids = decode_reports(model, batch.to(device), decode, generator)
            written += zip(batch.ids, map(codec.decode, ids), strict=True)
            if advance is not None:
                advance(len(ids))
    return written


def report_model(loaded: Loaded) -> ReportModel:
    """The model of a checkpoint, which must be one that writes reports.

    Raises:
        CheckpointError: If it is a discriminator or one of pretraining.
    """
    if isinstance(loaded.model, Discriminator):
        raise CheckpointError(
            f"{loaded.folder} is a discriminator and writes no reports; a report model can look "
            "through it: see data.saliency in the recipe csr_lmca_iu_saliency_cpu"
        )
    if not isinstance(loaded.model, ReportModel):
        raise CheckpointError(
            f"{loaded.folder} is of pretraining and writes no reports; train a report model on it: "
            "radrep train emrrg_iu_cpu --set model.encoder.weights=" + str(loaded.folder)
        )
    return loaded.model


@torch.no_grad()
def write_report(
    loaded: Loaded, batch: Batch, decode: Decode, *, seed: int = 0
) -> tuple[str, np.ndarray]:
    """Write the report of one study and tell where each of its words looked.

    Args:
        loaded: The checkpoint, its model on its device and in evaluation mode.
        batch: The study.
        decode: How to decode.
        seed: Of the draws, when sampling.

    Returns:
        The report, and the attention to each patch before each word, averaged over layers and
        heads, (words, views, rows, columns), which sums to 1 for a word. Language models look at
        no map: there it has no words.
    """
    model = report_model(loaded)
    generator = torch.Generator().manual_seed(seed)
    batch = batch.to(next(model.parameters()).device)
    with decoding_autocast(batch.device, decode, loaded.recipe.train.precision):
        (ids,) = decode_reports(model, batch, decode, generator)
        text = loaded.codec.decode(ids)
        if isinstance(model, Emrrg):
            return text, np.zeros((0, 0, 0, 0), np.float32)
        decoder = model.decoder
        tokens = torch.tensor([[decoder.begin, *ids]], device=decoder.device)
        looks = decoder.attention_maps(model.encode(batch), tokens)[0]  # (words + 1, n)
    # The last row looks for the word after the report, so it belongs to no word.
    looks = looks[: max(1, len(ids))].float()
    return text, looks.view(len(looks), int(batch.num_views), *decoder.grid).cpu().numpy()
