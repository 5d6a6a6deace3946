"""radrep generate and what it prints."""
