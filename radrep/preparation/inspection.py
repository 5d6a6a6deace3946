"""Inspect a prepared folder: what it holds, whether it is whole, what it shares with another."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from radrep.data.manifest import PREPARED, hash_file, read_image_size, read_record, read_shards
from radrep.data.saliency_store import FOLDER
from radrep.data.store import PreparedStudies, open_studies
from radrep.data.study import SPLITS
from radrep.errors import DataError
from radrep.preparation.folder import find_changes
from radrep.preparation.identifiers import FoundIdentifiers, find_identifiers
from radrep.preparation.overlap import (
    SAME_IMAGE_BITS,
    Leaks,
    compare_splits,
    count_near_duplicates,
    count_shared_texts,
    read_split_fingerprints,
)
from radrep.progress import Reporter
from radrep.viz.figures.contact_sheet import SheetStudy, draw_sheet

_SHOWN = {"source", "image_size", "views", "section", "limit"}  # of a record's recipe


@dataclass(frozen=True)
class SplitFacts:
    """Counts of one split: patients each once, studies that have each section by its name."""

    studies: int
    images: int
    patients: int
    frontal: int
    lateral: int
    sections: Mapping[str, int]
    megabytes: float


@dataclass(frozen=True)
class DataFacts:
    """Contents of a prepared folder; `notes` are those of its source, then its warnings."""

    recipe: Mapping[str, object]
    layout: str
    splits: Mapping[str, SplitFacts]
    num_left_out: int
    notes: tuple[str, ...]
    leaks: Leaks


def describe(prepared: Path) -> DataFacts:
    """Count what a prepared folder holds; its images stay unread."""
    record = _read_whole(prepared)
    if not any(shard.studies for shard in read_shards(prepared)):
        raise DataError(f"{prepared} has no study; prepare it again")
    if lacking := _SHOWN - record["recipe"].keys():
        raise DataError(f"{prepared / PREPARED} has no recipe.{min(lacking)}; prepare it again")
    splits = {}
    for split in SPLITS:
        shards = read_shards(prepared, split)
        sections, projections = Counter[str](), Counter[str]()
        if shards:
            data = open_studies(prepared, shards)
            for rows in data.select_columns(["sections", "projections"]).iter(1000):
                sections.update(pair["name"] for row in rows["sections"] for pair in row)
                projections.update(chain.from_iterable(rows["projections"]))
        splits[split] = SplitFacts(
            studies=sum(shard.studies for shard in shards),
            images=sum(shard.images for shard in shards),
            patients=len(np.unique(read_split_fingerprints(prepared, split).patients)),
            frontal=projections["frontal"],
            lateral=projections["lateral"],
            sections=sections,
            megabytes=sum(shard.num_bytes for shard in shards) / 1e6,
        )
    return DataFacts(
        **{name: record[name] for name in ("recipe", "layout", "num_left_out")},
        splits=splits,
        notes=(*record["notes"], *record.get("warnings", ())),
        leaks=record["leaks"],
    )


def _read_whole(prepared: Path, *, changed: bool = False) -> dict[str, Any]:
    """The record of a whole prepared folder, "leaks" as `Leaks`; DataError if it is a part."""
    record = read_record(prepared, changed=changed)
    if not {"layout", "num_left_out", "notes", "leaks"} <= record.keys():
        raise DataError(
            f"{prepared} is a part of a prepared folder. Name the whole: radrep data check "
            f"{prepared.parent.parent}"
        )
    try:
        return {**record, "leaks": Leaks(**record["leaks"])}
    except TypeError as error:
        raise DataError(f"{prepared / PREPARED} has other leaks than radrep writes") from error


def contact_sheet(prepared: Path, *, split: str, num_studies: int, seed: int = 0) -> Image.Image:
    """Draw random studies of a split with their reports and labels."""
    studies = PreparedStudies(prepared, split)
    count = min(num_studies, len(studies))
    chosen = np.sort(np.random.default_rng(seed).choice(len(studies), count, replace=False))
    shown = []
    for index in map(int, chosen):
        study = studies[index]
        projections = [image.projection for image in study.images]
        images = studies.read_images(index)
        shown.append(SheetStudy(study.id, images, projections, study.sections, study.labels))
    drawn = f"{count} of its {len(studies)} studies, drawn with seed {seed}"
    source = studies[0].source
    return draw_sheet(shown, f"{prepared.resolve().name} ({source}), {split}: {drawn}")


@dataclass(frozen=True)
class Overlap:
    """What the training studies of one folder share with the test studies of another."""

    studies: int  # of the same source and id, as patients are
    patients: int
    images: int | None  # of the same prepared pixels; None between two image sizes
    # Test texts that are also training texts, and their share: see `Leaks`.
    texts: Mapping[str, tuple[int, float]]
    near: int | None  # test images within `max_bits` of a training image, None where not counted
    max_bits: int | None  # largest distance of the difference hashes, of 256 bits
    image_sizes: tuple[int, int]  # short sides in pixels, here and there

    @property
    def is_leak(self) -> bool:
        """Whether anything is shared that a test must not share with training."""
        return bool(self.studies or self.patients or self.images or self.near)


@dataclass(frozen=True)
class CheckResult:
    """Result of `check`; `near` counts near-duplicates by pair of splits, if asked for."""

    num_shards: int
    problems: tuple[str, ...]
    leaks: Leaks
    near: Mapping[str, int]
    overlap: Overlap | None
    identifiers: FoundIdentifiers

    @property
    def has_leak(self) -> bool:
        """Whether splits share patients or images, near-duplicates included where counted."""
        shared = (*self.leaks.patients.values(), *self.leaks.images.values(), *self.near.values())
        return any(shared) or (self.overlap is not None and self.overlap.is_leak)


def check(
    prepared: Path,
    *,
    against: Path | None = None,
    max_bits: int | None = None,
    reporter: Reporter | None = None,
) -> CheckResult:
    """Compare a prepared folder with its record: all hashes, and what its splits share.

    The test studies of `against` must not be among the training studies here. With `max_bits`,
    the largest distance of 256-bit difference hashes, near-duplicate images are counted too.
    """
    record = _read_whole(prepared, changed=True)
    # SDAM's maps and masked images lie in it and are checked with it.
    masked = sorted(path.parent for path in prepared.glob(f"{FOLDER}/*/{PREPARED}"))
    folders = [prepared, *(folder for folder in masked if folder.suffix != ".partial")]
    shards = {folder: read_shards(folder, changed=True) for folder in folders}
    problems = []
    num_shards = sum(map(len, shards.values()))
    reporter = reporter or Reporter()
    with reporter.progress("check", num_shards, "shards") as advance:
        for folder in folders:
            for shard in shards[folder]:
                path = folder / shard.name
                if not path.is_file():
                    problems.append(f"{path} is missing")
                elif hash_file(path) != shard.sha256:
                    problems.append(f"{path} was changed after it was prepared")
                advance()
            problems += find_changes(folder, read_record(folder, changed=True))
    near: dict[str, int] = {}
    overlap, leaks, identifiers = None, record["leaks"], FoundIdentifiers()
    if not problems:
        num_studies = sum(shard.studies for shard in shards[prepared])
        with reporter.progress("texts", num_studies, "studies") as advance:
            identifiers = find_identifiers(prepared, advance)
        splits = {split: read_split_fingerprints(prepared, split) for split in SPLITS}
        leaks = compare_splits(splits)
        # An older radrep counted less, and some of it in another way.
        for name, recorded in asdict(record["leaks"]).items() if "sha256" in record else ():
            if recorded != getattr(leaks, name):
                problems.append(f"{prepared} records other shared {name} than its splits have")
        if max_bits is not None:
            for pair in leaks.images:
                first, second = (splits[name].difference_hashes for name in pair.split("/"))
                near[pair] = count_near_duplicates(second, first, max_bits)
        if against is not None:
            overlap = find_overlap(prepared, against, max_bits=max_bits)
    return CheckResult(num_shards, tuple(problems), leaks, near, overlap, identifiers)


def find_overlap(
    prepared: Path,
    against: Path,
    *,
    splits: Sequence[str] = ("train",),
    max_bits: int | None = None,
) -> Overlap:
    """Compare the training studies of a folder with the test studies of another.

    Between two image sizes, at which one image has other pixels, images are compared by their
    difference hashes, within `SAME_IMAGE_BITS` if `max_bits` is not given.
    """
    train = read_split_fingerprints(prepared, *splits)
    test = read_split_fingerprints(against, "test")
    sizes = read_image_size(prepared), read_image_size(against)
    same_size = sizes[0] == sizes[1]
    if max_bits is None and not same_size:
        max_bits = SAME_IMAGE_BITS
    near = None
    if max_bits is not None:
        near = count_near_duplicates(test.difference_hashes, train.difference_hashes, max_bits)
    return Overlap(
        studies=len(np.intersect1d(train.studies, test.studies)),
        patients=len(np.intersect1d(train.patients, test.patients)),
        images=len(np.intersect1d(train.images, test.images)) if same_size else None,
        texts=count_shared_texts(test, train),
        near=near,
        max_bits=max_bits,
        image_sizes=sizes,
    )
