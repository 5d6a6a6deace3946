"""Score a trained model on a split, under every protocol, beside what needs no model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from radrep.build import build_dataset, build_preprocess, build_selection
from radrep.data.batch import Batch
from radrep.data.dataset import in_order
from radrep.device import best_device
from radrep.evaluation.artifacts import check_out, write_evaluation
from radrep.evaluation.eval_set import ScoredStudies, shuffled, studies_of_run
from radrep.inference.decode import report_model, write_reports
from radrep.inference.decode_options import change_decode, check_overrides
from radrep.metrics.names import BLANK, MODEL, NEAREST, SHUFFLED
from radrep.metrics.protocol import scored_predictions
from radrep.metrics.radeval import ClinicalScores, check_clinical_metrics, score_clinical
from radrep.metrics.scorecard import Scorecard, score_card
from radrep.parallel import count_cores
from radrep.progress import Reporter
from radrep.recipe.training import Decode
from radrep.weights.checkpoint import Loaded, find_checkpoint, load_checkpoint, run_dir

WITHOUT_METEOR = "METEOR was left out on request (--no-meteor)"


@dataclass(frozen=True)
class EvalResult:
    """What an evaluation found and where it wrote it.

    Attributes:
        checkpoint: The checkpoint that wrote the reports, None for systems from outside.
        studies: The studies scored.
        main: Name of the system that the evaluation is of, the first of several.
        systems: Name to reports as scored, the main one first.
        card: Their scores.
        constants: The constant reports by the name of the baseline.
        clinical: Scores of the optional package, by our names.
        decodes: How each system decoded that is a run.
        notes: Lines for the reader.
        predictions: Generated reports of the main system, as written.
        scores_file: scores-<split>.json.
        predictions_file: predictions-<split>.jsonl.
        page_file: report.html.
    """

    checkpoint: Path | None
    studies: ScoredStudies
    main: str
    systems: Mapping[str, Sequence[str]]
    card: Scorecard
    constants: Mapping[str, str]
    clinical: Mapping[str, float]
    decodes: Mapping[str, Decode]
    notes: tuple[str, ...]
    predictions: tuple[str, ...]
    scores_file: Path
    predictions_file: Path
    page_file: Path


def evaluate(
    checkpoint: Path | None = None,
    *,
    split: str | None = None,
    out: Path | None = None,
    overrides: Sequence[str] = (),
    clean_predictions: bool = False,
    clinical: Sequence[str] = (),
    meteor: Literal["auto", "skip"] = "auto",
    reporter: Reporter | None = None,
) -> EvalResult:
    """Write the reports of a split and score them.

    Args:
        checkpoint: A checkpoint, a run, or None for the newest run under runs/.
        split: "train", "val" or "test"; by default test, or val where the data has no test study.
        out: Where the scores go; the run's folder, if not given.
        overrides: Changes to the run's decoding, as after --set: "decode.beam_size=1".
        clean_predictions: Put the generated reports through the cleaner too.
        clinical: Names of metrics of `radrep.metrics.radeval`.
        meteor: "auto" computes METEOR if Java runs, "skip" leaves it out.
        reporter: Who is told how it goes.

    Raises:
        CheckpointError: If there is no such checkpoint.
        DataError: If the prepared folder is missing, the split is empty, a metric is unknown or
            `out` cannot be a folder.
        RadrepError: If an override is not of the decoding.
        RecipeError: If an override has a wrong key or value.
    """
    reporter = reporter or Reporter()
    check_clinical_metrics(clinical)
    check_overrides(overrides)
    check_out(out)
    loaded = load_checkpoint(find_checkpoint(checkpoint))
    decode, changed = change_decode(loaded.folder, overrides)
    studies = studies_of_run(loaded, split, reporter)
    predictions = predict(loaded, studies, decode, reporter)
    clean = studies.corpus.clean if clean_predictions else None
    scored = scored_predictions(predictions, clean=clean)
    blank = scored_predictions(_predict_blank(loaded, studies, decode), clean=clean)
    systems = {MODEL: scored, **shuffled_image_control(scored), BLANK.name: blank}
    constants = studies.constants(reporter)
    systems |= baselines(studies, constants, reporter)
    others = [(MODEL, name) for name in systems if name != MODEL]
    with reporter.progress("scoring", 1, "evaluations") as advance:
        card = score_card(studies.corpus, systems, others, meteor=meteor)
        advance()
    found = clinical_scores(studies, scored, clinical, reporter)
    notes = [*changed, *card.notes, *found.notes]
    if meteor == "skip":
        notes.append(WITHOUT_METEOR)
    if loaded.codec.note:
        notes.append(f"language model: {loaded.codec.note}")
    folder = out or run_dir(loaded.folder)
    result = EvalResult(
        checkpoint=loaded.folder,
        studies=studies,
        main=MODEL,
        systems=systems,
        card=card,
        constants=constants,
        clinical=found.values,
        decodes={MODEL: decode},
        notes=tuple(dict.fromkeys(notes)),
        predictions=tuple(predictions),
        scores_file=folder / f"scores-{studies.split}.json",
        predictions_file=folder / f"predictions-{studies.split}.jsonl",
        page_file=folder / "report.html",
    )
    write_evaluation(result, loaded)
    return result


def shuffled_image_control(reports: Sequence[str]) -> dict[str, list[str]]:
    """The system of the same reports dealt to other studies; none where there is one study."""
    return {SHUFFLED.name: shuffled(reports)} if len(reports) > 1 else {}


def baselines(
    studies: ScoredStudies, constants: Mapping[str, str], reporter: Reporter
) -> dict[str, list[str]]:
    """The systems that need no report model: name to reports."""
    systems = {}
    nearest = studies.nearest(reporter)
    if nearest is not None:
        systems[NEAREST.name] = nearest
    return systems | {name: [text] * len(studies.ids) for name, text in constants.items()}


def clinical_scores(
    studies: ScoredStudies, scored: Sequence[str], names: Sequence[str], reporter: Reporter
) -> ClinicalScores:
    """Scores of the optional package for the main system, against raw references."""
    if not names:
        return ClinicalScores({}, {}, ())
    with reporter.progress("clinical metrics", 1, "evaluations") as advance:
        found = score_clinical(studies.corpus.references, scored, names)
        advance()
    return found


def predict(
    loaded: Loaded, studies: ScoredStudies, decode: Decode, reporter: Reporter
) -> list[str]:
    """Write the report of every study from its pixels, never from cached features."""
    recipe = loaded.recipe
    assert studies.prepared is not None, "the studies of a run are prepared"
    model = report_model(loaded).to(best_device())
    dataset = build_dataset(
        recipe,
        studies.prepared,
        preprocess=build_preprocess(recipe.data, model),
        codec=loaded.codec,
    )
    num_workers = min(recipe.data.num_workers, count_cores())
    batches = in_order(dataset, decode.batch_size, num_workers=num_workers)
    with reporter.progress(f"reports for {studies.split}", len(dataset), "studies") as advance:
        written = write_reports(
            model,
            batches,
            loaded.codec,
            decode,
            precision=recipe.train.precision,
            seed=recipe.train.seed,
            advance=advance,
        )
    assert tuple(id_ for id_, _ in written) == studies.ids, "every study has one report"
    return [text for _, text in written]


def _predict_blank(loaded: Loaded, studies: ScoredStudies, decode: Decode) -> list[str]:
    """What the model writes of black images: one report for each number of views."""
    data = loaded.recipe.data
    assert studies.prepared is not None, "the studies of a run are prepared"
    model = report_model(loaded)
    side = loaded.prepared_size
    black = build_preprocess(data, model).evaluate(np.zeros((side, side), np.uint8))
    selection = build_selection(data)
    views = [len(selection.of(study)) for study in studies.prepared]
    counts = sorted(set(views))
    batches = [Batch.of_study(str(n), [black] * n) for n in counts]
    precision, seed = loaded.recipe.train.precision, loaded.recipe.train.seed
    written = write_reports(model, batches, loaded.codec, decode, precision=precision, seed=seed)
    report = dict(zip(counts, (text for _, text in written), strict=True))
    return [report[n] for n in views]
