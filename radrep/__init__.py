"""radrep: chest X-ray in, radiology report out."""

__version__ = "0.1.0"
