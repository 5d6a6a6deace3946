"""A folder of images with or without a table."""
