"""Seeds of the fuzzers and mended finds, without a fuzzer: no traceback, and no hang."""

import pytest

from tests.fuzz.try_input import CORPUS, TARGETS, load_target, try_input
from tests.runaway import no_runaway


def test_every_target_has_seeds():
    assert [folder.name for folder in sorted(CORPUS.iterdir())] == TARGETS


@pytest.mark.parametrize(
    "target", [pytest.param(t, marks=[pytest.mark.slow] * (t == "checkpoint")) for t in TARGETS]
)
def test_inputs_of_the_corpus_end_without_a_traceback(target):
    read = load_target(target)
    files = sorted((CORPUS / target).iterdir())
    assert files
    for file in files:
        with no_runaway(20, file.name):
            try_input(read, file.read_bytes())
