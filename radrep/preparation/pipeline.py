"""A source's studies to one prepared folder: images resized once, a row a study, in shards.

What lies in the folder: radrep.preparation.folder.
"""

import errno
import functools
import hashlib
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

from radrep.data.arrow import SHARD_STUDIES, ShardWriter
from radrep.data.manifest import hash_recipe
from radrep.data.store import study_features, study_row
from radrep.data.study import SPLITS, Image, SourceStudy, Study
from radrep.data.text import TARGETS, target_text
from radrep.errors import DataError
from radrep.parallel import count_cores, map_in_order
from radrep.preparation.folder import (
    Shard,
    finish,
    partial_folder,
    read_done,
    read_finished,
    read_left_out,
)
from radrep.preparation.overlap import Leaks, find_leaks
from radrep.preparation.sources.base import Source, outline_studies
from radrep.preparation.study_images import PreparedViews, StudyTask, make_views, wanted_images
from radrep.progress import Advance, Reporter

# Part of every recipe: to be raised when the same source would give other bytes than before.
DATA_VERSION = 2
VIEWS = ("all", "frontal", "lateral")
SECTIONS = (*TARGETS, "any")

# A worker takes half a second to start, in which about this many studies are done.
_STUDIES_PER_WORKER = 32


@dataclass(frozen=True)
class Choice:
    """What of a source is to be prepared.

    Attributes:
        limit: At most so many studies of each split, the first of them; all, if None.
        views: "all", "frontal" or "lateral": the projections that are kept.
        section: "findings", "impression" or "both" (either will do, and the last paragraph of a
            report that has neither): studies without this text are left out. With "any" none is,
            for want of text.

    Raises:
        DataError: If one of these is none of that.
    """

    limit: int | None = None
    views: str = "all"
    section: str = "both"

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise DataError(f"limit must be at least 1, got {self.limit}")
        if self.views not in VIEWS:
            raise DataError(f"views must be one of {', '.join(VIEWS)}, got {self.views!r}")
        if self.section not in SECTIONS:
            raise DataError(f"section must be one of {', '.join(SECTIONS)}, got {self.section!r}")


@dataclass(frozen=True)
class PrepareResult:
    """What a prepared folder holds, or would hold.

    Attributes:
        out: The folder.
        counts: Studies by split; every split is there, with 0 where it has none.
        image_counts: Images by split.
        expected: Studies by split in a complete download, or of "all"; None where no number is
            published.
        expected_images: The same of images.
        left_out: (what, reason) pairs of images and studies that could not be used.
        num_square: Images that were squares in the source. Where all were, somebody squashed them.
        leaks: What splits share.
        already_done: Whether the folder was there before and nothing was done.
    """

    out: Path
    counts: Mapping[str, int]
    image_counts: Mapping[str, int]
    expected: Mapping[str, int] | None
    expected_images: Mapping[str, int] | None
    left_out: tuple[tuple[str, str], ...]
    num_square: int
    leaks: Leaks
    already_done: bool

    @property
    def num_images(self) -> int:
        """Images in all splits together."""
        return sum(self.image_counts.values())


@dataclass
class _Tally:
    """How far it has come."""

    start: float = field(default_factory=time.monotonic)
    num_seen: int = 0
    num_images: int = 0
    num_bytes: int = 0
    shards: dict[tuple[str, int], Shard] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.num_images / max(time.monotonic() - self.start, 1e-9)


