"""The studies of a folder of images, of a prepared folder, or of single files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from radrep.data.context.study_context import (
    CONTEXT,
    PRIOR_IMAGE,
    TITLES,
    reads_prior,
    study_context,
)
from radrep.data.dicom import read_tags
from radrep.data.manifest import PREPARED, read_image_size, read_shards
from radrep.data.store import PreparedStudies
from radrep.data.study import SPLITS, projection_of
from radrep.errors import DataError
from radrep.preparation.sources.base import check_folder
from radrep.preparation.sources.folder import files, paths
from radrep.preparation.sources.folder.matching import match_files
from radrep.preparation.sources.folder.table import Table
from radrep.preparation.sources.folder.warnings import IdCheck
from radrep.preparation.sources.free_text_sections import parse_context
from radrep.progress import Reporter
from radrep.reporting.reading import FileStudy, PreparedStudy, ReportStudy, hash_context

_MOST_VIEWS = 4  # a sub-folder of more images is hardly one study
_USABLE = (files.FILE, files.INNER)
_SKIPPED = {
    files.BROKEN: "links lead nowhere",
    files.INNER: "links lead to what is in the folder anyhow, and are not followed",
    files.SPECIAL: "pipes, sockets or devices are not read",
    files.FOLDER: "folders are named as images are; the files in them are used",
    files.MADE: "folders that radrep wrote are not read",
    "others": "files are no images",
}


@dataclass(frozen=True)
class FoundStudies:
    """Studies to report, where and how they were found, and what to know of that."""

    place: str
    studies: Sequence[ReportStudy]
    layout: str
    notes: tuple[str, ...] = ()
    image_size: int | None = None  # short side of prepared images; None for files
    num_with_context: Mapping[str, int] = field(default_factory=dict)  # studies, by kind


@dataclass(frozen=True)
class _Image:
    name: str  # from the folder
    path: Path
    study: str  # its StudyInstanceUID; "" without one
    projection: str


def find_studies(
    folder: Path,
    *,
    group: str = "auto",
    table: Path | None = None,
    context: tuple[str, ...] = (),
    target: str = "both",
    reporter: Reporter | None = None,
) -> FoundStudies:
    """The studies of a folder, or of a prepared one, in order.

    By the rows of a table; else DICOM files by their StudyInstanceUID, other files by folders that
    are named as studies are (p10/s50), or by any sub-folder where none holds more than four images;
    else each file is a study. With `group` "folder" each sub-folder is a study, with "file" each
    file. Kinds of context that a model reads are taken from the table or the prepared folder, where
    the study before is of those that have the text `target`.

    Raises:
        DataError: If there is no image, or the table names none of them.
    """
    reporter = reporter or Reporter()
    if (folder / PREPARED).is_file():
        if table is not None or group != "auto":
            raise DataError(
                f"{folder} is a prepared folder, whose studies are known: leave --studies and "
                "--group out"
            )
        return _prepared_studies(folder, context, target, reporter)
    check_folder(folder, "a folder of images")
    listed = list(files.list_files(folder))
    if table is not None:
        names = [path for path, kind in listed if kind in _USABLE]
        return _table_studies(folder, names, table, context)
    skipped = Counter(kind for _, kind in listed if kind != files.FILE)
    images = []
    with reporter.progress("scan files", len(listed), "files") as advance:
        for path, kind in listed:
            if kind == files.FILE:
                image = _open_image(folder, path)
                skipped["others"] += image is None
                images += [image] if image else []
            advance()
    if not images:
        raise DataError(f"no image (PNG, JPEG, TIFF, BMP or DICOM) in {folder}")
    notes = tuple(f"{count:,} {_SKIPPED[kind]}." for kind, count in skipped.items() if count)
    keys = _study_keys(images, group)
    studies = _collect(images, [key or image.name for key, image in zip(keys, images, strict=True)])
    return FoundStudies(_place(folder), studies, _describe(images, keys, studies), notes)


def file_studies(
    given: Sequence[Path], projections: Sequence[str] = (), *, single_study: bool = False
) -> FoundStudies:
    """Single files: each a study, but DICOM files of one StudyInstanceUID are one together."""
    views = projections or ["unknown"] * len(given)
    images = []
    for path, view in zip(given, views, strict=True):
        found = _open_image(Path(), str(path))
        name = shown(str(path))
        uid, header = (found.study, found.projection) if found else ("", "unknown")
        images.append(_Image(name, path, uid, view if view != "unknown" else header))
    keys = [images[0].study if single_study else image.study for image in images]
    names = [images[0].name if single_study else image.name for image in images]
    studies = _collect(images, [key or name for key, name in zip(keys, names, strict=True)])
    return FoundStudies(_place(Path()), studies, _describe(images, keys, studies))


def shown(name: str) -> str:
    """A file's name in which every character can be shown and stored: others are escaped."""
    escaped = name.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in escaped)


def _place(folder: Path) -> str:
    return shown(str(folder.resolve()))


def _open_image(folder: Path, name: str) -> _Image | None:
    """An image by its header; None if the file is none."""
    path = folder / name
    kind = files.sniff_format(path) if path.is_file() else None  # a pipe is read once
    if kind is None:
        return None
    study, _, view = read_tags(path) if kind == "dicom" else ("", "", "")
    return _Image(shown(PurePath(name).as_posix()), path, study, projection_of(view))


