"""Search against an exhaustive one, on decoders small enough to enumerate."""

import itertools

import pytest
import torch
from torch import Tensor

from radrep.generation.search import beam_search, finished_beams, sample, sample_many


class Table:
    """A decoder whose next-word log-probabilities depend on study and last word alone."""

    begin = end = 0
    device = torch.device("cpu")

    def __init__(self, table: Tensor) -> None:
        self.table = table.log_softmax(-1)  # (studies, words, words)
        self.steps = 0

    def start(self, encoded: object, num_beams: int) -> "Rows":
        return Rows(torch.arange(len(self.table)).repeat_interleave(num_beams))

    def step(self, tokens: Tensor, state: "Rows") -> tuple[Tensor, "Rows"]:
        self.steps += 1
        return self.table[state.study, tokens], state


class Rows:
    def __init__(self, study: Tensor) -> None:
        self.study = study

    def select(self, rows: Tensor) -> "Rows":
        return Rows(self.study[rows.flatten()])


def best_of_all(table: Tensor, max_words: int, length_penalty: float) -> list[int]:
    """The best of all reports of at most max_words words."""
    words = range(1, table.shape[-1])
    best, best_score = [], float("-inf")
    for length in range(max_words + 1):
        for report in itertools.product(words, repeat=length):
            ids = [0, *report] + ([0] if length < max_words else [])
            total = float(sum(table[a, b] for a, b in itertools.pairwise(ids)))
            score = total / (len(ids) - 1) ** length_penalty if len(ids) > 1 else total
            if score > best_score:
                best, best_score = list(report), score
    return best


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_a_wide_beam_finds_the_best_report_of_all(length_penalty: float) -> None:
    torch.manual_seed(0)
    decoder = Table(torch.randn(6, 4, 4))
    found = beam_search(
        decoder, None, num_studies=6, beam_size=200, max_words=4, length_penalty=length_penalty
    )
    assert found == [best_of_all(table, 4, length_penalty) for table in decoder.table]


def test_a_length_penalty_makes_reports_longer() -> None:
    torch.manual_seed(4)
    table = torch.randn(8, 6, 6)
    lengths = []
    for length_penalty in (0.0, 1.0, 2.0):
        found = beam_search(
            Table(table), None, num_studies=8, max_words=12, length_penalty=length_penalty
        )
        lengths.append(sum(map(len, found)))
    assert lengths == sorted(set(lengths))


def test_studies_do_not_depend_on_their_batch() -> None:
    torch.manual_seed(1)
    table = torch.randn(8, 6, 6)
    together = beam_search(Table(table), None, num_studies=8, beam_size=3, max_words=12)
    alone = [
        beam_search(Table(table[i : i + 1]), None, num_studies=1, beam_size=3, max_words=12)[0]
        for i in range(8)
    ]
    assert together == alone


def test_beam_of_one_is_greedy() -> None:
    torch.manual_seed(2)
    table = torch.randn(5, 7, 7)
    beam = beam_search(Table(table), None, num_studies=5, beam_size=1, max_words=9)
    assert beam == sample(Table(table), None, num_studies=5, max_words=9)


@pytest.mark.parametrize("num", [1, 5])
def test_the_first_report_is_shown_as_it_grows(num: int) -> None:
    torch.manual_seed(2)
    table, shown = torch.randn(num, 7, 7), list[list[int]]()
    reports = sample(
        *(Table(table), None),
        num_studies=num,
        max_words=9,
        on_tokens=lambda ids: shown.append([*ids]),
    )
    longest = [reports[0][:length] for length in range(1, len(reports[0]) + 1)]
    assert [ids for place, ids in enumerate(shown) if ids not in shown[:place]] == longest


def test_search_stops_when_no_open_beam_can_win() -> None:
    table = torch.full((1, 3, 3), -5.0)
    table[0, :, 0] = 5.0  # ending is nearly certain
    decoder = Table(table)
    assert beam_search(decoder, None, num_studies=1, beam_size=3, max_words=60) == [[]]
    assert decoder.steps == 1


def test_reports_never_exceed_max_words() -> None:
    table = torch.zeros(2, 4, 4)
    table[:, :, 0] = -50.0  # never wants to end
    for beams in (1, 3):
        found = beam_search(Table(table), None, num_studies=2, beam_size=beams, max_words=7)
        assert [len(report) for report in found] == [7, 7]


