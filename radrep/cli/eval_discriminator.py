"""radrep eval of a discriminator: scores by label."""

from pathlib import Path

from radrep.cli.console import TerminalReporter, say, table

_COLUMNS = {  # short titles, for a terminal of 80 columns
    "known": "num_known", "present": "num_present", "AUROC": "auroc", "AP": "average_precision",
    "Brier": "brier", "ECE": "calibration_error", "above": "threshold", "F1": "f1",
}  # fmt: skip


def show_labels(run: Path, split: str | None, out: Path | None) -> None:
    """Score a discriminator and print one row per label."""
    from radrep.evaluation.discriminator import evaluate_discriminator
    from radrep.evaluation.folds import evaluate_discriminator_folds
    from radrep.metrics.classification import MEASURES
    from radrep.weights.checkpoint import find_checkpoint, load_checkpoint
    from radrep.weights.folds import is_folds

    with TerminalReporter() as reporter:
        if is_folds(run):
            result = evaluate_discriminator_folds(run, out=out, reporter=reporter)
        else:
            loaded = load_checkpoint(find_checkpoint(run))
            result = evaluate_discriminator(loaded, split=split, out=out, reporter=reporter)
    say(f"checkpoint  {result.checkpoint}")
    say(f"split       {result.split}, {result.num_studies} studies, one row per image")
    rows: list[tuple[object, ...]] = [
        (row.name, *(getattr(row, name) for name in _COLUMNS.values()))
        for row in result.scores.rows
    ]
    means = [result.scores.macro(n) if n in MEASURES else None for n in _COLUMNS.values()]
    table(("", *_COLUMNS), [*rows, ("mean of labels", *means)])
    chosen = "validation chose the thresholds"
    if result.split == "val":
        chosen += ", so F1 is optimistic here"
    say(f"AP average precision, ECE calibration error in 15 bins; {chosen}.")
    say(f"Scores:  {result.scores_file}")
