"""Score several systems on the same studies, also reports of other programs."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from radrep.data.dataset import ModelStudies
from radrep.data.text import get_cleaner
from radrep.data.tokenizer import Tokenizer
from radrep.errors import DataError, RadrepError
from radrep.evaluation.artifacts import read_reports
from radrep.evaluation.eval_set import EvalSet, studies_of_run
from radrep.evaluation.evaluate import Systems, check_request, finish, predict
from radrep.evaluation.folds import folds_note, write_folds
from radrep.evaluation.predictions import (
    References,
    align,
    read_predictions,
    read_references,
)
from radrep.evaluation.report_files import ColumnNames
from radrep.evaluation.result import EvalOptions, EvalResult
from radrep.inference.decode_options import change_decode
from radrep.metrics.scorecard import Corpus
from radrep.progress import Reporter
from radrep.recipe.training import Decode
from radrep.weights.checkpoint import Loaded, find_checkpoint, load_checkpoint
from radrep.weights.folds import is_folds
from radrep.weights.run_folder import run_dir

OUT = Path("evaluations")
Skip = Callable[[Path, RadrepError], None]  # of a system that cannot be scored, and why
_LONGEST_NAME = 200  # bytes; most disks take 255


@dataclass(frozen=True)
class Dataset:
    """The published protocol of a data set."""

    cleaner: str
    min_count: int  # of a word in training, to be in the vocabulary
    max_tokens: int  # of a reference, the opening one included
    sources: tuple[str, ...] = ()  # prepared sources that it fits
    id_form: str = r"(?!)"  # of its published annotation


DATASETS = {
    "iu": Dataset("r2gen_iu", 3, 60, ("iu_xray",), r"CXR\d+_"),
    "mimic": Dataset("r2gen_mimic", 10, 100, ("mimic_cxr",), r"[0-9a-f]{8}(-[0-9a-f]{8}){4}$"),
    "chexpert-plus": Dataset("r2gen_mimic", 10, 100, ("chexpert_plus",), r".*patient\d{5}"),
    "plain": Dataset("plain", 1, 100, ("phantom",)),
}


def compare(
    runs: Sequence[Path] = (),
    predictions: Sequence[Path] = (),
    *,
    references: Path | None = None,
    split: str | None = None,
    dataset: str | None = None,
    out: Path | None = None,
    overrides: Sequence[str] = (),
    columns: ColumnNames | None = None,
    options: EvalOptions | None = None,
    reporter: Reporter | None = None,
    skip: Skip | None = None,
) -> EvalResult:
    """Score runs (or checkpoints) and predictions of other programs on the same studies, paired.

    The reports of a run that was evaluated on the split with its present checkpoint are read from
    its predictions file; else they are written now. For None:

    - references: without a run they are needed: a prepared folder, R2Gen's annotation.json or
      another file of reports;
    - split: test, or val where there is no test study;
    - dataset: one of DATASETS, recognised by the ids of the references;
    - out: a folder under evaluations/ named by the systems.

    Overrides change the decoding of every run, as after --set: "decode.beam_size=1". A system that
    cannot be read is handed to `skip`, with the reason, where others can be scored.

    Raises:
        RadrepError: If systems cannot be compared or read, or an override is not of the decoding.
    """
    reporter, options = reporter or Reporter(), options or EvalOptions()
    if runs and references is not None:
        raise DataError(
            "--references goes with --predictions alone: runs are scored on their own data"
        )
    if runs and dataset is not None:
        raise DataError(
            "--dataset goes with --predictions alone: the references of a run are cleaned as for "
            "its training"
        )
    if overrides and not runs:
        raise DataError(
            "--set changes how a run writes its reports, and predictions in a file are written "
            "already; name a run, or leave --set out"
        )
    check_request(options, overrides, out or OUT)
    failures = _Failures(len(runs) + len(predictions), skip)
    if runs:
        systems = _systems_of_runs(runs, split, overrides, reporter, failures)
    elif references is not None:
        wanted = read_references(references, split=split, columns=columns)
        systems = _external_systems(wanted, dataset)
    else:
        raise DataError(
            "predictions need --references: a prepared folder, annotation.json or another file "
            "of reports"
        )
    studies = systems.studies
    if runs and predictions:
        assert studies.prepared is not None, "the studies of a run are prepared"
        folder = studies.prepared.prepared
        wanted = read_references(folder, split=studies.split, target=studies.target)
    for file in predictions:
        with failures.noted(file):
            given = read_predictions(file, target=studies.target, columns=columns)
            reports, notes = align(given, wanted)
            systems.add(file.stem, list(reports), (given.source, *given.notes, *notes))
    systems.notes += failures.notes
    out = out or OUT / _folder_name(systems.reports)
    return finish(systems, out, options, None, reporter)


def _folder_name(systems: Iterable[str]) -> str:
    name = "_vs_".join(re.sub(r"[^\w.-]+", "-", system) for system in systems)
    raw = name.encode()
    if len(raw) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(raw).hexdigest()[:8]
    return f"{raw[: _LONGEST_NAME - 9].decode(errors='ignore')}-{digest}"


class _Failures:
    """Systems that cannot be read; the last of those left must be, and without `skip` every one."""

    def __init__(self, num_left: int, skip: Skip | None) -> None:
        self._num_left, self._skip = num_left, skip
        self.notes: list[str] = []

    @contextmanager
    def noted(self, system: Path) -> Iterator[None]:
        """Note an error of one system, and go on."""
        try:
            yield
        except RadrepError as error:
            self._num_left -= 1
            if self._skip is None or not self._num_left:
                raise
            self._skip(system, error)
            self.notes.append(f"{system} is not compared, since it cannot be scored: {error}")


def _systems_of_runs(
    runs: Sequence[Path],
    split: str | None,
    overrides: Sequence[str],
    reporter: Reporter,
    failures: _Failures,
) -> Systems:
    found: Systems | None = None
    first = runs[0]
    for run in runs:
        with failures.noted(run):
            changed: Sequence[str]
            if is_folds(run):
                of_folds = write_folds(run, split, overrides, reporter, saved_in=run)
                studies, changed, decode = of_folds.studies, of_folds.notes, of_folds.decode
                if found is None:
                    found, first = Systems(studies, notes=[folds_note(studies)]), run
                _check_same(found.studies, studies, first, run)
                reports = [report.text for report in of_folds.predicted.reports]
            else:
                loaded = load_checkpoint(find_checkpoint(run, reporter=reporter))
                decode, changed = change_decode(loaded.folder, overrides)
                studies = studies_of_run(loaded, split, reporter)
                if found is None:
                    found, first = Systems(studies), run
                _check_same(found.studies, studies, first, run)
                reports = _reports_of_run(run, loaded, studies, decode, reporter)
            found.decodes[found.add(str(run), reports, changed)] = decode
    if found is None:
        raise DataError("none of the runs can be scored; predictions alone need --references")
    return found


def _reports_of_run(
    run: Path, loaded: Loaded, studies: EvalSet, decode: Decode, reporter: Reporter
) -> list[str]:
    saved = read_reports(
        run_dir(loaded.folder),
        studies.split,
        checkpoint=loaded.folder,
        weights=[loaded.folder],
        decode=decode,
    )
    if tuple(saved) != studies.ids:
        return [report.text for report in predict(loaded, studies, decode, reporter).reports]
    reporter.info("reports", f"of {run} from its earlier evaluation")
    return list(saved.values())


def _check_same(first: EvalSet, other: EvalSet, first_run: Path, run: Path) -> None:
    if first.split != other.split:
        raise DataError(
            f"{first_run} is scored on {first.split} and {run} on {other.split}: name one --split"
        )
    if first.ids != other.ids:
        ours, theirs = set(first.ids), set(other.ids)
        only = {first_run: sorted(ours - theirs)[:10], run: sorted(theirs - ours)[:10]}
        lonely = [f"only in {name}: {', '.join(ids)}" for name, ids in only.items() if ids]
        how = "; ".join(lonely) or "their order differs"
        raise DataError(
            f"{first_run} and {run} have different studies in {first.split} ({len(ours)} and "
            f"{len(theirs)}), so they cannot be compared: {how}"
        )
    if list(first.corpus.references) != list(other.corpus.references):
        raise DataError(
            f"{first_run} and {run} have the same studies but other reference texts "
            f"({first.target} and {other.target}), so they cannot be compared"
        )


def _external_systems(wanted: References, dataset: str | None) -> Systems:
    """The studies of some references, with no system yet."""
    if not any(re.search(r"\w", text) for text in wanted.reports):
        raise DataError(
            f"{wanted.path}: none of its {len(wanted.reports)} references"
            f"{f' of {wanted.split}' if wanted.split else ''} has a word, so there is nothing to "
            "score against"
        )
    prepared = train = None
    if wanted.path.is_dir():
        prepared = ModelStudies(wanted.path, wanted.split or "test", target="findings")
        train = ModelStudies(wanted.path, "train", target="findings")
    chosen = DATASETS[dataset or _recognise(wanted, prepared)]
    notes = [
        f"references: {wanted.source} {wanted.path}, split {wanted.split or 'none'}, cleaned as "
        f"{chosen.cleaner}",
        *wanted.notes,
    ]
    vocabulary = None
    if wanted.train_reports:
        vocabulary = Tokenizer.build(
            wanted.train_reports, min_count=chosen.min_count, cleaner=chosen.cleaner
        ).vocabulary
    else:
        notes.append(
            "no published protocol: it takes its vocabulary from training reports, and the "
            "references have none"
        )
    corpus = Corpus(
        references=wanted.reports,
        clean=get_cleaner(chosen.cleaner),
        train=wanted.train_reports,
        vocabulary=vocabulary,
        max_tokens=chosen.max_tokens,
    )
    studies = EvalSet(
        split=wanted.split or "",
        ids=wanted.ids,
        corpus=corpus,
        val=wanted.val_reports,
        target="findings",
        prepared=prepared or None,
        train=train or None,
    )
    return Systems(studies, notes=notes)


def _recognise(wanted: References, prepared: ModelStudies | None) -> str:
    """The name of the data set that references are of."""
    for name, dataset in DATASETS.items():
        of_source = prepared and prepared[0].source in dataset.sources
        if of_source or re.match(dataset.id_form, wanted.ids[0]):
            return name
    raise DataError(
        f"{wanted.path}: its ids, such as {wanted.ids[0]!r}, are of no known data set; name with "
        f"--dataset ({', '.join(DATASETS)}) how references are cleaned and cut"
    )
