"""Reading the texts that a model is asked about."""
