"""Invent the texts that the demos learn and forget."""
