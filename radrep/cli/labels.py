"""radrep eval of a discriminator: how well it tells each label."""

from pathlib import Path

from radrep.cli.console import TerminalReporter, say, table

_COLUMNS = {
    "known": "num_known",
    "present": "num_present",
    "AUROC": "auroc",
    "AP": "average_precision",
    "Brier": "brier",
    "ECE": "calibration_error",
    "above": "threshold",
    "F1": "f1",
}


def show_labels(run: Path, split: str | None, out: Path | None) -> None:
    """Score a discriminator and print a row a label."""
    from radrep.evaluation.discriminator import evaluate_discriminator
    from radrep.weights.checkpoint import find_checkpoint, load_checkpoint

    with TerminalReporter() as reporter:
        loaded = load_checkpoint(find_checkpoint(run))
        result = evaluate_discriminator(loaded, split=split, out=out, reporter=reporter)
    say(f"checkpoint  {result.checkpoint}")
    say(f"split       {result.split}, {result.num_studies} studies, an image a row")
    rows: list[tuple[object, ...]] = [
        (row.name, *(getattr(row, name) for name in _COLUMNS.values()))
        for row in result.scores.rows
    ]
    means = [
        None if name in ("num_known", "num_present", "threshold") else result.scores.macro(name)
        for name in _COLUMNS.values()
    ]
    table(("", *_COLUMNS), [*rows, ("mean of labels", *means)])
    chosen = "validation chose the thresholds"
    if result.split == "val":
        chosen += ", so that F1 is flattered here"
    say(f"AP average precision, ECE calibration error in 15 bins; {chosen}.")
    say(f"Scores:  {result.scores_file}")
