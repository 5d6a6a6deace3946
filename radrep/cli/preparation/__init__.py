"""radrep prepare and what it prints."""
