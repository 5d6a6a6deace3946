"""Training and pretraining runs."""
