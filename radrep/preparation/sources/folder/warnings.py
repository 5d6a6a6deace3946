"""What makes the studies of a folder unfit for training: ids that are one, shared patients."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from radrep.data.study import SPLITS

# What programs write for every patient when they take the names away.
_NOBODY = re.compile(
    r"(?:\W*+(?:anon[a-z]*+|unknown|removed|deleted|hidden|dummy|redacted|de-?identified|no ?name"
    r"|x{3,}+)\W*+)++",
    re.IGNORECASE,
)
_FEW = 5  # of so few studies or images, most may be of one patient or study
_BITS = {split: 1 << k for k, split in enumerate(SPLITS)}


class IdCheck:
    """Counts the studies of each patient, the images of each study and the splits of patients."""

    def __init__(self) -> None:
        self._patients: Counter[str] = Counter()  # studies
        self._studies: Counter[str] = Counter()  # images of those that have an id
        self._spellings: dict[str, str] = {}  # the first of each patient, capitals aside
        self._splits: dict[str, int] = {}  # of each patient, as bits
        self._seen: set[int] = set()  # hashes of studies
        self._texts: dict[int, int] = {}  # hashes of the first text by that of study and role
        self._differing: dict[str, str] = {}  # an example of the texts by study
        self._num_studies = self._num_images = 0

    def add(self, key: str, study: str, patient: str, split: str, images: int) -> None:
        """Count one row of the study `key`; its id and its patient may be ""."""
        is_first = hash(key) not in self._seen
        self._seen.add(hash(key))
        self._num_studies += is_first
        self._num_images += images
        if study and images:
            self._studies[study] += images
        if patient:
            self._patients[patient] += is_first
            if split:
                name = self._spellings.setdefault(patient.casefold(), patient)
                self._splits[name] = self._splits.get(name, 0) | _BITS[split]

    def add_texts(self, key: str, name: str, texts: Mapping[str, str]) -> None:
        """Compare the texts of one row of the study `key` with those of its rows before."""
        for role, text in texts.items():
            text = " ".join(text.split())
            if self._texts.setdefault(hash((key, role)), hash(text)) != hash(text):
                self._differing.setdefault(name, role)

    @property
    def num_without_patient(self) -> int:
        """Studies of which no patient is known."""
        return self._num_studies - self._patients.total()

    def warnings(self, study_name: str, patient_name: str) -> Iterator[str]:
        """What is wrong; the names are those of the columns or DICOM attributes."""
        for patient, count in self._patients.most_common():
            most = count > max(_FEW, self._num_studies / 2)
            if most or (count > 1 and _NOBODY.fullmatch(patient)):
                yield (
                    f"{count} of {self._num_studies} studies are of the patient {patient!r} "
                    f"({patient_name}), so all of them are in one split. If they are not one "
                    "person, give a table (--reports) with a column patient_id or split."
                )
        for study, count in self._studies.most_common(1):
            if count > max(_FEW, self._num_images / 2):
                yield (
                    f"{count} of {self._num_images} images are views of the study {study!r} "
                    f"({study_name}). If they are not, give a table (--reports) with a column "
                    "study_id."
                )
        shared = [patient for patient, bits in self._splits.items() if bits.bit_count() > 1]
        if shared:
            yield (
                f"{len(shared)} patients are in several splits of the table, the first "
                f"{shared[0]!r}: scores on test will be too good. Give each patient one split."
            )
        if self._differing:
            study, role = next(iter(self._differing.items()))
            yield (
                f"{len(self._differing)} studies have rows of different texts, the first {study!r} "
                f"({role}): only the first text is used. If each row is a study, give it its own "
                "study_id; if not, put its texts in one row."
            )
