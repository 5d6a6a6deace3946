"""Whose a DICOM file is, and of which study: what a document about it refers to."""

import hmac
import secrets
import warnings
from collections.abc import Mapping
from pathlib import Path

from radrep.atomic import atomic_write_bytes, locked, make_cache_folder

_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_OTHERS = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)


def read_identity(path: Path) -> Mapping[str, str] | None:
    """Attributes of a DICOM file by keyword, "" where empty; None without all four UIDs.

    Read as the standard has it, with the file's character set: a name must not be guessed.
    """
    from pydicom import dcmread
    from pydicom.config import disable_value_validation

    try:
        with warnings.catch_warnings(), disable_value_validation():
            warnings.simplefilter("ignore")
            keywords = [*_NEEDED, *_OTHERS, "SpecificCharacterSet"]
            dataset = dcmread(path, stop_before_pixels=True, force=True, specific_tags=keywords)
            found = {name: str(dataset.get(name) or "") for name in (*_NEEDED, *_OTHERS)}
    except Exception:  # pydicom raises nearly anything; the pixels may be read all the same
        return None
    return found if all(found[name] for name in _NEEDED) else None


def pseudonym(patient_id: str) -> str:
    """What stands for a PatientID in files: the same for every folder that this user prepares.

    By a key of the user, since a plain hash of a short number is found by trying all of them.
    """
    folder = make_cache_folder("keys")
    key = folder / "patients.key"
    if not key.is_file():
        with locked(folder / "patients.lock"):
            if not key.is_file():
                folder.chmod(0o700)  # before there is a key that others could read
                atomic_write_bytes(key, secrets.token_bytes(32))
                key.chmod(0o600)
    return f"patient-{hmac.digest(key.read_bytes(), patient_id.encode(), 'sha256').hex()[:16]}"
