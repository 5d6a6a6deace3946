"""Files of weights and their SHA-256, in checksums.json beside them.

checksums.json is written last, so a folder of weights without it is not whole. Files are compared
with it when they are read, unless RADREP_VERIFY=0 turns that off.
"""

import errno
import json
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from radrep.atomic import atomic_write_text
from radrep.data.manifest import VERIFY, hash_file, hash_recipe, verifies
from radrep.errors import CheckpointError, WriteError
from radrep.json_text import load_json

CHECKSUMS = "checksums.json"
OPTIMIZER_INDEX = ".metadata"
OPTIMIZER_PART = re.compile(r"\w+\.distcp")  # a name that leads out of no folder
_ANYWAY = f"{VERIFY}=0 reads it as it is"


def write_error(path: Path, error: BaseException) -> WriteError:
    """What a failed write of a run's file or folder means, and what to do if the disk is full."""
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    free = shutil.disk_usage(parent).free
    # Safetensors hides the system's error in the text of its own.
    number, text = getattr(error, "errno", None), str(error)
    is_full = number in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in text or free < 1e6
    hint = f"; its disk has {free / 1e9:.1f} GB free. Free some, then resume with --resume"
    return WriteError(f"{path} could not be written: {error}{hint if is_full else ''}")


def write_checksums(folder: Path) -> None:
    """Write those of all files of a folder."""
    names = sorted(path.name for path in folder.iterdir() if path.name != CHECKSUMS)
    _write(folder, {name: hash_file(folder / name) for name in names})


def optimizer_parts(folder: Path) -> list[str]:
    """Names of the files of a sharded run's training state, also of those that are lost."""
    sums, _ = _read(folder)
    index = [OPTIMIZER_INDEX] if (folder / OPTIMIZER_INDEX).exists() else []
    return [*dict.fromkeys([name for name in sums if _is_optimizer(name)] + index)]


def _is_optimizer(name: str) -> bool:
    return name == OPTIMIZER_INDEX or OPTIMIZER_PART.fullmatch(name) is not None


def add_checksum(file: Path) -> None:
    """Write that of one file that joined a folder later; CheckpointError if there are no others.

    Where nothing is compared a folder without any, of an older radrep, stays so.
    """
    sums, problem = _read(file.parent)
    if problem and not verifies():
        return
    if problem:
        raise CheckpointError(f"{file.parent} cannot be added to: {problem}")
    _write(file.parent, sums | {file.name: hash_file(file)})


def find_change(folder: Path, names: Iterable[str]) -> str:
    """Which of a folder's files is not what was written there; "" for none."""
    if not verifies():
        return ""
    sums, problem = _read(folder)
    if problem:
        return problem
    for name in names:
        if name not in sums:
            return f"its {CHECKSUMS} has no {name}; {_ANYWAY}"
        if sums[name] != hash_file(folder / name):
            return f"its {name} is not what was written, by its checksum; {_ANYWAY}"
    return ""


def fingerprint(folder: Path, *, without: Collection[str]) -> str:
    """A hash of a folder's files but some and a sharded optimizer, by their checksums if any."""
    sums, problem = _read(folder)
    if problem:
        sums = {path.name: hash_file(path) for path in folder.iterdir() if path.name != CHECKSUMS}
    kept = {n: sha256 for n, sha256 in sums.items() if n not in without and not _is_optimizer(n)}
    return hash_recipe(kept)


def _read(folder: Path) -> tuple[dict[str, str], str]:
    """The checksums of a folder, and what is wrong with them or ""."""
    try:
        sums = load_json((folder / CHECKSUMS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, (
            f"it has no {CHECKSUMS}, which is written last: a copy that was cut short, or of an "
            f"older radrep; {_ANYWAY}"
        )
    except (OSError, ValueError) as error:
        return {}, f"its {CHECKSUMS} cannot be read ({error}); {_ANYWAY}"
    if not isinstance(sums, dict):
        return {}, f"its {CHECKSUMS} is broken; {_ANYWAY}"
    return sums, ""


def _write(folder: Path, sums: Mapping[str, str]) -> None:
    atomic_write_text(folder / CHECKSUMS, json.dumps(sums, indent=1) + "\n")


def write_weights(file: Path, state: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write a .safetensors file with metadata; equal ones make equal bytes."""
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file, dict(about))
    if len(about) < 2:
        return
    with file.open("r+b") as opened:  # safetensors writes metadata in an order of chance
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
        header["__metadata__"] = dict(sorted(about.items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size)
        assert len(text) == size, "sorting does not change the size"
        opened.seek(8)
        opened.write(text)


def read_weights(file: Path, *, verified: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a .safetensors file; raise CheckpointError.

    Of a folder with checksums the file is compared with its own, unless that was done already.
    """
    unchecked = not verified and (file.parent / CHECKSUMS).is_file()
    if unchecked and (change := find_change(file.parent, (file.name,))):
        raise CheckpointError(f"{file.parent} cannot be read: {change}")
    try:
        about = read_header(file)
        return load_file(file), about
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error


def read_header(file: Path) -> dict[str, str]:
    """The metadata of a .safetensors file; SafetensorError if its header and size do not agree."""
    with file.open("rb"):  # safetensors calls a file that is closed to us missing
        pass
    with safe_open(file, "pt") as opened:
        return opened.metadata() or {}
