"""What EMRRG's third stage must learn behind an encoder that sees."""

from typing import Any

import numpy as np
import pytest

from tests.seeing_encoder import learn, losses, make_model, score, see, write


def test_reports_of_other_studies_score_lower_than_their_own() -> None:
    studies = [see(index) for index in range(40)]
    reports = [study.report for study in studies]
    assert score(reports, studies) == 1
    assert score([*reports[1:], reports[0]], studies) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"hybrid_every": 1, "visual_tokens": "pooled"}])
def test_a_few_studies_are_learned_by_heart(options: dict[str, Any]) -> None:
    studies = [see(index) for index in range(32)]
    model = make_model(studies, **options)
    assert np.mean(list(learn(model, studies, 200, 3e-3))[-10:]) < 0.1
    written = write(model, studies)
    assert np.mean([a == b.report for a, b in zip(written, studies, strict=True)]) > 0.9


@pytest.mark.slow
def test_held_out_studies_gain_by_their_images() -> None:
    studies = [see(index) for index in range(900)]
    model = make_model(studies)
    for _ in learn(model, studies[:800], 500, 1e-3):
        pass
    own, others = losses(model, studies[800:])
    assert own < 0.27
    assert others - own > 0.12
