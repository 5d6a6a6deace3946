"""Builds the parts that a recipe names and runs them."""
