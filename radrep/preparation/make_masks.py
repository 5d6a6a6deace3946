"""SDAM's maps and masked images for every study of a prepared folder."""

import functools
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from radrep.data.arrow import ShardWriter
from radrep.data.image_selection import masked_view
from radrep.data.manifest import hash_recipe, read_record, read_shards
from radrep.data.saliency_store import (
    SaliencyImage,
    SaliencyImages,
    older_masks,
    open_saliency,
    saliency_features,
    saliency_row,
)
from radrep.data.store import PreparedStudies, StoredStudy
from radrep.errors import DataError
from radrep.metrics.labeler import OBSERVATIONS
from radrep.parallel.cluster import Cluster
from radrep.preparation.folder import (
    Shard,
    count_by_split,
    find_done,
    finish,
    in_order,
    partial_folder,
    read_done,
    read_finished,
    remove_unfinished,
)
from radrep.progress import Reporter
from radrep.recipe.data import Saliency
from radrep.saliency.masked_split import saliency_folder
from radrep.saliency.sdam import SaliencyMaker, load_discriminator
from radrep.viz.figures.saliency_sheet import SaliencyStudy, draw_saliency_sheet

CONTACT_SHEET = "contact_sheet.png"
_SHEET_STUDIES = 12
_Block = tuple[str, int, range]  # split, number and studies of a shard
_EMPTY_MAP = "empty Grad-CAM map: image left unmasked"


@dataclass(frozen=True)
class SaliencyResult:
    """What `prepare_saliency` made: studies by split, and by the observation predicted in them."""

    folder: Path
    counts: Mapping[str, int]
    num_no_positive: int  # images left unmasked because no label is predicted positive
    num_empty_map: int  # because the maps of the positive labels are empty
    predicted_positive: Mapping[str, int]
    sheet: Path
    already_done: bool


@dataclass(frozen=True)
class _Run:
    """What one run reads, masks with and writes to."""

    prepared: Path
    partial: Path
    maker: SaliencyMaker
    label_maps: bool
    splits: dict[str, PreparedStudies] = field(default_factory=dict)

    def studies(self, split: str) -> PreparedStudies:
        """Of a split, opened and checked once."""
        if split not in self.splits:
            self.splits[split] = PreparedStudies(self.prepared, split)
        return self.splits[split]


def prepare_saliency(
    prepared: Path,
    section: Saliency,
    *,
    label_maps: bool = False,
    cluster: Cluster | None = None,
    reporter: Reporter | None = None,
) -> SaliencyResult:
    """Make the map and the masked image of every study of a prepared folder.

    Of each study the first frontal image is masked, or else its first; with `label_maps`, the map
    of each positive label is kept too. A stopped run resumes after its last finished shard. A
    cluster's workers write the same bytes, from a disk that all of them see.

    Raises DataError if a folder is missing, broken, locked or of an older radrep, CheckpointError
    if the discriminator cannot be loaded.
    """
    reporter = reporter or Reporter()
    maker = SaliencyMaker(load_discriminator(section), section)
    target = saliency_folder(prepared.resolve(), maker.fingerprint)
    recipe = {
        "fingerprint": maker.fingerprint,
        "prepared": read_record(prepared)["recipe_sha256"],
        "label_maps": label_maps,
        **section.model_dump(mode="json", exclude={"discriminator"}),
    }
    if target.exists() and any(target.iterdir()):
        return _result(target, _read_existing(target, recipe, label_maps), already_done=True)
    with partial_folder(target, recipe) as partial:
        done = read_done(partial)
        if done:
            reporter.info("resume", f"{len(done)} shards are done already ({partial})")
        left = [block for block in _list_blocks(prepared) if block[:2] not in done]
        with ExitStack() as stack:
            if cluster is not None:
                stack.enter_context(cluster.run(reporter.warn))
            num_left = sum(len(indices) for *_, indices in left)
            advance = stack.enter_context(reporter.progress("saliency", num_left, "images"))
            if cluster is not None:
                load = functools.partial(_load_run, prepared, partial, section, label_maps)
                for shard in cluster.map_with_model(load, left, partial):
                    done[shard.split, shard.index] = shard
                    advance(shard.studies)
                remove_unfinished(partial)
            else:
                run = _Run(prepared, partial, maker, label_maps)
                start, count = time.monotonic(), 0

                def one() -> None:
                    nonlocal count
                    count += 1
                    rate = count / max(time.monotonic() - start, 1e-9)
                    advance(note=f"{rate:.0f} images/s")

                for block in left:
                    shard = _write_shard(run, block, one)
                    done[shard.split, shard.index] = shard
        shards = in_order(done)
        record = _describe(partial, shards, recipe, section)
        finish(partial, record, shards)
        _draw_sheet(prepared, partial, maker.fingerprint, section)
    return _result(target, record, already_done=False)


