"""Files of weights, training state and checksums."""

from contextlib import suppress
from pathlib import Path

from radrep.errors import CheckpointError
from radrep.weights.checkpoint import load_training
from radrep.weights.files import find_change, read_weights
from radrep.weights.import_public import read_public


def read(file: Path) -> None:
    names = ("weights.safetensors", "training.pt", "checksums.json")
    weights, training, checksums = (file.with_name(name) for name in names)
    for copy in (weights, training, checksums):
        copy.write_bytes(file.read_bytes())
    find_change(file.parent, (file.name,))
    with suppress(CheckpointError):
        read_weights(weights, verified=True)
    with suppress(CheckpointError):
        load_training(training.parent)
    read_public(file)
