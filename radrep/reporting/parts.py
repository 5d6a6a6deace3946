"""A folder of reports on disk, in parts that are there whole or not at all.

OUT/part-HASH.jsonl, .parquet   reports of some studies, one row each; named by what they are of
OUT/part-HASH.done.json         their studies and the SHA-256 of each of their files, written last
OUT/generated.json              what decided the reports, when the command began, the parts
OUT/left_out.jsonl              images and studies that are not used, with reasons

A part without its done-file is not there. So a stopped command goes on with what is missing, and
makes the bytes that it would have made. Reports of studies that are no longer among the images
stay; that of a study whose images changed gives way to its new one.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radrep.atomic import atomic_write_bytes, atomic_write_text, make_folder, written_by_one
from radrep.data.manifest import GENERATED, hash_file, verifies
from radrep.errors import DataError
from radrep.interop.formats import FORMATS
from radrep.metrics.labeler import OBSERVATIONS
from radrep.sections import SECTIONS

if TYPE_CHECKING:
    import pyarrow

LEFT_OUT = "left_out.jsonl"
_DONE = ".done.json"
_SHOWN = 16  # digits of a hash
_Reason = tuple[str, str, str]  # study, image or "", why it is not used


@dataclass
class Part:
    """Some studies, by their fingerprints, with what is written of them.

    An unread study has no row; `documents` are further files of a study by their names; `notes`
    are what to warn of.
    """

    name: str
    studies: Mapping[str, str]
    rows: list[dict[str, Any]] = field(default_factory=list)
    documents: dict[str, dict[str, bytes]] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    left_out: list[_Reason] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DonePart:
    """What the done-file of a part records."""

    name: str
    studies: Mapping[str, str]
    files: Mapping[str, str]  # SHA-256 by name
    documents: Mapping[str, Sequence[str]]  # names of files by study
    unread: Sequence[str]  # studies without a report
    left_out: Sequence[_Reason]
    notes: Sequence[str]  # what there is to warn of

    @property
    def names(self) -> list[str]:
        """All names that it has."""
        return [self.name, *self.files, *chain.from_iterable(self.documents.values())]


def part_name(settings: Mapping[str, object], studies: Mapping[str, str]) -> str:
    """The name of the part that has these studies, by what decides its content."""
    decides = json.dumps([settings, list(studies.items())], sort_keys=True)
    return f"part-{hashlib.sha256(decides.encode()).hexdigest()[:_SHOWN]}"


def write_part(out: Path, part: Part) -> DonePart:
    """Write the files of a part, its done-file last."""
    files = {name: file for own in part.documents.values() for name, file in own.items()}
    if part.rows:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in part.rows)
        files[f"{part.name}.jsonl"] = "".join(lines).encode()
        files[f"{part.name}.parquet"] = to_parquet(part.rows)
    for name, content in files.items():
        make_folder((out / name).parent)
        atomic_write_bytes(out / name, content)
    done = DonePart(
        part.name,
        part.studies,
        {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        {study: list(own) for study, own in part.documents.items()},
        part.unread,
        part.left_out,
        part.notes,
    )
    atomic_write_text(out / (part.name + _DONE), json.dumps(asdict(done), indent=1) + "\n")
    return done


def find_part(out: Path, name: str) -> DonePart | None:
    """A part of this name that is there whole."""
    part = _read_part(out / (name + _DONE))
    return part if part is not None and _is_whole(out, part) else None


def _read_parts(out: Path) -> list[DonePart]:
    """The parts that have a done-file."""
    found = map(_read_part, sorted(out.glob(f"part-*{_DONE}")))
    return [part for part in found if part is not None]


def _read_part(path: Path) -> DonePart | None:
    """What a done-file records; None if it is not there or damaged."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        part = DonePart(**{**row, "left_out": [tuple(each) for each in row["left_out"]]})
        return part if all(map(_is_inside, part.names)) else None  # a stranger's may name others
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # as after a crash
        return None


