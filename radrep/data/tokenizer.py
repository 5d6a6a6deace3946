"""Words to ids and back, as the R2Gen family numbers them."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from radrep.data.text import CLEANERS, get_cleaner
from radrep.errors import CheckpointError
from radrep.json_text import load_json
from radrep.sections import MARKER, change_sections

UNKNOWN = "<unk>"
_KIND = "r2gen"


class ReportCodec(Protocol):
    """How a model reads and writes report text: words of our own, or a language model's tokens."""

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """Turn a raw text into training ids, at most `max_tokens`."""

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids that the model wrote into text."""

    def shorten(self, text: str, max_tokens: int) -> str:
        """Cut a text at a number of its tokens, as published references are cut."""

    @property
    def language_model(self) -> str:
        """Name of the language model whose tokens these are, "" for words of our own."""

    @property
    def note(self) -> str:
        """What stands beside every score, such as quantised weights; "" for nothing."""


@runtime_checkable
class ContextCodec(Protocol):
    """How a model reads texts beside the image."""

    def encode_context(self, title: str, text: str, most_words: int) -> list[int]:
        """Turn the first words of a raw text under a title into ids."""


@dataclass(frozen=True)
class Tokenizer:
    """The `r2gen` word tokenizer: ids from 1 in sorted order; 0 is begin, end and padding in one.

    A model over this vocabulary has `len(vocabulary) + 1` outputs.
    """

    vocabulary: tuple[str, ...]  # sorted, "<unk>" among them; id i is vocabulary[i - 1]
    cleaner: str
    min_count: int  # least occurrences of a word in the training texts
    language_model: ClassVar[str] = ""
    note: ClassVar[str] = ""

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.vocabulary, start=1)}

    @classmethod
    def build(cls, texts: Iterable[str], *, min_count: int, cleaner: str) -> "Tokenizer":
        """Collect the vocabulary of raw training texts, with the marker if any has two sections."""
        clean, texts = get_cleaner(cleaner), list(texts)
        counts = Counter(word for text in texts for word in clean(text).split())
        words = {word for word, count in counts.items() if count >= min_count}
        marker = {MARKER} if MARKER in counts else set()
        return cls(tuple(sorted(words | marker | {UNKNOWN})), cleaner, min_count)

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """Clean a raw text and turn it into training ids: [0, words, 0], unknown ones as "<unk>".

        A text of `max_tokens - 1` words or more loses its closing 0, as in the published code. Of
        two sections each is cut to `max_tokens - 1` words, and the closing 0 stays.
        """
        cleaned = get_cleaner(self.cleaner)(text)
        two_sections = MARKER in cleaned
        if two_sections:
            cleaned = change_sections(lambda part: cut_words(part, max_tokens - 1), cleaned)
        ids = [0, *self._word_ids(cleaned), 0]
        return ids if two_sections else ids[:max_tokens]

    def _word_ids(self, cleaned: str) -> list[int]:
        unknown = self._ids[UNKNOWN]
        return [self._ids.get(word, unknown) for word in cleaned.split()]

    def encode_context(self, title: str, text: str, most_words: int) -> list[int]:
        """See `ContextCodec`; the title is not among them: a model knows the kinds apart."""
        return self._word_ids(cut_words(get_cleaner(self.cleaner)(text), most_words))

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids, with or without an opening 0, into the words up to the next 0."""
        words: list[str] = []
        for position, number in enumerate(map(int, ids)):
            if number == 0 and position > 0:
                break
            if not 0 <= number <= len(self.vocabulary):
                raise IndexError(f"id {number} is not one of 1 to {len(self.vocabulary)}")
            if number:
                words.append(self.vocabulary[number - 1])
        return " ".join(words)

    def shorten(self, text: str, max_tokens: int) -> str:
        """The words that `encode` keeps."""
        return self.decode(self.encode(text, max_tokens))

    def save(self, path: Path) -> None:
        """Write the vocabulary, the cleaner's name and min_count as JSON."""
        row = {
            "kind": _KIND,
            "cleaner": self.cleaner,
            "min_count": self.min_count,
            "vocabulary": self.vocabulary,
        }
        path.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read what `save` wrote."""
        try:
            row = load_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
        except ValueError as error:  # covers broken JSON and broken UTF-8
            raise CheckpointError(f"{path} is not a vocabulary file: {error}") from error
        problem = _problem(row)
        if problem:
            raise CheckpointError(f"{path} is not a vocabulary file: {problem}")
        return cls(tuple(row["vocabulary"]), row["cleaner"], row["min_count"])


def cut_words(text: str, most: int) -> str:
    """The first words of a text."""
    return " ".join(text.split()[:most])


class ModelTokens(Protocol):
    """Tokens of a model of transformers."""

    def encode_report(self, text: str, max_tokens: int) -> list[int]:
        """Turn a cleaned report into ids, its end included."""

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids into text."""


