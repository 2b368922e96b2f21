"""Loading models, rounding them, and asking them in batches."""
