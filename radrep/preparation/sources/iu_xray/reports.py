"""IU X-Ray's reports, in Open-i's XML and Kaggle's tables.

ecgen-radiology/<number>.xml, or in NLMCXR_reports.tgz   sections, MeSH terms, names of images
indiana_reports.csv                                      sections, MeSH terms
indiana_projections.csv                                  names of images, frontal or lateral
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree
from xml.parsers import expat

from radrep.data.study import PROJECTIONS
from radrep.errors import DataError
from radrep.preparation.sources.iu_xray.images import open_i_name, read_members, report_number
from radrep.preparation.sources.tables import bad_value, stream_rows

XML_FOLDERS = ("ecgen-radiology", "NLMCXR_reports/ecgen-radiology", "NLMCXR_reports")
XML_ARCHIVE = "NLMCXR_reports.tgz"
KAGGLE_REPORTS = "indiana_reports.csv"
KAGGLE_PROJECTIONS = "indiana_projections.csv"

# The images that Kaggle lacks. In two of their three studies the k-th image differs therefore.
NOT_AT_KAGGLE = (
    "CXR2084_IM-0715-1001-0002",
    "CXR2084_IM-0715-2001-0001",
    "CXR2560_IM-1064-4001",
    "CXR3809_IM-1919-1003002",
)

_SECTIONS = ("findings", "impression", "indication", "comparison")
_PROJECTION_COLUMNS = ("uid", "filename", "projection")
_MAX_REPORT = 1_000_000  # bytes of XML
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)


@dataclass(frozen=True)
class Report:
    """One report, which is also one study and one patient."""

    images: tuple[str, ...] = ()  # Open-i's names, in the order of the XML
    projections: Mapping[str, str] = field(default_factory=dict)  # by Open-i's name
    sections: Mapping[str, str] = field(default_factory=dict)  # raw text, no empty ones
    text: str = ""  # the whole report of the XML
    labels: Mapping[str, int] = field(default_factory=dict)  # 1 by MeSH term, "normal" is one
    problem: str | None = None  # why the rest is missing


def report_files(raw: Path) -> list[Path]:
    """The files and folders of reports in a folder: XML, then Kaggle's tables."""
    xml = [folder for name in XML_FOLDERS if any((folder := raw / name).glob("*.xml"))]
    xml += [archive] if (archive := raw / XML_ARCHIVE).is_file() else []
    tables = [raw / name for name in (KAGGLE_REPORTS, KAGGLE_PROJECTIONS)]
    return xml[:1] + [table for table in tables if table.is_file()]


def read_reports(files: Iterable[Path]) -> dict[str, Report]:
    """The reports of `report_files` by number, in the order of the numbers.

    Where they differ the XML counts: Kaggle's tables have been through a spreadsheet.
    """
    xml: dict[str, Report] = {}
    texts: dict[str, Report] = {}
    views: dict[str, dict[str, str]] = {}
    for path in files:
        if path.name == KAGGLE_REPORTS:
            texts = dict(_read_texts(path))
        elif path.name == KAGGLE_PROJECTIONS:
            views = _read_projections(path)
        else:
            xml = {number: _parse(number, content) for number, content in _read_xml(path)}
    merged = {}
    for number in sorted({*xml, *texts, *views}, key=int):
        seen = views.get(number, {})
        kaggle = replace(texts.get(number, Report()), images=tuple(seen))
        original = xml.get(number, kaggle)
        chosen = kaggle if original.problem and kaggle.sections else original
        merged[number] = replace(chosen, projections=seen)
    return merged


def _read_xml(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        for file in sorted(path.glob("*.xml")):
            if _NUMBER.fullmatch(file.stem):
                try:
                    with file.open("rb") as opened:
                        yield file.stem, opened.read(_MAX_REPORT + 1)
                except OSError as error:
                    raise DataError(f"{file} cannot be read: {error}") from error
        return
    for name, _, chunks in read_members(path):
        member = PurePosixPath(name)
        if member.suffix == ".xml" and _NUMBER.fullmatch(member.stem):
            content = b""
            while len(content) <= _MAX_REPORT and (chunk := next(chunks, b"")):
                content += chunk
            yield member.stem, content


def _parse(number: str, content: bytes) -> Report:
    if len(content) > _MAX_REPORT:
        return Report(problem=f"{number}.xml has more than 1 MB, which no report has")
    try:
        _refuse_entities(content)
        root = ElementTree.fromstring(content)
    # ValueError and LookupError: encodings that Python reads otherwise, or not at all.
    except (ElementTree.ParseError, expat.ExpatError, ValueError, LookupError) as error:
        return Report(problem=f"{number}.xml is no XML that can be read: {error}")
    texts = [
        (element.get("Label", "").strip(), text)
        for element in root.iter("AbstractText")
        if (text := "".join(element.itertext())).strip()
    ]
    sections: dict[str, list[str]] = defaultdict(list)
    for label, text in texts:
        sections[label.lower()].append(text)
    images = (element.get("id", "") for element in root.iter("parentImage"))
    return Report(
        images=tuple(open_i_name(image) or image for image in images),
        sections={name: "\n".join(parts) for name, parts in sections.items()},
        text="\n".join(f"{label}: {text}" for label, text in texts),
        labels=_labels(element.text or "" for element in root.iter("major")),
    )


def _refuse_entities(content: bytes) -> None:
    """Raise ValueError if XML declares entities: each may stand for many others, or for a file."""

    def refuse(name: str, *_: object) -> None:
        raise ValueError(f"it declares an entity, {name!r}, as no report does")

    parser = expat.ParserCreate()
    parser.EntityDeclHandler = refuse
    parser.Parse(content, True)


def _labels(terms: Iterable[str]) -> dict[str, int]:
    leading = (term.partition("/")[0].strip() for term in terms)
    return {term: 1 for term in leading if term not in ("", "No Indexing")}


def _read_texts(path: Path) -> Iterator[tuple[str, Report]]:
    for line, (uid, *texts, terms) in stream_rows(path, ("uid", *_SECTIONS), ("MeSH",)):
        sections = {
            name: text
            for name, text in zip(_SECTIONS, texts, strict=True)
            # Excel took two indications that begin with "+" for formulas and lost them.
            if text.strip() and text != "#NAME?"
        }
        yield _number(path, line, uid), Report(sections=sections, labels=_labels(terms.split(";")))


def _read_projections(path: Path) -> dict[str, dict[str, str]]:
    """Projections by Open-i's name, in its order, by number of the report."""
    views: dict[str, dict[str, str]] = defaultdict(dict)
    for line, (uid, file_name, projection) in stream_rows(path, _PROJECTION_COLUMNS):
        name = open_i_name(file_name)
        if name is None:
            raise bad_value(path, line, "filename", file_name, "IU X-Ray has no such name")
        known = projection.strip().lower() in PROJECTIONS
        views[_number(path, line, uid)][name] = projection.strip().lower() if known else "unknown"
    for image in NOT_AT_KAGGLE:
        if report_number(image) in views:
            views[report_number(image)].setdefault(image, "unknown")
    # Open-i's XML has the images of a report in this order.
    return {number: dict(sorted(found.items())) for number, found in views.items()}


def _number(path: Path, line: int, uid: str) -> str:
    uid = uid.strip().removesuffix(".0")
    if not _NUMBER.fullmatch(uid):
        raise bad_value(path, line, "uid", uid, "expected the number of a report")
    return uid
