"""A source's studies to one prepared folder: images resized once, one row per study, in shards."""

import errno
import functools
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

from radrep.data.arrow import SHARD_STUDIES, ShardWriter
from radrep.data.manifest import hash_recipe
from radrep.data.store import study_features, study_row
from radrep.data.study import Image, SourceStudy, Study
from radrep.errors import DataError
from radrep.parallel.cluster import Cluster
from radrep.parallel.processes import count_cores, map_in_order
from radrep.preparation.folder import (
    Shard,
    count_by_split,
    find_done,
    finish,
    in_order,
    partial_folder,
    read_done,
    read_finished,
    read_left_out,
    remove_unfinished,
)
from radrep.preparation.overlap import Leaks, find_leaks
from radrep.preparation.plan import (
    Choice,
    count_remaining,
    find_unready,
    group_by_shard,
    plan_studies,
    why_left_out,
)
from radrep.preparation.sources.base import Source
from radrep.preparation.study_images import PlannedStudy, StudyImages, make_images
from radrep.progress import Advance, Reporter

# Part of every recipe: to be raised when the same source would give other bytes than before.
DATA_VERSION = 3
# A worker takes half a second to start, in which about this many studies are done.
_STUDIES_PER_WORKER = 32


@dataclass(frozen=True)
class PrepareResult:
    """What a prepared folder holds."""

    out: Path
    counts: Mapping[str, int]  # studies by split; 0 where it has none
    image_counts: Mapping[str, int]
    # Of a complete download, by split or of "all"; None if not published.
    expected: Mapping[str, int] | None
    expected_images: Mapping[str, int] | None
    left_out: tuple[tuple[str, str], ...]  # (what, reason)
    image_notes: tuple[tuple[str, str], ...]  # (image, what was chosen in reading it)
    num_square: int  # images that are squares in the source; if all are, it lost the aspect ratio
    leaks: Leaks
    warnings: tuple[str, ...]  # why it is not ready for training; the source's own ones among them
    already_done: bool  # the folder was there before and nothing was done

    @property
    def num_images(self) -> int:
        """Images in all splits together."""
        return sum(self.image_counts.values())


@dataclass
class _Tally:
    start: float = field(default_factory=time.monotonic)
    num_seen: int = 0
    num_images: int = 0
    num_bytes: int = 0
    shards: dict[tuple[str, int], Shard] = field(default_factory=dict)

    def add(self, shard: Shard) -> None:
        """Count a whole shard, written elsewhere."""
        self.shards[shard.split, shard.index] = shard
        self.num_seen += shard.planned
        self.num_images += shard.images
        self.num_bytes += shard.num_bytes

    @property
    def rate(self) -> float:  # images a second
        return self.num_images / max(time.monotonic() - self.start, 1e-9)


