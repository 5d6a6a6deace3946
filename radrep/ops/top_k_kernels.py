"""The loops of top-k attention on CPUs, written for Numba.

Letters as in top_k_attention. In the loops i counts rows of scores, q queries, j kept keys and c
channels.
"""

import numpy as np

from radrep.ops.kernel_threads import Arrays


def best_of_rows(start: int, stop: int, inputs: Arrays, best: np.ndarray, rows: np.ndarray) -> None:
    """Write the k highest scores of each row, falling, and where; of equal ones the first stand.

    A task is a row. inputs is (scores (h n, m),); best and rows are (h n, k).
    """
    (scores,) = inputs
    k = best.shape[1]
    for i in range(start, stop):
        for place in range(scores.shape[1]):
            score = scores[i, place]
            kept = min(place, k)
            if kept == k and not score > best[i, k - 1]:  # nearly always, so the rest is rare
                continue
            j = min(kept, k - 1)
            while j > 0 and score > best[i, j - 1]:
                best[i, j] = best[i, j - 1]
                rows[i, j] = rows[i, j - 1]
                j -= 1
            best[i, j] = score
            rows[i, j] = place


def add_to_rows(start: int, stop: int, inputs: Arrays, rows: np.ndarray, table: np.ndarray) -> None:
    """Add weight times addend to the table row of each kept key; a task is a head.

    inputs is (weights (h, n, k), addends (h, n, d)); rows is (h, n, k), table (h, m, d).
    """
    weights, addends = inputs
    for head in range(start, stop):
        for q in range(rows.shape[1]):
            for j in range(rows.shape[2]):
                row, weight = rows[head, q, j], weights[head, q, j]
                for c in range(table.shape[2]):
                    table[head, row, c] += weight * addends[head, q, c]


def dot_with_rows(
    start: int, stop: int, inputs: Arrays, rows: np.ndarray, dots: np.ndarray
) -> None:
    """Write the product of each query with the table rows of its kept keys; a task is a head.

    inputs is (queries (h, n, d), table (h, m, d)); rows and dots are (h, n, k).
    """
    queries, table = inputs
    for head in range(start, stop):
        for q in range(rows.shape[1]):
            for j in range(rows.shape[2]):
                row = rows[head, q, j]
                dot = queries[head, q, 0] * table[head, row, 0]
                for c in range(1, queries.shape[2]):
                    dot += queries[head, q, c] * table[head, row, c]
                dots[head, q, j] = dot
