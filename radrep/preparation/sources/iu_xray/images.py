"""IU X-Ray's images under the names that Open-i, Kaggle and the DICOM archive give them.

    NLMCXR_png/CXR1000_IM-0003-1001.png                   Open-i, 512 pixels wide
    images/images_normalized/1000_IM-0003-1001.dcm.png    Kaggle
    NLMCXR_dcm/1000/1000_IM-0003-1001.dcm                 Open-i's DICOM

All of them are one image; the rest of radrep uses Open-i's name, CXR1000_IM-0003-1001.
"""

import os
import re
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from radrep.atomic import atomic_write_text, make_folder, sync_files
from radrep.errors import DataError

# The quicker to read is first.
IMAGE_ARCHIVES = ("NLMCXR_png.tgz", "NLMCXR_dcm.tgz")

OPEN_I_IMAGES, KAGGLE_IMAGES, DICOM_IMAGES = "Open-i's PNG", "Kaggle's images", "Open-i's DICOM"

_NAME = re.compile(r"(?:CXR)?(\d+)(?:_1)?_(IM-\d+(?:-\d+)+)(?:\.\w+)*", re.ASCII)
_SCRATCH = re.compile(rf"({'|'.join(map(re.escape, IMAGE_ARCHIVES))})-\d+-\d+")
_CHUNK = 1 << 20
_METADATA = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
_MAX_MEMBER, _MAX_METADATA = 10**9, 10**6  # bytes
# Open-i's archives have 7,471 members; the reports, in small files that gzip well, 18 times the
# bytes of their archive.
_MAX_MEMBERS = 100_000
_MAX_UNPACKED, _MAX_RATIO = 10**8, 50  # bytes in all, or so many times those of the archive


def open_i_name(file_name: str) -> str | None:
    """Open-i's name of the image in a file, or None if the file has no name of IU X-Ray."""
    match = _NAME.fullmatch(PurePosixPath(file_name).name)
    if not match:
        return None
    number, image = match.groups()
    # Only the images of report 1 have its number twice at Open-i and once at Kaggle.
    return f"CXR{number}_1_{image}" if number == "1" else f"CXR{number}_{image}"


def report_number(image: str) -> str:
    """The number of the report of an image with this Open-i name."""
    return image[len("CXR") :].partition("_")[0]


def kind_of_file(path: Path) -> str:
    """The distribution that names an image like this."""
    if ".dcm." in path.name:
        return KAGGLE_IMAGES
    return DICOM_IMAGES if path.suffix == ".dcm" else OPEN_I_IMAGES


def find_images(raw: Path) -> dict[str, Path]:
    """Find every image below a folder that is named as IU X-Ray's are, by Open-i's name.

    Of links to folders only those at the top are followed. Of several files of one image Open-i's
    PNG is preferred to Kaggle's, and that to DICOM.
    """
    ranks = (OPEN_I_IMAGES, KAGGLE_IMAGES, DICOM_IMAGES)
    found: dict[str, tuple[int, Path]] = {}
    entered = set()
    for folder, subfolders, names in os.walk(raw, followlinks=True):
        real = os.path.realpath(folder)
        if real in entered:
            subfolders.clear()
            continue
        entered.add(real)
        if folder != str(raw):
            subfolders[:] = [name for name in subfolders if _leads_within(Path(folder, name), raw)]
        # What `unpack_images` left after a kill is not whole.
        subfolders[:] = sorted(name for name in subfolders if not _SCRATCH.fullmatch(name))
        for file_name in names:
            if image := open_i_name(file_name):
                path = Path(folder, file_name)
                candidate = (ranks.index(kind_of_file(path)), path)
                found[image] = min(found.get(image, candidate), candidate)
    return {image: path for image, (_, path) in found.items()}


def _leads_within(path: Path, folder: Path) -> bool:
    return not path.is_symlink() or path.resolve().is_relative_to(folder.resolve())


