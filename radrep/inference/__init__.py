"""Reports for batches and for single studies."""
