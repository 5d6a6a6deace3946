"""N-grams of texts counted once, and what BLEU and CIDEr find in common between them.

All systems and protocols share one table of counts, in which equal texts have one row.
"""

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

MAX_N = 4

_CIDER_SIGMA = 6.0  # width of CIDEr-D's length penalty
_FACTOR, _SHIFT = np.uint64(11400714785074694791), np.uint64(2870177450012600261)
_TEXTS_TOGETHER = 50_000


class NgramTable:
    """Counts of the 1-grams to 4-grams of texts, equal texts once.

    An entry is an n-gram of a text with its count; entries are sorted by text and then by n-gram.

    Attributes:
        lengths: Tokens of each text, (t,).
        rows, ngrams, counts: Of each entry: row of its text, n-gram, how often it has it, (e,).
        ends: Where each text's entries end, (t,).
        num_ngrams: Distinct n-grams g in all texts, integers from 0.
        orders: Words of each n-gram less one, (g,).
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._row = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        split = [text.split() for text in self._row]
        self.lengths = np.array([len(words) for words in split], dtype=np.int64)
        known: dict[str, int] = {}
        self._words, self._joined = known, list[np.ndarray]()
        tokens = np.array(
            [known.setdefault(word, len(known)) for words in split for word in words],
            dtype=np.int64,
        )
        token_rows = np.repeat(np.arange(len(split)), self.lengths)
        to_come = np.repeat(np.cumsum(self.lengths), self.lengths) - np.arange(len(tokens))
        rows, ngrams, counts, orders = [], [], [], []
        # Codes of the n-grams that start at each token.
        codes, num_codes, offset = tokens.copy(), len(known), 0
        for n in range(1, MAX_N + 1):
            starts = np.flatnonzero(to_come >= n)
            if n > 1:  # an n-gram is an (n - 1)-gram and a word
                joined = codes[starts] * len(known) + tokens[starts + n - 1]
                distinct, codes[starts] = np.unique(joined, return_inverse=True)
                num_codes = len(distinct)
                self._joined.append(distinct)
            keys = token_rows[starts] * num_codes + codes[starts]
            keys, found = np.unique(keys, return_counts=True)
            rows.append(keys // max(num_codes, 1))
            ngrams.append(keys % max(num_codes, 1) + offset)
            counts.append(found)
            orders.append(np.full(num_codes, n - 1))
            offset += num_codes
        self.num_ngrams = offset
        self.orders = np.concatenate(orders)
        by_row = np.argsort(np.concatenate(rows), kind="stable")
        self.rows, self.ngrams, self.counts = (
            np.concatenate(parts)[by_row] for parts in (rows, ngrams, counts)
        )
        self.ends = np.searchsorted(self.rows, np.arange(len(split)), side="right")

    @cached_property
    def keys(self) -> np.ndarray:
        """Row and n-gram of every entry as one number, ascending: row * num_ngrams + n-gram."""
        return self.rows * self.num_ngrams + self.ngrams

    @cached_property
    def hashes(self) -> np.ndarray:
        """A number of 64 bits for every n-gram, by its words alone: the same in any table, (g,)."""
        digests = b"".join(hashlib.blake2b(w.encode(), digest_size=8).digest() for w in self._words)
        words = np.frombuffer(digests, np.uint64)
        levels = [words]
        for distinct in self._joined:
            shorter, word = np.divmod(distinct, max(len(words), 1))
            levels.append((levels[-1][shorter] ^ _SHIFT) * _FACTOR + words[word])
        return np.concatenate(levels)

    def rows_of(self, texts: Iterable[str]) -> np.ndarray:
        """The rows of texts that were counted, (n,)."""
        return np.array([self._row[text] for text in texts], dtype=np.int64)

    def entries_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Entries of some rows: place in `rows` and number in the table of each, (k,) both."""
        starts = np.concatenate([[0], self.ends])[rows]
        return _spread(starts, self.ends[rows] - starts)

    def totals(self, rows: np.ndarray) -> np.ndarray:
        """Numbers of 1-grams to 4-grams, repeated ones too: (n,) -> (n, 4)."""
        return np.maximum(0, self.lengths[rows][:, np.newaxis] - np.arange(MAX_N))


