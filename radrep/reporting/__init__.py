"""A folder of radiographs -> a folder of reports."""
