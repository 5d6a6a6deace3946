"""Drawn reports against draws of one report after the other, word by word."""

import itertools

import torch
from torch import Tensor

from radrep.generation.draws import DrawnTokens, draw_reports, draw_tokens

WORDS = 6


class History:
    """A decoder whose next word depends on the study and on all words so far."""

    begin = end = 0
    device = torch.device("cpu")

    def __init__(self, tables: Tensor) -> None:
        self.tables = tables  # (studies, words, words)
        self.rows = 0

    def start(self, encoded: object, num_beams: int) -> "Rows":
        studies = torch.arange(len(self.tables)).repeat_interleave(num_beams)
        return Rows(studies, torch.zeros(len(studies), WORDS))

    def step(self, tokens: Tensor, state: "Rows") -> tuple[Tensor, "Rows"]:
        self.rows += len(tokens)
        told = state.told * 0.7 + self.tables[state.study, tokens]
        return told.log_softmax(-1), Rows(state.study, told)


class Rows:
    def __init__(self, study: Tensor, told: Tensor) -> None:
        self.study, self.told = study, told

    def select(self, rows: Tensor) -> "Rows":
        raise AssertionError("reports of a study end apart")

    def keep(self, rows: Tensor) -> "Rows":
        return Rows(self.study[rows], self.told[rows])


def slow_draw(tables: Tensor, study: int, numbers: list[float], temperature: float) -> list[int]:
    """One report by the definition."""
    decoder = History(tables)
    state = Rows(torch.tensor([study]), torch.zeros(1, WORDS))
    report, last = [], 0
    for number in numbers:
        scores, state = decoder.step(torch.tensor([last]), state)
        probabilities = (scores[0] / temperature).softmax(-1).tolist()
        last = sum(number >= reached for reached in itertools.accumulate(probabilities))
        report.append(last)
        if last == 0:
            break
    return report


def test_reports_are_those_drawn_one_after_the_other() -> None:
    torch.manual_seed(0)
    tables = 2 * torch.randn(5, WORDS, WORDS)
    uniforms = torch.rand(5, 4, 9)
    for temperature in (1.0, 0.5, 2.0):
        decoder = History(tables)
        found = draw_reports(decoder, None, uniforms, temperature=temperature)
        expected = [
            slow_draw(tables, i, uniforms[i, j].tolist(), temperature)
            for i in range(5)
            for j in range(4)
        ]
        assert found == expected
        ended = [report for report in found if report[-1] == 0]
        assert 0 < len(ended) < 20, "some end and some are cut"
        assert all(report.index(0) == len(report) - 1 for report in ended)
        assert all(len(report) == 9 for report in found if report[-1] != 0)
        assert decoder.rows < 20 * 9, "what has ended is left out"


def test_draws_have_the_probabilities_of_the_words() -> None:
    scores = torch.tensor([0.5, 0.0, 0.3, 0.2]).log()
    numbers = (torch.arange(1000) + 0.5) / 1000
    drawn = draw_tokens(scores.expand(1000, 4), numbers)
    assert drawn.bincount(minlength=4).tolist() == [500, 0, 300, 200]
    edges = draw_tokens(scores.expand(2, 4), torch.tensor([0.0, 1 - 2**-24]))
    assert edges.tolist() == [0, 3]


def test_a_greedy_search_takes_what_was_drawn() -> None:
    torch.manual_seed(0)
    scores, numbers = torch.randn(7, WORDS), torch.rand(7, 3)
    for step in range(3):
        left = DrawnTokens(numbers, 0.8)(torch.zeros(7, step, dtype=torch.long), scores)
        assert left.argmax(-1).equal(draw_tokens(scores / 0.8, numbers[:, step]))
        assert left.isinf().sum() == 7 * (WORDS - 1)
