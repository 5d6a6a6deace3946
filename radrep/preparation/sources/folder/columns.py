"""The columns of a table by what they hold, known by their names.

Marks and capitals in a name do not matter. Beside plain names there are those of CheXpert, CheXpert
Plus, MIMIC-CXR, NIH ChestX-ray14, PadChest, VinDr-CXR, RSNA, covid-chestxray-dataset and ReXrank.
"""

import re
from functools import lru_cache

TEXTS = ("report", "findings", "impression", "indication", "comparison", "context", "prior_report")
# Of the study before, which reports are written from and which prepare takes from the order.
PRIORS = ("prior_report", "prior_image")

# Names of a column without marks and capitals, the preferred one first.
_COLUMNS = {
    "image": (
        "imagepath", "pathtoimage", "path", "image", "filename", "file", "imageindex", "imageid",
        "images", "filepath", "imagefile", "imagefilename", "imagefilepath", "imagename", "img",
        "imgpath", "imgid", "dicomid", "dicomfile", "dicompath", "dicom", "sopinstanceuid",
        "keyimagepath",
    ),
    "folder": ("imagedir", "folder", "directory", "imagefolder", "imgrootdir"),
    "study": (
        "studyid", "study", "studyinstanceuid", "examid", "accessionnumber", "accession", "key",
        "id", "uid",
    ),
    "patient": ("patientid", "patient", "subjectid", "subject", "deidpatientid", "pid"),
    "split": ("split",),
    "reader": (
        "radid", "readerid", "reader", "radiologistid", "radiologist", "annotatorid", "annotator",
        "raterid", "rater",
    ),
    "projection": (
        "projection", "view", "viewposition", "frontallateral", "viewpositiondicom", "orientation",
    ),
    "label list": (
        "findinglabels", "labels", "finding", "classname", "label", "class", "pathologies",
    ),
    "report": ("report", "reporttext", "radiologyreport", "text"),
    "findings": ("findings", "sectionfindings"),
    "impression": ("impression", "sectionimpression", "conclusion"),
    "indication": (
        "indication", "sectionindication", "sectionclinicalhistory", "clinicalindication",
    ),
    "comparison": ("comparison", "sectioncomparison"),
    "context": ("context",),
    "prior_report": ("priorreport", "previousreport"),
    "prior_image": ("priorimage", "priorimages", "priorimagepath", "previousimage"),
}  # fmt: skip
# Of a table without a column of images, those that may be the names of the images.
_NAMED_BY = ("study", "patient")

# Of a split, where all values are names of splits.
_MAYBE_SPLIT = frozenset(("subset", "partition", "set", "datasplit", "datasetsplit"))

# Words of columns that may be 1, 0 or -1 in every row and are no findings all the same.
_NO_FINDING = frozenset(
    ("age", "offset", "follow", "followup", "up", "number", "num", "nr", "count", "index", "idx")
    + ("id", "uid", "date", "time", "day", "days", "month", "year", "sex", "gender", "male")
    + ("female", "fold", "dicom", "series", "instance", "visit", "version", "seed", "split")
    + ("train", "test", "valid", "val", "unnamed")
)
_COORDINATES = frozenset(
    ("x", "y", "w", "h", "xmin", "ymin", "xmax", "ymax", "width", "height", "rows", "columns")
)
# Names of the column of row numbers that pandas adds.
_ROW_NUMBERS = re.compile(r"|Unnamed: \d+")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


@lru_cache(maxsize=64)
def find_roles(names: tuple[str, ...], *, priors: bool = False) -> dict[str, str]:
    """The column of each role, those of the study before only if asked for."""
    plain = {_plain(name): name for name in reversed(names)}
    found = {role: [plain[a] for a in names if a in plain] for role, names in _COLUMNS.items()}
    wanted = [role for role, columns in found.items() if columns and (priors or role not in PRIORS)]
    return {role: found[role][0] for role in wanted}


def image_names_by(roles: dict[str, str]) -> str | None:
    """The column whose values may name the images, where none is for them."""
    return next((roles[role] for role in _NAMED_BY if role in roles), None)


def may_be_finding(name: str) -> bool:
    """Whether a column of ones and zeros may be a finding, by its name."""
    if "#" in name or _ROW_NUMBERS.fullmatch(name) or _plain(name) in _COORDINATES:
        return False
    return not {word.casefold() for word in _WORD.findall(name)} & _NO_FINDING


def may_be_split(name: str) -> bool:
    """Whether a column may be of splits, by its name."""
    return _plain(name) in _MAYBE_SPLIT


def is_row_number(name: str) -> bool:
    """Whether a column is that of row numbers that pandas adds."""
    return bool(_ROW_NUMBERS.fullmatch(name))


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())
