"""The page of an evaluation: one HTML file that asks nothing of a network or of JavaScript.

What is drawn is laid out as plain values, here and in plots.py; page.html only sets it, with
page_style.html inside it.
"""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from PIL import Image

from radrep.evaluation.conclusion import MINUS, MISSING, interval, judge, number, p_value
from radrep.viz.html.plots import (
    LABEL_SETS,
    METRICS,
    plot_lengths,
    plot_observations,
    plot_scores,
    readable,
)

WRONG_SIDE = "wrong-side"
KINDS = ("plain", "agree", WRONG_SIDE, "missed", "invented")
RANKS = ("best", "median", "worst")
_MAX_SIDE = 384  # pixels
_PROTOCOLS = {  # in the order shown: name, and what it does to the references
    "full": "Complete references, cleaned; no word is replaced.",
    "published": "As the R2Gen family scores: rare words of the references become <unk>, and "
    "references are cut to the length of the training targets.",
    "published_llm": "As the R2Gen family scores language models: references are cut to the "
    "length of the training targets in sub-words.",
}
_AVERAGES = ("micro", "macro", "macro of those that occur", "by report")
_FIGURES = ("precision", "recall", "f1")
_FINDINGS_COLUMNS = {
    "14 micro f1": "14, micro",
    "14 macro f1": "14, macro",
    "13 micro f1": "13, micro",
    "13 macro f1": "13, macro",
    "5 micro f1": "5, micro",
    "5 macro f1": "5, macro",
    "side accuracy": "side accuracy",
}


@dataclass(frozen=True)
class Passage:
    """A stretch of a report; the passages of a text in order give the whole text.

    Attributes:
        text: The stretch, white space included.
        kind: "plain", "agree", "wrong-side" (in both, on another side), "missed" (in references
            only) or "invented" (in generated reports only).
        note: What it is taken for, such as "Cardiomegaly: positive (cue: ...)".
    """

    text: str
    kind: str
    note: str = ""


@dataclass(frozen=True)
class PageStudy:
    """One study to show.

    Attributes:
        id: Its id.
        rank: "best", "median" or "worst".
        score: CIDEr of its report under the full protocol.
        images: Its views, uint8 (h, w) each.
        projections: Their projections.
        heatmaps: The views under their heatmaps, uint8 (h, w, 3) each, or none at all.
        reference: The reference report.
        generated: The generated report.
    """

    id: str
    rank: str
    score: float
    images: Sequence[np.ndarray]
    projections: Sequence[str]
    heatmaps: Sequence[np.ndarray]
    reference: Sequence[Passage]
    generated: Sequence[Passage]


@dataclass(frozen=True)
class Page:
    """What a page tells.

    Attributes:
        title: Such as the name of the run.
        scores: The content of scores-<split>.json.
        studies: Some of each rank.
        recipe: The recipe as YAML, may be empty.
        environment: What the run ran on, may be empty.
    """

    title: str
    scores: Mapping[str, Any]
    studies: Sequence[PageStudy]
    recipe: str
    environment: Mapping[str, Any]


