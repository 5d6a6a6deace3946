"""Splits for downloads that come without one."""

import hashlib


def split_by_hash(key: str, train: float, val: float) -> str:
    """The split of a patient (or of whatever else must not be torn apart), from a hash of its name.

    It does not change when others come or go.

    Args:
        key: The name.
        train: Share of names that are to fall into "train".
        val: Share of names that are to fall into "val"; what is left falls into "test".
    """
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(digest[:8]) / 2**64
    if place < train:
        return "train"
    return "val" if place < train + val else "test"
