"""Bad images, DICOM files and folders of them, given to `radrep generate`."""

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.data.dicom.drawing import GREY, encode, item, write_dicom
from tests.hostile.kinds import BROKEN, ESC, Input


def _chunk(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def _png(width: int, height: int, *chunks: bytes, rows: bytes = b"", depth: int = 8) -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    data = _chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + data + _chunk(b"IEND", b"")


def _tiff(*entries: tuple[int, int, int, int], following: int = 0) -> bytes:
    """A TIFF of one directory: tag, type, count, value of each entry."""
    listed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return (
        b"II*\0"
        + struct.pack("<IH", 8, len(entries))
        + listed
        + struct.pack("<I", following)
        + bytes(64)
    )


SIDES = [(256, 4, 1, 100), (257, 4, 1, 100), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
GREY_PNG, GREY_JPEG = encode(GREY, "PNG"), encode(GREY, "JPEG")
BOMB = zlib.compress(bytes(10**8), 9)
FILES = {
    "PNG of 16 billion pixels": _png(2**17, 2**17),
    "PNG of 2^62 pixels": _png(2**31 - 1, 2**31 - 1),
    "PNG of no pixels": _png(0, 0),
    "PNG whose pixels are missing": _png(5000, 5000),
    "PNG of many black pixels": _png(9999, 9999, rows=bytes(10_000 * 9999)),
    "PNG with a text of 100 MB": _png(
        100, 100, _chunk(b"zTXt", b"a\0\0" + BOMB) * 50, rows=bytes(101 * 100)
    ),
    "PNG with a profile of 100 MB": _png(
        100, 100, _chunk(b"iCCP", b"a\0\0" + BOMB), rows=bytes(101 * 100)
    ),
    "PNG of 2^31 pictures": _png(
        100, 100, _chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)), rows=bytes(101 * 100)
    ),
    "PNG of 3 bits": _png(100, 100, depth=3),
    "PNG cut off": GREY_PNG[:200],
    "JPEG of 65535 x 65535": GREY_JPEG.replace(
        struct.pack(">HH", *GREY.shape), b"\xff\xff\xff\xff", 1
    ),
    "JPEG cut off": GREY_JPEG[:300],
    "JPEG of a thousand scans": GREY_JPEG[:-2]
    + GREY_JPEG[GREY_JPEG.index(b"\xff\xda") : -2] * 1000,
    "JPEG with lengths of nothing": b"\xff\xd8" + b"\xff\xe1\0\2" * 200_000,
    "JPEG with a broken EXIF": b"\xff\xd8\xff\xe1\x40\0Exif\0\0II*\0" + b"\xff" * 16_400,
    "TIFF of 2^62 pixels": _tiff((256, 4, 1, 2**31), (257, 4, 1, 2**31), *SIDES[2:]),
    "TIFF whose pages are a circle": _tiff(*SIDES, (273, 4, 1, 0), (279, 4, 1, 9), following=8),
    "TIFF of billions of strips": _tiff(*SIDES, (273, 4, 2**31, 8), (279, 4, 2**31, 8)),
    "TIFF with strips elsewhere": _tiff(*SIDES, (273, 4, 1, 2**32 - 1), (279, 4, 1, 2**32 - 1)),
    "BMP of 2^60 pixels": b"BM"
    + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, 2**30, -(2**30), 1, 8, 1, 0, 0, 0, 0, 0),
    "GIF of 65535 x 65535": b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0"
    b"\xff\xff\xff\xff\0\2\2\x4c\1\0;",
    "JPEG 2000 of 2^62 pixels": b"\xff\x4f\xff\x51\0\x29\0\0"
    + struct.pack(">8I", 2**31, 2**31, 0, 0, 2**31, 2**31, 0, 0)
    + b"\0\1\7\1\1",
    "WebP of noise": b"RIFF\xff\xff\xff\x7fWEBPVP8L" + BROKEN["noise"],
    "noise": BROKEN["noise"],
    "nul": BROKEN["nul"],
    "empty": b"",
}


