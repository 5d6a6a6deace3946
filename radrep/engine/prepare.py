"""A source's studies to one prepared folder: images resized once, and a manifest.

OUT/images/<study>/<k>.png   8-bit grey, short side `image_size`; k counts from 0 in the source
OUT/manifest.jsonl           one study a line, in the source's order (radrep.data.study)
OUT/left_out.jsonl           what was left out, and why
OUT/prepared.json            the recipe that made it and its hash, counts, the manifest's hash
"""

import errno
import functools
import hashlib
import io
import json
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image as Picture

from radrep.data.images import fit_short_side
from radrep.data.reports import target_text
from radrep.data.study import MANIFEST, SPLITS, Image, Source, SourceStudy, Study
from radrep.engine.prepared_folder import (
    LEFT_OUT,
    finish,
    partial_folder,
    read_finished,
    read_left_out,
)
from radrep.engine.reporter import Reporter
from radrep.engine.workers import count_cores, map_in_order
from radrep.errors import DataError

# Part of every recipe: to be raised when the same source would give other bytes than before.
DATA_VERSION = 1

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}(?<!\.)")
# A worker takes half a second to start, in which about this many studies are done.
_STUDIES_PER_WORKER = 32


@dataclass(frozen=True)
class PrepareResult:
    """What a prepared folder holds.

    Attributes:
        out: The folder.
        counts: Studies by split; every split is there, with 0 where it has none.
        image_counts: Images by split.
        expected: Studies by split in a complete download, None where no number is published.
        left_out: (what, reason) pairs of images and studies that could not be used.
        num_square: Images that were squares in the source. Where all were, somebody squashed them.
        already_done: Whether the folder was there before and nothing was done.
    """

    out: Path
    counts: Mapping[str, int]
    image_counts: Mapping[str, int]
    expected: Mapping[str, int] | None
    left_out: tuple[tuple[str, str], ...]
    num_square: int
    already_done: bool

    @property
    def num_images(self) -> int:
        """Images in all splits together."""
        return sum(self.image_counts.values())


@dataclass
class _Tally:
    """What has been done so far."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    image_counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    left_out: list[tuple[str, str]] = field(default_factory=list)
    num_square: int = 0
    num_seen: int = 0
    num_bytes: int = 0

    def add(self, split: str, made: "_Views", reasons: list[tuple[str, str]]) -> None:
        self.counts[split] += bool(made.images)
        self.image_counts[split] += len(made.images)
        self.left_out += reasons
        self.num_square += made.num_square
        self.num_seen += 1
        self.num_bytes += made.num_bytes


@dataclass(frozen=True)
class _Task:
    """A study, the name of its image folder, and why it is left out unopened, if it is."""

    study: SourceStudy
    folder_name: str
    refusal: str | None


@dataclass(frozen=True)
class _Views:
    """What a worker made of one study's images."""

    images: tuple[Image, ...]
    left_out: tuple[tuple[str, str], ...]
    num_square: int
    num_bytes: int


