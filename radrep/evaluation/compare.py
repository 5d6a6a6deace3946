"""Score several systems on the same studies, or systems from outside by their predictions."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Literal

from radrep.data.dataset import ModelStudies
from radrep.data.text import get_cleaner
from radrep.data.tokenizer import Tokenizer
from radrep.errors import DataError
from radrep.evaluation.align_ids import match
from radrep.evaluation.artifacts import check_out, write_evaluation
from radrep.evaluation.conclusion import is_baseline
from radrep.evaluation.eval_set import ScoredStudies, studies_of_run
from radrep.evaluation.evaluate import (
    WITHOUT_METEOR,
    EvalResult,
    baselines,
    clinical_scores,
    predict,
    shuffled_image_control,
)
from radrep.evaluation.external_predictions import ReferenceSet, read_predictions, read_references
from radrep.inference.decode_options import change_decode, check_overrides
from radrep.metrics.protocol import scored_predictions
from radrep.metrics.radeval import check_clinical_metrics
from radrep.metrics.scorecard import Corpus, score_card
from radrep.progress import Reporter
from radrep.recipe.training import Decode
from radrep.weights.checkpoint import WEIGHTS, Loaded, find_checkpoint, load_checkpoint, run_dir

OUT = Path("evaluations")
_LONGEST_NAME = 200  # bytes; most disks take 255


@dataclass(frozen=True)
class Dataset:
    """What the published protocol of a data set takes.

    Attributes:
        cleaner: Name of the cleaner.
        min_count: How often a word is seen in training to be in the vocabulary.
        max_tokens: Length of the references in ids, the opening one included.
        sources: Names of prepared sources that it fits.
        id_form: A pattern that the ids of its published annotation match.
    """

    cleaner: str
    min_count: int
    max_tokens: int
    sources: tuple[str, ...] = ()
    id_form: str = r"(?!)"


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
    clean_predictions: bool = False,
    clinical: Sequence[str] = (),
    meteor: Literal["auto", "skip"] = "auto",
    reporter: Reporter | None = None,
) -> EvalResult:
    """Score runs and predictions of outside systems on the same studies, paired.

    The reports of a run that was evaluated on the split with its present checkpoint are read from
    its predictions file; else they are written now.

    Args:
        runs: Runs or checkpoints.
        predictions: Files of outside systems.
        references: What outside systems are scored against when there is no run: a prepared
            folder, R2Gen's annotation.json or another file of reports.
        split: "train", "val" or "test"; by default test, or val where there is no test study.
        dataset: One of DATASETS, which says how references are cleaned; by default recognised by
            the references.
        out: Where the scores go; by default a folder under evaluations/ named by the systems.
        overrides: Changes to the decoding of every run, as after --set: "decode.beam_size=1".
        clean_predictions: Put the generated reports through the cleaner too.
        clinical: Names of metrics of `radrep.metrics.radeval`, for the first system.
        meteor: "auto" computes METEOR if Java runs, "skip" leaves it out.
        reporter: Who is told how it goes.

    Raises:
        DataError: If ids or references differ between systems, a file cannot be read, or it
            cannot be told what the references are.
        CheckpointError: If there is no such checkpoint.
        RadrepError: If an override is not of the decoding.
        RecipeError: If an override has a wrong key or value.
    """
    reporter = reporter or Reporter()
    check_clinical_metrics(clinical)
    check_overrides(overrides)
    check_out(out)
    _check_asked(runs, references, dataset, overrides)
    if runs:
        found = _reports_of_runs(runs, split, overrides, reporter)
        asked = _references_of(found.studies) if predictions else None
    else:
        assert references is not None, "checked above"
        asked = read_references(references, split=split)
        found = _outside_studies(asked, dataset)
    if asked is not None:
        _add_predictions(found, predictions, asked)
    studies, written = found.studies, found.written
    clean = studies.corpus.clean if clean_predictions else None
    scored = {name: scored_predictions(reports, clean=clean) for name, reports in written.items()}
    main = next(iter(scored))
    constants = studies.constants(reporter)
    others = baselines(studies, constants, reporter)
    if len(scored) == 1:
        others = {**shuffled_image_control(scored[main]), **others}
    pairs = [*combinations(scored, 2), *((main, name) for name in others)]
    with reporter.progress("scoring", 1, "evaluations") as advance:
        card = score_card(studies.corpus, {**scored, **others}, pairs, meteor=meteor)
        advance()
    learned = clinical_scores(studies, scored[main], clinical, reporter)
    notes = [*found.notes, *card.notes, *learned.notes]
    if meteor == "skip":
        notes.append(WITHOUT_METEOR)
    folder = out or OUT / _folder_name(scored)
    name = studies.split or "all"
    result = EvalResult(
        checkpoint=None,
        studies=studies,
        main=main,
        systems={**scored, **others},
        card=card,
        constants=constants,
        clinical=learned.values,
        decodes=found.decodes,
        notes=tuple(dict.fromkeys(notes)),
        predictions=tuple(written[main]),
        scores_file=folder / f"scores-{name}.json",
        predictions_file=folder / f"predictions-{name}.jsonl",
        page_file=folder / "report.html",
    )
    write_evaluation(result, None)
    return result


def _folder_name(systems: Iterable[str]) -> str:
    name = "_vs_".join(re.sub(r"[^\w.-]+", "-", system) for system in systems)
    raw = name.encode()
    if len(raw) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(raw).hexdigest()[:8]
    return f"{raw[: _LONGEST_NAME - 9].decode(errors='ignore')}-{digest}"


def _check_asked(
    runs: Sequence[Path], references: Path | None, dataset: str | None, overrides: Sequence[str]
) -> None:
    if bool(runs) == (references is not None):
        raise DataError(
            "outside predictions need --references: a prepared folder, annotation.json or another "
            "file of reports"
            if not runs
            else "--references goes with --predictions alone: runs are scored on their own data"
        )
    if runs and dataset is not None:
        raise DataError(
            "--dataset goes with --predictions alone: the references of a run are cleaned as for "
            "its training"
        )
    if overrides and not runs:
        raise DataError(
            "--set changes how a run writes its reports, and outside predictions are written "
            "already; name a run, or leave --set out"
        )


@dataclass
class _Collected:
    """The studies, and by the name of each system its reports and, for runs, its decoding."""

    studies: ScoredStudies
    written: dict[str, list[str]] = field(default_factory=dict)
    decodes: dict[str, Decode] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def free_name(self, name: str) -> str:
        """The name, numbered where another system or a baseline has it."""
        free, number = name, 2
        while free in self.written or is_baseline(free):
            free, number = f"{name}-{number}", number + 1
        return free


def _reports_of_runs(
    runs: Sequence[Path], split: str | None, overrides: Sequence[str], reporter: Reporter
) -> _Collected:
    found: _Collected | None = None
    for run in runs:
        loaded = load_checkpoint(find_checkpoint(run))
        decode, changed = change_decode(loaded.folder, overrides)
        studies = studies_of_run(loaded, split, reporter)
        found = found or _Collected(studies)
        _check_same(found.studies, studies, runs[0], run)
        name = found.free_name(str(run))
        found.written[name] = _reports_of_run(run, loaded, studies, decode, reporter)
        found.decodes[name] = decode
        found.notes += [f"{name}: {note}" for note in changed]
    assert found is not None, "there is a run"
    return found


def _reports_of_run(
    run: Path, loaded: Loaded, studies: ScoredStudies, decode: Decode, reporter: Reporter
) -> list[str]:
    folder = run_dir(loaded.folder)
    scores, file = (
        folder / f"{what}-{studies.split}.{form}"
        for what, form in (("scores", "json"), ("predictions", "jsonl"))
    )
    if scores.is_file() and file.is_file():
        told = json.loads(scores.read_text(encoding="utf-8"))
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        newer = scores.stat().st_mtime >= (loaded.folder / WEIGHTS).stat().st_mtime
        if (
            newer
            and told.get("checkpoint") == str(loaded.folder)
            and told.get("decode") == decode.model_dump()
            and tuple(row["id"] for row in rows) == studies.ids
        ):
            reporter.info("reports", f"of {run} from {file}")
            return [row["generated"] for row in rows]
    return predict(loaded, studies, decode, reporter)


def _add_predictions(found: _Collected, files: Sequence[Path], asked: ReferenceSet) -> None:
    for file in files:
        given = read_predictions(file, target=found.studies.target)
        matched = match(given, asked)
        name = found.free_name(file.stem)
        found.written[name] = list(matched.reports)
        found.notes += [f"{name}: {note}" for note in (given.source, *given.notes, *matched.notes)]


def _check_same(first: ScoredStudies, other: ScoredStudies, first_run: Path, run: Path) -> None:
    """Two runs must be scored on the same studies and texts to be compared."""
    if first.split != other.split:
        raise DataError(
            f"{first_run} is scored on {first.split} and {run} on {other.split}: name one --split"
        )
    ours, theirs = set(first.ids), set(other.ids)
    if first.ids != other.ids:
        lonely = [
            f"only in {name}: {', '.join(sorted(ids)[:10])}"
            for name, ids in ((first_run, ours - theirs), (run, theirs - ours))
            if ids
        ]
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


def _references_of(studies: ScoredStudies) -> ReferenceSet:
    """The references of a run's split, to match outside predictions with."""
    assert studies.prepared is not None, "the studies of a run are prepared"
    return read_references(studies.prepared.prepared, split=studies.split, target=studies.target)


