"""Studies in, batches out; knows no model."""
