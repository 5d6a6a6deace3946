"""Strings in, numbers out: protocols, scores, baselines and their uncertainty."""
