"""Round weights: one file for each family, interface.py the contract, registry.py the names."""
