"""Orders in which a scan may visit the patches, and their inverses.

Letters: b batch, l sequence length, c channels.
"""

import torch.nn.functional as F
from torch import Tensor


def stride_rearrange(sequence: Tensor, rate: int) -> Tensor:
    """Bring tokens that lie a stride of ``rate`` apart next to one another (MambaMIL, SR-Mamba).

    The sequence is padded with zeros to a multiple of ``rate``, seen as rows of ``rate`` tokens
    and read column by column: 0, rate, 2 rate, ..., 1, rate + 1, ...

    Args:
        sequence: Tokens, (b, l, c).
        rate: The stride, at least 1.

    Returns:
        Tokens in the new order, (b, l rounded up to a multiple of rate, c).

    Raises:
        ValueError: If rate is below 1.
    """
    if rate < 1:
        raise ValueError(f"rate must be at least 1, got {rate}")
    b, length, c = sequence.shape
    padded = F.pad(sequence, (0, 0, 0, -length % rate))
    rows = padded.view(b, -1, rate, c)  # (b, l / rate, rate, c)
    return rows.transpose(1, 2).reshape(b, -1, c)


def stride_restore(sequence: Tensor, rate: int, length: int) -> Tensor:
    """Undo `stride_rearrange` and cut its padding.

    Args:
        sequence: Tokens in the rearranged order, (b, l rounded up to a multiple of rate, c).
        rate: The stride that was used.
        length: The l of the original sequence.

    Returns:
        Tokens in the original order, (b, length, c).

    Raises:
        ValueError: If the sequence is not as long as a rearranged one of that length.
    """
    b, padded_length, c = sequence.shape
    if padded_length != length + (-length % rate):
        raise ValueError(
            f"a sequence of {length} rearranged at rate {rate} has {length + (-length % rate)} "
            f"tokens, got {padded_length}"
        )
    columns = sequence.view(b, rate, -1, c)  # (b, rate, l / rate, c)
    return columns.transpose(1, 2).reshape(b, -1, c)[:, :length]