def _is_inside(name: str) -> bool:
    """Whether a name is of a file in a folder of reports."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _is_whole(out: Path, part: DonePart) -> bool:
    """Whether the files of a part are as they were written."""
    return all(
        (out / name).is_file() and (not verifies() or hash_file(out / name) == sha256)
        for name, sha256 in part.files.items()
    )


def drop_studies(
    out: Path, part: DonePart, dropped: Iterable[str], settings: Mapping[str, object]
) -> None:
    """Take studies out of a part; what is left of it becomes another part first."""
    kept = {study: mark for study, mark in part.studies.items() if study not in {*dropped}}
    files: Mapping[str, str] = {}
    if kept:
        file = out / f"{part.name}.jsonl"
        # Not at other breaks, such as U+2028, which a report may have.
        lines = file.read_text("utf-8").split("\n")[:-1] if file.is_file() else []
        documents = {
            study: {name: (out / name).read_bytes() for name in part.documents[study]}
            for study in kept
            if study in part.documents
        }
        rest = Part(
            part_name(settings, kept),
            kept,
            [row for row in map(json.loads, lines) if row["study"] in kept],
            documents,
            [study for study in part.unread if study in kept],
            [reason for reason in part.left_out if reason[0] in kept],
        )
        files = write_part(out, rest).files
    for name in (part.name + _DONE, *(part.files.keys() - files.keys())):
        (out / name).unlink(missing_ok=True)


def to_parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=row_schema()), file)
    return file.getvalue()


@cache
def row_schema() -> "pyarrow.Schema":
    """The columns of a row."""
    import pyarrow

    text, texts, number = pyarrow.string(), pyarrow.list_(pyarrow.string()), pyarrow.float64()
    sentence = {
        **{"text": text, "origin": text, "observation": text, "probability": number},
        "section": text,
    }
    place = {"image": text, "x": number, "y": number, "map": text, "over_mean": number}
    finding = {
        **dict.fromkeys(("observation", "state", "side", "size"), text),
        **{"probability": number, "sentence": text, "origin": text},
        "place": pyarrow.struct(place),
    }
    return pyarrow.schema(
        {
            "study": text,
            "images": texts,
            "projections": texts,
            "report": text,
            "sections": pyarrow.struct(dict.fromkeys(SECTIONS, text)),
            "context": texts,
            "made": text,
            "sentences": pyarrow.list_(pyarrow.struct(sentence)),
            "removed": texts,
            "findings": pyarrow.list_(pyarrow.struct(finding)),
            "probabilities": pyarrow.struct(dict.fromkeys(OBSERVATIONS, number)),
            "unused": texts,
            "model": text,
            "time": text,
        }
    )


@dataclass
class Reports:
    """What a folder of reports has: its parts are those before its command, then those after it.

    A command that goes on with a stopped one began when that did, as text in UTC.
    """

    began: str
    parts: list[DonePart]


@contextmanager
def report_folder(out: Path, settings: Mapping[str, object]) -> Iterator[Reports]:
    """Hold a folder of reports, each file of which is hashed once.

    When all went well, files that are of no part are removed, and the list of what is not used and
    the record are written.

    Raises:
        DataError: If it holds something else, reports of other settings, or is in use.
    """
    make_folder(out)
    with written_by_one(out, out / ".lock", "radrep generate"):
        began = _begin(out, settings)
        for path in out.rglob(".*.partial"):
            path.unlink()
        reports = Reports(began, [part for part in _read_parts(out) if _is_whole(out, part)])
        yield reports
        _finish(out, settings, reports)


def _begin(out: Path, settings: Mapping[str, object]) -> str:
    path = out / GENERATED
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if path.is_file():
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            known, began = dict(record["settings"]), str(record["began"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} cannot be read ({error}); give another --out") from error
        changes = [f"{k} {known.get(k)}, now {v}" for k, v in settings.items() if known.get(k) != v]
        if changes:
            raise DataError(
                f"{out} holds reports that were made otherwise ({'; '.join(changes)}) and is left "
                "unchanged: give another --out"
            )
        now = now if record.get("finished") else began
    elif any(
        each.name != ".lock" and not each.match(f".{GENERATED}.*.partial")  # of a kill
        for each in out.iterdir()
    ):
        raise DataError(f"{out} is not empty and holds no reports of radrep; give another --out")
    record = {"settings": settings, "began": now, "finished": False}
    atomic_write_text(path, json.dumps(record, indent=2) + "\n")
    return now


def _finish(out: Path, settings: Mapping[str, object], reports: Reports) -> None:
    known, found = {part.name for part in reports.parts}, _read_parts(out)
    parts = [part for part in found if part.name in known or _is_whole(out, part)]
    _remove_orphans(out, parts, found)
    reports.parts = parts
    lines = (
        json.dumps({"study": study, "image": image, "reason": reason}, ensure_ascii=False) + "\n"
        for study, image, reason in sorted(reason for part in parts for reason in part.left_out)
    )
    atomic_write_text(out / LEFT_OUT, "".join(lines))
    rows = [
        {"name": p.name, "studies": len(p.studies), "reports": len(p.studies) - len(p.unread)}
        for p in parts
    ]
    record = {"settings": settings, "began": reports.began, "finished": True, "parts": rows}
    atomic_write_text(out / GENERATED, json.dumps(record, indent=2) + "\n")


def _remove_orphans(out: Path, parts: Sequence[DonePart], found: Sequence[DonePart]) -> None:
    """Remove what kills left: files of no part, and damaged parts whose studies others have.

    A damaged part with any other study is the last that there is of it, and stays.
    """
    written = {study for part in parts for study in part.studies}
    kept = [part for part in found if part in parts or not part.studies.keys() <= written]
    listed = {name for part in kept for name in (part.name + _DONE, *part.files)}
    forms = [f"{name}/*{form.ending}" for name, form in FORMATS.items()]
    for pattern in ("part-*", *forms):
        for path in out.glob(pattern):
            if path.relative_to(out).as_posix() not in listed:
                path.unlink()
