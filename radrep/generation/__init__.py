"""Decoding over a step decoder, whatever class it is."""
