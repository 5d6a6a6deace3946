"""The prepared folder on disk: what may be written where, and whether it is whole.

OUT/train-00000.arrow ...   the studies (radrep.data.store)
OUT/left_out.jsonl          what was left out, and why
OUT/prepared.json           the recipe that made it and its hash, counts, the shards' hashes, leaks

Work in progress lies in OUT.partial, locked by OUT.partial.lock, with its recipe and a summary of
each finished shard, and is renamed when it is complete: OUT is whole or not there.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from radrep.atomic import (
    atomic_write_text,
    make_folder,
    sync_files,
    sync_folder,
    written_by_one,
)
from radrep.data.manifest import (
    PREPARED,
    ShardRecord,
    hash_file,
    hash_recipe,
    hash_record,
    read_record,
    read_shards,
)
from radrep.data.study import SPLITS
from radrep.errors import DataError
from radrep.json_text import load_json

LEFT_OUT = "left_out.jsonl"
_RECIPE = "recipe.json"
_SUMMARY = ".summary.json"


@dataclass
class Shard:
    """Counts of one shard; one without studies has no file."""

    split: str
    index: int
    studies: int = 0
    images: int = 0
    num_square: int = 0  # images that are squares in the source
    left_out: list[tuple[str, str]] = field(default_factory=list)  # (what, reason)
    notes: list[tuple[str, str]] = field(default_factory=list)  # (image, what was chosen)
    sha256: str = ""
    num_bytes: int = 0
    planned: int = 0  # studies assigned to it, those left out too

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.split}-{self.index:05d}.arrow"

    def record(self) -> ShardRecord:
        """Its entry in prepared.json."""
        return ShardRecord(
            self.name, self.split, self.studies, self.images, self.sha256, self.num_bytes
        )

    def finish(self, partial: Path) -> None:
        """Mark the shard as finished, so that a resumed run skips it."""
        if self.studies:
            file = partial / self.name
            self.sha256, self.num_bytes = hash_file(file), file.stat().st_size
        atomic_write_text(partial / (self.name + _SUMMARY), json.dumps(asdict(self)))


def read_done(partial: Path) -> dict[tuple[str, int], Shard]:
    """The finished shards of a partial folder, by split and number."""
    found = map(_read_shard, sorted(partial.glob(f"*{_SUMMARY}")))
    return {(shard.split, shard.index): shard for shard in found if shard is not None}


def find_done(partial: Path, split: str, index: int) -> Shard | None:
    """One finished shard; a cluster that loses a machine repeats what that one had done."""
    return _read_shard(partial / (Shard(split, index).name + _SUMMARY))


def _read_shard(summary: Path) -> Shard | None:
    """The shard of a summary; None if either is not whole."""
    try:
        row = load_json(summary.read_text(encoding="utf-8"))
        for pairs in ("left_out", "notes"):
            row[pairs] = [tuple(pair) for pair in row[pairs]]
        shard = Shard(**row)
    except (OSError, ValueError, KeyError, TypeError):  # as after a crash of the machine
        return None
    file = summary.parent / shard.name
    whole = not shard.studies or (file.is_file() and hash_file(file) == shard.sha256)
    return shard if whole else None


def read_finished(out: Path, recipe: Mapping[str, object]) -> dict[str, Any] | None:
    """The record of an earlier run of the same recipe; None if `out` is missing or empty."""
    if not out.exists():
        return None
    if not out.is_dir():
        raise DataError(f"{out} is a file; give a folder to prepare into")
    if not any(out.iterdir()):
        if os.path.ismount(out):
            raise DataError(f"{out} is where a disk is mounted; give a folder inside it")
        return None
    record = read_record(out)
    changes = _changes(record["recipe"], recipe)
    if changes:
        raise DataError(
            f"{out} was prepared by another recipe ({changes}) and is left unchanged: give another "
            "--out, or remove it first"
        )
    _clear_marks(out)
    for shard in read_shards(out):
        file = out / shard.name
        if not file.is_file() or file.stat().st_size != shard.num_bytes:
            wrong = "has another size than recorded" if file.is_file() else "is missing"
            raise DataError(f"{file} {wrong}; remove the folder and prepare it again")
    return record


def in_order(done: Mapping[tuple[str, int], Shard]) -> list[Shard]:
    """The finished shards, split by split."""
    return [done[key] for key in sorted(done, key=lambda key: (SPLITS.index(key[0]), key[1]))]


def count_by_split(shards: Iterable[Shard], what: str) -> dict[str, int]:
    """The "studies" or "images" of shards, by split; every split is there."""
    sums = dict.fromkeys(SPLITS, 0)
    for shard in shards:
        sums[shard.split] += getattr(shard, what)
    return sums


def read_left_out(out: Path) -> tuple[tuple[str, str], ...]:
    """The (what, reason) pairs that were left out of a prepared folder."""
    path = out / LEFT_OUT
    try:
        with path.open(encoding="utf-8") as lines:
            return tuple((row["what"], row["reason"]) for row in map(load_json, lines))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); remove the folder and prepare it again"
        ) from error


def finish(partial: Path, record: Mapping[str, object], shards: list[Shard]) -> None:
    """Write the record and the list of what was left out of a complete folder."""
    rows = [asdict(shard.record()) for shard in shards if shard.studies]
    lines = (
        json.dumps({"what": what, "reason": reason}) + "\n"
        for shard in shards
        for what, reason in shard.left_out
    )
    atomic_write_text(partial / LEFT_OUT, "".join(lines))
    whole = {**record, "left_out_sha256": hash_file(partial / LEFT_OUT), "shards": rows}
    whole["sha256"] = hash_record(whole)
    atomic_write_text(partial / PREPARED, json.dumps(whole, indent=2) + "\n")


def find_changes(out: Path, record: Mapping[str, Any]) -> list[str]:
    """Changes to a prepared folder's record and list since it was written, in words."""
    problems = []
    path = out / PREPARED
    if record.get("recipe_sha256") != hash_recipe(record["recipe"]):
        problems.append(f"{path}: the recipe was changed after it was prepared")
    # A folder of an older radrep has fewer hashes; without one, counts are compared.
    if record.get("sha256", hash_record(record)) != hash_record(record):
        problems.append(f"{path} was changed after it was prepared")
    for counts, what in (("counts", "studies"), ("image_counts", "images")):
        sums = Counter[str]()
        for shard in record["shards"]:
            sums[shard["split"]] += shard[what]
        recorded = {split: count for split, count in record.get(counts, {}).items() if count}
        if recorded != sums:
            problems.append(f"{path} records {recorded} {what}, and its shards hold {dict(sums)}")
    try:
        num_left_out = len(read_left_out(out))
        known = record.get("left_out_sha256")
        changed = known is not None and hash_file(out / LEFT_OUT) != known
        if changed or num_left_out != record["num_left_out"]:
            problems.append(f"{out / LEFT_OUT} was changed after it was prepared")
    except DataError as error:
        problems.append(str(error))
    return problems


