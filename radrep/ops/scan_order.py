"""Orders in which a scan may visit the patches, and their inverses.

Letters: b batch, l sequence length, c channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def stride_rearrange(sequence: Tensor, stride: int) -> Tensor:
    """Order tokens, (b, l, c), as 0, stride, 2 stride, ..., 1, stride + 1, ... (MambaMIL).

    They are padded with zeros to a multiple of ``stride``.
    """
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")
    b, length, c = sequence.shape
    padded = F.pad(sequence, (0, 0, 0, -length % stride))
    rows = padded.view(b, -1, stride, c)  # (b, l / stride, stride, c)
    return rows.transpose(1, 2).reshape(b, -1, c)


def stride_restore(sequence: Tensor, stride: int, length: int) -> Tensor:
    """Undo `stride_rearrange` and cut its padding, to (b, length, c)."""
    b, padded_length, c = sequence.shape
    if padded_length != length + (-length % stride):
        raise ValueError(
            f"a sequence of {length} rearranged at stride {stride} has "
            f"{length + (-length % stride)} tokens, got {padded_length}"
        )
    columns = sequence.view(b, stride, -1, c)  # (b, stride, l / stride, c)
    return columns.transpose(1, 2).reshape(b, -1, c)[:, :length]


def column_order(grid: tuple[int, int], class_index: int | None = None) -> Tensor:
    """Order of the tokens of a grid (rows, columns) column by column, for ``sequence[:, order]``.

    A class token, if there is one, stays at class_index.
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
    return torch.cat([order[:class_index], torch.tensor([class_index]), order[class_index:]])


def cluster_order(grid: tuple[int, int], size: int) -> Tensor:
    """Order of the patches of a grid by squares of size x size, and row by row within each."""
    rows, columns = grid
    if size < 1 or rows % size or columns % size:
        raise ValueError(f"squares of {size} x {size} patches do not fill a grid of {grid}")
    patches = torch.arange(rows * columns).view(rows // size, size, columns // size, size)
    return patches.transpose(1, 2).reshape(-1)


def inverse_order(order: Tensor) -> Tensor:
    """The order that undoes an order."""
    return order.argsort()
