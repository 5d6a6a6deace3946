"""Strings in, numbers out: protocols, scores, baselines and their uncertainty.

Which metrics there are, and what a new one needs, is in names.py.
"""
