"""Bad prepared folders, and bad reports of other programs."""

import gzip
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
from PIL import Image

from tests.hostile.kinds import BROKEN, ESC, Input

_SHARD = "train-00000.arrow"


def _record(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    """A record that is changed, without a checksum of its own."""

    def changed(old: bytes) -> bytes:
        record = json.loads(old)
        record.pop("sha256", None)
        change(record)
        return json.dumps(record).encode()

    return changed


def _first(**values: object) -> Callable[[bytes], bytes]:
    return _record(lambda record: record["shards"][0].update(values))


def _rows(change: Callable[[pyarrow.Table], pyarrow.Table]) -> Callable[[bytes], bytes]:
    """A shard with other rows."""

    def changed(old: bytes) -> bytes:
        table, file = change(pyarrow.ipc.open_stream(old).read_all()), io.BytesIO()
        with pyarrow.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
        return file.getvalue()

    return changed


def _column(name: str, make: Callable[[int], list[Any]]) -> Callable[[bytes], bytes]:
    def change(table: pyarrow.Table) -> pyarrow.Table:
        place = table.column_names.index(name)
        return table.set_column(place, name, [make(len(table))])

    return _rows(change)


def _images(content: bytes | None) -> Callable[[bytes], bytes]:
    return _column("images", lambda n: [[{"bytes": content, "path": "/etc/passwd"}]] * n)


def _picture(mode: str, side: int) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, "PNG")
    return file.getvalue()


