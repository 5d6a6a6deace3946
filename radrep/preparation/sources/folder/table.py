"""The table of a folder source: CSV, TSV, JSONL or JSON, its columns recognised by their names.

image, path, filename, ...    required: the path from the folder or its end, or several of them
                              ("a.png;b.png", a list); an id of a row may stand for it
study_id, patient_id, split, view, report, findings, impression, indication, comparison
Finding Labels                names of findings, "Effusion|Mass", as in NIH ChestX-ray14; so is any
                              column of texts with nothing but such names
any other of 1, 0, -1, blank  a finding: present, absent, uncertain, not mentioned
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from radrep.data.study import projection_of, split_named
from radrep.errors import DataError
from radrep.preparation.sources import cells as cell
from radrep.preparation.sources.folder import columns
from radrep.preparation.sources.folder.json_rows import is_json, read_rows
from radrep.preparation.sources.table_text import text_notes
from radrep.preparation.sources.tables import bad_value, stream_cells

_IDS = ("study", "patient")
# Of these "None" may be what the radiologist wrote.
_NONE_IS_TEXT = ("indication", "comparison", "context")
# Of these numbers, names of findings and names of files are none.
_SENTENCES = ("report", "findings", "impression")
_SHOWN = 8  # columns in a note
_MAX_CODES = 10  # different ones of a column; more are measures
_MAX_IDS = 100_000  # that are compared with one another


@dataclass(frozen=True)
class Row:
    """One row of a table, or one file where there is no table."""

    images: tuple[str, ...]  # names of files
    study: str = ""  # without a name, the row is a study of its own
    patient: str = ""
    split: str = ""
    reader: str = ""  # who set the labels
    projections: tuple[str, ...] = ()  # of each image, or one of all
    prior_images: tuple[str, ...] = ()  # names of files, of the study before
    texts: Mapping[str, str] = field(default_factory=dict)  # by section, and "report"
    labels: Mapping[str, int] = field(default_factory=dict)  # 1, 0 or -1 by finding

    def projection(self, place: int) -> str:
        """The projection of one of the images."""
        if len(self.projections) == len(self.images):
            return self.projections[place]
        return self.projections[0] if len(self.projections) == 1 else "unknown"


@dataclass
class _Values:
    """What the cells of a column that has no role are, as far as they have been read."""

    labels: int = 0
    others: int = 0
    splits: int = 0  # of the others, names of splits
    coded: int = 0  # of the others, whole numbers of up to two digits
    codes: set[int] = field(default_factory=set)  # those, and labels
    numbers: int = 0  # of the others, without a letter
    blanks: int = 0
    example: str = ""  # the first that is no label
    line: int = 0


class _Damage:
    """What a spreadsheet may have done to the ids and texts of a table, row by row."""

    def __init__(self) -> None:
        self._cut: dict[str, dict[str, bool]] = {role: {} for role in _IDS}
        self._numbers: dict[str, dict[str, str]] = {role: {} for role in _IDS}  # without zeros
        self._twins: dict[str, tuple[str, str]] = {}
        self._lost = Counter[str]()
        self._names: dict[str, tuple[bool, bool]] = {}  # of texts: one is "A|B", all are names

    def count(self, values: Mapping[str, str]) -> None:
        """Count the values of one row, by role."""
        for role, found in self._cut.items():
            id_ = values.get(role, "").strip()
            is_cut = cell.is_cut_number(id_)
            if is_cut is not None and len(found) < _MAX_IDS:
                found[id_] = is_cut
            numbers = self._numbers[role]
            if id_.isdecimal() and len(numbers) < _MAX_IDS:
                twin = numbers.setdefault(id_.lstrip("0"), id_)
                if twin != id_:
                    self._twins.setdefault(role, (twin, id_))
        for role in columns.TEXTS:
            text = values.get(role, "").strip()
            if text and not _is_text(role, text):
                self._lost[text] += 1
            elif text and role in _SENTENCES:
                is_list, are_names = self._names.get(role, (False, True))
                self._names[role] = (is_list or "|" in text, are_names and cell.are_names(text))

    @property
    def lists(self) -> Iterator[str]:
        """Roles of texts of which the values are names of findings: "Effusion|Mass"."""
        return (role for role, is_list_of_names in self._names.items() if all(is_list_of_names))

    def notes(self) -> Iterator[str]:
        """Texts that are none."""
        if self._lost:
            shown = ", ".join(repr(text) for text, _ in self._lost.most_common(3))
            yield f"{self._lost.total()} texts are read as missing: {shown}."

    def warnings(self, known: Mapping[str, str]) -> Iterator[str]:
        """Ids of which not all digits were kept; `known` are the columns by role."""
        for role, (first, second) in self._twins.items():
            yield (
                f"{known[role]} has {first!r} and {second!r}: if a spreadsheet took zeros away, "
                f"they are one and now count as two; {cell.EXPORT_AGAIN}."
            )
        for role, found in self._cut.items():
            if len(found) > 1 and all(found.values()):
                yield (
                    f"every {known[role]} of more than 15 digits ends in zeros "
                    f"({', '.join([*found][:2])}): a spreadsheet rounded them, so different ones "
                    f"may have become one; {cell.EXPORT_AGAIN}."
                )


class Table:
    """The rows of a table, read from the file each time.

    `columns` are the names of the recognised columns, `labels` of those that hold labels; `notes`
    and `warnings` name what was not taken, or was read otherwise than it is written. With `priors`
    columns of the study before are read too.
    """

    def __init__(self, path: Path, *, priors: bool = False) -> None:
        self.path = path
        self._priors = priors
        self._is_json = is_json(path)
        known: dict[str, str] = {}
        others: dict[str, _Values] = {}  # in the order of the columns
        listed: dict[str, _Values] = {}  # of the column that lists findings
        damage = _Damage()
        for line, cells in self._cells():
            roles = columns.find_roles(tuple(cells), priors=priors)
            known.update(roles)
            damage.count({role: _text(cells[name]) or "" for role, name in roles.items()})
            taken = set(roles.values())
            for name, value in cells.items():
                if name not in taken:
                    _count(others.setdefault(name, _Values()), value, line)
                elif name == roles.get("label list") and not isinstance(value, list):
                    _count(listed.setdefault(name, _Values()), value, line)
        self._lists = tuple(damage.lists)
        self._split_by = _split_column(others) if "split" not in known else ""
        if self._split_by:
            known["split"] = self._split_by
            del others[self._split_by]
        self._image_by = None if "image" in known else columns.image_names_by(known)
        names = [name for name in (*known.values(), *others) if not columns.is_row_number(name)]
        self._all_columns = ", ".join(names) or "none"
        if "image" not in known and self._image_by is None:
            raise DataError(self.without_images())
        self.roles: Mapping[str, str] = known
        self.columns = tuple(known.values())
        self.has_splits, self.has_patients = "split" in known, "patient" in known
        self.has_studies = "study" in known
        self.labels = tuple(sorted(name for name in others if _is_label(name, others[name])))
        self._coded = {n: v for n, v in listed.items() if 0 < v.others == v.numbers}
        self._coded |= {n: v for n, v in others.items() if _are_codes(n, v) and v.codes >= {0, 1}}
        self.notes = [*text_notes(path), *_column_notes(others, self.labels), *damage.notes()]
        self.notes += [f"{known[role]} is read as names of findings." for role in self._lists]
        if "reader" in known and (self.labels or "label list" in known):
            self.notes.append(
                f"{known['reader']} names readers: what more than half of an image's readers mark "
                "is present, what half of them mark uncertain."
            )
        self.warnings = [*damage.warnings(known), *_code_warnings(self._coded, others, self.labels)]

    def __iter__(self) -> Iterator[Row]:
        """Yield every row; DataError names a bad value and its line."""
        for line, cells in self._cells():
            yield self._row(line, cells)

    @property
    def is_named_by_id(self) -> bool:
        """Whether ids stand for the names of images, since no column is for them."""
        return self._image_by is not None

    def without_images(self) -> str:
        """The problem of a table in which nothing names images."""
        return (
            f"{self.path} has no row with a column of images (image_path, path, image or "
            f"filename); its columns are {self._all_columns}"
        )

    def _row(self, line: int, cells: Mapping[str, Any]) -> Row:
        roles = columns.find_roles(tuple(cells), priors=self._priors)
        known = {role: cells[name] for role, name in roles.items()}
        if self._split_by:
            known["split"] = cells.get(self._split_by, "")
        image = known.pop("image", None)
        if image is None and self._image_by is not None:
            image = cells.get(self._image_by)
        names = self._names(line, image, self._plain(line, "folder", known.pop("folder", "")))
        prior_images = self._names(line, known.pop("prior_image", ""), "")
        views = self._list(line, "projection", known.pop("projection", ""))
        findings = [
            text
            for role in ("label list", *self._lists)
            for text in self._list(line, role, known.pop(role, ""))
        ]
        values = {role: self._plain(line, role, value) for role, value in known.items()}
        split = values.get("split", "").strip()
        split = "" if cell.is_missing(split) else split
        if split and not split_named(split):
            raise bad_value(self.path, line, "split", split, "expected train, val or test")
        ids = {role: self._id(line, role, values.get(role, "")) for role in _IDS}
        for role in (*_SENTENCES, "prior_report"):
            if cell.is_file_name(text := values.get(role, "")):
                problem = "expected the text itself and not the name of a file"
                raise bad_value(self.path, line, roles[role], text, problem)
        if not names and not ids["study"]:
            raise bad_value(self.path, line, "image", "", "expected the name of a file")
        return Row(
            images=names,
            study=ids["study"],
            patient=ids["patient"],
            split=split_named(split),
            reader=values.get("reader", "").strip(),
            projections=tuple(map(projection_of, views)),
            prior_images=prior_images,
            texts={
                name: values[name] for name in columns.TEXTS if _is_text(name, values.get(name, ""))
            },
            labels=self._labels(cells, findings, roles.get("label list", "")),
        )

    def _names(self, line: int, value: object, folder: str) -> tuple[str, ...]:
        names = [
            name
            for text in self._list(line, "image", value)
            for name in cell.split_names(text)
            if not cell.is_missing(name)
        ]
        for name in names:
            if cell.is_rounded(name) or cell.is_formula_error(name):
                self._id(line, "image", name)  # raises, with the reason
        folder = "" if cell.is_missing(folder) else folder.strip().rstrip("/\\")
        return tuple(f"{folder}/{name}" if folder else name for name in names)

    def _id(self, line: int, role: str, text: str) -> str:
        try:
            return cell.parse_id(text)
        except ValueError as error:
            raise bad_value(self.path, line, role, text.strip(), str(error)) from error

    def _cells(self) -> Iterator[tuple[int, dict[str, Any]]]:
        return read_rows(self.path) if self._is_json else stream_cells(self.path)

    def _list(self, line: int, role: str, value: object) -> list[str]:
        values = value if isinstance(value, list) else [value]
        return [self._plain(line, role, each) for each in values]

    def _plain(self, line: int, role: str, value: object) -> str:
        text = _text(value)
        if text is None:
            raise bad_value(self.path, line, role, json.dumps(value), "expected a text or a number")
        return text

    def _labels(
        self, cells: Mapping[str, object], listed: list[str], column: str
    ) -> dict[str, int]:
        labels: dict[str, int] = {}
        for text in listed if column not in self._coded else ():
            value = cell.parse_label(text)
            if value is not None:  # a column of ones and zeros, called as one of names
                labels[column] = value
            else:
                labels |= dict.fromkeys(cell.split_findings(text), 1)
        for name in self.labels:
            value = cell.parse_label(_text(cells.get(name)) or "")
            if value is not None:
                labels[name] = value
        return labels


def _is_text(role: str, text: str) -> bool:
    text = text.strip()
    if not text or cell.is_formula_error(text) or (role in _SENTENCES and cell.is_number(text)):
        return False
    return not cell.is_missing(text) or (role in _NONE_IS_TEXT and text.casefold() == "none")


def _text(value: object) -> str | None:
    """A cell as text, or None if it is a list or an object."""
    if isinstance(value, (list, dict)):
        return None
    return "" if value is None else str(int(value) if isinstance(value, bool) else value)


def _count(values: _Values, value: object, line: int) -> None:
    text = _text(value)
    if text is not None and cell.is_missing(text):
        values.blanks += 1
        return
    label = None if text is None else cell.parse_label(text)
    code = label if text is None or label is not None else cell.parse_code(text)
    if code is not None:
        values.codes.add(code)
    if label is not None:
        values.labels += 1
        return
    values.others += 1
    values.coded += code is not None
    values.numbers += text is not None and cell.is_number(text)
    values.splits += text is not None and bool(split_named(text))
    if values.others == 1:
        shown = json.dumps(value) if text is None else text.strip()
        values.example, values.line = shown if len(shown) <= 24 else shown[:21] + "...", line


def _split_column(others: Mapping[str, _Values]) -> str:
    """The column that is of splits though it is not called so, "" for none."""
    for name, values in others.items():
        if columns.may_be_split(name) and 0 < values.splits == values.others + values.labels:
            return name
    return ""


def _is_label(name: str, values: _Values) -> bool:
    return bool(values.labels) and not values.others and columns.may_be_finding(name)


def _are_codes(name: str, values: _Values) -> bool:
    """Whether a column holds a few whole numbers, of which some are no labels: 0, 1, 2, 3."""
    is_coded = 0 < values.others == values.coded and len(values.codes) <= _MAX_CODES
    return is_coded and columns.may_be_finding(name)


def _code_warnings(
    coded: Mapping[str, _Values], others: Mapping[str, _Values], labels: tuple[str, ...]
) -> Iterator[str]:
    """Columns of numbers whose meaning is not known."""
    for name, values in coded.items():
        more = " and others" * (values.coded < values.others)
        beside = f" {', '.join(labels[:_SHOWN])} are read." if labels else ""
        yield (
            f"{name} is not read as a finding: line {values.line} has {values.example!r} and its "
            f"values are {_listed(values.codes)}{more}; known are 1 (present), 0 (absent), -1 "
            f"(uncertain) and blank. Write those, or take the column out.{beside}"
        )
    unsaid = [n for n in labels if others[n].codes == {-1, 1} and not others[n].blanks]
    if unsaid:
        yield (
            f"{', '.join(unsaid[:_SHOWN])} hold 1 and -1 in every row, and neither 0 nor blanks: "
            "-1 is read as uncertain. Write 0 if it is to mean absent."
        )


def _listed(codes: set[int]) -> str:
    shown = sorted(codes)
    return ", ".join(map(str, shown[:_MAX_CODES])) + ", ..." * (len(shown) > _MAX_CODES)


def _column_notes(others: Mapping[str, _Values], labels: tuple[str, ...]) -> Iterator[str]:
    left = {
        name: values
        for name, values in others.items()
        if name not in labels and not columns.is_row_number(name)
    }
    for name, values in left.items():
        coded = _are_codes(name, values) and not values.codes >= {0, 1}  # else there is a warning
        if (values.labels > values.others > values.coded and columns.may_be_finding(name)) or coded:
            found = f" (its values are {_listed(values.codes)})" * coded
            yield (
                f"{name} is not read as a finding: line {values.line} has {values.example!r}{found}"
                ", expected 1, 0, -1 or blank."
            )
    if left:
        names = [f"{name} ({_content(values)})" for name, values in left.items()]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        yield f"Columns that are not used: {', '.join(names[:_SHOWN])}{more}."


def _content(values: _Values) -> str:
    if values.others:
        return repr(values.example)
    return "1, 0 or -1" if values.labels else "empty"
