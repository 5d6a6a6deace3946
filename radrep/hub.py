"""Where weights come from: installed packages and the Hugging Face hub, and which commit they are.

A module whose weights are from the hub has an attribute `hub_source`, "OWNER/MODEL@COMMIT".
"""

import importlib.util
from pathlib import Path
from typing import Any

from torch import nn

from radrep.errors import CheckpointError


def hub_sources(model: nn.Module) -> dict[str, str]:
    """Name of each part with weights from the hub, and "OWNER/MODEL@COMMIT"."""
    return {
        name: module.hub_source
        for name, module in model.named_modules()
        if isinstance(getattr(module, "hub_source", None), str)
    }


def set_hub_source(module: Any, repository: str, revision: str | None, *files: str) -> None:
    """Note the commit of one of the given files in the hub's cache, which has just been read."""
    from huggingface_hub import try_to_load_from_cache  # takes a while

    for file in files:
        found = try_to_load_from_cache(repository, file, revision=revision)
        if isinstance(found, str):  # .../snapshots/COMMIT/FILE
            module.hub_source = f"{repository}@{Path(found).parent.name}"
            return
    module.hub_source = f"{repository}@{revision or 'unknown'}"


def packaged_file(package: str, pattern: str, command: str) -> Path:
    """The file that an installed package ships; the error names the command that installs it."""
    spec = importlib.util.find_spec(package.replace("-", "_"))
    folders = (spec and spec.submodule_search_locations) or []
    files = [file for folder in folders for file in sorted(Path(folder).rglob(pattern))]
    if not files:
        raise CheckpointError(f"{package} is not installed. Install it with: {command}")
    return files[0]


def first_line(error: Exception) -> str:
    """The first line of an error of the hub, the network or a file reader."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
