"""Several reports per study, drawn by given uniform numbers.

A number decides its word by the inverse of the cumulative distribution. So a report depends on its
own numbers alone, whatever is drawn beside it.

Letters: b studies, k reports per study, l words, w words of the vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from radrep.generation.contract import StepDecoder

# Ended reports are computed along until so small a share of the rows is still needed: leaving them
# out copies the state of all others.
_NEEDED = 0.75


@torch.no_grad()
def draw_reports(
    decoder: StepDecoder, encoded: Any, uniforms: Tensor, *, temperature: float = 1.0
) -> list[list[int]]:
    """Draw k reports for every study by numbers in [0, 1), (b, k, l).

    Return the word ids of the first study's reports, then of the second's. A report has its closing
    id, unless it is cut at l words.
    """
    length = uniforms.shape[2]
    device, end = decoder.device, decoder.end
    numbers = uniforms.flatten(0, 1).to(device)
    rows = torch.arange(len(numbers), device=device)  # the reports in the state
    state = decoder.start(encoded, uniforms.shape[1])
    last = torch.full_like(rows, decoder.begin)
    words = torch.full((len(rows), length), end, device=device)
    ended = torch.zeros_like(rows, dtype=torch.bool)
    for step in range(length):
        log_probs, state = decoder.step(last, state)
        last = draw_tokens(log_probs / temperature, numbers[rows, step])
        words[rows, step] = torch.where(ended[rows], end, last)
        ended[rows] |= last == end
        still_open = (~ended[rows]).nonzero()[:, 0]
        if len(still_open) == 0:
            break
        if len(still_open) <= _NEEDED * len(rows):
            state = state.keep(still_open)
            rows, last = rows[still_open], last[still_open]
    return [_until_end(report, end) for report in words.tolist()]


def _until_end(report: list[int], end: int) -> list[int]:
    return report[: report.index(end) + 1] if end in report else report


def draw_tokens(scores: Tensor, numbers: Tensor) -> Tensor:
    """Tokens by log-probabilities up to a constant, (n, w), and numbers in [0, 1), (n,): (n,)."""
    wide = torch.float32 if scores.device.type == "mps" else torch.float64
    reached = scores.softmax(dim=-1).to(wide).cumsum(dim=-1)
    wanted = numbers[:, None].to(wide) * reached[:, -1:]
    return (reached <= wanted).sum(dim=-1).clamp(max=scores.shape[-1] - 1)


class SeenTokens:
    """Shows what a search of transformers has written of its first report, and changes no score."""

    def __init__(self, on_tokens: Callable[[list[int]], None]) -> None:
        self._on_tokens = on_tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores as they are, of the next tokens after those of (n, so far)."""
        self._on_tokens(input_ids[0].tolist())
        return scores


class DrawnTokens:
    """Makes a greedy search of transformers draw, by the numbers (n, l) of its n reports."""

    def __init__(self, numbers: Tensor, temperature: float) -> None:
        self._numbers, self._temperature = numbers, temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores that leave one token, from those of the next after the tokens (n, so far)."""
        self._numbers = self._numbers.to(scores.device)
        numbers = self._numbers[:, input_ids.shape[1]]
        drawn = draw_tokens(scores.float() / self._temperature, numbers)
        return torch.full_like(scores, float("-inf")).scatter(-1, drawn[:, None], 0.0)
