"""Scores of reports beside their controls."""
