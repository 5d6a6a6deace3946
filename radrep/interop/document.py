"""A report as documents are made from it, and what every document states of its origin."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from radrep import __version__
from radrep.sections import SECTIONS

NOT_FOR_CLINICAL_USE = "Not for clinical use."
NOTICE = (
    f"Preliminary, written by software (radrep {__version__}), not reviewed by a radiologist. "
    f"{NOT_FOR_CLINICAL_USE}"
)
# What neither XML nor DICOM texts may hold.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
# Codes of SNOMED CT, checked against the dictionary of DICOM PS3.16 that pydicom has. The other
# observations of CheXpert are no one concept ("Edema" includes heart failure) and stay in words.
SNOMED = {"Pleural Effusion": "60046008", "Pneumothorax": "36118008"}
SNOMED_SIDES = {"left": "7771000", "right": "24028007", "bilateral": "51440002"}


@dataclass(frozen=True)
class Document:
    """A row of a folder of reports, with the DICOM identity of each of its images, if it has one.

    The row is that of `GeneratedReport.as_row` with study, model and time.
    """

    row: Mapping[str, Any]
    identities: Sequence[Mapping[str, str] | None]

    @property
    def identity(self) -> Mapping[str, str] | None:
        """That of the first image; None unless all are of one patient's study."""
        first = self.identities[0] if self.identities else None
        if first is None or any(each is None for each in self.identities):
            return None
        same = ("StudyInstanceUID", "PatientID")
        own = {tuple(each[key] for key in same) for each in self.identities if each is not None}
        return first if len(own) == 1 else None

    @property
    def time(self) -> datetime:
        """When its command began, in UTC."""
        return datetime.fromisoformat(self.row["time"])

    def uuid(self, what: str) -> UUID:
        """The same for the same report and part of a document."""
        parts = (self.row["study"], self.row["model"], self.row["time"], self.row["report"], what)
        return uuid5(NAMESPACE_OID, "\0".join(parts))

    def device(self) -> UUID:
        """The same for the same model."""
        return uuid5(NAMESPACE_OID, f"radrep {self.row['model']}")


def report_text(row: Mapping[str, Any]) -> str:
    """The report of a row, under headings where it has two sections."""
    sections = {name: text for name, text in row["sections"].items() if text is not None}
    if len(sections) < len(SECTIONS):
        return plain(row["report"])
    return plain("\n\n".join(f"{name.upper()}: {text}" for name, text in sections.items()))


def plain(text: str) -> str:
    """A text without control characters."""
    return _CONTROL.sub("?", text)


def describe_place(place: Mapping[str, Any]) -> str:
    """Where a map is strongest, in words."""
    kind = {"grad_cam": "Grad-CAM", "attention": "attention"}[place["map"]]
    return (
        f"{kind} strongest at {place['x']:.0%} from the left and {place['y']:.0%} from the top of "
        f"{place['image']}, {place['over_mean']:.1f} times its mean"
    )
