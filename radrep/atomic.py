"""Files and folders that are there whole or not at all, also after a machine has crashed."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from radrep.errors import DataError, RadrepError

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
# What a disk answers that cannot flush folders; any other error is one of the disk.
_NO_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


def check_output(
    path: Path, option: str, *, folder: bool, new: bool, make_parents: bool = False
) -> None:
    """Raise RadrepError, before any work, if the output of an option cannot be written.

    What exists is overwritten, or a folder added to, unless it must be `new`. A folder's missing
    parents are made later; a file's must exist unless `make_parents`.
    """
    problem, other = f"{path} cannot be written", f"name another {option}"
    try:
        exists = path.lstat() is not None
        there = path.exists()
    except (FileNotFoundError, NotADirectoryError):
        exists = there = False
    except (OSError, ValueError) as error:  # a name too long, a null byte, a folder closed to us
        reason = getattr(error, "strerror", None) or error
        raise RadrepError(f"{problem}: {reason}; {other}") from error
    if exists and new:
        raise RadrepError(f"{path} exists already and is not overwritten; {other}")
    if there and not folder:
        if path.is_dir():
            raise RadrepError(f"{path} is a folder; name a file with {option}")
        if not os.access(path, os.W_OK):
            raise RadrepError(f"{problem}: no permission; {other}")
        if not path.is_file():  # a device, a pipe
            return
    around = [path, *path.absolute().parents] if folder else [*path.absolute().parents]
    nearest = next(each for each in around if _exists(each))
    if not nearest.is_dir():
        raise RadrepError(f"{problem}: {nearest} is a file and no folder; {other}")
    if not folder and not make_parents and nearest != around[0]:
        raise RadrepError(f"{problem}: there is no folder {around[0]}; make it, or {other}")
    try:
        with tempfile.TemporaryFile(dir=nearest):  # disks lie about permissions, to root above all
            pass
    except OSError as error:
        raise RadrepError(f"{problem}: {error.strerror} ({nearest}); {other}") from error


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder closed to us; what lies around it is not
        return False


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """An empty neighbour to write, which takes a file's name once the disk has all of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(b"")
        mode = partial.stat().st_mode & 0o666
        yield partial
        _set_mode(partial, mode)
        _sync_file(partial)
        os.replace(partial, path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def atomic_write_text(path: Path, text: str) -> None:
    """Write a text file, see `atomic_file`."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Write a file, see `atomic_file`."""
    with atomic_file(path) as partial:
        partial.write_bytes(content)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, where missing, with names that outlive a power loss."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the disk know the names that a folder holds, which a crash may otherwise undo."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # it may be written to, and not listed
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def _sync_file(path: Path) -> None:
    # Windows wants to write what it flushes; elsewhere a file may be closed to writing.
    with path.open("rb" if os.name == "posix" else "rb+") as file:
        os.fsync(file.fileno())


def sync_files(folder: Path) -> None:
    """Have the disk hold what is in the files below a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            _sync_file(path)
        elif path.is_dir():
            sync_folder(path)
    sync_folder(folder)


@contextmanager
def atomic_dir(folder: Path) -> Iterator[Path]:
    """Fill an empty folder beside another, which takes its name only when all went well.

    Even a folder that appears meanwhile is kept: FileExistsError.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    make_folder(folder.parent)
    partial.mkdir()
    try:
        yield partial
        mode = partial.stat().st_mode & 0o666  # safetensors makes files its user's alone
        for path in partial.rglob("*"):
            if path.is_file():
                _set_mode(path, mode)
        sync_files(partial)
        if folder.exists():
            raise FileExistsError(f"{folder} exists: something else made it meanwhile")
        partial.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _set_mode(path: Path, mode: int) -> None:
    with suppress(OSError):  # disks without modes
        path.chmod(mode)


def cache_folder() -> Path:
    """Where caches lie: RADREP_CACHE if set, else the user's cache folder."""
    if value := os.environ.get("RADREP_CACHE"):
        return Path(value)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "radrep"
    except RuntimeError as error:  # a user without a home
        raise RadrepError(
            "no folder for caches: HOME is not set. Set RADREP_CACHE to a folder"
        ) from error


def make_cache_folder(name: str) -> Path:
    """A folder of the cache, made if it is missing; RadrepError if it cannot be written."""
    folder = cache_folder() / name
    check_output(folder, "folder for caches with RADREP_CACHE", folder=True, new=False)
    make_folder(folder)
    return folder


@contextmanager
def locked(path: Path, *, timeout: float = -1) -> Iterator[bool]:
    """Hold a file's lock; filelock.Timeout after so many seconds, for ever by default.

    Yields whether it is held. On a disk that knows no locks nothing is: the files behind them are
    whole or not there.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout)
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        yield lock.is_locked
    finally:
        lock.release()


@contextmanager
def written_by_one(folder: Path, lock: Path, command: str) -> Iterator[None]:
    """Hold the lock of a folder that a command writes, and remove it at the end.

    Raises:
        DataError: If another one holds it.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locked(lock, timeout=0))
        except Timeout as error:
            raise DataError(
                f"{folder} is being written by another {command}. Wait until it ends, or stop it "
                "and run the command again"
            ) from error
        try:
            yield
        finally:
            if os.name == "posix":  # elsewhere an open file cannot be removed
                lock.unlink(missing_ok=True)


def remove_tree(folder: Path) -> list[OSError]:
    """Remove a folder, or a file, as far as possible; the errors, with paths, of what stays."""
    errors: list[OSError] = []
    walked = os.walk(folder, topdown=False, onerror=errors.append) if folder.is_dir() else ()
    below = [Path(base, name) for base, folders, files in walked for name in (*files, *folders)]
    for path in (*below, folder):
        try:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        except FileNotFoundError:  # it goes while this removes
            pass
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:  # that follows from another one
                errors.append(error)
    return [error for error in errors if not isinstance(error, FileNotFoundError)]
