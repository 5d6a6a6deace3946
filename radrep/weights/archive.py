"""Bundles: the files of a checkpoint in one zip archive, none of them compressed.

A bundle has checksums.json as a checkpoint has, over all its other files. It is read by names:
what a stranger adds is refused, and nothing in it is run.
"""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from radrep.atomic import atomic_dir, atomic_file, locked, make_cache_folder
from radrep.data.manifest import hash_file
from radrep.errors import CheckpointError
from radrep.progress import Reporter
from radrep.torch_files import LimitError, stored_members
from radrep.weights.files import CHECKSUMS
from radrep.weights.guidance_files import CONSENSUS, EDITING, SELECTION
from radrep.weights.model_card import MODEL_CARD
from radrep.weights.run_folder import RECIPE, VOCABULARY, WEIGHTS

NEEDED = (WEIGHTS, RECIPE, VOCABULARY, CHECKSUMS)
FROM_REPORTS = (SELECTION, EDITING, CONSENSUS)  # hold sentences of training reports
NAMES = (*NEEDED, MODEL_CARD, *FROM_REPORTS)
BUNDLES = "bundles"  # of the cache
_BLOCK = 1 << 22
_TIME = (1980, 1, 1, 0, 0, 0)  # the same files make the same bundle


def is_bundle(path: Path) -> bool:
    """Whether a path is an archive with a recipe, as other files of weights are not."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return RECIPE in archive.namelist()
    except zipfile.BadZipFile:  # its end is whole, and not the list of its files
        return False


def pack(folder: Path, file: Path, reporter: Reporter) -> None:
    """Write a folder's files as a bundle, whole or not at all."""
    parts = [folder / name for name in NAMES if (folder / name).is_file()]
    sizes = [part.stat().st_size for part in parts]
    with (
        _copier("bundle", sum(sizes), reporter) as copy,
        atomic_file(file) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
    ):
        for part, size in zip(parts, sizes, strict=True):
            member = zipfile.ZipInfo(part.name, _TIME)
            member.file_size, member.external_attr = size, 0o644 << 16
            with part.open("rb") as source, archive.open(member, "w") as target:
                copy(source, target)


@contextmanager
def _copier(
    label: str, num_bytes: int, reporter: Reporter
) -> Iterator[Callable[[IO[bytes], IO[bytes]], None]]:
    """What copies files, of so many bytes together, and follows them."""
    with reporter.progress(label, num_bytes >> 20, "MB") as advance:
        copied = 0

        def copy(source: IO[bytes], target: IO[bytes]) -> None:
            nonlocal copied
            while block := source.read(_BLOCK):
                target.write(block)
                before, copied = copied, copied + len(block)
                advance((copied >> 20) - (before >> 20))

        yield copy


def unpack(file: Path, reporter: Reporter) -> Path:
    """A bundle's checkpoint in the cache, where it is unpacked once.

    Raises:
        CheckpointError: If it is no bundle, is broken, or has more than a bundle has.
    """
    problem = f"{file} is no bundle of radrep export --bundle"
    try:
        with file.open("rb") as opened:
            members = stored_members(opened, file.stat().st_size)
        names = [member.filename for member in members]
        if other := sorted(set(names) - set(NAMES)):
            raise CheckpointError(f"{problem}: it has {other[0]!r}, which is not unpacked")
        if missing := [name for name in NEEDED if name not in names]:
            raise CheckpointError(f"{problem}: it has no {missing[0]}")
        folder = make_cache_folder(BUNDLES) / hash_file(file)
        locks = make_cache_folder("locks")
        with locked(locks / f"bundle-{folder.name}.lock"):
            if not folder.is_dir():
                with (
                    _copier("unpack", file.stat().st_size, reporter) as copy,
                    atomic_dir(folder) as partial,
                    zipfile.ZipFile(file) as archive,
                ):
                    for name in names:
                        with archive.open(name) as source, (partial / name).open("wb") as target:
                            copy(source, target)
    except (zipfile.BadZipFile, LimitError, EOFError, RuntimeError, NotImplementedError) as error:
        raise CheckpointError(f"{problem}, or it is cut off: {error}") from error
    return folder
