"""Checkpoints, pretrained and public weights, adapters."""
