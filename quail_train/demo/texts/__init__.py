"""The invented texts that the demos learn and forget."""
