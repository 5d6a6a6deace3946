"""Orders in which a scan may visit the patches, and their inverses.

Letters: b batch, l sequence length, c channels.
"""

import torch
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


def column_order(grid: tuple[int, int], class_index: int | None = None) -> Tensor:
    """Order of the tokens of a grid column by column, for ``sequence[:, order]``.

    Args:
        grid: Rows and columns of the patches, which stand row by row.
        class_index: Where a class token stands among them and stays, or None.

    Returns:
        Indices, (rows * columns,), one more with a class token.

    Raises:
        ValueError: If the grid has no patch or the class token no place in it.
    """
    rows, columns = grid
    if rows < 1 or columns < 1:
        raise ValueError(f"grid must have at least one row and one column, got {grid}")
    order = torch.arange(rows * columns).view(rows, columns).T.reshape(-1)
    if class_index is None:
        return order
    if not 0 <= class_index <= rows * columns:
        raise ValueError(f"class_index must be 0 to {rows * columns}, got {class_index}")
    order = torch.where(order < class_index, order, order + 1)
    middle = torch.tensor([class_index])
    return torch.cat([order[:class_index], middle, order[class_index:]])


def cluster_order(grid: tuple[int, int], size: int) -> Tensor:
    """Order of the patches of a grid square by square, for ``sequence[:, order]``.

    The squares come row by row, and so do the patches within each.

    Args:
        grid: Rows and columns of the patches, which stand row by row.
        size: Patches of a square, one side.

    Returns:
        Indices, (rows * columns,).

    Raises:
        ValueError: If the squares do not fill the grid.
    """
    rows, columns = grid
    if size < 1 or rows % size or columns % size:
        raise ValueError(f"squares of {size} x {size} patches do not fill a grid of {grid}")
    patches = torch.arange(rows * columns).view(rows // size, size, columns // size, size)
    return patches.transpose(1, 2).reshape(-1)


def inverse_order(order: Tensor) -> Tensor:
    """The order that undoes an order: ``sequence[:, order][:, inverse]`` is the sequence."""
    return order.argsort()
