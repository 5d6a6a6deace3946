"""What lies in a folder, for comparing what a disturbed and an undisturbed writer leave."""

import json
from pathlib import Path
from typing import Any

import torch


def read_contents(folder: Path) -> dict[str, Any]:
    """The content of every file, by its path below a folder (or of a file, by ".").

    Without locks, and without environment.json, which notes the commit of the last start.
    Of training.pt and of weights it is what is in them: pickle writes equal strings once or twice,
    by how they came into memory, and safetensors its metadata in any order.
    """
    paths = [p for p in (folder, *folder.rglob("*")) if p.is_symlink() or p.is_file()]
    return {
        str(path.relative_to(folder)): _content(path)
        for path in paths
        if not path.name.endswith(".lock") and path.name != "environment.json"
    }


def name_differences(left: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The names of files that differ; "" if none do."""
    names = {name for name in left.keys() | wanted.keys() if left.get(name) != wanted.get(name)}
    return f"other files than without: {sorted(names)}" if names else ""


def _content(path: Path) -> Any:
    if path.is_symlink():
        return str(path.readlink())
    if path.name == "training.pt":
        return _plain(torch.load(path, weights_only=True))
    if path.name == "checksums.json":
        return {k: v for k, v in json.loads(path.read_text()).items() if k != "training.pt"}
    if path.suffix == ".safetensors" and path.stat().st_size > 8:  # its names are in any order
        content = path.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        return json.loads(content[8:end]), content[end:]
    return path.read_bytes()


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.shape, value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
