"""What a model is trained on, and in which order."""
