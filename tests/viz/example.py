"""An evaluation with invented numbers, for the tests of its page."""

from typing import Any

import numpy as np

from radrep.evaluation.conclusion import conclude
from radrep.metrics.bootstrap import Difference, Interval
from radrep.metrics.diversity import Diversity
from radrep.metrics.labeler.scores import LabelCounts
from radrep.metrics.operating_points import FindingRates, Rate
from radrep.metrics.scorecard import (
    Comparison,
    FindingsCard,
    ProtocolScores,
    Scorecard,
    SystemScores,
)
from radrep.viz.html.page import Page, PageStudy, Passage

CONSTANTS = ("constant, best bleu4", "constant, best cider", "constant, best rouge_l")
# CIDEr, and findings F1 over all 14 observations.
SYSTEMS = {
    "model": (0.352, 0.431),
    "shuffled control": (0.124, 0.302),
    "blank-image control": (0.098, 0.287),
    "nearest neighbour": (0.281, 0.418),
    "selection": (0.398, 0.422),
    "constant, best bleu4": (0.266, 0.395),
    "constant, best cider": (0.410, 0.395),
    "constant, best rouge_l": (0.335, 0.395),
}
METRICS = {
    "bleu1": 1.17,
    "bleu2": 0.79,
    "bleu3": 0.58,
    "bleu4": 0.44,
    "meteor": 0.53,
    "rouge_l": 0.98,
    "cider": 1.0,
}
OBSERVATIONS = {
    "No Finding": (104, 171, 83, 0),
    "Enlarged Cardiomediastinum": (9, 0, 0, 4),
    "Cardiomegaly": (40, 12, 5, 3),
    "Lung Lesion": (16, 2, 1, 5),
    "Lung Opacity": (52, 27, 14, 9),
    "Edema": (6, 1, 0, 4),
    "Consolidation": (5, 0, 0, 3),
    "Pneumonia": (4, 0, 0, 12),
    "Atelectasis": (23, 9, 4, 11),
    "Pneumothorax": (2, 0, 0, 0),
    "Pleural Effusion": (17, 6, 3, 5),
    "Pleural Other": (7, 0, 0, 1),
    "Fracture": (12, 0, 0, 1),
    "Support Devices": (21, 8, 6, 0),
}
NORMAL = "the heart is normal in size . the mediastinum is unremarkable . the lungs are clear ."


def make_card(
    systems: dict[str, tuple[float, float]] = SYSTEMS,
    *,
    main: str = "model",
    half_width: float = 0.09,
    compared: bool = True,
) -> Scorecard:
    """A scorecard; intervals and differences reach half_width to both sides."""
    averages = ("micro", "macro", "macro of those that occur", "by report")
    parts = {"micro": 1.0, "macro": 0.34, "macro of those that occur": 0.34, "by report": 0.95}
    words, findings = {}, {}
    for name, (cider, f1) in systems.items():
        words[name] = {metric: cider * part for metric, part in METRICS.items()}
        findings[name] = {
            f"{labels} {average} {figure}": f1 * parts[average] * share
            for labels, share in (("14", 0.9), ("13", 1.0), ("5", 0.4))
            for average in averages
            for figure in ("precision", "recall", "f1")
        }
        findings[name]["13 with side micro f1"] = 0.8 * f1
        findings[name]["side accuracy"] = None if name.startswith("constant") else 0.61
    others = [name for name in systems if name != main] if compared else []
    table = [
        LabelCounts(
            observation=name,
            in_references=ours,
            in_generated=theirs,
            right=right,
            uncertain=uncertain,
            precision=right / theirs if theirs else None,
            recall=right / ours if ours else None,
            f1=2 * right / (ours + theirs) if ours + theirs else None,
        )
        for name, (ours, theirs, right, uncertain) in OBSERVATIONS.items()
    ]
    protocols = [
        ProtocolScores(
            **_table(words, main, others, half_width),
            protocol=protocol,
            tokenizer="",
            num_cut=num_cut,
            on_seen={n: {m: v * 1.6 for m, v in values.items()} for n, values in words.items()},
            on_unseen={n: {m: v * 0.8 for m, v in values.items()} for n, values in words.items()},
        )
        for protocol, num_cut in (("published", 24), ("full", 0))
    ]
    return Scorecard(
        num_studies=295,
        num_seen=55,
        protocols=tuple(protocols),
        findings=FindingsCard(
            **_table(findings, main, others, half_width),
            uncertain_is_positive=findings,
            tables=dict.fromkeys(systems, table),
            num_sides=dict.fromkeys(systems, 31),
        ),
        diversity={
            name: Diversity(
                num_reports=295,
                num_distinct=1 if name.startswith("constant") else 112,
                most_frequent=NORMAL,
                most_frequent_share=1.0 if name.startswith("constant") else 0.122,
                length_ratio=0.93,
                mean_length=31.4,
                min_length=14,
                max_length=59,
                mean_reference_length=33.8,
            )
            for name in systems
        },
        per_report={},
        notes=(),
    )


