"""A report as a DICOM Basic Text SR in the study of its films.

It has the patient's identity as the films have it, since an archive files it by that.
"""

import io
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from radrep import __version__
from radrep.errors import DataError
from radrep.interop.document import NOT_FOR_CLINICAL_USE, NOTICE, Document, describe_place, plain

if TYPE_CHECKING:
    from highdicom.sr import ContentItem
    from pydicom.dataset import Dataset

_DATE = re.compile(r"[0-9]{8}")
_FORMS = {
    "PatientBirthDate": _DATE,
    "StudyDate": _DATE,
    "StudyTime": re.compile(r"[0-9]{2,6}(?:\.[0-9]{1,6})?"),
    "PatientSex": re.compile(r"[MFO]"),
}


def write_sr(document: Document) -> bytes | None:
    """The file; None where the films are not DICOM files of one study with their UIDs.

    Raises DataError where highdicom refuses their headers.
    """
    from pydicom.config import disable_value_validation

    if document.identity is None:
        return None
    with disable_value_validation():  # what films have in their headers is handed on
        content = _content(document)
        try:
            return _write(document, content)
        except Exception as error:  # highdicom raises nearly anything
            raise DataError(
                f"highdicom refuses the headers of its films, of SOP class "
                f"{document.identity['SOPClassUID']}: {type(error).__name__}: {error}"
            ) from error


def _write(document: Document, content: "ContentItem") -> bytes:
    from highdicom.sr import EnhancedSR
    from pydicom.uid import BasicTextSRStorage

    time = document.time.astimezone()  # DICOM's times are local
    report = EnhancedSR(
        evidence=[_evidence(identity) for identity in document.identities if identity],
        content=content,
        series_instance_uid=_uid(document, "series"),
        series_number=1,
        sop_instance_uid=_uid(document, "instance"),
        instance_number=1,
        manufacturer="radrep",
        manufacturer_model_name="radrep",
        software_versions=__version__,
        device_serial_number=document.row["model"][:16],
        series_description=f"Preliminary report by software. {NOT_FOR_CLINICAL_USE}",
        is_complete=True,
        is_final=False,
        specific_character_set="ISO_IR 192",
    )
    # Basic Text SR is Enhanced SR without measurements and regions, of which there are none here.
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    for kind in ("Content", "InstanceCreation"):
        setattr(report, f"{kind}Date", time.strftime("%Y%m%d"))
        setattr(report, f"{kind}Time", time.strftime("%H%M%S"))
    for tool in report.ContributingEquipmentSequence:
        tool.ContributionDateTime = time.strftime("%Y%m%d%H%M%S")
    file = io.BytesIO()
    report.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _uid(document: Document, what: str) -> str:
    return f"2.25.{document.uuid(what).int}"


def _evidence(identity: Mapping[str, str]) -> "Dataset":
    """What the report takes from a film; a date, time or sex that is none is left empty."""
    from pydicom.dataset import Dataset

    dataset = Dataset()
    for keyword, value in identity.items():
        setattr(dataset, keyword, value if _exists(keyword, value) else "")
    return dataset


def _exists(keyword: str, value: str) -> bool:
    """Whether a date, time or sex is one; True for other attributes."""
    from pydicom.valuerep import DA, TM

    form = _FORMS.get(keyword)
    if form is None or not value:
        return True
    try:
        {"Date": DA, "Time": TM}.get(keyword[-4:], str)(value)
    except ValueError:
        return False
    return form.fullmatch(value) is not None


def _content(document: Document) -> "ContentItem":
    from highdicom.sr import (
        CodeContentItem,
        CodedConcept,
        ContainerContentItem,
        ContentSequence,
        RelationshipTypeValues,
        TextContentItem,
        UIDRefContentItem,
    )
    from pydicom.sr.codedict import codes

    kinds, dcm, row = RelationshipTypeValues, codes.DCM, document.row
    titles = {
        "findings": (dcm.Findings, dcm.Finding),
        "impression": (dcm.Impressions, dcm.Impression),
    }
    known = {name for name, text in row["sections"].items() if text is not None}
    written = known or {"findings"}

    def text(name: Any, value: str, kind: RelationshipTypeValues = kinds.CONTAINS) -> "ContentItem":
        return TextContentItem(name, plain(value), kind)

    def section(name: Any, values: Iterable[str], item: Any) -> "ContentItem":
        container = ContainerContentItem(
            name, is_content_continuous=False, relationship_type=kinds.CONTAINS
        )
        lines = [*values] or ["None."]  # a section is not empty
        container.ContentSequence = ContentSequence([text(item, line) for line in lines])
        return container

    root = ContainerContentItem(codes.LN.DiagnosticImagingReport, is_content_continuous=False)
    english = CodedConcept("en", "RFC5646", "English")
    observer = kinds.HAS_OBS_CONTEXT
    root.ContentSequence = ContentSequence(
        [
            CodeContentItem(
                dcm.LanguageOfContentItemAndDescendants, english, kinds.HAS_CONCEPT_MOD
            ),
            CodeContentItem(dcm.ObserverType, dcm.Device, observer),
            UIDRefContentItem(dcm.DeviceObserverUID, f"2.25.{document.device().int}", observer),
            text(dcm.DeviceObserverName, f"radrep {__version__}", observer),
            text(dcm.DeviceObserverModelName, row["model"], observer),
            text(dcm.Comment, NOTICE),
            *(
                section(title, [s["text"] for s in row["sentences"] if _section(s) == name], item)
                for name, (title, item) in titles.items()
                if name in written
            ),
            section(dcm.Summary, map(_describe, row["findings"]), dcm.Comment),
        ]
    )
    return root


def _section(sentence: Mapping[str, Any]) -> str:
    """Findings, where a model writes sections as one text."""
    return sentence["section"] or "findings"


def _describe(finding: Mapping[str, Any]) -> str:
    """A finding in a line."""
    parts = [finding["state"], finding["side"], finding["size"]]
    if finding["probability"] is not None:
        parts.append(f"predicted probability {finding['probability']:.2f}")
    if finding["origin"] in ("inserted", "shortened"):
        parts.append(f"sentence {finding['origin']} by software")
    if finding["place"]:
        parts.append(describe_place(finding["place"]))
    return f"{finding['observation']}: {', '.join(part for part in parts if part)}"
