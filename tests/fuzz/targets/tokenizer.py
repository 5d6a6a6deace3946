"""A vocabulary, and one made of the text."""

from pathlib import Path

from radrep.data.text import CLEANERS
from radrep.data.tokenizer import Tokenizer


def read(file: Path) -> None:
    text = file.read_text(encoding="utf-8", errors="replace")
    own = file.with_name("own.json")
    for cleaner in CLEANERS:
        words = Tokenizer.build([text], min_count=1, cleaner=cleaner)
        ids = words.encode(text, 1000)
        assert words.encode(words.decode(ids), 1000)
        words.save(own)
        assert Tokenizer.load(own) == words
    Tokenizer.load(file)
