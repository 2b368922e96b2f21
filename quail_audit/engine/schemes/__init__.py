"""How weights are rounded: one file a family. interface.py states the contract; registry.py finds a scheme by name."""