def _outside_studies(asked: ReferenceSet, dataset: str | None) -> _Collected:
    """Studies to score outside systems on."""
    if not any(re.search(r"\w", text) for text in asked.reports):
        raise DataError(
            f"{asked.path}: none of its {len(asked.reports)} references"
            f"{f' of {asked.split}' if asked.split else ''} has a word, so there is nothing to "
            "score against"
        )
    prepared = train = None
    if asked.path.is_dir():
        prepared = ModelStudies(asked.path, asked.split or "test", target="findings")
        train = ModelStudies(asked.path, "train", target="findings")
    name = dataset or _recognise(asked, prepared)
    chosen = DATASETS[name]
    notes = [
        f"references: {asked.source} {asked.path}, split {asked.split or 'none'}, cleaned as "
        f"{chosen.cleaner}",
        *asked.notes,
    ]
    vocabulary = None
    if asked.train_reports:
        vocabulary = Tokenizer.build(
            asked.train_reports, min_count=chosen.min_count, cleaner=chosen.cleaner
        ).vocabulary
    else:
        notes.append(
            "no published protocol: it takes its vocabulary from training reports, and the "
            "references have none"
        )
    corpus = Corpus(
        references=asked.reports,
        clean=get_cleaner(chosen.cleaner),
        train=asked.train_reports,
        vocabulary=vocabulary,
        max_tokens=chosen.max_tokens,
    )
    studies = ScoredStudies(
        split=asked.split or "",
        ids=asked.ids,
        corpus=corpus,
        val=asked.val_reports,
        target="findings",
        prepared=prepared if prepared else None,
        train=train if train else None,
    )
    return _Collected(studies, notes=notes)


def _recognise(asked: ReferenceSet, prepared: ModelStudies | None) -> str:
    """The name of the data set that references are of."""
    for name, dataset in DATASETS.items():
        if prepared and prepared[0].source in dataset.sources:
            return name
        if re.match(dataset.id_form, asked.ids[0]):
            return name
    raise DataError(
        f"{asked.path}: its ids, such as {asked.ids[0]!r}, are of no data set known here; say with "
        f"--dataset ({', '.join(DATASETS)}) how references are cleaned and cut"
    )
