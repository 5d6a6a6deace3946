"""EMRRG's third stage alone: behind visual tokens that hold the findings of phantoms.

They stand for an encoder that sees, and cost nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from radrep.data.batch import Batch
from radrep.data.text import get_cleaner
from radrep.metrics.labeler.labeler import label_reports
from radrep.metrics.labeler.scores import WITH_SIDE, score_findings
from radrep.models.emrrg import Emrrg
from radrep.modules.language_model import small_language_model
from radrep.preparation.sources.phantom.drawing import KINDS
from radrep.preparation.sources.phantom.report import write_report
from radrep.preparation.sources.phantom.source import study_findings

SIDE, DIM = 4, 32  # of the grid of visual tokens, of a token


class SeeingEncoder(nn.Module):
    """Stands for a frozen encoder; `see` makes the features that it would have made."""

    dim, grid, class_index = DIM, (SIDE, SIDE), None


@dataclass(frozen=True)
class Study:
    tokens: Tensor  # (n, c)
    report: str


def see(index: int) -> Study:
    """One token on the side of each finding differs by a vector of its kind; all have noise."""
    fixed = torch.Generator().manual_seed(7)
    kinds = 1.5 * torch.randn(len(KINDS), DIM, generator=fixed)
    places = 0.5 * torch.randn(SIDE * SIDE, DIM, generator=fixed)
    rng = np.random.default_rng(index)
    tokens = places + torch.tensor(rng.normal(0, 0.5, (SIDE * SIDE, DIM)), dtype=torch.float32)
    findings = study_findings(0, index)
    for finding in findings:
        column = int(rng.integers(SIDE // 2)) + (SIDE // 2 if finding.side == "left" else 0)
        tokens[SIDE * int(rng.integers(SIDE)) + column] += kinds[KINDS.index(finding.kind)]
    report = get_cleaner("plain")(write_report(findings, rng))
    return Study(nn.functional.layer_norm(tokens, (DIM,)), report)


def make_batch(studies: list[Study], model: Emrrg) -> Batch:
    reports = [model.language.encode_report(study.report, 60) for study in studies]
    length = max(map(len, reports))
    pad = [model.language.pad_id]
    return Batch(
        ids=tuple(map(str, range(len(studies)))),
        num_views=torch.ones(len(studies), dtype=torch.long),
        features=torch.stack([study.tokens for study in studies]),
        tokens=torch.tensor([report + pad * (length - len(report)) for report in reports]),
        lengths=torch.tensor([len(report) for report in reports]),
    )


def make_model(studies: list[Study], *, seed: int = 0, **options: Any) -> Emrrg:
    """By default a small language model trained whole; prompt and scale as in emrrg_phantom."""
    torch.manual_seed(seed)
    words = {word for study in studies for word in study.report.split()}
    encoder: Any = SeeingEncoder()
    if "language" not in options:
        options["language"] = small_language_model(words, dim=96, num_layers=2, num_heads=4)
    defaults = {
        "language_training": "trained", "prompt": "{image}", "projector_scale": "words",
    }  # fmt: skip
    return Emrrg(encoder=encoder, encoder_training="frozen", **(defaults | options))


def learn(
    model: Emrrg, studies: list[Study], steps: int, rate: float, *, warmup: int = 30, seed: int = 0
) -> Iterator[float]:
    """Losses of steps of 16 studies, with a warm-up and a cosine."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    course = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=warmup / steps, cycle_momentum=False
    )
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        chosen = [studies[i] for i in rng.choice(len(studies), 16, replace=False)]
        loss = model.loss(make_batch(chosen, model))["loss"]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        course.step()
        yield loss.item()


def losses(model: Emrrg, studies: list[Study]) -> tuple[float, float]:
    """The loss with the studies' own images, and with those of others."""
    batch = make_batch(studies, model.eval())
    with torch.no_grad():
        own, others = (model.loss(each)["loss"] for each in (batch, batch.with_images_of_others()))
    return own.item(), others.item()


def write(model: Emrrg, studies: list[Study]) -> list[str]:
    """Greedy reports."""
    batch = make_batch(studies, model.eval())
    reports = model.generate(batch, num_beams=1, max_new_tokens=60)
    return [model.language.decode(ids) for ids in reports]


def score(written: list[str], studies: list[Study]) -> float:
    """F1 of findings named with their side, as `radrep demo` prints it."""
    references = label_reports([study.report for study in studies])
    return float(score_findings(references, label_reports(written)).corpus[WITH_SIDE] or 0)
