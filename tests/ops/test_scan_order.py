import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from radrep.ops.scan_order import (
    cluster_order,
    column_order,
    inverse_order,
    stride_rearrange,
    stride_restore,
)


@given(length=st.integers(1, 60), stride=st.integers(1, 15))
def test_rearranging_and_back_is_identity(length: int, stride: int) -> None:
    sequence = torch.arange(2 * length * 3, dtype=torch.float32).view(2, length, 3)
    there = stride_rearrange(sequence, stride)
    assert there.shape[1] % stride == 0
    torch.testing.assert_close(stride_restore(there, stride, length), sequence)


def test_patches_a_stride_apart_become_neighbours() -> None:
    sequence = torch.arange(1, 8, dtype=torch.float32).view(1, 7, 1)
    assert stride_rearrange(sequence, 3).flatten().tolist() == [1, 4, 7, 2, 5, 0, 3, 6, 0]


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        stride_rearrange(torch.zeros(1, 4, 2), 0)
    with pytest.raises(ValueError, match="has 6 tokens, got 5"):
        stride_restore(torch.zeros(1, 5, 2), 3, 5)


@given(rows=st.integers(1, 6), columns=st.integers(1, 6), class_token=st.booleans())
def test_columns_and_back_is_identity(rows: int, columns: int, class_token: bool) -> None:
    class_index = rows * columns // 2 if class_token else None
    order = column_order((rows, columns), class_index)
    sequence = torch.arange(rows * columns + class_token)
    assert sequence[order][inverse_order(order)].tolist() == sequence.tolist()
    reverse = order.flip(0)
    assert sequence[reverse][inverse_order(reverse)].tolist() == sequence.tolist()


def test_columns_are_read_from_top_to_bottom_around_the_class_token() -> None:
    assert column_order((2, 3)).tolist() == [0, 3, 1, 4, 2, 5]
    # Tokens 0 1 2 | class 3 | 4 5 6: the grid is 0 1 2 above 4 5 6.
    assert column_order((2, 3), 3).tolist() == [0, 4, 1, 3, 5, 2, 6]


def test_clusters_come_row_by_row_and_so_do_their_patches() -> None:
    expected = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    assert cluster_order((4, 4), 2).tolist() == expected
    assert cluster_order((2, 4), 2).tolist() == expected[:8]


def test_wrong_grids_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at least one row and one column, got \(0, 3\)"):
        column_order((0, 3))
    with pytest.raises(ValueError, match="class_index must be 0 to 6, got 7"):
        column_order((2, 3), 7)
    with pytest.raises(ValueError, match=r"3 x 3 patches do not fill a grid of \(6, 4\)"):
        cluster_order((6, 4), 3)