def _deep(levels: int) -> Sequence:
    inner = Dataset()
    inner.PatientID = "x"
    for _ in range(levels):
        outer = Dataset()
        outer.RequestAttributesSequence = Sequence([inner])
        inner = outer
    return Sequence([inner])


def _palette(count: int) -> dict[str, object]:
    tables = {}
    for colour in ("Red", "Green", "Blue"):
        tables[f"{colour}PaletteColorLookupTableDescriptor"] = [count, 0, 16]
        tables[f"{colour}PaletteColorLookupTableData"] = b"\0" * 8
    return {"PhotometricInterpretation": "PALETTE COLOR"} | tables


DICOM: dict[str, Callable[[Path], object]] = {
    "of 65535 x 65535": lambda p: write_dicom(p, GREY, Rows=65_535, Columns=65_535),
    "without rows": lambda p: write_dicom(p, GREY, Rows=0, Columns=0),
    "of a billion frames": lambda p: write_dicom(p, GREY, NumberOfFrames=10**9),
    "of frames below 0": lambda p: write_dicom(p, GREY, NumberOfFrames=-1),
    "of an unknown photometric kind": lambda p: write_dicom(
        p, GREY, PhotometricInterpretation="NOTHING"
    ),
    "of 9 samples": lambda p: write_dicom(p, GREY, SamplesPerPixel=9),
    "of 65535 samples": lambda p: write_dicom(p, GREY, SamplesPerPixel=65_535),
    "of 1 bit": lambda p: write_dicom(p, GREY, BitsAllocated=1),
    "of 64 bits": lambda p: write_dicom(p, GREY, BitsAllocated=64, BitsStored=64),
    "of no bits": lambda p: write_dicom(p, GREY, BitsAllocated=0),
    "of more bits than are there": lambda p: write_dicom(p, GREY, BitsStored=200),
    "a palette without end": lambda p: write_dicom(p, GREY, **_palette(0)),
    "a short palette": lambda p: write_dicom(p, GREY, **_palette(60_000)),
    "sequences 100 deep": lambda p: write_dicom(p, GREY, RequestAttributesSequence=_deep(100)),
    "a slope without end": lambda p: write_dicom(
        p, GREY, RescaleSlope="1e300", RescaleIntercept="-1e300"
    ),
    "a window of nothing": lambda p: write_dicom(p, GREY, WindowCenter="0", WindowWidth="-1e30"),
    "an unknown syntax": lambda p: write_dicom(p, GREY, PixelRepresentation=9),
    "a character set of nobody": lambda p: write_dicom(p, GREY, SpecificCharacterSet=ESC[:10]),
    "a uid with escapes": lambda p: write_dicom(p, GREY, StudyInstanceUID=ESC[:20]),
}


