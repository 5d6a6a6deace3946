"""Score a trained model on a split under every protocol, beside its controls."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations, count
from pathlib import Path
from typing import Literal

import numpy as np

from radrep.atomic import check_output
from radrep.device import best_device
from radrep.evaluation.artifacts import write_evaluation
from radrep.evaluation.controls import (
    by_fold,
    constant_reports,
    context_controls,
    shuffled_control,
    write_blank,
)
from radrep.evaluation.eval_set import EvalSet, batches_of, studies_of_run
from radrep.evaluation.image_controls import image_controls
from radrep.evaluation.result import EvalOptions, EvalResult
from radrep.guidance.editing import WrittenReport
from radrep.inference.decode import report_model, write_reports
from radrep.inference.decode_options import change_decode, check_overrides
from radrep.inference.guide import edit_at_sensitivities, guide_for
from radrep.metrics.labeler.vocabulary import ABNORMAL
from radrep.metrics.names import BLANK, CONTROLS, MODEL
from radrep.metrics.operating_points import FindingRates, rate_findings
from radrep.metrics.protocol import scored_predictions
from radrep.metrics.radeval import ClinicalScores, check_clinical_metrics, score_clinical
from radrep.metrics.scorecard import Corpus, score_card
from radrep.progress import Reporter
from radrep.recipe.training import Decode
from radrep.sections import SECTIONS, TWO_SECTIONS, split_sections, without_marker, without_markers
from radrep.weights.checkpoint import Loaded, find_checkpoint, load_checkpoint
from radrep.weights.run_folder import run_dir

_WITHOUT_METEOR = "METEOR was left out on request (--no-meteor)"


@dataclass
class Systems:
    """Systems to score: their studies, and by name the reports and decoding of each."""

    studies: EvalSet
    reports: dict[str, list[str]] = field(default_factory=dict)
    decodes: dict[str, Decode] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    # Reports of the one run for other inputs, by control.
    controls: dict[str, list[str]] = field(default_factory=dict)
    written: tuple[WrittenReport, ...] = ()  # of the one run
    edited: dict[float, list[str]] = field(default_factory=dict)  # see `Predicted`

    def take(self, name: str, predicted: "Predicted") -> None:
        """The reports of the one run."""
        self.reports[name] = [report.text for report in predicted.reports]
        self.written, self.edited = tuple(predicted.reports), predicted.edited

    def add(self, name: str, reports: list[str], notes: Sequence[str]) -> str:
        """Add a system; return its name, numbered where another one or a control has it."""
        names = chain([name], (f"{name}-{number}" for number in count(2)))
        free = next(each for each in names if each not in self.reports and each not in CONTROLS)
        self.reports[free] = reports
        self.notes += [f"{free}: {note}" for note in notes]
        return free


@dataclass
class Predicted:
    """The reports of a run, and where it edits them how it would at other sensitivities."""

    reports: list[WrittenReport] = field(default_factory=list)
    edited: dict[float, list[str]] = field(default_factory=dict)

    def add(self, other: "Predicted") -> None:
        """Add those of other studies."""
        self.reports += other.reports
        for share, texts in other.edited.items():
            self.edited.setdefault(share, []).extend(texts)


def evaluate(
    checkpoint: Path | None = None,
    *,
    split: str | None = None,
    out: Path | None = None,
    overrides: Sequence[str] = (),
    options: EvalOptions | None = None,
    reporter: Reporter | None = None,
) -> EvalResult:
    """Write the reports of a split and score them.

    For None the checkpoint is that of the newest run under runs/, the split is test, or val where
    there is no test study, and `out` is the run's folder. Overrides change the decoding, as after
    --set: "decode.beam_size=1".

    Raises:
        RadrepError: If checkpoint or data is missing, or an override is not of the decoding.
    """
    reporter, options = reporter or Reporter(), options or EvalOptions()
    folder = find_checkpoint(checkpoint, reporter=reporter)
    out = out or run_dir(folder)
    check_request(options, overrides, out)
    loaded = load_checkpoint(folder)
    decode, changed = change_decode(loaded.folder, overrides)
    studies = studies_of_run(loaded, split, reporter)
    systems = Systems(studies, {}, {MODEL: decode}, changed)
    systems.take(MODEL, predict(loaded, studies, decode, reporter, move=True))
    systems.controls = write_controls(loaded, studies, decode, reporter)
    if loaded.codec.note:
        systems.notes.append(f"language model: {loaded.codec.note}")
    return finish(systems, out, options, loaded, reporter)


def write_controls(
    loaded: Loaded, studies: EvalSet, decode: Decode, reporter: Reporter
) -> dict[str, list[str]]:
    """The reports of a run for black images, and for other context where it reads any."""
    found = {BLANK.name: write_blank(loaded, studies, decode)}
    if not loaded.recipe.data.context or decode.method == "select":  # images alone select
        return found

    def write(context_of: Callable[[int], int | None]) -> list[str]:
        predicted = predict(loaded, studies, decode, reporter, context_of=context_of)
        return [report.text for report in predicted.reports]

    return found | context_controls(write, len(studies.ids))


def check_request(options: EvalOptions, overrides: Sequence[str], out: Path) -> None:
    """Refuse what cannot be done before minutes of work."""
    check_clinical_metrics(options.clinical)
    check_overrides(overrides)
    check_output(out, "--out", folder=True, new=False)


def predict(
    loaded: Loaded,
    studies: EvalSet,
    decode: Decode,
    reporter: Reporter,
    *,
    move: bool = False,
    context_of: Callable[[int], int | None] | None = None,
) -> Predicted:
    """Write the report of every study from its pixels, never from cached features.

    With `move` also as it would be at other sensitivities, where reports are edited. For
    `context_of` see `radrep.data.context`.
    """
    train = loaded.recipe.train
    assert studies.prepared is not None, "the studies of a run are prepared"
    model = report_model(loaded).to(best_device())
    guide = guide_for(loaded, decode, predict=True)
    batches = batches_of(loaded, studies.prepared, decode.batch_size, context_of=context_of)
    name = f"reports for {studies.split}" if context_of is None else "reports for other context"
    with reporter.progress(name, len(studies.ids), "studies") as advance:
        written = write_reports(
            model,
            batches,
            loaded.codec,
            decode,
            precision=train.precision,
            seed=train.seed,
            advance=advance,
            guide=guide,
        )
    assert tuple(id_ for id_, _ in written) == studies.ids, "every study has one report"
    reports = [report for _, report in written]
    return Predicted(reports, edit_at_sensitivities(guide, reports) if move else {})


def finish(
    systems: Systems,
    out: Path,
    options: EvalOptions,
    loaded: Loaded | None,
    reporter: Reporter,
    *,
    checkpoint: Path | None = None,
) -> EvalResult:
    """Score systems beside their controls, paired, and write the files of the evaluation.

    The first system is the main one; `loaded` is its checkpoint where it is one run, `checkpoint`
    the folder of cross-validated runs.
    """
    studies, notes = systems.studies, systems.notes
    clean = studies.corpus.clean if options.clean else None
    scored = {name: scored_predictions(r, clean=clean) for name, r in systems.reports.items()}
    main = next(iter(scored))
    constants = by_fold(constant_reports, studies, reporter)
    controls = shuffled_control(scored[main]) if len(scored) == 1 else {}
    for name, written in systems.controls.items():
        controls[name] = scored_predictions(written, clean=clean)
    controls |= by_fold(image_controls, studies, reporter)
    controls |= constants
    every = {**scored, **controls}
    pairs = [*combinations(scored, 2), *((main, name) for name in controls)]
    own = _by_section(studies, every)
    with reporter.progress("scoring", 1 + len(own), "evaluations") as advance:
        cards = {}
        for name, (corpus, reports) in {"": (studies.corpus, every), **own}.items():
            meteor: Literal["auto", "skip"] = "auto" if options.meteor else "skip"
            cards[name] = score_card(corpus, reports, pairs, meteor=meteor)
            advance()
    card = cards.pop("")
    clinical = ClinicalScores({}, {}, ())
    if options.clinical:
        with reporter.progress("clinical metrics", 1, "evaluations") as advance:
            references = without_markers(studies.corpus.references)
            clinical = score_clinical(references, without_markers(scored[main]), options.clinical)
            advance()
    notes = [*notes, *card.notes, *clinical.notes, *([] if options.meteor else [_WITHOUT_METEOR])]
    result = EvalResult(
        checkpoint=checkpoint if loaded is None else loaded.folder,
        studies=studies,
        main=main,
        systems=every,
        card=card,
        sections=cards,
        constants={
            name: without_marker(texts[0])
            for name, texts in constants.items()
            if len(set(texts)) == 1
        },
        clinical=clinical.values,
        decodes=systems.decodes,
        notes=tuple(dict.fromkeys(notes)),
        predictions=tuple(systems.reports[main]),
        written=systems.written,
        rates=_rates(systems, scored[main]),
        out=out,
    )
    write_evaluation(result, loaded)
    return result


def _by_section(
    studies: EvalSet, systems: Mapping[str, Sequence[str]]
) -> dict[str, tuple[Corpus, dict[str, list[str]]]]:
    """Each section by itself, on the studies that have it; none where reports are one text."""
    if studies.target != TWO_SECTIONS:
        return {}
    found = {}
    for name in SECTIONS:
        corpus, kept = studies.corpus.section(name)
        if kept:
            own = {s: [split_sections(r[i])[name] for i in kept] for s, r in systems.items()}
            found[name] = corpus, own
    return found


def _rates(systems: Systems, reports: Sequence[str]) -> tuple[FindingRates, ...]:
    """Of the one run, where its encoder predicts findings."""
    written = systems.written
    if not written or not all(report.probabilities for report in written):
        return ()
    probabilities = np.array([report.probabilities for report in written])
    references = systems.studies.corpus.references
    return rate_findings(references, reports, ABNORMAL, probabilities, systems.edited)
