import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from radrep.ops.scan_order import stride_rearrange, stride_restore


@given(length=st.integers(1, 60), rate=st.integers(1, 15))
def test_rearranging_and_back_is_identity(length: int, rate: int) -> None:
    sequence = torch.arange(2 * length * 3, dtype=torch.float32).view(2, length, 3)
    there = stride_rearrange(sequence, rate)
    assert there.shape[1] % rate == 0
    torch.testing.assert_close(stride_restore(there, rate, length), sequence)


def test_patches_a_stride_apart_become_neighbours() -> None:
    sequence = torch.arange(1, 8, dtype=torch.float32).view(1, 7, 1)
    assert stride_rearrange(sequence, 3).flatten().tolist() == [1, 4, 7, 2, 5, 0, 3, 6, 0]


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="rate must be at least 1, got 0"):
        stride_rearrange(torch.zeros(1, 4, 2), 0)
    with pytest.raises(ValueError, match="has 6 tokens, got 5"):
        stride_restore(torch.zeros(1, 5, 2), 3, 5)
