"""What generation asks of a decoder."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from torch import Tensor, device

State = TypeVar("State", bound="DecodingState")


@dataclass(frozen=True)
class DecodeOptions:
    """How reports are written."""

    method: Literal["beam", "greedy", "sample"] = "beam"
    beam_size: int = 3  # beam only
    length_penalty: float = 0.0  # sums of log-probabilities over length ** this; beam only
    max_new_tokens: int = 60
    min_new_tokens: int = 0
    repetition_penalty: float = 1.0  # worsens the scores of tokens written before
    top_p: float = 1.0  # draw from the likeliest tokens that reach this probability; sample only
    temperature: float = 1.0  # log-probabilities are divided by it; in sampling
    block_trigrams: bool = False  # forbid a trigram that the report already has
    num_samples: int = 0  # candidates drawn beside the beams, at `temperature`
    precision: str = "fp32"  # of autocast: fp32, bf16 or fp16
    # Weights of half precision compute in float32 too, so that a report does not depend on its
    # batch; None: except on GPUs, where they may not fit.
    float32_weights: bool | None = None
    # Gets the ids of the first study's report so far, after each of them; not called by beams.
    on_tokens: Callable[[list[int]], None] | None = None

    @property
    def beam_settings(self) -> dict[str, Any]:
        """The keyword arguments of `beam_search` and `finished_beams`."""
        return {
            "beam_size": self.beam_size,
            "max_words": self.max_new_tokens,
            "length_penalty": self.length_penalty,
            "block_trigrams": self.block_trigrams,
        }


class DecodingState(Protocol):
    """Where the decoding of b studies with k reports each stands."""

    def select(self: State, rows: Tensor) -> State:
        """Keep some rows, (studies kept, reports per study): in each line those of one old study.

        The lines keep the order of the studies. A study in several lines becomes several studies.
        """

    def keep(self: State, rows: Tensor) -> State:
        """Keep some rows in their order, (reports kept,): of each study as many as there are."""


class StepDecoder(Protocol[State]):
    """A decoder that generation can drive word by word."""

    begin: int  # the id that opens every report
    end: int  # the one that closes it

    @property
    def device(self) -> device:
        """Where its tensors lie."""

    def start(self, encoded: Any, num_beams: int) -> State:
        """Begin to decode ``num_beams`` reports for every study in ``encoded``."""

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Take the last words (b k,); give log-probabilities (b k, w) and the new state."""