def _study_keys(images: Sequence[_Image], group: str) -> list[str]:
    """The study of each image, "" where it is one by itself."""
    if group == "file":
        return [""] * len(images)
    folders = ["" if (parent := _parent(image)) == "." else parent for image in images]
    if group == "folder":
        return folders
    keys = [image.study or paths.ids_of(image.name)[1] for image in images]
    sizes = Counter(own for own, key in zip(folders, keys, strict=True) if own and not key)
    if max(sizes.values(), default=0) > _MOST_VIEWS:
        return keys
    return [key or own for key, own in zip(keys, folders, strict=True)]


def _parent(image: _Image) -> str:
    return PurePath(image.name).parent.as_posix()


def _collect(images: Sequence[_Image], ids: Sequence[str]) -> list[FileStudy]:
    """Images with the study of each, as studies in the order of their first images."""
    members: dict[str, list[_Image]] = {}
    for image, id_ in zip(images, ids, strict=True):
        members.setdefault(id_, []).append(image)
    return [
        FileStudy(
            id_,
            tuple(image.name for image in own),
            tuple(image.path for image in own),
            tuple(image.projection for image in own),
        )
        for id_, own in members.items()
    ]


def _describe(images: Sequence[_Image], keys: Sequence[str], studies: Sequence[FileStudy]) -> str:
    by_uid = {image.study for image in images} & set(keys) - {""}
    kinds = {
        "by StudyInstanceUID": len(by_uid),
        "by folder": len(set(keys) - by_uid - {""}),
        "of a single file": keys.count(""),
    }
    counted = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
    return f"{len(studies):,} of {len(images):,} images: {counted}"


@dataclass
class _Members:
    """The images of one study of a table, by name, and its context."""

    images: dict[str, tuple[Path | None, str]] = field(default_factory=dict)  # with projections
    texts: dict[str, str] = field(default_factory=dict)
    prior: dict[str, Path | None] = field(default_factory=dict)


def _table_studies(
    folder: Path, names: list[str], path: Path, context: tuple[str, ...]
) -> FoundStudies:
    """Studies by the rows of a table; rows without a study are studies of their own."""
    table = Table(path, priors=True)
    wanted = [name for row in table for name in row.images]
    of_priors = [name for row in table for name in row.prior_images]
    matches = match_files(files.pack([*wanted, *of_priors]), files.pack(names))
    places = matches.places.tolist()
    if all(place < 0 for place in places[: len(wanted)]):
        first = f"; the first is {shown(wanted[0])!r}" if wanted else ""
        raise DataError(f"none of the images that {path} names is in {folder}{first}")
    members: dict[str, _Members] = {}
    found, found_priors = iter(places), iter(places[len(wanted) :])

    def locate(name: str, place: int) -> tuple[str, Path | None]:
        return (shown(names[place]), folder / names[place]) if place >= 0 else (shown(name), None)

    check = IdCheck()
    for row in table:
        id_ = shown(row.study or row.images[0])
        study = members.setdefault(id_, _Members())
        for number, name in enumerate(row.images):
            image, known = locate(name, next(found))
            study.images.setdefault(image, (known, row.projection(number)))
        given = parse_context(row.texts.get("context", "")) | {**row.texts}
        texts = {kind: given[kind] for kind in TITLES if kind in context and kind in given}
        check.add_texts(id_, id_, texts)
        study.texts = texts | study.texts
        prior = [locate(name, next(found_priors)) for name in row.prior_images]
        if PRIOR_IMAGE in context:
            study.prior |= prior
    studies = [
        FileStudy(
            id_,
            tuple(own.images),
            tuple(known for known, _ in own.images.values()),
            tuple(projection for _, projection in own.images.values()),
            own.texts,
            tuple(own.prior.items()),
        )
        for id_, own in members.items()
        if own.images
    ]
    unused = sum(files.is_image(name) for name in {*names} - {names[p] for p in places if p >= 0})
    notes = [*table.notes, *check.warnings("", "")]
    if unused:
        notes.append(f"{unused:,} images are not in the table and are not used.")
    unread = [name for kind, name in table.roles.items() if kind in CONTEXT and kind not in context]
    if unread:
        notes.append(f"The model does not read {', '.join(unread)}: see data.context.")
    layout = f"{len(studies):,} of {len(wanted):,} images, by {path.name}"
    kinds = Counter(
        kind for own in studies for kind in (*own.texts, *[PRIOR_IMAGE] * bool(own.prior))
    )
    return FoundStudies(_place(folder), studies, layout, tuple(notes), num_with_context=kinds)


def _prepared_studies(
    folder: Path, kinds: tuple[str, ...], target: str, reporter: Reporter
) -> FoundStudies:
    counts = dict.fromkeys(SPLITS, 0)
    found: list[ReportStudy] = []
    with_context = Counter[str]()
    for split in SPLITS:
        if not read_shards(folder, split):
            continue
        studies = PreparedStudies(folder, split)
        priors: Mapping[int, int] = {}
        if reads_prior(kinds):
            texts = enumerate(studies.texts(target))
            priors = studies.find_priors({index for index, text in texts if text})
        with reporter.progress(f"list {split}", len(studies), "studies") as advance:
            for index, study in enumerate(studies):
                hashes = tuple(image.sha256 for image in study.images)
                own = PreparedStudy(shown(study.id), folder, split, index, hashes)
                if kinds:
                    prior = priors.get(index)
                    context = study_context(studies, index, kinds, prior)
                    with_context.update(context.kinds)
                    mark = hash_context(studies, context)
                    own = replace(own, kinds=kinds, prior=prior, context_hash=mark)
                found.append(own)
                advance()
        counts[split] = len(studies)
    counted = ", ".join(f"{count:,} {split}" for split, count in counts.items() if count)
    return FoundStudies(
        _place(folder),
        found,
        f"{len(found):,} prepared: {counted}",
        image_size=read_image_size(folder),
        num_with_context=with_context,
    )
