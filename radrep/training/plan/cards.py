"""GPUs that plans know, with what their makers publish: the one table of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from radrep.errors import RadrepError
from radrep.training.parallel.launch import parse_devices

GIB = 2**30


@dataclass(frozen=True)
class Card:
    """Memory in GiB, and peak rates of dense matrix products in TFLOP/s by the data sheet."""

    memory: float
    bf16: float
    tf32: float
    fp32: float

    def rate(self, precision: str, *, tf32: bool) -> float:
        """FLOP/s in a recipe's `train.precision`; fp16 is as fast as bf16 on all of these."""
        if precision != "fp32":
            return self.bf16 * 1e12
        return (self.tf32 if tf32 else self.fp32) * 1e12


CARDS: Mapping[str, Card] = {
    "B200-180GB": Card(179.0, 2250.0, 1100.0, 75.0),
    "H200-141GB": Card(140.4, 989.0, 494.0, 67.0),
    "H100-80GB": Card(79.6, 989.0, 494.0, 67.0),  # SXM
    "H100-PCIe-80GB": Card(79.6, 756.0, 378.0, 51.0),
    "A100-80GB": Card(79.3, 312.0, 156.0, 19.5),
    "A100-40GB": Card(39.6, 312.0, 156.0, 19.5),
    "L40S-48GB": Card(44.7, 362.0, 183.0, 91.6),
    "A6000-48GB": Card(47.5, 154.8, 77.4, 38.7),
    "RTX4090-24GB": Card(23.6, 165.2, 82.6, 82.6),
    "RTX3090-24GB": Card(23.6, 71.0, 35.6, 35.6),
    "A10-24GB": Card(22.5, 125.0, 62.5, 31.2),
    "L4-24GB": Card(22.5, 121.0, 60.5, 30.3),
}


@dataclass(frozen=True)
class Devices:
    """So many cards of one kind in each of so many machines."""

    name: str
    card: Card
    per_node: int
    nodes: int

    @property
    def total(self) -> int:
        """All of them: one process each."""
        return self.per_node * self.nodes


def find_devices(text: str, nodes: int = 1) -> Devices:
    """The devices of "8xH100-80GB", or "H100-80GB" for one; RadrepError names the known cards."""
    count, kind = parse_devices(text)
    name = next((name for name in CARDS if name.lower() == kind), None)
    if name is None:
        raise RadrepError(
            f"--devices must be a number and a card, such as 8xH100-80GB, got '{text}'. Known "
            f"cards: {', '.join(CARDS)}"
        )
    return Devices(name, CARDS[name], count, nodes)
