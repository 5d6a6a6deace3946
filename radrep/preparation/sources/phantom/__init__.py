"""Synthetic chest radiographs with known findings."""
