"""Cross-modal memory (R2GenCMN: Chen et al. 2021, arXiv 2204.13258).

Letters: b batch, n queries, d width, h heads, m memory rows, k rows kept.
"""

import torch
from torch import Tensor, nn

from radrep.ops.top_k_attention import top_k_attention


class CrossModalMemory(nn.Module):
    """A learned matrix that patches and word embeddings query alike."""

    def __init__(
        self, *, dim: int, size: int, top_k: int, num_heads: int = 8, dropout: float = 0.1
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim ({dim}) must be divisible by num_heads ({num_heads})")
        if top_k > size:
            raise ValueError(f"top_k ({top_k}) must be at most size ({size})")
        self.num_heads = num_heads
        self.top_k = top_k
        self.dropout = dropout
        self.memory = nn.Parameter(torch.randn(size, dim) / dim)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def keys_and_values(self) -> tuple[Tensor, Tensor]:
        """Project the matrix, once for any number of queries: two of (h, m, d / h)."""
        return self._heads(self.key(self.memory)), self._heads(self.value(self.memory))

    def forward(self, query: Tensor, projected: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Respond to each query with a weighted sum of memory rows: (b, n, d) -> (b, n, d).

        `projected` comes from `keys_and_values`, when several queries share it.
        """
        key, value = projected or self.keys_and_values()
        dropout = self.dropout if self.training else 0.0
        by_head = self._heads(self.query(query))  # (h, b n, d / h)
        response = top_k_attention(by_head, key, value, self.top_k, dropout)
        return self.out(response.transpose(0, 1).reshape(query.shape))

    def _heads(self, x: Tensor) -> Tensor:
        """(..., d) -> (h, rows, d / h)."""
        rows = x.reshape(-1, self.num_heads, x.shape[-1] // self.num_heads)
        return rows.transpose(0, 1).contiguous()