def test_blocked_trigrams_do_not_come_back() -> None:
    table = torch.zeros(1, 3, 3)
    table[0, :, 0] = -20.0
    table[0, 1, 2] = table[0, 2, 1] = table[0, 0, 1] = 5.0  # 1 2 1 2 1 2 ... if it may
    free = beam_search(Table(table), None, num_studies=1, beam_size=3, max_words=9)[0]
    assert len(set(zip(free, free[1:], free[2:], strict=False))) < len(free) - 2
    for blocked in (
        beam_search(
            Table(table), None, num_studies=1, beam_size=3, max_words=9, block_trigrams=True
        )[0],
        sample(Table(table), None, num_studies=1, max_words=9, block_trigrams=True)[0],
    ):
        trigrams = list(zip(blocked, blocked[1:], blocked[2:], strict=False))
        assert len(trigrams) > 2
        assert len(set(trigrams)) == len(trigrams)


def test_sampling_repeats_with_a_seed_and_varies_without() -> None:
    table = torch.zeros(1, 9, 9)
    table[0, :, 0] = -2.0

    def draw(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return sample(
            Table(table), None, num_studies=1, max_words=20, temperature=1.0, generator=generator
        )[0]

    assert draw(0) == draw(0)
    assert len({tuple(draw(seed)) for seed in range(8)}) > 1


def test_many_samples_are_those_of_the_table_and_of_each_study_alone() -> None:
    torch.manual_seed(0)
    table = torch.randn(40, 4, 4)
    options = {"num_samples": 50, "max_words": 6, "temperature": 1.0, "seed": 3}
    found = sample_many(Table(table), None, num_studies=40, **options)
    for i in range(0, 40, 13):
        (alone,) = sample_many(Table(table[i : i + 1]), None, num_studies=1, **options)
        assert alone == found[i]
    # The first words: each study's shares are its probabilities, to one of 50 strata.
    firsts = torch.tensor([[(ids or [0])[0] for ids in own] for own in found])
    shares = torch.stack([(firsts == word).float().mean(dim=1) for word in range(4)], dim=1)
    expected = Table(table).table[:, 0].exp()
    assert (shares - expected).abs().max() <= 2 / 50 + 1e-6
    # A word after a given one: over all samples, as the table has it.
    pairs = [ids[:2] for own in found[:1] for ids in own]
    assert len({tuple(pair) for pair in pairs}) > 3
    assert all(0 not in ids and len(ids) <= 6 for own in found for ids in own)
    assert sample_many(Table(table), None, num_studies=40, **options | {"seed": 4}) != found
    cold = sample_many(Table(table), None, num_studies=40, **options | {"temperature": 1e-3})
    greedy = sample(Table(table), None, num_studies=40, max_words=6)
    assert [own[0] for own in cold] == greedy


def test_finished_beams_are_the_best_ones_in_order() -> None:
    torch.manual_seed(0)
    decoder = Table(torch.randn(6, 4, 4))
    options = {"num_studies": 6, "beam_size": 5, "max_words": 6}
    found = finished_beams(decoder, None, **options)
    assert [own[0] for own in found] == beam_search(decoder, None, **options)
    for table, own in zip(decoder.table, found, strict=True):
        ids = [[0, *beam, *([0] if len(beam) < 6 else [])] for beam in own]
        totals = [float(sum(table[a, b] for a, b in itertools.pairwise(each))) for each in ids]
        assert totals == sorted(totals, reverse=True)
        assert len(set(map(tuple, own))) == len(own) <= 5


def test_top_p_draws_from_the_likeliest_words_alone() -> None:
    table = torch.full((200, 5, 5), -4.0)
    table[:, :, 1], table[:, :, 2] = 2.0, 1.0  # .72 and .26 of the probability
    table[:, :, 0] = -9.0
    generator = torch.Generator().manual_seed(0)
    options = {"num_studies": 200, "max_words": 3, "temperature": 1.0, "generator": generator}
    narrow = sample(Table(table), None, top_p=0.5, **options)
    assert {word for report in narrow for word in report} == {1}
    wide = sample(Table(table), None, top_p=0.9, **options)
    assert {word for report in wide for word in report} == {1, 2}


@pytest.mark.parametrize(("option", "value"), [("temperature", -1.0), ("top_p", 0.0)])
def test_bad_sampling_options_are_refused(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        sample(Table(torch.zeros(1, 3, 3)), None, num_studies=1, **{option: value})