class DocumentFrequencies:
    """How many of some texts have each of their n-grams; of n-grams of other tables too."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.num_texts = len(texts)
        hashes, counts = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        for first in range(0, len(texts), _TEXTS_TOGETHER):
            part = texts[first : first + _TEXTS_TOGETHER]
            table = NgramTable(part)
            repeats = np.bincount(table.rows_of(part))
            holders = np.bincount(table.ngrams, repeats[table.rows], table.num_ngrams)
            hashes, places = np.unique(np.concatenate([hashes, table.hashes]), return_inverse=True)
            counts = np.bincount(places, np.concatenate([counts, holders]), len(hashes))
        self._hashes, self._counts = hashes, counts

    def of(self, table: NgramTable) -> np.ndarray:
        """Texts that have each n-gram of a table, (g,)."""
        places = np.minimum(np.searchsorted(self._hashes, table.hashes), len(self._hashes) - 1)
        return np.where(self._hashes[places] == table.hashes, self._counts[places], 0)


class ReferenceNgrams:
    """References, all counted in a table, with the n-gram weights that CIDEr takes from them.

    CIDEr is the CIDEr-D form (Vedantam et al., 2015), computed as by pycocoevalcap. Document
    frequencies are those of the references, or given.
    """

    def __init__(
        self,
        table: NgramTable,
        references: Sequence[str],
        frequencies: DocumentFrequencies | None = None,
    ) -> None:
        self._table = table
        self._rows, self._row_of, self._repeats = np.unique(
            table.rows_of(references), return_inverse=True, return_counts=True
        )
        self._places, self._entries = table.entries_of(self._rows)
        if frequencies is None:
            num_texts = len(references)
            num_holders = np.bincount(
                table.ngrams[self._entries],
                weights=self._repeats[self._places],
                minlength=table.num_ngrams,
            )
        else:
            num_texts, num_holders = frequencies.num_texts, frequencies.of(table)
        self._idf = np.log(num_texts) - np.log(np.maximum(1.0, num_holders))
        self._weights = table.counts * self._idf[table.ngrams]  # tf-idf of every entry
        squares = np.bincount(
            table.rows * MAX_N + table.orders[table.ngrams],
            weights=self._weights**2,
            minlength=MAX_N * len(table.lengths),
        )
        # A vector without length shares no weight with any other: what it divides is 0.
        self._norms = np.sqrt(np.where(squares == 0, 1.0, squares)).reshape(-1, MAX_N)

    def score_pairs(
        self, reference_rows: np.ndarray, hypothesis_rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Clipped n-gram matches, (n, 4), and CIDEr, (n,), of reports with one reference each."""
        table = self._table
        pairs, own = table.entries_of(hypothesis_rows)
        wanted = reference_rows[pairs] * table.num_ngrams + table.ngrams[own]
        theirs = np.minimum(np.searchsorted(table.keys, wanted), len(table.keys) - 1)
        shared = np.flatnonzero(table.keys[theirs] == wanted)
        pairs, own, theirs = pairs[shared], own[shared], theirs[shared]
        cells = pairs * MAX_N + table.orders[table.ngrams[own]]
        clipped = np.minimum(table.counts[own], table.counts[theirs])
        products = np.minimum(self._weights[own], self._weights[theirs]) * self._weights[theirs]
        matches, dots = (
            np.bincount(cells, values, MAX_N * len(reference_rows)).reshape(-1, MAX_N)
            for values in (clipped, products)
        )
        cosines = dots / (self._norms[reference_rows] * self._norms[hypothesis_rows])
        penalties = length_penalties(table.lengths[reference_rows], table.lengths[hypothesis_rows])
        return matches.astype(np.int64), 10 * cosines.mean(axis=1) * penalties

    def score_constants(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Clipped matches with all references, (m, 4), and mean CIDEr, (m,), of some reports.

        The length penalty depends on two lengths alone. So for all reports of one length, what an
        n-gram adds to CIDEr is summed over the references only once.
        """
        table = self._table
        reports, own = table.entries_of(rows)
        # Terms: n-grams with how often a report has them.
        most = int(table.counts.max()) + 1
        terms, term_of = np.unique(
            table.ngrams[own] * most + table.counts[own], return_inverse=True
        )
        ngrams, counts = np.divmod(terms, most)
        orders = table.orders[ngrams]
        in_term, holders, theirs = self._holders(ngrams)

        clipped = np.minimum(counts[in_term], table.counts[theirs]) * self._repeats[holders]
        matched = np.bincount(in_term, clipped, len(terms))
        cells, num_cells = reports * MAX_N + orders[term_of], MAX_N * len(rows)
        matches = np.bincount(cells, matched[term_of], num_cells).reshape(-1, MAX_N)

        weights = (counts * self._idf[ngrams])[in_term]
        products = np.minimum(weights, self._weights[theirs]) * self._weights[theirs]
        norms = self._norms[self._rows[holders], orders[in_term]]
        products *= self._repeats[holders] / norms
        lengths = table.lengths[rows]
        lengths_of_entries = lengths[reports]
        dots = np.zeros(num_cells)
        for length in np.unique(lengths):
            penalties = length_penalties(table.lengths[self._rows], length)
            added = np.bincount(in_term, products * penalties[holders], len(terms))
            chosen = np.flatnonzero(lengths_of_entries == length)
            dots += np.bincount(cells[chosen], added[term_of[chosen]], num_cells)
        cosines = dots.reshape(-1, MAX_N) / self._norms[rows]
        return matches, 10 * cosines.mean(axis=1) / self._repeats.sum()

    def score_table(self, rows: np.ndarray) -> np.ndarray:
        """CIDEr of each reference with each of some reports, (references, m)."""
        table, lengths = self._table, self._table.lengths
        reference_norms = self._norms[self._rows].ravel()
        found = np.empty((len(self._rows), len(rows)))
        for column, row in enumerate(rows):
            _, own = table.entries_of(rows[column : column + 1])
            which, holders, theirs = self._holders(table.ngrams[own])
            products = np.minimum(self._weights[own[which]], self._weights[theirs])
            cells = holders * MAX_N + table.orders[table.ngrams[theirs]]
            dots = np.bincount(cells, products * self._weights[theirs], len(reference_norms))
            cosines = (dots / reference_norms).reshape(-1, MAX_N) / self._norms[row]
            penalties = length_penalties(lengths[self._rows], lengths[row])
            found[:, column] = 10 * cosines.mean(axis=1) * penalties
        return found[self._row_of]

    def _holders(self, ngrams: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each reference with an n-gram: places of both, and number of its entry, (k,)."""
        order, held = self._by_ngram
        ends = np.searchsorted(held, ngrams, side="right")
        starts = np.searchsorted(held, ngrams, side="left")
        which, found = _spread(starts, ends - starts)
        return which, self._places[order[found]], self._entries[order[found]]

    @cached_property
    def _by_ngram(self) -> tuple[np.ndarray, np.ndarray]:
        """The references' entries by n-gram, and the n-gram of each."""
        ngrams = self._table.ngrams[self._entries]
        order = np.argsort(ngrams, kind="stable")
        return order, ngrams[order]


def length_penalties(reference_lengths: np.ndarray, lengths: np.ndarray | np.int64) -> np.ndarray:
    """CIDEr-D's penalties for a difference in length, which it counts in 2-grams."""
    gaps = np.maximum(0, reference_lengths - 1) - np.maximum(0, lengths - 1)
    penalties: np.ndarray = np.exp(-(gaps**2) / (2 * _CIDER_SIGMA**2))
    return penalties


def _spread(starts: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which range, and which number in it, for all of some ranges: (n,) -> (sum of sizes,) both."""
    which = np.repeat(np.arange(len(sizes)), sizes)
    before = np.cumsum(sizes) - sizes
    return which, np.arange(len(which)) + (starts - before)[which]
