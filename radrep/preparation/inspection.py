"""A prepared folder looked at: what is in it, whether it is whole, what it shares with another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from radrep.data.arrow import open_shards
from radrep.data.manifest import PREPARED, hash_file, read_image_size, read_record, read_shards
from radrep.data.saliency_store import FOLDER
from radrep.data.store import PreparedStudies
from radrep.data.study import SPLITS
from radrep.errors import DataError
from radrep.preparation.folder import find_changes
from radrep.preparation.overlap import (
    SAME_FILM_BITS,
    Leaks,
    compare_splits,
    count_near_duplicates,
    read_split_prints,
)
from radrep.progress import Reporter
from radrep.viz.figures.contact_sheet import SheetStudy, draw_sheet


@dataclass(frozen=True)
class SplitFacts:
    """What one split holds.

    Attributes:
        studies: Studies.
        images: Images.
        patients: Patients that the source names, each once.
        frontal: Frontal images.
        lateral: Lateral images.
        sections: Studies that have each section, by its name.
        megabytes: Size on disk.
    """

    studies: int
    images: int
    patients: int
    frontal: int
    lateral: int
    sections: Mapping[str, int]
    megabytes: float


@dataclass(frozen=True)
class DataFacts:
    """What a prepared folder holds.

    Attributes:
        recipe: What made it.
        layout: What the source was recognised as.
        splits: Facts by split.
        num_left_out: Images and studies that were left out.
        notes: What the source warned of.
        leaks: What splits share.
    """

    recipe: Mapping[str, object]
    layout: str
    splits: Mapping[str, SplitFacts]
    num_left_out: int
    notes: tuple[str, ...]
    leaks: Leaks


def describe(prepared: Path) -> DataFacts:
    """Read what a prepared folder holds; its images stay unread.

    Raises:
        DataError: If it is none, or broken.
    """
    record = read_record(prepared)
    splits = {}
    for split in SPLITS:
        shards = read_shards(prepared, split)
        sections: dict[str, int] = {}
        projections: dict[str, int] = {}
        if shards:
            data = open_shards([prepared / shard.name for shard in shards])
            for rows in data.select_columns(["sections", "projections"]).iter(1000):
                for row in rows["sections"]:
                    for pair in row:
                        sections[pair["name"]] = sections.get(pair["name"], 0) + 1
                for row in rows["projections"]:
                    for projection in row:
                        projections[projection] = projections.get(projection, 0) + 1
        splits[split] = SplitFacts(
            studies=sum(shard.studies for shard in shards),
            images=sum(shard.images for shard in shards),
            patients=len(np.unique(read_split_prints(prepared, split).patients)),
            frontal=projections.get("frontal", 0),
            lateral=projections.get("lateral", 0),
            sections=sections,
            megabytes=sum(shard.num_bytes for shard in shards) / 1e6,
        )
    return DataFacts(
        recipe=record["recipe"],
        layout=record["layout"],
        splits=splits,
        num_left_out=record["num_left_out"],
        notes=tuple(record["notes"]),
        leaks=Leaks(**record["leaks"]),
    )


def contact_sheet(prepared: Path, *, split: str, num_studies: int, seed: int = 0) -> Image.Image:
    """Draw random studies of a split with their reports and labels.

    Raises:
        DataError: If the folder is broken or the split has no study.
    """
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
    """What the training studies of one folder share with the test studies of another.

    Attributes:
        studies: Studies of the same source and id.
        patients: Patients of the same source and id.
        images: Images with the same prepared pixels; None where the folders are of two image
            sizes, so that no pixels are the same.
        texts: Test reports whose words are those of a training report: common short reports, not a
            fault.
        text_share: Their share of the test reports, 0 to 1.
        near: Test images that look like a training image, None where that was not asked for.
        max_bits: The bits of 256 in which the difference hashes of two such images may differ.
        image_sizes: Short sides in pixels, here and there.
    """

    studies: int
    patients: int
    images: int | None
    texts: int
    text_share: float
    near: int | None
    max_bits: int | None
    image_sizes: tuple[int, int]

    @property
    def is_leak(self) -> bool:
        """Whether anything is shared that a test must not share with training."""
        return bool(self.studies or self.patients or self.images or self.near)


@dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Attributes:
        num_shards: Shards looked at.
        problems: What is wrong with them, empty if nothing.
        leaks: What the splits share.
        near: Images of the second split that look like one of the first, by pair of splits; empty
            where that was not asked for.
        overlap: What train shares with the test split of the other folder, if one was given.
    """

    num_shards: int
    problems: tuple[str, ...]
    leaks: Leaks
    near: Mapping[str, int]
    overlap: Overlap | None

    @property
    def has_leak(self) -> bool:
        """Whether splits share patients or images, look-alikes included where they are counted."""
        shared = (*self.leaks.patients.values(), *self.leaks.images.values(), *self.near.values())
        return any(shared) or (self.overlap is not None and self.overlap.is_leak)


