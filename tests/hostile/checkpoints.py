"""Bad runs and checkpoints: one file of a good one is another, under checksums of its own."""

import hashlib
import io
import json
import pickle
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from tests.hostile.kinds import BROKEN, ESC, Code, Input

Change = Callable[[bytes], bytes]


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def _tensor(change: Callable[[dict[str, Any]], None]) -> Change:
    """Weights in whose header the first tensor is another."""

    def changed(old: bytes) -> bytes:
        length = struct.unpack("<Q", old[:8])[0]
        header = json.loads(old[8 : 8 + length])
        change(next(value for key, value in header.items() if key != "__metadata__"))
        return safetensors(header, old[8 + length :])

    return changed


def _about(**about: str) -> Change:
    """Weights with other metadata."""

    def changed(old: bytes) -> bytes:
        length = struct.unpack("<Q", old[:8])[0]
        header = json.loads(old[8 : 8 + length])
        header["__metadata__"] = header["__metadata__"] | about
        return safetensors(header, old[8 + length :])

    return changed


def _recipe(**changes: object) -> Change:
    """A recipe with other values by dotted key, "__" for each dot."""

    def changed(old: bytes) -> bytes:
        recipe = yaml.safe_load(old)
        for name, value in changes.items():
            *sections, key = name.split("__")
            section = recipe
            for inner in sections:
                section = section[inner]
            section[key] = value
        return yaml.safe_dump(recipe).encode()

    return changed


def _words(change: Callable[[dict[str, Any]], object]) -> Change:
    """A vocabulary file whose object is changed."""

    def changed(old: bytes) -> bytes:
        row = json.loads(old)
        other = change(row)
        return json.dumps(row if other is None else other).encode()

    return changed


def _state(change: Callable[[Any], Any]) -> Change:
    """A training state that is another."""

    def changed(old: bytes) -> bytes:
        file = io.BytesIO()
        torch.save(change(torch.load(io.BytesIO(old), weights_only=True)), file)
        return file.getvalue()

    return changed


def _set(**values: object) -> Callable[[dict[str, Any]], None]:
    return lambda target: target.update(values)


