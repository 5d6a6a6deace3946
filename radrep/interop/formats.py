"""The forms of documents by name, with what each needs installed."""

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from radrep.errors import DataError, RadrepError
from radrep.interop.dicom_sr import write_sr
from radrep.interop.document import Document
from radrep.interop.fhir import write_fhir

_UID = re.compile(r"[0-9]+(?:\.[0-9]+)+")
_LONGEST = 80  # characters of a study's id in a file's name


@dataclass(frozen=True)
class Format:
    """A form of documents.

    `write` gives None for a study that the form is not meant for, and raises DataError for one that
    it cannot hold.
    """

    write: Callable[[Document], bytes | None]
    ending: str
    module: str
    extra: str


FORMATS: Mapping[str, Format] = {
    "fhir": Format(write_fhir, ".json", "fhir", "fhir"),
    "dicom-sr": Format(write_sr, ".dcm", "highdicom", "dicom"),
}


def check_formats(names: Sequence[str]) -> None:
    """Raise RadrepError for a form that is not known or whose package is missing."""
    for name in names:
        if name not in FORMATS:
            raise RadrepError(f"--format must be {' or '.join(FORMATS)}, got '{name}'")
        if find_spec(FORMATS[name].module) is None:
            extra = FORMATS[name].extra
            raise RadrepError(
                f"--format {name} needs a package that is not installed. Install it with: "
                f"pip install 'radrep[{extra}]'"
            )


def write_documents(
    names: Sequence[str], document: Document, warn: Callable[[str], None]
) -> dict[str, bytes]:
    """The documents of a report in some forms, by their file names; `warn` gets why one lacks."""
    found = {}
    for name in names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # highdicom: of names without a caret
            try:
                content = FORMATS[name].write(document)
            except DataError as error:
                warn(f"{document.row['study']} has no {name}: {error}")
                continue
        if content is not None:
            found[f"{name}/{_file_name(document.row['study'])}{FORMATS[name].ending}"] = content
    return found


def _file_name(study: str) -> str:
    """A file's name on any disk; a StudyInstanceUID is one, others get a part of their hash."""
    if _UID.fullmatch(study):
        return study
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", study).strip(".")[-_LONGEST:]
    return f"{readable}-{hashlib.sha256(study.encode()).hexdigest()[:8]}"
