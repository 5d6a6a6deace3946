"""Dropout as a module."""

from torch import Tensor, nn

from radrep.ops.dropout import dropout


class Dropout(nn.Module):
    """`radrep.ops.dropout` with probability p in training, nothing in evaluation."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return dropout(x, self.p) if self.training else x
