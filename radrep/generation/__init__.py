"""Decoding over a step decoder; a language model decodes by transformers."""
