"""The findings of a report, one by one: state, side, size, sentence, probability and place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import numpy as np

from radrep.guidance.editing import Origin, Sentence, WrittenReport, split_report
from radrep.metrics.labeler import OBSERVATIONS, Mention, label_report
from radrep.metrics.labeler.sizes import find_size
from radrep.metrics.labeler.vocabulary import NO_FINDING
from radrep.saliency.sdam import MaskSummary

State = Literal["positive", "negative", "uncertain", "not mentioned"]
MapKind = Literal["grad_cam", "attention"]


@dataclass(frozen=True)
class Place:
    """Where the map of a finding is strongest.

    Attributes:
        image: Name of the image.
        x: From its left edge, as a share of its width.
        y: From its upper edge, as a share of its height.
        map: "grad_cam" of a discriminator, or the "attention" of the sentence's words.
        over_mean: The map there over its mean; near 1 the map is flat and the place means nothing.
    """

    image: str
    x: float
    y: float
    map: MapKind
    over_mean: float


@dataclass(frozen=True)
class Finding:
    """An observation that a report names, or that a discriminator predicts and it does not name.

    An observation that is named on both sides by itself is there twice. Sentence and origin are
    empty for "No Finding", which follows from the whole report.
    """

    observation: str
    state: State
    side: str | None  # left, right or bilateral
    size: str | None  # in the words of the report, such as "small" or "8 mm"
    probability: float | None
    sentence: str
    origin: Origin | Literal[""]
    place: Place | None


def find_findings(
    written: WrittenReport,
    images: Sequence[str],
    attention: np.ndarray,
    summaries: Sequence[MaskSummary],
    probabilities: Mapping[str, float],
) -> tuple[Finding, ...]:
    """The findings of a report, in the order of the fourteen observations.

    Args:
        written: The report, with its sentences where it was edited.
        images: The name of each view.
        attention: Of each word of the draft to the patches of each view, (words, views, rows,
            columns); no words for a model without maps.
        summaries: A discriminator's, one per view, with maps at the size of the image; may be
            empty.
        probabilities: By observation, where they are known.
    """
    labels = label_report(written.text)
    found = []
    for name in OBSERVATIONS:
        probability, state = probabilities.get(name), labels.states[name]
        by_grad_cam = None if name == NO_FINDING else _grad_cam(name, images, summaries)
        mentions = [m for m in labels.mentions if (m.observation, m.state) == (name, state)]
        if name == NO_FINDING or state == "absent":
            named = state == "positive"
            if named or any(name in summary.predicted_positive for summary in summaries):
                shown: State = "positive" if named else "not mentioned"
                found.append(Finding(name, shown, None, None, probability, "", "", by_grad_cam))
            continue
        for mention in _one_per_side(mentions):
            sentence = _sentence_at(written, mention.start)
            place, size = None, None
            if state != "negative":
                by_words = partial(_attention, sentence, written.draft, images, attention)
                place, size = by_grad_cam or by_words(), _size(written.text, mention)
            found.append(
                Finding(
                    name,
                    cast(State, state),
                    mention.side,
                    size,
                    probability,
                    sentence.text,
                    sentence.origin,
                    place,
                )
            )
    return tuple(found)


def _one_per_side(mentions: Sequence[Mention]) -> list[Mention]:
    """The first mention of each side; those without one only where there is no other."""
    by_side: dict[str | None, Mention] = {}
    for mention in mentions:
        by_side.setdefault(mention.side, mention)
    if len(by_side) > 1:
        by_side.pop(None, None)
    return list(by_side.values())


def _size(text: str, mention: Mention) -> str | None:
    first, last = mention.sentence
    return find_size(text[first:last], mention.start - first, mention.end - first)


def _sentence_at(written: WrittenReport, place: int) -> Sentence:
    """The sentence of a report in which a place of its text is."""
    start = 0
    for sentence in written.sentences or map(Sentence, split_report(written.text)):
        start = written.text.index(sentence.text, start) + len(sentence.text)
        if place < start:
            return sentence
    raise AssertionError("sentences make up the report")


def _grad_cam(name: str, images: Sequence[str], summaries: Sequence[MaskSummary]) -> Place | None:
    """The peak of a discriminator's map, in the view where it is surest; None for an empty map."""
    if not summaries:
        return None
    view = max(range(len(summaries)), key=lambda k: summaries[k].probabilities[name])
    whole = summaries[view].maps[name]
    return _peak(whole[None], images[view : view + 1], "grad_cam")


def _attention(
    sentence: Sentence, draft: str, images: Sequence[str], attention: np.ndarray
) -> Place | None:
    """The peak of the attention to a sentence that the decoder wrote."""
    start = draft.find(sentence.text)
    if not len(attention) or start < 0 or sentence.origin != "generated":
        return None
    first = len(draft[:start].split())
    words = attention[first : first + len(sentence.text.split())]
    return _peak(words.mean(axis=0), images, "attention")


def _peak(maps: np.ndarray, images: Sequence[str], kind: MapKind) -> Place | None:
    """The strongest place of maps (views, rows, columns)."""
    view, row, column = map(int, np.unravel_index(int(maps.argmax()), maps.shape))
    highest, mean = float(maps[view, row, column]), float(maps.mean())
    if not mean > 0:
        return None
    x, y = (column + 0.5) / maps.shape[2], (row + 0.5) / maps.shape[1]
    return Place(images[view], round(x, 4), round(y, 4), kind, round(highest / mean, 2))
