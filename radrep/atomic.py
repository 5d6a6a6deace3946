"""Files and folders that are there whole or not at all, also after a machine has crashed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def atomic_write_text(path: Path, text: str) -> None:
    """Write a text file through a neighbour, so that no reader ever sees half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have the disk know the names that a folder holds, which a crash may otherwise undo."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network disks cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_files(folder: Path) -> None:
    """Have the disk hold what is in the files below a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            # Windows wants to write what it flushes; elsewhere a file may be closed to writing.
            with path.open("rb" if os.name == "posix" else "rb+") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            sync_folder(path)
    sync_folder(folder)


@contextmanager
def atomic_dir(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Fill an empty folder beside another, which takes its name only when all went well.

    Without `replace` even a folder that appears meanwhile is kept: FileExistsError.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        sync_files(partial)
        if folder.exists():
            if not replace:
                raise FileExistsError(f"{folder} exists: something else made it meanwhile")
            shutil.rmtree(folder)
        partial.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def cache_folder() -> Path:
    """Where caches lie: RADREP_CACHE if set, else the user's cache folder."""
    if value := os.environ.get("RADREP_CACHE"):
        return Path(value)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "radrep"
