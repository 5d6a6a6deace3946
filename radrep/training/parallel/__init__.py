"""Several processes: their environment, their launch, what they share out and how it is saved."""
