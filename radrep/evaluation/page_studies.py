"""The studies of an evaluation's page: best, median and worst, with attention heatmaps."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter

import numpy as np

from radrep.build import build_selection
from radrep.evaluation.eval_set import batches_of
from radrep.evaluation.result import EvalResult
from radrep.guidance.editing import Sentence, WrittenReport
from radrep.inference.decode import DECODED, explain_reports, report_model
from radrep.inference.guide import Guide, guide_for
from radrep.metrics.labeler import Findings, label_report
from radrep.sections import MARKER
from radrep.viz.figures.heatmap import overlay
from radrep.viz.html.page import (
    AGREE,
    HEADING,
    MISSED,
    NOT_IN_REFERENCE,
    RANKS,
    WRONG_SIDE,
    PageStudy,
    Passage,
)
from radrep.weights.checkpoint import Loaded

_OF_EACH_RANK = 3


def page_studies(result: EvalResult, loaded: Loaded | None) -> list[PageStudy]:
    """Three studies of each rank by the CIDEr of the single report, none of them twice."""
    values = result.card.per_report[result.main]
    order = np.argsort(-values, kind="stable")
    middle = max(0, len(order) // 2 - _OF_EACH_RANK // 2)
    places = {
        "best": order[:_OF_EACH_RANK],
        "worst": order[::-1][:_OF_EACH_RANK],
        "median": order[middle : middle + _OF_EACH_RANK],
    }
    shown: dict[int, str] = {}
    for rank, indices in places.items():
        for index in indices:
            shown.setdefault(int(index), rank)
    guide = DECODED if loaded is None else guide_for(loaded, result.decodes[result.main])
    studies = [
        _study(result, index, rank, float(values[index]), loaded, guide)
        for index, rank in shown.items()
    ]
    return sorted(studies, key=lambda study: RANKS.index(study.rank))


def _study(
    result: EvalResult, index: int, rank: str, score: float, loaded: Loaded | None, guide: Guide
) -> PageStudy:
    prepared = result.studies.prepared
    reference, generated = result.studies.corpus.references[index], result.predictions[index]
    theirs, ours = label_report(reference), label_report(generated)
    written = result.written[index] if result.written else WrittenReport(generated)
    images: Sequence[np.ndarray] = ()
    projections: list[str] = []
    heatmaps: list[np.ndarray] = []
    if prepared is not None:
        study = prepared[index]
        images = prepared.read_images(index)
        projections = [image.projection for image in study.images]
        if loaded is not None:
            _, views = prepared.read_views(index, build_selection(loaded.recipe.data).of)
            images = [image for _, image in views]
            projections = [
                "under its SDAM mask" if view.masked else projections[view.number]
                for view, _ in views
            ]
            decode = result.decodes[result.main]
            alone = slice(index, index + 1)
            (batch,) = batches_of(loaded, prepared, 1, part=alone, num_workers=0)
            train = loaded.recipe.train
            ((_, maps),) = explain_reports(
                report_model(loaded),
                batch,
                loaded.codec,
                decode,
                precision=train.precision,
                seed=train.seed,
                guide=guide,
            )
            if len(maps):  # a language model has none, nor has a training report
                means = maps.mean(axis=0)
                heatmaps = [overlay(i, mean) for i, mean in zip(images, means, strict=True)]
    return PageStudy(
        id=result.studies.ids[index],
        rank=rank,
        score=score,
        images=images,
        projections=projections,
        heatmaps=heatmaps,
        reference=add_headings(passages(reference, theirs, ours, otherwise=MISSED)),
        generated=add_headings(
            mark_edits(
                passages(generated, ours, theirs, otherwise=NOT_IN_REFERENCE), written.sentences
            )
        ),
        source=written.source if len({each.source for each in result.written}) > 1 else "",
        edits=_describe_edits(written),
    )


def mark_edits(found: Sequence[Passage], sentences: Sequence[Sentence]) -> list[Passage]:
    """The passages of an edited report, cut at the sentences that were inserted or shortened."""
    if all(sentence.origin == "generated" for sentence in sentences):
        return list(found)
    edits = [
        "" if sentence.origin == "generated" else sentence.origin
        for sentence in sentences
        for _ in f"{sentence.text} "  # sentences are joined by spaces
    ]
    cut, start = [], 0
    for passage in found:
        letters = zip(passage.text, edits[start : start + len(passage.text)], strict=True)
        for edit, own in groupby(letters, key=itemgetter(1)):
            text = "".join(letter for letter, _ in own)
            cut.append(replace(passage, text=text, edit=edit))
        start += len(passage.text)
    return cut


def add_headings(found: Sequence[Passage]) -> list[Passage]:
    """The passages of a report of two sections, a heading in front of each; of one as they are.

    A decoder may repeat the marker: all but the first are left out, as in scores.
    """
    if not any(MARKER in passage.text for passage in found):
        return list(found)
    headed, ended = [Passage("Findings", HEADING)], False
    for passage in found:
        before, marker, after = ("", "", passage.text) if ended else passage.text.partition(MARKER)
        headed.append(replace(passage, text=before.rstrip() if marker else before))
        if marker:
            headed.append(Passage("Impression", HEADING))
            after = after.lstrip()
        ended = ended or bool(marker)
        headed.append(replace(passage, text=after.replace(MARKER, "")))
    return [passage for passage in headed if passage.text]


def _describe_edits(report: WrittenReport) -> list[str]:
    """A line for each sentence that editing put in, cut or took out."""
    lines = []
    for sentence in report.changes:
        why = sentence.observation
        if sentence.probability is not None:
            why += f", probability {sentence.probability:.2f}"
        lines.append(f"{sentence.origin}: {sentence.text}{f' ({why})' if why else ''}")
    return lines + [f"taken out: {text}" for text in report.removed]


def passages(text: str, own: Findings, other: Findings, *, otherwise: str) -> list[Passage]:
    """Cut a report at its positive findings.

    A finding of both reports is on the wrong side where both name a side and not the same one; one
    that is not positive in the other report is of the kind `otherwise`.
    """
    found: list[Passage] = []
    end = 0
    for mention in own.mentions:
        if mention.state != "positive" or mention.start < end:
            continue  # of mentions that overlap the first stands for all
        name = mention.observation
        here, there = own.sides.get(name), other.sides.get(name)
        kind, side, note = AGREE, mention.side, ""
        if other.states[name] != "positive":
            kind = otherwise
        elif here and there and here != there:
            kind, side, note = WRONG_SIDE, here, f"; {there} in the other report"
        found.append(Passage(text[end : mention.start], "plain"))
        note = f"{name}{f', {side}' if side else ''}{note}"
        found.append(Passage(text[mention.start : mention.end], kind, note))
        end = mention.end
    found.append(Passage(text[end:], "plain"))
    return [passage for passage in found if passage.text]
