"""Kinds of files, by how they begin: pictures by Pillow's name, others in words for messages."""

import re

from radrep.data.dicom import HEAD_BYTES as DICOM_HEAD_BYTES

# NIfTI has its mark last, at 344.
HEAD_BYTES = max(348, DICOM_HEAD_BYTES)
# The formats that radrep reads: how a file begins, and Pillow's name for it.
_PICTURES = {
    rb"\x89PNG\r\n\x1a\n": "PNG",
    rb"\xff\xd8\xff": "JPEG",
    rb"(?:II[*+]\0|MM\0[*+])": "TIFF",  # either order of bytes, and over 4 GB
    rb"BM": "BMP",
    rb"RIFF....WEBP": "WEBP",
    rb"(?:\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51)": "JPEG2000",
    rb"GIF8[79]a": "GIF",
}
_CONVERT = "convert it to PNG or JPEG"
# Others that people take for images: what it is, and what to do.
_OTHERS = (
    (rb"(?i)\s*<(?:!doctype html|html)", "a web page (HTML)", "download it again: a login left it"),
    (rb"version https://git-lfs", "a pointer of Git LFS", "get the file with: git lfs pull"),
    (rb"....ftyp(?:avif|avis)", "an AVIF file", _CONVERT),
    (rb"....ftyp(?:heic|heix|mif1|msf1)", "a HEIC file", _CONVERT),
    (rb"....ftyp", "a video (MP4)", "give an image"),
    (rb"(?:\xff\x0a|\0\0\0\x0cJXL )", "a JPEG XL file", _CONVERT),
    (rb"8BPS", "a Photoshop file", _CONVERT),
    (rb"(?s)(?:<\?xml.*)?<svg", "an SVG drawing", _CONVERT),
    (rb"%PDF", "a PDF file", "export its image as PNG"),
    (rb"(?s).{344}(?:n\+1|ni1)\0", "a NIfTI volume", "give a radiograph as PNG or DICOM"),
    (rb"NRRD000", "an NRRD volume", "give a radiograph as PNG or DICOM"),
    (rb"ObjectType\s*=", "a MetaImage header", "give a radiograph as PNG or DICOM"),
    (rb"\x93NUMPY", "a NumPy array", "save it as PNG"),
    (rb"\x89HDF", "an HDF5 file", "export its images as PNG"),
    (rb"PK[\x03\x05\x07]", "a ZIP archive", "unpack it and give the images"),
    (rb"\x1f\x8b", "a gzip archive", "unpack it and give the images"),
    (rb"(?:7z\xbc\xaf|Rar!|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd)", "an archive", "unpack it first"),
    (rb"(?s).{257}ustar", "a TAR archive", "unpack it and give the images"),
    (rb"\0\x05\x16\x07", "a resource file of macOS", "give the file without ._ before its name"),
    (rb"\xd0\xcf\x11\xe0", "a document of Microsoft Office", "export its image as PNG"),
    (rb"\{\\rtf", "an RTF document", "export its image as PNG"),
    (rb"(?s)\0{16,}\Z", "a file of zeros", "copy or download it again"),
)


def picture_format(head: bytes) -> str | None:
    """Pillow's name of the picture format that a file begins with; None if radrep reads none."""
    return next((name for mark, name in _PICTURES.items() if _begins(mark, head)), None)


def describe(head: bytes) -> str:
    """What a file is that is neither a picture nor DICOM, by its first bytes, and what to do."""
    if not head:
        return "an empty file (0 bytes)"
    for mark, what, advice in _OTHERS:
        if _begins(mark, head):
            return f"not a PNG, JPEG or DICOM file, but {what}; {advice}"
    kind = "a text file" if _is_text(head) else "of a kind that radrep does not know"
    return f"not a PNG, JPEG or DICOM file, nor TIFF or BMP, WebP, JPEG 2000, GIF, but {kind}"


def _begins(mark: bytes, head: bytes) -> bool:
    return re.match(mark, head, re.DOTALL) is not None


def _is_text(head: bytes) -> bool:
    characters = head.decode("utf-8", "ignore")
    whole = len(characters.encode()) >= len(head) - 3  # the last may be cut
    return whole and all(c.isprintable() or c in "\t\r\n\ufeff" for c in characters)