def check(
    prepared: Path,
    *,
    against: Path | None = None,
    max_bits: int | None = None,
    reporter: Reporter | None = None,
) -> CheckResult:
    """Verify everything that a prepared folder holds, and count what its splits share.

    The hashes of shards, recipe, record and list of what was left out are computed anew, and so is
    what splits share: that the record says it is not relied on.

    Args:
        prepared: The folder.
        against: Another one, whose test studies must not be among the training studies here.
        max_bits: Look for near-duplicate images too: the bits of 256 in which their difference
            hashes may differ. Among 4,726 films of IU X-Ray the same film twice differs in 6 at
            most, and different films in 14 at least.
        reporter: Who is told how it goes.

    Raises:
        DataError: If a folder is not a prepared one, or a shard cannot be opened.
    """
    record = read_record(prepared)
    if "leaks" not in record:
        raise DataError(
            f"{prepared} is a part of a prepared folder. Name the whole: radrep data check "
            f"{prepared.parent.parent}"
        )
    # SDAM's maps and masked images lie in it and are checked with it.
    masked = {path.parent: read_record(path.parent) for path in _masked_records(prepared)}
    records = {prepared: record, **masked}
    num_shards = sum(len(each["shards"]) for each in records.values())
    problems = []
    with (reporter or Reporter()).progress("check", num_shards, "shards") as advance:
        for folder, each in records.items():
            for shard in each["shards"]:
                path = folder / shard["name"]
                if not path.is_file():
                    problems.append(f"{path} is missing")
                elif hash_file(path) != shard["sha256"]:
                    problems.append(f"{path} was changed after it was prepared")
                advance()
            problems += find_changes(folder, each)
    near: dict[str, int] = {}
    overlap = None
    leaks = Leaks(**record["leaks"])
    if not problems:
        prints = {split: read_split_prints(prepared, split) for split in SPLITS}
        leaks = compare_splits(prints)
        # What an older radrep counted, it may have counted in another way.
        for name, told in record["leaks"].items() if "sha256" in record else ():
            if told != getattr(leaks, name):
                problems.append(f"{prepared}: it tells of other shared {name} than its splits have")
        if max_bits is not None:
            for pair in leaks.images:
                first, second = pair.split("/")
                near[pair] = count_near_duplicates(
                    prints[second].looks, prints[first].looks, max_bits
                )
        if against is not None:
            overlap = find_overlap(prepared, against, max_bits=max_bits)
    return CheckResult(
        num_shards=num_shards,
        problems=tuple(problems),
        leaks=leaks,
        near=near,
        overlap=overlap,
    )


def _masked_records(prepared: Path) -> list[Path]:
    return sorted(
        path
        for path in prepared.glob(f"{FOLDER}/*/{PREPARED}")
        if not path.parent.name.endswith(".partial")
    )


def find_overlap(
    prepared: Path,
    against: Path,
    *,
    splits: Sequence[str] = ("train",),
    max_bits: int | None = None,
) -> Overlap:
    """Compare the training studies of a folder with the test studies of another.

    Where the two are of different image sizes, in which one film has other pixels, images are told
    by their difference hashes, in `SAME_FILM_BITS` if nothing else is asked for.

    Args:
        prepared: The folder.
        against: The other one.
        splits: What of the first counts as training.
        max_bits: As in `check`.

    Raises:
        DataError: If one is not a prepared folder.
    """
    train, test = read_split_prints(prepared, *splits), read_split_prints(against, "test")
    sizes = read_image_size(prepared), read_image_size(against)
    same_size = sizes[0] == sizes[1]
    if max_bits is None and not same_size:
        max_bits = SAME_FILM_BITS
    texts = int(np.isin(test.texts, train.texts).sum())
    return Overlap(
        studies=len(np.intersect1d(train.studies, test.studies)),
        patients=len(np.intersect1d(train.patients, test.patients)),
        images=len(np.intersect1d(train.images, test.images)) if same_size else None,
        texts=texts,
        text_share=texts / max(len(test.texts), 1),
        near=None if max_bits is None else count_near_duplicates(test.looks, train.looks, max_bits),
        max_bits=max_bits,
        image_sizes=sizes,
    )
