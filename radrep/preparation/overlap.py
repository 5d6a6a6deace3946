"""What splits of prepared data share that they should not: patients, images, report texts."""

import hashlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from radrep.data.manifest import ShardRecord, read_shards
from radrep.data.store import open_studies
from radrep.data.study import SPLITS
from radrep.data.text import TARGETS, get_cleaner, target_text
from radrep.preparation.folder import Shard

_PAIRS = (("train", "val"), ("train", "test"), ("val", "test"))
# Bits of 256 in which the difference hashes of one image may differ that was prepared at two
# sizes: of 296 images of IU X-Ray at 64 to 224 pixels, none differs from itself at 256 in more
# than 6; different images differ in 14 at least.
SAME_IMAGE_BITS = 12
# Rows of hashes that are compared at once: 32 MiB.
_BLOCK_CELLS = 2**22


@dataclass(frozen=True)
class Leaks:
    """What pairs of splits share; the keys are "train/val", "train/test" and "val/test".

    Shared texts are common short reports, not a fault, but they can be learned by heart.
    """

    patients: dict[str, int] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)  # of the same prepared pixels
    # Whole reports (findings and impression) of the second split whose words are those of one in
    # the first, and their share of the second split's, 0 to 1.
    texts: dict[str, int] = field(default_factory=dict)
    text_shares: dict[str, float] = field(default_factory=dict)
    # The same of what models are trained on: "findings", "impression" and "both", cleaned "plain".
    target_texts: dict[str, dict[str, int]] = field(default_factory=dict)
    target_shares: dict[str, dict[str, float]] = field(default_factory=dict)
    # By split, images that an earlier study of it has already. Their studies stay, since published
    # splits have them and their reports may differ.
    repeated: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Fingerprints:
    """Eight bytes for each patient, image and report of some studies, (k,) uint64 each."""

    studies: np.ndarray  # of source and id
    patients: np.ndarray  # of source and patient, where known
    images: np.ndarray  # of the files
    difference_hashes: np.ndarray  # of the images, in the same order, 256 bits each: (k, 4)
    texts: Mapping[str, np.ndarray]  # of the words of "whole" reports, of cleaned texts by target


def read_fingerprints(folder: Path, shards: Sequence[ShardRecord]) -> Fingerprints:
    """Read the fingerprints of studies from shards; the images stay unread."""
    columns = ["id", "source", "patient_id", "sections", "sha256", "difference_hashes"]
    studies, patients, images, hashes = (array("Q") for _ in range(4))
    texts = {name: array("Q") for name in ("whole", *TARGETS)}
    clean = get_cleaner("plain")
    for rows in open_studies(folder, shards).select_columns(columns).iter(1000) if shards else ():
        for number, study in enumerate(rows["id"]):
            source, patient = rows["source"][number], rows["patient_id"][number]
            studies.append(_hash(f"{source} {study}"))
            if patient is not None:
                patients.append(_hash(f"{source} {patient}"))
            images.extend(int(digest[:16], 16) for digest in rows["sha256"][number])
            hashes.frombytes(b"".join(rows["difference_hashes"][number]))
            sections = {pair["name"]: pair["text"] for pair in rows["sections"][number]}
            if words := target_text(sections, "both").lower().split():
                texts["whole"].append(_hash(" ".join(words)))
            # Cleaning takes most of the time, so that of both is put together of its parts.
            cleaned = {name: clean(target_text(sections, name)) for name in TARGETS[:2]}
            cleaned["both"] = " ".join(filter(None, cleaned.values())) or clean(
                target_text(sections, "both")
            )
            for target, text in cleaned.items():
                if text:
                    texts[target].append(_hash(text))

    def of(values: "array[int]") -> np.ndarray:
        return np.array(values, np.uint64)

    return Fingerprints(
        studies=of(studies),
        patients=of(patients),
        images=of(images),
        difference_hashes=of(hashes).reshape(-1, 4),
        texts={name: of(found) for name, found in texts.items()},
    )


def read_split_fingerprints(prepared: Path, *splits: str) -> Fingerprints:
    """Read the fingerprints of splits of a prepared folder."""
    shards = [shard for shard in read_shards(prepared) if shard.split in splits]
    return read_fingerprints(prepared, shards)


def find_leaks(folder: Path, shards: Iterable[Shard]) -> Leaks:
    """Compare the splits of one data set, given its shards and their folder."""
    records = [shard.record() for shard in shards if shard.studies]
    return compare_splits(
        {
            split: read_fingerprints(
                folder, [record for record in records if record.split == split]
            )
            for split in SPLITS
        }
    )


def compare_splits(splits: Mapping[str, Fingerprints]) -> Leaks:
    """Compare the splits of one data set with one another."""
    leaks = Leaks(
        # Within a study an image is kept once, so that every repeated one is of another study.
        repeated={k: len(v.images) - len(np.unique(v.images)) for k, v in splits.items()},
        target_texts={target: {} for target in TARGETS},
        target_shares={target: {} for target in TARGETS},
    )
    for first, second in _PAIRS:
        name, a, b = f"{first}/{second}", splits[first], splits[second]
        leaks.patients[name] = len(np.intersect1d(a.patients, b.patients))
        leaks.images[name] = len(np.intersect1d(a.images, b.images))
        texts = count_shared_texts(b, a)
        leaks.texts[name], leaks.text_shares[name] = texts.pop("whole")
        for target, (count, share) in texts.items():
            leaks.target_texts[target][name], leaks.target_shares[target][name] = count, share
    return leaks


def count_shared_texts(second: Fingerprints, first: Fingerprints) -> dict[str, tuple[int, float]]:
    """How many texts of the second are also in the first, and their share, by kind of text."""
    counts = {
        name: int(np.isin(texts, first.texts[name]).sum()) for name, texts in second.texts.items()
    }
    return {name: (n, n / max(len(second.texts[name]), 1)) for name, n in counts.items()}


def count_near_duplicates(hashes: np.ndarray, others: np.ndarray, max_bits: int) -> int:
    """How many difference hashes, (k, 4), have another of (m, 4) within a Hamming distance."""
    block = max(1, _BLOCK_CELLS // max(len(others), 1))
    near = 0
    for start in range(0, len(hashes), block):
        rows = hashes[start : start + block]
        differing = np.zeros((len(rows), len(others)), np.uint16)
        for part in range(4):
            differing += np.bitwise_count(rows[:, None, part] ^ others[None, :, part])
        near += int((differing <= max_bits).any(axis=1).sum())
    return near


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
