"""The labeler beside the labels that people gave the same reports: a table, Rad-ReStruct."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from radrep.atomic import atomic_file, check_output
from radrep.data.manifest import read_shards
from radrep.data.store import PreparedStudies
from radrep.data.study import Study
from radrep.data.text import target_text
from radrep.errors import DataError
from radrep.metrics.labeler import OBSERVATIONS, Findings, label_report
from radrep.metrics.labeler.agreement import Agreement, count_agreement
from radrep.preparation.sources.iu_xray.rad_restruct import RadReStruct
from radrep.progress import Reporter
from radrep.training.labels import LabelReader


@dataclass(frozen=True)
class LabelComparison:
    """Agreement over a split, and how many of its studies disagree."""

    vocabulary: str  # of the given labels, see LabelReader
    num_compared: int
    num_without: int  # studies without a given label that is certain
    num_disagreeing: int
    rows: tuple[Agreement, ...]


def compare_labels(
    prepared: Path,
    split: str,
    out: Path,
    *,
    rad_restruct: Path | None = None,
    reporter: Reporter | None = None,
) -> LabelComparison:
    """Compare the labeler's reading of a split's reports with the labels that they were given.

    Those are the labels of the prepared folder or, with the folder `rad_restruct`, Rad-ReStruct's.
    `out` gets one line of JSON for each study on which the two differ in an observation that is
    known to be there or not; the labeler's uncertain counts as not there.

    Raises:
        DataError: If no study has a given label, or Rad-ReStruct is given ids not of IU X-Ray.
    """
    reporter = reporter or Reporter()
    studies: Sequence[Study] = PreparedStudies(prepared, split, target="both")
    check_output(out, "--out", folder=False, new=False)
    named_by: Iterable[Study]
    if rad_restruct is not None:
        named_by = studies = _with_topics(studies, RadReStruct(rad_restruct), reporter)
        lacking = f"{rad_restruct} has a report of none of the {len(studies)} studies of {split}"
    else:
        # Which observations a table knows is decided by all of it, not by a small split.
        shown = [part for part in dict.fromkeys(("train", split)) if read_shards(prepared, part)]
        named_by = chain.from_iterable(PreparedStudies(prepared, part) for part in shown)
        lacking = f"{prepared}: no study of {split} has labels beside its report"
    if not any(study.labels for study in studies):
        raise DataError(
            f"{lacking}, so that there is nothing to compare with. IU X-Ray gets labels where it "
            "is prepared with Open-i's XML or Kaggle's table, or from a clone of Rad-ReStruct with "
            "--rad-restruct"
        )
    given_labels = LabelReader(named_by, source="table", uncertain="ignore")
    reports: list[Findings] = []
    labels: list[np.ndarray] = []
    num_disagreeing = 0
    with (
        atomic_file(out) as partial,
        partial.open("w", encoding="utf-8") as file,
        reporter.progress("labels", len(studies), "studies") as advance,
    ):
        for study in studies:
            advance()
            given = given_labels(study)
            if np.isnan(given).all():
                continue
            text = target_text(study.sections, "both")
            found = label_report(text)
            reports.append(found)
            labels.append(given)
            if differing := _differing(found, given):
                num_disagreeing += 1
                row = {
                    "id": study.id,
                    "differ": differing,
                    "given_labels": [name for name, value in study.labels.items() if value == 1],
                    "labeler_reads": found.explain(text),
                    "report": text,
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return LabelComparison(
        given_labels.vocabulary,
        len(reports),
        len(studies) - len(reports),
        num_disagreeing,
        count_agreement(reports, np.reshape(labels, (-1, len(OBSERVATIONS)))),
    )


def _with_topics(
    studies: Sequence[Study], structured: RadReStruct, reporter: Reporter
) -> list[Study]:
    """The studies with the topics of Rad-ReStruct for labels; it is of some 4,000 at most."""
    found = []
    with reporter.progress("structured reports", len(studies), "studies") as advance:
        for study in studies:
            found.append(replace(study, labels=structured.labels(study.id)))
            advance()
    return found


def _differing(found: Findings, given: np.ndarray) -> dict[str, dict[str, str]]:
    """By observation, what each has of those on which they differ."""
    return {
        name: {"given": "positive" if value else "absent", "labeler": found.states[name]}
        for name, value in zip(OBSERVATIONS, given.tolist(), strict=True)
        if value in (0, 1) and (value == 1) != (found.states[name] == "positive")
    }
