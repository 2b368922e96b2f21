"""What is measured of a model: one file a metric. interface.py states the contract; registry.py finds one by name."""
