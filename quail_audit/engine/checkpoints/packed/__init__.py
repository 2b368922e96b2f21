"""Weights that are stored quantized: one file a format. interface.py states the contract; registry.py finds it."""
