"""A run as it goes, on standard error: a live view on a terminal, plain lines elsewhere."""