def _read_existing(
    target: Path, recipe: Mapping[str, object], label_maps: bool
) -> Mapping[str, Any]:
    record = read_record(target)
    if "num_no_positive" not in record:
        raise older_masks(target)
    had = record["recipe"].get("label_maps")
    if label_maps and had is False:
        raise DataError(
            f"{target} was made without the maps of single labels. Remove it to make them too"
        )
    # Maps of single labels that are not asked for do no harm.
    read_finished(target, {**recipe, "label_maps": had})
    return record


def _list_blocks(prepared: Path) -> list[_Block]:
    """The shards of a prepared folder."""
    blocks: list[_Block] = []
    for split, shards in groupby(read_shards(prepared), key=lambda shard: shard.split):
        first = 0
        for number, shard in enumerate(shards):
            blocks.append((split, number, range(first, first + shard.studies)))
            first += shard.studies
    return blocks


def _load_run(
    prepared: Path, partial: Path, section: Saliency, label_maps: bool
) -> Callable[[_Block], Shard]:
    """What a worker of a cluster writes shards with."""
    maker = SaliencyMaker(load_discriminator(section), section)
    return functools.partial(_write_shard, _Run(prepared, partial, maker, label_maps))


def _write_shard(run: _Run, block: _Block, advance: Callable[[], None] = lambda: None) -> Shard:
    """Write the masks of one shard of the prepared folder."""
    split, number, indices = block
    if (done := find_done(run.partial, split, number)) is not None:
        return done
    size, studies = len(indices), run.studies(split)
    shard = Shard(split, number, studies=size, images=size, planned=size)
    writer = ShardWriter(run.partial / shard.name, saliency_features())
    try:
        for index in indices:
            writer.write(saliency_row(_make(run, studies.open(index))))
            advance()
        writer.close()
    except BaseException:
        writer.abandon()
        raise
    shard.finish(run.partial)
    return shard


def _make(run: _Run, stored: StoredStudy) -> SaliencyImage:
    number = masked_view(stored.study)
    pixels = stored.image(number)
    summary = run.maker.summarize(pixels)
    kept = {}
    if run.label_maps:
        for name in summary.predicted_positive:
            large = run.maker.enlarge(torch.from_numpy(summary.maps[name])[None], pixels)[0]
            kept[name] = (large * 255).round().to(torch.uint8).numpy()
    return SaliencyImage(
        study=stored.study.id,
        number=number,
        map=summary.map,
        masked=summary.masked,
        labels=summary.predicted_positive,
        unmasked=summary.unmasked,
        label_maps=kept,
    )


def _describe(
    partial: Path, shards: list[Shard], recipe: Mapping[str, object], section: Saliency
) -> dict[str, object]:
    """The record of a complete folder."""
    no_positive, empty_map, positive = 0, 0, dict.fromkeys(OBSERVATIONS, 0)
    counts = count_by_split(shards, "studies")
    rows = open_saliency(partial, [shard.record() for shard in shards])
    for row in rows.select_columns(["labels", "unmasked"]):  # shards of an earlier run too
        no_positive += not row["labels"]
        empty_map += bool(row["labels"]) and row["unmasked"]
        for label in row["labels"]:
            positive[label["name"]] += 1
    return {
        "recipe": recipe,
        "recipe_sha256": hash_recipe(recipe),
        "discriminator": str(section.discriminator),
        "counts": counts,
        "image_counts": counts,
        "num_left_out": 0,
        "num_no_positive": no_positive,
        "num_empty_map": empty_map,
        "predicted_positive": positive,
    }


def _draw_sheet(prepared: Path, folder: Path, fingerprint: str, section: Saliency) -> None:
    """Draw random studies of the first split that has any."""
    split = read_shards(folder)[0].split
    studies, made = PreparedStudies(prepared, split), SaliencyImages(folder, split, fingerprint)
    count = min(_SHEET_STUDIES, len(studies))
    chosen = np.sort(np.random.default_rng(0).choice(len(studies), count, replace=False))
    shown = []
    for index in map(int, chosen):
        stored = studies.open(index)
        saliency = made.read(stored.study.id)
        shown.append(
            SaliencyStudy(
                id=saliency.study,
                image=stored.image(saliency.number),
                map=saliency.map,
                masked=saliency.masked,
                labels=saliency.labels,
                projection=stored.study.images[saliency.number].projection,
                note=_EMPTY_MAP if saliency.unmasked and saliency.labels else "",
            )
        )
    mask = f"{section.aggregate} of the labels' maps, {section.mask} mask"
    if section.mask == "hard":
        mask += f" from {section.threshold:g}"
    title = f"{prepared.resolve().name}, {split}: {count} of {len(studies)} studies; {mask}"
    draw_saliency_sheet(shown, title).save(folder / CONTACT_SHEET)


def _result(folder: Path, record: Mapping[str, Any], *, already_done: bool) -> SaliencyResult:
    names = ("counts", "num_no_positive", "num_empty_map", "predicted_positive")
    known = {name: record[name] for name in names}
    return SaliencyResult(folder, **known, sheet=folder / CONTACT_SHEET, already_done=already_done)
