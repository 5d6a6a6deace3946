"""The prepared folder on disk: what may be written where, and whether it is whole.

OUT/train-00000.arrow ...   the studies (radrep.data.store)
OUT/left_out.jsonl          what was left out, and why
OUT/prepared.json           the recipe that made it and its hash, counts, the shards' hashes, leaks

Work in progress lies in OUT.partial, marked by its process and its recipe, and is renamed when it
is complete: OUT is whole or not there. A shard that is done has its summary beside it, so that a
killed run goes on behind it.
"""

import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from radrep.atomic import atomic_write_text, sync_folder
from radrep.data.manifest import (
    PREPARED,
    ShardRecord,
    hash_file,
    hash_recipe,
    hash_record,
    read_record,
)
from radrep.errors import DataError

LEFT_OUT = "left_out.jsonl"
_MARKER, _RECIPE = "in_progress.json", "recipe.json"
_SUMMARY = ".summary.json"


@dataclass
class Shard:
    """What one shard holds; there is no file of one that holds no study.

    Attributes:
        split: Its split.
        index: Its number in the split.
        studies: Studies in it.
        images: Images in it.
        num_square: Images that were squares in the source.
        left_out: (what, reason) pairs of images and studies that would have been in it.
        sha256: Of the file, in hexadecimal; empty until it is written.
        num_bytes: Size of the file.
        planned: Studies of the source that fell to it, those left out too.
    """

    split: str
    index: int
    studies: int = 0
    images: int = 0
    num_square: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)
    sha256: str = ""
    num_bytes: int = 0
    planned: int = 0

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.split}-{self.index:05d}.arrow"

    def record(self) -> ShardRecord:
        """What prepared.json holds of it."""
        return ShardRecord(
            self.name, self.split, self.studies, self.images, self.sha256, self.num_bytes
        )

    def finish(self, partial: Path) -> None:
        """Note that the shard is done: nothing of it is to be done again."""
        if self.studies:
            file = partial / self.name
            self.sha256, self.num_bytes = hash_file(file), file.stat().st_size
        atomic_write_text(partial / (self.name + _SUMMARY), json.dumps(asdict(self)))


def read_done(partial: Path) -> dict[tuple[str, int], Shard]:
    """The shards of a partial folder that are done, by split and number.

    One whose summary cannot be read, as a crash of the machine may leave it, is not done.
    """
    done = {}
    for path in sorted(partial.glob(f"*{_SUMMARY}")):
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            row["left_out"] = [tuple(pair) for pair in row["left_out"]]
            shard = Shard(**row)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        file = partial / shard.name
        if not shard.studies or (file.is_file() and file.stat().st_size == shard.num_bytes):
            done[shard.split, shard.index] = shard
    return done


def read_finished(out: Path, recipe: Mapping[str, object]) -> dict[str, Any] | None:
    """The record of an earlier run of the same recipe; None if `out` is missing or empty.

    Raises:
        DataError: If `out` is anything else: a file, somebody's folder, prepared by another
            recipe, or no longer what its record says.
    """
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
            f"{out} was prepared by another recipe ({changes}). It is left as it is: "
            "give another --out, or remove it first"
        )
    _clear_marks(out)
    for shard in record["shards"]:
        file = out / shard["name"]
        if not file.is_file() or file.stat().st_size != shard["num_bytes"]:
            wrong = "is not as long as it was" if file.is_file() else "is missing"
            raise DataError(f"{file} {wrong}; remove the folder and prepare it again")
    return record


