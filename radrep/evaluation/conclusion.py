"""The conclusion of an evaluation: does the model use the image, and does it beat its controls?

Every sentence stands in one of the tables below; only names and numbers are filled in. A
difference counts where its 95 % bootstrap interval excludes zero.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from radrep.metrics.format import difference, number, share
from radrep.metrics.names import (
    CONSTANTS,
    CONTROLS,
    FINDINGS_F1,
    MODEL,
    NEAREST,
    NO_CONTEXT,
    OTHER_CONTEXT,
    SELECTION,
    SHUFFLED,
)
from radrep.metrics.scorecard import Scorecard, ScoreTable

# By what is higher than in the shuffled control: CIDEr, and findings F1. None is not compared.
_USES_IMAGE = {
    (True, True): "{Who} uses the image.",
    (True, False): "{Who} uses the image for its wording, but not measurably for its findings.",
    (False, True): "{Who} uses the image for its findings, but not measurably for its wording.",
    (False, False): "There is no evidence that {who} uses the image.",
    None: "Whether {who} uses the image was not tested.",
}
# By what is higher than with another study's context.
_USES_CONTEXT = {
    (True, True): "It uses the context of the study.",
    (True, False): "It uses the context of the study for its wording, but not measurably for its "
    "findings.",
    (False, True): "It uses the context of the study for its findings, but not measurably for its "
    "wording.",
    (False, False): "There is no evidence that it uses the context of the study.",
}
# By how the model stands to the controls that need no model.
_CONTROLS = {
    "beats all": "It scores higher than every baseline.",
    "beats all in words": "It scores higher than every baseline in {words}, but not in {findings}.",
    "lower": "It scores lower in {words} than {names}.",
    "level": "No significant difference in {words} over {num} studies to {names}.",
    "selects": "So there is no evidence that it does more than choose among training reports.",
}
_SELECTED = "the training report that image features select"
_RIVALS = {
    "higher": "{main} scores higher than {rival} in {words}.",
    "lower": "{main} scores lower than {rival} in {words}.",
    "level": "{main} and {rival} do not differ significantly in {words} over {num} studies.",
    None: "{main} and {rival} were scored without intervals.",
}
_EVIDENCE = "{metric} {own} vs {theirs} ({name}): {difference}{note}."
_NOTES = {"level": ", not significant", "higher": "", "lower": ""}
_DIVERSITY = "{distinct} distinct reports for {num} studies; the most frequent one: {share}."


@dataclass(frozen=True)
class Evidence:
    """Numbers behind a conclusion: what was compared, and one sentence per metric."""

    about: str
    sentences: Sequence[str]


@dataclass(frozen=True)
class Conclusion:
    """An answer of a few sentences, and the numbers behind it."""

    answer: str
    evidence: Sequence[Evidence]


@dataclass(frozen=True)
class _Metric:
    title: str
    key: str
    table: ScoreTable

    def relation(self, first: str, second: str) -> str | None:
        return self.table.relation(first, second, self.key)

    def best_constant(self) -> str | None:
        """The constant report that scores best, which is the hardest to beat."""
        values = {c.name: self.table.value(c.name, self.key) for c in CONSTANTS}
        scored = {name: value for name, value in values.items() if value is not None}
        return max(scored, key=lambda name: scored[name]) if scored else None


def conclude(card: Scorecard, main: str) -> Conclusion:
    """Conclude on the system `main` from CIDEr under the full protocol and findings F1."""
    words = _Metric("CIDEr", "cider", card.full)
    # A model that calls every study normal names no finding, whatever "No Finding" scores.
    findings = _Metric(f"{FINDINGS_F1} without No Finding", "13 micro f1", card.findings)
    names = [system.name for system in card.full.systems]
    rivals = [name for name in names if name != main and name not in CONTROLS]
    fill = {"main": main, "words": words.title, "findings": findings.title, "num": card.num_studies}
    sentences = [_RIVALS[words.relation(main, r)].format(rival=r, **fill) for r in rivals]
    if not rivals or SHUFFLED.name in names:
        who = "this model" if main == MODEL else main
        in_words, in_findings = (m.relation(main, SHUFFLED.name) for m in (words, findings))
        used = (in_words == "higher", in_findings == "higher") if in_words or in_findings else None
        capital = who[0].upper() + who[1:] if main == MODEL else who
        sentences.append(_USES_IMAGE[used].format(who=who, Who=capital))
        by_context = [m.relation(main, OTHER_CONTEXT.name) for m in (words, findings)]
        if any(by_context):
            higher = by_context[0] == "higher", by_context[1] == "higher"
            sentences.append(_USES_CONTEXT[higher])
        sentences += _beside_controls(main, words, findings, fill)
    else:
        sentences.append(_USES_IMAGE[None].format(who="any of them"))
    evidence = _evidence(card, main, rivals, (words, findings))
    return Conclusion(" ".join(sentences), tuple(evidence))


def _beside_controls(
    main: str, words: _Metric, findings: _Metric, fill: dict[str, object]
) -> Iterator[str]:
    relations = {
        noun: relation
        for noun, system in (
            ("one constant report", words.best_constant()),
            ("the nearest training study’s report", NEAREST.name),
            (_SELECTED, SELECTION.name),
        )
        if system is not None and (relation := words.relation(main, system)) is not None
    }
    if relations and all(relation == "higher" for relation in relations.values()):
        others = [findings.best_constant(), NEAREST.name, SELECTION.name]
        in_findings = {findings.relation(main, name) for name in others if name} - {None}
        beaten = "beats all" if in_findings <= {"higher"} else "beats all in words"
        yield _CONTROLS[beaten].format(**fill)
    for kind in ("lower", "level"):
        if names := [noun for noun, relation in relations.items() if relation == kind]:
            listed = ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]
            yield _CONTROLS[kind].format(names=listed, **fill)
    selected = relations.get(_SELECTED, "higher"), findings.relation(main, SELECTION.name)
    if "higher" not in selected:
        yield _CONTROLS["selects"]


def _evidence(
    card: Scorecard, main: str, rivals: Sequence[str], metrics: Sequence[_Metric]
) -> Iterator[Evidence]:
    for about, system in (
        (SHUFFLED.title, SHUFFLED.name),
        (OTHER_CONTEXT.title, OTHER_CONTEXT.name),
        (NO_CONTEXT.title, NO_CONTEXT.name),
        *((rival, rival) for rival in rivals),
        ("Best constant report", None),
        (NEAREST.title, NEAREST.name),
        (SELECTION.title, SELECTION.name),
    ):
        compared = [
            _compared(metric, main, name)
            for metric in metrics
            if (name := system or metric.best_constant())
        ]
        if sentences := [sentence for sentence in compared if sentence]:
            yield Evidence(about, sentences)
    if (seen := card.diversity.get(main)) is not None:
        sentence = _DIVERSITY.format(
            distinct=seen.num_distinct, num=seen.num_reports, share=share(seen.most_frequent_share)
        )
        yield Evidence("Diversity", [sentence])


def _compared(metric: _Metric, main: str, other: str) -> str | None:
    own, theirs = metric.table.value(main, metric.key), metric.table.value(other, metric.key)
    if own is None or theirs is None:
        return None
    found = metric.table.difference(main, other, metric.key)
    return _EVIDENCE.format(
        metric=metric.title[0].upper() + metric.title[1:],
        own=number(own),
        theirs=number(theirs),
        name=other,
        difference="not compared by study" if found is None else difference(found),
        note="" if found is None else _NOTES[str(metric.relation(main, other))],
    )
