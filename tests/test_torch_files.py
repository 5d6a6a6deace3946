"""Files of PyTorch that would hang or fill the memory are refused at once, by every reader."""

import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from radrep.errors import CheckpointError
from radrep.modules.backbone import Backbone
from radrep.modules.language_model import load_language_model
from radrep.modules.text_encoder import load_text_encoder
from radrep.torch_files import load_tensors
from radrep.weights.checkpoint import load_training
from radrep.weights.import_public import read_public
from tests.runaway import no_runaway


def nested(levels: int = 60) -> bytes:
    """A pickle of {tuples in tuples: 1}, each level holding the one below twice."""
    tuples = b")"
    for level in range(levels):
        tuples += b"q" + bytes([level]) + b"h" + bytes([level]) + b"\x86"
    return b"\x80\x02}" + tuples + b"K\x01s."


def write(path: Path, members: dict[str, bytes], *, packed: str = "") -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            how = zipfile.ZIP_DEFLATED if name == packed else zipfile.ZIP_STORED
            archive.writestr(f"x/{name}", content, compress_type=how)


SMALL = pickle.dumps({}, protocol=2)
START = {"version": b"3\n", "byteorder": b"little"}
MANY = 50_000_000


def make(name: str, path: Path) -> None:
    if name == "nested tuples":
        write(path, {"data.pkl": nested(), **START})
    elif name == "a long data.pkl":
        write(path, {"data.pkl": b"\x80\x02" + b"N0" * 10**7 + b"N.", **START})
    elif name == "a compressed storage":
        write(path, {"data.pkl": SMALL, **START, "data/0": b"0" * MANY}, packed="data/0")
    elif name == "a compressed byteorder":
        write(path, {"data.pkl": SMALL, "byteorder": b"0" * MANY}, packed="byteorder")
    elif name == "a member twice":
        write(path, {"data.pkl": SMALL, "data.pk2": nested()})
        path.write_bytes(path.read_bytes().replace(b"data.pk2", b"data.pkl"))
    else:
        torch.save({}, path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes().replace(SMALL, nested(), 1))


@pytest.mark.parametrize(
    "bomb",
    [
        *("nested tuples", "a long data.pkl", "a member twice"),
        *("a compressed storage", "a compressed byteorder", "nested tuples in an old file"),
    ],
)
@pytest.mark.parametrize("reader", ["import", "resume", "backbone"])
def test_bombs_are_refused_at_once(bomb: str, reader: str, tmp_path: Path) -> None:
    name = {"import": "x.pth", "resume": "training.pt", "backbone": "x.pth"}[reader]
    path = tmp_path / name
    make(bomb, path)
    readers: dict[str, Callable[[], object]] = {
        "import": lambda: read_public(path),
        "resume": lambda: load_training(tmp_path),
        "backbone": lambda: Backbone(name="resnet18", weights=str(path), image_size=32),
    }
    refused = pytest.raises(CheckpointError, match="tuples|data.pkl|compressed|overlap")
    with no_runaway(10), refused:
        readers[reader]()


@pytest.mark.parametrize("zipped", [True, False])
def test_what_pytorch_writes_is_read(zipped: bool, tmp_path: Path) -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(300)))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    written = {"optimizer": optimizer.state_dict(), "step": 3, "betas": (0.9, 0.95)}
    torch.save(written, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    read = load_tensors(tmp_path / "x.pt")
    assert read["betas"] == (0.9, 0.95)
    assert read["optimizer"]["state"].keys() == written["optimizer"]["state"].keys()


@pytest.mark.parametrize(
    "load", [load_text_encoder, partial(load_language_model, cache_folder=Path("x"))]
)
def test_pickled_weights_of_a_model_folder_are_bounded_before_transformers_reads_them(
    tmp_path: Path, load: Callable[[str], object]
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    write(tmp_path / "pytorch_model.bin", {"data.pkl": nested(), **START})
    refused = pytest.raises(CheckpointError, match="cannot be loaded: it has tuples of more than")
    with no_runaway(10), refused:
        load(str(tmp_path))
