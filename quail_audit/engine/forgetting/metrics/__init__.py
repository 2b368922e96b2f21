"""Measure a model: one file for each metric. interface.py states the contract; registry.py finds one by name."""
