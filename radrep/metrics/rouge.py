"""COCO's ROUGE-L: longest common subsequences of one text with many at once.

Values are those of pycocoevalcap, which takes a text without a word for one empty word.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

_BETA = 1.2  # weight of recall


def count_words(text: str) -> int:
    """Words of a text of tokens joined by single spaces, of which an empty text has one."""
    return text.count(" ") + 1


class CommonSubsequences:
    """The longest common subsequences of any text with fixed ones.

    One bit-parallel pass over the words of the text (Hyyro, 2004): each fixed text is a run of
    bits in one long integer, a zero bit marking a matched word, and a spare bit ends each run to
    catch the carry of the sum.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        split = [text.split(" ") for text in texts]
        self._lengths = np.array([len(words) for words in split])
        ends = np.cumsum(self._lengths + 1)
        self._starts = ends - (self._lengths + 1)
        self._num_bytes = (int(ends[-1]) + 7) // 8
        places: dict[str, list[int]] = defaultdict(list)
        for start, words in zip(self._starts.tolist(), split, strict=True):
            for place, word in enumerate(words, start=start):
                places[word].append(place)
        self._places = {word: self._set_bits(bits) for word, bits in places.items()}
        self._unmatched = self._set_bits(bit for bits in places.values() for bit in bits)

    def _set_bits(self, places: Iterable[int]) -> int:
        bits = bytearray(self._num_bytes)
        for place in places:
            bits[place >> 3] |= 1 << (place & 7)
        return int.from_bytes(bits, "little")

    def lengths(self, text: str) -> np.ndarray:
        """Words that a text has in common with each of the fixed ones, in order: (n,)."""
        unmatched = self._unmatched
        for word in text.split(" "):
            hits = unmatched & self._places.get(word, 0)
            if hits:
                unmatched = ((unmatched + hits) | (unmatched ^ hits)) & self._unmatched
        packed = np.frombuffer(unmatched.to_bytes(self._num_bytes, "little"), dtype=np.uint8)
        bits = np.unpackbits(packed, bitorder="little")
        return self._lengths - np.add.reduceat(bits, self._starts, dtype=np.int64)


def rouge_l(
    common: np.ndarray, reference_lengths: np.ndarray, lengths: np.ndarray | int
) -> np.ndarray:
    """ROUGE-L, (n,), from longest common subsequences and lengths as `count_words` counts them."""
    precision, recall = common / lengths, common / reference_lengths
    weighted_sum = recall + _BETA**2 * precision
    weighted_sum[common == 0] = 1.0  # such a pair scores 0
    return (1 + _BETA**2) * precision * recall / weighted_sum
