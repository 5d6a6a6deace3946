"""Patient, study and split of an image, by its path."""

import re

from radrep.data.study import split_named

# patient00001/study1 (CheXpert), p10000032/s50414267 (MIMIC-CXR), sub-01/ses-02 (BIDS), ...
_NUMBER = r"(?:[-_ ][a-z]{0,2})?\d\w*"
_IDS = re.compile(
    rf"(?:^|/)(?P<patient>(?:patient|subject|subj|sub|pat){_NUMBER}|p\d{{4,}})"
    rf"(?:/(?P<study>(?:study|session|ses|exam|visit){_NUMBER}|s\d{{4,}}))?(?=/)",
    re.IGNORECASE | re.ASCII,
)


def ids_of(path: str) -> tuple[str, str]:
    """The patient and, named with its patient, the study of a path; "" for none."""
    if match := _IDS.search(path.replace("\\", "/")):
        patient, study = match["patient"], match["study"]
        return patient, f"{patient}/{study}" if study else ""
    return "", ""


def split_of(path: str) -> str:
    """The split that exactly one of the folders of a path names, "" for none."""
    folders = path.replace("\\", "/").split("/")[:-1]
    found = {split_named(name) for name in folders} - {""}
    return found.pop() if len(found) == 1 else ""
