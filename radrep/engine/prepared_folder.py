"""The prepared folder on disk: what may be written where, and whether it is whole.

Work in progress lies in OUT.partial, marked by its process, and is renamed when it is complete. So
OUT is whole or not there, and a killed run's leftovers are told from a running one's.
"""

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from radrep.data.study import MANIFEST, Study
from radrep.errors import DataError

PREPARED = "prepared.json"
LEFT_OUT = "left_out.jsonl"
_MARKER = "in_progress.json"


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
    record = _read_record(out)
    made_by = record["recipe"]
    changes = [
        f"{key} {_short(made_by.get(key))}, now {_short(value)}"
        for key, value in recipe.items()
        if made_by.get(key) != value
    ]
    if changes:
        raise DataError(
            f"{out} was prepared by another recipe ({'; '.join(changes)}). It is left as it is: "
            "give another --out, or remove it first"
        )
    _check_whole(out, record)
    return record


def read_left_out(out: Path) -> tuple[tuple[str, str], ...]:
    """The (what, reason) pairs that were left out of a prepared folder."""
    with (out / LEFT_OUT).open(encoding="utf-8") as lines:
        return tuple((row["what"], row["reason"]) for row in map(json.loads, lines))


def finish(partial: Path, record: Mapping[str, object]) -> None:
    """Write the record of a complete folder, with the hash of its manifest."""
    row = {**record, "manifest_sha256": _hash_file(partial / MANIFEST)}
    (partial / PREPARED).write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")


@contextmanager
def partial_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to work in; it becomes `out` unless an exception ends the work.

    Raises:
        DataError: If another run is writing there.
    """
    partial = out.with_name(out.name + ".partial")
    if partial.exists():
        _check_abandoned(partial)
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    marker = partial / _MARKER
    try:
        marker.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        yield partial
        marker.unlink()
        if out.exists():
            out.rmdir()  # it is empty, and not every system renames onto an empty folder
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _read_record(out: Path) -> dict[str, Any]:
    path = out / PREPARED
    if not path.is_file():
        raise DataError(
            f"{out} is not empty and was not made by radrep prepare (it has no {PREPARED}). "
            "It is left as it is: give another --out"
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("recipe"), dict):
        raise DataError(f"{path} is not the record of a prepared folder; give another --out")
    return record


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 16 else text[:12] + "..."


def _check_whole(out: Path, record: Mapping[str, object]) -> None:
    manifest, advice = out / MANIFEST, "remove the folder and prepare it again"
    for path in (manifest, out / LEFT_OUT):
        if not path.is_file():
            raise DataError(f"{path} is missing; {advice}")
    if _hash_file(manifest) != record.get("manifest_sha256"):
        raise DataError(f"{manifest} was changed after it was prepared; {advice}")
    with manifest.open(encoding="utf-8") as lines:
        for line in lines:
            for image in Study.from_json(line).images:
                if not (out / image.path).is_file():
                    raise DataError(f"{out / image.path} is missing; {advice}")


def _check_abandoned(partial: Path) -> None:
    """Return if a killed run left the folder, raise if it is anything else."""
    try:
        marker = json.loads((partial / _MARKER).read_text(encoding="utf-8"))
        host, pid = marker["host"], marker["pid"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{partial} is in the way and has no mark of radrep; move it or give another --out"
        ) from error
    if pid != os.getpid() and _may_run(host, pid):
        raise DataError(
            f"{partial} is being written by another radrep prepare (process {pid} on {host}). "
            "If that has ended, remove the folder"
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


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_image_size(out: Path) -> int:
    """Short side in pixels of the images in a prepared folder.

    Raises:
        DataError: If `out` is not a prepared folder.
    """
    return int(_read_record(out)["recipe"]["image_size"])
