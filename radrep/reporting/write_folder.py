"""Write the reports of a folder's studies: reading, the network and writing overlap."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from radrep import __version__
from radrep.errors import DataError
from radrep.inference.films import Films
from radrep.inference.generator import ReportGenerator
from radrep.interop.document import Document
from radrep.interop.formats import write_documents
from radrep.parallel.cluster import Cluster
from radrep.parallel.processes import count_cores, map_in_order
from radrep.progress import Advance, Reporter
from radrep.reporting.parts import (
    DonePart,
    Part,
    drop_studies,
    find_part,
    part_name,
    report_folder,
    write_part,
)
from radrep.reporting.reading import SAME_IMAGE, ReadStudy, ReportStudy, read_study
from radrep.reporting.studies import FoundStudies

_PARTS = 64  # of which a stopped command loses those that it is at
_MOST_STUDIES = 512  # of a part
_WAITING = 2  # parts to be written while the next one is made
# A worker takes a second to start, in which about this many studies are read.
_STUDIES_PER_WORKER = 32
_PREPARED_PER_WORKER = 256  # whose images are small
_MOST_WORKERS = 8


@dataclass(frozen=True)
class ReportedFolder:
    """What a folder of reports has of the studies that were asked for."""

    num_studies: int
    num_reports: int
    num_documents: Mapping[str, int]  # by format
    left_out: Sequence[tuple[str, str, str]]  # study, image, reason


def write_folder(
    found: FoundStudies,
    generator: ReportGenerator,
    out: Path,
    *,
    formats: Sequence[str] = (),
    seed: int = 0,
    on_cluster: tuple[Cluster, Callable[[], ReportGenerator]] | None = None,
    reporter: Reporter | None = None,
) -> ReportedFolder:
    """Write what `out` lacks of the reports of some studies; see `radrep.reporting.parts`.

    `formats` are documents of each report besides, see `radrep.interop.formats`. Images are read by
    several processes, so that a script needs a `__main__` guard. The workers of a cluster each load
    a generator and write the same bytes, from images to a disk that all of them see.

    Raises:
        DataError: If `out` holds anything else, or images were prepared at another size.
    """
    reporter, studies = reporter or Reporter(), found.studies
    needed = generator.loaded.prepared_size
    if found.image_size not in (None, needed):
        raise DataError(
            f"{found.place} has images of {found.image_size} pixels and the model was trained on "
            f"{needed}: give the images themselves, or prepare them with --image-size {needed}"
        )
    settings = {
        **{"radrep": __version__, "images": found.place},
        **generator.settings(),
        **{"seed": seed, "formats": sorted(formats)},
    }
    marks = {study.id: study.fingerprint() for study in studies}
    with report_folder(out, settings) as reports:
        began, suspects = reports.began, _find_unread(reports.parts, studies)
        readable = _read_again(suspects, needed, _count_workers(found, len(suspects)), reporter)
        done = _keep_done(out, reports.parts, marks, readable, settings)
        todo = [study for study in studies if study.id not in done]
        if done:
            num_done = len(studies) - len(todo)
            reporter.info("resume", f"{num_done:,} of {len(studies):,} studies are done already")
        if todo:
            parts = []
            size = _part_size(len(studies), generator.batch_size)
            for start in range(0, len(todo), size):
                own = {study.id: marks[study.id] for study in todo[start : start + size]}
                parts.append(Part(part_name(settings, own), own))
            with ExitStack() as stack:
                if on_cluster is not None:
                    stack.enter_context(on_cluster[0].run(reporter.warn))
                advance = stack.enter_context(reporter.progress("reports", len(todo), "studies"))
                if on_cluster is not None:
                    cluster, load = on_cluster
                    blocks = _blocks(parts, todo)
                    worker = partial(_load_worker, load, out, formats, seed, began)
                    for num_studies, notes in cluster.map_with_model(worker, blocks, out):
                        for note in notes:
                            reporter.warn(note)
                        advance(num_studies)
                else:
                    work = partial(read_study, short_side=needed)
                    workers = _count_workers(found, len(todo))
                    read = stack.enter_context(closing(map_in_order(work, todo, workers)))
                    maker = _PartMaker(generator, formats, seed, began, advance, reporter.warn)
                    _write_parts(out, (maker.fill(part, read) for part in parts))
    unread = {study for part in reports.parts for study in part.unread} & marks.keys()
    left_out = [reason for part in reports.parts for reason in part.left_out if reason[0] in marks]
    files = Counter(
        name.partition("/")[0]
        for part in reports.parts
        for study, names in part.documents.items()
        if study in marks
        for name in names
    )
    documents = {form: files[form] for form in formats}
    return ReportedFolder(len(studies), len(studies) - len(unread), documents, left_out)


def _find_unread(
    parts: Sequence[DonePart], studies: Sequence[ReportStudy]
) -> list[tuple[ReportStudy, set[tuple[str, str]]]]:
    """Studies of which an image could not be read, with all that was left out of them."""
    before: dict[str, set[tuple[str, str]]] = {}
    for part in parts:
        for study, image, reason in part.left_out:
            before.setdefault(study, set()).add((image, reason))
    return [
        (study, reasons)
        for study in studies
        if (reasons := before.get(study.id))
        and not all(reason.startswith(SAME_IMAGE) for _, reason in reasons)
    ]


def _read_again(
    suspects: Sequence[tuple[ReportStudy, set[tuple[str, str]]]],
    short_side: int,
    num_workers: int,
    reporter: Reporter,
) -> set[str]:
    """Those that are read otherwise now: a disk may have failed, or been away."""
    if not suspects:
        return set()
    work = partial(read_study, short_side=short_side)
    changed = set[str]()
    with (
        reporter.progress("read again", len(suspects), "studies") as advance,
        closing(map_in_order(work, [study for study, _ in suspects], num_workers)) as read,
    ):
        for (_, before), (study, found) in zip(suspects, read, strict=True):
            if {*found.left_out} != before:
                changed.add(study.id)
            advance()
    return changed


def _keep_done(
    out: Path,
    parts: Sequence[DonePart],
    marks: Mapping[str, str],
    readable: set[str],
    settings: Mapping[str, object],
) -> set[str]:
    """The studies that are done; what is to be made anew, or stands in two parts, is removed."""
    done = set[str]()
    for part in parts:
        dropped = {
            study
            for study, mark in part.studies.items()
            if marks.get(study, mark) != mark or study in readable or study in done
        }
        if dropped:
            drop_studies(out, part, dropped, settings)
        done |= part.studies.keys() - dropped
    return done


def _count_workers(found: FoundStudies, num_studies: int) -> int:
    per_worker = _STUDIES_PER_WORKER if found.image_size is None else _PREPARED_PER_WORKER
    return max(1, min(count_cores(), _MOST_WORKERS, num_studies // per_worker))


def _part_size(num_studies: int, batch_size: int) -> int:
    """Studies of a part: full batches, so that a report's batch is the same in every run."""
    batches = min(num_studies / _PARTS, _MOST_STUDIES) / batch_size
    return max(round(batches), 1) * batch_size