def read_left_out(out: Path) -> tuple[tuple[str, str], ...]:
    """The (what, reason) pairs that were left out of a prepared folder.

    Raises:
        DataError: If the list is missing or broken.
    """
    path = out / LEFT_OUT
    try:
        with path.open(encoding="utf-8") as lines:
            return tuple((row["what"], row["reason"]) for row in map(json.loads, lines))
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
    """What of a prepared folder's record and list is not as it was written, in words.

    A folder of an older radrep has fewer hashes; what it has none of is compared with the shards.
    """
    problems = []
    path = out / PREPARED
    if record.get("recipe_sha256") != hash_recipe(record["recipe"]):
        problems.append(f"{path}: the recipe was changed after it was prepared")
    if record.get("sha256", hash_record(record)) != hash_record(record):
        problems.append(f"{path} was changed after it was prepared")
    for counts, what in (("counts", "studies"), ("image_counts", "images")):
        shards: dict[str, int] = {}
        for shard in record["shards"]:
            shards[shard["split"]] = shards.get(shard["split"], 0) + shard[what]
        told = {split: count for split, count in record.get(counts, {}).items() if count}
        if told != shards:
            problems.append(f"{path}: it tells of {told} {what}, and its shards of {shards}")
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
    """A folder beside `out` to work in, with what a stopped run of this recipe had done.

    It becomes `out` unless an exception ends the work; then it stays, for the next run to go on,
    if any shard in it is done and has a study.

    Raises:
        DataError: If another run is writing there, or one of another recipe left it.
    """
    partial = out.with_name(out.name + ".partial")
    if partial.exists():
        _check_abandoned(partial, recipe)
        for path in partial.glob("*.partial"):  # hidden ones too
            path.unlink()
    partial.mkdir(parents=True, exist_ok=True)
    atomic_write_text(partial / _RECIPE, json.dumps(recipe))
    marker = {"host": socket.gethostname(), "pid": os.getpid()}
    atomic_write_text(partial / _MARKER, json.dumps(marker))
    try:
        yield partial
        if out.exists():
            out.rmdir()  # it is empty, and not every system renames onto an empty folder
        partial.rename(out)
        sync_folder(out.parent)
        _clear_marks(out)
    except BaseException:
        if not any(shard.studies for shard in read_done(partial).values()):
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _clear_marks(out: Path) -> None:
    """Remove what only work in progress needs: last, so that a kill before it costs nothing."""
    for path in [*out.glob(f"*{_SUMMARY}"), out / _RECIPE, out / _MARKER]:
        path.unlink(missing_ok=True)


def _changes(made_by: Mapping[str, object], recipe: Mapping[str, object]) -> str:
    """What two recipes differ in, in words; empty if in nothing."""
    return "; ".join(
        f"{key} {_short(made_by.get(key))}, now {_short(value)}"
        for key, value in recipe.items()
        if made_by.get(key) != value
    )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 16 else text[:12] + "..."


def _check_abandoned(partial: Path, recipe: Mapping[str, object]) -> None:
    """Return if a stopped run of this recipe left the folder, raise if it is anything else."""
    if not any(partial.iterdir()):
        return  # killed before it could leave a mark
    try:
        made_by = dict(json.loads((partial / _RECIPE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{partial} is in the way and has no mark of radrep; move it or give another --out"
        ) from error
    try:
        marker = json.loads((partial / _MARKER).read_text(encoding="utf-8"))
        host, pid = marker["host"], marker["pid"]
    except (OSError, ValueError, KeyError, TypeError):
        host, pid = socket.gethostname(), os.getpid()  # removed by hand, as told below
    if (host, pid) != (socket.gethostname(), os.getpid()) and _may_run(host, pid):
        raise DataError(
            f"{partial} is being written by another radrep prepare (process {pid} on {host}). "
            f"If that has ended, remove {partial / _MARKER} and give the same command to go on"
        )
    changes = _changes(made_by, recipe)
    if changes:
        raise DataError(
            f"{partial} holds what a stopped run of another recipe had done ({changes}). Give that "
            "recipe again to go on, or another --out, or remove the folder"
        )


def _may_run(host: str, pid: int) -> bool:
    if host != socket.gethostname() or os.name != "posix":
        return True  # it cannot be known from here
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it runs, as another user
    return True
