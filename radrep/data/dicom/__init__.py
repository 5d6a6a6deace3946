"""DICOM files to grey pixels as a viewer shows them: uint8 (h, w).

Real files break the standard in many ways. What each attribute may hold and what is made of it
stands in .github/docs/data.md, row by row; tests/data/dicom runs through that table.
pydicom is imported by the functions: it takes half a second, which PNG and JPEG need not wait for.
"""

from radrep.data.dicom.file import HEAD_BYTES, is_dicom
from radrep.data.dicom.identity import pseudonym
from radrep.data.dicom.picture import DicomPicture, find_tags, read_tags
from radrep.data.dicom.pixels import check_scans

__all__ = [
    "HEAD_BYTES",
    "DicomPicture",
    "check_scans",
    "find_tags",
    "is_dicom",
    "pseudonym",
    "read_tags",
]
