"""A radiograph in DICOM, which has seeds of its own."""

from tests.fuzz.targets.image import read

__all__ = ["read"]
