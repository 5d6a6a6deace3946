import pytest

from radrep.metrics.diversity import measure_diversity


def test_counts_distinct_reports_and_the_most_frequent_one():
    diversity = measure_diversity(["a"] * 4, ["a b", "c", "a  b ", "d e f"])
    assert diversity.num_reports == 4
    assert diversity.num_distinct == 3
    assert diversity.most_frequent == "a b"
    assert diversity.most_frequent_share == 0.5


def test_length_ratio_is_the_ratio_of_sums():
    # The mean of ratios would be (2/1 + 2/9) / 2, above one for reports that are too short.
    diversity = measure_diversity(["a", "b " * 9], ["x y", "x y"])
    assert diversity.length_ratio == pytest.approx(4 / 10)
    assert diversity.mean_length == 2
    assert diversity.mean_reference_length == 5


def test_lengths_cover_the_shortest_and_the_longest_report():
    diversity = measure_diversity(["a", "b", "c"], ["", "x", "x y z"])
    assert (diversity.min_length, diversity.max_length) == (0, 3)


def test_identical_reports_have_ratio_one():
    reports = ["no effusion .", "clear ."]
    diversity = measure_diversity(reports, reports)
    assert diversity.length_ratio == 1
    assert diversity.num_distinct == 2
