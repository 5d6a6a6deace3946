"""One picture of a DICOM file, read in two steps: its size by the header, then its pixels."""

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from radrep.data.dicom.display import find_aspect, show
from radrep.data.dicom.elements import text, texts
from radrep.data.dicom.file import open_dicom
from radrep.data.dicom.pixels import read_layout, read_stored

_TAGS = ("StudyInstanceUID", "PatientID", "ViewPosition")
_BURNT_IN = (
    "its header states that text is burnt into the pixels (BurnedInAnnotation), which may name the "
    "patient; it stays there"
)
_SQUARE = 0.01  # pixels that are square but for so much are left as they are


class DicomPicture:
    """A DICOM file that holds one picture, by its header.

    Attributes:
        notes: What was chosen for the user, such as a window that is not used.
        shape: Height and width of the picture that `read` returns.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.notes: list[str] = []
        self._name = name
        self._file = open_dicom(file, name)
        if text(self._file.dataset, "BurnedInAnnotation") == "YES":
            self.notes.append(_BURNT_IN)
        self._layout = read_layout(self._file.dataset, name)
        rows, columns = self._layout.rows, self._layout.columns
        aspect = find_aspect(self._file.dataset, self.notes)
        # Viewers show pixels that are no squares by enlarging the side of fewer pixels.
        if aspect > 1 + _SQUARE:
            rows = round(rows * aspect)
        elif aspect < 1 - _SQUARE:
            columns = round(columns / aspect)
        self.shape = (rows, columns)

    def read(self) -> tuple[np.ndarray, bool]:
        """The pixels, uint8 (h, w), and whether white is 0.

        They are to be inverted after resizing, which rounds up and would make an image and its
        negative differ.
        """
        stored = read_stored(self._file, self._layout, self._name)
        grey, negative = stored.pixels, False
        if self._layout.is_grey:
            grey, negative = show(self._file.dataset, stored, self._name, self.notes)
        if grey.shape != self.shape:
            size = (self.shape[1], self.shape[0])
            grey = np.array(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR))
        return grey, negative


def read_tags(path: Path) -> tuple[str, str, str]:
    """StudyInstanceUID, PatientID and ViewPosition of a DICOM file, "" where absent."""
    try:
        with path.open("rb") as file:
            return find_tags(file)
    except (OSError, ValueError):  # reading it as an image gives the reason
        return "", "", ""


def find_tags(file: BinaryIO) -> tuple[str, str, str]:
    """As `read_tags`, of an open file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = open_dicom(file, "").dataset
            study, patient, view = (next(iter(texts(dataset, tag)), "") for tag in _TAGS)
    except Exception:  # pydicom raises nearly anything; reading it as an image gives the reason
        return "", "", ""
    return study, patient, view