def _table(
    values: dict[str, dict[str, float | None]], main: str, others: list[str], half_width: float
) -> dict[str, Any]:
    def compare(ours: float, theirs: float) -> Difference:
        value = ours - theirs
        low, high = value - half_width, value + half_width
        p_value = 0.002 if low > 0 or high < 0 else 0.31
        return Difference(value, low, high, p_value, standard_error=(high - low) / 4)

    return {
        "systems": tuple(
            SystemScores(
                name,
                scores,
                {
                    key: Interval(value - half_width, value + half_width, half_width / 2)
                    for key, value in scores.items()
                    if value is not None
                },
            )
            for name, scores in values.items()
        ),
        "comparisons": tuple(
            Comparison(
                main,
                other,
                {
                    key: compare(value, values[other][key])
                    for key, value in values[main].items()
                    if value is not None and values[other][key] is not None
                },
            )
            for other in others
        ),
    }


def draw_film(height: int = 300, width: int = 256, seed: int = 0) -> np.ndarray:
    """Two dark lungs on a bright chest, with a mark in the upper left corner."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    film = 190 - 60 * (x**2 + y**2)
    for side in (-1, 1):
        film -= 110 * np.exp(-(((x - 0.42 * side) / 0.3) ** 4) - (y / 0.7) ** 4)
    film += np.random.default_rng(seed).normal(0, 6, film.shape)
    film[10:30, 10:18] = 255
    return np.clip(film, 0, 255).astype(np.uint8)


def make_study(rank: str, number: int = 0, *, heatmaps: bool = True) -> PageStudy:
    """A study of two views with passages of every kind."""
    films = [draw_film(seed=number), draw_film(256, 210, seed=number + 1)]
    tint = np.array([1.0, 0.7, 0.4])
    return PageStudy(
        id=f"CXR{number}_IM-0042-1001_" + "0123456789abcdef" * 3,
        rank=rank,
        score=1.234,
        images=films,
        projections=["PA", "lateral"],
        heatmaps=[(film[..., None] * tint).astype(np.uint8) for film in films] if heatmaps else [],
        reference=[
            Passage("The ", "plain"),
            Passage("heart is enlarged", "agree", "Cardiomegaly: positive (cue: enlarged)"),
            Passage(". There is a ", "plain"),
            Passage("small left effusion ", "missed", "Pleural Effusion: positive"),
            Passage("beside a ", "plain"),
            Passage("left opacity ", "wrong-side", "Lung Opacity, left; right in the other report"),
            Passage("with <b>XXXX</b>.", "plain"),
        ],
        generated=[
            Passage("heart size is enlarged ", "agree", "Cardiomegaly: positive"),
            Passage(". there is ", "plain"),
            Passage("bibasilar atelectasis", "not-in-reference", "Atelectasis: positive"),
            Passage(" . ", "plain"),
            Passage("small pleural ", "plain", edit="inserted"),
            Passage("effusion", "agree", "Pleural Effusion: positive", edit="inserted"),
            Passage(" . ", "plain", edit="inserted"),
            Passage("right opacity", "wrong-side", "Lung Opacity, right; left in the other report"),
            Passage(" .", "plain"),
        ],
    )


def make_rates(*, edited: bool = True) -> tuple[FindingRates, ...]:
    """Three findings, one of them hardly told apart."""
    found = []
    for name, present, gain in (("Lung Opacity", 52, 2.0), ("Cardiomegaly", 40, 8.0),
                                ("Lung Lesion", 16, 1.2)):  # fmt: skip
        roc = [(x, 1 - (1 - x) ** gain) for x in np.linspace(0, 1, 41).tolist()]
        moved = {s / 10: (1 - (1 - s / 10) ** (1 / gain), s / 10) for s in range(1, 10)}
        found.append(
            FindingRates(
                name,
                present,
                295 - present,
                sensitivity=Rate(0.4, 0.26, 0.55),
                specificity=Rate(0.93, 0.89, 0.96),
                auroc=Rate(gain / (1 + gain), gain / (1 + gain) - 0.06, gain / (1 + gain) + 0.05),
                roc=tuple(roc),
                edited=moved if edited else {},
            )
        )
    return tuple(found)


def make_page(*, card: Scorecard | None = None, main: str = "model", **changes: Any) -> Page:
    """A page of everything."""
    card = card or make_card()
    conclusion = conclude(card, main)
    page = {
        "title": "runs/csr_lmca_iu_cpu",
        "split": "val",
        "target": "findings",
        "num_without_text": 1,
        "card": card,
        "sections": {},
        "main": main,
        "made": "decoded by beam search, 3 beams",
        "answer": conclusion.answer,
        "evidence": [(item.about, item.sentences) for item in conclusion.evidence],
        "rates": make_rates(),
        "constants": {name: NORMAL for name in SYSTEMS if name.startswith("constant")},
        "clinical": {},
        "notes": ["METEOR was computed without stemming of the numbers."],
        "provenance": {
            "checkpoint": "runs/csr_lmca_iu_cpu/checkpoints/step-0003870",
            "study ids, SHA-256": "9f2c1d7b" * 8,
            "decode": {"method": "beam", "beam_size": 3, "max_new_tokens": 60},
        },
        "studies": [make_study(rank, 10 * i) for i, rank in enumerate(("best", "median", "worst"))],
        "recipe": "task: train\nmodel:\n  name: csr_lmca\n",
        "environment": {"python": "3.12.1", "versions": {"torch": "2.6.0", "mamba-ssm": None}},
    }
    return Page(**(page | changes))
