"""Measure a model: one file for each metric, interface.py the contract."""
