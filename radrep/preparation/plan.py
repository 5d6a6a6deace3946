"""Which studies of a source are prepared, and in which shard; no image is opened for that."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from radrep.data.arrow import SHARD_STUDIES
from radrep.data.study import SPLITS
from radrep.data.text import TARGETS, target_text
from radrep.errors import DataError
from radrep.preparation.overlap import Leaks
from radrep.preparation.sources.base import Source
from radrep.preparation.study_images import PlannedStudy, wanted_images
from radrep.progress import Reporter

VIEWS = ("all", "frontal", "lateral")
SECTIONS = (*TARGETS, "any")


@dataclass(frozen=True)
class Choice:
    """Which part of a source is prepared; DataError if a value is not allowed.

    Studies without the text of `section` are left out: for "both" one of the two is enough, or the
    last paragraph of a report with neither; "any" leaves out none.
    """

    limit: int | None = None  # the first so many studies of each split; None: all
    views: str = "all"  # the projections that are kept
    section: str = "both"

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise DataError(f"limit must be at least 1, got {self.limit}")
        if self.views not in VIEWS:
            raise DataError(f"views must be one of {', '.join(VIEWS)}, got {self.views!r}")
        if self.section not in SECTIONS:
            raise DataError(f"section must be one of {', '.join(SECTIONS)}, got {self.section!r}")


def plan_studies(
    source: Source,
    choice: Choice,
    done: Collection[tuple[str, int]] = frozenset(),
    shard_studies: int = SHARD_STUDIES,
) -> Iterator[PlannedStudy]:
    """Give each study its shard, by its place in the source alone, and refuse unusable ones.

    Studies beyond the limit and of shards that are done are skipped, unread where possible; once
    every split has reached the limit, reading stops.
    """
    seen: dict[int, str] = {}
    planned = dict.fromkeys(SPLITS, 0)
    kept = dict.fromkeys(SPLITS, 0)
    unfilled = source.splits
    for outline in source.outlines():
        if not unfilled:
            return
        # Eight bytes and not the id: a quarter of a million ids are many megabytes.
        digest = hashlib.blake2b(outline.id.encode(errors="surrogatepass"), digest_size=8).digest()
        key, split = int.from_bytes(digest, "big"), outline.split
        earlier = seen.get(key)
        seen.setdefault(key, split)
        if split not in unfilled:
            continue
        shard = planned[split] // shard_studies
        planned[split] += 1
        is_done = (split, shard) in done
        if is_done and choice.limit is None:
            continue
        study = outline.read()
        refusal = study.refusal
        if earlier is not None:
            refusal = f"its id is already that of a study in {earlier}"
        elif refusal is None and not (
            choice.section == "any" or target_text(study.sections, choice.section)
        ):
            both = choice.section == "both"
            refusal = "neither findings nor impression" if both else f"no {choice.section}"
        kept[split] += refusal is None
        if choice.limit is not None and kept[split] >= choice.limit:
            unfilled -= {split}
        if not is_done:
            yield PlannedStudy(study, shard, refusal)


def group_by_shard(plan: Iterable[PlannedStudy]) -> Iterator[list[PlannedStudy]]:
    """The studies of each shard, as soon as they are planned."""
    filling: dict[str, list[PlannedStudy]] = {}
    for planned in plan:
        split = planned.study.split
        if split in filling and filling[split][0].shard != planned.shard:
            yield filling.pop(split)
        filling.setdefault(split, []).append(planned)
    yield from filling.values()


def count_remaining(source: Source, choice: Choice, num_done: int = 0) -> int:
    """Studies that are still to be prepared, at most."""
    if choice.limit is not None:
        return min(len(source), choice.limit * len(source.splits))
    return max(0, len(source) - num_done)


def why_left_out(planned: PlannedStudy, num_wanted: int) -> str:
    """Why a study without any prepared image is left out."""
    return planned.refusal or ("none of its images can be read" if num_wanted else "no such view")


@dataclass(frozen=True)
class CountResult:
    """What `prepare` would find, as far as that is known without opening an image."""

    counts: Mapping[str, Mapping[str, int]]  # by split: "studies", their "images", "left_out"
    left_out: tuple[tuple[str, str], ...]  # (what, reason) of missing images and of studies


def count_studies(
    source: Source, choice: Choice | None = None, *, reporter: Reporter | None = None
) -> CountResult:
    """Count what `prepare` would prepare: image files are searched for, none is opened."""
    choice = choice or Choice()
    counts = {split: {"studies": 0, "images": 0, "left_out": 0} for split in SPLITS}
    left_out = []
    total = count_remaining(source, choice)
    with (reporter or Reporter()).progress("count", total, "studies") as advance:
        for planned in plan_studies(source, choice):
            row = counts[planned.study.split]
            wanted = wanted_images(planned.study, choice.views)
            found = 0
            for image in () if planned.refusal else wanted:
                try:
                    if image.find is not None:
                        image.find()
                    found += 1
                except DataError as error:
                    left_out.append((image.name, str(error)))
            if found:
                row["studies"] += 1
                row["images"] += found
            else:
                row["left_out"] += 1
                reason = why_left_out(planned, len(wanted))
                left_out.append((f"study {planned.study.id}", reason))
            if choice.limit is None or planned.refusal is None:
                advance()
    return CountResult(counts, tuple(left_out))


def find_unready(
    source: Source, counts: Mapping[str, int], leaks: Leaks | None = None
) -> list[str]:
    """Why studies, counted by split, are not ready for training, in words."""
    problems = []
    if empty := [split for split in SPLITS if not counts.get(split)]:
        problems.append(f"there is no study in {' and '.join(empty)}. {source.split_hint}")
    for pair, number in leaks.patients.items() if leaks else ():
        if number:
            first, second = pair.split("/")
            problems.append(
                f"{number} patients are in {first} and in {second}, so scores on {second} will be "
                "too good. Give each patient one split."
            )
    return problems


def chosen_studies(source: Source, choice: Choice) -> frozenset[str]:
    """Ids of the studies of which `prepare` would open images."""
    plan = plan_studies(source, choice)
    return frozenset(planned.study.id for planned in plan if planned.refusal is None)
