"""Tensors in, tensors out; no modules."""
