"""Read the weights of checkpoints lazily, one tensor at a time."""