def prepare(
    source: Source,
    out: Path,
    *,
    image_size: int = 256,
    choice: Choice | None = None,
    workers: int | None = None,
    cluster: Cluster | None = None,
    reporter: Reporter | None = None,
) -> PrepareResult:
    """Write a source's studies into a prepared folder, unless that was done before.

    An image that cannot be read is left out with its reason; so is a study without any readable
    image, without the wanted text, or with the id of an earlier one. A stopped or killed run
    resumes after its last finished shard, and the folder's bytes are the same. `out` may be empty
    or made by the same recipe. `image_size` is the short side; smaller images are not enlarged.
    A cluster's workers write the same bytes, from a disk that all of them see.

    With more than one worker (as many as cores, if not given), a script needs a `__main__` guard.
    Raises DataError if `out` holds anything else or cannot be written, or no study is left.
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
            return _result(Path(out), record, already_done=True)
        with partial_folder(target, recipe) as partial:
            tally.shards = read_done(partial)
            if tally.shards:
                reporter.info("resume", f"{len(tally.shards)} shards are done already ({partial})")
            num_done = sum(shard.planned for shard in tally.shards.values())
            total = count_remaining(source, choice, num_done)
            plan = plan_studies(source, choice, frozenset(tally.shards), SHARD_STUDIES)
            with ExitStack() as stack:
                if cluster is not None:
                    stack.enter_context(cluster.run(reporter.warn))
                advance = stack.enter_context(reporter.progress("prepare", total, "studies"))
                tally.start = time.monotonic()
                if cluster is not None:
                    write = functools.partial(
                        _write_shard, source.name, partial, image_size, choice
                    )
                    for shard in cluster.map_blocks(write, group_by_shard(plan), partial):
                        tally.add(shard)
                        advance(shard.planned, note=f"{tally.rate:.0f} images/s")
                    remove_unfinished(partial)
                else:
                    if workers is None:
                        workers = max(1, min(count_cores(), len(source) // _STUDIES_PER_WORKER))
                    work = functools.partial(make_images, image_size=image_size, views=choice.views)
                    # Closed by its end, so that no worker outlives the folder it writes into.
                    made = stack.enter_context(closing(map_in_order(work, plan, workers)))
                    _write_shards(made, source.name, partial, advance, tally, choice)
            reporter.info("images", f"{tally.num_images} prepared, {tally.rate:.0f} a second")
            shards = in_order(tally.shards)
            record = _describe(source, recipe, shards, find_leaks(partial, shards))
            finish(partial, record, shards)
    except OSError as error:
        raise DataError(
            _describe_failure(error, target, tally, count_remaining(source, choice))
        ) from error
    return _result(Path(out), record, already_done=False)


def make_recipe(
    source: Source, image_size: int, choice: Choice, reporter: Reporter | None = None
) -> dict[str, object]:
    """Everything that decides the bytes of a prepared folder."""
    return {
        "data_version": DATA_VERSION,
        "source": source.name,
        "fingerprint": _fingerprint(source, reporter or Reporter()),
        "image_size": image_size,
        **asdict(choice),
    }


def _fingerprint(source: Source, reporter: Reporter) -> str:
    """The fingerprint of a source, with its progress where the source reports any."""
    with ExitStack() as stack:
        shown: list[Advance] = []

        def advance() -> None:
            if not shown:
                progress = reporter.progress("scan files", len(source), "studies")
                shown.append(stack.enter_context(progress))
            shown[0]()

        return source.fingerprint(advance)


def _result(out: Path, record: Mapping, already_done: bool) -> PrepareResult:
    return PrepareResult(
        out,
        **{name: record[name] for name in ("counts", "image_counts", "expected", "num_square")},
        expected_images=record.get("expected_images"),  # not in the record of an older radrep
        left_out=read_left_out(out.resolve()),
        image_notes=tuple(map(tuple, record.get("image_notes", ()))),
        leaks=Leaks(**record["leaks"]),
        warnings=tuple(record.get("warnings", ())),  # not in the record of an older radrep
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
    counts = count_by_split(shards, "studies")
    return {
        "recipe": recipe,
        "recipe_sha256": hash_recipe(recipe),
        "layout": source.layout,
        "counts": counts,
        "image_counts": count_by_split(shards, "images"),
        "expected": source.expected_counts,
        "expected_images": source.expected_images,
        "num_left_out": len(left_out),
        "num_square": sum(shard.num_square for shard in shards),
        "notes": list(source.notes),
        "image_notes": [pair for shard in shards for pair in shard.notes],
        "warnings": [*source.warnings, *find_unready(source, counts, leaks)],
        "leaks": asdict(leaks),
    }


def _write_shards(
    made: Iterable[tuple[PlannedStudy, StudyImages]],
    source_name: str,
    partial: Path,
    advance: Advance,
    tally: _Tally,
    choice: Choice,
) -> None:
    """Write the studies into the shards of their splits, one of which is open at a time each."""
    open_shards: dict[str, tuple[Shard, ShardWriter | None]] = {}
    try:
        for planned, found in made:
            split = planned.study.split
            if split in open_shards and open_shards[split][0].index != planned.shard:
                _close(*open_shards.pop(split), partial, tally)
            shard, writer = open_shards.setdefault(split, (Shard(split, planned.shard), None))
            shard.left_out += found.left_out
            shard.notes += found.notes
            if planned.refusal or not found.images:
                reason = why_left_out(planned, found.num_wanted)
                shard.left_out.append((f"study {planned.study.id}", reason))
            else:
                if writer is None:
                    writer = ShardWriter(partial / shard.name, study_features())
                    open_shards[split] = (shard, writer)
                study = _to_study(planned.study, found.images, source_name)
                writer.write(study_row(study, found.files, found.hashes))
            shard.planned += 1
            shard.studies += bool(found.images)
            shard.images += len(found.images)
            shard.num_square += found.num_square
            tally.num_seen += 1
            tally.num_bytes += sum(map(len, found.files))
            tally.num_images += len(found.images)
            # Of a limited run it is known how many studies are wanted, not how many are refused.
            counts = choice.limit is None or planned.refusal is None
            advance(int(counts), note=f"{tally.rate:.0f} images/s")
        for split in list(open_shards):
            _close(*open_shards.pop(split), partial, tally)
    finally:
        for _, writer in open_shards.values():
            if writer is not None:
                writer.abandon()


def _write_shard(
    source_name: str, partial: Path, image_size: int, choice: Choice, block: Sequence[PlannedStudy]
) -> Shard:
    """Write one shard from all of its studies, in a worker of a cluster."""
    first = block[0]
    if (done := find_done(partial, first.study.split, first.shard)) is not None:
        return done
    tally = _Tally()
    made = ((planned, make_images(planned, image_size, choice.views)) for planned in block)
    with Reporter().progress("", len(block), "") as advance:
        _write_shards(made, source_name, partial, advance, tally, choice)
    (shard,) = tally.shards.values()
    return shard


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
        order=study.order,
    )


def _describe_failure(error: OSError, out: Path, tally: _Tally, num_studies: int) -> str:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return f"{out} cannot be prepared: {error}"
    parent = next(folder for folder in out.parents if folder.exists())
    text = f"no space left on the disk of {out}: {shutil.disk_usage(parent).free / 1e6:.0f} MB free"
    if tally.num_seen and tally.num_bytes:
        needed = tally.num_bytes / tally.num_seen * num_studies
        text += f", about {needed / 1e6:.0f} MB needed in all"
    partial = out.with_name(out.name + ".partial")
    if partial.exists():  # a worker may have finished a shard that nobody has counted
        kept = f"Finished shards are kept in {partial.name}: free some space, then run the"
        return f"{text}. {kept} same command again"
    return f"{text}. Nothing was kept; free some space, or give an --out on another disk"
