"""The page of an evaluation: one HTML file without scripts that loads nothing from a network.

page.html lays out the typed scores, page_macros.html and page_style.html inside it.
"""

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from PIL import Image

from radrep.metrics import format as text
from radrep.metrics.labeler.scores import AVERAGES, FIGURES
from radrep.metrics.names import METRICS
from radrep.metrics.operating_points import FindingRates
from radrep.metrics.scorecard import ProtocolScores, Scorecard
from radrep.viz.html.plots import LABEL_SETS, plot_lengths, plot_scores, readable

AGREE, WRONG_SIDE, MISSED, NOT_IN_REFERENCE = "agree", "wrong-side", "missed", "not-in-reference"
HEADING = "heading"  # of a section
KINDS = (HEADING, "plain", AGREE, WRONG_SIDE, MISSED, NOT_IN_REFERENCE)
RANKS = ("best", "median", "worst")
_FINDINGS_COLUMNS = (
    "14 micro f1",
    "14 macro f1",
    "13 micro f1",
    "13 with side micro f1",
    "5 micro f1",
    "5 macro f1",
    "side accuracy",
)
_MAX_SIDE = 384  # pixels
_PROTOCOLS = {  # in the order shown
    "full": "Complete references, cleaned; no word is replaced.",
    "published": "As the R2Gen family scores: rare words of the references become <unk>, and "
    "references are cut to the length of the training targets.",
    "published_llm": "As the R2Gen family scores language models: references are cut to the "
    "length of the training targets in sub-words.",
}


@dataclass(frozen=True)
class Passage:
    """A stretch of a report; the passages of a text in order give the whole text."""

    text: str  # white space included
    kind: str  # one of KINDS
    note: str = ""  # the finding, such as "Cardiomegaly"
    edit: str = ""  # "inserted" or "shortened" in editing


@dataclass(frozen=True)
class PageStudy:
    """One study to show."""

    id: str
    rank: str  # one of RANKS
    score: float  # CIDEr under the full protocol
    images: Sequence[np.ndarray]  # its views, uint8 (h, w) each
    projections: Sequence[str]
    heatmaps: Sequence[np.ndarray]  # the views under theirs, uint8 (h, w, 3) each, or none
    reference: Sequence[Passage]
    generated: Sequence[Passage]
    source: str = ""  # who worded the generated report, where reports of one run differ in it
    edits: Sequence[str] = ()  # how the generated report differs from what the model wrote


@dataclass(frozen=True)
class Page:
    """The content of a page."""

    title: str
    split: str  # "" where there is none
    target: str  # section that was scored
    num_without_text: int  # studies left out because they lack it
    card: Scorecard
    sections: Mapping[str, Scorecard]  # each by itself, where a model writes two
    main: str  # the system that the evaluation is of
    made: str  # how its reports were made; "" where not known
    answer: str  # the conclusion
    evidence: Sequence[tuple[str, Sequence[str]]]  # heading and sentences
    rates: Sequence[FindingRates]  # of findings, empty where none is predicted
    constants: Mapping[str, str]  # by the name of their control
    clinical: Mapping[str, float]
    notes: Sequence[str]  # lines for the reader
    provenance: Mapping[str, Any]  # of the scores; may be nested
    studies: Sequence[PageStudy]
    recipe: str  # YAML, may be empty
    environment: Mapping[str, Any]  # versions and devices of the run


def render_page(page: Page) -> str:
    """The page as one HTML file with its images inside, as text that UTF-8 can hold.

    Raises:
        ValueError: If a rank, a kind or the images of a study are invalid.
    """
    card = page.card
    order = list(_PROTOCOLS)
    protocols = sorted(card.protocols, key=lambda scored: order.index(scored.protocol))
    plots, switches = plot_scores(card, page.main, protocols)
    table = card.findings.tables[page.main]
    html = _template().render(
        page=page,
        card=card,
        main=page.main,
        protocols=[(each, _describe(each, card.num_studies)) for each in protocols],
        plots=plots,
        switches=switches,
        chosen=("m-cider", f"p-{protocols[0].protocol}"),
        lengths=plot_lengths(card, page.main),
        findings_columns=_FINDINGS_COLUMNS,
        label_sets=LABEL_SETS,
        averages=AVERAGES,
        figures=FIGURES,
        most=max(1, *(max(row.in_references, row.in_generated) for row in table)),
        ranks=_by_rank(page.studies),
        provenance=list(_flatten(page.provenance)),
        environment=list(_flatten(page.environment)),
    )
    # A lone surrogate, which JSON can hold and UTF-8 cannot, becomes a character reference.
    return html.encode("utf-8", "xmlcharrefreplace").decode("utf-8")


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("radrep.viz", "html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": text.number,
        "signed": lambda value: text.number(value, signed=True),
        "interval": text.interval,
        "p_value": text.p_value,
        "share": text.share,
        "readable": readable,
        # A word joiner, so that no line ends within "F1-14".
        "title_of": lambda metric: METRICS[metric].title.replace("F1-", "F1-\N{WORD JOINER}"),
        "rate": "{:.2f}".format,
        "line": _line,
        "place": lambda fraction: f"{100 * fraction:.2f}%",
    }
    return environment.get_template("page.html")


