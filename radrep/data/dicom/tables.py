"""DICOM lookup tables: of modality, VOI and palette."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from radrep.data.dicom.elements import numbers, raw_bytes


@dataclass(frozen=True)
class LookupTable:
    """Entries of a table, unsigned whatever its VR, and the first value they are for."""

    entries: np.ndarray
    first: int  # 0 to 65535, as it is stored
    depth: int  # bits of an entry by the descriptor

    @property
    def name(self) -> str:
        """What it is, for messages."""
        return f"{len(self.entries)} entries from value {self.first}"

    def look_up(self, values: np.ndarray, *, signed: bool) -> np.ndarray:
        """The entries of values, clamped at the table's ends; pydicom's own wraps around.

        `signed` is whether the standard has the first value signed here. Some writers store it
        otherwise: it is taken the other way where the table would lie beside all values.
        """
        last = len(self.entries) - 1
        as_signed = self.first - 2**16 * (self.first >= 2**15)
        firsts = (as_signed, self.first) if signed else (self.first, as_signed)
        least, greatest = values.min(), values.max()
        near = [first for first in firsts if first <= greatest and first + last >= least]
        first = next(iter(near), firsts[0])
        return self.entries[np.clip(np.rint(values) - first, 0, last).astype(np.intp)]


def read_table(
    dataset: Any, descriptor: str = "LUTDescriptor", data: str = "LUTData"
) -> LookupTable | None:
    """The lookup table of a data set; None if it has no complete one."""
    described = numbers(dataset, descriptor)
    content, order = raw_bytes(dataset, data)
    if len(described) < 3 or np.isnan(described).any() or len(content) < 2:
        return None
    num_entries, first, depth = (int(value) % 2**16 for value in described[:3])
    num_entries = num_entries or 2**16  # which the 16 bits of this element cannot hold
    # Two a word where 8 bits are enough, in the order of the file.
    width = 1 if len(content) in (num_entries, num_entries + 1) and num_entries > 1 else 2
    if depth <= 8 and len(content) < 2 * num_entries:
        width = 1
    entries = np.frombuffer(content, f"{order}u{width}", count=len(content) // width)
    if len(entries) <= num_entries + 1:  # one more fills the word
        entries = entries[:num_entries]
    return LookupTable(entries, first, depth)
