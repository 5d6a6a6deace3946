"""Bad inputs by kind: each writes files into an empty folder and returns a command."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.dicom.drawing import GREY
from tests.hostile import checkpoints, data_folders, films, language_models
from tests.hostile.kinds import BROKEN, DEEP, ESC, Input

ALIASES = "a0: &a0 [x, x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 30)
)
RECIPES = BROKEN | {
    name: text.encode()
    for name, text in {
        "aliases": ALIASES,
        "merge keys": ALIASES.replace("[x, x]", "{k: 1}")
        .replace(": [", ": {<<: [")
        .replace("]\n", "]}\n"),
        "alias in itself": "a: &a [*a]",
        "object": "!!python/object/apply:os.system [touch owned]",
        "name": "a: !!python/name:os.system",
        "no number": 'a: !!int ""',
        "no truth": "a: !!bool maybe",
        "no date": "a: 2024-02-31",
        "base 60": "train: {seed: " + "1:" * 30_000 + "1}",
        "hexadecimal": "train: {seed: 0x" + "f" * 60_000 + "}",
        "many keys": "".join(f"key{k}: 1\n" for k in range(9000)),
        "long key": "k" * 60_000 + ": 1",
        "list of keys": "? [a, b]\n: 1",
        "escapes in a key": f'"{ESC.encode("unicode_escape").decode()}": 1',
        "dashes": "- " * DEEP,
        "extends itself": "extends: recipe.yaml",
        "extends a device": "extends: /dev/zero",
        "extends a folder": "extends: /",
        "out of range": "task: train\ntrain: {epochs: 1.0e+400, seed: -.inf}",
        "tabs": "\t" * DEEP,
    }.items()
}
SETS = (
    "", "=", "a", ".=1", "a..b=1", "model=1", "model.x.y.z=1", "out=" + "[" * DEEP,
    "out=" + "x" * 100_000, "out=../\x1b[2J", "out=/dev/null/x", "train.seed=1e400",
    "train.seed=" + "9" * 5000, "train.seed=!!int ''", "train.seed=" + "1:" * 20_000 + "1",
    "optim.lr=.nan", "optim.lr=" + "1:" * 20_000 + "1.0", "data={a: &a [*a]}", "optim=",
    "data.prepared=" + "a/" * 5000, "model.name=" + ESC, "train.epochs=1_000_000_000_000_000",
)  # fmt: skip
ROW = "a.png,Clear.\n"
TABLES = BROKEN | {
    "no image column": b"report\nx\n",
    "quote without end": b'image,report\n"a.png,' + b"x" * 1_000_000,
    "many columns": b",".join(b"c%d" % k for k in range(20_000)) + b"\n" + b"," * 19_999 + b"\n",
    "many marks": b"image,report\n" + b"," * 1_000_000,
    "long name": b"image,report\n" + b"a" * 5000 + b".png,x\n",
    "leads out": b"image,report\n../../../../etc/passwd,x\n/etc/passwd,y\n",
    "nul in a name": b"image,report\na\\0.png,x\n",
    "escapes in ids": f"image,report,study_id\na.png,x,{ESC}\n".encode(),
    "row of asterisks": ("image,report\na.png," + "*" * 20_000 + "findings: x\n").encode(),
    "row of names": ("image,report\na.png," + "a_" * 20_000 + ":\n").encode(),
    "thousands of headings": ("image,report\na.png," + "findings " * 20_000 + "\n").encode(),
    "list of lists": f'image,report\n"{"[" * 20_000}",x\n'.encode(),
    "gzip of nothing": gzip.compress(b""),
    "gzip cut off": gzip.compress(ROW.encode() * 1000)[:-20],
    "gzip line of gigabytes": gzip.compress(b"a" * 20_000_000, 1) * 150,
    "gzip of gigabytes in lines": gzip.compress(b"x" * 9_999_999 + b"\n", 1) * 5,
    "many patients": (
        "image,report,patient\n" + "".join(f"a.png,x,{'unknown ' * 400}1\n" for _ in range(5))
    ).encode(),
}
JSONS = {
    "numbers": b"[1, 2]",
    "text": b'"x"',
    "half a pair": b'{"image": "\\ud800.png", "report": "x"}',
    "giant number": b'{"image": "a.png", "report": ' + b"9" * 5000 + b"}",
    "nan": b'{"image": NaN, "report": Infinity}',
    "wrappers": b'{"data":' * 90 + b"[]" + b"}" * 90,
    "lists in lists": b'{"image": "a.png", "report": ' + b"[" * 200 + b"]" * 200 + b"}",
    "keys twice": b'{"image": "a.png", "image": "b.png", "report": "x"}',
    "two values": b'{"image": "a.png"} {"image": "b.png"}',
    "line that ends early": b'{"image": "a.png", "report": "x"}\n{"image": ',
    "gzip of gigabytes": gzip.compress(b"[" + b" " * 20_000_000, 1) * 150,
    "empty keys": b'{"": {"": {"": ""}}}',
}
ENTITY = '<!DOCTYPE a [{}]><eCitation><AbstractText Label="FINDINGS">{}</AbstractText></eCitation>'
XMLS = BROKEN | {
    name: text.encode()
    for name, text in {
        "laughs": ENTITY.format(
            '<!ENTITY e0 "ha">' + "".join(
                f'<!ENTITY e{k} "{f"&e{k - 1};" * 10}">' for k in range(1, 12)), "&e11;"),
        "long entity": ENTITY.format(f'<!ENTITY e "{"x" * 100_000}">', "&e;" * 100_000),
        "file": ENTITY.format('<!ENTITY e SYSTEM "file:///etc/passwd">', "&e;"),
        "outer dtd": '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd"><a/>',
        "parameter": ENTITY.format('<!ENTITY % e SYSTEM "file:///etc/passwd"> %e;', ""),
        "deep": "<a>" * 300_000,
        "attributes": "<a " + " ".join(f'a{k}="1"' for k in range(50_000)) + "/>",
        "unknown encoding": '<?xml version="1.0" encoding="\x1b[31m"?><a/>',
        "utf-7": '<?xml version="1.0" encoding="utf-7"?><a/>',
        "long text": "<a>" + "x" * 2_000_000 + "</a>",
    }.items()
}  # fmt: skip


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape")


NAME = "CXR1000_IM-0003-1001.png"
TARS = {
    "empty": b"",
    "noise": np.random.default_rng(1).bytes(4096),
    "cut header": gzip.compress(member(NAME, 100))[:-9],
    "cut content": gzip.compress(member(NAME, 10_000) + b"x"),
    "endless member": gzip.compress(member(NAME, 6 * 10**9)),
    "negative size": gzip.compress(member(NAME)[:124] + b"\xff" * 12 + member(NAME)[136:]),
    "leads out": gzip.compress(member("../../" + NAME, 4) + b"x" * 512),
    "absolute": gzip.compress(member("/tmp/" + NAME, 4) + b"x" * 512),
    "link": gzip.compress(member(NAME, 0, tarfile.SYMTYPE, "/etc/passwd")),
    "hard link": gzip.compress(member(NAME, 0, tarfile.LNKTYPE, "/etc/passwd")),
    "device": gzip.compress(member(NAME, 0, tarfile.CHRTYPE)),
    "pipe": gzip.compress(member(NAME, 0, tarfile.FIFOTYPE)),
    "long name": gzip.compress(member("x", 2 * 10**9, tarfile.GNUTYPE_LONGNAME)),
    "metadata": gzip.compress(member("x", 2 * 10**9, tarfile.XHDTYPE)),
    "broken metadata": gzip.compress(member("x", 512, tarfile.XHDTYPE) + b"99999 a=b\n" * 51),
    "many members": gzip.compress(member("x.txt") * 150_000, 1),
    "gigabytes": gzip.compress(member("x.txt", 900_000_000)) + gzip.compress(
        bytes(10**7), 1) * 90,
    "zeros at its end": gzip.compress(member(NAME)) + gzip.compress(bytes(10**7), 1) * 300,
}  # fmt: skip


def _text_file(name: str, content: bytes, command: list[str], folder: Path) -> list[str]:
    (folder / name).write_bytes(content)
    return command


def _table(name: str, content: bytes, folder: Path) -> list[str]:
    (folder / "raw").mkdir()
    (folder / "raw" / "a.png").write_bytes(encoded("PNG"))
    (folder / name).write_bytes(content)
    return ["prepare", "folder", "--raw", "raw", "--reports", name, *OUT]


def encoded(format_: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(GREY).save(file, format_)
    return file.getvalue()


def _xml(content: bytes, folder: Path) -> list[str]:
    (folder / "raw" / "ecgen-radiology").mkdir(parents=True)
    (folder / "raw" / "ecgen-radiology" / "1.xml").write_bytes(content)
    (folder / "raw" / NAME).write_bytes(encoded("PNG"))
    return ["prepare", "iu", "--raw", "raw", *OUT]


def _tar(name: str, content: bytes, folder: Path) -> list[str]:
    (folder / "raw").mkdir()
    (folder / "raw" / name).write_bytes(content)
    report = '<a><AbstractText Label="FINDINGS">x</AbstractText><parentImage id="{}"/></a>'
    if name == "NLMCXR_png.tgz":
        (folder / "raw" / "ecgen-radiology").mkdir()
        (folder / "raw" / "ecgen-radiology" / "1000.xml").write_text(report.format(NAME[:-4]))
    return ["prepare", "iu", "--raw", "raw", *OUT]


def _zip(make: Callable[[zipfile.ZipFile], None], folder: Path) -> list[str]:
    raw = folder / "raw"
    raw.mkdir()
    with zipfile.ZipFile(raw / "mimic-cxr-reports.zip", "w") as archive:
        make(archive)
    (raw / "cxr-record-list.csv").write_text(
        "subject_id,study_id,dicom_id,path\n10000032,50414267,a,files/p10/p10000032/s50414267/a.dcm\n"
    )
    (raw / "mimic-cxr-2.0.0-split.csv").write_text(
        "dicom_id,study_id,subject_id,split\na,50414267,10000032,train\n"
    )
    (raw / "files" / "p10" / "p10000032" / "s50414267").mkdir(parents=True)
    (raw / "files/p10/p10000032/s50414267/a.jpg").write_bytes(encoded("JPEG"))
    return ["prepare", "mimic", "--raw", "raw", *OUT]  # fmt: skip


REPORT = "files/p10/p10000032/s50414267.txt"
ZIPS: dict[str, Callable[[zipfile.ZipFile], None]] = {
    "bomb": lambda z: z.writestr(REPORT, bytes(10**8), zipfile.ZIP_DEFLATED, 1),
    "lzma": lambda z: z.writestr(REPORT, b"x", zipfile.ZIP_LZMA),
    "leads out": lambda z: z.writestr("../../" + REPORT, b"FINDINGS: x"),
    "nothing": lambda z: None,
}
OUT = ["--out", "out", "--workers", "1"]


def all_inputs(base: Path) -> Iterator[Input]:
    """Every input, those of a run with the good one under `base`."""
    for name, content in RECIPES.items():
        make = partial(_text_file, "recipe.yaml", content, ["train", "recipe.yaml"])
        yield Input("recipe", name, make)
    for value in SETS:
        command = ["train", "demo", "--set", value]
        yield Input("--set", repr(value[:30]), partial(_text_file, "x", b"", command))
    for name, content in TABLES.items():
        yield Input("table", name, partial(_table, "t.csv", content))
    for name, content in JSONS.items():
        yield Input("JSON", name, partial(_table, "t.json", content))
    for name, content in XMLS.items():
        yield Input("XML", name, partial(_xml, content))
    for name, content in TARS.items():
        yield Input("archive", name, partial(_tar, "NLMCXR_png.tgz", content))
    for name in ("gigabytes", "many members", "leads out"):
        yield Input("archive", f"reports, {name}", partial(_tar, "NLMCXR_reports.tgz", TARS[name]))
    for name, write in ZIPS.items():
        yield Input("archive", f"zip, {name}", partial(_zip, write))
    for others in (checkpoints, films, data_folders, language_models):
        yield from others.all_inputs(base)