def _line(points: Iterable[tuple[float, float]]) -> str:
    """Points of a unit square as those of an SVG of 100 x 100, whose y axis goes down."""
    return " ".join(f"{100 * x:.4g},{100 - 100 * y:.4g}" for x, y in points)


def _describe(scored: ProtocolScores, num_studies: int) -> str:
    about = _PROTOCOLS[scored.protocol]
    if scored.tokenizer:
        about += f" Sub-words of {scored.tokenizer}."
    if scored.num_cut or scored.protocol != "full":
        part = text.share(scored.num_cut / num_studies)
        about += f" It cuts {scored.num_cut} of {num_studies} references ({part})."
    return about


def _by_rank(studies: Sequence[PageStudy]) -> list[tuple[str, list[dict[str, Any]]]]:
    if unknown := {study.rank for study in studies} - {*RANKS}:
        raise ValueError(f"rank must be one of {', '.join(RANKS)}, got {unknown.pop()!r}")
    found = [(rank, [_study(study) for study in studies if study.rank == rank]) for rank in RANKS]
    return [(rank, shown) for rank, shown in found if shown]


def _study(study: PageStudy) -> dict[str, Any]:
    num = len(study.images)
    if len(study.projections) != num or len(study.heatmaps) not in (0, num):
        raise ValueError(
            f"study {study.id}: {num} images, but {len(study.projections)} projections and "
            f"{len(study.heatmaps)} heatmaps"
        )
    pictures = []
    for i, (image, projection) in enumerate(zip(study.images, study.projections, strict=True)):
        pictures.append((f"{projection} view", _embed(image)))
        if study.heatmaps:
            pictures.append((f"{projection} view, heatmap", _embed(study.heatmaps[i])))
    return {
        "id": study.id,
        "score": study.score,
        "pictures": pictures,
        "edits": study.edits,
        "texts": [
            ("Reference", _by_edit(study.reference, never=NOT_IN_REFERENCE)),
            (
                f"Generated, worded by the {study.source}" if study.source else "Generated",
                _by_edit(study.generated, never=MISSED),
            ),
        ],
    }


def _embed(pixels: np.ndarray) -> dict[str, Any]:
    """An image as a data URI of at most _MAX_SIDE pixels, with its size."""
    if pixels.dtype != np.uint8:
        raise ValueError(f"images must be uint8, got {pixels.dtype}")
    picture = Image.fromarray(pixels)
    picture.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    uri = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"uri": uri, "width": picture.width, "height": picture.height}


def _by_edit(passages: Sequence[Passage], *, never: str) -> list[tuple[str, list[dict[str, str]]]]:
    """Passages in a row that were inserted, or shortened, or neither."""
    grouped = groupby(passages, key=lambda passage: passage.edit)
    return [(edit, list(_passages(list(own), never=never))) for edit, own in grouped]


def _passages(passages: Sequence[Passage], *, never: str) -> Iterator[dict[str, str]]:
    """Passages with the white space at their ends outside the marking."""
    for passage in passages:
        if passage.kind not in KINDS or passage.kind == never:
            raise ValueError(
                f"a passage here must be one of {', '.join(k for k in KINDS if k != never)}, "
                f"got {passage.kind!r}"
            )
        start = passage.text[: len(passage.text) - len(passage.text.lstrip())]
        inner = passage.text.strip()
        end = passage.text[len(start) + len(inner) :]
        kind = passage.kind if inner else "plain"
        yield {"start": start, "text": inner, "end": end, "kind": kind, "note": passage.note}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", text.MISSING if value is None else str(value)
