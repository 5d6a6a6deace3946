"""Heatmaps and contact sheets."""