def _zip(content: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", b"3\n")
    return file.getvalue()


TUPLES = b"\x80\x02)" + b"\x86".join([b"q%c" % k + b"h%c" % k for k in range(60)]) + b"."
WEIGHTS: dict[str, bytes | Change] = BROKEN | {
    "endless header": safetensors(b"{}", length=2**62),
    "deep header": safetensors(b'{"a":' * 50_000),
    "huge shape": _tensor(_set(shape=[2**40, 2**40])),
    "overflowing shape": _tensor(_set(shape=[2**32, 2**32])),
    "other shape": _tensor(_set(shape=[1], data_offsets=[0, 4])),
    "backwards": _tensor(_set(data_offsets=[100, 0])),
    "past the end": _tensor(_set(data_offsets=[0, 2**50])),
    "negative": _tensor(_set(data_offsets=[-8, 0])),
    "unknown type": _tensor(_set(dtype="X99")),
    "no tensor": safetensors({"__metadata__": {"prepared_size": "64"}}),
    "names with escapes": safetensors(
        {ESC: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}
    ),
    "giant prepared size": _about(prepared_size="9" * 5000),
    "huge prepared size": _about(prepared_size="1000000000"),
    "negative prepared size": _about(prepared_size="-5"),
    "no prepared size": _about(prepared_size="\x1b[31m"),
    "deep hub": _about(hub="[" * 50_000),
    "hub of lists": _about(hub="[[1]]"),
    "hub of no part": _about(hub='{"a.b": "x/y@z"}'),
    "hub with escapes": _about(hub=json.dumps({"backbone": ESC})),
}
RECIPES: dict[str, bytes | Change] = {
    "empty": b"",
    "object": b"!!python/object/apply:os.system [touch owned]",
    "wide": _recipe(model__transformer__dim=65_536, model__transformer__num_heads=1),
    "wider than any": _recipe(model__transformer__dim=10**12),
    "large memory": _recipe(model__memory__size=65_536, model__transformer__dim=32_768),
    "many layers": _recipe(model__transformer__num_layers=1000),
    "more layers than any": _recipe(model__transformer__num_layers=10**9),
    "wide enhancer": _recipe(model__enhancer__dim=65_536, model__enhancer__expand=1000),
    "many regions": _recipe(model__regions={"regions_per_side": [1000] * 100}),
    "large images": _recipe(data__image_size=10**6),
    "many views": _recipe(data__max_views=10**9),
    "many beams": _recipe(decode={"method": "beam", "beam_size": 1000, "max_new_tokens": 50}),
    "endless reports": _recipe(decode__max_new_tokens=10**15),
    "another model": _recipe(model={"name": "autoregressive"}),
    "large language model": _recipe(
        model={
            "name": "emrrg",
            "encoder": {"size": "nano"},
            "language_model": {
                "name": "small", "train": "trained", "dim": 65_536, "num_layers": 1000},
        }
    ),
    "no backbone": _recipe(model__backbone__name="no_such_model"),
    "backbone of a folder": _recipe(model__backbone__name="local-dir:/etc"),
    "backbone with escapes": _recipe(model__backbone__name=ESC),
    "larger backbone": _recipe(model__backbone__name="vit_giant_patch14_dinov2"),
    "unknown cleaner": _recipe(data__tokenizer={"cleaner": "/etc/passwd"}),
    "a pipe of a discriminator": _recipe(
        data__images="views+mask", data__saliency={"discriminator": "/dev/stdin"}
    ),
}  # fmt: skip
VOCABULARIES: dict[str, bytes | Change] = BROKEN | {
    "list": b"[]",
    "none": _words(_set(vocabulary=[])),
    "unknown alone": _words(_set(vocabulary=["<unk>"])),
    "numbers": _words(_set(vocabulary=[1, 2])),
    "words with escapes": _words(
        lambda row: _set(vocabulary=sorted(f"{word}{ESC}" for word in row["vocabulary"]))(row)
    ),
    "half a pair": _words(
        lambda row: _set(vocabulary=sorted([*row["vocabulary"][1:], "\ud800"]))(row)
    ),
    "many words": _words(
        lambda row: _set(
            vocabulary=sorted({*row["vocabulary"], *(f"w{k}" for k in range(500_000))})
        )(row)
    ),
    "giant count": _words(_set(min_count=10**4000)),
    "deep kind": b'{"kind": ' + b"[" * 90 + b"]" * 90 + b"}",
}
CHECKSUMS: dict[str, bytes | Change] = BROKEN | {
    "list": b"[]",
    "numbers": b'{"weights.safetensors": 1, "recipe.yaml": null, "vocabulary.json": []}',
    "leads out": b'{"../../../../../etc/passwd": "x", "/etc/passwd": "y"}',
    "optimizer elsewhere": b'{"../../../../../../etc/passwd.distcp": "x"}',
}
TRAINING: dict[str, bytes | Change] = {
    "empty": b"",
    "noise": BROKEN["noise"],
    "code": pickle.dumps(Code(), 2),
    "code in a zip": _zip(pickle.dumps(Code(), 2)),
    "deflated": _zip(bytes(10**8), zipfile.ZIP_DEFLATED),
    "tuples of tuples": _zip(TUPLES),
    "far place in memory": _zip(b"\x80\x02Nr\xff\xff\xff\x7f."),
    "list": _state(lambda state: [1]),
    "nothing in it": _state(lambda state: {}),
    "no progress": _state(lambda state: {**state, "progress": None}),
    "unknown progress": _state(lambda state: {**state, "progress": {"a": 1}}),
    "progress of texts": _state(
        lambda state: {**state, "progress": dict.fromkeys(state["progress"], ESC)}
    ),
    "huge step": _state(lambda state: {**state, "progress": {**state["progress"], "step": 10**18}}),
    "negative step": _state(
        lambda state: {**state, "progress": {**state["progress"], "step": -1, "epoch": -5}}
    ),
    "no optimizer": _state(lambda state: {**state, "optimizer": {"state": {}, "param_groups": []}}),
    "optimizer of texts": _state(lambda state: {**state, "optimizer": ESC}),
}
LOGS: dict[str, bytes | Change] = {
    "noise": BROKEN["noise"],
    "list": b"[]\n" * 3,
    "no step": b'{"a": 1}\n',
    "step of text": b'{"step": "\\u001b[31m"}\n',
    "deep": b"[" * 50_000,
    "giant number": b'{"step": ' + b"9" * 5000 + b"}\n",
}


def _changed(file: str, new: bytes | Change, command: list[str], base: Path, folder: Path):
    """A copy of the run with one file of its best checkpoint, or of itself, changed."""
    shutil.copytree(base / "run", folder / "run", symlinks=True)
    place = folder / "run" / file
    place.write_bytes(new if isinstance(new, bytes) else new(place.read_bytes()))
    if place.parent.name == "best" and place.name != "checksums.json":
        names = [path for path in place.parent.iterdir() if path.name != "checksums.json"]
        sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in names}
        (place.parent / "checksums.json").write_text(json.dumps(sums))
    return command


