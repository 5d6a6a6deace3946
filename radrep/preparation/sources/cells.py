"""What a cell of somebody's table means, whatever program wrote it: blanks, labels, ids, lists."""

import ast
import json
import re
from decimal import Decimal
from functools import lru_cache

IMAGE_ENDINGS = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".dcm", ".dicom",
    ".gif", ".webp", ".jp2", ".j2k",
)  # fmt: skip

# What spreadsheets, pandas, R and SQL write for a value that is missing, in small letters.
_MISSING = frozenset(
    ("", "na", "n/a", "n.a.", "#n/a", "<na>", "nan", "-nan", "nat", "none", "null", "nil")
    + ("-", "--", ".")
)  # fmt: skip
# TRUE and FALSE also as Excel saves them in German, French, Spanish, Portuguese and Italian.
_LABELS = {
    **dict.fromkeys(("true", "wahr", "vrai", "verdadero", "verdadeiro", "vero"), 1),
    **dict.fromkeys(("false", "falsch", "faux", "falso"), 0),
}
_NUMBER_LABEL = re.compile(r"([+-]?[01])(?:[.,]0+)?", re.ASCII)
_CODE = re.compile(r"([+-]?\d{1,2})(?:[.,]0+)?", re.ASCII)

_FORMULA_ERRORS = frozenset(("#NAME?", "#REF!", "#VALUE!", "#NUM!", "#NULL!", "#DIV/0!"))
_AS_TEXT = re.compile(r'="([^"]*)"|\'(\S+)')  # how a spreadsheet is made to keep zeros
_FLOAT = re.compile(r"(\d+)\.0+", re.ASCII)
_SCIENTIFIC = re.compile(r"\d([.,]\d+)?[eE]\+\d{1,3}", re.ASCII)
_DATE = re.compile(r"\d{1,2}-[A-Z][a-z]{2}|[A-Z][a-z]{2}-\d{1,2}", re.ASCII)
EXPORT_AGAIN = "export the table again with this column as text"

_TEXT_FILE = re.compile(
    r"(?:[^\n]*[/\\])?[^\n/\\]{1,80}\.(?:txt|text|rtf|docx?|odt|pdf|html?|xml|json|png|jpe?g|dcm)",
    re.IGNORECASE,
)
_NAME = re.compile(
    r"(?!.*\b(?:is|are|was|were|not|without|seen|clear|unchanged|no(?! findings?\b))\b)"
    r"(?:[^\W\d_][^\s.:!?]*)(?: [^\s.:!?]+){0,4}",
    re.IGNORECASE,
)  # of a finding

_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
_NUMPY_BREAK = re.compile(r"""['"]\s+['"]""")
_SEPARATORS = ("\n", "|", ";", ",", " ")


@lru_cache(maxsize=4096)
def is_missing(text: str) -> bool:
    """Whether a cell holds nothing, or a word for nothing."""
    return text.strip().casefold() in _MISSING


def is_formula_error(text: str) -> bool:
    """Whether a cell holds what a spreadsheet shows for a formula that failed, such as #NAME?."""
    text = text.strip()
    return text in _FORMULA_ERRORS or (len(text) > 1 and not text.strip("#"))


def is_number(text: str) -> bool:
    """Whether a cell has no letter, or one truth: a label or a number, but no words of a report."""
    return parse_label(text) is not None or not re.search(r"[^\W\d_]", text)


def is_file_name(text: str) -> bool:
    """Whether a cell is the name of a file of text, or of an image."""
    return bool(_TEXT_FILE.fullmatch(text.strip()))


def are_names(text: str) -> bool:
    """Whether a cell may be names of findings rather than sentences: "Effusion|Pleural mass"."""
    return all(_NAME.fullmatch(name.strip()) for name in text.split("|"))


@lru_cache(maxsize=4096)
def parse_label(text: str) -> int | None:
    """1, 0 or -1 of a cell such as "1.0", "TRUE" or "-1", None of any other."""
    text = text.strip().casefold()
    if match := _NUMBER_LABEL.fullmatch(text):
        return int(match[1])
    return _LABELS.get(text)


def parse_code(text: str) -> int | None:
    """A whole number of at most two digits, None of anything else."""
    match = _CODE.fullmatch(text.strip())
    return int(match[1]) if match else None


def is_rounded(text: str) -> bool:
    """Whether a cell is a number as a spreadsheet abbreviates it: 1.23E+15."""
    return bool(_SCIENTIFIC.fullmatch(text.strip()))


def parse_id(text: str) -> str:
    """An id as it was before a spreadsheet or pandas made a number of it; "" where it is missing.

    ValueError where that cannot be known.
    """
    text = text.strip()
    if is_missing(text):
        return ""
    if match := _AS_TEXT.fullmatch(text):
        return (match[1] or match[2] or "").strip()
    if match := _FLOAT.fullmatch(text):
        return match[1]
    if is_rounded(text):
        number = Decimal(text.replace(",", "."))
        digits, exponent = number.as_tuple().digits, number.as_tuple().exponent
        # As numpy writes it, all digits are there: 5.0414267000e+07.
        if isinstance(exponent, int) and (exponent <= 0 and number == int(number)):
            return str(int(number))
        raise ValueError(
            f"a spreadsheet rounded it to {len(digits)} digits, so different ids may be one; "
            f"{EXPORT_AGAIN}"
        )
    if _DATE.fullmatch(text):
        raise ValueError(f"a spreadsheet made a date of it; {EXPORT_AGAIN}")
    if is_formula_error(text):
        raise ValueError(f"a spreadsheet lost it; {EXPORT_AGAIN}")
    return text


def is_cut_number(id_: str) -> bool | None:
    """Whether a number of more than the 15 digits that Excel keeps has zeros after them.

    None of an id that is no such number.
    """
    if len(id_) <= 15 or not (id_.isascii() and id_.isdecimal()):
        return None
    return not id_[15:].strip("0")


def split_list(text: str) -> list[str]:
    """The entries of a cell that holds a list as JSON, Python or NumPy write one, else itself."""
    text = text.strip()
    if text[:1] + text[-1:] not in ("[]", "()", "{}"):
        return [text] if text else []
    if _NUMPY_BREAK.search(text):  # Python would join the texts
        return [first or second for first, second in _QUOTED.findall(text)]
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if isinstance(value, (list, tuple, set)):
            return [str(entry).strip() for entry in value if entry is not None]
    return [entry.strip() for entry in text[1:-1].split(",")]


def split_names(text: str) -> list[str]:
    """The names of files in a cell: a list, or names with a mark between them.

    A comma or a blank may be part of a name: it separates only what ends as names of images do.
    """
    entries = split_list(text)
    if len(entries) != 1 or entries[0] != text.strip():
        return entries
    for mark in _SEPARATORS:
        parts = [part.strip() for part in text.split(mark) if part.strip()]
        if len(parts) < 2:
            continue
        with_ending = [part.casefold().endswith(IMAGE_ENDINGS) for part in parts]
        if all(with_ending) or (mark in "\n|;" and not any(with_ending)):
            return parts
    return entries


def split_findings(text: str) -> list[str]:
    """The names of findings in a cell: a list, or names between "|", ";", commas or lines.

    Blanks and numbers are left out. A slash is part of a name, as in "Nodule/Mass".
    """
    entries = split_list(text)
    marks = r"[|;,\n]" if entries == [text.strip()] else r"[|;]"
    parts = [part.strip() for entry in entries for part in re.split(marks, entry)]
    return [part for part in parts if not is_missing(part) and not is_number(part)]
