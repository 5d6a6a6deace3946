"""Score cross-validated runs on what each held out, all studies together.

Which studies a fold holds out is decided by `radrep.data.store.Fold`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from radrep.atomic import check_output
from radrep.data.study import HELD_OUT
from radrep.errors import DataError
from radrep.evaluation.artifacts import read_reports
from radrep.evaluation.discriminator import (
    DiscriminatorScores,
    classify_split,
    score_discriminator,
)
from radrep.evaluation.eval_set import EvalSet, pool, studies_of_run
from radrep.evaluation.evaluate import (
    Predicted,
    Systems,
    check_request,
    finish,
    predict,
    write_controls,
)
from radrep.evaluation.result import EvalOptions, EvalResult
from radrep.guidance.editing import WrittenReport
from radrep.inference.decode_options import change_decode
from radrep.metrics.names import MODEL
from radrep.progress import Reporter
from radrep.recipe.training import Decode
from radrep.weights.checkpoint import load_checkpoint
from radrep.weights.folds import fold_checkpoints


def evaluate_folds(
    folder: Path,
    *,
    split: str | None = None,
    out: Path | None = None,
    overrides: Sequence[str] = (),
    options: EvalOptions | None = None,
    reporter: Reporter | None = None,
) -> EvalResult:
    """Write and score the reports of the folds, each by the run that held its studies out.

    Controls are fitted fold by fold too. Arguments are those of `evaluate`; the files go to the
    folder of the runs.
    """
    reporter, options = reporter or Reporter(), options or EvalOptions()
    check_request(options, overrides, out or folder)
    written = write_folds(folder, split, overrides, reporter, alone=True)
    systems = Systems(
        written.studies,
        {},
        {MODEL: written.decode},
        [folds_note(written.studies), *written.notes],
        written.controls,
    )
    systems.take(MODEL, written.predicted)
    return finish(systems, out or folder, options, None, reporter, checkpoint=folder)


def folds_note(studies: EvalSet) -> str:
    """What a reader must know of scores over folds."""
    return (
        f"{len(studies.folds)} folds of the training split, by patient: every report is written by "
        "a model that had no study of the patient; so are the controls"
    )


@dataclass
class FoldReports:
    """The reports of cross-validated runs for the studies that they held out, in fold order."""

    studies: EvalSet
    decode: Decode
    predicted: Predicted = field(default_factory=Predicted)
    controls: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def write_folds(
    folder: Path,
    split: str | None,
    overrides: Sequence[str],
    reporter: Reporter,
    *,
    alone: bool = False,
    saved_in: Path | None = None,
) -> FoldReports:
    """Write the reports of every fold.

    Where they are scored `alone`, also those of other inputs, and as edited at other sensitivities.
    With `saved_in` reports that an evaluation left there are read, where they are of now.
    """
    if split not in (None, HELD_OUT):
        raise DataError(
            f"{folder} is cross-validated inside the training split and is scored on what its "
            f"folds held out; leave out --split {split}"
        )
    found: FoldReports | None = None
    parts = []
    checkpoints = fold_checkpoints(folder)
    for checkpoint in checkpoints:
        loaded = load_checkpoint(checkpoint)
        decode, changed = change_decode(loaded.folder, overrides)
        part = studies_of_run(loaded, HELD_OUT, reporter)
        parts.append(part)
        found = found or FoldReports(part, decode, notes=list(changed))
        saved: dict[str, str] = {}
        if saved_in is not None:
            saved = read_reports(
                saved_in, HELD_OUT, checkpoint=folder, weights=checkpoints, decode=decode
            )
        if set(part.ids) <= saved.keys():
            found.predicted.add(Predicted([WrittenReport(saved[id_]) for id_ in part.ids]))
        else:
            found.predicted.add(predict(loaded, part, decode, reporter, move=alone))
        if alone:
            for name, reports in write_controls(loaded, part, decode, reporter).items():
                found.controls.setdefault(name, []).extend(reports)
    assert found is not None, "there are two folds or more"
    found.studies = pool(parts)
    return found


def evaluate_discriminator_folds(
    folder: Path, *, out: Path | None, reporter: Reporter
) -> DiscriminatorScores:
    """Score discriminators on the images that each held out, all together, label by label."""
    check_output(out or folder, "--out", folder=True, new=False)
    rows, thresholds, num_studies = [], [], 0
    for checkpoint in fold_checkpoints(folder):
        loaded = load_checkpoint(checkpoint)
        own, chosen, num = classify_split(loaded, HELD_OUT, reporter)
        rows += own
        thresholds += [chosen] * len(own)
        num_studies += num
    file = (out or folder) / f"scores-{HELD_OUT}.json"
    return score_discriminator(folder, HELD_OUT, num_studies, rows, np.stack(thresholds), file)