def prepare(
    source: Source,
    out: Path,
    *,
    image_size: int = 256,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> PrepareResult:
    """Write a source's studies into a prepared folder, or find that this was done before.

    An image that cannot be read is left out with its reason; so is a study without any readable
    image, with neither findings nor impression, or with the id of an earlier one.

    With more than one worker, a script that calls this needs a `__main__` guard, as always with
    Python's worker processes.

    Args:
        source: The studies.
        out: The folder to make. It may exist if it is empty or was made by the same recipe, which
            is the source's content, the image size and the version of this step.
        image_size: Short side of the images in pixels; smaller images are not enlarged.
        workers: Number of processes; as many as there are cores, if not given.
        reporter: Who is told how it goes.

    Raises:
        DataError: If `out` holds anything else, cannot be written, the disk is full, no study is
            left, or a worker process dies. `out` is then as it was before.
    """
    for name, value in (("image_size", image_size), ("workers", workers)):
        if value is not None and value < 1:
            raise DataError(f"{name} must be at least 1, got {value}")
    target = Path(out).resolve()
    recipe = {
        "data_version": DATA_VERSION,
        "source": source.name,
        "fingerprint": source.fingerprint(),
        "image_size": image_size,
    }
    tally = _Tally()
    try:
        record = read_finished(target, recipe)
        if record is not None:
            return _result(Path(out), record, read_left_out(target), already_done=True)
        with partial_folder(target) as partial:
            make_views = functools.partial(_make_views, out=partial, image_size=image_size)
            if workers is None:
                workers = max(1, min(count_cores(), len(source) // _STUDIES_PER_WORKER))
            # Closed by its end, so that no worker outlives the folder it writes into.
            with closing(map_in_order(make_views, _plan(source), workers)) as views:
                _write_lists(views, source, partial, reporter or Reporter(), tally)
            record = _describe(source, recipe, tally)
            finish(partial, record)
    except OSError as error:
        raise DataError(_describe_failure(error, target, tally, len(source))) from error
    return _result(Path(out), record, tuple(tally.left_out), already_done=False)


def _result(
    out: Path, record: Mapping, left_out: tuple[tuple[str, str], ...], already_done: bool
) -> PrepareResult:
    return PrepareResult(
        out=out,
        counts=record["counts"],
        image_counts=record["image_counts"],
        expected=record["expected"],
        left_out=left_out,
        num_square=record["num_square"],
        already_done=already_done,
    )


def _describe(source: Source, recipe: Mapping[str, object], tally: _Tally) -> dict[str, object]:
    """The record of a complete folder."""
    if not any(tally.counts.values()):
        what, reason = tally.left_out[0] if tally.left_out else ("nothing", "the source is empty")
        raise DataError(f"no study of {source.name} can be used. First left out: {what}: {reason}")
    return {
        "recipe": recipe,
        "recipe_sha256": hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest(),
        "counts": tally.counts,
        "image_counts": tally.image_counts,
        "expected": source.expected_counts(),
        "num_left_out": len(tally.left_out),
        "num_square": tally.num_square,
    }


def _plan(source: Source) -> Iterator[_Task]:
    """Name a folder for each study, and refuse those that need no look at their images."""
    splits: dict[str, str] = {}
    taken: set[str] = set()
    for study in source:
        refusal = None
        if study.id in splits:
            refusal = f"its id is already that of a study in {splits[study.id]}"
        elif not target_text(study.sections, "both"):
            refusal = "neither findings nor impression"
        splits.setdefault(study.id, study.split)
        name = study.id
        # Folders that differ in case alone are one folder on some systems.
        if not _SAFE_NAME.fullmatch(name) or name.casefold() in taken:
            digest = hashlib.sha256(json.dumps(study.id).encode()).hexdigest()
            name = f"{re.sub(r'[^A-Za-z0-9_-]+', '_', name)[:60]}-{digest[:12]}"
        taken.add(name.casefold())
        yield _Task(study, name, refusal)


def _make_views(task: _Task, out: Path, image_size: int) -> _Views:
    """Read, resize and write the images of one study."""
    prepared, left_out = [], []
    num_square = num_bytes = 0
    for k, image in enumerate(() if task.refusal else task.study.images):
        try:
            pixels = image.read(image_size)
        except DataError as error:
            left_out.append((image.name, str(error)))
            continue
        path = f"images/{task.folder_name}/{k}.png"
        num_bytes += _write_png(fit_short_side(pixels, image_size), out / path)
        num_square += pixels.shape[0] == pixels.shape[1]
        prepared.append(Image(path, image.projection))
    return _Views(tuple(prepared), tuple(left_out), num_square, num_bytes)


def _write_png(pixels: np.ndarray, path: Path) -> int:
    # Encoded first: an error of Pillow's own writer does not tell that the disk is full.
    encoded = io.BytesIO()
    # On radiographs, which are noise to zlib, runs alone pack as well as its full search (27.6 kB
    # against 28.2 kB an image of 256 x 256) in a quarter of the time.
    Picture.fromarray(pixels).save(encoded, format="PNG", compress_type=zlib.Z_RLE)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.write_bytes(encoded.getvalue())


def _write_lists(
    views: Iterable[tuple[_Task, _Views]],
    source: Source,
    out: Path,
    reporter: Reporter,
    tally: _Tally,
) -> None:
    """Write the manifest and the list of what was left out, study by study."""
    with (
        (out / MANIFEST).open("w", encoding="utf-8", newline="\n") as manifest,
        (out / LEFT_OUT).open("w", encoding="utf-8", newline="\n") as left_out,
        reporter.progress("prepare", len(source), "studies") as advance,
    ):
        for task, made in views:
            reasons = list(made.left_out)
            if task.refusal or not made.images:
                reasons.append(
                    (f"study {task.study.id}", task.refusal or "none of its images can be read")
                )
            else:
                manifest.write(_to_row(task.study, made.images, source.name).to_json() + "\n")
            for what, reason in reasons:
                left_out.write(json.dumps({"what": what, "reason": reason}) + "\n")
            tally.add(task.study.split, made, reasons)
            advance()


def _to_row(study: SourceStudy, images: tuple[Image, ...], source_name: str) -> Study:
    sections = {name: text for name, text in study.sections.items() if text.strip()}
    return Study(study.id, study.patient_id, study.split, images, sections, source_name)


def _describe_failure(error: OSError, out: Path, tally: _Tally, num_studies: int) -> str:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return f"{out} cannot be prepared: {error}"
    parent = next(folder for folder in out.parents if folder.exists())
    text = f"no space left on the disk of {out}: {shutil.disk_usage(parent).free / 1e6:.0f} MB free"
    if tally.num_seen and tally.num_bytes:
        needed = tally.num_bytes / tally.num_seen * num_studies
        text += f", about {needed / 1e6:.0f} MB needed"
    return text + ". Nothing of it was kept; free some, or give an --out on another disk"
