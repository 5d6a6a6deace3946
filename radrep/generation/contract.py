"""What generation asks of a decoder."""

from typing import Any, Protocol, TypeVar

from torch import Tensor, device

State = TypeVar("State", bound="DecodingState")


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
