"""The elements and the pixel data of a DICOM file, as whole as the file leaves them.

Read element by element and not by dcmread, which needs a preamble and a transfer syntax and drops
every element of a file whose pixel data has no end.
"""

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO

from radrep.data.dicom.elements import merge_groups, text, texts
from radrep.errors import DataError

# What `is_dicom` needs of a file's begin.
HEAD_BYTES = 144
# No radiograph, header included, inflates to more bytes.
_MAX_INFLATED = 2**28
_UNDEFINED = 2**32 - 1
_PIXELS, _FLOAT_PIXELS = 0x7FE00010, (0x7FE00008, 0x7FE00009)
_ITEM = b"\xfe\xff\x00\xe0"
_DIRECTORY, _DIRECTORY_TAG = "1.2.840.10008.1.3.10", 0x00041220  # of a DICOMDIR
_BIG = "1.2.840.10008.1.2.2"  # Explicit VR Big Endian
_COMMON_GROUP = 0x28  # the last group in which a data set may begin, but for private ones
# The first elements of a data set without meta group: 0008,0000 to 0008,0018.
_FIRST_ELEMENTS = (0x00, 0x01, 0x05, 0x06, 0x08, 0x12, 0x13, 0x14, 0x16, 0x18)
_VRS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR "
    b"US UT UV".split()
)