_Block = tuple[Part, Sequence[ReportStudy]]


def _blocks(parts: Sequence[Part], studies: Iterable[ReportStudy]) -> list[_Block]:
    """Each part with its studies."""
    rest = iter(studies)
    return [(part, list(islice(rest, len(part.studies)))) for part in parts]


def _load_worker(
    load: Callable[[], ReportGenerator], out: Path, formats: Sequence[str], seed: int, began: str
) -> Callable[[_Block], tuple[int, Sequence[str]]]:
    """What a worker of a cluster writes parts with; it gives their studies and warnings."""
    generator = load()
    needed = generator.loaded.prepared_size

    def write(block: _Block) -> tuple[int, Sequence[str]]:
        part, studies = block
        done = find_part(out, part.name)  # by a machine that was lost before its answer came
        if done is None:
            read = ((study, read_study(study, needed)) for study in studies)
            with Reporter().progress("", len(studies), "") as advance:
                maker = _PartMaker(generator, formats, seed, began, advance)
                done = write_part(out, maker.fill(part, read))
        return len(studies), done.notes

    return write


def _write_parts(out: Path, parts: Iterable[Part]) -> None:
    """Write each part while the next one is made."""
    pending: deque[Future[DonePart]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for part in parts:
            pending.append(pool.submit(write_part, out, part))
            if len(pending) > _WAITING:
                pending.popleft().result()
        while pending:
            pending.popleft().result()


@dataclass(frozen=True)
class _PartMaker:
    generator: ReportGenerator
    formats: Sequence[str]
    seed: int
    began: str
    advance: Advance
    warn: Callable[[str], None] = lambda _: None

    def fill(self, part: Part, read: Iterator[tuple[ReportStudy, ReadStudy]]) -> Part:
        """Write the reports of a part, batch by batch, as its studies are read."""
        waiting: list[tuple[str, Films, ReadStudy]] = []
        for study, found in islice(read, len(part.studies)):
            for note in found.notes:
                self._note(part, note)
            part.left_out += [(study.id, image, reason) for image, reason in found.left_out]
            if found.films is None:
                part.unread.append(study.id)
                self.advance()
                continue
            waiting.append((study.id, found.films, found))
            if len(waiting) == self.generator.batch_size:
                self._write(part, waiting)
                waiting = []
        if waiting:
            self._write(part, waiting)
        return part

    def _write(self, part: Part, studies: Sequence[tuple[str, Films, ReadStudy]]) -> None:
        batch = [films for _, films, _ in studies]
        reports = self.generator.write_films(batch, seed=self.seed, findings=True)
        for (study, films, read), report in zip(studies, reports, strict=True):
            used = set(report.images)
            row = {
                "study": study,
                **report.as_row(),
                "unused": [str(image) for image in films.images if image not in used],
                "model": self.generator.fingerprint,
                "time": self.began,
            }
            part.rows.append(row)
            whose = zip(films.images, read.identities, strict=True)
            document = Document(row, [own for image, own in whose if image in used])
            if documents := write_documents(self.formats, document, partial(self._note, part)):
                part.documents[study] = documents
        self.advance(len(studies))

    def _note(self, part: Part, note: str) -> None:
        part.notes.append(note)
        self.warn(note)
