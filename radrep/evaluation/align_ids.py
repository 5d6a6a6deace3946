"""Outside predictions and their references, matched by id."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from radrep.errors import DataError
from radrep.evaluation.external_predictions import Predictions, ReferenceSet
from radrep.evaluation.report_columns import listed

_WHOLE_NUMBER = re.compile(r"(\d+)\.0")
_MIMIC_STUDY = re.compile(r"s(\d+)")


@dataclass(frozen=True)
class Matched:
    """Predictions in the order of their references.

    Attributes:
        reports: One a reference.
        notes: How they were matched, where that is not plain.
    """

    reports: tuple[str, ...]
    notes: tuple[str, ...]


def match(predictions: Predictions, references: ReferenceSet) -> Matched:
    """Put predictions into the order of their references.

    The kinds of id of both sides are tried until one fits exactly; then once more with "123.0" as
    "123", and with the ids of MIMIC-CXR and CheXpert Plus as tables and as ReXrank write them.
    Predictions for studies without the target text are left aside.

    Raises:
        DataError: If the ids differ, with how many do and which, or if two kinds of id fit and
            give a reference different predictions.
    """
    texts = list(predictions.reports.values())
    for note, spell in _SPELLINGS:
        found: dict[tuple[str, str], tuple[tuple[str, ...], int]] = {}
        for kind, given in predictions.ids_by_kind.items():
            by_id = _index(map(spell, given), texts)
            for wanted_kind, ids in references.ids_by_kind.items():
                wanted = [spell(id_) for id_ in ids]
                bare = set(map(spell, references.without_text.get(wanted_kind, ())))
                distinct = set(wanted)
                if by_id is None or len(distinct) < len(wanted) or not by_id.keys() >= distinct:
                    continue
                others = by_id.keys() - distinct
                if others <= bare:
                    ordered = tuple(by_id[id_] for id_ in wanted)
                    found[kind, wanted_kind] = (ordered, len(others))
        if found:
            return _matched(predictions, references, found, note)
    raise DataError(_difference(predictions, references))


def _matched(
    predictions: Predictions,
    references: ReferenceSet,
    found: Mapping[tuple[str, str], tuple[tuple[str, ...], int]],
    note: str,
) -> Matched:
    (kind, wanted_kind), (reports, num_others) = next(iter(found.items()))
    for (other, other_wanted), (others, _) in found.items():
        if others != reports:
            raise DataError(
                f"{predictions.path}: its {kind} are the {wanted_kind} of the references, and its "
                f"{other} are their {other_wanted}, but not of the same rows; leave the column "
                "that is meant"
            )
    notes = [note] if note else []
    if references.ids_by_kind[wanted_kind] != references.ids:
        notes.append(f"the predictions are matched by the {wanted_kind} of the references")
    if num_others:
        notes.append(f"{num_others} predictions are for studies without the target text: not used")
    return Matched(reports, tuple(notes))


def _difference(predictions: Predictions, references: ReferenceSet) -> str:
    """How the ids differ under the kind and the spelling by which most of them agree."""
    pairs = [
        (kind, wanted_kind, {spell(id_): id_ for id_ in given}, {spell(id_): id_ for id_ in wanted})
        for _, spell in _SPELLINGS
        for kind, given in predictions.ids_by_kind.items()
        for wanted_kind, wanted in references.ids_by_kind.items()
    ]
    kind, wanted_kind, given, wanted = max(pairs, key=lambda pair: len(pair[2].keys() & pair[3]))
    part = f", {references.split}" if references.split else ""
    lines = [
        f"the ids of {predictions.path} ({kind}) are not those of {references.path} "
        f"({references.source}{part}, {wanted_kind}):"
    ]
    known = {*wanted, *references.without_text.get(wanted_kind, ())}
    missing = [id_ for spelled, id_ in wanted.items() if spelled not in given]
    extra = [id_ for spelled, id_ in given.items() if spelled not in known]
    if missing:
        lines.append(f"  {len(missing)} of {len(wanted)} have no prediction: {listed(missing)}")
    if extra:
        lines.append(f"  {len(extra)} of {len(given)} have no reference: {listed(extra)}")
    num_wanted, num_given = len(references.ids), len(predictions.reports)
    if len(wanted) < num_wanted:
        kinds = [kind for kind, ids in references.ids_by_kind.items() if ids == references.ids]
        lines.append(
            f"  the {num_wanted} references have {len(wanted)} different {wanted_kind}; give a "
            f"prediction for each reference, by its {kinds[0]}"
        )
    if len(given) < num_given:
        lines.append(f"  the {num_given} predictions have {len(given)} different {kind}")
    return "\n".join(lines)


def _whole_number(id_: str) -> str:
    """What pandas wrote as a float in a column with missing cells."""
    found = _WHOLE_NUMBER.fullmatch(id_)
    return found[1] if found else id_


def _bare_id(id_: str) -> str:
    """A study of MIMIC-CXR by its number, one of CheXpert Plus as ReXrank has it."""
    id_ = _whole_number(id_)
    found = _MIMIC_STUDY.fullmatch(id_)
    return found[1] if found else id_.replace("/", "_")


# What is said of a spelling, and the spelling.
_SPELLINGS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("", str),
    ("ids such as '123.0' are matched as '123'", _whole_number),
    ("ids are matched as 's123' = '123' and 'patient1/study1' = 'patient1_study1'", _bare_id),
)


def _index(ids: Iterable[str], texts: Sequence[str]) -> dict[str, str] | None:
    """Report by id, or None if one id has two of them."""
    found: dict[str, str] = {}
    for id_, text in zip(ids, texts, strict=True):
        if found.setdefault(id_, text) != text:
            return None
    return found
