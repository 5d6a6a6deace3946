"""The text of a table, line by line: plain or gzip, UTF-8, UTF-16, or as spreadsheets save it."""

import codecs
import gzip
import io
import itertools
import re
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from radrep.errors import DataError

_CHUNK = 1 << 20
# Of a line or of what is read whole: characters, or so many times the bytes of the file. The values
# of JSON, and the cells of a row, take up to 40 bytes for each of their characters.
_MAX_CHARACTERS, _MAX_RATIO = 20_000_000, 20
_WORKBOOKS = {
    b"PK\x03\x04": "a zip file, perhaps an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"PAR1": "a Parquet file",
}
_UTF_16 = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_UTF_8 = "utf-8-sig"
_GUESSED = {"cp1252": "Windows' characters (cp1252)", "mac_roman": "a Mac's characters (Mac Roman)"}
# What no text of one byte a letter has: control characters, and letters as UTF-8 has them.
_NO_SINGLE_BYTES = re.compile(rb"[\x00-\x08\x0e-\x1f]|\xc3[\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}")
_UNDEFINED_CP1252 = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")


@dataclass
class Position:
    """Where in a table its reader is."""

    line: int = 1


@contextmanager
def read_errors(path: Path) -> Iterator[Position]:
    """Turn what may happen while a table is read into DataError."""
    position = Position()
    try:
        yield position
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} is cut off or broken after line {position.line} ({error}); download it again"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, after line {position.line}: no {error.encoding.upper()} text "
            f"({error.reason}); save the table as UTF-8"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def stream_lines(path: Path) -> Generator[str]:
    """The lines of a table with their ends (LF, CR LF or CR); see `read_errors`."""
    encoding = _encoding(path)
    limit = max_characters(path)
    with io.TextIOWrapper(_open(path), encoding, newline="") as lines:
        for number in itertools.count(1):
            line = lines.readline(limit + 1)
            if len(line) > limit:
                raise DataError(
                    f"{path}, line {number}: more than {limit / 1e6:.0f} million characters, which "
                    "no table of reports has"
                )
            if not line:
                return
            yield line


def max_characters(path: Path) -> int:
    """Of a line, or of JSON that is read whole: a gzip file can hold a thousand times its bytes."""
    return max(_MAX_CHARACTERS, _MAX_RATIO * path.stat().st_size)


def read_whole(path: Path) -> bytes:
    """The bytes of a text, unpacked; DataError if they are more than a text has."""
    limit = max_characters(path)
    with _open(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise DataError(f"{path} unpacks to more than {limit / 1e6:.0f} MB, as no reports do")
    return content


def text_notes(path: Path) -> list[str]:
    """What was guessed about a table's characters, in words."""
    with read_errors(path):
        return _guess_note(path, _encoding(path))


def decode_text(content: bytes, path: Path) -> tuple[str, list[str]]:
    """The text of a whole file, and what was guessed; DataError if it is none."""
    encoding = guess_encoding([content], path)
    with read_errors(path):
        return content.decode(encoding), _guess_note(path, encoding)


def guess_encoding(chunks: Iterable[bytes], path: Path) -> str:
    """The encoding of a text: UTF-8, UTF-16 or, of bytes that are neither, a spreadsheet's.

    DataError if it is no text, or mixes encodings.
    """
    chunks = iter(chunks)
    first = next(chunks, b"")
    for head, kind in _WORKBOOKS.items():
        if first.startswith(head):
            raise DataError(f"{path} is {kind} and no table of text; save it as CSV (UTF-8)")
    sample = first[:2000]
    # Every other byte of Latin letters in UTF-16 is 0.
    for encoding, zeros in (("utf-16-le", sample[1::2]), ("utf-16-be", sample[::2])):
        if sample[:2] in _UTF_16:
            return _UTF_16[sample[:2]]
        if len(sample) > 3 and zeros.count(0) > len(zeros) // 2:
            return encoding
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, is_ascii, has_lf, is_defined = 1, True, False, True
    for chunk in itertools.chain([first], chunks, [b""]):
        has_lf = has_lf or b"\n" in chunk
        try:
            is_ascii = decoder.decode(chunk, final=not chunk).isascii() and is_ascii
        except UnicodeDecodeError as error:
            before, broken = error.object[: error.start], error.object[error.start :]
            line += before.count(b"\n")
            is_single = is_ascii and before.isascii()
            fits_mac = not has_lf and b"\r" in error.object
            for part in itertools.chain([broken], chunks):
                if not is_single:
                    break
                is_single = not _NO_SINGLE_BYTES.search(part)
                fits_mac = fits_mac and b"\n" not in part
                is_defined = is_defined and not _UNDEFINED_CP1252.search(part)
            if is_single and (fits_mac or is_defined):
                return "mac_roman" if fits_mac else "cp1252"
            raise DataError(
                f"{path}, line {line}: byte {broken[0]:#04x} is not UTF-8; save the table as UTF-8"
            ) from error
        line += chunk.count(b"\n")
    return _UTF_8


def _encoding(path: Path) -> str:
    status = path.stat()
    return _sniff(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _sniff(path: Path, size: int, changed: int) -> str:  # once for each version of a file
    with _open(path) as file:
        return guess_encoding(_chunks(file), path)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    try:
        while chunk := file.read(_CHUNK):
            yield chunk
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return  # `stream_lines` meets it again, after the line where it is


def _guess_note(path: Path, encoding: str) -> list[str]:
    if encoding not in _GUESSED:
        return []
    return [
        f"{path.name} is not UTF-8 and read as {_GUESSED[encoding]}; if letters with accents come "
        "out wrong, save it as UTF-8."
    ]


def _open(path: Path) -> BinaryIO:
    file = path.open("rb")
    if file.peek(2)[:2] != b"\x1f\x8b":
        return file
    file.close()
    # Buffered, since GzipFile hands out lines through Python.
    return io.BufferedReader(gzip.open(path, "rb"), 1 << 20)
