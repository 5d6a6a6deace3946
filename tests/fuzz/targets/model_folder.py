"""config.json and the index of weights of a folder of transformers."""

from contextlib import suppress
from pathlib import Path

from radrep.claimed_sizes import check_model_folder


def read(file: Path) -> None:
    for name in ("config.json", "model.safetensors.index.json"):
        file.with_name(name).write_bytes(file.read_bytes())
    with suppress(ValueError):  # which its caller names the folder in
        check_model_folder(file.parent)
    file.with_name("model.safetensors.index.json").unlink()
    with suppress(ValueError):
        check_model_folder(file.parent)