def _best(make: Callable[[Path], None], base: Path, folder: Path) -> list[str]:
    """A copy of the run whose `best` is another."""
    shutil.copytree(base / "run", folder / "run", symlinks=True)
    (folder / "run/best").unlink()
    make(folder / "run/best")
    return ["generate", str(base / "film.png"), "--checkpoint", "run"]


BESTS: dict[str, Callable[[Path], None]] = {
    "text that leads out": lambda best: best.write_text("../../../../etc"),
    "noise": lambda best: best.write_bytes(BROKEN["noise"]),
    "link to itself": lambda best: best.symlink_to("best"),
    "link out": lambda best: best.symlink_to("/etc"),
    "link to a device": lambda best: best.symlink_to("/dev/zero"),
}


def _bundle(make: Callable[[zipfile.ZipFile, Path], None], base: Path, folder: Path) -> list[str]:
    """A bundle of the run's best checkpoint, as another makes it."""
    with warnings.catch_warnings(), zipfile.ZipFile(folder / "run.zip", "w") as archive:
        warnings.simplefilter("ignore")  # zipfile warns of a name that is there twice
        make(archive, base / "run/best")
    return ["generate", str(base / "film.png"), "--checkpoint", "run.zip"]


def _pack(archive: zipfile.ZipFile, best: Path, *leave: str) -> None:
    for file in best.iterdir():
        if file.name not in leave:
            archive.write(file, file.name)


def _pack_twice(archive: zipfile.ZipFile, best: Path) -> None:
    _pack(archive, best)
    _pack(archive, best)


def _pack_and(name: str, content: bytes, method: int = zipfile.ZIP_STORED):
    def make(archive: zipfile.ZipFile, best: Path) -> None:
        _pack(archive, best, name)
        archive.writestr(name, content, method)

    return make


BUNDLES: dict[str, Callable[[zipfile.ZipFile, Path], None]] = {
    "nothing": lambda archive, best: None,
    "no weights": lambda archive, best: _pack(archive, best, "weights.safetensors"),
    "leads out": _pack_and("../../owned", b"x"),
    "absolute": _pack_and("/tmp/owned", b"x"),
    "a bomb": _pack_and("vocabulary.json", bytes(10**8), zipfile.ZIP_DEFLATED),
    "twice": _pack_twice,
    "noise for weights": _pack_and("weights.safetensors", BROKEN["noise"]),
    "escapes": _pack_and(f"{ESC}.json", b"x"),
}


def all_inputs(base: Path) -> Iterator[Input]:
    """Those of a run under `base`, beside a film."""
    generate = ["generate", str(base / "film.png"), "--checkpoint", "run"]
    resume = ["train", "run", "--resume", "--set", "train.epochs=3"]
    for kind, file, command, inputs in (
        ("weights", "best/weights.safetensors", generate, WEIGHTS),
        ("checkpoint's recipe", "best/recipe.yaml", generate, RECIPES),
        ("vocabulary", "best/vocabulary.json", generate, VOCABULARIES),
        ("checksums", "best/checksums.json", generate, CHECKSUMS),
        ("training state", "best/training.pt", resume, TRAINING),
        ("log", "metrics.jsonl", resume, LOGS),
        ("environment", "environment.json", resume, {"list": b"[]", "deep": b"[" * 50_000}),
    ):
        for name, new in inputs.items():
            yield Input(kind, name, partial(_changed, file, new, command, base))
    for name, pack in BUNDLES.items():
        yield Input("bundle", name, partial(_bundle, pack, base))
    for name, make in BESTS.items():
        yield Input("best", name, partial(_best, make, base))
