"""Checkpoints and cards that a training or a carry leaves behind."""