@dataclass(frozen=True)
class DicomFile:
    """Elements before the pixels, and the pixel data of the one frame.

    Attributes:
        dataset: pydicom's Dataset, its elements unconverted.
        declared: The transfer syntax named in the meta group, "" if none is.
        little_endian: Byte order of the elements, by the first of them.
        pixel_vr: Value representation of the pixel data.
        stream: The file, inflated if it was deflated, at the value of the pixel data.
        length: Bytes of the pixel data, None if it is encapsulated, -1 if there is none.
    """

    dataset: Any
    declared: str
    little_endian: bool
    pixel_vr: str
    stream: BinaryIO
    length: int | None

    def read_value(self, name: str) -> tuple[bytes, bool]:
        """The pixel data: native bytes or joined fragments, and whether the file ends before it."""
        if self.length == -1:
            raise DataError(
                f"{_no_picture(self.dataset, name)}; it describes pixels, but ends before them"
            )
        if self.length is None:
            return _join_fragments(self.stream.read())
        value = self.stream.read(self.length)
        if value.startswith(_ITEM) and self.declared:  # encapsulated, with its length
            return _join_fragments(value)
        return value, len(value) < self.length


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with these bytes, `HEAD_BYTES` of them, is DICOM."""
    return _start(head) is not None


def open_dicom(file: BinaryIO, name: str) -> DicomFile:
    """Read all elements before the pixels; DataError if there are no pixels or the file is cut."""
    file.seek(0)
    place = _start(file.read(HEAD_BYTES))
    if place is None:
        raise DataError(f"{name}: not a DICOM file")
    from pydicom.dataset import Dataset
    from pydicom.filereader import data_element_generator, read_dataset

    file.seek(place)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    declared = next(iter(texts(meta, "TransferSyntaxUID")), "")
    stream = _inflate(file, declared, name)
    start = stream.tell()
    first = stream.read(6)
    stream.seek(start)
    # By what is there: some files are encoded otherwise than they declare.
    implicit = first[4:6] not in _VRS
    little = _is_little(first, declared)
    found: list[tuple[int, str | None, int, int]] = []

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:
        if tag == _PIXELS or tag in _FLOAT_PIXELS:
            found.append((tag, vr, length, stream.tell()))
        return bool(found)

    elements: dict[Any, Any] = {}
    is_cut = False
    try:
        for element in data_element_generator(stream, implicit, little, stop_when=at_pixels):
            elements[element.tag] = element
            size = getattr(element, "length", 0)
            is_cut = 0 < size < _UNDEFINED and len(element.value or b"") < size
    except (EOFError, struct.error, StopIteration):
        is_cut = True
    except RecursionError as error:
        raise DataError(
            f"{name}: broken image file (sequences within sequences, deeper than in any header)"
        ) from error
    except OSError as error:  # pydicom read on for the end of a sequence
        kind = _kind(Dataset(elements))
        raise DataError(
            f"{name}: broken image file (a sequence in its header has no end{kind})"
        ) from error
    dataset = Dataset(elements)
    dataset.set_original_encoding(implicit, little, "iso8859")
    merge_groups(dataset)
    if is_cut and not found:
        raise DataError(f"{name}: broken image file (cut off before its pixels{_kind(dataset)})")
    if not found and "Rows" in dataset:
        return DicomFile(dataset, declared, little, "OW", stream, -1)
    if not found and (
        _DIRECTORY in texts(meta, "MediaStorageSOPClassUID") or _DIRECTORY_TAG in dataset
    ):
        raise DataError(f"{name}: a DICOMDIR, the list of a disc; give the files it lists")
    if not found:
        raise DataError(_no_picture(dataset, name))
    tag, vr, length, value = found[-1]
    if tag in _FLOAT_PIXELS:
        raise DataError(f"{name}: floating point DICOM pixels, of which no one knows what is black")
    stream.seek(value)
    size_or_none = None if length == _UNDEFINED else length
    return DicomFile(dataset, declared, little, vr or "OW", stream, size_or_none)


def _start(head: bytes) -> int | None:
    """Where the elements of a DICOM file begin; None if it is none.

    After preamble and "DICM"; or, without them, where group 2 or group 8 begins.
    """
    for place, mark in ((132, head[128:132]), (4, head[:4])):
        if mark == b"DICM":
            return place
    return next((place for place in (0, 128) if _begins_elements(head[place : place + 8])), None)


def _begins_elements(first: bytes) -> bool:
    if len(first) < 8:
        return False
    if first[4:6] in _VRS:  # explicit, in either order of bytes
        return first[:4] in _tags("<") | _tags(">")
    group, element, length = struct.unpack("<HHL", first)
    return group == 8 and element in _FIRST_ELEMENTS and 0 < length <= 64 and length % 2 == 0


def _is_little(first: bytes, declared: str) -> bool:
    """The byte order of the elements, by the group of the first, which is mostly 0008."""
    if int.from_bytes(first[:2], "little") <= _COMMON_GROUP:
        return True
    return int.from_bytes(first[:2], "big") > _COMMON_GROUP and declared != _BIG


def _tags(order: str) -> set[bytes]:
    groups = {2: (0, 1, 2), 8: _FIRST_ELEMENTS}
    return {struct.pack(f"{order}HH", g, e) for g, elements in groups.items() for e in elements}


def _inflate(file: BinaryIO, declared: str, name: str) -> BinaryIO:
    """The data set as a stream; a deflated one that would fill the memory is refused."""
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    if declared != DeflatedExplicitVRLittleEndian:
        return file
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = inflater.decompress(file.read(), _MAX_INFLATED)
    if inflater.unconsumed_tail:
        raise DataError(
            f"{name}: a deflated DICOM file of more than {_MAX_INFLATED / 1e6:.0f} MB; not opened, "
            "since such a file can fill the memory"
        )
    if not inflater.eof:
        raise DataError(f"{name}: broken image file (cut off: its deflated content has no end)")
    return io.BytesIO(content)


def _join_fragments(value: bytes) -> tuple[bytes, bool]:
    """The one frame of encapsulated pixel data, and whether it ends before its last fragment does.

    Neither the delimiter at the end nor the table of offsets at the begin need be there.
    """
    fragments, place, is_cut = [], 0, False
    while value[place : place + 4] == _ITEM and len(value) >= place + 8:
        (length,) = struct.unpack_from("<L", value, place + 4)
        place += 8
        fragments.append(value[place : place + length])
        place += length
        is_cut = place > len(value)
    # Offsets begin with 0, which no compressed frame does.
    if fragments and (not fragments[0] or fragments[0].startswith(bytes(4))):
        del fragments[0]
    return b"".join(fragments), is_cut or not fragments


def _no_picture(dataset: Any, name: str) -> str:
    kind = text(dataset, "Modality") or "unknown"
    return f"{name}: a DICOM file without a picture (modality {kind})"


def _kind(dataset: Any) -> str:
    kind = text(dataset, "Modality")
    return f"; modality {kind}" if kind else ""
