import gzip
import io
import tarfile
import zipfile

import numpy as np
import pytest

from radrep.data.file_kinds import HEAD_BYTES, describe, picture_format


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", b"film")
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    return file.getvalue()


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros((4, 4)))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "an empty file"),
        (b"\n <!DOCTYPE HTML>\n<html>", "a web page"),
        (b"<HTML><body>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF"),
        (zipped(), "a ZIP archive"),
        (tarred(), "a TAR archive"),
        (gzip.compress(b"volume", mtime=0), "a gzip archive"),
        (bytes(344) + b"n+1\0", "a NIfTI volume"),
        (b"NRRD0004\n", "an NRRD volume"),
        (array(), "a NumPy array"),
        (b"\0\0\0\x20ftypavif\0", "an AVIF"),
        (b"\0\0\0\x18ftypheic\0", "a HEIC"),
        (b"\0\0\0\x18ftypmp42\0", "a video"),
        (b"8BPS\0\1", "a Photoshop"),
        (b'<?xml version="1.0"?>\n<svg xmlns=""></svg>', "an SVG"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X", "a resource file of macOS"),
        (bytes(500), "a file of zeros"),
        ("Befund: unauffällig.\r\n".encode() * 30, "a text file"),
        (b"id,report\n1,clear\n", "a text file"),
        (bytes(range(1, 200)), "does not know"),
    ],
)
def test_what_people_take_for_an_image_is_named_without_its_bytes(content, kind):
    head = content[:HEAD_BYTES]
    assert picture_format(head) is None
    text = describe(head)
    assert kind in text
    assert text.isprintable()
    assert "\\x" not in text
    assert text.startswith("not a PNG, JPEG or DICOM file") == bool(content)