@dataclass(frozen=True)
class CleanedCodec:
    """Cleaned reports as the tokens of a model of transformers.

    Of two sections each is cut, and the end stays.
    """

    tokens: ModelTokens
    clean: Callable[[str], str]
    language_model: str = ""
    note: str = ""

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """See `ReportCodec`."""
        cleaned = self.clean(text)
        if MARKER not in cleaned:
            return self.tokens.encode_report(cleaned, max_tokens)
        cut = change_sections(lambda part: self.shorten(part, max_tokens), cleaned)
        return self.tokens.encode_report(cut, sys.maxsize)

    def decode(self, ids: Iterable[int]) -> str:
        """See `ReportCodec`."""
        return self.tokens.decode(ids)

    def shorten(self, text: str, max_tokens: int) -> str:
        """See `ReportCodec`."""
        return self.tokens.decode(self.tokens.encode_report(text, max_tokens))


class PromptTokens(ModelTokens, Protocol):
    """Tokens of a language model that reads a prompt."""

    def encode(self, text: str) -> list[int]:
        """Turn a text into ids, with no special ones around them."""


@dataclass(frozen=True)
class PromptCodec(CleanedCodec):
    """Cleaned reports as the tokens of a language model, and texts of its prompt."""

    tokens: PromptTokens

    def encode_context(self, title: str, text: str, most_words: int) -> list[int]:
        """See `ContextCodec`."""
        return self.tokens.encode(f"{title} {cut_words(self.clean(text), most_words)}")


@dataclass(frozen=True)
class ClosedCodec:
    """Our words, of which a cut report keeps its closing id: the text tower reads that one."""

    words: Tokenizer
    language_model: str = ""
    note: str = ""

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """See `ReportCodec`."""
        return [*self.words.encode(text, max_tokens)[:-1], 0]

    def decode(self, ids: Iterable[int]) -> str:
        """See `ReportCodec`."""
        return self.words.decode(ids)

    def shorten(self, text: str, max_tokens: int) -> str:
        """See `ReportCodec`."""
        return self.words.shorten(text, max_tokens)


def _problem(row: object) -> str | None:
    """Why a JSON value is not a saved tokenizer."""
    if not isinstance(row, dict):
        return f"expected an object, found {type(row).__name__}"
    if row.get("kind") != _KIND:
        return f"kind is {row.get('kind')!r}, expected {_KIND!r}"
    if row.get("cleaner") not in CLEANERS:
        return f"cleaner {row.get('cleaner')!r} is not one of {', '.join(CLEANERS)}"
    if type(row.get("min_count")) is not int:
        return f"min_count is {row.get('min_count')!r}, expected a whole number"
    words = row.get("vocabulary")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return "vocabulary is not a list of words"
    if words != sorted(set(words)) or UNKNOWN not in words:
        return f"vocabulary is not sorted, has a word twice or lacks {UNKNOWN}"
    return None
