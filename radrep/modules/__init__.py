"""Building blocks on plain keyword arguments."""
