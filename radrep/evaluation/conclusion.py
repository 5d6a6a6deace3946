"""What an evaluation says to one question: does the model see the image, or does it recite?

The words come from the numbers alone. A difference counts where its 95 % interval leaves out zero;
everything else is said to be what chance could give, also where the model has the higher score.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from radrep.metrics.names import CONTROLS, FINDINGS_F1, MODEL, NEAREST, SHUFFLED

CONSTANT = "constant, best "
MINUS, MISSING = "\N{MINUS SIGN}", "\N{EN DASH}"
_SPACE = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Evidence:
    """What speaks for the answer.

    Attributes:
        about: What was tried, in two or three words.
        sentences: What came of it, one sentence a measure.
    """

    about: str
    sentences: Sequence[str]


@dataclass(frozen=True)
class Verdict:
    """An answer in one sentence, and what it rests on."""

    answer: str
    evidence: Sequence[Evidence]


@dataclass(frozen=True)
class Measure:
    """One figure of all systems.

    Attributes:
        name: As a reader knows it, such as "CIDEr".
        key: As the scores know it, such as "cider".
        block: Where it stands: a mapping with "systems" and "comparisons".
    """

    name: str
    key: str
    block: Mapping[str, Any]

    def value(self, system: str) -> float | None:
        """The figure of a system; None where it has none."""
        return self._find(system, "scores")

    def interval(self, system: str) -> Sequence[float] | None:
        """Lower and upper end of its 95 % interval."""
        return self._find(system, "intervals")

    def _find(self, system: str, what: str) -> Any:
        for row in self.block["systems"]:
            if row["name"] == system:
                return row[what].get(self.key)
        return None

    def difference(self, first: str, second: str) -> Mapping[str, float] | None:
        """First minus second, as it was compared study by study; None where it was not."""
        for row in self.block["comparisons"]:
            found = row["differences"].get(self.key)
            if found is None or {row["first"], row["second"]} != {first, second}:
                continue
            if row["first"] == first:
                return dict(found)
            return {
                "value": -found["value"],
                "low": -found["high"],
                "high": -found["low"],
                "p_value": found["p_value"],
            }
        return None

    def relation(self, first: str, second: str) -> str | None:
        """How the first stands to the second.

        Returns:
            "higher", "lower", or "level" where chance could give the difference. Systems that
            were not compared differ where their intervals do not meet; None without intervals.
        """
        difference = self.difference(first, second)
        if difference is not None:
            low, high = difference["low"], difference["high"]
        else:
            ours, theirs = self.interval(first), self.interval(second)
            if ours is None or theirs is None:
                return None
            low, high = ours[0] - theirs[1], ours[1] - theirs[0]
        return "higher" if low > 0 else "lower" if high < 0 else "level"


def judge(scores: Mapping[str, Any]) -> Verdict:
    """Answer the question from CIDEr under the full protocol and from the findings.

    Args:
        scores: The content of a scores file, see `radrep.viz.html.page.Page`.
    """
    measures = [
        Measure("CIDEr", "cider", scores["protocols"]["full"]),
        # A model that calls every study normal names no finding, whatever "No Finding" scores.
        Measure(f"{FINDINGS_F1} without No Finding", "13 micro f1", scores["findings"]),
    ]
    main, num = scores["model"], scores["num_studies"]
    rivals = [name for name in _systems(measures[0]) if name != main and not is_baseline(name)]
    clauses = []
    if rivals:
        clauses.append(_rank(main, rivals, measures[0], num))
    if not rivals or measures[0].value(SHUFFLED.name) is not None:
        clauses.append(_answer(main, measures, num))
    else:
        clauses.append("Whether they see the image was not tried here.")
    return Verdict(" ".join(clauses), list(_evidence(scores, main, rivals, measures)))


def is_baseline(system: str) -> bool:
    """Whether a system is there for comparison: other images, or no model at all."""
    return system in CONTROLS


def number(value: float | None, *, signed: bool = False) -> str:
    """A score as text, three decimals."""
    if value is None:
        return MISSING
    text = f"{abs(value):.3f}"
    if value < 0 and text.strip("0."):
        return MINUS + text
    return "+" + text if signed and text.strip("0.") else text


def interval(ends: Sequence[float] | None) -> str:
    """An interval as text, empty where there is none."""
    return "" if ends is None else f"[{number(ends[0])},{_SPACE}{number(ends[1])}]"


def p_value(value: float) -> str:
    """A p-value as text."""
    if value < 0.001:
        return f"p{_SPACE}<{_SPACE}0.001"
    return f"p{_SPACE}={_SPACE}{value:.{3 if value < 0.01 else 2}f}"


def difference_text(difference: Mapping[str, float]) -> str:
    """A difference with its interval and p-value."""
    ends = interval((difference["low"], difference["high"]))
    value = number(difference["value"], signed=True)
    return f"{value} {ends}, {p_value(difference['p_value'])}"


def _systems(measure: Measure) -> list[str]:
    return [row["name"] for row in measure.block["systems"]]


def _best_constant(measure: Measure) -> str | None:
    """The constant that scores best here, which is the hardest to beat."""
    values = {
        name: value
        for name in _systems(measure)
        if name.startswith(CONSTANT) and (value := measure.value(name)) is not None
    }
    return max(values, key=lambda name: values[name]) if values else None


def _answer(main: str, measures: Sequence[Measure], num_studies: int) -> str:
    subject = "this model" if main == MODEL else main
    words, findings = (measure.relation(main, SHUFFLED.name) for measure in measures)
    sees = "higher" in (words, findings)
    partly = False  # then the sentence has its "but" already
    if words is None and findings is None:
        image = f"whether {subject} sees the image was not tried here"
    elif not sees:
        image = f"nothing here shows that {subject} sees the image"
    elif words != "higher" and words is not None:
        image = f"{subject} names findings by the image, but its wording does not show it"
        partly = True
    elif findings != "higher" and findings is not None:
        image = f"{subject} chooses words by the image, but its findings do not show it"
        partly = True
    else:
        image = f"{subject} sees the image"
    beside = _beside_baselines(main, measures, num_studies, sees)
    if partly:
        beside = re.sub("^, (but|and) ", "; ", beside)
    if not (sees and main != MODEL):  # a name keeps its case
        image = image[0].upper() + image[1:]
    return f"{image}{beside}."


def _beside_baselines(main: str, measures: Sequence[Measure], num_studies: int, sees: bool) -> str:
    """The second half of the answer, from its comma on."""
    relations = [dict(_baselines(main, measure)) for measure in measures]
    if not relations[0]:
        return ""
    name = measures[0].name
    better = [noun for noun, relation in relations[0].items() if relation == "lower"]
    level = [noun for noun, relation in relations[0].items() if relation == "level"]
    if better or level:
        parts = []
        if better:
            verb = "scores" if len(better) == 1 else "both score"
            parts.append(f"{' and '.join(better)} {verb} higher")
        if level:
            verb = "does" if len(level) == 1 else "both do"
            parts.append(f"{' and '.join(level)} {verb} as well")
        limit = f", as far as {num_studies} studies can tell" if level else ""
        return f"{', but' if sees else ', and'} {' and '.join(parts)} in {name}{limit}"
    beaten = f"{', and' if sees else ', though'} it scores higher than every baseline"
    if any(relation != "higher" for relation in relations[1].values()):
        return f"{beaten} in {name}, but not in {measures[1].name}"
    return beaten


def _baselines(main: str, measure: Measure) -> Iterator[tuple[str, str]]:
    """What needs no model: what it is, and how the main system stands to it."""
    constant = _best_constant(measure)
    for noun, system in (
        ("one constant report", constant),
        ("copying the nearest training study’s report", NEAREST.name),
    ):
        if system is not None and (relation := measure.relation(main, system)) is not None:
            yield noun, relation


def _rank(main: str, rivals: Sequence[str], measure: Measure, num_studies: int) -> str:
    parts = []
    for rival in rivals:
        relation = measure.relation(main, rival)
        if relation in ("higher", "lower"):
            parts.append(f"{main} scores {relation} than {rival} in {measure.name}")
        elif relation == "level":
            parts.append(f"{num_studies} studies cannot tell {main} from {rival} in {measure.name}")
    return "; ".join(parts) + "." if parts else f"{main} was scored beside {', '.join(rivals)}."


def _evidence(
    scores: Mapping[str, Any], main: str, rivals: Sequence[str], measures: Sequence[Measure]
) -> Iterator[Evidence]:
    if measures[0].value(SHUFFLED.name) is not None:
        sentences = [s for m in measures if (s := _shuffling(main, m))]
        yield Evidence("Images shuffled", sentences)
    for rival in rivals:
        yield Evidence(rival, [s for m in measures if (s := _against(main, rival, "it", m))])
    constants = [(_best_constant(measure), measure) for measure in measures]
    if any(name for name, _ in constants):
        sentences = [
            sentence
            for name, measure in constants
            if name and (sentence := _against(main, name, "the constant", measure))
        ]
        yield Evidence("Best constant report", sentences)
    if measures[0].value(NEAREST.name) is not None:
        sentences = [s for m in measures if (s := _against(main, NEAREST.name, "the neighbour", m))]
        yield Evidence("Nearest neighbour", sentences)
    if (variety := scores["diversity"].get(main)) is not None:
        count, total = variety["num_distinct"], variety["num_reports"]
        reports = "report" if count == 1 else "distinct reports"
        sentence = f"{count} {reports} for {total} studies; the commonest goes to "
        yield Evidence("Variety", [f"{sentence}{100 * variety['most_frequent_share']:.1f} %."])


def _shuffling(main: str, measure: Measure) -> str | None:
    own, other = measure.value(main), measure.value(SHUFFLED.name)
    if own is None or other is None:
        return None
    if number(own) == number(other):
        moves = f"stays at {number(own)}"
    else:
        moves = f"{'falls' if other < own else 'rises'} from {number(own)} to {number(other)}"
    name = measure.name[0].upper() + measure.name[1:]
    difference = measure.difference(main, SHUFFLED.name)
    if difference is None:
        return f"{name} {moves}; the two were not compared study by study."
    gave = f"{name} {moves}: the image gave {difference_text(difference)}"
    if measure.relation(main, SHUFFLED.name) == "level":
        return f"{gave}, which chance alone could give."
    return f"{gave}."


def _against(main: str, system: str, noun: str, measure: Measure) -> str | None:
    own, other = measure.value(main), measure.value(system)
    if own is None or other is None:
        return None
    name = measure.name[0].upper() + measure.name[1:]
    who = "model" if main == MODEL else main
    told = f"{name} {number(other)}"
    if system.startswith(CONSTANT):
        told += f" ({system})"
    told += f" against the {who}’s {number(own)}"
    difference = measure.difference(main, system)
    if difference is None:
        return f"{told}; the two were not compared study by study."
    end = {
        "higher": f"the {who} is better",
        "lower": f"{noun} is better",
        "level": "chance alone could give the difference",
    }[str(measure.relation(main, system))]
    return f"{told}: {end} ({difference_text(difference)})."