RECORDS: dict[str, bytes | Callable[[bytes], bytes]] = BROKEN | {
    "list": b"[]",
    "no shards": _record(lambda record: record.update(shards=[])),
    "shards of texts": _record(lambda record: record.update(shards=[ESC])),
    "a shard twice": _record(lambda record: record["shards"].append(record["shards"][0])),
    "a shard elsewhere": _first(name="../../../etc/passwd"),
    "a shard with escapes": _first(name=ESC + ".arrow"),
    "a shard of 10^18 studies": _first(studies=10**18, images=10**18),
    "a shard of no split": _first(split=ESC),
    "no recipe": _record(lambda record: record.update(recipe={})),
    "huge images": _record(lambda record: record["recipe"].update(image_size=10**12)),
    "notes with escapes": _record(lambda record: record.update(notes=[ESC], layout=ESC)),
    "notes that are none": _record(lambda record: record.update(notes=[{"a": [1]}], counts={})),
    "leaks that are none": _record(lambda record: record.update(leaks={"a": ESC})),
}
SHARDS: dict[str, bytes | Callable[[bytes], bytes]] = {
    "empty": b"",
    "noise": BROKEN["noise"],
    "half": lambda old: old[: len(old) // 2],
    "without its end": lambda old: old[:-8],
    "no column": _rows(lambda table: table.select([])),
    "a column too few": _rows(lambda table: table.drop_columns(["report"])),
    "numbers for ids": _column("id", lambda n: [*range(n)]),
    "no ids": _column("id", lambda n: pyarrow.array([None] * n, pyarrow.string())),
    "one id": _column("id", lambda n: ["a"] * n),
    "ids with escapes": _column("id", lambda n: [f"{ESC}{k}" for k in range(n)]),
    "texts that are none": lambda old: old.replace(
        b"phantom-0", b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8\xf7"
    ),
    "places elsewhere": lambda old: old.replace(
        b"\x0e\0\0\0\x1c\0\0\0", b"\x0e\0\0\0\xff\xff\xff\x7f"
    ),
    "hashes that are none": _column("sha256", lambda n: [["x"]] * n),
    "more names than images": _column("names", lambda n: [["a", "b"]] * n),
    "no sections": _column("sections", lambda n: [None] * n),
    "no images": _column("images", lambda n: [[]] * n),
    "images of files": _images(None),
    "images of noise": _images(BROKEN["noise"]),
    "images in colour": _images(_picture("RGB", 64)),
    "images of 100 million pixels": _images(_picture("1", 10_000)),
    "small images": _images(_picture("L", 1)),
}


def _prepared(
    file: str,
    new: bytes | Callable[[bytes], bytes],
    command: list[str],
    base: Path,
    folder: Path,
) -> list[str]:
    """A copy of a prepared folder in which one file is another, and its checksum fits it."""
    shutil.copytree(base / "data", folder / "data")
    _change(folder / "data" / file, new)
    return command


def _change(place: Path, new: bytes | Callable[[bytes], bytes]) -> None:
    """Write another content; that of a shard gets its checksum."""
    place.write_bytes(new if isinstance(new, bytes) else new(place.read_bytes()))
    if place.name == _SHARD:
        file = place.with_name("prepared.json")
        record = json.loads(file.read_text())
        record.pop("sha256", None)
        shard = next(shard for shard in record["shards"] if shard["name"] == place.name)
        shard["sha256"] = hashlib.sha256(place.read_bytes()).hexdigest()
        file.write_text(json.dumps(record))


MASKS: dict[str, bytes | Callable[[bytes], bytes]] = {
    "noise": BROKEN["noise"],
    "half": lambda old: old[: len(old) // 2],
    "no column": _rows(lambda table: table.select([])),
    "numbers for ids": _column("id", lambda n: [*range(n)]),
    "ids of others": _column("id", lambda n: [f"{ESC}{k}" for k in range(n)]),
    "masks of files": _column("masked", lambda n: [{"bytes": None, "path": "/etc/passwd"}] * n),
    "masks of noise": _column("masked", lambda n: [{"bytes": b"x" * 99, "path": None}] * n),
    "masks in colour": _column(
        "masked", lambda n: [{"bytes": _picture("RGB", 64), "path": None}] * n
    ),
    "masks of another size": _column(
        "masked", lambda n: [{"bytes": _picture("L", 1), "path": None}] * n
    ),
}


def _masked(
    file: str, new: bytes | Callable[[bytes], bytes], base: Path, folder: Path
) -> list[str]:
    """A copy of a prepared folder with masks, of which one file is another."""
    shutil.copytree(base / "masked", folder / "data")
    (place,) = (folder / "data/saliency").glob(f"*/{file}")
    _change(place, new)
    return ["train", str(base / "masked.yaml"), "--set", "data.prepared=data", "--out", "out"]


PREDICTIONS = (
    BROKEN
    | {
        name: text.encode()
        for name, text in {
            "ids with escapes": f"id,report\n{ESC},x\n",
            "an id twice": "id,report\na,x\na,y\n",
            "many columns": ",".join(f"c{k}" for k in range(50_000)) + "\n" + "," * 49_999 + "\n",
            "a column of marks": "id,report\n" + "," * 1_000_000,
            "a long cell": 'id,report\na,"' + "x" * 2_000_000 + '"\n',
            "a long header": '"' + "x" * 2_000_000 + '",report\na,b\n',
            "a long word": "id,report\na," + "x" * 900_000 + "\n",
            "lists in lists": '{"a": ' + "[" * 90 + "]" * 90 + "}",
            "empty lists": "[" + "[]," * 2_000_000 + "[]]",
            "empty objects": "[" + "{}," * 2_000_000 + "{}]",
            "texts of nothing": "[" + '"",' * 2_000_000 + '""]',
            "half a pair": '{"a": "\\ud800"}',
            "a giant number": '{"a": ' + "9" * 5000 + "}",
            "infinity": '{"a": Infinity, "b": NaN}',
            "splits in splits": '{"test": {"test": {"test": []}}}',
            "many ids": "id,report\n" + "".join(f"{k},clear\n" for k in range(100_000)),
            "one column": "report\n" + "clear .\n" * 100_000,
        }.items()
    }
    | {"gzip of spaces": gzip.compress(b"[" + b" " * 10_000_000, 1) * 100}
)


def _predictions(content: bytes, base: Path, folder: Path) -> list[str]:
    (folder / "theirs").write_bytes(content)
    return ["eval", "--predictions", "theirs", "--references", str(base / "data"), *_FAST]


def _references(content: bytes, base: Path, folder: Path) -> list[str]:
    (folder / "ours").write_bytes(content)
    (folder / "theirs").write_text("id,report\na,clear .\n")
    return ["eval", "--predictions", "theirs", "--references", "ours", *_FAST]


_FAST = ["--no-meteor", "--out", "scores"]


def all_inputs(base: Path) -> Iterator[Input]:
    """Those made from prepared phantoms under `base`."""
    for number, (name, new) in enumerate(RECORDS.items()):
        command = (["data", "show", "data"], ["data", "check", "data"])[number % 2]
        yield Input("record", name, partial(_prepared, "prepared.json", new, command, base))
    for name, new in SHARDS.items():
        for verb in ("check", "show"):
            command = ["data", verb, "data"]
            yield Input(f"shard, {verb}", name, partial(_prepared, _SHARD, new, command, base))
    for name, new in MASKS.items():
        yield Input("masks", name, partial(_masked, _SHARD, new, base))
    for name in ("noise", "list", "shards of texts", "a shard elsewhere"):
        yield Input("masks' record", name, partial(_masked, "prepared.json", RECORDS[name], base))
    for name, content in PREDICTIONS.items():
        yield Input("predictions", name, partial(_predictions, content, base))
        yield Input("references", name, partial(_references, content, base))
