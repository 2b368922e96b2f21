"""Reading checkpoints: weights one at a time from mapped files, and pairing two of them layer by layer."""