@contextmanager
def partial_folder(out: Path, recipe: Mapping[str, object]) -> Iterator[Path]:
    """A folder beside `out` to work in, with what a stopped run of this recipe had finished.

    It becomes `out` unless an exception ends the work; then it stays for the next run to resume,
    if any of its shards holds a study. A lock, which ends with its process, keeps others away.
    """
    partial = out.with_name(out.name + ".partial")
    make_folder(partial.parent)
    lock = partial.with_name(partial.name + ".lock")
    with written_by_one(partial, lock, "radrep prepare"):
        if partial.exists():
            _check_abandoned(partial, recipe)
            remove_unfinished(partial)
        if out.exists() and any(out.iterdir()):
            raise DataError(f"{out} was made by another radrep meanwhile; run the command again")
        make_folder(partial)
        atomic_write_text(partial / _RECIPE, json.dumps(recipe))
        try:
            yield partial
            sync_files(partial)
            if out.exists():
                out.rmdir()  # it is empty, and not every system renames onto an empty folder
            partial.rename(out)
            sync_folder(out.parent)
            _clear_marks(out)
        except BaseException:
            if not any(shard.studies for shard in read_done(partial).values()):
                shutil.rmtree(partial, ignore_errors=True)
            raise


def remove_unfinished(partial: Path) -> None:
    """Remove the shards and marks that kills and lost machines left half written."""
    for path in partial.glob("*.partial"):  # hidden ones too
        path.unlink()


def _clear_marks(out: Path) -> None:
    """Remove what only work in progress needs: last, so that a kill before it costs nothing."""
    for path in [*out.glob(f"*{_SUMMARY}"), out / _RECIPE]:
        path.unlink(missing_ok=True)


def _changes(made_by: Mapping[str, object], recipe: Mapping[str, object]) -> str:
    """The differences between two recipes in words; empty without any."""
    return "; ".join(
        f"{key} {_abridge(made_by.get(key))}, now {_abridge(value)}"
        for key, value in recipe.items()
        if made_by.get(key) != value
    )


def _abridge(value: object) -> str:
    text = str(value)
    return text if len(text) <= 16 else text[:12] + "..."


def _check_abandoned(partial: Path, recipe: Mapping[str, object]) -> None:
    """Return if a stopped run of this recipe left the folder, raise if it is anything else."""
    if not any(partial.iterdir()):
        return  # killed before it wrote its recipe
    try:
        made_by = dict(load_json((partial / _RECIPE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{partial} is in the way and was not left by radrep (it has no {_RECIPE}); move it or "
            "give another --out"
        ) from error
    changes = _changes(made_by, recipe)
    if changes:
        raise DataError(
            f"{partial} holds the finished shards of a stopped run of another recipe ({changes}). "
            "Run that recipe again to resume, give another --out, or remove the folder"
        )
