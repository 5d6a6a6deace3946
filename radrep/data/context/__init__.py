"""What a report may be written from beside the study's own images."""