def prepare(
    source: Source,
    out: Path,
    *,
    image_size: int = 256,
    choice: Choice | None = None,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> PrepareResult:
    """Write a source's studies into a prepared folder, or find that this was done before.

    An image that cannot be read is left out with its reason; so is a study without any readable
    image, without the text that is asked for, or with the id of an earlier one. A run that was
    stopped or killed goes on where it stood, and the folder's bytes are the same.

    With more than one worker, a script that calls this needs a `__main__` guard, as always with
    Python's worker processes.

    Args:
        source: The studies.
        out: The folder to make. It may exist if it is empty or was made by the same recipe, which
            is the source's fingerprint, the image size, the choice and the version of this step.
        image_size: Short side of the images in pixels; smaller images are not enlarged.
        choice: What of the source is wanted; everything that has a report, if not given.
        workers: Number of processes; as many as there are cores, if not given.
        reporter: Who is told how it goes.

    Raises:
        DataError: If `out` holds anything else, cannot be written, the disk is full, no study is
            left, or a worker process dies. What was done is kept beside `out` for the next run.
    """
    for name, value in (("image_size", image_size), ("workers", workers)):
        if value is not None and value < 1:
            raise DataError(f"{name} must be at least 1, got {value}")
    target, choice = Path(out).resolve(), choice or Choice()
    reporter = reporter or Reporter()
    recipe = make_recipe(source, image_size, choice, reporter)
    tally = _Tally()
    try:
        record = read_finished(target, recipe)
        if record is not None:
            return _result(Path(out), record, read_left_out(target), already_done=True)
        with partial_folder(target, recipe) as partial:
            tally.shards = read_done(partial)
            if tally.shards:
                reporter.info("resume", f"{len(tally.shards)} shards are done already ({partial})")
            work = functools.partial(make_views, image_size=image_size, views=choice.views)
            if workers is None:
                workers = max(1, min(count_cores(), len(source) // _STUDIES_PER_WORKER))
            tally.start = time.monotonic()
            num_left = _count_left(source, choice, tally.shards.values())
            with reporter.progress("prepare", num_left, "studies") as advance:
                plan = _plan(source, choice, frozenset(tally.shards))
                # Closed by its end, so that no worker outlives the folder it writes into.
                with closing(map_in_order(work, plan, workers)) as views:
                    _write_shards(views, source.name, partial, advance, tally, choice)
            reporter.info("images", f"{tally.num_images} prepared, {tally.rate:.0f} a second")
            shards = sorted(
                tally.shards.values(), key=lambda shard: (SPLITS.index(shard.split), shard.index)
            )
            leaks = find_leaks(partial, shards)
            record = _describe(source, recipe, shards, leaks)
            finish(partial, record, shards)
    except OSError as error:
        raise DataError(_describe_failure(error, target, tally, len(source))) from error
    left_out = tuple(pair for shard in shards for pair in shard.left_out)
    return _result(Path(out), record, left_out, already_done=False)


def make_recipe(
    source: Source, image_size: int, choice: Choice, reporter: Reporter | None = None
) -> dict[str, object]:
    """Everything that decides the bytes of a prepared folder."""
    return {
        "data_version": DATA_VERSION,
        "source": source.name,
        "fingerprint": _look_at_files(source, reporter or Reporter()),
        "image_size": image_size,
        **asdict(choice),
    }


def _look_at_files(source: Source, reporter: Reporter) -> str:
    """The fingerprint of a source; how it goes is shown where the source says so."""
    with ExitStack() as stack:
        shown: list[Advance] = []
        left = len(source)

        def advance() -> None:
            nonlocal left
            if not shown:
                progress = reporter.progress("look at the files", len(source), "studies")
                shown.append(stack.enter_context(progress))
            if left:  # a source may look at several files of a study
                left -= 1
                shown[0]()

        return source.fingerprint(advance)


@dataclass(frozen=True)
class CountResult:
    """What `prepare` would find, as far as that can be told without opening an image.

    Attributes:
        counts: By split: "studies" that have the text asked for and an image, their "images", and
            "left_out", the studies that have not.
        left_out: (what, reason) pairs of images that are not there and of studies.
    """

    counts: Mapping[str, Mapping[str, int]]
    left_out: tuple[tuple[str, str], ...]


def count_studies(
    source: Source, choice: Choice | None = None, *, reporter: Reporter | None = None
) -> CountResult:
    """Count what `prepare` would look at: whether images are there, but none is opened."""
    choice = choice or Choice()
    counts = {split: {"studies": 0, "images": 0, "left_out": 0} for split in SPLITS}
    left_out = []
    num_left = _count_left(source, choice, ())
    with (reporter or Reporter()).progress("count", num_left, "studies") as advance:
        for task in _plan(source, choice, frozenset()):
            row = counts[task.study.split]
            wanted = wanted_images(task.study, choice.views)
            found = 0
            for image in () if task.refusal else wanted:
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
                left_out.append((f"study {task.study.id}", _why_left_out(task, len(wanted))))
            if choice.limit is None or task.refusal is None:
                advance()
    return CountResult(counts, tuple(left_out))


def chosen_studies(source: Source, choice: Choice) -> frozenset[str]:
    """Ids of the studies of which `prepare` would open images."""
    plan = _plan(source, choice, frozenset())
    return frozenset(task.study.id for task in plan if task.refusal is None)


def _why_left_out(task: StudyTask, num_wanted: int) -> str:
    none = "none of its images can be read" if num_wanted else "no such view"
    return task.refusal or none


def _result(
    out: Path, record: Mapping, left_out: tuple[tuple[str, str], ...], already_done: bool
) -> PrepareResult:
    return PrepareResult(
        out=out,
        counts=record["counts"],
        image_counts=record["image_counts"],
        expected=record["expected"],
        expected_images=record.get("expected_images"),  # not in the record of an older radrep
        left_out=left_out,
        num_square=record["num_square"],
        leaks=Leaks(**record["leaks"]),
        already_done=already_done,
    )


def _describe(
    source: Source, recipe: Mapping[str, object], shards: list[Shard], leaks: Leaks
) -> dict[str, object]:
    """The record of a complete folder."""
    left_out = [pair for shard in shards for pair in shard.left_out]
    if not any(shard.studies for shard in shards):
        what, reason = left_out[0] if left_out else ("nothing", "the source is empty")
        raise DataError(f"no study of {source.name} can be used. First left out: {what}: {reason}")

    def count(what: str) -> dict[str, int]:
        return {
            split: sum(getattr(shard, what) for shard in shards if shard.split == split)
            for split in SPLITS
        }

    return {
        "recipe": recipe,
        "recipe_sha256": hash_recipe(recipe),
        "layout": source.layout,
        "counts": count("studies"),
        "image_counts": count("images"),
        "expected": source.expected_counts(),
        "expected_images": source.expected_images(),
        "num_left_out": len(left_out),
        "num_square": sum(shard.num_square for shard in shards),
        "notes": list(source.notes),
        "leaks": asdict(leaks),
    }


def _count_left(source: Source, choice: Choice, done: Iterable[Shard]) -> int:
    """Studies that are still to be prepared, at most."""
    if choice.limit is not None:
        return min(len(source), choice.limit * len(source.splits()))
    return max(0, len(source) - sum(shard.planned for shard in done))


def _plan(source: Source, choice: Choice, done: frozenset[tuple[str, int]]) -> Iterator[StudyTask]:
    """Give each study its shard, by its place in the source alone, and refuse what is known bad.

    Studies beyond the limit and of shards that are done are passed over, unread if possible; once
    every split has as many as the limit allows, none is looked at any more.
    """
    seen: dict[int, str] = {}
    planned = dict.fromkeys(SPLITS, 0)
    kept = dict.fromkeys(SPLITS, 0)
    unfilled = source.splits()
    for outline in outline_studies(source):
        if not unfilled:
            return
        # Eight bytes and not the id: a quarter of a million ids are many megabytes.
        key = int.from_bytes(
            hashlib.blake2b(outline.id.encode(errors="surrogatepass"), digest_size=8).digest(),
            "big",
        )
        split = outline.split
        earlier = seen.get(key)
        seen.setdefault(key, split)
        if split not in unfilled:
            continue
        shard = planned[split] // SHARD_STUDIES
        planned[split] += 1
        is_done = (split, shard) in done
        if is_done and choice.limit is None:
            continue
        study = outline.read()
        refusal = study.refusal
        if earlier is not None:
            refusal = f"its id is already that of a study in {earlier}"
        elif refusal is None and not _has_text(study, choice.section):
            both = choice.section == "both"
            refusal = "neither findings nor impression" if both else f"no {choice.section}"
        kept[split] += refusal is None
        if choice.limit is not None and kept[split] >= choice.limit:
            unfilled -= {split}
        if not is_done:
            yield StudyTask(study, shard, refusal)


def _has_text(study: SourceStudy, section: str) -> bool:
    return section == "any" or bool(target_text(study.sections, section))


def _write_shards(
    views: Iterable[tuple[StudyTask, PreparedViews]],
    source_name: str,
    partial: Path,
    advance: Advance,
    tally: _Tally,
    choice: Choice,
) -> None:
    """Write the studies into the shards of their splits, one of which is open at a time each."""
    open_shards: dict[str, tuple[Shard, ShardWriter | None]] = {}
    try:
        for task, made in views:
            split = task.study.split
            if split in open_shards and open_shards[split][0].index != task.shard:
                _close(*open_shards.pop(split), partial, tally)
            shard, writer = open_shards.setdefault(split, (Shard(split, task.shard), None))
            reasons = list(made.left_out)
            if task.refusal or not made.images:
                reasons.append((f"study {task.study.id}", _why_left_out(task, made.num_wanted)))
            else:
                if writer is None:
                    writer = ShardWriter(partial / shard.name, study_features())
                    open_shards[split] = (shard, writer)
                study = _to_study(task.study, made.images, source_name)
                writer.write(study_row(study, made.files, made.hashes))
            shard.planned += 1
            shard.studies += bool(made.images)
            shard.images += len(made.images)
            shard.num_square += made.num_square
            shard.left_out += reasons
            tally.num_seen += 1
            tally.num_bytes += sum(map(len, made.files))
            tally.num_images += len(made.images)
            # Of a limited run it is known how many studies are wanted, not how many are refused.
            counts = choice.limit is None or task.refusal is None
            advance(int(counts), note=f"{tally.rate:.0f} images/s")
        for split in list(open_shards):
            _close(*open_shards.pop(split), partial, tally)
    finally:
        for _, writer in open_shards.values():
            if writer is not None:
                writer.abandon()


def _close(shard: Shard, writer: ShardWriter | None, partial: Path, tally: _Tally) -> None:
    if writer is not None:
        writer.close()
    shard.finish(partial)
    tally.shards[shard.split, shard.index] = shard


def _to_study(study: SourceStudy, images: tuple[Image, ...], source_name: str) -> Study:
    return Study(
        id=study.id,
        patient_id=study.patient_id,
        split=study.split,
        images=images,
        sections={name: text for name, text in study.sections.items() if text.strip()},
        source=source_name,
        report=study.report,
        labels=study.labels,
    )


def _describe_failure(error: OSError, out: Path, tally: _Tally, num_studies: int) -> str:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return f"{out} cannot be prepared: {error}"
    parent = next(folder for folder in out.parents if folder.exists())
    text = f"no space left on the disk of {out}: {shutil.disk_usage(parent).free / 1e6:.0f} MB free"
    if tally.num_seen and tally.num_bytes:
        needed = tally.num_bytes / tally.num_seen * num_studies
        text += f", about {needed / 1e6:.0f} MB needed in all"
    if tally.shards:
        kept = f"What is done is kept in {out.name}.partial: free some, then give the same command"
        return f"{text}. {kept} again"
    return f"{text}. Nothing of it was kept; free some, or give an --out on another disk"