def render_page(page: Page) -> str:
    """The page as one HTML file with its images inside.

    Args:
        page: What it tells.

    Returns:
        Text that UTF-8 can hold.

    Raises:
        ValueError: If a study has a rank, a passage a kind or an image a dtype that is none, or
            images do not match their projections or heatmaps.
    """
    scores = page.scores
    main = scores["model"]
    diversity = scores["diversity"]
    protocols = _protocols(scores)
    html = _template().render(
        page=page,
        scores=scores,
        main=main,
        verdict=judge(scores),
        plots=plot_scores(scores, protocols),
        protocols=[_protocol(name, scores) for name in protocols],
        findings=_findings(scores),
        lengths=plot_lengths(diversity, main),
        variety=_variety(diversity),
        clinical=[(name, number(value)) for name, value in scores.get("clinical", {}).items()],
        ranks=[
            (rank, [_study(study) for study in page.studies if study.rank == rank])
            for rank in _ranks(page.studies)
        ],
        environment=list(_flatten(page.environment)),
        decode=list(_flatten(scores["decode"])),
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
    return environment.get_template("page.html")


def _protocols(scores: Mapping[str, Any]) -> list[str]:
    return [name for name in _PROTOCOLS if name in scores["protocols"]]


def _protocol(name: str, scores: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of one protocol."""
    block = scores["protocols"][name]
    keys = list(block["systems"][0]["scores"])
    num, cut = scores["num_studies"], block["references_cut"]
    about = _PROTOCOLS[name]
    if block["tokenizer"]:
        about += f" Sub-words of {block['tokenizer']}."
    if cut or name != "full":
        about += f" It cuts {cut} of {num} references ({_share(cut / num)})."
    parts = {"seen": block["on_seen"], "unseen": block["on_unseen"]}
    return {
        "name": readable(name),
        "about": about,
        "metrics": [METRICS.get(key, key) for key in keys],
        "systems": [_cells(row, keys) for row in block["systems"]],
        "comparisons": [_compared(row, keys) for row in block["comparisons"]],
        "parts": [
            (system, found)
            for system in (row["name"] for row in block["systems"])
            if (
                found := [
                    (part, [number(values[system].get(key)) for key in keys])
                    for part, values in parts.items()
                    if system in values
                ]
            )
        ],
    }


def _cells(row: Mapping[str, Any], keys: Sequence[str]) -> tuple[str, list[tuple[str, str]]]:
    """A system and its figures, each with its interval."""
    return row["name"], [
        (number(row["scores"].get(key)), interval(row["intervals"].get(key))) for key in keys
    ]


def _compared(
    row: Mapping[str, Any], keys: Sequence[str]
) -> tuple[str, list[tuple[str, str, str]]]:
    cells = []
    for key in keys:
        found = row["differences"].get(key)
        if found is None:
            cells.append((MISSING, "", ""))
            continue
        ends = interval((found["low"], found["high"]))
        cells.append((number(found["value"], signed=True), ends, p_value(found["p_value"])))
    return f"{row['first']} {MINUS} {row['second']}", cells


def _findings(scores: Mapping[str, Any]) -> dict[str, Any]:
    block, main = scores["findings"], scores["model"]
    keys = list(_FINDINGS_COLUMNS)
    own = next(row for row in block["systems"] if row["name"] == main)
    other = block["uncertain_is_positive"].get(main, {})
    averages = []
    for labels, meaning in LABEL_SETS.items():
        for average in _AVERAGES:
            names = [f"{labels} {average} {figure}" for figure in _FIGURES]
            cells = _cells(own, names)[1]
            averages.append((labels, meaning, average, cells, number(other.get(names[-1]))))
    return {
        "columns": list(_FINDINGS_COLUMNS.values()),
        "systems": [_cells(row, keys) for row in block["systems"]],
        "comparisons": [_compared(row, keys) for row in block["comparisons"]],
        "num_sides": block["num_sides"].get(main, 0),
        "averages": averages,
        "bars": plot_observations(block["tables"][main]),
        "table": _observations(block["tables"][main]),
        "other_tables": [
            (system, _observations(rows))
            for system, rows in block["tables"].items()
            if system != main
        ],
    }


def _observations(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[int], list[str]]]:
    """Of each observation its counts and its figures."""
    counts = ("in_references", "in_generated", "right", "uncertain")
    return [
        (row["observation"], [row[key] for key in counts], [number(row[key]) for key in _FIGURES])
        for row in rows
    ]


def _variety(diversity: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    return [
        (
            name,
            f"{row['num_distinct']} of {row['num_reports']}",
            _share(row["most_frequent_share"]),
            row["most_frequent"],
        )
        for name, row in diversity.items()
    ]


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _ranks(studies: Sequence[PageStudy]) -> list[str]:
    for study in studies:
        if study.rank not in RANKS:
            raise ValueError(f"rank must be one of {', '.join(RANKS)}, got {study.rank!r}")
    return [rank for rank in RANKS if any(study.rank == rank for study in studies)]


def _study(study: PageStudy) -> dict[str, Any]:
    num = len(study.images)
    if len(study.projections) != num or len(study.heatmaps) not in (0, num):
        raise ValueError(
            f"study {study.id}: {num} images, but {len(study.projections)} projections and "
            f"{len(study.heatmaps)} heatmaps"
        )
    films = []
    for i, (image, projection) in enumerate(zip(study.images, study.projections, strict=True)):
        films.append((f"{projection} view", _embed(image)))
        if study.heatmaps:
            films.append((f"{projection} view, heatmap", _embed(study.heatmaps[i])))
    return {
        "id": study.id,
        "score": number(study.score),
        "films": films,
        "texts": [
            ("Reference", list(_passages(study.reference, never="invented"))),
            ("Generated", list(_passages(study.generated, never="missed"))),
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
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {
        "uri": f"data:image/jpeg;base64,{data}",
        "width": picture.width,
        "height": picture.height,
    }


def _passages(passages: Sequence[Passage], *, never: str) -> Iterator[dict[str, str]]:
    """Passages with the white space at their ends taken out of the marking."""
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
            yield f"{prefix}{key}", MISSING if value is None else str(value)
