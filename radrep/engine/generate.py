"""Reports for images: in validation and evaluation, and for a user's own files."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from radrep.data.batch import Batch
from radrep.data.images import read_image
from radrep.data.tokenizer import ReportCodec
from radrep.engine.build import ReportModel, build_preprocess
from radrep.engine.checkpoint import Loaded, find_checkpoint, load_checkpoint
from radrep.errors import CheckpointError, DataError
from radrep.generation.search import beam_search, sample
from radrep.models.emrrg import Emrrg
from radrep.recipe.schema import Decode

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def best_device() -> torch.device:
    """The accelerator of this machine, or its CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The arithmetic of a recipe's `train.precision` on a device."""
    dtype = PRECISIONS.get(precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


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
        precision: Arithmetic, as in a recipe.
        seed: Of the draws, when sampling.
        advance: Told the number of studies after each batch.

    Returns:
        (id, report) of each study, in the order of the batches.
    """
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    written: list[tuple[str, str]] = []
    with autocast(device, precision):
        for batch in batches:
            ids = decode_reports(model, batch.to(device), decode, generator)
            written += zip(batch.ids, map(codec.decode, ids), strict=True)
            if advance is not None:
                advance(len(ids))
    return written


@dataclass(frozen=True)
class WrittenReport:
    """A report and where its words looked.

    Attributes:
        images: The files it was written for.
        text: The report.
        looks: Attention to each patch, averaged over words, layers and heads, one map
            (rows, columns) a view; all maps together sum to 1. Empty for a language model.
    """

    images: tuple[Path, ...]
    text: str
    looks: tuple[np.ndarray, ...]


def report_model(loaded: Loaded) -> ReportModel:
    """The model of a checkpoint, which must be one that writes reports.

    Raises:
        CheckpointError: If it is one of pretraining.
    """
    if not isinstance(loaded.model, ReportModel):
        raise CheckpointError(
            f"{loaded.folder} is of pretraining and writes no reports; train a report model on it: "
            "radrep train emrrg_iu_cpu --set model.encoder.weights=" + str(loaded.folder)
        )
    return loaded.model


@torch.no_grad()
def write_report(
    loaded: Loaded, batch: Batch, decode: Decode, *, seed: int = 0
) -> tuple[str, tuple[np.ndarray, ...]]:
    """Write the report of one study and tell where its words looked.

    Args:
        loaded: The checkpoint, its model on its device and in evaluation mode.
        batch: The study.
        decode: How to decode.
        seed: Of the draws, when sampling.

    Returns:
        The report, and its looks as `WrittenReport` has them.
    """
    model = report_model(loaded)
    generator = torch.Generator().manual_seed(seed)
    batch = batch.to(next(model.parameters()).device)
    with autocast(batch.device, loaded.recipe.train.precision):
        (ids,) = decode_reports(model, batch, decode, generator)
        text = loaded.codec.decode(ids)
        if isinstance(model, Emrrg):
            return text, ()
        decoder = model.decoder
        tokens = torch.tensor([[decoder.begin, *ids]], device=decoder.device)
        looks = decoder.looks(model.encode(batch), tokens)[0]  # (words + 1, n)
    # The last row looks for the word after the report, so it belongs to no word.
    mean = looks[: max(1, len(ids))].float().mean(dim=0)
    maps = mean.view(int(batch.num_views), *decoder.grid).cpu().numpy()
    return text, tuple(maps)


class ReportWriter:
    """A trained model that writes reports for image files.

    Args:
        checkpoint: A run, a checkpoint, or None for the newest run under runs/.
        device: Where it computes; the best device of the machine, if not given.
        decode: Other settings of the decoding than the checkpoint's own.

    Raises:
        CheckpointError: If there is no such checkpoint or it is broken.
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        device: torch.device | None = None,
        decode: Decode | None = None,
    ) -> None:
        folder = find_checkpoint(None if checkpoint is None else Path(checkpoint))
        self.loaded = load_checkpoint(folder)
        self.decode = decode or self.loaded.recipe.decode
        self._model = report_model(self.loaded).to(device or best_device())
        self._preprocess = build_preprocess(self.loaded.recipe.data, self._model)

    def write(self, *images: str | Path, seed: int = 0) -> WrittenReport:
        """Write the report of one study.

        Args:
            images: Its views: PNG, JPEG, TIFF, BMP or DICOM files.
            seed: Of the draws, when sampling.

        Raises:
            DataError: If a file cannot be read or there are more views than the model takes.
        """
        data = self.loaded.recipe.data
        if not images:
            raise DataError("no image given; name one file for each view of the study")
        if data.pair == "saliency":
            raise DataError(
                "this model was trained on an image and its saliency image (data.pair: saliency), "
                "which cannot be made for a new image yet"
            )
        if len(images) > data.max_views:
            raise DataError(
                f"{len(images)} views of one study, but this model was trained with at most "
                f"{data.max_views}; give fewer"
            )
        paths = tuple(Path(image) for image in images)
        batch = Batch(
            ids=("study",),
            num_views=torch.tensor([len(paths)]),
            images=torch.stack([self._pixels(path) for path in paths]),
        )
        text, looks = write_report(self.loaded, batch, self.decode, seed=seed)
        return WrittenReport(paths, text, looks)

    def _pixels(self, path: Path) -> Tensor:
        """Do to a file what preparing a data set and evaluating on it do, one after the other."""
        prepared = read_image(path, self.loaded.prepared_size)
        return self._preprocess.evaluate(prepared)


def group_views(images: Sequence[str], *, one_study: bool) -> list[list[str]]:
    """Studies of a command line: all files are one study's views, or each file is a study."""
    return [list(images)] if one_study else [[image] for image in images]
