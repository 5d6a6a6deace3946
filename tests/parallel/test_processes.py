import math
from collections.abc import Iterator
from contextlib import closing

import pytest

from radrep.parallel.processes import count_cores, map_in_order


def test_there_is_at_least_one_core():
    assert count_cores() >= 1


@pytest.mark.parametrize("num_workers", [1, 2])
def test_results_come_in_order_and_few_tasks_are_read_ahead(num_workers):
    read = []

    def tasks() -> Iterator[int]:
        for number in range(1000):
            read.append(number)
            yield number

    with closing(map_in_order(math.sqrt, tasks(), num_workers)) as results:
        first = [next(results) for _ in range(30)]
    assert first == [(number, math.sqrt(number)) for number in range(30)]
    assert len(read) <= 30 + 8 * num_workers + 1


@pytest.mark.parametrize("num_workers", [1, 2])
def test_what_a_task_raises_reaches_the_caller(num_workers):
    with pytest.raises(ValueError, match="math domain"):
        list(map_in_order(math.sqrt, [4.0, -1.0], num_workers))
