"""Read the data that a model is trained on, and put it in order."""
