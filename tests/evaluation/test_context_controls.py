"""Which images and which context each control of a model with context has."""

from collections.abc import Callable

import pytest

from radrep.evaluation.controls import context_controls
from radrep.metrics.names import NO_CONTEXT, OTHER_CONTEXT, SHUFFLED


def write(number: int) -> Callable[[Callable[[int], int | None]], list[str]]:
    """Reports that name the study of their images, and that of their context."""
    return lambda context_of: [f"{i} {context_of(i)}" for i in range(number)]


@pytest.mark.parametrize("number", [2, 3, 50])
def test_one_pass_gives_other_images_and_other_context(number: int) -> None:
    controls = context_controls(write(number), number)
    for study in range(number):
        images, context = controls[OTHER_CONTEXT.name][study].split()
        assert (int(images), int(context) != study) == (study, True)
        images, context = controls[SHUFFLED.name][study].split()
        assert (int(images) != study, int(context)) == (True, study)
        assert controls[NO_CONTEXT.name][study] == f"{study} None"
    assert len({*controls[OTHER_CONTEXT.name]}) == number


def test_one_study_has_no_other() -> None:
    assert context_controls(write(1), 1) == {NO_CONTEXT.name: ["0 None"]}
