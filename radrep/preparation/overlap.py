"""What splits of prepared data share that they should not: patients, images, report texts."""

import hashlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from radrep.data.arrow import open_shards
from radrep.data.manifest import read_shards
from radrep.data.study import SPLITS
from radrep.data.text import target_text
from radrep.preparation.folder import Shard

_PAIRS = (("train", "val"), ("train", "test"), ("val", "test"))
# Bits of 256 in which the difference hashes of one film may differ that was prepared at two sizes:
# of 296 films of IU X-Ray at 64 to 224 pixels, none differs from itself at 256 in more than 6;
# different films differ in 14 at least.
SAME_FILM_BITS = 12
# Rows of hashes that are compared at once: 32 MiB.
_BLOCK_CELLS = 2**22


@dataclass(frozen=True)
class Leaks:
    """What pairs of splits share; the keys are "train/val", "train/test" and "val/test".

    Attributes:
        patients: Patients that are in both.
        images: Images whose prepared pixels are in both.
        texts: Reports of the second split whose words are those of one in the first.
        text_shares: Their share of the second split's reports, 0 to 1: common short reports, not
            a fault, but what makes a report easy to know by heart.
        repeated: By split, images that a study of it has which an earlier one has already. Their
            studies stay, since published splits have them and their reports may differ.
    """

    patients: dict[str, int] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    texts: dict[str, int] = field(default_factory=dict)
    text_shares: dict[str, float] = field(default_factory=dict)
    repeated: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Fingerprints:
    """Eight bytes for each patient, image and report of some studies, (k,) uint64 each.

    Attributes:
        studies: Of source and id of every study.
        patients: Of source and patient of every study whose patient is known.
        images: Of the images' files.
        looks: Difference hashes of the images, in the same order, 256 bits each: (k, 4).
        texts: Of the words of the reports, findings and impression.
    """

    studies: np.ndarray
    patients: np.ndarray
    images: np.ndarray
    looks: np.ndarray
    texts: np.ndarray


def read_prints(paths: Sequence[Path]) -> Fingerprints:
    """Read what tells studies apart from shards; the images stay unread."""
    columns = ["id", "source", "patient_id", "sections", "sha256", "difference_hashes"]
    studies, patients, images, looks, texts = (array("Q") for _ in range(5))
    for rows in open_shards(paths).select_columns(columns).iter(1000) if paths else ():
        for number, study in enumerate(rows["id"]):
            source, patient = rows["source"][number], rows["patient_id"][number]
            studies.append(_print(f"{source} {study}"))
            if patient is not None:
                patients.append(_print(f"{source} {patient}"))
            images.extend(int(digest[:16], 16) for digest in rows["sha256"][number])
            looks.frombytes(b"".join(rows["difference_hashes"][number]))
            sections = {pair["name"]: pair["text"] for pair in rows["sections"][number]}
            words = target_text(sections, "both").lower().split()
            if words:
                texts.append(_print(" ".join(words)))
    arrays = [np.array(values, np.uint64) for values in (studies, patients, images, looks, texts)]
    arrays[3] = arrays[3].reshape(-1, 4)
    return Fingerprints(*arrays)


def read_split_prints(prepared: Path, *splits: str) -> Fingerprints:
    """Read what tells the studies of splits of a prepared folder apart.

    Raises:
        DataError: If the folder is missing or broken.
    """
    shards = [shard for shard in read_shards(prepared) if shard.split in splits]
    return read_prints([prepared / shard.name for shard in shards])


def find_leaks(folder: Path, shards: Iterable[Shard]) -> Leaks:
    """Compare the splits of one data set with one another.

    Args:
        folder: Where its shards lie.
        shards: The shards.
    """
    paths: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for shard in shards:
        if shard.studies:
            paths[shard.split].append(folder / shard.name)
    return compare_splits({split: read_prints(paths[split]) for split in SPLITS})


def compare_splits(prints: Mapping[str, Fingerprints]) -> Leaks:
    """Compare the splits of one data set with one another."""
    # Of one study the same image is kept once, so that every other one is of another study.
    leaks = Leaks(
        repeated={
            split: len(found.images) - len(np.unique(found.images))
            for split, found in prints.items()
        }
    )
    for first, second in _PAIRS:
        name, a, b = f"{first}/{second}", prints[first], prints[second]
        leaks.patients[name] = len(np.intersect1d(a.patients, b.patients))
        leaks.images[name] = len(np.intersect1d(a.images, b.images))
        leaks.texts[name] = int(np.isin(b.texts, a.texts).sum())
        leaks.text_shares[name] = leaks.texts[name] / max(len(b.texts), 1)
    return leaks


def count_near_duplicates(looks: np.ndarray, others: np.ndarray, max_bits: int) -> int:
    """How many images look like one of the others.

    Args:
        looks: Difference hashes, (k, 4) uint64.
        others: Those of the others, (m, 4) uint64.
        max_bits: Bits of 256 in which two hashes may differ.

    Returns:
        How many of the first have such a twin among the others.
    """
    block = max(1, _BLOCK_CELLS // max(len(others), 1))
    near = 0
    for start in range(0, len(looks), block):
        differing = np.zeros((len(looks[start : start + block]), len(others)), np.uint16)
        for part in range(4):
            bits = looks[start : start + block, None, part] ^ others[None, :, part]
            differing += np.bitwise_count(bits)
        near += int((differing <= max_bits).any(axis=1).sum())
    return near


def _print(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
