"""Headers of GGUF files that claim more than is there are refused before gguf believes them."""

import struct
from pathlib import Path

import numpy as np
import pytest

from radrep.errors import CheckpointError
from radrep.gguf_files import check_gguf
from radrep.modules.language_model import load_language_model
from tests.runaway import no_runaway


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def header(*keys: bytes, tensors: int = 0, count: int | None = None) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", 3, tensors, len(keys) if count is None else count) + (
        b"".join(keys)
    )


def tensor(*dims: int, kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return text("weight") + sizes + struct.pack("<IQ", kind, offset)


def listed(kind: int, count: int, content: bytes = b"") -> bytes:
    return text("tokens") + struct.pack("<IIQ", 9, kind, count) + content


FAULTS = {
    "nothing": (b"", "does not begin as GGUF"),
    "cut": (header(count=1), "its header is cut off"),
    "many keys": (header(count=2**40), "claims 0 tensors and 1099511627776 keys"),
    "many tensors": (header(tensors=2**40), "claims 1099511627776 tensors"),
    "endless key": (header(struct.pack("<Q", 2**62)), "bytes that are not there"),
    "endless text": (
        header(text("k") + struct.pack("<IQ", 8, 2**62)), "bytes that are not there",
    ),
    "endless list": (header(listed(4, 2**60)), "its lists have more than 3,000,000 items"),
    "list past the end": (header(listed(4, 1000)), "claims 4,000 bytes that are not there"),
    "list of lists": (header(listed(9, 1)), "a value is of the unknown type 9"),
    "unknown type": (header(text("k") + struct.pack("<I", 77)), "of the unknown type 77"),
    "many layers": (
        header(text("llama.block_count") + struct.pack("<II", 4, 10**9)),
        "llama.block_count is 1,000,000,000",
    ),
    "huge tensor": (header(tensors=1) + tensor(2**31, 2**31), "its tensors take"),
    "overlapping tensors": (
        header(tensors=3) + 3 * tensor(100) + bytes(400), "its tensors take 1,200 bytes",
    ),
    "far tensor": (header(tensors=1) + tensor(1, offset=2**62), "its tensors take"),
    "unknown quantisation": (header(tensors=1) + tensor(1, kind=999), "999"),
    "many dimensions": (header(tensors=1) + tensor(*[1] * 9), "a tensor has 9 dimensions"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_header_that_does_not_fit_its_file_is_named_at_once(tmp_path: Path, fault: str) -> None:
    content, message = FAULTS[fault]
    (tmp_path / "x.gguf").write_bytes(content)
    refused = pytest.raises(CheckpointError, match=rf"x\.gguf cannot be loaded: .*{message}")
    with no_runaway(5), refused:
        load_language_model(str(tmp_path / "x.gguf"), cache_folder=tmp_path / "cache")


def test_what_gguf_itself_writes_is_read(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_array("words", ["a", "bc"])
    writer.add_array("scores", [1.0, 2.0])
    writer.add_bool("flag", True)
    writer.add_block_count(30)
    writer.add_tensor("weight", np.ones((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert check_gguf(tmp_path / "x.gguf") == 128
