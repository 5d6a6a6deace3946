"""A local page that reports films: nothing that it is given is written to a disk."""
