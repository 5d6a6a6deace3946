"""The controls that a model is compared with, see `radrep.metrics.names`.

- shuffled: the reports of another study's images: the same reports, permuted over the studies;
- blank-image: the reports that the model writes for black images;
- of a model that reads context, the reports with another study's context, and without any; its
  shuffled control then has another study's images with its own context;
- nearest neighbour and selection: a training report, by image features (`image_controls`);
- constants: one training report for every study, chosen on validation.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from radrep.build import build_preprocess, build_selection
from radrep.data.batch import Batch
from radrep.evaluation.eval_set import EvalSet
from radrep.inference.decode import report_model, write_reports
from radrep.inference.guide import guide_for
from radrep.metrics.baselines import best_constants
from radrep.metrics.names import CONSTANTS, NO_CONTEXT, OTHER_CONTEXT, SHUFFLED
from radrep.metrics.protocol import published_references
from radrep.progress import Reporter
from radrep.recipe.training import Decode
from radrep.weights.checkpoint import Loaded

SHUFFLE_SEED = 0


def shuffled_control(reports: Sequence[str]) -> dict[str, list[str]]:
    """Give every study the report of another one; none where there is one study.

    A report depends on its own images alone, so this is what shuffled images would give.
    """
    if len(reports) < 2:
        return {}
    return {SHUFFLED.name: [reports[other] for other in shuffled_order(len(reports))]}


def context_controls(
    write: Callable[[Callable[[int], int | None]], list[str]], number: int
) -> dict[str, list[str]]:
    """The controls of a model that reads context, written as `ContextReader.source` has it.

    With the context of study k for the images of study s(k), of a permutation s, each report is
    that of another context for s(k), and that of other images for k.
    """
    found: dict[str, list[str]] = {}
    if number > 1:
        images_of = shuffled_order(number)
        mixed = write(partial(_take, np.argsort(images_of).tolist()))
        found[OTHER_CONTEXT.name] = mixed
        found[SHUFFLED.name] = [mixed[other] for other in images_of]
    return found | {NO_CONTEXT.name: write(_no_context)}


def _no_context(index: int) -> None:
    """The context of no study, for any."""


def _take(places: Sequence[int], index: int) -> int:
    return places[index]


def shuffled_order(number: int) -> np.ndarray:
    """For each of so many another one, each once; (number,)."""
    order = np.random.default_rng(SHUFFLE_SEED).permutation(number)
    others = np.empty_like(order)
    others[order] = np.roll(order, 1)
    return others


def write_blank(loaded: Loaded, studies: EvalSet, decode: Decode) -> list[str]:
    """Reports for black images: one for each number of views, shared by its studies.

    They are without context.
    """
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
    written = write_reports(
        model,
        batches,
        loaded.codec,
        decode,
        precision=precision,
        seed=seed,
        guide=guide_for(loaded, decode),
    )
    report = dict(zip(counts, (report.text for _, report in written), strict=True))
    return [report[n] for n in views]


def by_fold(
    control: Callable[[EvalSet, Reporter], dict[str, list[str]]],
    studies: EvalSet,
    reporter: Reporter,
) -> dict[str, list[str]]:
    """The reports of a control for every study; in a cross-validation fitted fold by fold."""
    if not studies.folds:
        return control(studies, reporter)
    found = [control(part, reporter) for part in studies.folds]
    names = [name for name in found[0] if all(name in part for part in found)]
    return {name: [text for part in found for text in part[name]] for name in names}


def constant_reports(studies: EvalSet, reporter: Reporter) -> dict[str, list[str]]:
    """One training report for all studies, chosen on validation; none without both."""
    corpus = studies.corpus
    if corpus.vocabulary is None or not studies.val:
        return {}
    chosen_on = published_references(
        studies.val,
        clean=corpus.clean,
        vocabulary=corpus.vocabulary,
        max_tokens=corpus.max_tokens,
    ).texts
    with reporter.progress("constant baselines", 1, "searches") as advance:
        found = best_constants(corpus.cleaned_train, chosen_on)
        advance()
    reports = {f"constant, best {metric}": constant.report for metric, constant in found.items()}
    return {each.name: [reports[each.name]] * len(studies.ids) for each in CONSTANTS}
