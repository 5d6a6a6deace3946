"""What generation asks of a decoder."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from torch import Tensor, device

State = TypeVar("State", bound="DecodingState")


@dataclass(frozen=True)
class DecodeOptions:
    """How reports are written.

    Attributes:
        method: Beam search, the likeliest token each time, or draws.
        beam_size: Beams of a study; beam only.
        length_penalty: The sum of log-probabilities is divided by length ** this; beam only.
        max_new_tokens: Tokens at which a report is cut.
        min_new_tokens: Tokens before a report may end.
        repetition_penalty: Factor that worsens the scores of tokens written before.
        top_p: Draw from the likeliest tokens that reach this probability; sample only.
        temperature: Log-probabilities are divided by it; sample only.
        block_trigrams: Forbid a trigram that the report already has.
        precision: Arithmetic of autocast: fp32, bf16 or fp16.
        float32_weights: Weights of half precision compute in float32 too, so that a report does not
            depend on its batch; None: except on GPUs, where they may not fit.
    """

    method: Literal["beam", "greedy", "sample"] = "beam"
    beam_size: int = 3
    length_penalty: float = 0.0
    max_new_tokens: int = 60
    min_new_tokens: int = 0
    repetition_penalty: float = 1.0
    top_p: float = 1.0
    temperature: float = 1.0
    block_trigrams: bool = False
    precision: str = "fp32"
    float32_weights: bool | None = None


class DecodingState(Protocol):
    """Where the decoding of b studies with k reports each stands."""

    def select(self: State, rows: Tensor) -> State:
        """Keep some rows.

        Args:
            rows: Row numbers, (studies kept, reports a study): each line holds rows of one old
                study, and the lines keep the order of the studies.
        """


class StepDecoder(Protocol[State]):
    """A decoder that generation can drive word by word.

    Attributes:
        begin: Id that opens every report.
        end: Id that closes it.
    """

    begin: int
    end: int

    @property
    def device(self) -> device:
        """Where its tensors lie."""

    def start(self, encoded: Any, num_beams: int) -> State:
        """Begin to decode ``num_beams`` reports for every study in ``encoded``."""

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Take the last words (b k,); give log-probabilities (b k, w) and the new state."""