def unpack_images(
    archive: Path,
    scratch: Path,
    advance: Callable[[], None] = lambda: None,
    only: Collection[str] | None = None,
) -> dict[str, Path]:
    """Write the images of an archive below `scratch`, once; a killed run is resumed.

    Files get Open-i's name and nothing else of their path in the archive, so that none can land
    elsewhere. With Open-i's names of the wanted images in `only`, reading ends with their last.
    """
    try:
        status = archive.stat()
        # Another archive of the same name, left by an earlier run, must not be mixed with this.
        folder = scratch / f"{archive.name}-{status.st_size}-{status.st_mtime_ns}"
        if not (folder / "complete").exists():
            make_folder(folder)
            missing = None if only is None else set(only)
            for name, size, chunks in read_members(archive):
                image = open_i_name(name)
                if image and (missing is None or image in missing):
                    _write(folder / image, size, chunks)
                    advance()
                    if missing is not None:
                        missing.discard(image)
                        if not missing:
                            break
            if only is None:
                sync_files(folder)
                atomic_write_text(folder / "complete", "")
        found = {name: folder / name for name in os.listdir(folder) if open_i_name(name) == name}
    except OSError as error:
        raise DataError(f"{archive} cannot be unpacked into {scratch}: {error}") from error
    if not found and only is None:
        raise DataError(f"{archive} has no image of IU X-Ray (CXR1000_IM-0003-1001.png, ...)")
    return found


class _Member(tarfile.TarInfo):
    """A member whose long name or other metadata, which tarfile reads whole, is bounded."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:  # tarfile's own place for subclasses
        if self.type in _METADATA and self.size > _MAX_METADATA:
            name = os.fsdecode(archive.name or "")
            raise DataError(f"{name} has metadata of {self.size / 1e6:.0f} MB; the limit is 1 MB")
        return super()._proc_member(archive)  # type: ignore[misc]


def read_members(archive: Path) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    """The regular files of a tar archive: name, size in bytes, content to read before the next."""
    with _reading(archive), _open_tar(archive) as tar:
        limit = max(_MAX_UNPACKED, _MAX_RATIO * archive.stat().st_size)
        for number, member in enumerate(tar, start=1):
            if member.size > _MAX_MEMBER:
                raise DataError(
                    f"{archive}: {member.name} has {member.size / 1e9:.0f} GB; the limit is 1 GB"
                )
            if number > _MAX_MEMBERS or member.offset_data + member.size > limit:
                raise DataError(
                    f"{archive} unpacks to more than {_MAX_MEMBERS:,} members or "
                    f"{limit / 1e6:.0f} MB, as none of IU X-Ray does"
                )
            content = tar.extractfile(member) if member.isreg() else None
            if content and not member.issparse():  # a sparse file may be endless
                yield member.name, member.size, _chunks(archive, content)
        # tarfile takes a broken header for the end, and gzip compares its checksum at the end.
        rest = tar.fileobj
        while rest and (chunk := rest.read(_CHUNK)):
            if chunk.strip(b"\0") or rest.tell() > limit:
                raise tarfile.ReadError("a header in the midst of it is broken")


def _open_tar(archive: Path) -> tarfile.TarFile:
    """A tar archive, by gzip or not packed: xz takes the memory that a file asks for."""
    with archive.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if packed:
        return tarfile.open(archive, "r:gz", tarinfo=_Member)
    return tarfile.open(archive, "r:", tarinfo=_Member)


def _chunks(archive: Path, content: IO[bytes]) -> Iterator[bytes]:
    with _reading(archive):
        yield from iter(partial(content.read, _CHUNK), b"")


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, ValueError, zlib.error, OSError) as error:
        # Of an unknown format, tarfile's message lists on several lines what it is not.
        reason = str(error).partition(":\n")[0]
        raise DataError(
            f"{archive} is broken or cut short ({reason}); download it again, or unpack it by hand "
            f"to use what is left of it: tar -xf {archive}"
        ) from error


def _write(path: Path, size: int, chunks: Iterator[bytes]) -> None:
    if path.exists() and path.stat().st_size == size:
        with path.open("r+b") as file:  # after a power loss it may have its size alone
            for chunk in chunks:
                start = file.tell()
                if file.read(len(chunk)) != chunk:
                    file.seek(start)
                    file.write(chunk)
        return
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.writelines(chunks)
    partial.replace(path)