def _zeros(num_bytes: int) -> bytes:
    """Deflated, as DICOM has it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (
        b"".join(packer.compress(bytes(10**7)) for _ in range(num_bytes // 10**7)) + packer.flush()
    )


PIXELS = b"\xe0\x7f\x10\0OB\0\0"
RAW_DICOM: dict[str, Callable[[bytes], bytes]] = {
    "pixels of 4 GB": lambda old: old.replace(
        PIXELS + struct.pack("<I", GREY.size), PIXELS + b"\xfe\xff\xff\xff"
    ),
    "a cut header": lambda old: old[:300],
    "sequences without end": lambda old: old[:132] + b"\x08\0\x96\x10SQ\0\0\xff\xff\xff\xff"
    + b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x08\0\x96\x10SQ\0\0\xff\xff\xff\xff" * 20_000,
    "an element of 4 GB": lambda old: old[:132] + b"\x10\0\x10\0UT\0\0\xf0\xff\xff\xff" + old[132:],
    "groups of noise": lambda old: old[:132] + BROKEN["noise"],
    "fragments of nothing": lambda old: old.replace(
        PIXELS + struct.pack("<I", GREY.size), PIXELS + b"\xff\xff\xff\xff"
    ) + item(b"") * 100_000,
    "deflated zeros": lambda old: old[:132].ljust(132)
    + b"\2\0\0\0UL\4\0\x20\0\0\0\2\0\x10\0UI\x16\0" + b"1.2.840.10008.1.2.1.99"
    + _zeros(3 * 10**8),
}  # fmt: skip


def _picture(content: bytes, base: Path, folder: Path) -> list[str]:
    (folder / "film").write_bytes(content)
    return ["generate", "film", "--checkpoint", str(base / "run")]


def _dicom(write: Callable[[Path], object], base: Path, folder: Path) -> list[str]:
    write(folder / "film")
    return ["generate", "film", "--checkpoint", str(base / "run")]


def _raw_dicom(change: Callable[[bytes], bytes], base: Path, folder: Path) -> list[str]:
    write_dicom(folder / "good", GREY)
    return _picture(change((folder / "good").read_bytes()), base, folder)


def _nested(films: Path, levels: int, name: str) -> None:
    for _ in range(levels):
        films /= name
        films.mkdir()


def _odd_names(films: Path) -> None:
    for name in ("a\nb.png", ESC + ".png", "-rf.png", " .png", "x" * 251 + ".png", "a\tb.png"):
        (films / name).write_bytes(GREY_PNG)
    (Path(os.fsdecode(os.fsencode(films) + b"/\xff\xfe.png"))).write_bytes(GREY_PNG)


def _links(films: Path) -> None:
    (films / "circle").symlink_to(films)
    (films / "out").symlink_to("/etc")
    (films / "nowhere.png").symlink_to("nothing")
    (films / "itself.png").symlink_to("itself.png")
    (films / "device.png").symlink_to("/dev/zero")
    (films / "password.png").symlink_to("/etc/passwd")


def _many(films: Path) -> None:
    for number in range(5000):
        (films / f"{number}").mkdir()


def _special(films: Path) -> None:
    os.mkfifo(films / "pipe.png")
    (films / "folder.png").mkdir()
    for name in ("prepared.json", "generated.json", "left_out.jsonl"):
        (films / name).write_bytes(BROKEN["noise"])


FOLDERS: dict[str, Callable[[Path], None]] = {
    "nothing": lambda films: None,
    "odd names": _odd_names,
    "links": _links,
    "300 folders in one another": lambda films: _nested(films, 300, "d"),
    "5,000 empty folders": _many,
    "pipes and folders": _special,
    "no images": lambda films: (films / "a.png").write_bytes(BROKEN["noise"]) and None,
    "a record of reports": lambda films: (
        (films / "prepared.json").write_bytes(b"[" * 9999) and None
    ),
}


def _folder(make: Callable[[Path], None], good: bool, base: Path, folder: Path) -> list[str]:
    (folder / "films").mkdir()
    make(folder / "films")
    if good:
        (folder / "films/good.png").write_bytes(GREY_PNG)
    return ["generate", "films", "--checkpoint", str(base / "run"), "--out", "reports"]


def _table(content: bytes, base: Path, folder: Path) -> list[str]:
    command = _folder(lambda films: None, True, base, folder)
    (folder / "t.csv").write_bytes(content)
    return [*command, "--studies", "t.csv"]


TABLES = {
    "noise": BROKEN["noise"],
    "leads out": b"image,study_id\n../../../etc/passwd,a\n/etc/passwd,b\ngood.png,c\n",
    "escapes": f"image,study_id\ngood.png,{ESC}\n".encode(),
    "one study of many": b"image,study_id\n" + b"good.png,a\n" * 20_000,
    "long ids": b"image,study_id\ngood.png," + b"x" * 900_000 + b"\n",
}


def all_inputs(base: Path) -> Iterator[Input]:
    """Those for a run under `base`."""
    for name, content in FILES.items():
        yield Input("image", name, partial(_picture, content, base))
    for name, write in DICOM.items():
        yield Input("DICOM", name, partial(_dicom, write, base))
    for name, change in RAW_DICOM.items():
        yield Input("DICOM", name, partial(_raw_dicom, change, base))
    for name, make in FOLDERS.items():
        good = name not in ("nothing", "no images", "a record of reports")
        yield Input("folder", name, partial(_folder, make, good, base))
    for name, content in TABLES.items():
        yield Input("table of studies", name, partial(_table, content, base))
